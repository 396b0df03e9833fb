//! Processes: forking, descriptors across an exec.

use super::mount::last_errno;
use rustix::io::{Errno, Result};
use rustix::process::Pid;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

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
    require_one_thread()?;
    // SAFETY: the only obligation is that the child does nothing that a lock or
    // state held by another thread could break; the check above showed that there
    // is no other thread.
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or(Errno::CHILD),
    }
}

/// The flags of `clone(2)` that make a namespace.
pub const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Makes a copy of this process in new namespaces ([`NEW_NAMESPACES`] and no other flag).
/// In a new PID namespace the child is its first process.
///
/// # Errors
/// As `clone(2)`; `EDEADLK` as [`fork`]; `EINVAL` for any other flag.
pub fn fork_into(namespaces: u64) -> Result<Fork> {
    if namespaces & !NEW_NAMESPACES != 0 {
        return Err(Errno::INVAL);
    }
    require_one_thread()?;
    let flags = namespaces | libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the child has its own copy of this memory, and with a
    // null stack it goes on where it is, as after fork; the other arguments are unused
    // without the flags that the check above excludes. There is no other thread whose
    // locks or state the child could miss. What the C library's own fork does besides,
    // running handlers, is of no use here: this program registers none.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(pid) {
        Ok(-1) | Err(_) => Err(last_errno()),
        Ok(0) => Ok(Fork::Child),
        Ok(pid) => Pid::from_raw(pid).map(Fork::Parent).ok_or(Errno::CHILD),
    }
}

/// Runs `child` in a new process that borrows this one's memory, and waits until the
/// child has executed a program or ended (`CLONE_VM | CLONE_VFORK`, as `posix_spawn(3)`
/// does it): nothing is copied, and nothing is paged in twice. Descriptors, credentials,
/// signal mask, working directory and limits are the child's own.
///
/// # Errors
/// As `clone(2)`; `EDEADLK` as [`fork`].
pub fn spawn_borrowing(child: &mut dyn FnMut() -> i32) -> Result<Pid> {
    const STACK: usize = 256 << 10;
    extern "C" fn enter(child: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `child` is the pointer made below, to a reference that lives until
        // clone returns in the parent, which is after this process's exec or end.
        let child = unsafe { &mut *child.cast::<&mut dyn FnMut() -> i32>() };
        child()
    }
    require_one_thread()?;
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let mut child = child;
    let argument: *mut &mut dyn FnMut() -> i32 = &raw mut child;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child runs on `stack`, from its end downwards, 16-byte aligned as the
    // ABI demands, and both it and what `argument` points to outlive the child's use of
    // them: with CLONE_VFORK this thread, the only one, sleeps until the child has
    // executed or ended. For the same reason the memory they share is never used by
    // both at once.
    let pid =
        unsafe { libc::clone(enter, stack.as_mut_ptr_range().end.cast(), flags, argument.cast()) };
    if pid < 0 {
        return Err(last_errno());
    }
    Pid::from_raw(pid).ok_or(Errno::CHILD)
}

fn require_one_thread() -> Result<()> {
    if thread_count()? == 1 { Ok(()) } else { Err(Errno::DEADLK) }
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

/// As [`adopt`], for a number that the command line names: a standard descriptor too.
/// The caller must keep a number from being adopted twice.
///
/// # Errors
/// `EBADF` if `number` is not an open descriptor, or was none when this process started.
pub fn adopt_named(number: RawFd) -> Result<OwnedFd> {
    if super::start::was_closed(number) {
        return Err(Errno::BADF);
    }
    // SAFETY: fcntl reads no memory; it fails with EBADF on a closed descriptor.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(last_errno());
    }
    // SAFETY: the descriptor is open (checked above) and was inherited across exec: the
    // caller names numbers from its command line before it has opened anything itself,
    // and each once. The standard library's handles of 0, 1 and 2 own nothing.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor above the standard three but those of `keep`, for a process
/// that from here on uses nothing else: what others hand from one to another must not
/// be held open by a process that only waits.
///
/// # Errors
/// As `close_range(2)`.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().filter(|fd| *fd >= 3).chain([u32::MAX]) {
        if fd > first {
            let last = if fd == u32::MAX { fd } else { fd - 1 };
            // SAFETY: the call touches no memory. The process ends with `exit`, which
            // drops nothing, and uses no descriptor that is not in `keep`: no owner of
            // what is closed acts again.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            if result != 0 {
                return Err(last_errno());
            }
        }
        first = fd.saturating_add(1);
    }
    Ok(())
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

/// Closes every descriptor above the standard three: nobody in a sandbox needs what
/// whoever started this program left open, and a pipe's reader would wait for its end.
/// To be called first thing in `main`.
///
/// # Errors
/// As `close_range(2)`.
pub fn close_inherited() -> Result<()> {
    // SAFETY: the call touches no memory, and `main` calls this before the program has
    // opened anything of its own: no value owns what is closed.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Locks a whole file for reading, as long as this process has it open (fcntl(2)).
///
/// # Errors
/// `EAGAIN` or `EACCES` if another process has it locked for writing.
pub fn lock_shared(file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: `flock` is plain data for which all zeroes is a valid value: the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_RDLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open for the whole call, which only reads `lock`.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) };
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

/// The user namespace that owns the one `namespace` is open on (`NS_GET_USERNS`,
/// ioctl_ns(2)).
///
/// # Errors
/// `EPERM` if that is none that this process can see.
pub fn owner_of(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    /// `_IO(NSIO, 0x1)`, include/uapi/linux/nsfs.h.
    const NS_GET_USERNS: u32 = 0xb701;
    // SAFETY: the request takes no argument and touches no memory of this process.
    let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS as _) };
    if owner < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel just made this descriptor; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(owner) })
}

/// `_IO(NSIO, 0x2)`, include/uapi/linux/nsfs.h.
pub const NS_GET_PARENT: u32 = 0xb702;

/// Ends this process at once: nothing of the program it was forked from is flushed,
/// closed or run at exit.
pub fn exit(code: i32) -> ! {
    // SAFETY: the call touches no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// The processor time that this thread has had (`CLOCK_THREAD_CPUTIME_ID`): what others
/// took of the processor does not count.
#[must_use]
pub fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time` only, which outlives it. It cannot fail for this
    // clock; if it did, the time would be zero.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let seconds = Duration::from_secs(time.tv_sec.try_into().unwrap_or(0));
    seconds + Duration::from_nanos(time.tv_nsec.try_into().unwrap_or(0))
}

/// Asks to be run in short turns (100 us), each the sooner for that, where the kernel knows
/// of it (Linux 6.12, `sched_setattr(2)`): for a process that has little to do, but at once.
///
/// # Errors
/// As `sched_setattr(2)`.
pub fn ask_for_short_turns() -> Result<()> {
    // SAFETY: `sched_attr` is plain data for which all zeroes is a valid value: the ordinary
    // policy, at the nice value 0.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0);
    attributes.sched_runtime = 100_000;
    attributes.sched_nice = rustix::process::nice(0)?;
    // SAFETY: the structure outlives the call, which reads as much of it as it says it has.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Sends a signal, by number, so that real-time signals can be sent too.
///
/// # Errors
/// As `pidfd_send_signal(2)`: `ESRCH` if the process has ended.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for the whole call, which reads no memory, there
    // being no siginfo.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
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
