//! System calls that another process looks at before they are made (`seccomp_unotify(2)`),
//! and how a process has ended that is not a child.

use super::mount::last_errno;
use super::seccomp::Instruction;
use rustix::io::{Errno, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `SECCOMP_IOCTL_NOTIF_RECV`, include/uapi/linux/seccomp.h.
pub const RECEIVE: u32 = libc::SECCOMP_IOCTL_NOTIF_RECV as u32;

/// `SECCOMP_IOCTL_NOTIF_SEND`.
pub const ANSWER: u32 = libc::SECCOMP_IOCTL_NOTIF_SEND as u32;

/// `SECCOMP_IOCTL_NOTIF_ID_VALID`.
pub const STILL_WAITS: u32 = libc::SECCOMP_IOCTL_NOTIF_ID_VALID as u32;

/// A system call that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// By which it is answered.
    pub id: u64,
    /// The thread, in the PID namespace of who receives this.
    pub thread: i32,
    /// The number of the system call.
    pub number: i32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// As [`super::seccomp::load`], with a descriptor on which calls that the program gives
/// [`crate::filter::Action::Ask`] are announced. Once it is closed they fail with `ENOSYS`.
///
/// # Errors
/// As `seccomp(2)`: `EBUSY` if a filter of this process has such a descriptor already.
pub fn load(program: &[Instruction]) -> Result<OwnedFd> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let prog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let load = |flags: libc::c_ulong| {
        // SAFETY: `prog` and the instructions it points to (`len` of them, from the slice's
        // own length) outlive the call, and the kernel only reads them.
        let fd = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const prog)
        };
        i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(last_errno)
    };
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // A signal does not take back what is being looked at (Linux 5.19).
    let fd = match load(listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::INVAL) => load(listener)?,
        result => result?,
    };
    // SAFETY: the kernel just made this descriptor; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next call that waits.
///
/// # Errors
/// As `ioctl(2)`; `ENOENT` if the thread was killed in the meantime.
pub fn receive(listener: BorrowedFd<'_>) -> Result<Notice> {
    // SAFETY: plain data for which all zeroes is a valid value, and which the kernel demands
    // to be zero.
    let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `seccomp_notif` to the pointer, which has room for one.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE as _, &raw mut notice) };
    if result != 0 {
        return Err(last_errno());
    }
    Ok(Notice {
        id: notice.id,
        thread: notice.pid.cast_signed(),
        number: notice.data.nr,
        arguments: notice.data.args,
    })
}

/// Whether the call waits still: then what was read of its thread was of that thread.
#[must_use]
pub fn waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads one number at the pointer, which `id` is.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), STILL_WAITS as _, &raw const id) };
    result == 0
}

/// Lets the call be made.
///
/// # Errors
/// As `ioctl(2)`; `ENOENT` if its thread was killed in the meantime.
pub fn proceed(listener: BorrowedFd<'_>, id: u64) -> Result<()> {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    answer(listener, libc::seccomp_notif_resp { id, val: 0, error: 0, flags })
}

/// Makes the call fail.
///
/// # Errors
/// As [`proceed`].
pub fn refuse(listener: BorrowedFd<'_>, id: u64, errno: Errno) -> Result<()> {
    let error = -errno.raw_os_error();
    answer(listener, libc::seccomp_notif_resp { id, val: 0, error, flags: 0 })
}

fn answer(listener: BorrowedFd<'_>, response: libc::seccomp_notif_resp) -> Result<()> {
    // SAFETY: the kernel reads one `seccomp_notif_resp` at the pointer.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), ANSWER as _, &raw const response) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// `struct pidfd_info` of Linux 6.15, include/uapi/linux/pidfd.h.
#[repr(C)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_GET_INFO`, `_IOWR(0xFF, 11, struct pidfd_info)`.
pub const PIDFD_GET_INFO: u32 = 0xC040_FF0B;

/// `PIDFD_INFO_EXIT`: how it has ended.
const WANT_EXIT: u64 = 1 << 3;

/// How a process ended that has been buried, as `wait(2)` encodes it; `None` if it has not,
/// or the kernel does not tell (before Linux 6.15).
#[must_use]
pub fn ended(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo { mask: WANT_EXIT, cgroup: 0, ids: [0; 11], exit_code: 0 };
    // SAFETY: the number of the request says how large the structure is (64 bytes, which
    // `PidfdInfo` has), and the kernel writes no more.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    (result == 0 && info.mask & WANT_EXIT != 0).then_some(info.exit_code)
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);
