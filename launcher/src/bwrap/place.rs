//! Finding and making places in the sandbox's tree while it is built.
//!
//! As in bubblewrap, the tree grows below `/newroot` of a file system in memory, and a
//! path of the command line is looked up there with its symlinks followed; an absolute
//! symlink begins at that file system's root, in which there is nothing of the host.

use remount_broker::sys::mount;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// The file system in memory that holds the growing tree.
#[derive(Debug)]
pub(super) struct Base(pub(super) OwnedFd);

/// Where something is to be mounted, or why it cannot be found.
pub(super) type Place = Result<OwnedFd, Errno>;

/// A path of the command line below `/newroot`, from the base.
pub(super) fn below_new_root(path: &OsStr) -> Vec<u8> {
    [b"newroot/", without_slashes(path.as_bytes())].concat()
}

fn without_slashes(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|byte| *byte != b'/');
    start.map_or(&[], |start| &path[start..])
}

/// A path's last name and what is before it. A path that ends with a slash has no last
/// name: all of it is before.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let cut = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    path.split_at(cut)
}

impl Base {
    /// Opens a path as `open(2)` does, in here.
    pub(super) fn open(&self, path: &[u8], flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        // The kernel answers EAGAIN when a rename elsewhere raced with the lookup.
        for _ in 0..64 {
            match rustix::fs::openat2(&self.0, path, flags, mode, ResolveFlags::IN_ROOT) {
                Err(Errno::AGAIN) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The place at a path.
    pub(super) fn find(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH, 0)
    }

    /// The directory that a path's last name is in, and that name; `EEXIST` for a path
    /// without one.
    pub(super) fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Errno> {
        let (before, name) = split(path);
        if name.is_empty() {
            return Err(Errno::EXIST);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let before = if before.is_empty() { b"." } else { before };
        Ok((self.open(before, flags, 0)?, name))
    }

    /// The directory at a path, made if it is missing.
    ///
    /// # Errors
    /// `ENOTDIR` if something else is there; as `mkdir(2)`. The inner one: what was made
    /// cannot be found, since a symlink is there that leads nowhere.
    pub(super) fn directory(&self, path: &[u8], mode: u32) -> Result<Place, Errno> {
        if let Ok(place) = self.find(path) {
            return match mount::stat(place.as_fd())?.is_dir() {
                true => Ok(Ok(place)),
                false => Err(Errno::NOTDIR),
            };
        }
        self.make_directory(path, mode)?;
        Ok(self.find(path))
    }

    /// Makes a directory. A symlink in its place is no error here, as it is none to
    /// bubblewrap: whatever comes next fails on it, or does not.
    fn make_directory(&self, path: &[u8], mode: u32) -> Result<(), Errno> {
        let made = self.parent(path).and_then(|(parent, name)| {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode))
        });
        match made {
            Err(Errno::EXIST) => Ok(()),
            result => result,
        }
    }

    /// The place for a file at a path: what is there, or an empty file.
    pub(super) fn file(&self, path: &[u8], mode: u32) -> Result<Place, Errno> {
        if let Ok(place) = self.find(path)
            && !mount::stat(place.as_fd())?.is_dir()
        {
            return Ok(Ok(place));
        }
        self.create(path, mode)?;
        Ok(self.find(path))
    }

    /// A file of length 0, open for writing (creat(2)).
    pub(super) fn create(&self, path: &[u8], mode: u32) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, mode)
    }

    /// Makes the directories on the way to a path, those that are missing.
    pub(super) fn make_parents(&self, path: &[u8], mode: u32) -> Result<(), Errno> {
        let (before, _) = split(path);
        if self.open(before, OFlags::PATH | OFlags::DIRECTORY, 0).is_ok() {
            return Ok(());
        }
        for (end, byte) in before.iter().enumerate() {
            let is_end = *byte == b'/' && end > 0 && before[end - 1] != b'/';
            if is_end {
                self.pass(&before[..end], mode)?;
            }
        }
        Ok(())
    }

    /// One directory on the way.
    fn pass(&self, path: &[u8], mode: u32) -> Result<(), Errno> {
        match self.find(path) {
            Ok(place) if mount::stat(place.as_fd())?.is_dir() => Ok(()),
            Ok(_) => Err(Errno::NOTDIR),
            Err(_) => self.make_directory(path, mode),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_below_the_new_root() {
        for (typed, there) in [
            ("/", "newroot/"),
            ("", "newroot/"),
            ("//a//b", "newroot/a//b"),
            ("a", "newroot/a"),
            ("/a/", "newroot/a/"),
        ] {
            assert_eq!(below_new_root(typed.as_ref()), there.as_bytes());
        }
        assert_eq!(split(b"newroot/a/b"), (&b"newroot/a/"[..], &b"b"[..]));
        assert_eq!(split(b"newroot/"), (&b"newroot/"[..], &b""[..]));
    }
}
