//! Directories that a person holds read-only in all sandboxes, those that run and those
//! that will: `remountctl ro --path`.
//!
//! They are in one file, [`FILE`] in [`Places::state`](crate::host::Places), that is
//! replaced as a whole: it is the old one or the new one, whenever the power fails. Who
//! cannot read it starts nothing.

pub mod running;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::{Errno, Result};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The file's name.
pub const FILE: &str = "held";
/// What it begins with.
const HEADER: &[u8] = b"remount held 1";
/// The largest that is believed.
const LARGEST: u64 = 1 << 20;

/// What is in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The directories: absolute, without symlinks.
    pub paths: Vec<PathBuf>,
    /// Mounts of running sandboxes that were made read-only, to be opened again.
    pub closed: Vec<Closed>,
}

/// A mount of a running sandbox that was made read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The mount namespace's inode.
    pub namespace: u64,
    /// The mount's id in it.
    pub mount: u64,
    /// The directory for which that was done.
    pub path: PathBuf,
}

/// Which state of the file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(Option<(u64, u64, i64, u32)>);

impl Version {
    /// Whether there is a file.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

/// The state of the file as it is now, for comparison.
///
/// # Errors
/// As `statx(2)`.
pub fn version(state: &Path) -> Result<Version> {
    version_at(CWD, &state.join(FILE))
}

fn version_at(dir: BorrowedFd<'_>, file: &Path) -> Result<Version> {
    let wanted = StatxFlags::INO | StatxFlags::SIZE | StatxFlags::MTIME;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::statx(dir, file, flags, wanted) {
        Ok(s) => {
            Ok(Version(Some((s.stx_ino, s.stx_size, s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec))))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(Version(None)),
        Err(errno) => Err(errno),
    }
}

/// Reads the file in the directory `state`; one that is missing holds nothing.
///
/// # Errors
/// As `open(2)` and `read(2)`; `EPERM` if it belongs to somebody else or others can write
/// to it; `EINVAL` if it is damaged.
pub fn read(state: &Path) -> Result<Held> {
    read_at(CWD, &state.join(FILE))
}

fn read_at(dir: BorrowedFd<'_>, file: &Path) -> Result<Held> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, file, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Held::default()),
        result => result?,
    };
    let stat = rustix::fs::fstat(&file)?;
    let is_own = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0;
    if !is_own {
        return Err(Errno::PERM);
    }
    if u64::try_from(stat.st_size).is_ok_and(|size| size > LARGEST) {
        return Err(Errno::FBIG);
    }
    let mut data = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(&file, &mut buffer) {
            Ok(0) => break,
            Ok(n) => data.extend_from_slice(&buffer[..n]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Held::parse(&data).ok_or(Errno::INVAL)
}

/// Looks into the file from a mount namespace in which its path leads nowhere: a broker
/// that stands in its sandbox.
#[derive(Debug)]
pub struct Watch {
    /// The nearest directory that was there.
    base: OwnedFd,
    /// The file, from there.
    file: PathBuf,
}

impl Watch {
    /// Of the file in the directory `state`, which need not be there yet.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn new(state: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for dir in state.ancestors() {
            // Not open(2), which a helper of remountd may not call.
            match rustix::fs::openat(CWD, dir, flags, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno),
                Ok(base) => {
                    let below = state.strip_prefix(dir).unwrap_or(state);
                    return Ok(Self { base, file: below.join(FILE) });
                }
            }
        }
        Err(Errno::NOENT)
    }

    /// Which state the file is in now.
    ///
    /// # Errors
    /// As [`version`].
    pub fn version(&self) -> Result<Version> {
        version_at(self.base.as_fd(), &self.file)
    }

    /// What is held now.
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(&self) -> Result<Held> {
        read_at(self.base.as_fd(), &self.file)
    }
}

/// Changes the file, one process after another, and makes the directory if it is missing.
///
/// # Errors
/// As [`read`] and as `write(2)`; the file is unchanged then.
pub fn change<T>(state: &Path, act: impl FnOnce(&mut Held) -> T) -> Result<T> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state);
    made.map_err(|error| Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(state, flags, Mode::empty())?;
    // Until this is closed.
    rustix::fs::flock(&dir, FlockOperation::LockExclusive)?;
    let mut held = read(state)?;
    let result = act(&mut held);
    held.replace(&dir)?;
    Ok(result)
}

