//! Codex's record of a session, which says what its hooks do not: the mode of a turn.
//!
//! A line of JSON for each event. A turn begins with `event_msg`/`task_started`
//! (`collaboration_mode_kind`) and has `turn_context` lines (`collaboration_mode.mode`), each
//! with the turn's id; the last one of a turn holds. Read from the end, as a session can be
//! long and its last turn is the one that is asked about.

use serde::Deserialize;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How much is read at once.
const BLOCK: usize = 64 << 10;

/// Of a line that is longer than this, nothing matters: it holds a tool's output.
const MAX_LINE: usize = 1 << 20;

/// The mode of the turn `turn` as the record at `path` has it; `None` if it does not say.
pub(super) fn mode_of(path: &Path, turn: &str) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let mut end = file.seek(SeekFrom::End(0))?;
    // The beginning of what was read last, whose line begins further up.
    let mut tail: Vec<u8> = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(BLOCK as u64);
        let mut block = vec![0; (end - begin) as usize];
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut block)?;
        block.extend_from_slice(&tail);
        let first = match block.iter().position(|byte| *byte == b'\n') {
            _ if begin == 0 => 0,
            Some(newline) => newline + 1,
            None => block.len(),
        };
        let lines = block[first..].rsplit(|byte| *byte == b'\n');
        if let Some(mode) = lines.filter_map(|line| of_line(line, turn)).next() {
            return Ok(Some(mode));
        }
        block.truncate(first);
        if block.len() > MAX_LINE {
            block.clear();
        }
        tail = block;
        end = begin;
    }
    Ok(None)
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    payload: Payload<'a>,
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    turn_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    collaboration_mode_kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    collaboration_mode: Option<Collaboration<'a>>,
}

#[derive(Deserialize)]
struct Collaboration<'a> {
    #[serde(borrow)]
    mode: Option<Cow<'a, str>>,
}

fn of_line(line: &[u8], turn: &str) -> Option<String> {
    // Nearly all lines end here, unparsed.
    let line = std::str::from_utf8(line).ok().filter(|it| it.contains("\"collaboration_mode"))?;
    let line: Line<'_> = serde_json::from_str(line).ok()?;
    let payload = line.payload;
    if payload.turn_id.as_deref() != Some(turn) {
        return None;
    }
    let mode = match (&*line.kind, payload.kind.as_deref()) {
        ("turn_context", _) => payload.collaboration_mode?.mode,
        ("event_msg", Some("task_started")) => payload.collaboration_mode_kind,
        _ => None,
    };
    mode.map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(turn: &str, mode: &str) -> String {
        format!(
            r#"{{"timestamp":"t","type":"event_msg","payload":{{"type":"task_started","turn_id":"{turn}","collaboration_mode_kind":"{mode}"}}}}"#
        )
    }

    fn context(turn: &str, mode: &str) -> String {
        format!(
            r#"{{"timestamp":"t","type":"turn_context","payload":{{"turn_id":"{turn}","cwd":"/p","collaboration_mode":{{"mode":"{mode}","settings":{{}}}}}}}}"#
        )
    }

    fn output(size: usize) -> String {
        // A model can write what looks like a line of the record, but only as text in one.
        let text = context("2", "default").replace('"', "\\\"");
        format!(
            r#"{{"type":"response_item","payload":{{"type":"x","text":"{text}{}"}}}}"#,
            "y".repeat(size)
        )
    }

    fn read(lines: &[String], turn: &str) -> Option<String> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir()
            .join(format!("remount-test-rollout-{}-{number}", std::process::id()));
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        let mode = mode_of(&path, turn).unwrap();
        std::fs::remove_file(&path).unwrap();
        mode
    }

    #[test]
    fn the_last_word_about_a_turn_holds() {
        let lines = [
            started("1", "default"),
            context("1", "default"),
            started("2", "plan"),
            context("2", "plan"),
            output(10),
        ];
        assert_eq!(read(&lines, "2").as_deref(), Some("plan"));
        assert_eq!(read(&lines, "1").as_deref(), Some("default"));
        assert_eq!(read(&lines, "3"), None);
        assert_eq!(read(&[started("2", "plan")], "2").as_deref(), Some("plan"));
        assert_eq!(read(&["no json".to_owned(), String::new()], "2"), None);
    }

    #[test]
    fn it_is_found_however_much_follows() {
        for size in [0, BLOCK - 500, BLOCK, 3 * BLOCK, MAX_LINE + 3 * BLOCK] {
            let mut lines = vec![started("2", "plan")];
            lines.extend((0..3).map(|_| output(size)));
            assert_eq!(read(&lines, "2").as_deref(), Some("plan"), "{size}");
        }
    }

    #[test]
    fn a_record_that_is_not_there_is_an_error() {
        assert!(mode_of(Path::new("/nonexistent/rollout"), "1").is_err());
    }
}
