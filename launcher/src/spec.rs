//! The specification: arguments, profiles and host facts, resolved against each other.
//!
//! Every error that a user can mend is raised here, before anything is done.

mod command;
mod environment;
mod error;
mod git;
mod hold;
mod layout;
mod shims;
mod taken;
mod view;

pub use error::SpecError;
pub(crate) use taken::{Cover, Covering, Taken};

use crate::cli::Args;
use crate::host::{Found, Host};
use crate::plan::{Exec, Identity, Policy, Shape, ShimPlan, Since, SocketPlan};
use crate::profile::{
    self, Hostname, Loader, Need, Network, Proc, Profile, UserNamespace, Variables,
};
use remount_broker::escape::Escaped;
use remount_broker::name::{Authority, Mode, TargetName};
use remount_broker::placeholder::{self, Kind as StandIn, Wanted};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A project's own profile, which can only narrow.
const PROJECT_FILE: &str = ".remount.toml";

/// What a sandbox is to be, without order: the plan puts it in order.
#[derive(Debug)]
pub struct Spec {
    pub(crate) profiles: Vec<String>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) host_directories: Vec<PathBuf>,
    pub(crate) placeholders: Vec<Wanted>,
    pub(crate) records: PathBuf,
    pub(crate) exec: Exec,
    pub(crate) identity: Identity,
    pub(crate) user_namespace: bool,
    pub(crate) unshare_network: bool,
    pub(crate) hostname: Option<String>,
    pub(crate) landlock: Option<u32>,
    pub(crate) seccomp: bool,
    pub(crate) chmod: bool,
    /// The host's `/run`, where that is seen.
    pub(crate) run: Option<Found>,
    pub(crate) proc: Proc,
    pub(crate) read_only: bool,
    /// Whether it may do without namespaces.
    pub(crate) reducible: bool,
    pub(crate) terminal: Option<PathBuf>,
    pub(crate) program: Found,
    pub(crate) hooks: String,
    pub(crate) shims: ShimPlan,
    pub(crate) sockets: Vec<SocketPlan>,
    /// The file of `--audit`, without symlinks.
    pub(crate) audit: Option<PathBuf>,
    pub(crate) policy: Policy,
    pub(crate) held: Option<Since>,
    pub(crate) warnings: Vec<String>,
}

/// Who asked for something, for messages.
#[derive(Clone)]
pub enum Asker {
    /// Every sandbox has it.
    Sandbox,
    /// An option of the command line.
    Option(&'static str),
    /// A line of a profile.
    Profile(profile::Origin),
    /// A person who holds it read-only.
    Held,
    /// The project's repository.
    Git,
    /// What is mounted further down, whose parents must not be renamed.
    Pin(PathBuf),
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox => f.write_str("sandbox"),
            Self::Option(name) => f.write_str(name),
            Self::Profile(origin) => write!(f, "{origin}"),
            Self::Held => f.write_str("remountctl ro --path"),
            Self::Git => f.write_str("[workspace] git"),
            Self::Pin(path) => write!(f, "pin for {}", Escaped::path(path)),
        }
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One thing to mount, at a place inside that has no symlinks.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub dest: PathBuf,
    pub what: What,
    pub origin: Asker,
}

/// What an entry mounts.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A file of the host.
    Bind {
        source: Option<Found>,
        path: PathBuf,
        mode: Mode,
        devices: bool,
        /// As it is at its path on the host now.
        follow: bool,
        target: Option<Toggle>,
    },
    /// Private memory.
    Tmpfs { size: Option<u64>, permissions: u32 },
    /// A directory of the host, writes kept apart or thrown away.
    Overlay { lower: Found, changes: Option<PathBuf> },
    /// Nothing to see.
    Mask(Shape),
    /// This program in the place of a tool, or of a symlink to it.
    Shim,
    /// Read-only under a writable mount; a symlink itself.
    Protect(Found),
    /// In the midst of that, with the mode of the target around.
    Open(Found),
    /// The same, where nothing is: a placeholder will stand there.
    Guard(StandIn),
    /// A socket of the filter, of this name.
    Socket(String),
}

/// What makes a mount a target.
#[derive(Debug, Clone)]
pub(crate) struct Toggle {
    pub name: TargetName,
    pub authority: Authority,
    pub max_lease: Option<Duration>,
}

