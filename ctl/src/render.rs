//! What is printed. Text that a broker sent is escaped before it reaches a terminal:
//! paths are anybody's, and a broker that the environment names need not be one.

use remount_broker::client::Status;
use remount_broker::escape::Escaped;
use remount_broker::proto::{State, TargetReport};
use serde::Serialize;

/// Foreign text as one printable line. A message that was escaped where it was made
/// (a path in it) keeps its backslashes.
pub(crate) fn line(text: &str) -> String {
    Escaped::text(text).to_string().replace(r"\\", r"\")
}

/// `workspace: ro` for each.
pub(crate) fn modes(targets: &[TargetReport]) -> String {
    targets.iter().map(|target| format!("{}: {}\n", target.name, target.mode)).collect()
}

/// A table for people.
pub(crate) fn table(targets: &[TargetReport]) -> String {
    let rows = targets.iter().map(|target| {
        [
            target.name.to_string(),
            target.mode.to_string(),
            target.authority.to_string(),
            path(target),
        ]
    });
    columns(["NAME", "MODE", "AUTHORITY", "PATH"], rows.collect())
}

/// A table of all there is to know.
pub(crate) fn status(status: &Status) -> String {
    let rows = status.targets.iter().map(|target| {
        [
            target.name.to_string(),
            target.mode.to_string(),
            target.state.to_string(),
            target.authority.to_string(),
            path(target),
        ]
    });
    let mut text = columns(["NAME", "MODE", "STATE", "AUTHORITY", "PATH"], rows.collect());
    if status.targets.iter().any(|target| target.state == State::Stale) {
        text.push_str("stale: moved or replaced outside, can no longer be made writable\n");
    }
    text
}

fn path(target: &TargetReport) -> String {
    Escaped::path(&target.path).to_string()
}

/// Rows under a heading, every column but the last padded to its widest cell.
fn columns<const N: usize>(heading: [&str; N], rows: Vec<[String; N]>) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in std::iter::once(heading.map(str::to_owned)).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[derive(Serialize)]
struct JsonStatus<'a> {
    origin: remount_broker::proto::Origin,
    targets: &'a [TargetReport],
}

/// One line of JSON, which escapes what JSON itself allows but a terminal obeys.
///
/// # Errors
/// None that is known.
pub(crate) fn json(status: &Status) -> Result<String, serde_json::Error> {
    let wire = JsonStatus { origin: status.origin, targets: &status.targets };
    let plain = serde_json::to_string(&wire)?;
    let mut safe = String::with_capacity(plain.len() + 1);
    for c in plain.chars() {
        let plain =
            (c.is_ascii() && c != '\u{7f}') || line(c.encode_utf8(&mut [0; 4])).starts_with(c);
        if plain {
            safe.push(c);
        } else {
            // JSON has such characters in strings only, where `\u` means the same.
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    safe.push('\n');
    Ok(safe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use remount_broker::name::{Authority, Mode};
    use remount_broker::proto::Origin;

    fn report(name: &str, path: &str) -> TargetReport {
        TargetReport {
            name: name.parse().unwrap(),
            path: path.into(),
            mode: Mode::Rw,
            state: State::Ok,
            authority: Authority::Inside,
        }
    }

    #[test]
    fn columns_are_aligned() {
        let text = table(&[report("workspace", "/home/u/p q"), report("git", "/p/\u{1b}[2J\n")]);
        assert_eq!(
            text,
            "NAME       MODE  AUTHORITY  PATH\n\
             workspace  rw    self       /home/u/p q\n\
             git        rw    self       /p/\\u{1b}[2J\\n\n"
        );
        assert_eq!(modes(&[report("a", "/"), report("b", "/")]), "a: rw\nb: rw\n");
    }

    #[test]
    fn a_stale_target_is_explained() {
        let mut stale = report("a", "/a");
        let show = |target: &TargetReport| {
            status(&Status { origin: Origin::Inside, targets: vec![target.clone()] })
        };
        assert!(!show(&stale).contains("stale"));
        stale.state = State::Stale;
        assert!(show(&stale).ends_with("can no longer be made writable\n"));
    }

    #[test]
    fn json_commands_no_terminal() {
        let path = "/é\u{9b}\u{202e}\u{7f}\u{1b}\u{e0001}\"";
        let status = Status { origin: Origin::Outside, targets: vec![report("a", path)] };
        let text = json(&status).unwrap();
        assert!(!text.trim_end().contains(char::is_control));
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["targets"][0]["path"], path);
        assert_eq!(back["origin"], "outside");
        assert!(text.contains('é') && text.contains("\\u009b\\u202e\\u007f\\u001b"), "{text}");
    }

    #[test]
    fn foreign_messages_stay_on_their_line() {
        assert_eq!(line("a\nb\u{1b}[2J"), r"a\nb\u{1b}[2J");
        assert_eq!(line(r"make a rw: /x\n: denied"), r"make a rw: /x\n: denied");
    }
}
