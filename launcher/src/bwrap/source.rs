//! What of the host a sandbox shows: found before anything is mounted, opened by
//! descriptor.

use super::error::{OrDie, Result, bytes};
use super::fds::link;
use super::request::{Kind, Op, Source, Store};
use remount_broker::sys::mount;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The host's tree, beside which the new one grows.
#[derive(Debug)]
pub(super) struct OldRoot {
    pub(super) root: OwnedFd,
    /// The directory that the base will cover, and its path.
    pub(super) tmp: OwnedFd,
    tmp_path: PathBuf,
}

impl OldRoot {
    pub(super) fn open() -> Result<Self> {
        let root = mount::open_exact(CWD, c"/").or_die(|| "Can't open /")?;
        let tmp =
            mount::open_following(Path::new("/tmp")).or_die_mounting(|| "Failed to mount tmpfs")?;
        let tmp_path = real_path(tmp.as_fd()).or_die(|| "Failed to mount tmpfs")?;
        Ok(Self { root, tmp, tmp_path })
    }

    /// Opens a file that was found.
    pub(super) fn take(&self, file: HostFile) -> Result<OwnedFd> {
        match file {
            HostFile::Open(fd) => Ok(fd),
            HostFile::At(path) => {
                self.open_at(&path).or_die(|| bytes!("Can't get type of source ", &path))
            }
        }
    }

    /// Opens a file by its real path.
    fn open_at(&self, path: &Path) -> std::result::Result<OwnedFd, Errno> {
        match path.strip_prefix(&self.tmp_path) {
            Ok(below) if below.as_os_str().is_empty() => {
                rustix::io::fcntl_dupfd_cloexec(&self.tmp, 3)
            }
            Ok(below) => mount::open_exact(self.tmp.as_fd(), below),
            Err(_) => mount::open_exact(self.root.as_fd(), path),
        }
    }
}

/// The path that the kernel has for a location.
fn real_path(fd: BorrowedFd<'_>) -> std::result::Result<PathBuf, Errno> {
    let path = rustix::fs::readlink(link(fd), Vec::new())?;
    Ok(OsString::from_vec(path.into_bytes()).into())
}

/// Descriptors with numbers below this are kept from when a file is found until it is
/// mounted; others are opened twice, so that a limit of open files is no limit of binds.
const KEPT_BELOW: i32 = 30;

/// A file of the host.
#[derive(Debug)]
pub(super) enum HostFile {
    Open(OwnedFd),
    /// Its real path.
    At(PathBuf),
}

/// What of the host the steps show, all found before the first of them is done.
#[derive(Debug)]
pub(super) struct Sources(pub(super) Vec<Option<Vec<HostFile>>>);

impl Sources {
    /// For each step its files, in the order in which it names them; `None` for a bind
    /// that is left out because its source is missing.
    pub(super) fn find(ops: &[Op]) -> Result<Self> {
        ops.iter().map(|op| find_sources(&op.kind)).collect::<Result<_>>().map(Self)
    }
}

fn find_sources(kind: &Kind) -> Result<Option<Vec<HostFile>>> {
    let paths: Vec<&OsStr> = match kind {
        Kind::Bind { source: Source::Descriptor(named), .. } => {
            let path = format!("/proc/self/fd/{}", named.number());
            return find_source(path.as_ref()).map(|fd| Some(vec![fd]));
        }
        Kind::Bind { source: Source::Path(path), optional: true, .. } => {
            return match open_source(path) {
                Err(Errno::NOENT) => Ok(None),
                result => Ok(Some(vec![result.and_then(keep).or_die(|| missing(path))?])),
            };
        }
        Kind::Bind { source: Source::Path(path), .. } => vec![path],
        Kind::Overlay { store, layers } => {
            let store = match store {
                Store::Host { upper, work } => vec![upper, work],
                Store::Memory | Store::Nowhere => Vec::new(),
            };
            store.into_iter().chain(layers).map(OsString::as_os_str).collect()
        }
        _ => Vec::new(),
    };
    paths.into_iter().map(find_source).collect::<Result<_>>().map(Some)
}

fn missing(path: &OsStr) -> Vec<u8> {
    bytes!("Can't find source path ", path)
}

fn find_source(path: &OsStr) -> Result<HostFile> {
    open_source(path).and_then(keep).or_die(|| missing(path))
}

/// Keeps a file open, or remembers where it is.
fn keep(fd: OwnedFd) -> std::result::Result<HostFile, Errno> {
    if fd.as_raw_fd() < KEPT_BELOW {
        return Ok(HostFile::Open(fd));
    }
    real_path(fd.as_fd()).map(HostFile::At)
}

/// Opens a file of the host as a location, from the caller's working directory. A link
/// of `/proc` is followed by its text: what a descriptor is open on belongs to another
/// mount namespace, and cannot be mounted in this one.
pub(super) fn open_source(path: &OsStr) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = |path: &OsStr| {
        rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
    };
    match open(path) {
        Err(Errno::LOOP) => {
            let resolved = std::fs::canonicalize(path).map_err(|error| {
                Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::ELOOP))
            })?;
            open(resolved.as_os_str())
        }
        result => result,
    }
}

/// The path that a location has on the host, as messages name it.
pub(super) fn host_path(fd: BorrowedFd<'_>) -> OsString {
    let path = real_path(fd).unwrap_or_default();
    OsString::from_vec([b"/oldroot", path.as_os_str().as_bytes()].concat())
}
