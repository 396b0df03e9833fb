//! The directory of the host in which the command of a sandbox without namespaces may write.
//!
//! It does not stay behind, whoever is killed when: it has permissions that nobody else gives a
//! directory, and is locked by its launcher for as long as that lives. Whoever starts the next one
//! in the same place, or asks `remountctl doctor`, finds those that are not locked.

use crate::sys::mount::{self, FileStat};
use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, Result};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What its name begins with; an id follows.
const PREFIX: &str = "remount-";

/// Its permissions: private, and the sticky bit, as a placeholder has it.
const MODE: Mode = Mode::from_raw_mode(0o1700);

/// The same of what is in it, while it is removed.
const OPEN: Mode = Mode::RWXU;

/// How often another name is tried.
const TRIES: usize = 16;

/// Such a directory. It is nobody else's as long as this lives.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Locked until it is closed.
    dir: OwnedFd,
}

/// Where they are made: `TMPDIR`, if that is absolute, else `/tmp`.
#[must_use]
pub fn place(tmpdir: Option<PathBuf>) -> PathBuf {
    tmpdir.filter(|path| path.is_absolute()).unwrap_or_else(|| "/tmp".into())
}

impl Scratch {
    /// Makes one in `place`, which is named by what `id` answers.
    ///
    /// # Errors
    /// As `mkdir(2)` and `flock(2)`.
    pub fn make(place: &Path, id: impl Fn() -> String) -> Result<Self> {
        for _ in 0..TRIES {
            let path = place.join(format!("{PREFIX}{}", id()));
            match rustix::fs::mkdir(&path, MODE) {
                Err(Errno::EXIST) => continue,
                made => made?,
            }
            // Before it was locked, somebody may have removed it as one that is left over.
            let taken = Self::take(path.clone()).inspect_err(|_| {
                // Not every file system has locks. If this fails, it is gone already.
                rustix::fs::rmdir(&path).unwrap_or(());
            });
            if let Some(made) = taken? {
                return Ok(made);
            }
        }
        Err(Errno::EXIST)
    }

    /// Locks the directory at `path`; `None` if somebody has it, or it is there no longer.
    fn take(path: PathBuf) -> Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(&path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            dir => dir?,
        };
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        // Whoever had it may have removed it.
        match mount::lstat_at(CWD, &path) {
            Err(Errno::NOENT) => Ok(None),
            stat if stat?.id == mount::stat(dir.as_fd())?.id => Ok(Some(Self { path, dir })),
            _ => Ok(None),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Those in `place` that this user's dead have left, and no process that lives was given.
    ///
    /// # Errors
    /// `place` or `/proc` cannot be read.
    pub fn leftovers(place: &Path) -> Result<Vec<Self>> {
        let uid = rustix::process::geteuid().as_raw();
        let looks_like_one = |stat: FileStat| {
            stat.is_dir() && stat.uid == uid && stat.mode & 0o7777 == MODE.as_raw_mode() as u16
        };
        let mut found = Vec::new();
        for name in names(open_dir(CWD, place)?.as_fd())? {
            let Some(id) = name.to_bytes().strip_prefix(PREFIX.as_bytes()) else { continue };
            let path = place.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            let is_one = !id.is_empty() && mount::lstat_at(CWD, &path).is_ok_and(looks_like_one);
            // Whom it belongs to is told by the lock; what is gone by now is none.
            let taken = if is_one { Self::take(path).unwrap_or(None) } else { None };
            if let Some(taken) = taken
                && !taken.is_given()?
            {
                found.push(taken);
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Whether a process was started with it as its `TMPDIR`: what the command left in the
    /// background outlives a launcher that is killed.
    fn is_given(&self) -> Result<bool> {
        let given = [b"TMPDIR=", self.path.as_os_str().as_bytes()].concat();
        let processes = names(open_dir(CWD, Path::new("/proc"))?.as_fd())?;
        let processes = processes.iter().filter_map(|name| name.to_str().ok());
        let numbers = processes.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        // One that this user may not look into is no command of his sandboxes; of their background
        // processes it can be one that makes itself unreadable, such as an ssh-agent.
        let environments =
            numbers.filter_map(|pid| std::fs::read(format!("/proc/{pid}/environ")).ok());
        Ok(environments.into_iter().any(|it| it.split(|byte| *byte == 0).any(|it| it == given)))
    }

    /// Removes it and all below it, whatever permissions the command gave, and however deep it
    /// went: directories move to the top before what holds them is removed. No symlink is
    /// followed, whoever changes something there meanwhile.
    ///
    /// # Errors
    /// As `unlink(2)`; then it is left over.
    pub fn remove(self) -> Result<()> {
        let mut number = 0;
        loop {
            rustix::fs::fchmod(&self.dir, MODE)?;
            let names = names(self.dir.as_fd())?;
            if names.is_empty() {
                return rustix::fs::rmdir(&self.path);
            }
            for name in names {
                if !is_unlinked(self.dir.as_fd(), &name)? {
                    let below = enter(self.dir.as_fd(), &name)?;
                    empty(below.as_fd(), self.dir.as_fd(), &mut number)?;
                    rustix::fs::unlinkat(&self.dir, &*name, AtFlags::REMOVEDIR)?;
                }
            }
        }
    }
}

/// Removes the files in a directory, and moves the directories to `top`.
fn empty(dir: BorrowedFd<'_>, top: BorrowedFd<'_>, number: &mut u64) -> Result<()> {
    for name in names(dir)? {
        if is_unlinked(dir, &name)? {
            continue;
        }
        // To move a directory is to write to it.
        drop(enter(dir, &name)?);
        loop {
            *number += 1;
            match rustix::fs::renameat(dir, &*name, top, format!("{number}")) {
                Err(Errno::NOTEMPTY | Errno::NOTDIR | Errno::EXIST) => {}
                moved => break moved?,
            }
        }
    }
    Ok(())
}

/// Removes a file; whether it was one, and no directory.
fn is_unlinked(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Opens a directory, giving its owner all permissions first.
fn enter(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    // The way to change what a descriptor of this kind is of (open(2), `O_PATH`).
    rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), OPEN)?;
    open_dir(found.as_fd(), Path::new("."))
}

fn open_dir(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, path, flags, Mode::empty())
}

fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicU32, Ordering};

