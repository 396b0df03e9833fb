//! Bubblewrap's options and ours: their names, how many words follow each, and what help says.
//!
//! One table for parsing and for `--help`, in the order in which help lists them.

use super::error::{Die, Result};

/// An option, by its name without the dashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Help,
    Version,
    Args,
    Argv0,
    LevelPrefix,
    UnshareAll,
    ShareNet,
    UnshareUser,
    UnshareUserTry,
    UnshareIpc,
    UnsharePid,
    UnshareNet,
    UnshareUts,
    UnshareCgroup,
    UnshareCgroupTry,
    Userns,
    Userns2,
    DisableUserns,
    AssertUsernsDisabled,
    Pidns,
    Uid,
    Gid,
    Hostname,
    Chdir,
    Clearenv,
    Setenv,
    Unsetenv,
    LockFile,
    SyncFd,
    Bind,
    BindTry,
    DevBind,
    DevBindTry,
    RoBind,
    RoBindTry,
    BindFd,
    RoBindFd,
    RemountRo,
    OverlaySrc,
    Overlay,
    TmpOverlay,
    RoOverlay,
    ExecLabel,
    FileLabel,
    Proc,
    Dev,
    Tmpfs,
    Mqueue,
    Dir,
    File,
    BindData,
    RoBindData,
    Symlink,
    Seccomp,
    AddSeccompFd,
    BlockFd,
    UsernsBlockFd,
    InfoFd,
    JsonStatusFd,
    NewSession,
    DieWithParent,
    AsPid1,
    CapAdd,
    CapDrop,
    Perms,
    Size,
    Chmod,
    Toggle,
    Profile,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct OptionRow {
    pub(super) name: Name,
    pub(super) word: &'static str,
    /// What follows, as help names it: one word for each value.
    values: &'static str,
    about: &'static str,
}

const fn row(
    name: Name,
    word: &'static str,
    values: &'static str,
    about: &'static str,
) -> OptionRow {
    OptionRow { name, word, values, about }
}

