//! Single files, as they are on the host now.

use super::tries::{Tried, insist};
use super::{Healer, Kind};
use crate::name::Mode;
use crate::sandbox::Registry;
use crate::sys::mount::{self, FileStat};
use rustix::fs::CWD;
use rustix::fs::inotify::{self, WatchFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where on the host a file is that is shown inside.
#[derive(Debug)]
pub struct FileSource {
    /// Where it is shown: absolute, without symlinks.
    pub path: PathBuf,
    /// The directory that it is in, opened as a location on a mount of the sandbox, which may
    /// be one that nothing inside leads to.
    pub dir: OwnedFd,
    /// Its name there.
    pub name: OsString,
    /// How it is shown, if it is no target: never writable where the host's is not.
    pub mode: Mode,
}

impl FileSource {
    /// Watches its directory. No path leads there, so this process goes there for a moment.
    pub(super) fn watch(&self, inotify: &OwnedFd, flags: WatchFlags) -> Result<i32, Errno> {
        let root = mount::open_exact(CWD, c"/")?;
        rustix::process::fchdir(&self.dir)?;
        let watched = inotify::add_watch(inotify, c".", flags);
        rustix::process::fchdir(root)?;
        watched
    }
}

impl Healer {
    /// Shows the file that is at the host's path now. Whether it is another one.
    pub(super) fn follow(&mut self, index: usize, registry: &mut Registry) -> Result<bool, Errno> {
        insist(|| {
            let slot = &self.slots[index];
            let Some(source) = &slot.source else { return Ok(Tried::Is(false)) };
            let shown = mount::lstat_at(CWD, &slot.kept.path).ok().filter(|it| it.is_mount_root);
            let own = shown.filter(|shown| slot.mount.is_none_or(|own| own == shown.mount_id));
            let file = match mount::open_exact(source.dir.as_fd(), &source.name) {
                // Removed: what was there last is shown until there is another.
                Err(Errno::NOENT) if own.is_some() => return Ok(Tried::Is(false)),
                result => result?,
            };
            if let Some(own) = own.filter(|own| is_file(file.as_fd(), own)) {
                self.slots[index].mount = Some(own.mount_id);
                return Ok(Tried::Is(false));
            }
            Ok(match self.show(index, file.as_fd(), own.is_some(), registry) {
                Ok(()) => Tried::Is(true),
                failed => Tried::Mounted(failed),
            })
        })
    }

    /// Mounts `file` in its place, instead of the one that is there.
    fn show(
        &mut self,
        index: usize,
        file: BorrowedFd<'_>,
        is_instead: bool,
        registry: &mut Registry,
    ) -> Result<(), Errno> {
        if mount::stat(file)?.is_dir() {
            return Err(Errno::ISDIR);
        }
        self.retire(index, registry)?;
        let mode = match (&self.slots[index].kept.kind, &self.slots[index].source) {
            (Kind::Followed(Some(target)), _) if self.is_member_now(index, registry) => {
                registry.wanted(*target)
            }
            (Kind::Followed(None), Some(source)) => source.mode,
            _ => Mode::Ro,
        };
        let tree = self.detached(file, mode)?;
        let path = &self.slots[index].kept.path;
        if is_instead {
            replace(tree.as_fd(), path)?;
        } else {
            let at = mount::open_exact_or_link(CWD, path)?;
            mount::attach(tree.as_fd(), at.as_fd())?;
        }
        self.slots[index].mount = Some(mount::mount_id(tree.as_fd())?);
        if let Kind::Followed(Some(target)) = self.slots[index].kept.kind
            && self.is_member_now(index, registry)
        {
            registry.replace_member(target, &self.slots[index].kept.path, tree);
        }
        Ok(())
    }
}

fn is_file(file: BorrowedFd<'_>, stat: &FileStat) -> bool {
    mount::stat(file).is_ok_and(|file| file.id == stat.id)
}

/// Puts `tree` in the place of the mount at `path`: first below it, so that there is no
/// moment without; before Linux 6.5, which cannot do that, afterwards.
fn replace(tree: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
    let at = mount::open_exact(CWD, path)?;
    match mount::attach_beneath(tree, at.as_fd()) {
        Err(Errno::INVAL) => {
            mount::detach(path)?;
            mount::attach(tree, mount::open_exact(CWD, path)?.as_fd())
        }
        Ok(()) => mount::detach(path),
        result => result,
    }
}
