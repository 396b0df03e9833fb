//! Requests: two dialects are read, one is written.

use super::{json_line, milliseconds};
use crate::name::TargetName;
use crate::proto::request::is_pid;
use crate::proto::{
    Answer, Decision, Dialect, MAX_LINE, Malformed, OnBusy, PathClaim, Request, Selection,
    SetRequest, Term, Wish,
};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a line (without its newline) asks for, and in which dialect to answer.
///
/// # Errors
/// As [`Malformed`] says. No bytes make it panic.
pub fn parse(line: &[u8]) -> (Dialect, Result<Request, Malformed>) {
    let dialect = if line.first() == Some(&b'{') { Dialect::Json } else { Dialect::Classic };
    (dialect, parse_as(dialect, line))
}

fn parse_as(dialect: Dialect, line: &[u8]) -> Result<Request, Malformed> {
    if line.len() >= MAX_LINE {
        return Err(Malformed::TooLong);
    }
    let text = std::str::from_utf8(line).map_err(|_| Malformed::NotText)?;
    if text.contains('\0') {
        return Err(Malformed::NotText);
    }
    match dialect {
        Dialect::Json => parse_json(text),
        Dialect::Classic => parse_classic(text.trim_end_matches('\r')),
    }
}

/// A JSON request, all operations in one: which keys an operation takes is checked by
/// [`WireRequest::only`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WireRequest {
    op: Op,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<TargetName>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Wish>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    busy: Option<WireBusy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grace_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    force: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    for_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<WirePath>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    follow: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
}

