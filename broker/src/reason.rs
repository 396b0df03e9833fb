//! Why the system refused, in words.

use rustix::io::Errno;
use std::fmt;

/// Prints an errno as it reads after a colon: `permission denied`. With `{:#}` its name
/// follows, `function not implemented (ENOSYS)`: for steps that a person did not ask for
/// and will have to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason(nix::errno::Errno);

impl From<Errno> for Reason {
    fn from(errno: Errno) -> Self {
        Self(nix::errno::Errno::from_raw(errno.raw_os_error()))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            // "Try again" would be what to do, and no reason.
            nix::errno::Errno::EAGAIN => "Resource temporarily unavailable",
            errno => errno.desc(),
        };
        let (first, rest) = text.split_at_checked(1).unwrap_or(("", text));
        // `Is a directory` becomes lower case, `RPC …` stays.
        if rest.starts_with(|c: char| c.is_lowercase() || c == ' ') {
            write!(f, "{}{rest}", first.to_lowercase())?;
        } else {
            f.write_str(text)?;
        }
        if f.alternate() { write!(f, " ({:?})", self.0) } else { Ok(()) }
    }
}

/// What an [`std::io::Error`] says, the same way.
#[derive(Debug)]
pub struct IoReason<'a>(pub &'a std::io::Error);

impl fmt::Display for IoReason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(number) => Reason::from(Errno::from_raw_os_error(number)).fmt(f),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reads_after_a_colon() {
        for (errno, text, full) in [
            (Errno::ACCESS, "permission denied", "permission denied (EACCES)"),
            (Errno::NOSYS, "function not implemented", "function not implemented (ENOSYS)"),
            (Errno::ISDIR, "is a directory", "is a directory (EISDIR)"),
            (
                Errno::AGAIN,
                "resource temporarily unavailable",
                "resource temporarily unavailable (EAGAIN)",
            ),
        ] {
            assert_eq!(Reason::from(errno).to_string(), text);
            assert_eq!(format!("{:#}", Reason::from(errno)), full);
        }
    }

    #[test]
    fn an_io_error_has_no_number_either() {
        let missing = std::fs::read("/no/such/file").unwrap_err();
        assert_eq!(IoReason(&missing).to_string(), "no such file or directory");
        let own = std::io::Error::other("no words");
        assert_eq!(IoReason(&own).to_string(), "no words");
    }
}
