//! What `--profile`, or `profile` in `bwrap.toml`, takes away from what the options give.

use super::error::{self, Die, Result};
use super::request::{Access, Kind, Op, Request, Source, Store};
use super::seccomp::Program;
use crate::front;
use crate::host::Host;
use crate::outside::Outside;
use crate::plan::Policy;
use crate::profile::{Network, Profile};
use crate::spec::{Cover, Taken};
use remount_broker::name::Authority;
use remount_broker::placeholder::Wanted;
use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What is taken away, once the sandbox is built.
#[derive(Debug)]
pub(super) struct Narrowing {
    /// What lies over files of the host, wherever binds show them; parents first.
    pub(super) covers: Vec<Cover>,
    /// What is to be made first.
    pub(super) placeholders: Vec<Wanted>,
    /// Where that is recorded.
    pub(super) records: PathBuf,
    /// The ABI of Landlock, if the command is to be restricted by it.
    pub(super) landlock: Option<u32>,
    /// The filter of system calls.
    pub(super) filter: Option<Program>,
    /// What holds for requests to targets.
    pub(super) policy: Policy,
    /// Who may make a target writable, where nobody says.
    pub(super) authority: Authority,
    /// The longest that a target stays writable.
    pub(super) max_lease: Option<Duration>,
}

/// Takes away what the profiles do: masked and protected files, variables, the network,
/// capabilities, and system calls. What they give is not given.
pub(super) fn settle(request: &mut Request, of_user: Option<OsString>) -> Result<()> {
    if request.profiles.is_empty() {
        request.profiles.extend(of_user);
    }
    if request.profiles.is_empty() {
        return Ok(());
    }
    let host = Host::read().map_err(|error| die(&error, Some(error.hint())))?;
    let outside = Outside::find(&host);
    let taken = Taken::resolve(
        request.profiles.clone(),
        &host,
        &front::loader(&host),
        &outside.hidden,
        &writable(&request.ops),
    );
    let taken = taken.map_err(|error| die(&error, error.hint().as_deref()))?;
    for warning in &taken.warnings {
        error::warn(&format!("--profile: {warning}"));
    }
    if !taken.profile.shims.is_empty() {
        // They would be put where the caller's own steps put something else.
        error::warn("--profile: no shims under the name bwrap: tools do what their logins permit");
    }
    environment(request, &taken.profile)?;
    let settings = &taken.profile.sandbox;
    request.unshare.net |= settings.network.value == Network::None;
    request.new_session |= settings.new_session.value;
    request.capabilities.drop(b"ALL")?;
    request.narrowing = Some(Narrowing {
        policy: Policy::of(&taken.profile, host.cwd.unwrap_or_default()),
        authority: settings.authority.value,
        max_lease: settings.max_lease.as_ref().map(|lease| lease.value.0),
        covers: taken.covers,
        placeholders: taken.placeholders,
        records: taken.records,
        landlock: taken.landlock,
        filter: taken.filter.map(Program::new),
    });
    Ok(())
}

/// What `--profile` comes to nothing by.
pub(super) fn die(error: &dyn Error, hint: Option<&str>) -> Die {
    let hint = hint.map_or(String::new(), |hint| format!("\nhint: {hint}"));
    Die::new(format!("--profile: {error}{hint}"))
}

/// The files of the host that the steps show writable. What cannot be found is an error
/// later, in the words of bubblewrap.
fn writable(ops: &[Op]) -> Vec<PathBuf> {
    let path = |op: &Op| match &op.kind {
        Kind::Bind { access: Access::ReadOnly, .. } => None,
        Kind::Bind { source: Source::Path(path), .. } => Some(PathBuf::from(path)),
        Kind::Bind { source: Source::Descriptor(named), .. } => {
            Some(format!("/proc/self/fd/{}", named.number()).into())
        }
        Kind::Overlay { store: Store::Host { upper, .. }, .. } => Some(PathBuf::from(upper)),
        _ => None,
    };
    let paths = ops.iter().filter_map(path);
    paths.filter_map(|path| std::fs::canonicalize(path).ok()).collect()
}

/// The caller's variables; what options set is dropped only by its name.
fn environment(request: &mut Request, profile: &Profile) -> Result<()> {
    if profile.environment.clear.value {
        request.environment.drop_inherited();
    }
    let is_dropped = |name: &&std::ffi::OsStr| profile.environment.unset_by(name).is_some();
    let dropped: Vec<_> =
        request.environment.names().filter(is_dropped).map(ToOwned::to_owned).collect();
    dropped.iter().try_for_each(|name| request.environment.unset(name))
}
