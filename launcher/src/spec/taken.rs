//! What a profile takes away from a tree that another command line lays out: what that
//! shows is its own to say, and nothing is added.

use super::layout::Layout;
use super::{Entry, SpecError, What, layers, load_profile, narrow, variables, warnings, workspace};
use crate::cli::Args;
use crate::host::Host;
use crate::profile::{Loader, Profile};
use remount_broker::filter::{PERMISSIONS, agent_filter_with};
use remount_broker::placeholder::{self, Wanted};
use remount_broker::sys::seccomp::Instruction;
use std::ffi::OsString;
use std::path::PathBuf;

/// All of it.
#[derive(Debug)]
pub(crate) struct Taken {
    /// The profile, for what is not about files.
    pub profile: Profile,
    /// What lies over files of the host, wherever they are shown; parents first.
    pub covers: Vec<Cover>,
    /// What will stand where protected paths do not exist, parents first.
    pub placeholders: Vec<Wanted>,
    /// Where those are recorded.
    pub records: PathBuf,
    /// The Landlock ABI; `None` if the profile does without.
    pub landlock: Option<u32>,
    /// The filter of system calls; `None` if the profile does without.
    pub filter: Option<Vec<Instruction>>,
    /// For a person to read.
    pub warnings: Vec<String>,
}

/// What lies over a file of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cover {
    /// The file, without symlinks.
    pub path: PathBuf,
    /// What holds for it.
    pub kind: Covering,
}

/// What holds for a file that is covered, and for all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Covering {
    /// Something empty is seen in its place.
    Mask,
    /// It cannot be changed.
    ReadOnly,
    /// In the midst of that, it can.
    Open,
    /// What is below it can, but nothing else can take its place.
    Pinned,
}

impl Taken {
    /// Resolves the profiles of these names against the host. `writable` are the files of
    /// the host, without symlinks, that are shown writable; nobody inside sees `places`.
    ///
    /// # Errors
    /// As [`super::Spec::resolve`]; nothing has been done yet.
    pub(crate) fn resolve(
        profiles: Vec<OsString>,
        host: &Host,
        loader: &Loader,
        places: &[PathBuf],
        writable: &[PathBuf],
    ) -> Result<Self, SpecError> {
        let args = Args::of_profiles(profiles);
        let cwd = host.cwd.clone().ok_or(SpecError::NoCwd)?;
        let mut variables = variables(cwd, host);
        let profile = narrow(load_profile(&args, loader, &[])?, loader, &variables)?;
        if profile.sandbox.read_only.value {
            return Err(SpecError::ReadOnlyGiven);
        }
        variables.workspace = workspace(&profile, &variables, host)?;
        let layers = layers(&args, &profile, host)?;
        let layout = Layout::taken(&args, &profile, host, &variables, places, writable)?;
        let (entries, _, placeholders) = layout.into_parts();
        let mut covers: Vec<_> = entries.iter().filter_map(cover).collect();
        covers.sort_by(|one, other| one.path.cmp(&other.path));
        let more = (!layers.chmod).then_some(PERMISSIONS);
        Ok(Self {
            warnings: warnings(&profile, layers.landlock, layers.seccomp),
            covers,
            placeholders,
            records: host.state_home().join(placeholder::STORE),
            landlock: layers.landlock,
            filter: layers.seccomp.then(|| agent_filter_with(more.as_slice()).compile()),
            profile,
        })
    }
}

fn cover(entry: &Entry) -> Option<Cover> {
    let kind = match entry.what {
        What::Mask(_) => Covering::Mask,
        What::Protect(_) | What::Guard(_) => Covering::ReadOnly,
        What::Open(_) => Covering::Open,
        What::Pin(_) => Covering::Pinned,
        What::Bind { .. }
        | What::Tmpfs { .. }
        | What::Overlay { .. }
        | What::Shim
        | What::Socket(_) => return None,
    };
    Some(Cover { path: entry.dest.clone(), kind })
}
