//! Processes: forking, descriptors across an exec.

use super::mount::last_errno;
use rustix::io::{Errno, Result};
use rustix::process::Pid;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of a [`fork`] this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The parent, with the child's process id.
    Parent(Pid),
    /// The child.
    Child,
}

/// Makes a copy of this process.
///
/// # Errors
/// As `fork(2)`. `EDEADLK` if this process has more than one thread: the child of
/// such a fork could not even allocate.
pub fn fork() -> Result<Fork> {
    if thread_count()? != 1 {
        return Err(Errno::DEADLK);
    }
    // SAFETY: the only obligation is that the child does nothing that a lock or
    // state held by another thread could break; the check above showed that there
    // is no other thread.
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or(Errno::CHILD),
    }
}

/// The number of threads of this process: the link count of its task directory
/// less the two that every directory has (`proc_task_getattr`, fs/proc/base.c).
/// A process that cannot see itself in `/proc` is one that this project forked.
#[allow(clippy::unnecessary_cast)] // st_nlink has another type on aarch64
fn thread_count() -> Result<u64> {
    match rustix::fs::stat(c"/proc/self/task") {
        Ok(stat) => Ok((stat.st_nlink as u64).saturating_sub(2)),
        Err(Errno::NOENT | Errno::ACCESS) => Ok(1),
        Err(errno) => Err(errno),
    }
}

/// Takes ownership of a descriptor that this process inherited by number.
///
/// # Errors
/// `EBADF` if `number` is not an open descriptor or is one of the standard three.
pub fn adopt(number: RawFd) -> Result<OwnedFd> {
    if number <= 2 {
        return Err(Errno::BADF);
    }
    // SAFETY: fcntl reads no memory; it fails with EBADF on a closed descriptor.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(last_errno());
    }
    // SAFETY: the descriptor is open (checked above), and it was inherited across
    // exec: nothing in this program made it, so nothing else owns it. Callers adopt
    // a number once (`ctl` and `launcher` do so in `main`, before anything else).
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A descriptor of our own for what the descriptor numbered `number` refers to,
/// close-on-exec. Unlike [`adopt`] it takes nothing away from whoever owns the number,
/// so that a library may call it; whether it refers to what the caller hopes for is to
/// be checked on the result.
///
/// # Errors
/// `EBADF` if `number` is not an open descriptor.
pub fn duplicate(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC reads and writes no memory and leaves `number` as it is;
    // it fails with EBADF if that is not open.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel just made this descriptor; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Marks every descriptor from `first` on as close-on-exec, so that the next program
/// inherits none of them.
///
/// # Errors
/// As `close_range(2)`.
pub fn mark_close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: the call touches no memory, and it closes nothing now: owners stay valid.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The PID namespace in which the one that `namespace` is open on lies
/// (`NS_GET_PARENT`, ioctl_ns(2)).
///
/// # Errors
/// `EPERM` if that is none that this process can see.
pub fn parent_pid_namespace(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: the request takes no argument and touches no memory of this process.
    let parent = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT as _) };
    if parent < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel just made this descriptor; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(parent) })
}

/// `_IO(NSIO, 0x2)`, include/uapi/linux/nsfs.h.
pub const NS_GET_PARENT: u32 = 0xb702;

/// Ends this process at once: nothing of the program it was forked from is flushed,
/// closed or run at exit.
pub fn exit(code: i32) -> ! {
    // SAFETY: the call touches no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// From now on, what the terminal sends (SIGINT, SIGQUIT) is for the program that this
/// process runs: one that is waiting for it must not end first. Blocked rather than
/// ignored: an ignored signal would stay so across exec, the mask is reset by whoever
/// starts a program with the standard library.
///
/// # Errors
/// As `sigprocmask(2)`.
pub fn leave_terminal_signals_to_the_command() -> Result<()> {
    use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
    let signals: SigSet = [Signal::SIGINT, Signal::SIGQUIT].into_iter().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// Dies of SIGPIPE again, which the Rust runtime ignores, and which exec would pass on.
///
/// # Errors
/// As `sigaction(2)`.
pub fn default_sigpipe() -> Result<()> {
    // SAFETY: SIG_DFL is no handler: no code of ours can run because of it.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if before == libc::SIG_ERR { Err(last_errno()) } else { Ok(()) }
}
