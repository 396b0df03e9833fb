//! Foreign text made safe to print: paths, peers' words, anything that was not
//! written by this project.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Prints bytes so that they stay on one line and command no terminal: printable
/// text as it is, control characters, invisible and direction-changing ones as
/// `\n` or `\u{1b}`, a backslash as `\\`, bytes that are not UTF-8 as `\xff`.
///
/// Distinct bytes give distinct text, so nothing can pass itself off as another path.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(&'a [u8]);

impl<'a> Escaped<'a> {
    /// Shows a path.
    pub fn path(path: &'a Path) -> Self {
        Self(path.as_os_str().as_bytes())
    }

    /// Shows an argument.
    pub fn os(text: &'a OsStr) -> Self {
        Self(text.as_bytes())
    }

    /// Shows text.
    pub fn text(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' | '\'' => f.write_char(c)?,
                    _ => write!(f, "{}", c.escape_debug())?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// What clap says of a wrong command line, in several paragraphs and with arguments as they
/// came: a message of one line, and what it suggests, fit for a terminal.
#[must_use]
pub fn told_by_clap(text: &str) -> (String, Option<String>) {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let message: Vec<&str> =
        text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let mut tips: Vec<&str> =
        text.lines().filter_map(|line| line.trim_start().strip_prefix("tip: ")).collect();
    // The value would be a command, which nobody calls so.
    tips.retain(|tip| !tip.starts_with("to pass "));
    let hint = (!tips.is_empty()).then(|| Escaped::text(&tips.join("; ")).to_string());
    (Escaped::text(&message.join(" ")).to_string(), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_printable_text_passes() {
        for (raw, shown) in [
            (&b"/home/u/caf\xc3\xa9 'x'"[..], "/home/u/café 'x'"),
            (b"a\nb\x1b[2Jc", r"a\nb\u{1b}[2Jc"),
            (b"\xff\\", r"\xff\\"),
            ("\u{202e}\u{9b}\u{7f}".as_bytes(), r"\u{202e}\u{9b}\u{7f}"),
        ] {
            assert_eq!(Escaped::os(OsStr::from_bytes(raw)).to_string(), shown);
        }
    }
}
