//! Namespaces by descriptor: which one, whose, and who belongs to the group of a peer.

use super::mount::last_errno;
use rustix::io::Result;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `_IO(NSIO, 0x1)`, include/uapi/linux/nsfs.h.
const NS_GET_USERNS: u32 = 0xb701;
/// `_IO(NSIO, 0x4)`, likewise.
const NS_GET_OWNER_UID: u32 = 0xb704;

/// Which namespace of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its mount namespace.
    Mount,
    /// Its PID namespace.
    Pid,
}

impl Kind {
    /// Below a process's directory in `/proc`.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Mount => "ns/mnt",
            Self::Pid => "ns/pid",
        }
    }

    /// `PIDFD_GET_MNT_NAMESPACE`, `_IO(0xFF, 3)`, and `PIDFD_GET_PID_NAMESPACE`, `_IO(0xFF, 5)`,
    /// include/uapi/linux/pidfd.h.
    fn request(self) -> u32 {
        match self {
            Self::Mount => 0xff03,
            Self::Pid => 0xff05,
        }
    }
}

/// Opens a namespace of the process that `pidfd` is open on: of that one and no other, while it
/// lives. Tells what `/proc` tells, to whom that would.
///
/// # Errors
/// `ESRCH` if it has ended, `EACCES` if this process may not look, `ENOTTY` before Linux 6.11.
pub fn of_process(pidfd: BorrowedFd<'_>, kind: Kind) -> Result<OwnedFd> {
    // SAFETY: the request takes no argument and touches no memory of this process.
    let opened = unsafe { libc::ioctl(pidfd.as_raw_fd(), kind.request() as _, 0) };
    if opened < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel just made this descriptor; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// The user namespace that owns the namespace which `fd` is open on (`NS_GET_USERNS`,
/// ioctl_ns(2)).
///
/// # Errors
/// `EPERM` if that is neither this process's user namespace nor one below it.
pub fn owner(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: the request takes no argument and touches no memory of this process.
    let owner = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_USERNS as _) };
    if owner < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel just made this descriptor; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(owner) })
}

/// The user who made the user namespace that `fd` is open on (`NS_GET_OWNER_UID`), as
/// this process's user namespace numbers users.
///
/// # Errors
/// `EINVAL` if it is no user namespace.
pub fn owner_uid(fd: BorrowedFd<'_>) -> Result<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the kernel writes one `uid_t`, which `uid` is and which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_OWNER_UID as _, &raw mut uid) };
    if result == 0 { Ok(uid) } else { Err(last_errno()) }
}

/// From now on the calling thread reaches files with the rights of `uid` and `gid`
/// alone: what lets root pass every permission goes with it (capabilities(7)). Of what
/// else it may do nothing changes.
///
/// # Errors
/// `EPERM` if the kernel did not do it.
pub fn reach_files_as(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: neither call touches memory. They report no failure, so each is asked
    // again: it answers the id in force, and -1 as the new one changes nothing.
    let (now_uid, now_gid) = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    if (now_uid, now_gid) == (uid.cast_signed(), gid.cast_signed()) {
        Ok(())
    } else {
        Err(rustix::io::Errno::PERM)
    }
}
