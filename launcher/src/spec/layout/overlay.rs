//! Overlays: directories of the host that can be written to without changing them.

use super::super::{Asker, SpecError, What};
use super::{Layout, find_error, require_plain, shape_of};
use crate::host::Found;
use crate::paths::is_in;
use crate::plan::Shape;
use crate::profile::Missing;
use remount_broker::name::Mode;
use rustix::io::Errno;
use std::path::{Path, PathBuf};

impl Layout<'_> {
    /// What is seen through an overlay, and where its changes are kept, both without
    /// symlinks. The latter is made if it is missing.
    pub(super) fn overlay(
        &mut self,
        source: &Path,
        changes: Option<PathBuf>,
        origin: &Asker,
    ) -> Result<(Found, Option<PathBuf>), SpecError> {
        let lower = match self.source(source, Missing::Error, origin)? {
            Some((_, Some(found))) if shape_of(&found) == Shape::Directory => found,
            _ => return Err(find_error(source, origin, Errno::NOTDIR)),
        };
        let Some(changes) = changes else { return Ok((lower, None)) };
        require_plain(&changes, origin)?;
        let path = match self.source(&changes, Missing::Create, origin)? {
            Some((path, None)) => path,
            Some((path, Some(found))) if found.stat.is_dir() => path,
            _ => return Err(find_error(&changes, origin, Errno::NOTDIR)),
        };
        if is_in(&path, &lower.path) || is_in(&lower.path, &path) {
            let why = "it and the directory that is seen lie in each other";
            return Err(SpecError::Changes { path, origin: origin.to_string(), why });
        }
        Ok((lower, Some(path)))
    }

    /// What an overlay keeps must not be changed but through it (overlayfs says that what
    /// happens then is undefined), and not by two of them.
    pub(super) fn refuse_open_changes(&self) -> Result<(), SpecError> {
        let all: Vec<_> = self
            .entries
            .iter()
            .filter_map(|entry| match &entry.what {
                What::Overlay { changes: Some(changes), .. } => Some((changes, entry)),
                _ => None,
            })
            .collect();
        for (changes, overlay) in &all {
            let refuse = |why| {
                let (path, origin) = (changes.to_path_buf(), overlay.origin.to_string());
                Err(SpecError::Changes { path, origin, why })
            };
            for entry in &self.entries {
                let What::Bind { path, mode, target, .. } = &entry.what else { continue };
                let writable = *mode == Mode::Rw || target.is_some();
                if writable && (is_in(changes, path) || is_in(path, changes)) {
                    return refuse("it is shown writable, which only the overlay may be");
                }
            }
            let mut others = all.iter().filter(|(_, other)| other.dest != overlay.dest);
            if others.any(|(other, _)| is_in(changes, other) || is_in(other, changes)) {
                return refuse("another overlay keeps its changes there");
            }
        }
        Ok(())
    }
}
