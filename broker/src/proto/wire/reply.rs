//! Replies: two dialects are written, one is read.

use super::json_line;
use crate::escape::Escaped;
use crate::proto::{
    Dialect, ErrorCode, Event, Holder, Holders, Origin, Refusal, Reply, SandboxInfo, StatusReport,
    TargetReport, Verdict, Waiting,
};
use serde::{Deserialize, Serialize};

/// A JSON reply, all kinds in one.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireReply {
    ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sandbox: Option<SandboxInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<TargetReport>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pending: Vec<Waiting>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    changed: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holders: Option<Vec<Holder>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    more: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<Verdict>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    events: Option<Vec<Event>>,
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
            Self::Refused(refusal) => {
                let mut text = format!("ERROR: {}", refusal.message);
                let holders = refusal.holders.iter().flat_map(|found| &found.holders);
                for (n, holder) in holders.enumerate() {
                    let before = if n == 0 { ": held by" } else { "," };
                    text.push_str(&format!("{before} {} ({})", holder.pid, holder.command));
                }
                text + "\n"
            }
            Self::List(targets) => {
                let mut text = String::new();
                for target in targets {
                    let path = Escaped::path(&target.path);
                    text.push_str(&format!("{} {} {path}\n", target.name, target.mode));
                }
                text + "OK\n"
            }
            // The dialect has no request that any other reply would answer.
            _ => "OK\n".to_owned(),
        }
    }

    fn to_wire(&self) -> WireReply {
        let done = WireReply { ok: true, ..WireReply::default() };
        match self {
            Self::Bye => done,
            Self::Done(targets) | Self::List(targets) => {
                WireReply { targets: Some(targets.clone()), ..done }
            }
            Self::Status(status) => WireReply {
                origin: Some(status.origin),
                sandbox: status.sandbox.clone(),
                targets: Some(status.targets.clone()),
                pending: status.pending.clone(),
                changed: status.changed.clone(),
                ..done
            },
            Self::Holders(Holders { holders, more }) => {
                WireReply { holders: Some(holders.clone()), more: *more, ..done }
            }
            Self::Why(verdict) => WireReply { why: Some(verdict.clone()), ..done },
            Self::Events(events) => WireReply { events: Some(events.clone()), ..done },
            Self::Refused(refusal) => WireReply {
                ok: false,
                error: Some(refusal.error),
                message: Some(refusal.message.clone()),
                hint: refusal.hint.clone(),
                holders: refusal.holders.as_ref().map(|found| found.holders.clone()),
                more: refusal.holders.as_ref().is_some_and(|found| found.more),
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
        let holders = wire.holders.map(|holders| Holders { holders, more: wire.more });
        if !wire.ok {
            let error = wire.error.ok_or_else(|| BadReply("no error code".to_owned()))?;
            let message = wire.message.unwrap_or_default();
            return Ok(Self::Refused(Refusal { error, message, hint: wire.hint, holders }));
        }
        Ok(match (wire.origin, wire.targets) {
            (Some(origin), Some(targets)) => {
                let (sandbox, pending, changed) = (wire.sandbox, wire.pending, wire.changed);
                let status = StatusReport { origin, sandbox, targets, pending, changed };
                Self::Status(Box::new(status))
            }
            (None, Some(targets)) => Self::List(targets),
            (_, None) => match (holders, wire.why, wire.events) {
                (Some(holders), ..) => Self::Holders(holders),
                (_, Some(verdict), _) => Self::Why(verdict),
                (_, _, Some(events)) => Self::Events(events),
                _ => Self::Bye,
            },
        })
    }
}
