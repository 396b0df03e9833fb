//! A layout that somebody else decides: only what a profile takes away is added.

use super::super::git;
use super::super::view::{Area, View};
use super::super::{Asker, SpecError};
use super::Layout;
use super::cover::IfMissing;
use crate::cli::Args;
use crate::host::Host;
use crate::profile::{Profile, Variables};
use remount_broker::name::{Authority, Mode};
use std::path::PathBuf;

impl<'h> Layout<'h> {
    /// Masks and protections, at the host's own paths. `writable` is what of the host can be
    /// changed, at whatever place it is shown.
    pub(in super::super) fn taken(
        args: &Args,
        profile: &Profile,
        host: &'h Host,
        variables: &Variables,
        places: &[PathBuf],
        writable: &[PathBuf],
    ) -> Result<Self, SpecError> {
        let mut view = View::of_host(host.files.as_ref());
        for source in writable {
            view.cover(source, Area::Host { source: source.clone(), writable: true });
        }
        let mut layout = Self::new(host, view, Authority::Inside);
        layout.shows_mounts = writable.iter().any(|source| !host.mounts.below(source).is_empty());
        // What is masked needs no protection.
        layout.mask_all(args, profile, variables)?;
        layout.hide_sockets(profile, variables)?;
        layout.hide_outside(places)?;
        let mode = &profile.workspace.mode;
        if mode.value == Mode::Ro {
            let origin = Asker::Profile(mode.origin.clone());
            layout.protect(&variables.workspace, &origin, &IfMissing::Skip)?;
        } else {
            let git = git::Repository::find(&variables.workspace, host.files.as_ref());
            layout.protect_repository(&variables.workspace, git, profile.workspace.git.value)?;
        }
        layout.protect_configuration(args, variables)?;
        layout.protect_all(args, profile, variables)?;
        layout.hide_state()?;
        Ok(layout)
    }
}
