//! What a broker is given, and how it ends.

use super::Log;
use super::approvals::PATIENCE;
use crate::heal::Healer;
use crate::held::Watch;
use crate::holders::Inspector;
use crate::proto::{OnBusy, Origin, SandboxInfo, Verdict};
use crate::reason::Reason;
use crate::sandbox::BadTargets;
use crate::target::Target;
use rustix::io::Errno;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a broker works with.
#[derive(Debug)]
pub struct Setup<'a> {
    /// A socket to the launcher: when the launcher is gone, so is the broker.
    pub life: OwnedFd,
    /// What is readable when the sandbox's PID 1 ends: a socket to it, or a pidfd.
    pub init: OwnedFd,
    /// The broker's end of the inherited channel ([`crate::channel::pair`]).
    pub shared: Option<OwnedFd>,
    /// Listening sockets ([`crate::channel::listen`]), and the side that can reach each: this
    /// alone decides what a client is allowed.
    pub listeners: Vec<(OwnedFd, Origin)>,
    /// What can be switched.
    pub targets: Vec<Target>,
    /// What else it knows.
    pub context: Context<'a>,
}

/// What a broker knows of the world around. Without any of it, it switches modes all the
/// same.
#[derive(Debug)]
pub struct Context<'a> {
    /// For holders, and for who is outside. Without it, the channel alone decides that.
    pub inspector: Option<Inspector>,
    /// What is told of the sandbox.
    pub sandbox: Option<SandboxInfo>,
    /// Where events are written.
    pub log: Option<Log>,
    /// What a request does that finds its target busy and does not say.
    pub on_busy: OnBusy,
    /// How long a request waits for a person.
    pub approval_timeout: Duration,
    /// What answers `why`.
    pub explain: Option<Explain<'a>>,
    /// What puts mounts back that the host takes away.
    pub healer: Option<Healer>,
    /// Where it is written what a person holds read-only.
    pub holds: Option<Arc<Watch>>,
}

impl Default for Context<'_> {
    fn default() -> Self {
        Self {
            inspector: None,
            sandbox: None,
            log: None,
            on_busy: OnBusy::Fail,
            approval_timeout: PATIENCE,
            explain: None,
            healer: None,
            holds: None,
        }
    }
}

/// Says what decides about a path; computed only when somebody asks.
pub struct Explain<'a>(Box<About<'a>>);

type About<'a> = dyn Fn(&Path) -> Option<Verdict> + Send + 'a;

impl<'a> Explain<'a> {
    /// Asks `about`.
    pub fn new(about: impl Fn(&Path) -> Option<Verdict> + Send + 'a) -> Self {
        Self(Box::new(about))
    }

    pub(super) fn about(&self, path: &Path) -> Option<Verdict> {
        (self.0)(path)
    }
}

impl fmt::Debug for Explain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Explain")
    }
}

/// Why the broker is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The sandbox's PID 1 has exited.
    InitExited,
    /// The launcher has.
    LauncherGone,
}

/// The broker cannot work. Nothing that a client does leads here.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The targets are unusable.
    #[error(transparent)]
    Targets(#[from] BadTargets),
    /// A listener cannot be used.
    #[error("make the listener non-blocking: {:#}", Reason::from(*.0))]
    Listener(Errno),
    /// Waiting fails.
    #[error("wait for events: {:#}", Reason::from(*.0))]
    Poll(Errno),
    /// The timer that ends what waits too long cannot be made.
    #[error("make a timer: {:#}", Reason::from(*.0))]
    Timer(Errno),
}