    fn make(place: &Path) -> Scratch {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let id = || format!("{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        Scratch::make(place, id).unwrap()
    }

    #[test]
    fn whatever_was_made_is_removed() {
        let scratch = make(&std::env::temp_dir());
        let top = scratch.path().to_owned();
        let make = |path: &str, mode: u32| {
            std::fs::create_dir(top.join(path)).unwrap();
            std::fs::write(top.join(path).join("file"), "").unwrap();
            std::fs::set_permissions(top.join(path), Permissions::from_mode(mode)).unwrap();
        };
        let dirs = ["1", "2", "2/1", "2/1/1", "a", "a/b"];
        dirs.iter().for_each(|path| make(path, 0o700));
        symlink("/etc", top.join("a/b/link")).unwrap();
        for path in dirs.iter().rev() {
            std::fs::set_permissions(top.join(path), Permissions::from_mode(0o000)).unwrap();
        }
        scratch.remove().unwrap();
        assert!(!top.exists() && Path::new("/etc").exists());
    }

    #[test]
    fn no_depth_is_too_deep() {
        let scratch = make(&std::env::temp_dir());
        let mut at = open_dir(CWD, scratch.path()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deeper", Mode::RWXU).unwrap();
            at = open_dir(at.as_fd(), Path::new("deeper")).unwrap();
        }
        let top = scratch.path().to_owned();
        scratch.remove().unwrap();
        assert!(!top.exists());
    }

    /// Left over is what this made, and nothing else that has such a name.
    #[test]
    fn what_is_not_known_is_not_left_over() {
        let outer = make(&std::env::temp_dir());
        let place = outer.path();
        let own = make(place);
        for (name, mode) in [("remount-private", 0o700), ("remount-sticky", 0o1777), ("x", 0o1700)]
        {
            std::fs::create_dir(place.join(name)).unwrap();
            std::fs::set_permissions(place.join(name), Permissions::from_mode(mode)).unwrap();
        }
        std::fs::write(place.join("remount-file"), "").unwrap();
        symlink(own.path(), place.join("remount-link")).unwrap();
        assert_eq!(Scratch::leftovers(place).unwrap().len(), 0, "one is locked");
        let path = own.path().to_owned();
        drop(own);
        let left = Scratch::leftovers(place).unwrap();
        assert_eq!(left.iter().map(Scratch::path).collect::<Vec<_>>(), [&*path]);
        assert_eq!(Scratch::leftovers(place).unwrap().len(), 0, "it is locked again");
        left.into_iter().for_each(|left| left.remove().unwrap());
        outer.remove().unwrap();
    }
}
