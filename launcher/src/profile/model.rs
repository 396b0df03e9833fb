//! The merged profile: what a sandbox may do, every part with the place that says so.

use super::expand::{PathText, ValueText};
use super::shims::{Shim, ShimName};
use super::source::Located;
use super::types::{
    Busy, EnvironmentPattern, FileMode, GitPolicy, HookWord, Hostname, Missing, MissingProtect,
    Need, Network, Proc, Size, SocketAccess, Span, UserNamespace, VariableName,
};
use remount_broker::name::{Authority, Mode, TargetName};
use remount_broker::proto::OnBusy;
use remount_broker::server::PATIENCE;
use std::collections::BTreeMap;
use std::ffi::OsStr;

/// What a sandbox may do: several files merged, checked, and not yet expanded.
#[derive(Debug, Clone)]
pub struct Profile {
    /// What the last file with a description says.
    pub description: Option<String>,
    /// Every file that went in, in the order of merging.
    pub sources: Vec<String>,
    /// `[arguments]`: by a command's name, what its arguments begin with.
    pub arguments: BTreeMap<String, Located<Vec<String>>>,
    /// `[sandbox]`.
    pub sandbox: Sandbox,
    /// `[workspace]`.
    pub workspace: Workspace,
    /// `[[bind]]`, no two with one destination, nor with that of a tmpfs, a cache or an overlay.
    pub binds: Vec<Located<Bind>>,
    /// `[[tmpfs]]`.
    pub tmpfs: Vec<Located<Tmpfs>>,
    /// `[[cache]]`.
    pub caches: Vec<Located<Cache>>,
    /// `[[overlay]]` and `[[tmp-overlay]]`.
    pub overlays: Vec<Located<Overlay>>,
    /// `mask`.
    pub masks: Vec<Located<PathText>>,
    /// `protect`.
    pub protects: Vec<Located<Protect>>,
    /// `[environment]`.
    pub environment: Environment,
    /// `[hooks.AGENT]`: by agent and its mode, which mode the targets get.
    pub hooks: BTreeMap<HookWord, BTreeMap<HookWord, Located<Mode>>>,
    /// `[shims.TOOL]`.
    pub shims: BTreeMap<ShimName, Located<Shim>>,
    /// `[sockets.NAME]`.
    pub sockets: BTreeMap<HookWord, Located<Socket>>,
    /// Things that are no error and yet probably not meant, for a person to read.
    pub notes: Vec<Located<String>>,
}

impl Profile {
    /// What holds if no file says anything, with the workspace's target called `workspace`.
    pub(super) fn empty(workspace: TargetName) -> Self {
        Self {
            description: None,
            sources: Vec::new(),
            arguments: BTreeMap::new(),
            sandbox: Sandbox {
                network: Located::default(Network::default()),
                hostname: None,
                authority: Located::default(Authority::Inside),
                landlock: Located::default(Need::default()),
                seccomp: Located::default(Need::default()),
                new_session: Located::default(false),
                user_namespace: Located::default(UserNamespace::default()),
                read_only: Located::default(false),
                proc: Located::default(Proc::default()),
                namespaces: Located::default(Need::default()),
                on_busy: Located::default(Busy(OnBusy::Fail)),
                max_lease: None,
                confirm_command: Located::default(Vec::new()),
                confirm_timeout: Located::default(Span(PATIENCE)),
            },
            workspace: Workspace {
                path: Located::default(PathText::project()),
                name: Located::default(workspace),
                mode: Located::default(Mode::Rw),
                authority: None,
                git: Located::default(GitPolicy::default()),
                max_lease: None,
            },
            binds: Vec::new(),
            tmpfs: Vec::new(),
            caches: Vec::new(),
            overlays: Vec::new(),
            masks: Vec::new(),
            protects: Vec::new(),
            environment: Environment {
                set: BTreeMap::new(),
                unset: Vec::new(),
                clear: Located::default(false),
            },
            hooks: BTreeMap::new(),
            shims: BTreeMap::new(),
            sockets: BTreeMap::new(),
            notes: Vec::new(),
        }
    }
}

/// What holds for the sandbox as a whole.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Which network it has.
    pub network: Located<Network>,
    /// What it is called; the host's name if not said.
    pub hostname: Option<Located<Hostname>>,
    /// Who may open its targets, where a target does not say.
    pub authority: Located<Authority>,
    /// Whether a kernel without Landlock will do.
    pub landlock: Located<Need>,
    /// Whether a kernel without seccomp will do.
    pub seccomp: Located<Need>,
    /// Whether the command gets a terminal session of its own.
    pub new_session: Located<bool>,
    /// When there is a user namespace.
    pub user_namespace: Located<UserNamespace>,
    /// Whether nothing of the host is writable, whatever else the profile says, until a
    /// person outside opens a target.
    pub read_only: Located<bool>,
    /// Which processes are seen.
    pub proc: Located<Proc>,
    /// Whether a host that permits no namespaces will do, if nothing is writable.
    pub namespaces: Located<Need>,
    /// What a request does that finds its target busy and does not say.
    pub on_busy: Located<Busy>,
    /// The longest that a target stays writable, where a target does not say.
    pub max_lease: Option<Located<Span>>,
    /// What is run outside when a request waits for a person; nothing if empty.
    pub confirm_command: Located<Vec<String>>,
    /// How long such a request waits.
    pub confirm_timeout: Located<Span>,
}