/// Every option of bubblewrap 0.11.1, and after them what is added.
#[rustfmt::skip]
pub(super) const OPTIONS: &[OptionRow] = &[
    row(Name::Help, "--help", "", "List the options"),
    row(Name::Version, "--version", "", "Say which bubblewrap this behaves as"),
    row(Name::Args, "--args", "FD", "Read more options from FD, each ended by a NUL byte"),
    row(Name::Argv0, "--argv0", "VALUE", "Name that the command finds in its argv[0]"),
    row(Name::LevelPrefix, "--level-prefix", "", "Begin messages with their syslog level, as <3>"),
    row(Name::UnshareAll, "--unshare-all", "", "New namespaces of every kind that there is"),
    row(Name::ShareNet, "--share-net", "", "Keep the network after all, after --unshare-all"),
    row(Name::UnshareUser, "--unshare-user", "", "New user namespace; always, unless run by root"),
    row(Name::UnshareUserTry, "--unshare-user-try", "", "New user namespace, if the host has them"),
    row(Name::UnshareIpc, "--unshare-ipc", "", "New IPC namespace"),
    row(Name::UnsharePid, "--unshare-pid", "", "New PID namespace"),
    row(Name::UnshareNet, "--unshare-net", "", "New network, with nothing but loopback"),
    row(Name::UnshareUts, "--unshare-uts", "", "New host name"),
    row(Name::UnshareCgroup, "--unshare-cgroup", "", "New cgroup namespace"),
    row(Name::UnshareCgroupTry, "--unshare-cgroup-try", "", "New cgroup namespace, if the kernel has them"),
    row(Name::Userns, "--userns", "FD", "Join this user namespace, instead of a new one"),
    row(Name::Userns2, "--userns2", "FD", "Join this user namespace when all is set up; with --userns"),
    row(Name::DisableUserns, "--disable-userns", "", "No further user namespaces can be made inside"),
    row(Name::AssertUsernsDisabled, "--assert-userns-disabled", "", "Fail if user namespaces can be made inside"),
    row(Name::Pidns, "--pidns", "FD", "Join this PID namespace; with --unshare-pid, make one below it"),
    row(Name::Uid, "--uid", "UID", "User id inside; needs --unshare-user or --userns"),
    row(Name::Gid, "--gid", "GID", "Group id inside; needs --unshare-user or --userns"),
    row(Name::Hostname, "--hostname", "NAME", "Host name inside; needs --unshare-uts"),
    row(Name::Chdir, "--chdir", "DIR", "Working directory inside"),
    row(Name::Clearenv, "--clearenv", "", "Empty the environment"),
    row(Name::Setenv, "--setenv", "VAR VALUE", "Set an environment variable"),
    row(Name::Unsetenv, "--unsetenv", "VAR", "Take away an environment variable"),
    row(Name::LockFile, "--lock-file", "DEST", "Hold a read lock on DEST as long as the sandbox lives"),
    row(Name::SyncFd, "--sync-fd", "FD", "Hold FD open as long as the sandbox lives"),
    row(Name::Bind, "--bind", "SRC DEST", "Show the host's SRC at DEST, writable"),
    row(Name::BindTry, "--bind-try", "SRC DEST", "The same, if there is a SRC"),
    row(Name::DevBind, "--dev-bind", "SRC DEST", "The same as --bind, and device files work"),
    row(Name::DevBindTry, "--dev-bind-try", "SRC DEST", "The same, if there is a SRC"),
    row(Name::RoBind, "--ro-bind", "SRC DEST", "Show the host's SRC at DEST, read-only"),
    row(Name::RoBindTry, "--ro-bind-try", "SRC DEST", "The same, if there is a SRC"),
    row(Name::BindFd, "--bind-fd", "FD DEST", "Show at DEST what FD is open on, writable"),
    row(Name::RoBindFd, "--ro-bind-fd", "FD DEST", "Show at DEST what FD is open on, read-only"),
    row(Name::RemountRo, "--remount-ro", "DEST", "Make the mount at DEST read-only, none below it"),
    row(Name::OverlaySrc, "--overlay-src", "SRC", "A directory to see through the next overlay"),
    row(Name::Overlay, "--overlay", "RWSRC WORKDIR DEST", "Overlay at DEST, writes go to RWSRC; WORKDIR beside it is empty"),
    row(Name::TmpOverlay, "--tmp-overlay", "DEST", "Overlay at DEST, writes are in memory and thrown away"),
    row(Name::RoOverlay, "--ro-overlay", "DEST", "Overlay at DEST, read-only"),
    row(Name::ExecLabel, "--exec-label", "LABEL", "SELinux label of the command"),
    row(Name::FileLabel, "--file-label", "LABEL", "SELinux label of what is made for the sandbox"),
    row(Name::Proc, "--proc", "DEST", "A proc file system at DEST"),
    row(Name::Dev, "--dev", "DEST", "A minimal /dev at DEST"),
    row(Name::Tmpfs, "--tmpfs", "DEST", "An empty directory in memory at DEST"),
    row(Name::Mqueue, "--mqueue", "DEST", "A POSIX message queue file system at DEST"),
    row(Name::Dir, "--dir", "DEST", "Make a directory"),
    row(Name::File, "--file", "FD DEST", "Make a file of what FD has to read"),
    row(Name::BindData, "--bind-data", "FD DEST", "Mount a file of what FD has to read"),
    row(Name::RoBindData, "--ro-bind-data", "FD DEST", "The same, read-only"),
    row(Name::Symlink, "--symlink", "SRC DEST", "Make a symbolic link at DEST that leads to SRC"),
    row(Name::Seccomp, "--seccomp", "FD", "System call filter, read from FD; the last one counts"),
    row(Name::AddSeccompFd, "--add-seccomp-fd", "FD", "A system call filter more, read from FD"),
    row(Name::BlockFd, "--block-fd", "FD", "Wait until FD can be read, then start"),
    row(Name::UsernsBlockFd, "--userns-block-fd", "FD", "Wait until FD can be read: somebody else maps the ids"),
    row(Name::InfoFd, "--info-fd", "FD", "Write to FD what was started, as JSON"),
    row(Name::JsonStatusFd, "--json-status-fd", "FD", "Write to FD what was started and how it ended, a line of JSON each"),
    row(Name::NewSession, "--new-session", "", "A terminal session of its own"),
    row(Name::DieWithParent, "--die-with-parent", "", "End all with SIGKILL when the caller or this process ends"),
    row(Name::AsPid1, "--as-pid-1", "", "The command is process 1, with no init above it"),
    row(Name::CapAdd, "--cap-add", "CAP", "Keep this capability inside, or ALL"),
    row(Name::CapDrop, "--cap-drop", "CAP", "Drop this capability, or ALL"),
    row(Name::Perms, "--perms", "OCTAL", "Mode of what the next option makes"),
    row(Name::Size, "--size", "BYTES", "Size of the next --tmpfs"),
    row(Name::Chmod, "--chmod", "OCTAL PATH", "Change the mode of PATH"),
    row(Name::Toggle, "--toggle", "NAME DEST", "Not bubblewrap's: what is bound at DEST can be switched by remountctl"),
    row(Name::Profile, "--profile", "NAME", "Not bubblewrap's: take away what this profile of remount-run does"),
];

impl OptionRow {
    /// The option of that name.
    pub(super) fn find(word: &[u8]) -> Option<&'static Self> {
        OPTIONS.iter().find(|row| row.word.as_bytes() == word)
    }

    /// How many words follow it.
    pub(super) fn arity(&self) -> usize {
        self.values.split_ascii_whitespace().count()
    }

    /// What is said when they do not.
    pub(super) fn too_few(&self) -> Die {
        // Which of the two bubblewrap says is a matter of when the option was written.
        let one = matches!(self.name, Name::Argv0 | Name::Chdir | Name::RemountRo);
        let word = if self.name == Name::RoBindFd { "--bind-fd" } else { self.word };
        let what = match self.arity() {
            1 if one => "one argument",
            1 => "an argument",
            2 => "two arguments",
            _ => "three arguments",
        };
        Die::new(format!("{word} takes {what}"))
    }
}

