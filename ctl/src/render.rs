//! What is printed. Text that a broker sent is escaped before it reaches a terminal:
//! paths are anybody's, and a broker that the environment names need not be one.

use remount_broker::client::Status;
use remount_broker::escape::Escaped;
use remount_broker::host::Running;
use remount_broker::name::Mode;
use remount_broker::proto::{
    CROWDED_HINT, Event, Hold, Holders, LOST_HINT, Lease, SandboxInfo, State, TargetReport,
    Verdict, Waiting,
};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
            target_path(target),
        ]
    });
    columns(["NAME", "MODE", "AUTHORITY", "PATH"], rows.collect()) + &notes(targets)
}

/// What there is to say of targets that are not as they should be.
fn notes(targets: &[TargetReport]) -> String {
    let note = |target: &TargetReport| {
        let name = &target.name;
        match (&target.lost, &target.crowded, target.state) {
            (Some(lost), ..) => Some(format!(
                "{name} is stale: around {} it is read-only, since that was moved, removed or replaced \
                 outside\nhint: {LOST_HINT}\n",
                path(lost)
            )),
            (None, Some(crowded), _) => Some(format!(
                "{name} is stale: {} is read-only, since not all worktrees there can be protected\n\
                 hint: {CROWDED_HINT}\n",
                path(crowded)
            )),
            (None, None, State::Stale) => Some(format!(
                "{name} is stale: moved or replaced outside, can no longer be made writable\n"
            )),
            (None, None, _) => None,
        }
    };
    targets.iter().filter_map(note).collect()
}

/// A table of all there is to know.
pub(crate) fn status(status: &Status) -> String {
    let has_lease = status.targets.iter().any(|target| target.lease.is_some());
    let rows = status.targets.iter().map(|target| {
        [
            target.name.to_string(),
            target.mode.to_string(),
            target.state.to_string(),
            target.authority.to_string(),
            left(target),
            target_path(target),
        ]
    });
    let mut text = if has_lease {
        columns(["NAME", "MODE", "STATE", "AUTHORITY", "LEFT", "PATH"], rows.collect())
    } else {
        let short = rows
            .map(|[name, mode, state, authority, _, path]| [name, mode, state, authority, path]);
        columns(["NAME", "MODE", "STATE", "AUTHORITY", "PATH"], short.collect())
    };
    let is_any = |state| status.targets.iter().any(|target| target.state == state);
    text.push_str(&notes(&status.targets));
    if is_any(State::Unmounted) {
        text.push_str(
            "unmounted: no mount of its own here: start the sandbox with --bind DIR DIR\n",
        );
    }
    if status.targets.iter().any(|it| it.lease.as_ref().is_some_and(|lease| lease.closing)) {
        text.push_str("closing: becomes read-only as soon as no file is open for writing\n");
    }
    for path in &status.changed {
        text.push_str(&format!(
            "changed: {}\nhint: this was made or changed inside before it could be protected, or still can \
             be; of a worktree: run no git in it, remove both directories without git, and add it \
             again; any other: compare it, replace it, and remove its other names (find -samefile)\n",
            line(path)
        ));
    }
    for request in &status.pending {
        let targets: Vec<_> = request.targets.iter().map(ToString::to_string).collect();
        let left = time(Duration::from_millis(request.left_ms));
        text.push_str(&format!(
            "request {}: rw {} by {} ({left} left)\n",
            request.id,
            targets.join(" "),
            line(&request.command),
        ));
    }
    text
}

/// How long a target stays writable.
fn left(target: &TargetReport) -> String {
    match &target.lease {
        None => "-".to_owned(),
        Some(lease) if lease.closing => "closing".to_owned(),
        Some(Lease { left_ms: Some(ms), .. }) => time(Duration::from_millis(*ms)),
        Some(_) => "held".to_owned(),
    }
}

