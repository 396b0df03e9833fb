//! What can be asked for.

use crate::name::{Mode, TargetName};
use serde::{Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

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

    /// As it is written.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ro => "ro",
            Self::Rw => "rw",
            Self::Toggle => "toggle",
        }
    }
}

/// The path in a classic line. A path may hold blanks and may be followed by a pid, so
/// what it says is only known next to the path that it ought to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathClaim {
    pub(super) text: String,
    /// Whether the text may end with a pid, as a classic line's.
    pub(super) classic: bool,
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

pub(super) fn is_pid(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}
