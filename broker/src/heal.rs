//! Putting back what the host takes away.
//!
//! A mount of the sandbox goes away when the host renames another file over the one it is
//! mounted on, or removes that; it moves away when the host renames a directory. Then what
//! is at its path can be changed from inside. The kernel tells of the first
//! (`poll(2)` on `mountinfo`, before the rename is complete), but not of which; inotify of the
//! names that come and go: then those are looked at. All is looked at once in a while, and
//! before a request if neither would tell.
//!
//! Where there is nothing to mount on, the mount that holds the path is made read-only, so
//! that nothing can be created, and its target is stale, until there is something again. If
//! that is busy, the sandbox stands still for as long.
//! A placeholder that was removed is made again after a moment. A directory in which something
//! is to be protected comes back read-only, until all of that is in its place.

mod back;
mod doubt;
mod follow;
mod hold;
mod news;
mod tries;
mod watches;
mod worktrees;

pub use follow::FileSource;
pub use worktrees::Private;

use crate::holders::{Halted, Inspector};
use crate::placeholder::Kind as StandIn;
use crate::sandbox::{Index, Registry};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use watches::Watches;
use worktrees::Worktrees;

/// How long after the start is looked for the first time: a short command costs nothing.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// How often, if nothing happens: for what neither the kernel nor inotify tells.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often while a mount that is to be made read-only is busy.
const RETRY_EVERY: Duration = Duration::from_millis(1);

/// How often where names that come and go are not told of: there is no inotify left to have,
/// or a directory cannot be read.
const UNTOLD_EVERY: Duration = Duration::from_millis(100);

/// The same, while something is lost.
const SEARCH_EVERY: Duration = Duration::from_millis(10);

/// How long a placeholder may be missing: whoever replaces it in two steps is not to find
/// another one in the way.
const GRACE: Duration = Duration::from_millis(500);

/// A mount that is to stay where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where, inside: absolute, without symlinks.
    pub path: PathBuf,
    /// What.
    pub kind: Kind,
    /// On what. From the plan: by the first look the host may have put something else there.
    pub shape: Shape,
    /// What is made there if the host removes it.
    pub stand_in: Option<StandIn>,
}

/// What a mount lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A directory.
    Directory,
    /// A symbolic link, itself.
    Link,
    /// Anything else.
    File,
}

/// What is mounted somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// What is there itself, read-only.
    Protected,
    /// What is there itself, in the mode of a target, by its place in the registry.
    Member(Index),
    /// What is there itself, writable.
    Writable,
    /// Something read-only of the sandbox's own: this file on whatever is no directory, a link
    /// too; on a directory this other one, or nothing.
    Masked {
        /// Over a file or a link.
        file: PathBuf,
        /// Over a directory.
        directory: Option<PathBuf>,
    },
    /// A file of the host as it is at its own path, also after it was replaced there; a
    /// target's or not. Needs a [`FileSource`].
    Followed(Option<Index>),
    /// Something else, a target's or not: it cannot be put back, but it may hold what is lost.
    Other(Option<Index>),
}

/// What has happened to a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub what: What,
}

/// What can happen to a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is not at its path, and nothing can be mounted there now.
    Lost,
    /// It is there again.
    Healed,
    /// The host has replaced the file, and it is the new one that is shown.
    Followed,
    /// What holds the lost is busy, so that all processes inside stand still.
    Halted,
    /// They go on.
    Resumed,
    /// The git directory of a worktree that was added outside is read-only.
    Protected,
    /// A file in such a directory is not as git makes it, or one that was replaced outside can
    /// still be changed: somebody inside was faster.
    Changed,
    /// Not all git directories of worktrees there can be protected: nothing can be made there.
    Crowded,
    /// No longer.
    Uncrowded,
}

impl What {
    /// As the event log calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lost => "protection-lost",
            Self::Healed => "protection-restored",
            Self::Followed => "file-followed",
            Self::Halted => "sandbox-halted",
            Self::Resumed => "sandbox-resumed",
            Self::Protected => "worktree-protected",
            Self::Changed => "changed-before",
            Self::Crowded => "worktrees-closed",
            Self::Uncrowded => "worktrees-opened",
        }
    }

    /// What it means to whoever reads the log, after the path.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Changed => {
                ": changed from inside before it was protected, or open to be; of a worktree: run no \
                 git in it, remove its directory and the one of this file without git, and add it \
                 again; any other: compare it, replace it, and remove its other names"
            }
            Self::Crowded => ": not all worktrees there can be protected; remove some",
            _ => "",
        }
    }
}

