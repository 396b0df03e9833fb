//! This program's own memory: what of it is mapped, and when.

use super::mount::last_errno;
use rustix::io::Result;

const PAGE: usize = 4096;

/// Where the linker put the file's beginning and the end of its code.
fn program() -> (usize, usize) {
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let (start, end) =
        ((&raw const __executable_start).expose_provenance(), (&raw const etext).addr());
    (start, end.saturating_sub(start) & !(PAGE - 1))
}

/// Lets go of the pages of this program's file that are mapped as they are in it: code and
/// constants. What is used again is mapped again, so that a process that only waits holds
/// little of what its start needed.
///
/// # Errors
/// As `madvise(2)`; nothing is lost then.
pub fn release_program() -> Result<()> {
    let (start, length) = program();
    // SAFETY: from its beginning to the end of its code the program is mapped from its file
    // and never written to: not by the loader (position-independent code has no relocations
    // in it), nor by anything here. So each page is the same when it is mapped again.
    let result = unsafe {
        libc::madvise(std::ptr::with_exposed_provenance_mut(start), length, libc::MADV_DONTNEED)
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Maps the pages that [`release_program`] lets go of, all at once: for a process that will
/// have to be quick.
///
/// # Errors
/// As `madvise(2)`: `EINVAL` before Linux 5.14. They are mapped one by one then, when used.
pub fn map_program() -> Result<()> {
    let (start, length) = program();
    // SAFETY: mapping a file's pages that are to be mapped anyway changes no memory.
    let result = unsafe {
        let start = std::ptr::with_exposed_provenance_mut(start);
        libc::madvise(start, length, libc::MADV_POPULATE_READ)
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The heap that `malloc(3)` has from `brk(2)`.
#[derive(Debug, Clone, Copy)]
pub struct Heap {
    start: usize,
}

impl Heap {
    /// More than this is not copied: the rest waits until it is used.
    const MOST: usize = 1 << 20;

    /// Where it is, as `/proc/self/maps` has it. `None` if there is none, or no `/proc`.
    #[must_use]
    pub fn find() -> Option<Self> {
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let line = maps.lines().find(|line| line.ends_with("[heap]"))?;
        let (start, _) = line.split_once('-')?;
        Some(Self { start: usize::from_str_radix(start, 16).ok()? })
    }

    /// Makes the pages this process's own now that it shares with another one since a fork;
    /// else each is copied when it is written to, at a page fault each.
    ///
    /// # Errors
    /// As `madvise(2)`: `EINVAL` before Linux 5.14. Nothing is lost then.
    pub fn own(self) -> Result<()> {
        // SAFETY: the call moves nothing for 0, and says where the heap ends.
        let end = unsafe { libc::sbrk(0) }.addr();
        let length = end.saturating_sub(self.start).min(Self::MOST) & !(PAGE - 1);
        // SAFETY: what the pages hold stays the same; if some were not the heap's, too.
        let result = unsafe {
            let start = std::ptr::with_exposed_provenance_mut(self.start);
            libc::madvise(start, length, libc::MADV_POPULATE_WRITE)
        };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    }
}
