//! What is laid over what is shown: protections and masks.

use super::super::view::{Area, Place};
use super::super::{Asker, Entry, SpecError, What, git};
use super::{Layout, find_error, path_of, refuse_reserved};
use crate::cli::Args;
use crate::host::Found;
use crate::profile::{GitPolicy, MissingProtect, Profile, Variables};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

impl Layout<'_> {
    pub(super) fn protect_all(
        &mut self,
        args: &Args,
        profile: &Profile,
        variables: &Variables,
    ) -> Result<(), SpecError> {
        let workspace = variables.workspace.clone();
        if let Some(git) = git::git_dir(&workspace, self.host.files.as_ref()) {
            match profile.workspace.git.value {
                GitPolicy::Ro => self.protect(&git.common, &Asker::Git, MissingProtect::Skip)?,
                GitPolicy::Rw => {}
                GitPolicy::Hooks => {
                    for path in &git.executed {
                        self.protect(path, &Asker::Git, MissingProtect::Skip)?;
                    }
                }
            }
        }
        if self
            .view
            .locate(&workspace.join(".git"))
            .is_ok_and(|place| place.found().is_some_and(|found| found.stat.is_file()))
        {
            // The pointer of a linked worktree: whoever writes it chooses the hooks.
            self.protect(&workspace.join(".git"), &Asker::Git, MissingProtect::Skip)?;
        }
        for entry in &profile.protects {
            let origin = Asker::Profile(entry.origin.clone());
            let path = path_of(&entry.value.path, variables, &origin)?;
            self.protect(&path, &origin, entry.value.missing)?;
        }
        for path in &args.protect {
            self.protect(Path::new(path), &Asker::Option("--protect"), MissingProtect::Error)?;
        }
        Ok(())
    }

    pub(super) fn protect(
        &mut self,
        path: &Path,
        origin: &Asker,
        missing: MissingProtect,
    ) -> Result<(), SpecError> {
        let place = self.locate(path, origin)?;
        let Some(found) = place.found() else {
            if missing == MissingProtect::Error {
                refuse_reserved(&place.path, origin)?;
                return Err(find_error(path, origin, Errno::NOENT));
            }
            return Ok(());
        };
        if !place.is_writable() {
            return Ok(());
        }
        refuse_reserved(&place.path, origin)?;
        if let Some(taken) = self.entries.iter().find(|entry| entry.dest == place.path) {
            if matches!(taken.what, What::Protect(_)) {
                return Ok(());
            }
            let by = taken.origin.to_string();
            let path = place.path.clone();
            return Err(SpecError::ProtectTaken { path, by, origin: origin.to_string() });
        }
        let source = found.path.clone();
        self.view.cover(&place.path, Area::Host { source, writable: false });
        self.put(Entry {
            dest: place.path.clone(),
            what: What::Protect(found),
            origin: origin.clone(),
        });
        Ok(())
    }

    pub(super) fn mask_all(
        &mut self,
        args: &Args,
        profile: &Profile,
        variables: &Variables,
    ) -> Result<(), SpecError> {
        for entry in &profile.masks {
            let origin = Asker::Profile(entry.origin.clone());
            let path = path_of(&entry.value, variables, &origin)?;
            // What this user cannot reach, the agent cannot reach either.
            match self.view.locate(&path) {
                Ok(place) if self.is_out_of_reach(&place) => {}
                Ok(place) => self.mask_everywhere(&place, &origin)?,
                Err(Errno::ACCESS | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => {
                    return Err(SpecError::Find { path, origin: origin.to_string(), errno });
                }
            }
        }
        for path in &args.mask {
            let asker = Asker::Option("--mask");
            let place = self.locate(Path::new(path), &asker)?;
            refuse_reserved(&place.path, &asker)?;
            if place.found().is_none() {
                return Err(find_error(Path::new(path), &asker, Errno::NOENT));
            }
            self.mask_everywhere(&place, &Asker::Option("--mask"))?;
        }
        Ok(())
    }

    /// Masks a place, and the others at which the host's mounts show the same file.
    pub(super) fn mask_everywhere(
        &mut self,
        place: &Place,
        origin: &Asker,
    ) -> Result<(), SpecError> {
        let Some(found) = place.found() else { return Ok(()) };
        self.mask(place, origin.clone())?;
        for alias in self.host.mounts.aliases(&found.path) {
            if let Ok(place) = self.view.locate(&alias) {
                self.mask(&place, origin.clone())?;
            }
        }
        Ok(())
    }

    pub(super) fn mask(&mut self, place: &Place, origin: Asker) -> Result<(), SpecError> {
        let Some(found) = place.found() else { return Ok(()) };
        refuse_reserved(&place.path, &origin)?;
        if self
            .entries
            .iter()
            .any(|entry| entry.dest == place.path && matches!(entry.what, What::Bind { .. }))
        {
            // A bind at this very place is the more deliberate wish.
            return Ok(());
        }
        let below =
            |entry: &&Entry| entry.dest != place.path && entry.dest.starts_with(&place.path);
        if let Some(hidden) = self.entries.iter().find(below) {
            return Err(SpecError::MaskHides {
                mask: place.path.clone(),
                mask_origin: origin.to_string(),
                dest: hidden.dest.clone(),
                origin: hidden.origin.to_string(),
            });
        }
        self.view.cover(&place.path, Area::Fresh);
        self.put(Entry { dest: place.path.clone(), what: What::Mask(found), origin });
        Ok(())
    }

    /// Hides directories of ours wherever they would be seen: in their place, and through
    /// each bind of a directory above.
    pub fn hide_outside(&mut self, places: &[PathBuf]) -> Result<(), SpecError> {
        for hidden in places {
            let mut seen_at = vec![hidden.clone()];
            for entry in &self.entries {
                let (What::Bind { path: source, .. }
                | What::Overlay { lower: Found { path: source, .. } }) = &entry.what
                else {
                    continue;
                };
                if source.starts_with(hidden) {
                    let (path, origin) = (source.clone(), entry.origin.to_string());
                    return Err(SpecError::OutsideOnly { path, origin });
                }
                if let Ok(below) = hidden.strip_prefix(source) {
                    seen_at.push(entry.dest.join(below));
                }
            }
            for path in seen_at {
                // What cannot be found through the view is hidden already.
                let Ok(place) = self.view.locate(&path) else { continue };
                if place.path.starts_with(crate::plan::CONTROL_DIR) {
                    continue;
                }
                if place.found().is_some_and(|found| found.path == *hidden) {
                    self.mask_everywhere(&place, &Asker::Sandbox)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the agent could do nothing with what is there anyway: it has this
    /// user's rights and no capability. An owner can always give himself rights.
    pub(super) fn is_out_of_reach(&self, place: &Place) -> bool {
        place.found().is_some_and(|found| {
            self.host.uid != 0
                && found.stat.uid != self.host.uid
                && !self.host.files.reachable(&found.path)
        })
    }
}
