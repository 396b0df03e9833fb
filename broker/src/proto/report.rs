//! What replies carry: targets and their modes, who holds a mount, leases, waiting
//! requests, the sandbox itself.

use crate::name::{Authority, Mode, TargetName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};

/// Whether a target's mounts are where they were at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// They are.
    Ok,
    /// They are not, and it cannot become writable any more; or something in it that is to be
    /// protected is lost for the moment.
    Stale,
    /// remountd only: at its path this sandbox has no mount that could be switched.
    Unmounted,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Stale => "stale",
            Self::Unmounted => "unmounted",
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
    /// What in it is protected and not in its place: moved, removed or replaced outside. Where
    /// that belongs, the target is read-only, whatever its mode, until it is back.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "lossy_if_any",
        deserialize_with = "from_text_if_any"
    )]
    pub lost: Option<PathBuf>,
    /// Where in it there are more git directories of worktrees than can be protected: the same,
    /// until some are removed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "lossy_if_any",
        deserialize_with = "from_text_if_any"
    )]
    pub crowded: Option<PathBuf>,
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

fn lossy_if_any<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    path.as_deref().map(Path::to_string_lossy).serialize(to)
}

fn from_text_if_any<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    Option::<String>::deserialize(from).map(|text| text.map(PathBuf::from))
}

/// What of a mount a process keeps open for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// A file, by a descriptor.
    Open,
    /// A file, mapped into memory.
    Mapped,
}

/// A process because of which a target cannot become read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holder {
    /// The target.
    pub target: TargetName,
    /// Its process id where the broker runs, outside.
    pub pid: i32,
    /// Its process id in the sandbox; none if it is no process of the sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_inside: Option<i32>,
    /// Its command line, shortened, as printable text.
    pub command: String,
    /// The file, as printable text; empty if the kernel does not tell.
    pub path: String,
    /// How it holds the file.
    pub kind: Hold,
    /// When the process started, in seconds since 1970.
    pub since: u64,
}

/// Those found, which are all there are if the search was not cut short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holders {
    /// One for each process and file.
    pub holders: Vec<Holder>,
    /// The search was cut short: there were too many processes or files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// An `rw` that ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lease {
    /// Milliseconds until it ends; none if only a client's end does that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// Clients that hold it open.
    pub held: usize,
    /// It has ended, but the target is busy: the broker keeps trying.
    pub closing: bool,
}

/// A request that waits for a person outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Waiting {
    /// What `approve` and `deny` call it.
    pub id: u64,
    /// What it would make writable.
    pub targets: Vec<TargetName>,
    /// The process that asks, outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Its command line, shortened, as printable text.
    pub command: String,
    /// Milliseconds until it is refused.
    pub left_ms: u64,
}

/// The sandbox that a broker serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SandboxInfo {
    /// Its id, `[a-z0-9]+`.
    pub id: String,
    /// The launcher's process id.
    pub pid: i32,
    /// The profile, the most special one.
    pub profile: String,
    /// The directory that it was started in, as printable text.
    pub cwd: String,
    /// When it started, in seconds since 1970.
    pub started: u64,
}

/// All of a sandbox at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusReport {
    /// The side of the wall that the broker takes the peer to be on.
    pub origin: Origin,
    /// The sandbox, if the broker was told.
    pub sandbox: Option<SandboxInfo>,
    /// Every target.
    pub targets: Vec<TargetReport>,
    /// Requests that wait for a person.
    pub pending: Vec<Waiting>,
    /// Files, as printable text, that decide what git outside executes and that somebody inside
    /// has changed before they were protected.
    pub changed: Vec<String>,
}

/// What decides whether a path can be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verdict {
    /// Where the mount is that the path is on, as printable text.
    pub mount: String,
    /// What is mounted there: `bind`, `tmpfs`, `mask`, …
    pub kind: String,
    /// Who asked for it: a profile's line, an option.
    pub rule: String,
    /// Whether the path can be written now, as far as mounts decide; none if nothing of
    /// the host can be seen there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The target that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// What Landlock grants there, whatever the mount says; none in a sandbox without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock: Option<Grant>,
    /// What is protected and not in its place, so that what is around it, this path too, is
    /// read-only until it is back; as printable text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// Whether the path is a file with a mount of its own: none can be renamed over it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_file: bool,
}

/// What Landlock rules grant for a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Grant {
    /// Below which directory, as printable text; empty if nothing is granted.
    pub beneath: String,
    /// Whether what is there can be written.
    pub write: bool,
}