impl Held {
    /// Whether it holds a directory or one above it, given without symlinks.
    #[must_use]
    pub fn holds(&self, path: &Path) -> bool {
        self.paths.iter().any(|held| path.starts_with(held))
    }

    fn parse(data: &[u8]) -> Option<Self> {
        let mut records = data.strip_suffix(b"\0")?.split(|byte| *byte == 0);
        if records.next()? != HEADER {
            return None;
        }
        let mut held = Self::default();
        while let Some(record) = records.next() {
            match record {
                [b'P', path @ ..] => held.paths.push(absolute(path)?),
                [b'M', ids @ ..] => {
                    let (namespace, mount) = std::str::from_utf8(ids).ok()?.split_once(' ')?;
                    held.closed.push(Closed {
                        namespace: namespace.parse().ok()?,
                        mount: mount.parse().ok()?,
                        path: absolute(records.next()?)?,
                    });
                }
                _ => return None,
            }
        }
        Some(held)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut data = [HEADER, b"\0"].concat();
        let mut add = |kind: &str, path: &OsStr| {
            data.extend_from_slice(kind.as_bytes());
            data.extend_from_slice(path.as_bytes());
            data.push(0);
        };
        for path in &self.paths {
            add("P", path.as_os_str());
        }
        for Closed { namespace, mount, path } in &self.closed {
            add(&format!("M{namespace} {mount}\0"), path.as_os_str());
        }
        data
    }

    fn replace(&self, dir: &OwnedFd) -> Result<()> {
        let new = format!("{FILE}.new");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, &*new, flags, Mode::RUSR | Mode::WUSR)?;
        let data = self.bytes();
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest)?;
            rest = &rest[written..];
        }
        rustix::fs::fsync(&file)?;
        rustix::fs::renameat(dir, &*new, dir, FILE)?;
        rustix::fs::fsync(dir)
    }
}

fn absolute(path: &[u8]) -> Option<PathBuf> {
    path.starts_with(b"/").then(|| OsString::from_vec(path.to_vec()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        let path: PathBuf = OsString::from_vec(b"/home/\xff\nu".to_vec()).into();
        let closed = Closed { namespace: 4026531841, mount: 77, path: path.clone() };
        Held { paths: vec![path, "/b".into()], closed: vec![closed] }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Held::parse(&held().bytes()), Some(held()));
        assert_eq!(Held::parse(&Held::default().bytes()), Some(Held::default()));
        assert!(held().holds("/b/c".as_ref()) && held().holds("/b".as_ref()));
        assert!(!held().holds("/bc".as_ref()) && !held().holds("/".as_ref()));
    }

    #[test]
    fn what_is_cut_off_or_changed_is_damaged() {
        let bytes = held().bytes();
        let whole = |end: usize| Held::parse(&bytes[..end]).is_some_and(|part| part == held());
        assert!((0..bytes.len()).all(|end| !whole(end)));
        for damaged in
            [&b""[..], b"\0", b"remount held 2\0", b"remount held 1\0X\0", b"remount held 1\0Pb\0"]
        {
            assert_eq!(Held::parse(damaged), None);
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let dir = std::env::temp_dir().join(format!("remount-test-held.{}", std::process::id()));
        change(&dir, |held| held.paths.push("/x".into())).unwrap();
        let before = version(&dir).unwrap();
        assert_eq!(read(&dir).unwrap().paths, [Path::new("/x")]);
        change(&dir, |held| held.paths.clear()).unwrap();
        assert_ne!(version(&dir).unwrap(), before);
        let file = dir.join(FILE);
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&file, mode(0o622)).unwrap();
        assert_eq!(read(&dir), Err(Errno::PERM));
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(read(&dir), Ok(Held::default()));
        assert_eq!(version(&dir).unwrap(), Version(None));
    }

    #[test]
    fn a_directory_that_is_made_later_is_seen() {
        let dir = std::env::temp_dir().join(format!("remount-watch.{}", std::process::id()));
        let state = dir.join("a/b");
        let watch = Watch::new(&state).unwrap();
        assert_eq!(watch.read(), Ok(Held::default()));
        change(&state, |held| held.paths.push("/x".into())).unwrap();
        assert_eq!(watch.read().unwrap().paths, [Path::new("/x")]);
        assert_eq!(watch.version(), version(&state));
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(watch.version(), Ok(Version(None)));
    }
}
