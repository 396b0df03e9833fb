//! What goes wrong under bubblewrap's name, in the words that its callers look for.
//!
//! The texts are an interface: Flatpak, Codex and scripts match parts of them. So they
//! are bubblewrap's and not those of the rest of this program; paths are printed as they
//! are, byte for byte.

use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by `--level-prefix`: each message begins with its syslog level in `<>`.
static LEVEL_PREFIX: AtomicBool = AtomicBool::new(false);

/// From here on messages begin with their level.
pub(super) fn prefix_levels() {
    LEVEL_PREFIX.store(true, Ordering::Relaxed);
}

/// How grave a message is: the numbers of `syslog(3)`.
#[derive(Debug, Clone, Copy)]
enum Level {
    Error = 3,
    Warning = 4,
}

/// Why there is no sandbox. The program prints it and ends with status 1.
#[derive(Debug)]
pub(super) struct Die(Vec<u8>);

/// The result of whatever can end the program.
pub(super) type Result<T> = std::result::Result<T, Die>;

impl Die {
    /// A message without a reason of the kernel's.
    pub(super) fn new(text: impl Into<Vec<u8>>) -> Self {
        Self(text.into())
    }

    /// What was tried, and why the kernel refused.
    pub(super) fn errno(text: impl Into<Vec<u8>>, errno: Errno) -> Self {
        Self::because(text, &reason(errno))
    }

    /// The same for a mount, whose `ENOSPC` says nothing of a disk (mount(2)).
    pub(super) fn mount(text: impl Into<Vec<u8>>, errno: Errno) -> Self {
        Self::because(text, &mount_reason(errno))
    }

    fn because(text: impl Into<Vec<u8>>, reason: &str) -> Self {
        let mut text = text.into();
        text.extend_from_slice(b": ");
        text.extend_from_slice(reason.as_bytes());
        Self(text)
    }

    /// Prints it.
    pub(super) fn print(&self) {
        print(Level::Error, &self.0);
    }
}

/// Says something that changes nothing.
pub(super) fn warn(text: &str) {
    print(Level::Warning, text.as_bytes());
}

fn print(level: Level, text: &[u8]) {
    let mut line = Vec::with_capacity(text.len() + 16);
    if LEVEL_PREFIX.load(Ordering::Relaxed) {
        line.extend_from_slice(format!("<{}>", level as u8).as_bytes());
    }
    line.extend_from_slice(b"bwrap: ");
    line.extend_from_slice(text);
    line.push(b'\n');
    // If nobody can read it, the status says the most important.
    drop(std::io::stderr().write_all(&line));
}

/// What `strerror(3)` says.
fn reason(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.rsplit_once(" (os error").map_or(text.as_str(), |(reason, _)| reason).to_owned()
}

fn mount_reason(errno: Errno) -> String {
    if errno == Errno::NOSPC {
        return "Limit exceeded (ENOSPC). (Hint: Check that /proc/sys/fs/mount-max is sufficient, \
                typically 100000)"
            .to_owned();
    }
    reason(errno)
}

/// Pieces of a message, some of which are no text.
pub(super) fn text(parts: &[&OsStr]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.as_bytes()).copied().collect()
}

/// Joins literal pieces and paths to the text of a message.
macro_rules! bytes {
    ($($part:expr),+ $(,)?) => {
        $crate::bwrap::error::text(&[$(std::ffi::OsStr::new($part)),+])
    };
}
pub(super) use bytes;

/// Says what could not be done.
pub(super) trait OrDie<T> {
    /// With a text that is only made if it is needed.
    fn or_die<B: Into<Vec<u8>>>(self, text: impl FnOnce() -> B) -> Result<T>;
    /// The same for a mount.
    fn or_die_mounting<B: Into<Vec<u8>>>(self, text: impl FnOnce() -> B) -> Result<T>;
}

impl<T> OrDie<T> for std::result::Result<T, Errno> {
    fn or_die<B: Into<Vec<u8>>>(self, text: impl FnOnce() -> B) -> Result<T> {
        self.map_err(|errno| Die::errno(text(), errno))
    }

    fn or_die_mounting<B: Into<Vec<u8>>>(self, text: impl FnOnce() -> B) -> Result<T> {
        self.map_err(|errno| Die::mount(text(), errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_those_of_the_c_library() {
        for (errno, text) in [
            (Errno::NOENT, "No such file or directory"),
            (Errno::LOOP, "Too many levels of symbolic links"),
            (Errno::XDEV, "Invalid cross-device link"),
        ] {
            assert_eq!(reason(errno), text);
        }
        assert!(mount_reason(Errno::NOSPC).starts_with("Limit exceeded (ENOSPC)"));
    }

    #[test]
    fn a_path_is_printed_as_it_is() {
        let path = OsStr::from_bytes(b"/a\xff b");
        let Die(text) = Die::errno(bytes!("Can't mkdir ", path), Errno::ACCESS);
        assert_eq!(text, b"Can't mkdir /a\xff b: Permission denied");
    }
}
