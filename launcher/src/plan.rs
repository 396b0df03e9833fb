//! The plan: everything that will be done, resolved, in order, as plain data.
//!
//! Equal plans give equal sandboxes. A plan prints as `--dry-run`; nothing after it
//! reads configuration, environment or `PATH`.

mod build;
mod kept;
mod print;

use crate::confine::landlock::Access;
pub use crate::hold::Since;
use crate::paths::is_in;
use crate::profile::Profile;
use crate::spec::Asker;
use remount_broker::heal;
use remount_broker::name::{Authority, Mode, TargetName};
use remount_broker::placeholder::{Kind as StandIn, Wanted};
use remount_broker::proto::OnBusy;
use remount_broker::sys::mount::FileId;
use remount_broker::sys::seccomp::Instruction;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the sandbox's own files are, inside.
pub const CONTROL_DIR: &str = "/run/remount";

/// The directory in that with the filter's sockets.
pub const SOCKETS: &str = "sockets";

/// All that a start does.
#[derive(Debug)]
pub struct Plan {
    /// Profiles it came from, most general first.
    pub profiles: Vec<String>,
    /// Directories made on the host first, mode 0700: an agent's own state.
    pub host_directories: Vec<PathBuf>,
    /// What is made on the host for protected paths that do not exist, and removed at the
    /// end.
    pub placeholders: Vec<Wanted>,
    /// Where it is recorded what was made.
    pub records: PathBuf,
    /// Namespaces and identity.
    pub namespaces: Namespaces,
    /// What is mounted, in order.
    pub mounts: MountPlan,
    /// The Landlock rules; `None` if the profile allows a kernel without Landlock
    /// and this is one.
    pub landlock: Option<LandlockPlan>,
    /// The agent's system call filter; `None` if the profile allows a kernel without
    /// seccomp and this is one.
    pub filter: Option<Vec<Instruction>>,
    /// The program and what it is started with.
    pub exec: Exec,
    /// What the broker and the launcher do about requests.
    pub policy: Policy,
    /// The file in which each execution of a program is written down, without symlinks.
    pub audit: Option<PathBuf>,
    /// What the filter of sockets serves; nothing, and there is none.
    pub sockets: Vec<SocketPlan>,
    /// What a person holds read-only in all sandboxes, as it was when the plan was made.
    pub held: Option<Since>,
    /// Whether, where the host permits no namespaces, it starts without them.
    pub reducible: bool,
    /// What the person should know, e.g. what this kernel lacks.
    pub warnings: Vec<String>,
}

/// How requests are treated, and how the sandbox is called where it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The most special profile.
    pub profile: String,
    /// Where the sandbox was started, outside.
    pub cwd: PathBuf,
    /// What a request does that finds its target busy and does not say.
    pub on_busy: OnBusy,
    /// What is run outside when a request waits for a person; nothing if empty.
    pub confirm_command: Vec<String>,
    /// How long such a request waits.
    pub confirm_timeout: Duration,
}

impl Policy {
    /// What a profile says of them, for a sandbox started in `cwd`.
    pub(crate) fn of(profile: &Profile, cwd: PathBuf) -> Self {
        let settings = &profile.sandbox;
        Self {
            profile: profile.sources.last().cloned().unwrap_or_default(),
            cwd,
            on_busy: settings.on_busy.value.0,
            confirm_command: settings.confirm_command.value.clone(),
            confirm_timeout: settings.confirm_timeout.value.0,
        }
    }
}

/// A program outside of whose socket a part is let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPlan {
    /// What the profile calls it.
    pub name: String,
    /// Where the program listens, outside; without symlinks.
    pub upstream: PathBuf,
}

/// Which namespaces are new, and what is in them. The mount, PID and IPC
/// namespaces always are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// A user namespace that maps this user and group to themselves; `None` for
    /// root, which needs none.
    pub user: Option<Identity>,
    /// No network but loopback.
    pub unshare_network: bool,
    /// A UTS namespace with this host name.
    pub hostname: Option<String>,
}

