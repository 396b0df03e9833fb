//! What is done from outside: all of this user's sandboxes, and what they leave behind.

use super::{Exit, Failure, complain, explain, print, render};
use remount_broker::client::{Client, ClientError, TIMEOUT};
use remount_broker::host::{self, NotOne, Places, Running};
use remount_broker::proto::{Decision, Event, OnBusy, Selection, SetRequest, Wish};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;

fn all() -> Vec<Running> {
    Places::here().map(|places| host::running(&places, TIMEOUT)).unwrap_or_default()
}

/// The sandbox that is meant.
pub(super) fn choose(wanted: Option<&OsStr>) -> Result<Running, Failure> {
    let cwd = std::env::current_dir().ok();
    host::choose(all(), wanted, cwd.as_deref()).map_err(Failure::NotOne)
}

/// Decides about a request: of the sandbox that is meant, else of the only one in which
/// such a request waits.
pub(super) fn decide(wanted: Option<&OsStr>, decision: Decision) -> Result<(), Failure> {
    let mut all = all();
    let waits = |it: &mut Running| it.status.pending.iter().any(|it| it.id == decision.id);
    let mut found = if wanted.is_none() && all.len() > 1 {
        let mut waiting: Vec<_> = all.extract_if(.., waits).collect();
        match waiting.len() {
            1 => waiting.remove(0),
            0 => choose(None)?,
            _ => {
                let ids = waiting.into_iter().map(|it| it.id).collect();
                return Err(Failure::NotOne(NotOne::Several(ids)));
            }
        }
    } else {
        let cwd = std::env::current_dir().ok();
        host::choose(all, wanted, cwd.as_deref()).map_err(Failure::NotOne)?
    };
    Ok(found.client.decide(decision)?)
}

/// Every target of every sandbox; all are tried, and the worst is the result.
pub(super) fn ro_everywhere(busy: Option<OnBusy>, quiet: bool) -> Exit {
    let mut worst = Exit::Done;
    for running in all() {
        let set = SetRequest { busy, ..SetRequest::new(Selection::All, Wish::Ro) };
        let id = running.id.clone();
        match super::change(&mut running.into(), set) {
            Ok(targets) => {
                let line = |line: &str| format!("{id} {line}\n");
                let text: String = render::modes(&targets).lines().map(line).collect();
                if !quiet {
                    print(&text);
                }
            }
            Err(error) => {
                complain(&format!("sandbox {id}:"), None);
                worst = explain(&why_ended(error, Some(id), busy));
            }
        }
    }
    worst
}

/// Why a request that `busy` was said of came to nothing: if the connection just ended, the
/// sandbox may have.
pub(super) fn why_ended(error: ClientError, id: Option<String>, busy: Option<OnBusy>) -> Failure {
    match (error, id) {
        (ClientError::Closed, Some(id)) if all().iter().all(|it| it.id != id) => {
            Failure::Ended { id, kill: matches!(busy, Some(OnBusy::Kill { .. })) }
        }
        (error, _) => error.into(),
    }
}

/// All sandboxes, as a table or as JSON.
pub(super) fn ps(json: bool) -> Result<String, serde_json::Error> {
    let all = all();
    if json {
        return all.iter().map(|it| render::status_json(&it.status)).collect();
    }
    Ok(render::sandboxes(&all) + &super::hold::list())
}

/// What happened in a running sandbox.
pub(super) fn events(mut client: Client, follow: bool, json: bool) -> Result<Exit, Failure> {
    if follow {
        client.follow(|event| tell(&event, json))?;
    } else {
        client.events()?.iter().all(|event| tell(event, json));
    }
    Ok(Exit::Done)
}

/// `false` if nobody reads.
fn tell(event: &Event, json: bool) -> bool {
    let text = render::event(event, json);
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// What happened in sandboxes that may have ended, the oldest first.
pub(super) fn log(id: Option<&str>, json: bool) -> Result<Exit, Failure> {
    let Some(places) = Places::here() else { return Ok(Exit::Done) };
    let mut events = Vec::new();
    for file in files(&places.log, id)? {
        let tried = |error| Failure::Io(format!("read {}", render::path(&file)), error);
        let text = std::fs::read(&file).map_err(tried)?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        // A line that is cut off was never acknowledged.
        events.extend(lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok()));
    }
    let key = |event: &Event| {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        (text("time"), text("sandbox"), event["seq"].as_u64())
    };
    events.sort_by_cached_key(key);
    if let (Some(id), true) = (id, events.is_empty()) {
        return Err(Failure::NotOne(NotOne::Unknown(render::line(id))));
    }
    events.iter().all(|event| tell(event, json));
    Ok(Exit::Done)
}

fn files(dir: &std::path::Path, id: Option<&str>) -> Result<Vec<PathBuf>, Failure> {
    let tried = |error| Failure::Io(format!("read {}", render::path(dir)), error);
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(tried)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(tried)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_meant = id.is_none_or(|id| name.starts_with(id));
        if name.ends_with(".jsonl") && is_meant {
            files.push(entry.path());
        }
    }
    Ok(files)
}
