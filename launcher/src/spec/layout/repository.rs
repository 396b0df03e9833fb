//! The project's git directory: what of it can be changed.

use super::super::git::{MOST_REPOSITORIES, Repository, RuleKind, Way};
use super::super::view::Area;
use super::super::{Asker, Entry, SpecError, What};
use super::Layout;
use super::cover::IfMissing;
use crate::profile::GitPolicy;
use remount_broker::placeholder::Kind;
use std::path::Path;
use std::rc::Rc;

impl Layout<'_> {
    /// Protects what git executes or, if the profile says so, all of git's; also in the
    /// repositories that this one says are in its worktree.
    pub(super) fn protect_repository(
        &mut self,
        workspace: &Path,
        repository: Repository,
        policy: GitPolicy,
    ) -> Result<(), SpecError> {
        self.protect_work_tree(workspace, &repository, policy)?;
        if policy == GitPolicy::Rw {
            return Ok(());
        }
        let mut links = repository.links.clone();
        for _ in 0..MOST_REPOSITORIES {
            let Some(root) = links.pop() else { break };
            let place = self.view.locate(&root.join(".git"));
            if !place.is_ok_and(|place| self.existing(&place).is_some()) {
                // In the other policy, whoever commits can name another place.
                if policy == GitPolicy::Ro {
                    self.protect_end(&root)?;
                }
                continue;
            }
            let mut other = Repository::find(&root, self.host.files.as_ref());
            links.append(&mut other.links);
            // What is left over in the end is too much however much it is.
            links.truncate(MOST_REPOSITORIES + 1);
            // A submodule's is in this one's.
            other.dir = other.dir.filter(|dir| !repository.rules(&dir.common));
            self.protect_work_tree(&root, &other, policy)?;
        }
        match policy == GitPolicy::Ro && !links.is_empty() {
            true => Err(SpecError::TooManyRepositories(workspace.to_owned())),
            false => Ok(()),
        }
    }

    fn protect_work_tree(
        &mut self,
        root: &Path,
        repository: &Repository,
        policy: GitPolicy,
    ) -> Result<(), SpecError> {
        let dot_git = root.join(".git");
        let dir = repository.dir.as_ref();
        // Of one without a worktree nothing would be left to write to.
        let is_bare = dir.is_some_and(|dir| dir.common == root);
        if policy == GitPolicy::Ro {
            if let Some(dir) = dir.filter(|_| !is_bare) {
                self.protect(&dir.common, &Asker::Git, &IfMissing::Skip)?;
            }
            // Where there is no repository none can be made.
            self.protect(&dot_git, &Asker::Git, &IfMissing::Guard(Kind::Directory))?;
        }
        for rule in dir.map_or(&[][..], |dir| &dir.rules) {
            let is_read_only = || dir.is_some_and(|dir| rule.path.starts_with(&dir.common));
            let holds = match policy {
                GitPolicy::Hooks => true,
                GitPolicy::Ro => is_bare || !is_read_only(),
                GitPolicy::Rw => false,
            };
            if !holds {
                continue;
            }
            match &rule.what {
                RuleKind::Executed(stand_in) => {
                    let missing = stand_in.clone().map_or(IfMissing::Skip, IfMissing::Guard);
                    self.protect(&rule.path, &Asker::Git, &missing)?;
                }
                RuleKind::Open => self.open_part(&rule.path)?,
                RuleKind::Pinned => self.pin(&rule.path)?,
            }
        }
        if policy != GitPolicy::Rw {
            for way in &repository.ways {
                self.hold_way(way, root, repository)?;
            }
        }
        self.protect_pointer(&dot_git)
    }

    /// Keeps a path that git follows leading where it does: symlinks on it, directories that it
    /// goes up from, and what is at its end, if that is not known to be git's: nothing there
    /// can be made to look so.
    fn hold_way(
        &mut self,
        way: &Way,
        root: &Path,
        repository: &Repository,
    ) -> Result<(), SpecError> {
        // What git cannot follow either, it does not follow.
        let Ok((place, links)) = self.view.locate_way(&way.named) else { return Ok(()) };
        self.protect_links(links, &Asker::Git);
        for dir in way.turns() {
            if let Ok(turn) = self.view.locate(&dir)
                && !way.base.starts_with(&turn.path)
            {
                self.pin(&turn.path)?;
            }
        }
        let is_known = way.leads_to.as_ref().is_some_and(|end| repository.rules(end));
        if is_known || root.starts_with(&place.path) {
            return Ok(());
        }
        self.protect_end(&place.path)
    }

    /// Protects what git may take for a directory of its own, if nobody has said what it is. Of
    /// what is missing, the first directory: below what stands in for it nothing can be made.
    fn protect_end(&mut self, path: &Path) -> Result<(), SpecError> {
        let Ok(end) = self.view.locate(path) else { return Ok(()) };
        let mut place = Rc::clone(&end);
        let ancestors: Vec<&Path> = end.path.ancestors().skip(1).collect();
        for above in ancestors.into_iter().rev() {
            let Ok(above) = self.view.locate(above) else { return Ok(()) };
            if self.existing(&above).is_none() {
                place = above;
                break;
            }
        }
        if self.entries.iter().any(|entry| entry.dest == place.path) {
            return Ok(());
        }
        self.protect(&place.path, &Asker::Git, &IfMissing::Guard(Kind::Directory))
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
