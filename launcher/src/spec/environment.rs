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
    if !profile.environment.clear {
        environment.extend(host.environment.iter().cloned());
        for pattern in &profile.environment.unset {
            environment.retain(|name, _| !matches_pattern(name, &pattern.value));
        }
    }
    for (name, path) in &layout.cache_variables {
        environment.entry(name.into()).or_insert_with(|| path.clone().into_os_string());
    }
    for entry in &profile.environment.set {
        let (name, text) = &entry.value;
        let value = crate::profile::expand_value(text, variables)
            .map_err(|error| error.at(&entry.origin.to_string()))?;
        environment.insert(name.into(), value);
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
            Step::Bind { .. } | Step::Tmpfs { .. } | Step::Toggle { .. } => {}
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

/// Whether `name` is what `pattern` says: the same, or begins with what stands
/// before its trailing `*`.
fn matches_pattern(name: &OsStr, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.as_bytes().starts_with(prefix.as_bytes()),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_ending() {
        assert!(matches_pattern(OsStr::new("DBUS_X"), "DBUS_*"));
        assert!(!matches_pattern(OsStr::new("DBUSX"), "DBUS_*"));
        assert!(matches_pattern(OsStr::new("A"), "A"));
        assert!(!matches_pattern(OsStr::new("AB"), "A"));
    }
}
