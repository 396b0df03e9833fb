//! Whether a look at the mounts can tell anything new.
//!
//! A look asks the kernel about each mount. Between two looks a mount leaves its place only
//! by a rename or removal on the host, of which inotify tells before that call returns (the
//! directories between a target and what lies in it are kept too, so the parents of all of
//! them are watched), or with all of a target, which each change of that target finds out
//! by itself. Where the filesystem is another machine's or process's, nobody tells: there,
//! and while something is lost, every request is a reason to look.

use super::Healer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::StatFs;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// A change of the broker's own is in the mount table too, and could hide another one.
pub(super) const SOON: Duration = Duration::from_millis(10);

/// Filesystems whose names change by calls to this kernel only, by `f_type`
/// (include/uapi/linux/magic.h and the filesystems' own).
const LOCAL: [u32; 11] = [
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0x0000_4d44, // vfat
    0x2011_bab0, // exfat
];

/// Whether a directory is on one of them.
pub(super) fn is_local_at(directory: &Path) -> bool {
    is_one_of_them(rustix::fs::statfs(directory))
}

/// The same of one that is open.
pub(super) fn is_local(directory: BorrowedFd<'_>) -> bool {
    is_one_of_them(rustix::fs::fstatfs(directory))
}

fn is_one_of_them(filesystem: Result<StatFs, Errno>) -> bool {
    let kind = filesystem.map(|it| u32::try_from(it.f_type));
    matches!(kind, Ok(Ok(kind)) if LOCAL.contains(&kind))
}

impl Healer {
    /// Whether something may have changed since the last look.
    pub(crate) fn has_news(&mut self) -> bool {
        if !self.hears_all() {
            return true;
        }
        let (table, names) = self.happened();
        table || (names && self.heard().is_some())
    }

    /// Takes note that the broker itself has changed mounts: there is a look in a moment
    /// instead of at once.
    pub(crate) fn made_changes(&mut self, now: Instant) {
        if self.hears_all() && self.happened().0 {
            self.due = self.due.min(now + SOON);
        }
    }

    fn hears_all(&self) -> bool {
        self.watches.tell_all()
            && self.slots.iter().all(|slot| slot.lost_since.is_none())
            && self.closed.is_empty()
    }

    /// Whether the mount table, and whether names have changed. The first is told once.
    fn happened(&self) -> (bool, bool) {
        let (table, names) = self.sources();
        let names = names.unwrap_or(table);
        let mut fds = [
            PollFd::from_borrowed_fd(table, PollFlags::PRI),
            PollFd::from_borrowed_fd(names, PollFlags::IN),
        ];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, Some(&now)) {
            Ok(0) => (false, false),
            Ok(_) => (!fds[0].revents().is_empty(), !fds[1].revents().is_empty()),
            // Then it may be.
            Err(_) => (true, true),
        }
    }
}