/// In the two greatest units.
fn time(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// How long ago a time in seconds since 1970 was.
fn ago(then: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    time(now.saturating_sub(Duration::from_secs(then)))
}

/// A table of who holds what.
pub(crate) fn holders(found: &Holders) -> String {
    if found.holders.is_empty() {
        return match found.more {
            true => "no holder found: there are too many processes and files\n".to_owned(),
            false => "no process holds it\n".to_owned(),
        };
    }
    let rows = found.holders.iter().map(|holder| {
        [
            holder.target.to_string(),
            holder.pid.to_string(),
            holder.pid_inside.map_or("-".to_owned(), |pid| pid.to_string()),
            ago(holder.since),
            match holder.kind {
                Hold::Open => "open".to_owned(),
                Hold::Mapped => "mapped".to_owned(),
            },
            line(&holder.path),
            line(&holder.command),
        ]
    });
    let heading = ["TARGET", "PID", "INSIDE", "AGE", "KIND", "FILE", "COMMAND"];
    let mut text = columns(heading, rows.collect());
    if found.more {
        text.push_str("and perhaps more\n");
    }
    text
}

/// A table of sandboxes.
pub(crate) fn sandboxes(all: &[Running]) -> String {
    let rows = all.iter().map(|it| {
        let info = it.status.sandbox.as_ref();
        let text = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let targets: Vec<_> = it
            .status
            .targets
            .iter()
            .map(|target| format!("{}:{}", target.name, target.mode))
            .collect();
        [
            it.id.clone(),
            text(info.map(|info| info.pid.to_string())),
            text(info.map(|info| line(&info.profile))),
            text(info.map(|info| ago(info.started))),
            targets.join(" "),
            text(info.map(|info| line(&info.cwd))),
        ]
    });
    columns(["ID", "PID", "PROFILE", "AGE", "TARGETS", "DIRECTORY"], rows.collect())
}

/// What can stand in braces in a format.
pub(crate) const FIELDS: [&str; 8] =
    ["name", "mode", "state", "authority", "path", "left", "sandbox", "pending"];

/// A line for each target, as `format` has it.
pub(crate) fn formatted(status: &Status, format: &str) -> String {
    let mut text = String::new();
    for target in &status.targets {
        let values = [
            target.name.to_string(),
            target.mode.to_string(),
            target.state.to_string(),
            target.authority.to_string(),
            target_path(target),
            left(target),
            status.sandbox.as_ref().map_or(String::new(), |it| line(&it.id)),
            status.pending.len().to_string(),
        ];
        let mut rest = format;
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let (field, after) = after.split_once('}').unwrap_or((after, ""));
            let value = FIELDS.iter().position(|it| *it == field).map(|place| &values[place]);
            text.push_str(value.map_or("", String::as_str));
            rest = after;
        }
        text.push_str(rest);
        text.push('\n');
    }
    text
}

/// Which targets are read-only, on one line.
pub(crate) fn statusline(status: &Status) -> String {
    let of = |mode: Mode| status.targets.iter().filter(move |target| target.mode == mode);
    match (of(Mode::Ro).count(), of(Mode::Rw).count()) {
        (0, 0) => String::new(),
        (0, _) => "writable\n".to_owned(),
        (_, 0) => "read-only\n".to_owned(),
        _ => {
            let names: Vec<_> = of(Mode::Ro).map(|target| target.name.as_str()).collect();
            format!("read-only: {}\n", names.join(" "))
        }
    }
}

/// What decides about a path.
pub(crate) fn verdict(of: &Path, verdict: &Verdict) -> String {
    let path = path(of);
    let granted = verdict.landlock.as_ref().is_none_or(|grant| grant.write);
    let can = match verdict.mode {
        Some(Mode::Rw) if granted => "can be read and written",
        Some(Mode::Rw) => "can be read, not written, since Landlock forbids it",
        Some(Mode::Ro) if verdict.lost.is_some() => "can be read, not written for the moment",
        Some(Mode::Ro) => "can be read, not written",
        None => "hides what the host has there",
    };
    let (mount, kind, rule) = (line(&verdict.mount), line(&verdict.kind), line(&verdict.rule));
    let mut text = format!("{path}: {can}\nmount: {mount} ({kind})\nrule: {rule}\n");
    if let Some(target) = &verdict.target {
        text.push_str(&format!("target: {target}\n"));
    }
    if let Some(lost) = &verdict.lost {
        let lost = line(lost);
        text.push_str(&format!(
            "lost: {lost}, which is protected, was moved, removed or replaced outside\nhint: {LOST_HINT}\n"
        ));
    }
    if verdict.is_file {
        text.push_str(
            "replacing it: renaming another file over it fails (EBUSY), as this file is a mount of \
             its own; write into it, or let a profile bind its directory\n",
        );
    }
    if let Some(grant) = &verdict.landlock {
        let what = if grant.write { "reading and writing" } else { "reading" };
        text.push_str(&match line(&grant.beneath).as_str() {
            "" => "Landlock: grants nothing here\n".to_owned(),
            beneath => format!("Landlock: grants {what} beneath {beneath}\n"),
        });
    }
    text
}

