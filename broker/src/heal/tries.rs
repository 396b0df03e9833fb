//! Trying again what fails for a moment.

use rustix::io::Errno;

/// Tries to mount on a file whose rename is under way, each of a few microseconds.
const TRIES: u32 = 2000;

/// What became of one.
pub(super) enum Tried<T> {
    /// It is as it should be.
    Is(T),
    /// This came of mounting it: to be looked at again.
    Mounted(Result<(), Errno>),
}

/// Tries `once` until it is as it should be.
///
/// # Errors
/// As `once`, and what comes of mounting; but [`Errno::NOENT`] and [`Errno::NOSPC`] of that
/// only in the end: a rename is not complete yet, or the one slot that there is was taken.
pub(super) fn insist<T>(mut once: impl FnMut() -> Result<Tried<T>, Errno>) -> Result<T, Errno> {
    let mut last = Errno::NOENT;
    for turn in 1..=TRIES {
        match once()? {
            Tried::Is(it) => return Ok(it),
            Tried::Mounted(Ok(())) => {}
            Tried::Mounted(Err(errno @ (Errno::NOENT | Errno::NOSPC))) => {
                last = errno;
                pause(turn);
            }
            Tried::Mounted(Err(errno)) => return Err(errno),
        }
    }
    Err(last)
}

/// Between two tries. Whoever is waited for is running elsewhere and done in a moment;
/// if not, he needs this processor, and gives it back late if others want it too.
pub(super) fn pause(turn: u32) {
    if turn.is_multiple_of(32) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}
