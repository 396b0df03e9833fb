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
//! replacement characters, and with escapes (see [`Escaped`]) everywhere else. Paths
//! identify nothing in this protocol; names do.

use crate::escape::Escaped;
use crate::name::{Authority, BadName, Mode, TargetName};
use crate::reason::Reason;
use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// The longest request line, in bytes, newline included.
pub const MAX_LINE: usize = 4096;

/// How a peer speaks, and is answered: decided anew by each line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Words, as remountd's first clients spoke.
    Classic,
    /// JSON.
    Json,
}

/// A peer's request: a claim, which gives no right to anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Change modes.
    Set(SetRequest),
    /// Name the targets.
    List,
    /// Name the targets and tell the peer what it is.
    Status,
    /// Name the processes because of which these cannot become read-only.
    Holders(Selection),
    /// Say what decides about a path.
    Why(PathBuf),
    /// Decide about a request that waits for a person.
    Decide(Decision),
    /// Tell what happened, the last events first; then, if `follow`, what happens.
    Events {
        /// Whether to go on.
        follow: bool,
    },
    /// End the connection.
    Quit,
    /// Ask this of the sandbox that the process with this id is in. Only remountd, whose
    /// socket many sandboxes share, knows more than one.
    In(u32, Box<Request>),
}

/// A request to change modes: all of it happens, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRequest {
    /// What to change.
    pub targets: Selection,
    /// The mode wanted.
    pub wish: Wish,
    /// Where the peer believes the target to be.
    pub path: Option<PathClaim>,
    /// What to do if a file is open for writing; none for the sandbox's default.
    pub busy: Option<OnBusy>,
    /// How long `rw` is to last; none for until somebody ends it.
    pub lease: Option<Term>,
}

impl SetRequest {
    /// A request without conditions.
    #[must_use]
    pub fn new(targets: Selection, wish: Wish) -> Self {
        Self { targets, wish, path: None, busy: None, lease: None }
    }
}

/// What to do when a target cannot become read-only since a file is open for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBusy {
    /// Refuse at once, naming the holders.
    Fail,
    /// Try again for this long, then refuse.
    Wait(Duration),
    /// End the holders.
    Kill {
        /// The time between SIGTERM and SIGKILL.
        grace: Duration,
        /// Whether the asking process and its ancestors may be ended too.
        force: bool,
    },
}

/// How long a lease lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// This long.
    For(Duration),
    /// Until the connection of the client ends.
    Held,
}

/// A person's word on a waiting request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The request.
    pub id: u64,
    /// What is said.
    pub verdict: Answer,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Carry it out.
    Approve,
    /// Refuse it.
    Deny,
}

/// Which targets a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These. Never empty when it was parsed.
    Named(Vec<TargetName>),
    /// Every target of the sandbox.
    All,
}

/// The mode wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Read-only.
    Ro,
    /// Read-write.
    Rw,
    /// For each target, the mode that it does not have.
    Toggle,
}

impl Wish {
    /// The mode that a target is to have whose mode `now` tells: asked only if it matters.
    #[must_use]
    pub fn from(self, now: impl FnOnce() -> Mode) -> Mode {
        match self {
            Self::Ro => Mode::Ro,
            Self::Rw => Mode::Rw,
            Self::Toggle => now().flipped(),
        }
    }
}

/// The path in a classic line. A path may hold blanks and may be followed by a pid, so
/// what it says is only known next to the path that it ought to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathClaim {
    text: String,
    /// Whether the text may end with a pid, as a classic line's.
    classic: bool,
}

impl PathClaim {
    /// Just this path.
    #[must_use]
    pub fn exact(path: &str) -> Self {
        Self { text: path.to_owned(), classic: false }
    }

    /// The path as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the peer named `path`.
    pub fn names(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        path == self.text.as_bytes() || path == self.without_pid().as_bytes()
    }

    /// The path that is meant by one who may name a mount below `target`: a path that
    /// begins with the target's is itself, any other is appended, as remountd's first
    /// clients expect. `None` if it leads upwards.
    #[must_use]
    pub fn below(&self, target: &Path) -> Option<PathBuf> {
        let claimed = Path::new(self.without_pid());
        if claimed.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        let rest = claimed.strip_prefix(target).or_else(|_| claimed.strip_prefix("/")).ok()?;
        // Without the slash that joining nothing would leave behind.
        Some(target.join(rest).components().collect())
    }

    fn without_pid(&self) -> &str {
        match self.text.rsplit_once(char::is_whitespace) {
            Some((before, pid)) if self.classic && is_pid(pid) => before.trim_end(),
            _ => &self.text,
        }
    }
}

