//! What `remountctl` does ahead of the C library: where the command line says all that it
//! takes, it sends the request, and the broker works while the library starts.
//!
//! glibc's start asks the processor 68 times what it can do (2.36: sysdeps/x86/cpu-features.c,
//! dl-cacheinfo.h). In a virtual machine each `cpuid` goes to the hypervisor and back (Intel
//! SDM 3C, 26.1.2), and takes some two microseconds, more on a busy one: with the rest of that
//! start, a quarter of a toggle.
//!
//! What then keeps the library or the program from starting, such as a limit of memory, comes
//! after the request. At that time nothing is relocated and there are no thread-local variables, so even to
//! compare two slices is a call that leads nowhere. Hence assembly, for the one architecture
//! where that instruction is; a test compares what it makes of command lines with what
//! [`crate::cli`] and the protocol make of them.

#![cfg_attr(target_arch = "x86_64", allow(unsafe_code, reason = "before the library, it is all"))]

use std::os::fd::OwnedFd;

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(include_str!("ahead.s"), options(raw));

/// The connection on which the request of this process's command line has been sent, without
/// waiting: its answer is due. Only the first call has it, and only in `remountctl` itself: no
/// other program begins with `remount_ahead_start`, which `build.rs` makes its entry.
#[cfg(target_arch = "x86_64")]
pub(crate) fn take() -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;
    use std::sync::atomic::{AtomicI32, Ordering};

    unsafe extern "C" {
        static mut remount_ahead_sent: i32;
    }
    // SAFETY: it is aligned, lives as long as the process, and only this function uses it.
    let sent = unsafe { AtomicI32::from_ptr(&raw mut remount_ahead_sent) };
    let fd = sent.swap(0, Ordering::Relaxed);
    // SAFETY: the number was stored with the descriptor open, and nobody else has it.
    (fd != 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Nothing is sent ahead.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn take() -> Option<OwnedFd> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