/// One event on a line.
pub(crate) fn event(event: &Event, as_json: bool) -> String {
    if as_json {
        return json(event).unwrap_or_default();
    }
    let text = |key: &str| match &event[key] {
        Event::Null => None,
        Event::String(text) => Some(line(text)),
        other => Some(line(&other.to_string())),
    };
    let mut words: Vec<String> =
        ["time", "sandbox", "event", "mode"].iter().filter_map(|key| text(key)).collect();
    let targets = event["targets"].as_array().into_iter().flatten();
    words.extend(targets.filter_map(|name| name.as_str()).map(line));
    for (key, label) in [("id", "request"), ("origin", "from"), ("pid", "pid")] {
        words.extend(text(key).map(|value| format!("{label} {value}")));
    }
    words.extend(text("command").map(|command| format!("({command})")));
    words.extend(text("message").map(|message| format!("- {message}")));
    words.join(" ") + "\n"
}

fn target_path(target: &TargetReport) -> String {
    path(&target.path)
}

/// A path, fit for a terminal.
pub(crate) fn path(path: &Path) -> String {
    Escaped::path(path).to_string()
}

/// An argument, fit for a terminal.
pub(crate) fn os(text: &std::ffi::OsStr) -> String {
    Escaped::os(text).to_string()
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
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a SandboxInfo>,
    targets: &'a [TargetReport],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pending: &'a [Waiting],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    changed: &'a [String],
}

/// A status as one line of JSON.
///
/// # Errors
/// None that is known.
pub(crate) fn status_json(status: &Status) -> Result<String, serde_json::Error> {
    json(&JsonStatus {
        origin: status.origin,
        sandbox: status.sandbox.as_ref(),
        targets: &status.targets,
        pending: &status.pending,
        changed: &status.changed,
    })
}

/// One line of JSON, which escapes what JSON itself allows but a terminal obeys.
///
/// # Errors
/// None that is known.
pub(crate) fn json(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let plain = serde_json::to_string(value)?;
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
    use remount_broker::name::Authority;
    use remount_broker::proto::Origin;

    fn report(name: &str, path: &str) -> TargetReport {
        TargetReport {
            name: name.parse().unwrap(),
            path: path.into(),
            mode: Mode::Rw,
            state: State::Ok,
            lost: None,
            crowded: None,
            authority: Authority::Inside,
            lease: None,
        }
    }

    fn of(targets: Vec<TargetReport>) -> Status {
        let (pending, changed) = (Vec::new(), Vec::new());
        Status { origin: Origin::Inside, sandbox: None, targets, pending, changed }
    }

    #[test]
    fn a_format_has_a_line_for_each_target() {
        let mut leased = report("b", "/b\n");
        leased.lease = Some(Lease { left_ms: Some(90_000), held: 0, closing: false });
        let status = of(vec![report("a", "/a"), leased]);
        assert_eq!(formatted(&status, "{name}={mode} {left}"), "a=rw -\nb=rw 1m30s\n");
        assert_eq!(formatted(&status, "x{path}y"), "x/ay\nx/b\\ny\n");
    }

    #[test]
    fn a_status_line_says_what_is_read_only() {
        let mut closed = report("git", "/g");
        closed.mode = Mode::Ro;
        let open = || report("workspace", "/w");
        assert_eq!(statusline(&of(vec![])), "");
        assert_eq!(statusline(&of(vec![open()])), "writable\n");
        assert_eq!(statusline(&of(vec![open(), closed.clone()])), "read-only: git\n");
        assert_eq!(statusline(&of(vec![closed])), "read-only\n");
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
        let show = |target: &TargetReport| status(&of(vec![target.clone()]));
        assert!(!show(&stale).contains("stale"));
        stale.state = State::Stale;
        assert!(show(&stale).ends_with("can no longer be made writable\n"));
        assert!(table(&[stale.clone()]).ends_with("can no longer be made writable\n"));
        stale.lost = Some("/a/.idea".into());
        for text in [show(&stale), table(&[stale.clone()])] {
            assert!(text.contains("a is stale: around /a/.idea it is read-only"), "{text}");
            assert!(text.ends_with("comes back in a moment\n"), "{text}");
        }
        stale.lost = None;
        stale.state = State::Unmounted;
        assert!(show(&stale).ends_with("start the sandbox with --bind DIR DIR\n"));
    }

    #[test]
    fn json_commands_no_terminal() {
        let path = "/é\u{9b}\u{202e}\u{7f}\u{1b}\u{e0001}\"";
        let text = status_json(&of(vec![report("a", path)])).unwrap();
        assert!(!text.trim_end().contains(char::is_control));
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["targets"][0]["path"], path);
        assert_eq!(back["origin"], "inside");
        assert!(text.contains('é') && text.contains("\\u009b\\u202e\\u007f\\u001b"), "{text}");
    }

    #[test]
    fn foreign_messages_stay_on_their_line() {
        assert_eq!(line("a\nb\u{1b}[2J"), r"a\nb\u{1b}[2J");
        assert_eq!(line(r"make a rw: /x\n: denied"), r"make a rw: /x\n: denied");
    }
}