/// What `--help` prints, and a call without a command.
pub(super) fn usage(program: &str) -> String {
    let mut text = format!("usage: {program} [OPTIONS...] [--] COMMAND [ARGS...]\n\n");
    for row in OPTIONS {
        let words = format!("{} {}", row.word, row.values);
        text.push_str(&format!("    {words:<28} {}\n", row.about));
    }
    text
}

/// A number as `strtol(3)` reads it, base 10, the whole word: bubblewrap keeps its
/// lower 32 bits.
fn number(word: &[u8]) -> Option<i32> {
    let trimmed = word.trim_ascii_start();
    let (negative, digits) = match trimmed {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, trimmed),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
    });
    #[expect(clippy::cast_possible_truncation, reason = "as bubblewrap does")]
    let number = if negative { value.saturating_neg() } else { value } as i32;
    (number >= 0).then_some(number)
}

fn shown(word: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(word)
}

/// A descriptor's number.
pub(super) fn descriptor(word: &[u8]) -> Result<i32> {
    number(word).ok_or_else(|| Die::new([b"Invalid fd: ", word].concat()))
}

/// A user or group id; `what` says which.
pub(super) fn id(word: &[u8], what: &str) -> Result<u32> {
    let id = number(word).ok_or_else(|| Die::new(format!("Invalid {what}: {}", shown(word))))?;
    Ok(id.cast_unsigned())
}

/// Permission bits, octal.
pub(super) fn permissions(word: &[u8], option: &str) -> Result<u32> {
    let trimmed = word.trim_ascii_start();
    let digits = trimmed.strip_prefix(b"+").unwrap_or(trimmed);
    let text = std::str::from_utf8(digits).ok();
    // `from_str_radix` would take a second sign.
    let text = text.filter(|text| text.starts_with(|c: char| c.is_digit(8)));
    let value = text.and_then(|text| u32::from_str_radix(text, 8).ok());
    value
        .filter(|value| *value <= 0o7777)
        .ok_or_else(|| Die::new(format!("{option} takes an octal argument <= 07777")))
}

/// The largest tmpfs: half of what a size can be.
const MOST_BYTES: u64 = u64::MAX >> 1;

/// A number of bytes, as `strtoull(3)` reads it: decimal, `0x` hexadecimal, `0` octal.
pub(super) fn size(word: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(word).unwrap_or("");
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        [b'0'..=b'9', ..] => (text, 10),
        _ => ("", 10),
    };
    let digits = Some(digits).filter(|digits| digits.starts_with(|c: char| c.is_digit(radix)));
    let size = digits.and_then(|digits| u64::from_str_radix(digits, radix).ok());
    match size {
        None | Some(0) => Err(Die::new("--size takes a non-zero number of bytes")),
        Some(size) if size > MOST_BYTES => {
            Err(Die::new(format!("--size (for tmpfs) is limited to {MOST_BYTES}")))
        }
        Some(size) => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (word, value) in [
            (&b"5"[..], Some(5)),
            (b" +7", Some(7)),
            (b"007", Some(7)),
            (b"4294967301", Some(5)),
            (b"99999999999999999999", None),
            (b"-1", None),
            (b"", None),
            (b"5x", None),
            (b"+ 5", None),
        ] {
            assert_eq!(number(word), value, "{}", shown(word));
        }
    }

    #[test]
    fn sizes_and_permissions() {
        for (word, value) in
            [(&b"0x10"[..], Some(16)), (b"010", Some(8)), (b"10", Some(10)), (b"0", None)]
        {
            assert_eq!(size(word).ok(), value, "{}", shown(word));
        }
        for word in [&b" 1"[..], b"-1", b"1k", b"", b"0x", b"18446744073709551616"] {
            assert!(size(word).is_err(), "{}", shown(word));
        }
        assert!(size(b"9223372036854775808").is_err());
        assert_eq!(permissions(b"0755", "--perms").ok(), Some(0o755));
        for word in [&b"8"[..], b"", b"10000", b"-1", b"0o7", b"++7"] {
            assert!(permissions(word, "--perms").is_err(), "{}", shown(word));
        }
    }

    #[test]
    fn every_option_is_there_once() {
        for (index, row) in OPTIONS.iter().enumerate() {
            assert!(OPTIONS[..index].iter().all(|other| other.word != row.word), "{}", row.word);
            assert_eq!(
                OptionRow::find(row.word.as_bytes()).map(|found| found.name),
                Some(row.name)
            );
        }
        assert!(OptionRow::find(b"--no-such").is_none());
    }
}
