//! The loopback interface of a new network namespace.

use super::mount::last_errno;
use rustix::io::Result;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::AsRawFd;

/// Brings up the loopback interface of this process's network namespace
/// (`SIOCSIFFLAGS`, netdevice(7)); the kernel gives it its addresses.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` in the owner of the network namespace.
pub fn loopback_up() -> Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` outlives the call, is an `ifreq` as SIOCSIFFLAGS takes it, and
    // its name ends with a NUL (the rest of the array is zero).
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
