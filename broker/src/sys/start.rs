//! What this process was given by its caller, before the Rust runtime changed it: it opens
//! `/dev/null` in the place of a standard descriptor that is closed, and ignores SIGPIPE.
//! What no program of ours could work with is put right: SIGCHLD that is ignored.
//! Who executes another program in the caller's name gives it what the caller gave.

use super::mount::last_errno;
use rustix::fs::Mode;
use rustix::io::Result;
use rustix::process::umask;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// A bit for each standard descriptor that was closed, and [`SIGPIPE_IGNORED`].
static GIVEN: AtomicU8 = AtomicU8::new(0);
const SIGPIPE_IGNORED: u8 = 8;

/// Run by the C library before `main`, and so before the runtime starts.
extern "C" fn look() {
    let mut given = 0;
    for number in 0..3 {
        // SAFETY: F_GETFD reads and writes no memory.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            given |= 1 << number;
        }
    }
    // SAFETY: all zeroes is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `action` outlives the call, which only writes to it: the action stays.
    let result = unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) };
    if result == 0 && action.sa_sigaction == libc::SIG_IGN {
        given |= SIGPIPE_IGNORED;
    }
    GIVEN.store(given, Ordering::Relaxed);
    // SAFETY: as above.
    let result = unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut action) };
    if result == 0 && action.sa_sigaction == libc::SIG_IGN {
        // Nobody could wait for a child: the kernel would throw away how it ended (wait(2)).
        // SAFETY: SIG_DFL is no handler: no code of ours can run because of it.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    }
}

// SAFETY: the section is an array of pointers to functions that the C library calls
// without looking at what they return (elf(5)); this one is one, and it needs nothing of
// the runtime that has not started yet.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Makes `$main`, a `fn() -> u8`, a program's beginning, without the Rust runtime's own. That
/// looks for the stack in `/proc/self/maps` and installs handlers, to say something about an
/// overflow: as much time as all else that `remountctl` does before it asks. What is left out
/// besides, [`begin`] does. In a program's file, with `#![no_main]`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        // SAFETY: the C library calls it once, as `main(3)`, and there is no other function of
        // the name; its arguments are not used.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn main() -> ::core::ffi::c_int {
            $crate::sys::start::begin();
            ::core::ffi::c_int::from($main())
        }
    };
}

/// What the Rust runtime does at its start that other code relies on: the standard descriptors
/// are open, so that no file gets the number of one, and a reader that is gone is an error.
pub fn begin() {
    for number in (0..3).filter(|number| was_closed(*number)) {
        // SAFETY: the path is a string with its end; the call reads nothing else.
        let opened = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if opened != number {
            // The lowest number that was free has to be this one.
            std::process::abort();
        }
    }
    // SAFETY: SIG_IGN is no handler: no code of ours can run because of it.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Whether a standard descriptor was closed when this process started.
pub fn was_closed(number: RawFd) -> bool {
    (0..3).contains(&number) && GIVEN.load(Ordering::Relaxed) & (1 << number) != 0
}

/// The umask that was given, once it is another one.
static UMASK: AtomicU32 = AtomicU32::new(NO_UMASK);
const NO_UMASK: u32 = u32::MAX;

/// Whatever this process makes from now on, its own user can use: the umask that it was given
/// says only what others may not.
pub fn open_to_owner() {
    let given = umask(Mode::from_raw_mode(0o077));
    UMASK.store(given.as_raw_mode(), Ordering::Relaxed);
    umask(given & Mode::from_raw_mode(0o077));
}

/// Gives the umask back that was given, for the program that this process executes next.
pub fn give_umask_back() {
    let given = UMASK.load(Ordering::Relaxed);
    if given != NO_UMASK {
        umask(Mode::from_raw_mode(given));
    }
}

/// Undoes what the runtime did, for the program that this process executes next.
///
/// # Errors
/// As `sigaction(2)` and `fcntl(2)`.
pub fn give_back() -> Result<()> {
    let given = GIVEN.load(Ordering::Relaxed);
    for number in (0..3).filter(|number| was_closed(*number)) {
        // SAFETY: F_SETFD reads and writes no memory; nothing in this program relies on
        // the descriptor's surviving an exec.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(last_errno());
        }
    }
    if given & SIGPIPE_IGNORED != 0 { Ok(()) } else { super::process::default_sigpipe() }
}
