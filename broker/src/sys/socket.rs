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

/// The supplementary groups that the peer had when it connected (`SO_PEERGROUPS`).
///
/// # Errors
/// As `getsockopt(2)`; `ERANGE` for more than 65,536, which no process has.
pub fn peer_groups(fd: BorrowedFd<'_>) -> Result<Vec<u32>> {
    const SO_PEERGROUPS: libc::c_int = 59; // include/uapi/asm-generic/socket.h
    let mut groups = vec![0_u32; 32];
    loop {
        let mut len = size_of_val(&groups[..]) as libc::socklen_t;
        // SAFETY: the buffer and `len` outlive the call, and `len` is the buffer's true
        // size in bytes, which bounds what the kernel writes.
        let result = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            groups.truncate(len as usize / size_of::<u32>());
            return Ok(groups);
        }
        match last_errno() {
            Errno::RANGE if groups.len() < 1 << 16 => groups.resize(1 << 16, 0),
            errno => return Err(errno),
        }
    }
}
