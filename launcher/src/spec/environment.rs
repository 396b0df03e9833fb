//! The environment that the agent starts with.

use super::SpecError;
use super::layout::Layout;
use crate::cli::{Args, Step};
use crate::host::Host;
use crate::plan::CONTROL_DIR;
use crate::profile::{Profile, Variables};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The host's environment as the profile and the command line change it, with the
/// sandbox's own directory in `PATH`. Sorted by name: equal wishes, equal plans.
pub(super) fn resolve(
    args: &Args,
    profile: &Profile,
    host: &Host,
    variables: &Variables,
    layout: &Layout<'_>,
) -> Result<Vec<(OsString, OsString)>, SpecError> {
    let mut environment: BTreeMap<OsString, OsString> = BTreeMap::new();
    if !profile.environment.clear.value {
        environment.extend(host.environment.iter().cloned());
        environment.retain(|name, _| profile.environment.unset_by(name).is_none());
    }
    for (name, path) in &layout.cache_variables {
        environment.entry(name.into()).or_insert_with(|| path.clone().into_os_string());
    }
    for (name, text) in &profile.environment.set {
        let expanded = text.value.expand(variables).map_err(|error| {
            SpecError::expand(&text.origin.to_string(), text.value.as_str(), error)
        })?;
        environment.insert(name.as_str().into(), expanded);
    }
    for step in &args.steps {
        match step {
            Step::Clear => environment.clear(),
            Step::Unset(name) => {
                environment.remove(name);
            }
            Step::Set(name, value) => {
                if name.is_empty() || name.as_bytes().contains(&b'=') {
                    return Err(SpecError::Variable(name.to_string_lossy().into_owned()));
                }
                environment.insert(name.clone(), value.clone());
            }
            Step::Bind { .. } | Step::Tmpfs { .. } | Step::TmpSize(_) | Step::Toggle { .. } => {}
        }
    }
    if let Some(path) = environment.get_mut(OsStr::new("PATH")) {
        let mut bytes = std::mem::take(path).into_vec();
        bytes.extend_from_slice(format!(":{CONTROL_DIR}/bin").as_bytes());
        *path = OsString::from_vec(bytes);
    }
    // The descriptor's number and inode follow when it is known (`exec.rs`).
    environment.remove(OsStr::new("REMOUNT_CHANNEL"));
    environment.remove(OsStr::new("REMOUNT_SOCKET"));
    Ok(environment.into_iter().collect())
}
