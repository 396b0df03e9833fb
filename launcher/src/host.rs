//! Facts about the host, read once. Tests put others in their place.

#[cfg(test)]
pub(crate) mod fake;
mod mounts;

pub use mounts::{Mount, MountTable};

use crate::confine::landlock::Unavailable;
use remount_broker::escape::Escaped;
use remount_broker::reason::{IoReason, Reason};
use remount_broker::sys::mount::{self, FileStat};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// What a start depends on besides arguments and profiles.
pub struct Host {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Where `$HOME` leads, else what `/etc/passwd` says: absolute, without `..`.
    pub home: PathBuf,
    /// `$SHELL`, else what `/etc/passwd` says, else `/bin/sh`.
    pub shell: PathBuf,
    /// The working directory; `None` if it was removed or cannot be reached.
    pub cwd: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The Landlock ABI, or why there is none.
    pub landlock: Result<u32, Unavailable>,
    /// Whether this process has `CAP_SYS_ADMIN`.
    pub may_mount: bool,
    /// Whether system calls can be filtered, or why not.
    pub seccomp: Result<(), Errno>,
    /// The first of the standard descriptors that is a directory, if one is.
    pub directory_on_stdio: Option<i32>,
    /// The terminal on standard input, output or error, if there is one.
    pub terminal: Option<PathBuf>,
    /// This program's file.
    pub program: PathBuf,
    /// The host's mounts.
    pub mounts: MountTable,
    /// The host's files.
    pub files: Box<dyn Files>,
}

/// Questions about files. Nothing is changed by asking.
pub trait Files {
    /// The file at `path`, symlinks followed.
    ///
    /// # Errors
    /// As `open(2)` with `O_PATH`.
    fn find(&self, path: &Path) -> Result<Found, Errno>;
    /// The file at `path`, a last symlink not followed; only what it is.
    ///
    /// # Errors
    /// As `statx(2)`.
    fn lstat(&self, path: &Path) -> Result<FileStat, Errno>;
    /// Where the symlink at `path` points.
    ///
    /// # Errors
    /// As `readlink(2)`.
    fn readlink(&self, path: &Path) -> Result<PathBuf, Errno>;
    /// The first 64 KiB of a regular file.
    ///
    /// # Errors
    /// As `open(2)` and `read(2)`; `EINVAL` if it is not a regular file.
    fn read(&self, path: &Path) -> Result<Vec<u8>, Errno>;
    /// A regular file, whole.
    ///
    /// # Errors
    /// As [`Self::read`]; `EFBIG` if it has more than `most` bytes.
    fn read_whole(&self, path: &Path, most: usize) -> Result<Vec<u8>, Errno>;
    /// Calls `each` for the names in a directory, in no order.
    ///
    /// # Errors
    /// As `open(2)` and `getdents64(2)`; `EOVERFLOW` if there are more than `most`.
    fn names(&self, path: &Path, most: usize, each: &mut dyn FnMut(&OsStr)) -> Result<(), Errno>;
    /// Whether this user may execute the file at `path`.
    ///
    /// # Errors
    /// As `access(2)`.
    fn executable(&self, path: &Path) -> Result<(), Errno>;
    /// Whether this user may create files in the directory at `path`.
    ///
    /// # Errors
    /// As `access(2)`.
    fn writable(&self, path: &Path) -> Result<(), Errno>;
    /// Whether this user may read, enter or execute the file at `path`.
    fn reachable(&self, path: &Path) -> bool;
}

/// A file that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path without symlinks.
    pub path: PathBuf,
    /// What it is.
    pub stat: FileStat,
}

/// The files of the machine this runs on.
pub struct RealFiles;

impl Files for RealFiles {
    fn find(&self, path: &Path) -> Result<Found, Errno> {
        let fd = mount::open_following(path)?;
        let stat = mount::stat(fd.as_fd())?;
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let canonical = rustix::fs::readlink(link, Vec::new())?;
        let canonical = PathBuf::from(OsString::from_vec(canonical.into_bytes()));
        // The kernel prints "(deleted)" and "(unreachable)" into such links: what it
        // printed must be the file that was opened.
        if mount::lstat_at(rustix::fs::CWD, &canonical)?.id != stat.id {
            return Err(Errno::NOENT);
        }
        Ok(Found { path: canonical, stat })
    }

