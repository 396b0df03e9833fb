//! What a person holds read-only is in no sandbox that starts now writable.

use super::{Asker, Entry, Spec, What};
use crate::hold::{Hold, Shown};
use crate::host::Files;
use remount_broker::name::Mode;
use std::path::{Path, PathBuf};

impl Spec {
    /// Takes back what is held. A target of which all is held begins read-only, and can be
    /// opened when it is no longer; what is held in a larger directory stays read-only
    /// as long as the sandbox lives.
    pub(crate) fn hold(&mut self, hold: Hold, files: &dyn Files) {
        let mut covers = Vec::new();
        for entry in &mut self.entries {
            let What::Bind { path, mode, target, .. } = &mut entry.what else { continue };
            if *mode == Mode::Ro && target.is_none() {
                continue;
            }
            match hold.shown(path) {
                Shown::Writable => {}
                Shown::ReadOnly => *mode = Mode::Ro,
                Shown::Except(below) => {
                    let cover = |below: &PathBuf| (entry.dest.join(below), path.join(below));
                    covers.extend(below.iter().map(cover).map(|cover| (entry.dest.clone(), cover)));
                }
            }
        }
        for (holder, (dest, path)) in covers {
            // Where something else is mounted, that decides; what is not there cannot be
            // covered.
            if self.around(&dest).is_some_and(|entry| entry.dest == holder)
                && let Ok(found) = files.find(&path)
                && found.path == path
            {
                self.entries.push(Entry { dest, what: What::Protect(found), origin: Asker::Held });
            }
        }
        self.held = Some(hold.since);
    }

    /// The deepest entry at `path` or around it.
    fn around(&self, path: &Path) -> Option<&Entry> {
        let around = self.entries.iter().filter(|entry| path.starts_with(&entry.dest));
        around.max_by_key(|entry| entry.dest.as_os_str().len())
    }
}