impl Spec {
    /// Resolves what was typed and configured against the host. No sandbox shows `places`
    /// (directories without symlinks): its own control socket and event log are there.
    ///
    /// # Errors
    /// Everything that a user can mend; nothing has been done yet.
    pub fn resolve(
        args: &Args,
        host: &Host,
        loader: &Loader,
        places: &[PathBuf],
    ) -> Result<Self, SpecError> {
        if let Some(number) = host.directory_on_stdio {
            return Err(SpecError::DirectoryOnStdio(number));
        }
        let cwd = host.cwd.clone().ok_or(SpecError::NoCwd)?;
        let mut words = command::words(args, host);
        let profile = load_profile(args, loader, &words)?;
        let settings = &profile.sandbox;
        let read_only = settings.read_only.value;
        let login = read_only && args.command.is_empty() && command::of_ssh(&mut words, host);
        command::add_arguments(&mut words, &profile);
        let mut variables = variables(cwd.clone(), host);
        let profile = narrow(profile, loader, &variables)?;
        variables.workspace = workspace(&profile, &variables, host)?;
        let settings = &profile.sandbox;
        let authority = authority(args, settings)?;
        let records = host.state_home().join(placeholder::STORE);
        let mut layout = layout::Layout::build(args, &profile, host, &variables, authority)?;
        layout.hide_outside(places)?;
        let audit = args.audit.as_ref().map(|path| layout.hide_record(path, &variables.cwd));
        let audit = audit.transpose()?;
        let max_lease = settings.max_lease.as_ref().map(|lease| lease.value.0);
        layout.limit_leases(max_lease);
        let policy = Policy::of(&profile, cwd);
        let mut environment = environment::resolve(args, &profile, host, &variables, &layout)?;
        let shims = shims::resolve(args, &profile, host, &mut environment, &mut layout)?;
        let new_session = args.new_session || settings.new_session.value;
        let mut exec =
            command::resolve(args, &words, host, (&layout, &shims), environment, new_session)?;
        if login {
            command::log_in(&mut exec);
        }
        let run = layout.run.take();
        let sockets = std::mem::take(&mut layout.sockets);
        let (entries, host_directories, placeholders) = layout.into_parts();
        let Layers { landlock, seccomp, chmod } = layers(args, &profile, host)?;
        let program = host
            .files
            .find(&host.program)
            .map_err(|errno| SpecError::Program(host.program.clone(), errno))?;
        Ok(Self {
            warnings: warnings(&profile, landlock, seccomp),
            hooks: hooks(&profile),
            shims,
            sockets,
            audit,
            profiles: profile.sources,
            entries,
            host_directories,
            placeholders,
            records,
            exec,
            identity: Identity { uid: host.uid, gid: host.gid },
            user_namespace: host.uid != 0
                || settings.user_namespace.value == UserNamespace::Always
                || settings.namespaces.value == Need::Optional && !host.may_mount,
            unshare_network: args.unshare_net || settings.network.value == Network::None,
            hostname: hostname(args, settings)?,
            landlock,
            seccomp,
            chmod,
            run,
            proc: settings.proc.value,
            read_only,
            reducible: read_only && need(args, settings.namespaces.value) == Need::Optional,
            terminal: host.terminal.clone(),
            program,
            policy,
            held: None,
        })
    }
}

/// What the profile says of a layer, unless all are required.
fn need(args: &Args, of_profile: Need) -> Need {
    if args.require { Need::Required } else { of_profile }
}

/// Who may open targets that do not say.
fn authority(args: &Args, settings: &profile::Sandbox) -> Result<Authority, SpecError> {
    match (args.authority, settings.read_only.value) {
        (Some(Authority::Inside), true) => Err(SpecError::OpenedFromInside),
        (Some(authority), _) => Ok(authority),
        // Whatever the profile says: what could open itself would not be read-only.
        (None, true) => Ok(Authority::Host),
        (None, false) => Ok(settings.authority.value),
    }
}

/// What confines besides mounts, as far as this kernel has it.
struct Layers {
    landlock: Option<u32>,
    seccomp: bool,
    /// Whether permissions can be changed.
    chmod: bool,
}

