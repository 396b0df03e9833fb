//! Everything that a request can meet but success, and how that is told.

use super::Holders;
use crate::escape::Escaped;
use crate::name::{Authority, BadName, Mode, TargetName};
use crate::reason::Reason;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not end within [`super::MAX_LINE`] bytes.
    #[error("line is longer than {} bytes", super::MAX_LINE)]
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
    /// Something in the target that is to be protected is not in its place.
    #[error("make {name} writable: {} was moved, removed or replaced outside", Escaped::path(.path))]
    Lost {
        /// The target.
        name: TargetName,
        /// What.
        path: PathBuf,
    },
    /// Something in the target is to be protected, and cannot be.
    #[error("make {name} writable: not all worktrees in {} can be protected", Escaped::path(.path))]
    Crowded {
        /// The target.
        name: TargetName,
        /// Where the git directories of worktrees are.
        path: PathBuf,
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
            Self::Stale { .. }
            | Self::Lost { .. }
            | Self::Crowded { .. }
            | Self::Detached { .. } => ErrorCode::Stale,
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
            Self::Lost { .. } => Some(LOST_HINT),
            Self::Crowded { .. } => Some(CROWDED_HINT),
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

/// What to do about a protected path that is lost.
pub const LOST_HINT: &str = "make it again or move it back, outside: until then what is around it \
                             is read-only; what the sandbox made itself comes back in a moment";

/// What to do where there are more worktrees than can be protected.
pub const CROWDED_HINT: &str = "remove some, outside ('git worktree prune' those that are gone)";

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
    /// [`Fault::Stale`], [`Fault::Lost`], [`Fault::Crowded`] or [`Fault::Detached`].
    Stale,
    /// [`Fault::BadRequest`].
    BadRequest,
    /// Anything else, also what a newer broker may say.
    #[serde(other)]
    Failed,
}

impl ErrorCode {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::UnknownTarget => "unknown-target",
            Self::NotAuthorised => "not-authorised",
            Self::Stale => "stale",
            Self::BadRequest => "bad-request",
            Self::Failed => "failed",
        }
    }
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