/// A path: text, or an array of its bytes, since not every path is text.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a path is a string, or an array of bytes")]
enum WirePath {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&Path> for WirePath {
    fn from(path: &Path) -> Self {
        let text = path.to_str().map(|text| Self::Text(text.to_owned()));
        text.unwrap_or_else(|| Self::Bytes(path.as_os_str().as_bytes().to_vec()))
    }
}

impl From<WirePath> for PathBuf {
    fn from(path: WirePath) -> Self {
        match path {
            WirePath::Text(text) => text.into(),
            WirePath::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Set,
    List,
    Status,
    Holders,
    Why,
    Approve,
    Deny,
    Events,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireBusy {
    Fail,
    Wait,
    Kill,
}

/// The longest time that a request may name: a year.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Between SIGTERM and SIGKILL, if the request does not say.
const GRACE: Duration = Duration::from_secs(2);

fn form(text: &str) -> Malformed {
    Malformed::Form(text.to_owned())
}

fn time(key: &str, ms: u64) -> Result<Duration, Malformed> {
    let time = Duration::from_millis(ms);
    if time <= LONGEST { Ok(time) } else { Err(Malformed::Form(format!("'{key}' is too long"))) }
}

impl WireRequest {
    fn new(op: Op) -> Self {
        Self {
            op,
            targets: None,
            all: None,
            mode: None,
            busy: None,
            wait_ms: None,
            grace_ms: None,
            force: None,
            for_ms: None,
            hold: None,
            path: None,
            id: None,
            follow: None,
            pid: None,
        }
    }

    /// Refuses keys that the operation does not take.
    fn only(&self, taken: &[&str]) -> Result<(), Malformed> {
        let there = [
            ("targets", self.targets.is_some()),
            ("all", self.all.is_some()),
            ("mode", self.mode.is_some()),
            ("busy", self.busy.is_some()),
            ("wait-ms", self.wait_ms.is_some()),
            ("grace-ms", self.grace_ms.is_some()),
            ("force", self.force.is_some()),
            ("for-ms", self.for_ms.is_some()),
            ("hold", self.hold.is_some()),
            ("path", self.path.is_some()),
            ("id", self.id.is_some()),
            ("follow", self.follow.is_some()),
            ("pid", self.pid.is_some()),
        ];
        match there.iter().find(|(key, there)| *there && !taken.contains(key)) {
            Some((key, _)) => Err(Malformed::Form(format!("this operation does not take '{key}'"))),
            None => Ok(()),
        }
    }

    fn selection(&mut self) -> Result<Selection, Malformed> {
        match (self.targets.take(), self.all.unwrap_or(false)) {
            (None, true) => Ok(Selection::All),
            (Some(names), false) if !names.is_empty() => Ok(Selection::Named(names)),
            _ => Err(form("expected either 'targets', not empty, or 'all'")),
        }
    }

    fn on_busy(&self) -> Result<Option<OnBusy>, Malformed> {
        let force = self.force.unwrap_or(false);
        let kill_only = self.grace_ms.is_some() || self.force.is_some();
        match (self.busy, self.wait_ms) {
            (None, None) if !kill_only => Ok(None),
            (Some(WireBusy::Fail), None) if !kill_only => Ok(Some(OnBusy::Fail)),
            (Some(WireBusy::Wait), Some(ms)) if !kill_only => {
                Ok(Some(OnBusy::Wait(time("wait-ms", ms)?)))
            }
            (Some(WireBusy::Kill), None) => {
                let grace = self.grace_ms.map_or(Ok(GRACE), |ms| time("grace-ms", ms))?;
                Ok(Some(OnBusy::Kill { grace, force }))
            }
            _ => Err(form("'wait-ms' goes with busy 'wait', 'grace-ms' and 'force' with 'kill'")),
        }
    }

    fn lease(&self, wish: Wish) -> Result<Option<Term>, Malformed> {
        let lease = match (self.for_ms, self.hold.unwrap_or(false)) {
            (None, false) => return Ok(None),
            (Some(ms), false) => Term::For(time("for-ms", ms)?),
            (None, true) => Term::Held,
            (Some(_), true) => return Err(form("either 'for-ms' or 'hold'")),
        };
        if wish == Wish::Rw { Ok(Some(lease)) } else { Err(form("only 'rw' can be a lease")) }
    }
}

fn parse_json(text: &str) -> Result<Request, Malformed> {
    let mut wire: WireRequest =
        serde_json::from_str(text).map_err(|error| Malformed::Form(error.to_string()))?;
    let sandbox = match wire.op {
        Op::Set | Op::List | Op::Status | Op::Holders => wire.pid.take(),
        // `only` refuses it.
        Op::Why | Op::Approve | Op::Deny | Op::Events => None,
    };
    let request = parse_operation(wire)?;
    Ok(match sandbox {
        Some(pid) => Request::In(pid, Box::new(request)),
        None => request,
    })
}

fn parse_operation(mut wire: WireRequest) -> Result<Request, Malformed> {
    match wire.op {
        Op::List => wire.only(&[]).map(|()| Request::List),
        Op::Status => wire.only(&[]).map(|()| Request::Status),
        Op::Holders => {
            wire.only(&["targets", "all"])?;
            wire.selection().map(Request::Holders)
        }
        Op::Why => {
            wire.only(&["path"])?;
            let path = wire.path.map(PathBuf::from).filter(|path| path.is_absolute());
            path.map(Request::Why).ok_or_else(|| form("'why' takes 'path'"))
        }
        Op::Approve | Op::Deny => {
            wire.only(&["id"])?;
            let verdict = if wire.op == Op::Approve { Answer::Approve } else { Answer::Deny };
            let id = wire.id.ok_or_else(|| form("'approve' and 'deny' take 'id'"))?;
            Ok(Request::Decide(Decision { id, verdict }))
        }
        Op::Events => {
            wire.only(&["follow"])?;
            Ok(Request::Events { follow: wire.follow.unwrap_or(false) })
        }
        Op::Set => {
            let busy = ["busy", "wait-ms", "grace-ms", "force"];
            wire.only(
                &[&["targets", "all", "mode", "for-ms", "hold", "path"], &busy[..]].concat(),
            )?;
            let targets = wire.selection()?;
            let wish = wire.mode.ok_or_else(|| form("'set' takes 'mode'"))?;
            let (busy, lease) = (wire.on_busy()?, wire.lease(wish)?);
            let path = match wire.path.take() {
                None => None,
                Some(WirePath::Text(text)) if text.starts_with('/') => {
                    Some(PathClaim { text, classic: false })
                }
                Some(_) => return Err(form("'path' must be absolute, and text")),
            };
            Ok(Request::Set(SetRequest { targets, wish, path, busy, lease }))
        }
    }
}

fn parse_classic(text: &str) -> Result<Request, Malformed> {
    let (verb, rest) = split_word(text);
    let wish = match (verb, rest) {
        ("list", "") => return Ok(Request::List),
        ("quit", "") => return Ok(Request::Quit),
        ("ro", _) => Wish::Ro,
        ("rw", _) => Wish::Rw,
        _ => return Err(form("expected 'ro NAME', 'rw NAME', 'list' or 'quit'")),
    };
    let (name, rest) = split_word(rest);
    let name: TargetName = name.parse()?;
    let path = match rest {
        "" => None,
        path if path.starts_with('/') => Some(PathClaim { text: path.to_owned(), classic: true }),
        pid if is_pid(pid) => None,
        _ => return Err(form("expected an absolute path or a pid after the name")),
    };
    let targets = Selection::Named(vec![name]);
    Ok(Request::Set(SetRequest { path, ..SetRequest::new(targets, wish) }))
}

/// The first word, and what follows it without the blanks around.
fn split_word(text: &str) -> (&str, &str) {
    let text = text.trim_ascii();
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_ascii_start())
}

impl Request {
    /// The JSON line, newline included, that says this. `None` if JSON has no word for
    /// it ([`Request::Quit`]: just close) or it would be too long.
    #[must_use]
    pub fn to_line(&self) -> Option<Vec<u8>> {
        let wire = self.to_wire()?;
        let line = json_line(&wire);
        (line.len() <= MAX_LINE).then_some(line)
    }

    fn to_wire(&self) -> Option<WireRequest> {
        let mut wire = WireRequest::new(Op::List);
        match self {
            Self::In(pid, request) => {
                return Some(WireRequest { pid: Some(*pid), ..request.to_wire()? });
            }
            Self::List => {}
            Self::Status => wire.op = Op::Status,
            Self::Quit => return None,
            Self::Holders(targets) => {
                wire.op = Op::Holders;
                wire.select(targets);
            }
            Self::Why(path) => {
                wire.op = Op::Why;
                wire.path = Some(path.as_path().into());
            }
            Self::Decide(Decision { id, verdict }) => {
                wire.op = if *verdict == Answer::Approve { Op::Approve } else { Op::Deny };
                wire.id = Some(*id);
            }
            Self::Events { follow } => {
                wire.op = Op::Events;
                wire.follow = follow.then_some(true);
            }
            Self::Set(set) => {
                wire.op = Op::Set;
                wire.mode = Some(set.wish);
                wire.select(&set.targets);
                wire.path = set.path.as_ref().map(|path| WirePath::Text(path.text.clone()));
                wire.conditions(set);
            }
        }
        Some(wire)
    }
}

impl WireRequest {
    fn select(&mut self, targets: &Selection) {
        match targets {
            Selection::All => self.all = Some(true),
            Selection::Named(names) => self.targets = Some(names.clone()),
        }
    }

    fn conditions(&mut self, set: &SetRequest) {
        match set.busy {
            None => {}
            Some(OnBusy::Fail) => self.busy = Some(WireBusy::Fail),
            Some(OnBusy::Wait(time)) => {
                self.busy = Some(WireBusy::Wait);
                self.wait_ms = Some(milliseconds(time));
            }
            Some(OnBusy::Kill { grace, force }) => {
                self.busy = Some(WireBusy::Kill);
                self.grace_ms = Some(milliseconds(grace));
                self.force = force.then_some(true);
            }
        }
        match set.lease {
            None => {}
            Some(Term::For(time)) => self.for_ms = Some(milliseconds(time)),
            Some(Term::Held) => self.hold = Some(true),
        }
    }
}