/// Watches mounts and puts them back.
#[derive(Debug)]
pub struct Healer {
    slots: Vec<Slot>,
    /// The mount table, to be waited for.
    table: OwnedFd,
    /// Where the limit of mount namespaces is written, if there is one. A mount that is
    /// not attached yet counts.
    limit: Option<OwnedFd>,
    watches: Watches,
    /// Git directories that appear while the sandbox runs.
    worktrees: Worktrees,
    /// What is watched is not what is to be watched any more.
    is_watching_old: bool,
    /// Mounts that were made read-only, since something in them is lost.
    closed: BTreeSet<usize>,
    /// Processes that stand still, since one could not be.
    halted: Option<Halted>,
    /// The mount on whose account they do, once that is said.
    is_halted_for: Option<usize>,
    due: Instant,
}

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// These, and all below.
    These(BTreeSet<usize>),
    /// Every mount.
    All,
}

#[derive(Debug)]
struct Slot {
    kept: Kept,
    /// The others that are below it.
    below: Vec<usize>,
    /// The nearest mount above it that can be made read-only.
    holder: Option<usize>,
    /// Whether there is any mount of these above it.
    is_nested: bool,
    /// Where its file is on the host, if it is followed.
    source: Option<FileSource>,
    /// The mount that was last seen there.
    mount: Option<u64>,
    /// It was writable when it was first seen. What was not is read-only on the host, and
    /// never becomes writable.
    was_writable: bool,
    file: doubt::File,
    lost_since: Option<Instant>,
}

impl Healer {
    /// Watches `kept`; of the files that are followed, `sources` are on the host. `table` is the
    /// sandbox's mount table, opened; `limit` is where the limit of mount namespaces is
    /// written; `private` is needed if there are worktrees. Nothing is looked at yet.
    #[must_use]
    pub fn new(
        mut kept: Vec<Kept>,
        mut sources: Vec<FileSource>,
        table: OwnedFd,
        limit: Option<OwnedFd>,
        private: Option<Private>,
    ) -> Self {
        // Parents first, and what is hidden last: that is mostly in no place where programs
        // replace files all day. Nothing is below it.
        kept.sort_by(|a, b| (a.kind.is_mask(), &a.path).cmp(&(b.kind.is_mask(), &b.path)));
        let mut slots: Vec<Slot> = Vec::with_capacity(kept.len());
        for kept in kept {
            let own = slots.len();
            let mut nearest = None;
            for (index, slot) in slots.iter_mut().enumerate() {
                if kept.path != slot.kept.path && kept.path.starts_with(&slot.kept.path) {
                    slot.below.push(own);
                    nearest = Some((index, slot.kept.kind.is_changeable()));
                }
            }
            let is_nested = nearest.is_some();
            // In what is read-only nothing can be created.
            let holder = nearest.filter(|(_, is_changeable)| *is_changeable).map(|(i, _)| i);
            let source = sources.iter().position(|source| source.path == kept.path);
            let source = source.map(|place| sources.swap_remove(place));
            let (mount, lost_since, was_writable, below) = (None, None, false, Vec::new());
            let file = doubt::File::default();
            slots.push(Slot {
                kept,
                below,
                holder,
                is_nested,
                source,
                mount,
                was_writable,
                file,
                lost_since,
            });
        }
        let due = Instant::now() + FIRST_LOOK;
        Self {
            worktrees: Worktrees::new(slots.iter().map(|slot| &slot.kept), private),
            slots,
            table,
            limit,
            watches: Watches::new(),
            is_watching_old: true,
            closed: BTreeSet::new(),
            halted: None,
            is_halted_for: None,
            due,
        }
    }

    /// Whether the sandbox stands still.
    pub(crate) fn is_halted(&self) -> bool {
        self.halted.is_some()
    }

    /// What to wait for: the first for `POLLPRI`, the second for `POLLIN`.
    pub(crate) fn sources(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        (self.table.as_fd(), self.watches.source())
    }

    /// What somebody inside has changed before it was protected, or may have.
    pub(crate) fn changed(&self) -> Vec<PathBuf> {
        self.worktrees.changed().chain(self.doubted()).collect()
    }

