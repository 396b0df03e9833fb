//! What planning mode made read-only, kept between two calls.

use remount_broker::name::TargetName;
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file with a target's name on each line, in memory that only this sandbox sees. No
/// file is no target.
///
/// Hooks run at the same time: each name is appended by one write, and taking all is one
/// rename. Whichever of two comes last wins, as with two that run one after the other.
pub(super) struct State(PathBuf);

/// More than fits of names; anything longer was not written by this.
const MAX: u64 = 64 << 10;

impl State {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Whether anything is kept.
    pub fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Adds names; those that are there already do no harm.
    pub fn add(&self, names: &[TargetName]) -> io::Result<()> {
        let known = match open(&self.0) {
            Ok(file) => parse(file)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let new: String = names
            .iter()
            .filter(|name| !known.contains(name))
            .map(|name| format!("{name}\n"))
            .collect();
        let mut options = OpenOptions::new();
        let options = options.append(true).create(true).mode(0o600).custom_flags(NONBLOCK);
        let mut file = options.open(&self.0)?;
        file.write_all(new.as_bytes())
    }

    /// Takes all names out.
    pub fn take(&self) -> io::Result<Vec<TargetName>> {
        let taken = self.0.with_extension(std::process::id().to_string());
        match fs::rename(&self.0, &taken) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let names = open(&taken).and_then(parse);
        fs::remove_file(&taken)?;
        names
    }
}

/// Whoever is in the sandbox can put another kind of file there. None keeps this from going on.
const NONBLOCK: i32 = OFlags::NONBLOCK.bits() as i32;

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)
}

/// The names in a file; what is none is nobody's target.
fn parse(file: File) -> io::Result<Vec<TargetName>> {
    let mut text = String::new();
    file.take(MAX).read_to_string(&mut text)?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_once_and_taken_once() {
        let dir = std::env::temp_dir().join(format!("remount-test-state-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let state = State::new(&dir.join("state"));
        let name = |text: &str| text.parse::<TargetName>().unwrap();
        assert!(!state.exists());
        assert_eq!(state.take().unwrap(), []);
        state.add(&[name("a"), name("b")]).unwrap();
        state.add(&[name("b"), name("c")]).unwrap();
        assert!(state.exists());
        assert_eq!(state.take().unwrap(), [name("a"), name("b"), name("c")]);
        assert_eq!(state.take().unwrap(), []);
        fs::write(dir.join("state"), "a\nNO NAME\nb").unwrap();
        assert_eq!(state.take().unwrap(), [name("a"), name("b")]);
        assert!(State::new(&dir.join("no/where")).add(&[name("a")]).is_err());
        // A FIFO, of which nobody has the other end.
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("state"), mode).unwrap();
        assert!(state.add(&[name("a")]).is_err());
        assert_eq!(state.take().unwrap(), []);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir(&dir).unwrap();
    }
}