impl Plan {
    /// Whether the sandbox waits until the launcher has made or taken something outside.
    pub fn waits_for_host(&self) -> bool {
        !self.placeholders.is_empty() || self.mounts.changes().next().is_some()
    }
}

impl Namespaces {
    /// The names of the new namespaces.
    pub fn names(&self) -> Vec<&'static str> {
        let optional = [
            (self.user.is_some(), "user"),
            (self.hostname.is_some(), "uts"),
            (self.unshare_network, "network"),
        ];
        let optional = optional.into_iter().filter_map(|(new, name)| new.then_some(name));
        ["mount", "pid", "ipc"].into_iter().chain(optional).collect()
    }
}

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The mounts and what can be toggled among them.
#[derive(Debug, Clone)]
pub struct MountPlan {
    /// What is mounted, parents before children; the first is the root.
    pub ops: Vec<MountOp>,
    /// So many of them, from the first, need no placeholder of the host.
    pub independent: usize,
    /// The targets; `MountOp::member_of` counts into this list.
    pub targets: Vec<TargetPlan>,
}

/// One step of building the sandbox's file tree.
#[derive(Debug, Clone)]
pub struct MountOp {
    /// Where, inside; absolute and without symlinks.
    pub dest: PathBuf,
    /// What.
    pub kind: OpKind,
    /// The target whose mode this mount follows.
    pub member_of: Option<usize>,
    /// Who asked for it, for messages: `claude.toml:3:8`, `--bind`, …
    pub origin: Asker,
}

/// What a step mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpKind {
    /// The host's file or directory, with the mounts below it.
    Bind {
        /// What is bound.
        source: Source,
        /// Whether files can be changed through it.
        mode: Mode,
        /// Whether device nodes below it work.
        devices: bool,
        /// A file: what is at its path on the host now, also after it was replaced there.
        follow: bool,
        /// Mounts of the host below it, as paths inside, that follow its mode.
        submounts: Vec<PathBuf>,
    },
    /// What is already there, mounted on itself: read-only to protect it under a
    /// writable mount; writable to pin a directory that must not be renamed, since
    /// something below it is mounted.
    SelfBind {
        /// Which file it must be; `None` where the kernel makes it (`/proc`).
        id: Option<FileId>,
        /// What kind of file: also one that takes its place.
        shape: heal::Shape,
        /// Whether files can be changed through it.
        mode: Mode,
        /// What stands in for it if it does not exist.
        stand_in: Option<StandIn>,
        /// Mounts of the host below it, as paths inside, that follow its mode.
        submounts: Vec<PathBuf>,
    },
    /// An empty, private directory in memory.
    Tmpfs {
        /// In bytes; `None` is the kernel's default.
        size: Option<u64>,
        /// Permission bits.
        permissions: u32,
    },
    /// The host's directory, which can be written to and does not change.
    Overlay {
        /// What is seen through.
        lower: Source,
        /// The directory of the host that keeps what is written; without one it is in memory,
        /// and thrown away.
        changes: Option<PathBuf>,
    },
    /// The host's directory as it is, without the mounts below it: its sockets and FIFOs lead
    /// nowhere, since an overlay has files of its own for them, and nothing in it
    /// can be changed once the sandbox is made.
    Sealed(Source),
    /// An empty, read-only directory or file.
    Mask(Shape),
    /// This program in the place of a tool, or of a symlink to it.
    Shim,
    /// A minimal `/dev`; with the terminal at `/dev/console`.
    Dev {
        /// The terminal of the person.
        terminal: Option<PathBuf>,
    },
    /// The process file system of the new PID namespace; in mode `rw`, what a process can
    /// change there of itself.
    Proc(Mode),
    /// All of the host's processes, read-only.
    HostProc,
    /// The sandbox's own directory: `remountctl` and the broker's socket.
    Control {
        /// This program's file: under the name `remountctl` it is the client.
        program: Source,
        /// What modes of agents mean, for `remountctl hook`. With such a table there is a
        /// README for the agent, too; empty is none.
        hooks: String,
        /// What of tools is allowed.
        shims: ShimPlan,
        /// The names of the filter's sockets.
        sockets: Vec<String>,
    },
    /// The filter's socket of this name.
    Socket(String),
}

