//! Resource limits.

use super::ConfineError;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

/// What becomes of a crash inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreDumps {
    /// Nothing is written and no handler started.
    Off,
    /// Nothing is written, but a handler on the host that `core_pattern` pipes to still
    /// is started: the hard limit was 0 already and may not be raised.
    HandlerOnly,
}

/// Turns off core dumps, for this process and all that it starts.
///
/// A core is read by a handler that is root on the host (CVE-2025-4598, CVE-2025-5054).
/// The limit is 1 and not 0: exactly 1 makes the kernel start no handler, which it does
/// at 0 (`coredump_pipe`, fs/coredump.c).
///
/// # Errors
/// [`ConfineError::CoreLimit`], as `setrlimit(2)`.
pub fn limits() -> Result<CoreDumps, ConfineError> {
    let set =
        |limit| setrlimit(Resource::Core, Rlimit { current: Some(limit), maximum: Some(limit) });
    match set(1) {
        Ok(()) => Ok(CoreDumps::Off),
        // Only a hard limit of 0 is lower than 1.
        Err(Errno::PERM) => {
            set(0).map(|()| CoreDumps::HandlerOnly).map_err(ConfineError::CoreLimit)
        }
        Err(source) => Err(ConfineError::CoreLimit(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getrlimit;

    #[test]
    fn the_limit_is_exactly_one_unless_it_was_lower() {
        let before = getrlimit(Resource::Core);
        let result = limits().unwrap();
        let after = getrlimit(Resource::Core);
        assert_eq!(after.current, after.maximum);
        match result {
            CoreDumps::Off => assert_eq!(after.current, Some(1)),
            CoreDumps::HandlerOnly => {
                assert_eq!((before.maximum, after.current), (Some(0), Some(0)));
            }
        }
    }
}
