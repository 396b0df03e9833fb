//! What `--profile` takes away from what the options give.

use super::error::{Die, Result};
use super::request::Request;
use super::seccomp::Program;
use crate::profile::{Loader, Network, Profile, ProfileError, Variables};
use remount_broker::filter::agent_filter;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Takes away what the profiles do: masked files, variables, the network, capabilities,
/// and system calls. What they give is not given.
pub(super) fn settle(request: &mut Request) -> Result<()> {
    if request.profiles.is_empty() {
        return Ok(());
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home = home.ok_or_else(|| Die::new("--profile: HOME is not set"))?;
    let uid = request.caller.uid;
    let failed = |error: ProfileError| Die::new(format!("--profile: {error}"));
    let profile = loader(&home, uid).load(&request.profiles).map_err(failed)?;
    request.masks = masks(&profile, home, uid)?;
    let dropped: Vec<_> = request
        .environment
        .names()
        .filter(|name| profile.environment.unset_by(name).is_some())
        .map(ToOwned::to_owned)
        .collect();
    dropped.iter().try_for_each(|name| request.environment.unset(name))?;
    request.unshare.net |= profile.sandbox.network.value == Network::None;
    request.capabilities.drop(b"ALL")?;
    request.narrowing = Some(Program::new(agent_filter().compile()));
    Ok(())
}

fn loader(home: &Path, uid: u32) -> Loader {
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|it| it.is_absolute());
    let own = own.unwrap_or_else(|| home.join(".config"));
    Loader { config_dirs: vec![own.join("remount/profiles"), "/etc/remount/profiles".into()], uid }
}

/// What there is of the masked files.
fn masks(profile: &Profile, home: PathBuf, uid: u32) -> Result<Vec<PathBuf>> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| home.clone());
    let variables = Variables::new(cwd, home, None, uid, |name| std::env::var_os(name));
    let mut masks = Vec::new();
    let masked = profile.masks.iter().map(|mask| (&mask.value, &mask.origin));
    let sockets = profile.sockets.values();
    let sockets = sockets.flat_map(|it| {
        it.value.paths.iter().chain(&it.value.upstream).map(|path| (path, &it.origin))
    });
    for (text, origin) in masked.chain(sockets) {
        let path = text.expand(&variables).map_err(|error| {
            Die::new(format!("--profile: {origin}: {}: {error}", text.as_str()))
        })?;
        match std::fs::canonicalize(&path) {
            Ok(real) => masks.push(real),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            // This user cannot get there, and so nobody inside.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) => {
                return Err(Die::new(format!("--profile: {}: {error}", path.display())));
            }
        }
    }
    Ok(masks)
}
