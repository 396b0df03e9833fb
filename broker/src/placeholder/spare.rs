//! Empty directories kept for the next sandbox: to move one to its place and back costs a
//! fraction of making and removing it, above all where each freed block is reported to
//! the disk.

use super::one::DIRECTORY_MODE;
use crate::sys::mount::{self, FileStat};
use rustix::fs::{Mode, OFlags, RawDir, RenameFlags, SeekFrom};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// Where they are kept, in the store.
pub(super) const SPARE: &str = "spare";

/// More than these are not kept.
const MOST: usize = 64;

/// A directory as it was made, type and permissions.
const TYPE_AND_MODE: u16 = 0o040000 | DIRECTORY_MODE;

/// The spare directories. To be used with the store locked.
#[derive(Debug, Default)]
pub(super) struct Spares {
    dir: Option<OwnedFd>,
    names: Vec<OsString>,
}

impl Spares {
    /// Those in `store`. Without any, or a place for them, all works, but more slowly.
    pub fn open(store: BorrowedFd<'_>) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(store, SPARE, flags, Mode::empty());
        let dir = open().or_else(|errno| match errno {
            Errno::NOENT => {
                rustix::fs::mkdirat(store, SPARE, Mode::RWXU)?;
                open()
            }
            errno => Err(errno),
        });
        let Ok(dir) = dir else { return Self::default() };
        let mut names = Vec::new();
        match each_name(dir.as_fd(), &mut |name| names.push(name)) {
            Ok(()) => Self { dir: Some(dir), names },
            Err(_) => Self::default(),
        }
    }

    /// Moves one to `name` in `parent`, where nothing is. Whether it did.
    ///
    /// # Errors
    /// `EEXIST`: something is there.
    pub fn take(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
        let Some(dir) = &self.dir else { return Ok(false) };
        // In a directory that hands its group down, a new one is not like any other.
        if mount::stat(parent)?.mode & 0o2000 != 0 {
            return Ok(false);
        }
        while let Some(spare) = self.names.pop() {
            match rustix::fs::renameat_with(dir, &*spare, parent, name, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(true),
                Err(Errno::EXIST) => {
                    self.names.push(spare);
                    return Err(Errno::EXIST);
                }
                // On another file system, for one.
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS) => self.names.clear(),
                Err(_) => {}
            }
        }
        Ok(false)
    }

    /// Takes back the empty directory at `name` in `parent`, which `stat` is of. Whether it did.
    ///
    /// # Errors
    /// `ENOTEMPTY`: somebody has put something into it. `ENOENT`: somebody has put something
    /// in its place. Either is where it was.
    pub fn put(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        stat: &FileStat,
    ) -> Result<bool, Errno> {
        let Some(dir) = &self.dir else { return Ok(false) };
        if self.names.len() >= MOST || stat.mode != TYPE_AND_MODE {
            return Ok(false);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        if !is_empty(found.as_fd())? {
            return Err(Errno::NOTEMPTY);
        }
        let spare = OsString::from(stat.id.ino.to_string());
        match rustix::fs::renameat_with(parent, name, dir, &*spare, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(Errno::NOENT),
            // On another file system, for one.
            Err(_) => return Ok(false),
        }
        // Somebody may have been faster than the rename.
        rustix::fs::seek(&found, SeekFrom::Start(0))?;
        let why_not = if mount::lstat_at(dir.as_fd(), &*spare)?.id != stat.id {
            Errno::NOENT
        } else if is_empty(found.as_fd())? {
            self.names.push(spare);
            return Ok(true);
        } else {
            Errno::NOTEMPTY
        };
        // If something stands there again by now, nothing of it may be touched.
        rustix::fs::renameat_with(dir, &*spare, parent, name, RenameFlags::NOREPLACE)
            .map_err(|_| Errno::BUSY)?;
        Err(why_not)
    }
}

fn is_empty(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut empty = true;
    each_name(dir, &mut |_| empty = false)?;
    Ok(empty)
}

fn each_name(dir: BorrowedFd<'_>, each: &mut dyn FnMut(OsString)) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            each(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(())
}
