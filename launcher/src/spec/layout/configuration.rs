//! This program's own configuration: what the next start does, outside, is not for the
//! agent of this one to say.

use super::super::{Asker, SpecError, What};
use super::Layout;
use super::cover::IfMissing;
use crate::cli::Args;
use crate::profile::Variables;
use remount_broker::name::Mode;
use remount_broker::placeholder::Kind;
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The administrator's.
const OF_THE_MACHINE: &str = "/etc/remount";

impl Layout<'_> {
    /// Protects the directories that profiles are read from, and profiles and shims named by path.
    pub(super) fn protect_configuration(
        &mut self,
        args: &Args,
        variables: &Variables,
    ) -> Result<(), SpecError> {
        for dir in [variables.xdg_config_home.join("remount"), OF_THE_MACHINE.into()] {
            self.refuse_writable_in(&dir)?;
            self.protect_own(&dir, &IfMissing::Guard(Kind::Directory))?;
        }
        let is_path = |name: &&OsStr| name.as_bytes().contains(&b'/');
        let profiles = args.profiles.iter().map(OsString::as_os_str).filter(is_path);
        for path in profiles.chain(args.shims.iter().map(|path| path.as_os_str())) {
            let Some(cwd) = &self.host.cwd else { continue };
            // It was read a moment ago.
            let Ok(found) = self.host.files.find(&cwd.join(path)) else { continue };
            self.protect_own(&found.path, &IfMissing::Skip)?;
        }
        Ok(())
    }

    fn protect_own(&mut self, path: &Path, missing: &IfMissing) -> Result<(), SpecError> {
        match self.view.locate(path) {
            // What this user cannot reach, the agent cannot reach either.
            Err(Errno::ACCESS | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            _ => self.protect(path, &Asker::Sandbox, missing),
        }
    }

    /// A directory in it cannot be both protected and writable.
    fn refuse_writable_in(&self, dir: &Path) -> Result<(), SpecError> {
        let Ok(place) = self.sources.locate(dir) else { return Ok(()) };
        let bound = self.entries.iter().find_map(|entry| match &entry.what {
            What::Bind { path, mode, target, .. }
                if (*mode == Mode::Rw || target.is_some()) && path.starts_with(&place.path) =>
            {
                Some((path.clone(), entry.origin.to_string()))
            }
            _ => None,
        });
        match bound {
            Some((path, origin)) => Err(SpecError::Configuration { path, origin }),
            None => Ok(()),
        }
    }
}
