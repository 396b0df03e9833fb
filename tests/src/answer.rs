//! What the probe printed.

use crate::wire;

/// What the kernel answered to one act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Success, with what the act found out.
    Ok(String),
    /// The name of the errno.
    Errno(String),
    /// The signal that ended the act.
    Signal(i32),
}

impl Answer {
    /// Reads one line of the probe's.
    ///
    /// # Panics
    /// If the line is not one.
    pub fn parse(line: &str) -> Answer {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "ok" => {
                let bytes = wire::unescape(rest).unwrap_or_else(|| panic!("bad escapes: {line}"));
                Answer::Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            "errno" => Answer::Errno(rest.to_owned()),
            "signal" => Answer::Signal(rest.parse().expect("a signal's number")),
            _ => panic!("not an answer of the probe: {line:?}"),
        }
    }

    /// What the act found out; panics if it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        match self {
            Answer::Ok(text) => text,
            other => panic!("expected success, got {other:?}"),
        }
    }

    /// Panics unless the act failed with just this error.
    #[track_caller]
    pub fn errno(self, name: &str) {
        assert_eq!(self, Answer::Errno(name.to_owned()));
    }
}