    fn lstat(&self, path: &Path) -> Result<FileStat, Errno> {
        mount::lstat_at(rustix::fs::CWD, path)
    }

    fn readlink(&self, path: &Path) -> Result<PathBuf, Errno> {
        let target = rustix::fs::readlink(path, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        read_up_to(open_regular(path)?, 64 << 10)
    }

    fn read_whole(&self, path: &Path, most: usize) -> Result<Vec<u8>, Errno> {
        let fd = open_regular(path)?;
        let size = usize::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(usize::MAX);
        if size > most {
            return Err(Errno::FBIG);
        }
        let mut bytes = vec![0; size];
        let mut end = 0;
        while end < size {
            match rustix::io::read(&fd, &mut bytes[end..])? {
                0 => break,
                count => end += count,
            }
        }
        bytes.truncate(end);
        Ok(bytes)
    }

    fn names(&self, path: &Path, most: usize, each: &mut dyn FnMut(&OsStr)) -> Result<(), Errno> {
        use rustix::fs::{Mode, OFlags, RawDir};
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut entries = RawDir::new(fd, &mut buffer);
        let mut count = 0;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            count += 1;
            if count > most {
                return Err(Errno::OVERFLOW);
            }
            each(name);
        }
        Ok(())
    }

    fn executable(&self, path: &Path) -> Result<(), Errno> {
        use rustix::fs::{Access, AtFlags, CWD};
        rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
    }

    fn writable(&self, path: &Path) -> Result<(), Errno> {
        use rustix::fs::{Access, AtFlags, CWD};
        let access = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS)
    }

    fn reachable(&self, path: &Path) -> bool {
        use rustix::fs::{Access, AtFlags, CWD};
        rustix::fs::accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS).is_ok()
            || self.executable(path).is_ok()
    }
}

/// All that can be read from a file of the kernel's.
pub(crate) fn read_to_end(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    read_up_to(fd, 64 << 20)
}

/// Only looks at what is no regular file: to open a FIFO or a device does something to others,
/// and a sandbox may have made `path` lead to one. What is opened is what was looked at.
fn open_regular(path: &Path) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags};
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if !mount::stat(place.as_fd())?.is_file() {
        return Err(Errno::INVAL);
    }
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    rustix::fs::open(link, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

fn read_up_to(fd: impl AsFd, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while bytes.len() < limit {
        match rustix::io::read(&fd, &mut chunk)? {
            0 => break,
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
    bytes.truncate(limit);
    Ok(bytes)
}

impl Host {
    /// Reads the facts of this machine and this process.
    ///
    /// # Errors
    /// If `/proc` is not mounted: nothing works without it.
    pub fn read() -> Result<Self, HostError> {
        let environment: Vec<_> = std::env::vars_os().collect();
        let uid = rustix::process::geteuid().as_raw();
        let account = Account::needed(&environment, uid);
        let program = RealFiles.readlink(Path::new("/proc/self/exe")).map_err(HostError::Proc)?;
        let table = read_mountinfo().map_err(HostError::Proc)?;
        Ok(Self {
            uid,
            gid: rustix::process::getegid().as_raw(),
            home: home(&environment, account.home, uid)?,
            shell: absolute(&environment, "SHELL").unwrap_or(account.shell),
            cwd: std::env::current_dir().ok(),
            landlock: crate::confine::landlock::detect(),
            may_mount: rustix::thread::capabilities(None)
                .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN)),
            seccomp: remount_broker::sys::seccomp::available(),
            directory_on_stdio: directory_on_stdio(),
            terminal: terminal(),
            program,
            mounts: MountTable::parse(&table),
            files: Box::new(RealFiles),
            environment,
        })
    }

    /// The value of an environment variable.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// Where programs keep what they must remember from one run to the next.
    pub fn state_home(&self) -> PathBuf {
        self.path_variable("XDG_STATE_HOME").unwrap_or_else(|| self.home.join(".local/state"))
    }

    /// The value of an environment variable that is an absolute path.
    pub fn path_variable(&self, name: &str) -> Option<PathBuf> {
        absolute(&self.environment, name)
    }
}

/// The host could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// `/proc` is missing or hidden.
    #[error("read /proc/self: {}", Reason::from(*.0))]
    Proc(Errno),
    /// `HOME` is not the path of a directory.
    #[error("use HOME={}: {why}", Escaped::path(home))]
    Home {
        /// What it says.
        home: PathBuf,
        /// Why that is none.
        why: String,
    },
    /// Nobody says where the home directory is.
    #[error("find the home directory: HOME is not set, and /etc/passwd does not know user {0}")]
    NoHome(u32),
}