fn is_pid(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not end within [`MAX_LINE`] bytes.
    #[error("line is longer than {MAX_LINE} bytes")]
    TooLong,
    /// It is not UTF-8, or has a NUL in it.
    #[error("line is not UTF-8 text")]
    NotText,
    /// It has the form of neither dialect, or says something impossible.
    #[error("{}", Escaped::text(.0))]
    Form(String),
}

impl From<BadName> for Malformed {
    fn from(bad: BadName) -> Self {
        // Not `to_string`: `Form` escapes what it shows, and the name's own text
        // would be escaped twice.
        Self::Form(format!("'{}' is no target name", bad.0))
    }
}

/// Everything that a request can meet but success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The line is no request.
    #[error("bad request: {0}")]
    BadRequest(#[from] Malformed),
    /// No target has this name.
    #[error("unknown target {0}")]
    UnknownTarget(TargetName),
    /// A classic line named another path than the target's.
    #[error("target {name} is at {}, not at the path given", Escaped::path(.path))]
    OtherPath {
        /// The target.
        name: TargetName,
        /// Where it is.
        path: PathBuf,
    },
    /// The peer may not make this target writable.
    #[error("make {name} writable: authority is {authority}, and this request came from inside")]
    NotAuthorised {
        /// The target.
        name: TargetName,
        /// Who may.
        authority: Authority,
    },
    /// A person holds a directory read-only in all sandboxes.
    #[error("make {name} writable: {} is held read-only", Escaped::path(.path))]
    Held {
        /// The target.
        name: TargetName,
        /// The directory, on the host.
        path: PathBuf,
    },
    /// It cannot be found out what is held.
    #[error("make {name} writable: read what is held read-only: {}", Reason::from(*.errno))]
    HeldUnknown {
        /// The target.
        name: TargetName,
        /// Why.
        errno: Errno,
    },
    /// A mount is no longer where the sandbox was given it.
    #[error("{}: {} is no longer the mount it was", stale(name, *mode), Escaped::path(.path))]
    Stale {
        /// The target.
        name: TargetName,
        /// The first mount found amiss.
        path: PathBuf,
        /// The mode asked for: `rw` was refused, `ro` was done as far as mounts are left.
        mode: Mode,
    },
    /// A mount was taken out of the tree, where the kernel lets nobody change it.
    #[error(
        "make {name} read-only: {} was detached, and what is in it already can still write",
        Escaped::path(.path)
    )]
    Detached {
        /// The target.
        name: TargetName,
        /// Where the mount was.
        path: PathBuf,
    },
    /// A file of the mount stayed open for writing.
    #[error("make {name} read-only: a file on {} is open for writing", Escaped::path(.path))]
    Busy {
        /// The target.
        name: TargetName,
        /// The mount that refused.
        path: PathBuf,
    },
    /// The kernel refused, or the broker gave the request up.
    #[error("make {name} {mode}: {}: {reason}", Escaped::path(.path))]
    Failed {
        /// The target.
        name: TargetName,
        /// The mode wanted.
        mode: Mode,
        /// The mount that failed.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The broker dropped the request to make room for others.
    #[error("request dropped: too many requests at a time")]
    Dropped,
    /// Only remountd can be asked of another sandbox.
    #[error("find the process: this broker knows its own sandbox only")]
    OneSandbox,
    /// Only a peer outside may ask this.
    #[error("{0}: only from outside the sandbox")]
    OutsideOnly(&'static str),
    /// No request waits under this id.
    #[error("request {0}: none waits under this number")]
    NoSuchRequest(u64),
    /// Another request for the target waits already.
    #[error("make {name} writable: request {id} already waits for approval")]
    AlreadyWaiting {
        /// The target.
        name: TargetName,
        /// The request that waits.
        id: u64,
    },
    /// A person said no.
    #[error("make the target writable: request {0} was denied")]
    Denied(u64),
    /// Nobody said anything in time.
    #[error("make the target writable: nobody approved request {0} in time")]
    Unanswered(u64),
    /// Ending the holders would end what must not be ended.
    #[error("make {name} read-only: {reason}")]
    Spared {
        /// The target.
        name: TargetName,
        /// Which holder was spared and why.
        reason: String,
    },
}

fn stale(name: &TargetName, mode: Mode) -> String {
    match mode {
        Mode::Ro => format!("{name} is read-only now, but stale"),
        Mode::Rw => format!("make {name} writable: stale"),
    }
}

impl Fault {
    /// The word for it in a reply.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BadRequest(_) => ErrorCode::BadRequest,
            Self::UnknownTarget(_) | Self::OtherPath { .. } | Self::OneSandbox => {
                ErrorCode::UnknownTarget
            }
            Self::NotAuthorised { .. }
            | Self::Held { .. }
            | Self::HeldUnknown { .. }
            | Self::OutsideOnly(_)
            | Self::AlreadyWaiting { .. }
            | Self::Denied(_)
            | Self::Unanswered(_) => ErrorCode::NotAuthorised,
            Self::Stale { .. } | Self::Detached { .. } => ErrorCode::Stale,
            Self::Busy { .. } | Self::Spared { .. } => ErrorCode::Busy,
            Self::Failed { .. } | Self::Dropped | Self::NoSuchRequest(_) => ErrorCode::Failed,
        }
    }

    /// What the peer can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::BadRequest(_) => None,
            Self::UnknownTarget(_) | Self::OtherPath { .. } => {
                Some("'remountctl list' names the targets")
            }
            Self::NotAuthorised { authority: Authority::Confirm, .. } => {
                Some("a person outside the sandbox has to approve it")
            }
            Self::NotAuthorised { .. } => {
                Some("only a request from outside the sandbox can make it writable")
            }
            Self::Held { .. } => Some("'remountctl rw --path DIR', outside, ends that"),
            Self::HeldUnknown { .. } => {
                Some("mend the file 'held' in $XDG_STATE_HOME/remount, outside, or remove it")
            }
            Self::Stale { .. } | Self::Detached { .. } => Some(
                "the directory was moved or replaced outside; start the sandbox anew to write there",
            ),
            Self::Busy { .. } => {
                Some("close what writes there, or use --wait 10s or --kill; nothing was changed")
            }
            Self::Spared { .. } => Some("end it yourself, or add --force; nothing was changed"),
            Self::Failed { .. } | Self::OneSandbox => None,
            Self::Dropped => Some("try again"),
            Self::OutsideOnly(_) => Some("run it on the host, not in the sandbox"),
            Self::NoSuchRequest(_) => Some("'remountctl status' names those that wait"),
            Self::AlreadyWaiting { .. } => {
                Some("'remountctl approve' or 'remountctl deny', outside, decides about it")
            }
            Self::Denied(_) | Self::Unanswered(_) => None,
        }
    }
}

