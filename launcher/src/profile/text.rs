//! Text of strangers, made fit for a terminal.

use std::fmt::{self, Write};

/// Shows text with everything escaped that could move the cursor, colour, or reorder
/// what a person reads. Quotes and backslashes stay as they are.
pub(super) struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_hostile(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Control characters, line separators, and what is invisible or changes direction.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Those of `known` that `wanted` is probably a misspelling of, the nearest one.
pub(super) fn nearest<'a>(
    wanted: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Comparing is quadratic; nobody misspells by hundreds of characters.
    if wanted.len() > 64 {
        return None;
    }
    let limit = (wanted.chars().count() / 3).max(1);
    let with_distance = known.into_iter().map(|name| (distance(wanted, name), name));
    with_distance.filter(|(d, _)| *d <= limit).min().map(|(_, name)| name)
}

/// Edits between two words, where swapping neighbours is one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_obey() {
        let shown = Escaped("a\u{1b}[2J\n\r\u{7}\u{9b}é\"\\\u{202e}\u{200b}").to_string();
        assert_eq!(shown, "a\\u{1b}[2J\\n\\r\\u{7}\\u{9b}é\"\\\\u{202e}\\u{200b}");
    }

    #[test]
    fn the_nearest_name_is_found() {
        let known = ["claude", "codex", "default"];
        for (wanted, found) in [
            ("cluade", Some("claude")),
            ("claud", Some("claude")),
            ("codxe", Some("codex")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(wanted, known), found, "{wanted}");
        }
    }
}
