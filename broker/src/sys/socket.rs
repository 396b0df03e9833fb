//! Unix sockets: who is at the other end.

use super::mount::last_errno;
use rustix::io::{Errno, Result};
use rustix::process::Pid;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A peer as the kernel names it: never what the peer says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process id in the caller's PID namespace; `None` if it is not visible there.
    pub pid: Option<Pid>,
    /// Its effective user id when it connected, in the caller's user namespace.
    pub uid: u32,
    /// Its effective group id, likewise.
    pub gid: u32,
}

/// Who made the other end of the connected socket `fd` (`SO_PEERCRED`). On a
/// socketpair that is the pair's creator.
///
/// # Errors
/// As `getsockopt(2)`.
pub fn peer(fd: BorrowedFd<'_>) -> Result<Peer> {
    let cred = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::PeerCredentials)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    Ok(Peer { pid: Pid::from_raw(cred.pid()), uid: cred.uid(), gid: cred.gid() })
}

/// A pidfd of the process that made the other end of `fd` (`SO_PEERPIDFD`, Linux 6.5).
///
/// # Errors
/// `ENOPROTOOPT` on an older kernel; `ESRCH` or `EINVAL` when the peer is gone.
pub fn peer_pidfd(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77; // include/uapi/asm-generic/socket.h
    let mut raw: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `raw` and `len` outlive the call, and `len` is the true size of `raw`,
    // which bounds what the kernel writes.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut raw).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(last_errno());
    }
    // SAFETY: on success the kernel installed a new descriptor in this process and
    // wrote its number to `raw`; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