/// The word for a fault in a reply: a program decides by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// [`Fault::Busy`].
    Busy,
    /// [`Fault::UnknownTarget`].
    UnknownTarget,
    /// [`Fault::NotAuthorised`].
    NotAuthorised,
    /// [`Fault::Stale`] or [`Fault::Detached`].
    Stale,
    /// [`Fault::BadRequest`].
    BadRequest,
    /// Anything else, also what a newer broker may say.
    #[serde(other)]
    Failed,
}

/// Whether a target's mounts are where they were at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// They are.
    Ok,
    /// They are not; it cannot become writable any more.
    Stale,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Stale => "stale",
        })
    }
}

/// Which side of the sandbox's wall a request comes from. The channel that it came
/// through decides, never its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A process in the sandbox.
    Inside,
    /// A process of the host.
    Outside,
}

/// A target as the broker sees it at the moment of the reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// Its name.
    pub name: TargetName,
    /// Where it is, in the sandbox. In JSON not necessarily exact (see the module).
    #[serde(serialize_with = "lossy", deserialize_with = "from_text")]
    pub path: PathBuf,
    /// `rw` if anything can be written through any of its mounts.
    pub mode: Mode,
    /// Whether its mounts are where they were.
    pub state: State,
    /// Who may make it writable.
    pub authority: Authority,
    /// The end that its `rw` has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
}

fn lossy<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

fn from_text<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    String::deserialize(from).map(PathBuf::from)
}

/// A refusal as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub error: ErrorCode,
    /// For people.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Because of whom, if the target is busy.
    pub holders: Option<Holders>,
}

impl From<&Fault> for Refusal {
    fn from(fault: &Fault) -> Self {
        Self {
            error: fault.code(),
            message: fault.to_string(),
            hint: fault.hint().map(str::to_owned),
            holders: None,
        }
    }
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

mod report;
mod wire;
pub use report::{
    Grant, Hold, Holder, Holders, Lease, SandboxInfo, StatusReport, Verdict, Waiting,
};
pub use wire::{BadReply, parse};
pub(crate) use wire::{json_line, milliseconds};

/// An event of the log, as it stands there.
pub type Event = serde_json::Value;

#[cfg(test)]
pub(crate) mod tests;
