//! The protocol's bytes: parsing and printing, for both ends.

use super::{
    Dialect, ErrorCode, MAX_LINE, Malformed, Origin, PathClaim, Refusal, Reply, Request, Selection,
    SetRequest, TargetReport, Wish, is_pid,
};
use crate::escape::Escaped;
use crate::name::TargetName;
use serde::{Deserialize, Serialize};

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
/// [`parse_json`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRequest {
    op: Op,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<TargetName>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Wish>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Set,
    List,
    Status,
}

fn form(text: &str) -> Malformed {
    Malformed::Form(text.to_owned())
}

fn parse_json(text: &str) -> Result<Request, Malformed> {
    let wire: WireRequest =
        serde_json::from_str(text).map_err(|error| Malformed::Form(error.to_string()))?;
    if wire.op != Op::Set {
        if wire.targets.is_some() || wire.all.is_some() || wire.mode.is_some() {
            return Err(form("'list' and 'status' take nothing but 'op'"));
        }
        return Ok(if wire.op == Op::List { Request::List } else { Request::Status });
    }
    let targets = match (wire.targets, wire.all.unwrap_or(false)) {
        (None, true) => Selection::All,
        (Some(names), false) if !names.is_empty() => Selection::Named(names),
        _ => return Err(form("'set' takes either 'targets', not empty, or 'all'")),
    };
    let wish = wire.mode.ok_or_else(|| form("'set' takes 'mode'"))?;
    Ok(Request::Set(SetRequest { targets, wish, path: None }))
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
        path if path.starts_with('/') => Some(PathClaim(path.to_owned())),
        pid if is_pid(pid) => None,
        _ => return Err(form("expected an absolute path or a pid after the name")),
    };
    Ok(Request::Set(SetRequest { targets: Selection::Named(vec![name]), wish, path }))
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
        let mut wire = WireRequest { op: Op::List, targets: None, all: None, mode: None };
        match self {
            Self::List => {}
            Self::Status => wire.op = Op::Status,
            Self::Quit => return None,
            Self::Set(set) => {
                wire.op = Op::Set;
                wire.mode = Some(set.wish);
                match &set.targets {
                    Selection::All => wire.all = Some(true),
                    Selection::Named(names) => wire.targets = Some(names.clone()),
                }
            }
        }
        let line = json_line(&wire);
        (line.len() <= MAX_LINE).then_some(line)
    }
}

/// A JSON reply, all kinds in one.
#[derive(Default, Serialize, Deserialize)]
struct WireReply {
    ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<TargetReport>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<ErrorCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// A reply that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("understand the broker's reply: {0}")]
pub struct BadReply(pub String);

impl Reply {
    /// The reply's line or lines, newline included.
    #[must_use]
    pub fn to_bytes(&self, dialect: Dialect) -> Vec<u8> {
        match dialect {
            Dialect::Classic => self.to_classic().into_bytes(),
            Dialect::Json => json_line(&self.to_wire()),
        }
    }

    fn to_classic(&self) -> String {
        match self {
            Self::Refused(refusal) => format!("ERROR: {}\n", refusal.message),
            Self::Done(_) | Self::Bye => "OK\n".to_owned(),
            Self::List(targets) | Self::Status(_, targets) => {
                let mut text = String::new();
                for target in targets {
                    let path = Escaped::path(&target.path);
                    text.push_str(&format!("{} {} {path}\n", target.name, target.mode));
                }
                text + "OK\n"
            }
        }
    }

    fn to_wire(&self) -> WireReply {
        let done = WireReply { ok: true, ..WireReply::default() };
        match self {
            Self::Bye => done,
            Self::Done(targets) | Self::List(targets) => {
                WireReply { targets: Some(targets.clone()), ..done }
            }
            Self::Status(origin, targets) => {
                WireReply { origin: Some(*origin), targets: Some(targets.clone()), ..done }
            }
            Self::Refused(refusal) => WireReply {
                ok: false,
                error: Some(refusal.error),
                message: Some(refusal.message.clone()),
                hint: refusal.hint.clone(),
                ..WireReply::default()
            },
        }
    }

    /// Reads a line of JSON (its newline may be there). Keys that it does not know are
    /// passed over: a broker may be newer than its client. A list and the answer to a
    /// change look alike, and are both [`Reply::List`].
    ///
    /// # Errors
    /// The line is no reply.
    pub fn from_json(line: &[u8]) -> Result<Self, BadReply> {
        let wire: WireReply =
            serde_json::from_slice(line).map_err(|error| BadReply(error.to_string()))?;
        if !wire.ok {
            let error = wire.error.ok_or_else(|| BadReply("no error code".to_owned()))?;
            let message = wire.message.unwrap_or_default();
            return Ok(Self::Refused(Refusal { error, message, hint: wire.hint }));
        }
        Ok(match (wire.origin, wire.targets) {
            (Some(origin), Some(targets)) => Self::Status(origin, targets),
            (None, Some(targets)) => Self::List(targets),
            (_, None) => Self::Bye,
        })
    }
}

/// `value` as a line of JSON.
fn json_line(value: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::with_capacity(256);
    // The types above hold no map with other keys than text and no foreign Serialize,
    // and a Vec takes every byte, so this cannot fail; should it ever, an empty line
    // tells the peer that there is no answer.
    if serde_json::to_writer(&mut line, value).is_err() {
        line.clear();
    }
    line.push(b'\n');
    line
}