    /// When to look even if nothing has happened.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// What to look at, as names that matter have come or gone; `None` if none has.
    pub(crate) fn heard(&mut self) -> Option<Scope> {
        let heard = self.watches.heard();
        self.is_watching_old |= heard.is_of_directories;
        let is_nothing = heard.slots.is_empty() && heard.names.is_empty();
        self.worktrees.touch(heard.names);
        match (heard.is_of_directories, is_nothing) {
            (true, _) => Some(Scope::All),
            (false, true) => None,
            (false, false) => Some(Scope::These(heard.slots)),
        }
    }

    /// The places of what is looked at, parents first.
    fn places(&self, scope: &Scope) -> Vec<usize> {
        match scope {
            Scope::All => (0..self.slots.len()).collect(),
            Scope::These(named) => {
                let below = named.iter().flat_map(|index| &self.slots[*index].below);
                named.iter().chain(below).copied().collect::<BTreeSet<_>>().into_iter().collect()
            }
        }
    }

    /// Looks at mounts, and puts back what is not in its place. With an `inspector` the
    /// sandbox can be made to stand still.
    pub(crate) fn look(
        &mut self,
        scope: &Scope,
        registry: &mut Registry,
        inspector: Option<&Inspector>,
        now: Instant,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for index in self.places(scope) {
            let followed = matches!(self.slots[index].kept.kind, Kind::Followed(_));
            let result = match followed {
                true => self.follow(index, registry),
                false => self.put_back(index, registry, now),
            };
            let slot = &mut self.slots[index];
            let was_lost = slot.lost_since.is_some();
            let what = match result {
                Ok(false) if slot.lost_since.is_none() => continue,
                Ok(true) if followed && slot.lost_since.is_none() => What::Followed,
                Ok(_) => {
                    slot.lost_since = None;
                    What::Healed
                }
                Err(_) if slot.lost_since.is_none() => {
                    slot.lost_since = Some(now);
                    What::Lost
                }
                Err(_) => {
                    events.extend(self.say_doubt(index, now));
                    continue;
                }
            };
            // The directories that are watched are the same after a file was replaced.
            self.is_watching_old |= was_lost || slot.lost_since.is_some() || !slot.below.is_empty();
            events.push(Event { path: slot.kept.path.clone(), what });
            if what == What::Healed {
                self.wait_anew(index, now);
            }
        }
        self.look_at_worktrees(*scope == Scope::All, &mut events);
        let is_busy = self.hold_the_lost(registry, inspector, &mut events);
        let mut due = now + self.pause(is_busy, now);
        if std::mem::take(&mut self.is_watching_old) {
            self.watches.renew(&self.slots, self.worktrees.places());
            // What happened before there was a watch was not told.
            due = due.min(now + news::SOON);
        }
        self.due = if *scope == Scope::All { due } else { due.min(self.due) };
        events
    }

    /// How long until the next look, if nothing happens.
    fn pause(&self, is_busy: bool, now: Instant) -> Duration {
        let mut lost =
            self.slots.iter().filter_map(|slot| Some((slot, slot.lost_since?))).peekable();
        // Nobody tells when a file is closed.
        let is_searching =
            self.watches.miss_something() || self.slots.iter().any(|slot| slot.file.is_doubted);
        let every = match (is_busy, is_searching, lost.peek().is_some()) {
            (true, ..) => RETRY_EVERY,
            (false, true, true) => SEARCH_EVERY,
            (false, true, false) => UNTOLD_EVERY,
            (false, false, _) => LOOK_EVERY,
        };
        let stand_in = lost
            .filter(|(slot, _)| slot.kept.stand_in.is_some())
            .filter_map(|(_, since)| (since + GRACE).checked_duration_since(now));
        stand_in.chain([every]).min().unwrap_or(every)
    }
}

impl Kind {
    fn is_mask(&self) -> bool {
        matches!(self, Self::Masked { .. })
    }

    fn is_changeable(&self) -> bool {
        matches!(self, Self::Member(_) | Self::Writable | Self::Other(_))
    }

    fn target(&self) -> Option<Index> {
        match self {
            Self::Member(target) => Some(*target),
            Self::Other(target) | Self::Followed(target) => *target,
            _ => None,
        }
    }
}
