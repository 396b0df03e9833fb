//! Targets: named mounts that can be switched.

use crate::name::{Authority, TargetName};
use crate::sys::mount;
use rustix::io::Result;
use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// A named set of mounts that has one mode.
#[derive(Debug)]
pub struct Target {
    /// The name that requests use; no two targets of a sandbox share one.
    pub name: TargetName,
    /// Where it is, in the sandbox: absolute, for people.
    pub path: PathBuf,
    /// Who may make it writable.
    pub authority: Authority,
    /// The longest that it stays writable at a time; none for no limit.
    pub max_lease: Option<Duration>,
    /// The mounts that are switched, in this order, all or none. At least one, and none
    /// that was read-only for another reason than the target's mode when the sandbox was
    /// made: every member becomes writable with the target.
    pub members: Vec<Member>,
}

/// One mount of a target.
#[derive(Debug)]
pub struct Member {
    fd: OwnedFd,
    /// Where the mount was attached, absolute and without symlinks: another mount found
    /// there later means that the target is stale.
    pub path: PathBuf,
    /// What of the host it shows, without symlinks: what a person holds read-only is not
    /// made writable. None if it is of no interest there.
    pub source: Option<PathBuf>,
    id: OnceCell<u64>,
}

impl Member {
    /// The mount whose root `fd` is open on (`O_PATH`), attached at `path`. The descriptor
    /// pins the mount, so that what is switched is this mount for ever, whatever becomes of
    /// the path.
    #[must_use]
    pub fn new(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path, source: None, id: OnceCell::new() }
    }

    /// The same, showing this file of the host, a path without symlinks.
    #[must_use]
    pub fn showing(self, source: Option<PathBuf>) -> Self {
        Self { source, ..self }
    }

    /// The mount's root.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Which mount it is (`stx_mnt_id`). Asked for once: a mount keeps its id for as long
    /// as it lives, and the descriptor keeps it alive.
    ///
    /// # Errors
    /// As `statx(2)`.
    pub fn id(&self) -> Result<u64> {
        if let Some(&id) = self.id.get() {
            return Ok(id);
        }
        let id = mount::mount_id(self.fd())?;
        Ok(*self.id.get_or_init(|| id))
    }
}