impl HostError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Proc(_) => "mount the proc file system on /proc",
            Self::Home { .. } | Self::NoHome(_) => {
                "set HOME to the home directory: what is hidden and kept depends on it"
            }
        }
    }
}

/// The home directory, without `..`: profiles name what is below it, and where that is must not
/// depend on what is on the way. A relative one would be another for each command inside.
fn home(
    environment: &[(OsString, OsString)],
    account: Option<PathBuf>,
    uid: u32,
) -> Result<PathBuf, HostError> {
    let said = environment.iter().find(|(key, value)| key == "HOME" && !value.is_empty());
    let Some((_, said)) = said else { return account.ok_or(HostError::NoHome(uid)) };
    let home = PathBuf::from(said);
    if !home.is_absolute() {
        return Err(HostError::Home { home, why: "it is not absolute".to_owned() });
    }
    if home.components().any(|part| part == Component::ParentDir) {
        let found = std::fs::canonicalize(&home);
        return found.map_err(|error| HostError::Home { home, why: IoReason(&error).to_string() });
    }
    Ok(home)
}

fn absolute(environment: &[(OsString, OsString)], name: &str) -> Option<PathBuf> {
    let value = environment.iter().find(|(key, _)| key == name)?;
    let path = PathBuf::from(&value.1);
    path.is_absolute().then_some(path)
}

fn read_mountinfo() -> Result<Vec<u8>, Errno> {
    use rustix::fs::{Mode, OFlags};
    let fd =
        rustix::fs::open("/proc/self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    read_to_end(fd)
}

fn directory_on_stdio() -> Option<i32> {
    let stdio = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let is_directory = |fd: &BorrowedFd<'_>| mount::stat(*fd).is_ok_and(|stat| stat.is_dir());
    stdio.into_iter().find(is_directory).map(|fd| fd.as_raw_fd())
}

fn terminal() -> Option<PathBuf> {
    let name = |fd| rustix::termios::ttyname(fd, Vec::new()).ok();
    let stdio = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let path = stdio.into_iter().find_map(name)?;
    Some(PathBuf::from(OsString::from_vec(path.into_bytes())))
}

/// What `/etc/passwd` says of a user. The name service is not asked: it would load
/// libraries and talk to daemons.
struct Account {
    home: Option<PathBuf>,
    shell: PathBuf,
}

impl Account {
    fn needed(environment: &[(OsString, OsString)], uid: u32) -> Self {
        let known = ["HOME", "SHELL"].iter().all(|name| absolute(environment, name).is_some());
        let text =
            if known { Vec::new() } else { std::fs::read("/etc/passwd").unwrap_or_default() };
        Self::parse(&text, uid)
    }

    fn parse(passwd: &[u8], uid: u32) -> Self {
        let uid = uid.to_string();
        let fields = passwd
            .split(|b| *b == b'\n')
            .map(|line| line.split(|b| *b == b':').collect::<Vec<_>>())
            .find(|fields| fields.len() >= 7 && fields[2] == uid.as_bytes());
        let field = |i: usize| {
            let text = fields.as_ref().map(|f| f[i]).filter(|text| text.starts_with(b"/"));
            text.map(|text| PathBuf::from(OsStr::from_bytes(text)))
        };
        Self { home: field(5), shell: field(6).unwrap_or_else(|| "/bin/sh".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_number() {
        let passwd = b"root:x:0:0:root:/root:/bin/bash\nu:x:7:7:,,,:/home/u:/bin/zsh\nbad:x:8\n";
        assert_eq!(Account::parse(passwd, 7).home.as_deref(), Some(Path::new("/home/u")));
        assert_eq!(Account::parse(passwd, 8).home, None);
        assert_eq!(Account::parse(passwd, 8).shell, Path::new("/bin/sh"));
    }
}