/// Shims of tools; nothing if there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShimPlan {
    /// What is allowed and where the tools are, for the shims to read.
    pub table: String,
    /// The tools: each has a shim in the directory that is first in `PATH`.
    pub names: Vec<String>,
    /// Directories below [`CONTROL_DIR`] in which the tools are shown, parents first.
    pub directories: Vec<PathBuf>,
    /// Symlinks beside them, and what they name.
    pub links: Vec<(PathBuf, PathBuf)>,
}

impl ShimPlan {
    /// Whether a shim is at `path`, in the directory of shims.
    pub fn is_at(&self, path: &Path) -> bool {
        let dir = Path::new(CONTROL_DIR).join(crate::shim::DIRECTORY);
        let name = path.strip_prefix(dir).ok().and_then(Path::to_str);
        name.is_some_and(|name| self.names.iter().any(|known| known == name))
    }
}

/// Directory or not: a mount and its mountpoint must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

/// A file of the host, as found when the plan was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Absolute, without symlinks.
    pub path: PathBuf,
    /// Which file; checked again when it is mounted. `None` if the start makes it.
    pub id: Option<FileId>,
    /// Directory or not.
    pub shape: Shape,
}

/// A mount whose mode can be switched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetPlan {
    /// Its name.
    pub name: TargetName,
    /// Where it is, inside.
    pub dest: PathBuf,
    /// Its mode at the start.
    pub mode: Mode,
    /// Who may ask for `rw`.
    pub authority: Authority,
    /// The longest that it stays writable at a time.
    pub max_lease: Option<Duration>,
}

/// The Landlock ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LandlockPlan {
    /// The kernel's ABI.
    pub abi: u32,
    /// What is granted, beneath which path.
    pub rules: Vec<(PathBuf, Access)>,
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The file to execute; relative to `cwd` if not absolute.
    pub program: PathBuf,
    /// Arguments, the command's name first.
    pub arguments: Vec<OsString>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The working directory, inside.
    pub cwd: PathBuf,
    /// Start a new terminal session.
    pub new_session: bool,
}

impl MountPlan {
    /// The directories in which overlays keep what is written.
    pub fn changes(&self) -> impl Iterator<Item = &Path> {
        self.ops.iter().filter_map(|op| match &op.kind {
            OpKind::Overlay { changes, .. } => changes.as_deref(),
            _ => None,
        })
    }

    /// What of the host is seen at `path`, a place inside without symlinks.
    pub fn host_path(&self, path: &Path) -> Option<PathBuf> {
        let binds = self.ops.iter().filter_map(|op| match &op.kind {
            OpKind::Bind { source, .. } => Some((&op.dest, &source.path)),
            _ => None,
        });
        let around = binds.filter(|(dest, _)| is_in(path, dest));
        let (dest, source) = around.max_by_key(|(dest, _)| dest.as_os_str().len())?;
        // As components: a trailing slash would not compare.
        Some(source.join(path.strip_prefix(dest).ok()?).components().collect())
    }
}

impl OpKind {
    /// Whether files can be changed there when the sandbox starts.
    pub fn is_writable(&self) -> bool {
        match self {
            Self::Bind { mode, .. } | Self::SelfBind { mode, .. } => *mode == Mode::Rw,
            Self::Tmpfs { .. } | Self::Overlay { .. } | Self::Dev { .. } => true,
            Self::Mask(_)
            | Self::Shim
            | Self::Sealed(_)
            | Self::Proc(_)
            | Self::HostProc
            | Self::Control { .. }
            | Self::Socket(_) => false,
        }
    }
}
