//! The protocol: what a line says, and what is answered. No I/O.
//!
//! A request is one line of UTF-8 without NUL, at most [`MAX_LINE`] bytes with its
//! newline. A line that begins with `{` is JSON and gets one line of JSON:
//!
//! ```text
//! {"op":"set","targets":["workspace"],"mode":"ro"}     mode: ro, rw or toggle
//! {"op":"set","all":true,"mode":"ro"}
//! {"op":"set","targets":["a"],"mode":"ro","busy":"wait","wait-ms":2000}
//! {"op":"set","targets":["a"],"mode":"ro","busy":"kill","grace-ms":2000,"force":true}
//! {"op":"set","targets":["a"],"mode":"rw","for-ms":60000}       a lease
//! {"op":"set","targets":["a"],"mode":"rw","hold":true}          until the connection ends
//! {"op":"list"}
//! {"op":"status"}
//! {"op":"holders","targets":["workspace"]}                      or "all":true
//! {"op":"why","path":"/p/x"}
//! {"op":"approve","id":1}    {"op":"deny","id":1}               only from outside
//! {"op":"events"}    {"op":"events","follow":true}              only from outside
//! {"op":"list","pid":4711}     remountd: of the sandbox that this process is in
//! {"op":"set","targets":["a"],"mode":"ro","path":"/p/x"}    remountd: a mount below the target
//! {"ok":true,"targets":[{"name":"workspace","path":"/p","mode":"ro","state":"ok","authority":"self"}]}
//! {"ok":false,"error":"busy","message":"…","hint":"…"}
//! ```
//!
//! Any other line is the classic dialect of remountd: `ro NAME [PATH] [PID]`,
//! `rw NAME [PATH] [PID]`, `list`, `quit`, answered by `OK` or `ERROR: …`; before its
//! `OK`, `list` prints `NAME MODE PATH` lines. The pid is ignored: a peer is who the
//! kernel says it is. The limit on a line's length binds peers; a reply is as long as
//! the broker's own targets make it.
//!
//! Paths are bytes, but JSON is text: a path that is not UTF-8 is shown there with
//! replacement characters, and with escapes (see [`Escaped`](crate::escape::Escaped))
//! everywhere else. Paths identify nothing in this protocol; names do.

/// The longest request line, in bytes, newline included.
pub const MAX_LINE: usize = 4096;

mod fault;
mod report;
mod request;
mod wire;

pub use fault::{CROWDED_HINT, ErrorCode, Fault, LOST_HINT, Malformed, Refusal};
pub use report::{
    Grant, Hold, Holder, Holders, Lease, Origin, SandboxInfo, State, StatusReport, TargetReport,
    Verdict, Waiting,
};
pub use request::{
    Answer, Decision, OnBusy, PathClaim, Request, Selection, SetRequest, Term, Wish,
};
pub use wire::{BadReply, parse};
pub(crate) use wire::{json_line, milliseconds};

/// How a peer speaks, and is answered: decided anew by each line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Words, as remountd's first clients spoke.
    Classic,
    /// JSON.
    Json,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done: the targets changed (all of them have the mode wanted).
    Done(Vec<TargetReport>),
    /// The targets there are.
    List(Vec<TargetReport>),
    /// The sandbox, as it is now.
    Status(Box<StatusReport>),
    /// Who holds targets.
    Holders(Holders),
    /// What decides about a path.
    Why(Verdict),
    /// The last events, each an object of JSON.
    Events(Vec<Event>),
    /// Farewell.
    Bye,
    /// Not done, and nothing changed (but see [`Fault::Stale`]).
    Refused(Refusal),
}

/// An event of the log, as it stands there.
pub type Event = serde_json::Value;

#[cfg(test)]
pub(crate) mod tests;
