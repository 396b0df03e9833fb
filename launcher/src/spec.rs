//! The specification: arguments, profiles and host facts, resolved against each other.
//!
//! Every error that a user can mend is raised here, before anything is done.

mod command;
mod environment;
mod error;
mod git;
mod layout;
mod view;

pub use error::SpecError;

use crate::cli::{Args, Step};
use crate::host::{Found, Host};
use crate::plan::{Exec, Identity};
use crate::profile::{self, Profile, Variables};
use remount_broker::name::{Authority, Mode, TargetName};
use std::path::{Path, PathBuf};

/// What a sandbox is to be, without order: the plan puts it in order.
#[derive(Debug)]
pub struct Spec {
    pub(crate) profiles: Vec<String>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) host_directories: Vec<PathBuf>,
    pub(crate) exec: Exec,
    pub(crate) identity: Identity,
    pub(crate) user_namespace: bool,
    pub(crate) unshare_network: bool,
    pub(crate) hostname: Option<String>,
    pub(crate) landlock: Option<u32>,
    pub(crate) terminal: Option<PathBuf>,
    pub(crate) program: Found,
    pub(crate) warnings: Vec<String>,
}

/// One thing to mount, at a place inside that has no symlinks.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub dest: PathBuf,
    pub what: What,
    pub origin: String,
}

/// What an entry mounts.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A file of the host.
    Bind { source: Option<Found>, path: PathBuf, mode: Mode, devices: bool, target: Option<Toggle> },
    /// Private memory.
    Tmpfs { size: Option<u64>, permissions: u32 },
    /// A directory of the host, writes thrown away.
    Overlay { lower: Found },
    /// Nothing to see.
    Mask(Found),
    /// Read-only under a writable mount.
    Protect(Found),
}

/// What makes a mount a target.
#[derive(Debug, Clone)]
pub(crate) struct Toggle {
    pub name: TargetName,
    pub authority: Authority,
}

impl Spec {
    /// Resolves what was typed and configured against the host.
    ///
    /// # Errors
    /// Everything that a user can mend; nothing has been done yet.
    pub fn resolve(args: &Args, host: &Host, loader: &profile::Loader) -> Result<Self, SpecError> {
        let cwd = host.cwd.clone().ok_or(SpecError::NoCwd)?;
        let command = command::words(args, host);
        let profile = load_profile(args, loader, &command)?;
        let project = git::find_project(&cwd, host);
        let variables = variables(host, &cwd, &project);
        let profile = narrow(profile, loader, host, &variables)?;
        let settings = &profile.sandbox;
        let authority = args.authority.or(settings.authority).unwrap_or(Authority::Inside);
        let layout = layout::Layout::build(args, &profile, host, &variables, authority)?;
        let environment = environment::resolve(args, &profile, host, &variables, &layout)?;
        let exec = command::resolve(args, &command, host, &layout, environment, &profile)?;
        let landlock = landlock(settings, host)?;
        let mut warnings = layout.warnings;
        if landlock.is_none() {
            warnings.push("this kernel has no Landlock: mounts, capabilities and seccomp alone confine".into());
        }
        let program = host
            .files
            .find(&host.program)
            .map_err(|errno| SpecError::Program(host.program.clone(), errno))?;
        Ok(Self {
            profiles: profile.names.clone(),
            entries: layout.entries,
            host_directories: layout.host_directories,
            exec,
            identity: Identity { uid: host.uid, gid: host.gid },
            user_namespace: host.uid != 0 || settings.user_namespace == Some(profile::UserNamespace::Always),
            unshare_network: args.unshare_net || settings.network == Some(profile::Network::None),
            hostname: hostname(args, settings)?,
            landlock,
            terminal: host.terminal.clone(),
            program,
            warnings,
        })
    }
}