fn layers(args: &Args, profile: &Profile, host: &Host) -> Result<Layers, SpecError> {
    let settings = &profile.sandbox;
    let landlock = match (host.landlock, need(args, settings.landlock.value)) {
        (Ok(abi), _) => Some(abi),
        (Err(_), Need::Optional) => None,
        (Err(unavailable), Need::Required) => return Err(SpecError::Landlock(unavailable)),
    };
    let seccomp = match (host.seccomp, need(args, settings.seccomp.value)) {
        (Ok(()), _) => true,
        (Err(_), Need::Optional) => false,
        (Err(errno), Need::Required) => return Err(SpecError::Seccomp(errno)),
    };
    let chmod = profile.binds.iter().all(|bind| bind.value.chmod);
    if let (false, Err(errno)) = (chmod, host.seccomp) {
        return Err(SpecError::Chmod(errno));
    }
    if let (Some(_), Err(errno)) = (&args.audit, host.seccomp) {
        return Err(SpecError::Seccomp(errno));
    }
    Ok(Layers { landlock, seccomp, chmod })
}

/// What stands for the variables of profiles, before the workspace is known.
fn variables(cwd: PathBuf, host: &Host) -> Variables {
    let git_root = git::work_tree(&cwd, host.files.as_ref());
    let environment = |name: &str| match host.variable(name) {
        // Many logins set it, and nobody makes it.
        Some(dir) if name == "XDG_RUNTIME_DIR" && !has_place(Path::new(dir), host) => None,
        value => value.map(OsStr::to_owned),
    };
    Variables::new(cwd, host.home.clone(), git_root, host.uid, environment)
}

/// Whether something can be mounted there: it is a directory, or below what is new inside.
fn has_place(dir: &Path, host: &Host) -> bool {
    dir.starts_with("/run") || host.files.find(dir).is_ok_and(|found| found.stat.is_dir())
}

/// The profiles that were named, else the one for the command; and the files of shims.
fn load_profile(args: &Args, loader: &Loader, words: &[OsString]) -> Result<Profile, SpecError> {
    let profile = if args.profiles.is_empty() {
        let command = words.first().map_or(OsStr::new(""), OsString::as_os_str);
        loader.load(&[loader.choose(command)?.into()])?
    } else {
        loader.load(&args.profiles)?
    };
    let with = |profile, path: &PathBuf| loader.shims(profile, path);
    Ok(args.shims.iter().try_fold(profile, with)?)
}

/// What the project's own file takes away.
fn narrow(profile: Profile, loader: &Loader, variables: &Variables) -> Result<Profile, SpecError> {
    let path = variables.project.join(PROJECT_FILE);
    match loader.read_project_file(&path)? {
        Some(text) => Ok(loader.narrow(profile, &path, &text)?),
        None => Ok(profile),
    }
}

/// The project's directory, without symlinks.
fn workspace(profile: &Profile, variables: &Variables, host: &Host) -> Result<PathBuf, SpecError> {
    let path = &profile.workspace.path;
    let origin = path.origin.to_string();
    let expanded = path
        .value
        .expand(variables)
        .map_err(|error| SpecError::expand(&origin, path.value.as_str(), error))?;
    match host.files.find(&expanded) {
        Ok(found) if found.stat.is_dir() => Ok(found.path),
        Ok(_) => Err(SpecError::Find { path: expanded, origin, errno: Errno::NOTDIR }),
        Err(errno) => Err(SpecError::Find { path: expanded, origin, errno }),
    }
}

fn hostname(args: &Args, settings: &profile::Sandbox) -> Result<Option<String>, SpecError> {
    match (&args.hostname, &settings.hostname) {
        (Some(name), _) => match Hostname::try_from(name.clone()) {
            Ok(name) => Ok(Some(name.as_str().to_owned())),
            Err(why) => Err(SpecError::Hostname(why)),
        },
        (None, Some(name)) => Ok(Some(name.value.as_str().to_owned())),
        (None, None) => Ok(None),
    }
}

/// The profile's `[hooks]` for `remountctl hook`, which sees no profiles: a line
/// `AGENT MODE ro|rw` for each mode. Empty if there are none.
fn hooks(profile: &Profile) -> String {
    let mut text = String::new();
    for (agent, modes) in &profile.hooks {
        for (mode, to) in modes {
            text.push_str(&format!("{} {} {}\n", agent.as_str(), mode.as_str(), to.value));
        }
    }
    text
}

fn warnings(profile: &Profile, landlock: Option<u32>, seccomp: bool) -> Vec<String> {
    let mut warnings: Vec<String> =
        profile.notes.iter().map(|note| format!("{}: {}", note.origin, note.value)).collect();
    if landlock.is_none() {
        warnings.push("this kernel has no Landlock: what else confines does so alone".to_owned());
    }
    if !seccomp {
        warnings.push("this kernel has no seccomp: every system call is allowed".to_owned());
    }
    warnings
}