/// The project.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Where it is; without `{workspace}` in it.
    pub path: Located<PathText>,
    /// What its target is called.
    pub name: Located<TargetName>,
    /// Its mode at the start.
    pub mode: Located<Mode>,
    /// Who may open it, if not whom the sandbox says.
    pub authority: Option<Located<Authority>>,
    /// How much of its git directory can be written.
    pub git: Located<GitPolicy>,
    /// The longest that it stays writable, if not what the sandbox says.
    pub max_lease: Option<Located<Span>>,
}

/// A directory or file of the host, seen inside.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Where it is on the host.
    pub path: PathText,
    /// Where it is inside, if elsewhere.
    pub dest: Option<PathText>,
    /// Its mode, at the start if it is a target.
    pub mode: Mode,
    /// Whether device files on it work.
    pub devices: bool,
    /// Whether a file is shown as it is at its path now, also after it was replaced there.
    pub follow: bool,
    /// Whether permissions can be changed; if not, nowhere in the sandbox.
    pub chmod: bool,
    /// What to do if it does not exist.
    pub missing: Missing,
    /// The target it is, if it is one.
    pub toggle: Option<Toggle>,
}

impl Bind {
    /// A path that is seen as it is, if it exists.
    pub(super) fn read_only(path: PathText) -> Self {
        Self {
            path,
            dest: None,
            mode: Mode::Ro,
            devices: false,
            follow: true,
            chmod: true,
            missing: Missing::Skip,
            toggle: None,
        }
    }

    /// Where it is inside.
    #[must_use]
    pub fn destination(&self) -> &PathText {
        self.dest.as_ref().unwrap_or(&self.path)
    }
}

/// What makes a bind a target.
#[derive(Debug, Clone)]
pub struct Toggle {
    /// What the target is called.
    pub name: TargetName,
    /// Who may open it, if not whom the sandbox says.
    pub authority: Option<Authority>,
    /// The longest that it stays writable, if not what the sandbox says.
    pub max_lease: Option<Span>,
}

/// An empty file system in memory.
#[derive(Debug, Clone)]
pub struct Tmpfs {
    /// Where.
    pub path: PathText,
    /// How much fits; the kernel's default if not said.
    pub size: Option<Size>,
    /// The permissions of its root.
    pub mode: FileMode,
}

/// A directory of the host that can be read, and written to without keeping it.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Where.
    pub path: PathText,
    /// The variable by which its users find it. If the directory does not exist, it
    /// is pointed to a private one. A caller who has set it already knows better: then
    /// its value is the directory.
    pub env: Option<VariableName>,
}

/// A directory of the host that can be written to without changing it.
#[derive(Debug, Clone)]
pub struct Overlay {
    /// What is seen of the host.
    pub path: PathText,
    /// Where it is inside, if not where it is outside.
    pub dest: Option<PathText>,
    /// The directory that keeps what is written; without one it is thrown away.
    pub changes: Option<PathText>,
}

impl Overlay {
    /// Where it is inside.
    #[must_use]
    pub fn destination(&self) -> &PathText {
        self.dest.as_ref().unwrap_or(&self.path)
    }
}

/// A path that is read-only under a writable mount.
#[derive(Debug, Clone)]
pub struct Protect {
    /// Where; relative to the workspace or absolute.
    pub path: PathText,
    /// What to do if it does not exist. A guard needs to know what it stands in
    /// for: [`PathText::names_directory`] says.
    pub missing: MissingProtect,
}

/// The environment of the command: what is left of the caller's after `clear` and
/// `unset`, then `set`.
#[derive(Debug, Clone)]
pub struct Environment {
    /// What is set in the end.
    pub set: BTreeMap<VariableName, Located<ValueText>>,
    /// What of the caller's is dropped.
    pub unset: Vec<Located<EnvironmentPattern>>,
    /// Whether all of the caller's is dropped.
    pub clear: Located<bool>,
}

impl Environment {
    /// The pattern because of which a variable of the caller's is dropped.
    #[must_use]
    pub fn unset_by(&self, name: &OsStr) -> Option<&Located<EnvironmentPattern>> {
        self.unset.iter().find(|pattern| pattern.value.matches(name))
    }
}

/// A program's socket outside.
#[derive(Debug, Clone)]
pub struct Socket {
    /// What of it is seen inside.
    pub access: SocketAccess,
    /// Where its clients look for it.
    pub paths: Vec<PathText>,
    /// Where the program listens; at the first of these places with a socket, if not said.
    pub upstream: Option<PathText>,
}

impl Socket {
    /// Where sockets of this name are, for the names that are known.
    pub(super) fn places(name: &str) -> Option<Vec<PathText>> {
        let places: &[&str] = match name {
            "docker" => &[
                "/var/run/docker.sock",
                "/run/docker.sock",
                "{xdg-runtime-dir}/docker.sock",
                "~/.docker/run/docker.sock",
                "~/.docker/desktop/docker.sock",
            ],
            "podman" => &["/run/podman/podman.sock", "{xdg-runtime-dir}/podman/podman.sock"],
            "containerd" => &[
                "/run/containerd/containerd.sock",
                "/run/containerd/containerd.sock.ttrpc",
                "/run/k3s/containerd/containerd.sock",
                "{xdg-runtime-dir}/containerd/containerd.sock",
            ],
            _ => return None,
        };
        Some(places.iter().map(|place| PathText::trusted(place)).collect())
    }
}
