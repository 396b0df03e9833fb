//! What must not be asked for together.

use super::super::{Entry, SpecError, What};
use super::Layout;
use remount_broker::name::{Mode, TargetName};
use remount_broker::sys::mount::FileId;
use std::collections::HashMap;
use std::path::PathBuf;

impl Layout<'_> {
    pub(super) fn refuse_planted_links(&self) -> Result<(), SpecError> {
        for (path, origin) in &self.asked {
            if let Some(link) = self.view.planted_link(path) {
                return Err(SpecError::PlantedLink {
                    path: path.clone(),
                    link,
                    origin: origin.to_string(),
                });
            }
        }
        Ok(())
    }

    /// The same files at two places, both writable: a toggle of one would leave the
    /// other open.
    pub(super) fn refuse_aliases(&self) -> Result<(), SpecError> {
        let mut by_source: HashMap<((u32, u32), PathBuf), &Entry> = HashMap::new();
        let mut by_file: HashMap<FileId, &Entry> = HashMap::new();
        for entry in &self.entries {
            let What::Bind { source, path, mode, target, .. } = &entry.what else { continue };
            if *mode == Mode::Ro && target.is_none() {
                continue;
            }
            // By the file itself, which may have two names.
            let file = source.as_ref().map(|found| found.stat.id);
            if let Some(other) = file.and_then(|file| by_file.insert(file, entry)) {
                return Err(alias(other, entry));
            }
            // By filesystem: the host may show the same files at two paths itself.
            let mounts = &self.host.mounts;
            let files = mounts.on_filesystem(path).unwrap_or_else(|| ((0, 0), path.clone()));
            if let Some(other) = by_source.insert(files, entry) {
                return Err(alias(other, entry));
            }
        }
        for ((dev, path), entry) in &by_source {
            for parent in path.ancestors().skip(1) {
                let Some(outer) = by_source.get(&(*dev, parent.to_owned())) else { continue };
                let below = path.strip_prefix(parent).unwrap_or(path);
                if outer.dest.join(below) != entry.dest {
                    return Err(alias(outer, entry));
                }
            }
        }
        Ok(())
    }

    pub(super) fn refuse_equal_names(&self) -> Result<(), SpecError> {
        let mut names: HashMap<&TargetName, &Entry> = HashMap::new();
        for entry in &self.entries {
            let What::Bind { target: Some(target), .. } = &entry.what else { continue };
            if let Some(first) = names.insert(&target.name, entry) {
                return Err(SpecError::TargetName {
                    name: target.name.clone(),
                    first: first.dest.clone(),
                    second: entry.dest.clone(),
                    origin: entry.origin.to_string(),
                });
            }
        }
        Ok(())
    }

    /// A target without a mount that may be writable: what the host has read-only never
    /// becomes writable, so there would be nothing to switch.
    pub(super) fn refuse_read_only_targets(&self) -> Result<(), SpecError> {
        let mounts = &self.host.mounts;
        for entry in &self.entries {
            let What::Bind { path, target: Some(target), .. } = &entry.what else { continue };
            let is_read_only = mounts.of(path).is_some_and(|mount| mount.read_only)
                && mounts.below(path).iter().all(|mount| mount.read_only);
            if is_read_only {
                return Err(SpecError::ReadOnlyTarget {
                    name: target.name.clone(),
                    path: path.clone(),
                    origin: entry.origin.to_string(),
                });
            }
        }
        Ok(())
    }
}

fn alias(first: &Entry, second: &Entry) -> SpecError {
    SpecError::Alias {
        first: first.dest.clone(),
        first_origin: first.origin.to_string(),
        second: second.dest.clone(),
        second_origin: second.origin.to_string(),
    }
}
