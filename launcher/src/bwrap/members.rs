//! Which mounts a target has, and what nobody in a sandbox with targets may see.

use super::error::{Die, OrDie, Result, bytes};
use super::place::Base;
use super::source::real_path;
use super::toggle::{self, Targets};
use crate::host::MountTable;
use crate::mount::{MemberHandle, files};
use remount_broker::sys::mount;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Mounts that follow a target's mode, as far as they can be seen in the end.
#[derive(Debug, Default)]
pub(super) struct Members(Vec<Member>);

#[derive(Debug)]
struct Member {
    target: usize,
    fd: OwnedFd,
    /// What of the host it shows.
    source: PathBuf,
}

impl Members {
    /// Notes what a bind has just mounted: `tree`, which shows `source` of the host, and
    /// the host's mounts below it. What is read-only by now is so on the host.
    pub(super) fn note(
        &mut self,
        target: usize,
        tree: BorrowedFd<'_>,
        source: &Path,
    ) -> std::result::Result<(), Errno> {
        let table = std::fs::read("/proc/self/mountinfo")
            .map_err(|error| Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))?;
        let own = mount::mount_id(tree)?;
        let below = MountTable::parse(&table).descendants(own);
        for (id, below) in [(own, PathBuf::new())].into_iter().chain(below) {
            let fd = match below.as_os_str().is_empty() {
                // It may be a file.
                true => rustix::io::fcntl_dupfd_cloexec(tree, 3)?,
                false => mount::open_exact(tree, &below)?,
            };
            // Another mount may cover it: nobody reaches it then.
            if mount::mount_id(fd.as_fd())? == id && !mount::is_read_only(&fd)? {
                let source = source.join(&below).components().collect();
                self.0.push(Member { target, fd, source });
            }
        }
        Ok(())
    }

    /// Those that are seen where they were mounted, now that the tree is complete.
    pub(super) fn finish(self, base: &Base, targets: &Targets) -> Result<Vec<MemberHandle>> {
        let text = || "Can't find what was mounted";
        let root = real_path(base.0.as_fd()).or_die(text)?.join("newroot");
        let mut members = Vec::new();
        for Member { target, fd, source } in self.0 {
            let at = real_path(fd.as_fd()).or_die(text)?;
            let Ok(below) = at.strip_prefix(&root) else { continue };
            let seen = base.find(&[b"newroot/", below.as_os_str().as_bytes()].concat());
            let id = |fd: &OwnedFd| mount::mount_id(fd.as_fd());
            if seen.and_then(|seen| id(&seen)) == id(&fd) {
                let path = Path::new("/").join(below);
                members.push(MemberHandle { target, path, source: Some(source), fd });
            }
        }
        for (index, plan) in targets.plans.iter().take(targets.named).enumerate() {
            if !members.iter().any(|member| member.target == index) {
                return Err(toggle::nothing_writable(plan));
            }
        }
        Ok(members)
    }
}

/// Covers what leads to brokers and says what is held, where a bind of `source` shows it:
/// inside, it would count as outside.
pub(super) fn hide(tree: BorrowedFd<'_>, source: &Path, hidden: &[PathBuf]) -> Result<()> {
    for dir in hidden {
        if source.starts_with(dir) {
            let text = bytes!("Can't show ", source, ": from there, targets are controlled");
            return Err(Die::new(text));
        }
        let Ok(below) = dir.strip_prefix(source) else { continue };
        let cover = |place: OwnedFd| {
            let options = [("source", "tmpfs"), ("mode", "555")];
            let flags = files::NO_SUID_DEV | MountAttrFlags::MOUNT_ATTR_RDONLY;
            let empty = files::filesystem("tmpfs", &options, &[], flags)?;
            mount::attach(empty.as_fd(), place.as_fd())
        };
        match mount::open_exact(tree, below) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            result => result.and_then(cover).or_die_mounting(|| bytes!("Can't hide ", dir))?,
        }
    }
    Ok(())
}
