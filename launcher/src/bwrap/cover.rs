//! What a profile lays over a mount that has just been made.

use super::error::{OrDie, Result, bytes};
use super::request::Access;
use super::source::real_path;
use crate::spec::{Cover, Covering};
use remount_broker::sys::mount::{self, Attributes, Reach};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A mount that shows a file of the host.
#[derive(Clone, Copy)]
pub(super) struct Mount<'a> {
    pub(super) tree: BorrowedFd<'a>,
    pub(super) source: BorrowedFd<'a>,
    pub(super) access: Access,
}

/// Makes something empty, a directory or a file, for a mask: a detached mount of it.
pub(super) type Empty<'a> = dyn FnMut(bool) -> std::result::Result<OwnedFd, Errno> + 'a;

/// Lays all `covers`, parents first, over what of them a mount shows.
pub(super) fn lay(mount: Mount<'_>, covers: &[Cover], empty: &mut Empty<'_>) -> Result<()> {
    if covers.is_empty() {
        return Ok(());
    }
    let real = real_path(mount.source).or_die(|| "Can't find what the profile protects")?;
    let mut laying = Laying { mount, empty, made: Vec::new() };
    for Cover { path, kind } in covers {
        let text = || match kind {
            Covering::Mask => bytes!("Can't mask ", path),
            Covering::ReadOnly | Covering::Open | Covering::Pinned => {
                bytes!("Can't protect ", path)
            }
        };
        let laid = match path.strip_prefix(&real) {
            // All of what is shown, or part of it.
            _ if real.starts_with(path) => laying.whole(*kind),
            Ok(below) if *kind == Covering::Pinned => laying.pin(below),
            Ok(below) => laying.part(below, *kind),
            Err(_) => continue,
        };
        match laid {
            // Nothing can be made there, or what stood there has gone.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            result => result.or_die_mounting(text)?,
        }
    }
    Ok(())
}

struct Laying<'a, 'e> {
    mount: Mount<'a>,
    empty: &'a mut Empty<'e>,
    /// What is a mount of its own by now, and what holds for it.
    made: Vec<(PathBuf, Covering)>,
}

impl Laying<'_, '_> {
    /// What holds for a place so far.
    fn now(&self, at: &Path) -> Covering {
        let around = self.made.iter().filter(|(path, _)| at.starts_with(path));
        let nearest = around.max_by_key(|(path, _)| path.as_os_str().len());
        nearest.map_or(Covering::Open, |(_, kind)| *kind)
    }

    fn whole(&mut self, kind: Covering) -> std::result::Result<(), Errno> {
        match (self.now(Path::new("")), kind) {
            (Covering::Mask, _) | (_, Covering::Pinned) => return Ok(()),
            (_, Covering::Mask) => {
                let place = rustix::io::fcntl_dupfd_cloexec(self.mount.tree, 3)?;
                self.mask(&place)?;
            }
            (Covering::Open, Covering::ReadOnly) => self.set(Attributes::READ_ONLY)?,
            (Covering::ReadOnly, Covering::Open) if self.mount.access != Access::ReadOnly => {
                self.set(Attributes::READ_WRITE)?;
            }
            _ => {}
        }
        self.made.retain(|(path, _)| !path.as_os_str().is_empty());
        self.made.push((PathBuf::new(), kind));
        Ok(())
    }

    fn set(&self, attributes: Attributes) -> std::result::Result<(), Errno> {
        mount::set_attributes(self.mount.tree, attributes, Reach::Tree)
    }

    fn part(&mut self, at: &Path, kind: Covering) -> std::result::Result<(), Errno> {
        let now = self.now(at);
        let read_only = self.mount.access == Access::ReadOnly;
        if now == Covering::Mask || now == kind || (read_only && kind != Covering::Mask) {
            return Ok(());
        }
        let place = mount::open_exact_or_link(self.mount.tree, at)?;
        match kind {
            Covering::Mask => self.mask(&place)?,
            Covering::ReadOnly => {
                self.pin_above(at)?;
                // A pin may be the mount that it is on now.
                let place = mount::open_exact_or_link(self.mount.tree, at)?;
                let cover = mount::clone_tree(place.as_fd())?;
                mount::set_attributes(cover.as_fd(), Attributes::READ_ONLY, Reach::Tree)?;
                mount::attach(cover.as_fd(), place.as_fd())?;
            }
            // As the host has it, so that what is read-only there stays so.
            Covering::Open | Covering::Pinned => {
                let from = mount::open_exact(self.mount.source, at)?;
                let open = mount::clone_tree(from.as_fd())?;
                let mut flags = libc::MOUNT_ATTR_NOSUID;
                if self.mount.access != Access::Devices {
                    flags |= libc::MOUNT_ATTR_NODEV;
                }
                let attributes = Attributes::default().and_set(flags);
                mount::set_attributes(open.as_fd(), attributes, Reach::Tree)?;
                mount::attach(open.as_fd(), place.as_fd())?;
            }
        }
        self.made.push((at.to_owned(), kind));
        Ok(())
    }

    fn pin(&mut self, at: &Path) -> std::result::Result<(), Errno> {
        match self.mount.access {
            Access::ReadOnly => Ok(()),
            Access::Write | Access::Devices => self.pin_above(&at.join("name")),
        }
    }

    /// Makes each directory above a place a mount of its own: `rename(2)` refuses a mountpoint,
    /// but not its parent. Within what is read-only nothing is renamed.
    fn pin_above(&mut self, at: &Path) -> std::result::Result<(), Errno> {
        let above: Vec<_> =
            at.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).collect();
        for dir in above.into_iter().rev() {
            let is_made = self.made.iter().any(|(path, _)| path == dir);
            if is_made || self.now(dir) == Covering::ReadOnly {
                continue;
            }
            let place = mount::open_exact(self.mount.tree, dir)?;
            let pin = mount::clone_tree(place.as_fd())?;
            mount::attach(pin.as_fd(), place.as_fd())?;
            self.made.push((dir.to_owned(), Covering::Open));
        }
        Ok(())
    }

    fn mask(&mut self, place: &OwnedFd) -> std::result::Result<(), Errno> {
        let is_dir = mount::stat(place.as_fd())?.is_dir();
        mount::attach((self.empty)(is_dir)?.as_fd(), place.as_fd())
    }
}
