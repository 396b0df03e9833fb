//! The project's git directory: what of it can be changed.

use super::super::git::{GitDir, RuleKind};
use super::super::view::Area;
use super::super::{Asker, Entry, SpecError, What};
use super::Layout;
use super::cover::IfMissing;
use crate::profile::GitPolicy;
use remount_broker::placeholder::Kind;
use std::path::Path;

impl Layout<'_> {
    /// Protects what git executes or, if the profile says so, all of git's.
    pub(super) fn protect_repository(
        &mut self,
        workspace: &Path,
        git: Option<GitDir>,
        policy: GitPolicy,
    ) -> Result<(), SpecError> {
        let dot_git = workspace.join(".git");
        match (policy, git) {
            (GitPolicy::Ro, git) => {
                if let Some(git) = git {
                    self.protect(&git.common, &Asker::Git, &IfMissing::Skip)?;
                }
                // Where there is no repository none can be made.
                self.protect(&dot_git, &Asker::Git, &IfMissing::Guard(Kind::Directory))?;
            }
            (GitPolicy::Hooks, Some(git)) => {
                for rule in git.rules {
                    match rule.what {
                        RuleKind::Executed(stand_in) => {
                            let missing = stand_in.map_or(IfMissing::Skip, IfMissing::Guard);
                            self.protect(&rule.path, &Asker::Git, &missing)?;
                        }
                        RuleKind::Open => self.open_part(&rule.path)?,
                        RuleKind::Pinned => self.pin(&rule.path)?,
                    }
                }
            }
            (GitPolicy::Hooks, None) | (GitPolicy::Rw, _) => {}
        }
        self.protect_pointer(&dot_git)
    }

    /// The `.git` of a linked worktree or a submodule is a file, or it is a symlink: whoever
    /// writes it chooses the hooks.
    fn protect_pointer(&mut self, dot_git: &Path) -> Result<(), SpecError> {
        let (place, links) = self.locate_way(dot_git, &Asker::Git)?;
        self.protect_links(links, &Asker::Git);
        match self.existing(&place) {
            Some(found) if found.stat.is_file() => self.protect_found(&place, found, &Asker::Git),
            _ => Ok(()),
        }
    }

    /// Keeps a directory in its place, or the place for one: what is in it can be changed.
    fn pin(&mut self, path: &Path) -> Result<(), SpecError> {
        let (place, links) = self.locate_way(path, &Asker::Git)?;
        self.protect_links(links, &Asker::Git);
        let what = What::Pin(Kind::Directory);
        match self.existing(&place) {
            Some(found) if found.stat.is_dir() => {
                let is_taken = self.entries.iter().any(|entry| entry.dest == place.path);
                if place.is_writable() && !is_taken {
                    self.put(Entry { dest: place.path.clone(), what, origin: Asker::Git });
                }
                Ok(())
            }
            Some(found) => self.protect_found(&place, found, &Asker::Git),
            None => self.guard(place, what, &Kind::Directory, &Asker::Git),
        }
    }

    /// Leaves a directory, in the midst of what is protected, as writable as what is around
    /// that.
    fn open_part(&mut self, path: &Path) -> Result<(), SpecError> {
        let place = self.locate(path, &Asker::Git)?;
        let Some(found) = place.found() else { return Ok(()) };
        let is_around = |entry: &Entry| {
            matches!(entry.what, What::Protect(_)) && place.path.starts_with(&entry.dest)
        };
        if !self.entries.iter().any(is_around) {
            return Ok(());
        }
        let area = Area::Host { source: found.path.clone(), writable: true };
        self.view.cover(&place.path, area);
        self.put(Entry { dest: place.path.clone(), what: What::Open(found), origin: Asker::Git });
        Ok(())
    }
}
