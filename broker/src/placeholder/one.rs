//! One placeholder: making, knowing and removing it.

use super::Kind;
use super::record::Entry;
use super::spare::Spares;
use crate::sys::mount::{self, FileStat};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The permissions of a placeholder that is a directory.
pub(super) const DIRECTORY_MODE: u16 = 0o1700;

/// Of those permissions, what tells one: a directory may inherit its group's bit.
const TELLING: u16 = 0o5777;

/// The permissions of a placeholder that is a file, less what the umask takes: whoever
/// else uses the repository must be able to read it.
const FILE_MODE: u16 = 0o1644;

/// What tells one: the bit means nothing on a file.
const STICKY: u16 = 0o1000;

/// Whether a file looks like a placeholder that `uid` made.
#[must_use]
pub fn is_one(stat: &FileStat, uid: u32) -> bool {
    stat.uid == uid
        && (stat.is_dir() && stat.mode & TELLING == DIRECTORY_MODE
            || stat.is_file() && stat.mode & STICKY != 0)
}

/// Makes a placeholder in one step: there is none without its content, nor one that could
/// be taken for something else.
pub(crate) fn make(parent: BorrowedFd<'_>, name: &OsStr, kind: &Kind) -> Result<(), Errno> {
    match kind {
        Kind::Directory => {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(DIRECTORY_MODE.into()))
        }
        Kind::File(bytes) if bytes.is_empty() => create(parent, name).map(drop),
        Kind::File(bytes) => {
            // Under another name first, which the record has as well.
            let draft = draft_of(name);
            match rustix::fs::unlinkat(parent, &*draft, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            let file = create(parent, &draft)?;
            let written = rustix::io::write(file, bytes).and_then(|written| {
                let whole = written == bytes.len();
                if whole { Ok(()) } else { Err(Errno::NOSPC) }
            });
            let linked = written
                .and_then(|()| rustix::fs::linkat(parent, &*draft, parent, name, AtFlags::empty()));
            rustix::fs::unlinkat(parent, &*draft, AtFlags::empty())?;
            linked
        }
    }
}

/// The name under which a file gets its bytes.
pub(super) fn draft_of(name: &OsStr) -> OsString {
    let mut draft = name.to_owned();
    draft.push(".remount");
    draft
}

fn create(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(FILE_MODE.into()))
}

pub(super) fn unmake(parent: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    let flags = match entry.kind {
        Kind::Directory => AtFlags::REMOVEDIR,
        Kind::File(_) => AtFlags::empty(),
    };
    rustix::fs::unlinkat(parent, entry.name(), flags)
}

/// Removes a placeholder if it is as it was made, and gives it ordinary permissions if
/// not. Between the look and the removal is no more than a microsecond, and a directory
/// that is not empty is never removed.
///
/// Answers whether it was removed or released; `None` if there is no placeholder.
pub(super) fn remove(
    base: BorrowedFd<'_>,
    entry: &Entry,
    uid: u32,
    spares: &mut Spares,
) -> Result<Option<bool>, Errno> {
    let look = || {
        let parent = entry.parent(base)?;
        Ok((mount::lstat_at(parent.as_fd(), entry.name())?, parent))
    };
    let (stat, parent) = match look() {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let parent = parent.as_fd();
    let (same_kind, untouched) = match &entry.kind {
        Kind::Directory => (stat.is_dir(), true),
        Kind::File(bytes) => {
            let is_file = stat.is_file();
            (is_file, is_file && holds_only(parent, entry.name(), bytes)?)
        }
    };
    if !is_one(&stat, uid) || !same_kind {
        return Ok(None);
    }
    let mut put_away = || match &entry.kind {
        _ if !untouched => Err(Errno::NOTEMPTY),
        Kind::Directory if spares.put(parent, entry.name(), &stat)? => Ok(()),
        _ => unmake(parent, entry),
    };
    match put_away() {
        Ok(()) => Ok(Some(true)),
        Err(Errno::NOENT) => Ok(None),
        // Somebody uses it: it is his from now on.
        Err(Errno::NOTEMPTY | Errno::EXIST) => release(parent, entry, &stat).map(|()| Some(false)),
        Err(errno) => Err(errno),
    }
}

/// Whether the file has nothing but these bytes, or the first of them.
fn holds_only(parent: BorrowedFd<'_>, name: &OsStr, bytes: &[u8]) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(parent, name, flags, Mode::empty());
    let file = match open() {
        // Made under a umask that took its owner's rights.
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(FILE_MODE.into());
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
            open()?
        }
        result => result?,
    };
    let mut found = vec![0; bytes.len() + 1];
    let length = rustix::io::read(file, &mut found)?;
    Ok(bytes.starts_with(&found[..length]))
}

/// Gives it the permissions that it would have if its user had made it.
fn release(parent: BorrowedFd<'_>, entry: &Entry, stat: &FileStat) -> Result<(), Errno> {
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask);
    let all: u32 = if entry.kind == Kind::Directory { 0o777 } else { 0o666 };
    let inherited = u32::from(stat.mode) & 0o2000;
    let mode = Mode::from_raw_mode(all & !umask.as_raw_mode() | inherited);
    rustix::fs::chmodat(parent, entry.name(), mode, AtFlags::empty())
}
