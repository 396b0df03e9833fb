//! Git directories of linked worktrees that somebody outside adds while the sandbox runs.
//!
//! The directory in which git makes them stays writable inside, so that worktrees can be added
//! there too. Git outside executes what such a git directory leads to: each that is not the
//! sandbox's own becomes read-only as soon as it says to which worktree it belongs. What
//! somebody inside did to it before is found by comparison with what git writes, and said.

mod check;

use super::tries::{Tried, insist};
use super::{Event, Healer, Kept, Shape, Slot, What};
use crate::name::Mode;
use crate::placeholder::Kind as StandIn;
use crate::sys::mount;
use rustix::fs::{CWD, Dir, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// As many are looked after in one directory: somebody inside may make any number.
const MOST: usize = 1000;

/// What a sandbox does not share with the host, for telling whose worktree one is.
#[derive(Debug)]
pub struct Private {
    /// The host's root directory, from which nothing is executed or changed.
    pub host: OwnedFd,
    /// Writable directories that are the sandbox's own: absolute, without symlinks.
    pub places: Vec<PathBuf>,
}

/// All directories with git directories of worktrees.
#[derive(Debug, Default)]
pub(super) struct Worktrees {
    private: Option<Private>,
    places: Vec<Place>,
}

/// One of them.
#[derive(Debug)]
struct Place {
    /// What keeps it in its place.
    slot: usize,
    path: PathBuf,
    /// Those that the plan protects.
    planned: BTreeSet<OsString>,
    entries: BTreeMap<OsString, Entry>,
    /// Names that have come, and entries in which something has changed.
    touched: BTreeSet<OsString>,
    /// There are more than [`MOST`].
    is_crowded: bool,
    /// Some that cannot be protected.
    unprotected: BTreeSet<OsString>,
}

/// A git directory that the plan did not know.
#[derive(Debug, Default)]
struct Entry {
    /// The mount that makes it read-only: it belongs to a worktree that is not the sandbox's.
    mount: Option<u64>,
    /// What somebody inside has made or changed in it.
    changed: Option<OsString>,
}

impl Private {
    /// The host's directory at the private one around a path, and the path below it.
    fn around<'p>(&self, path: &'p Path) -> Option<(Result<OwnedFd, Errno>, &'p Path)> {
        let mut below =
            self.places.iter().filter_map(|place| Some((place, path.strip_prefix(place).ok()?)));
        let (place, below) = below.next()?;
        Some((mount::open_exact_in(self.host.as_fd(), place), below))
    }
}

impl Kept {
    /// Whether git makes git directories of worktrees in it: nothing else that lies on a
    /// directory has one for a stand-in.
    #[must_use]
    pub fn holds_worktrees(&self) -> bool {
        let is_directory =
            (self.shape, &self.stand_in) == (Shape::Directory, &Some(StandIn::Directory));
        is_directory && self.kind.is_changeable()
    }
}

impl Worktrees {
    /// Of those in `kept`, whose order is that of the slots.
    pub(super) fn new<'k>(
        kept: impl Iterator<Item = &'k Kept> + Clone,
        private: Option<Private>,
    ) -> Self {
        let place = |(slot, holder): (usize, &Kept)| {
            let below = kept.clone().filter_map(|it| it.path.strip_prefix(&holder.path).ok());
            let names = below.filter_map(|below| below.iter().next());
            let planned = names.map(OsStr::to_owned).collect();
            Place {
                slot,
                path: holder.path.clone(),
                planned,
                entries: BTreeMap::new(),
                touched: BTreeSet::new(),
                is_crowded: false,
                unprotected: BTreeSet::new(),
            }
        };
        let holders = kept.clone().enumerate().filter(|(_, kept)| kept.holds_worktrees());
        Self { private, places: holders.map(place).collect() }
    }

    /// The directories to be watched, each with its number.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, &Path)> {
        self.places.iter().enumerate().map(|(number, place)| (number, place.path.as_path()))
    }

    /// Notes names in directories, by their numbers.
    pub(super) fn touch(&mut self, names: Vec<(usize, OsString)>) {
        for (place, name) in names {
            self.places[place].touched.insert(name);
        }
    }

    /// The mounts in which nothing can be protected, and so nothing may be changed.
    pub(super) fn closed(&self) -> impl Iterator<Item = usize> {
        self.places.iter().filter(|place| place.is_closed()).map(|place| place.slot)
    }

    /// What somebody inside has changed, before it was protected.
    pub(super) fn changed(&self) -> impl Iterator<Item = PathBuf> {
        self.places.iter().flat_map(|place| {
            let changed = |(name, entry): (&OsString, &Entry)| {
                Some(place.path.join(name).join(entry.changed.as_ref()?))
            };
            place.entries.iter().filter_map(changed)
        })
    }
}

impl Healer {
    /// Looks at the git directories of worktrees in which something has changed, or at all.
    pub(super) fn look_at_worktrees(&mut self, is_all: bool, events: &mut Vec<Event>) {
        let mut worktrees = std::mem::take(&mut self.worktrees);
        let Worktrees { private, places } = &mut worktrees;
        for (number, place) in places.iter_mut().enumerate() {
            if self.slots[place.slot].lost_since.is_some() {
                continue;
            }
            let was_closed = place.is_closed();
            if is_all {
                place.find();
            }
            while let Some(name) = place.touched.pop_first() {
                if !self.visit(number, place, &name, private.as_ref(), events) {
                    place.forget(&name);
                }
                // Nothing can be made there, and what failed once may take long to fail again.
                if place.unprotected.contains(&name) {
                    break;
                }
            }
            if was_closed != place.is_closed() {
                let what = if was_closed { What::Uncrowded } else { What::Crowded };
                events.push(Event { path: place.path.clone(), what });
            }
        }
        self.worktrees = worktrees;
    }

    /// Looks at what has a name. Whether it is to be looked at again.
    fn visit(
        &mut self,
        number: usize,
        place: &mut Place,
        name: &OsStr,
        private: Option<&Private>,
        events: &mut Vec<Event>,
    ) -> bool {
        let path = place.path.join(name);
        let stat = match mount::lstat_at(CWD, &path) {
            Ok(stat) if stat.is_dir() && !place.planned.contains(name) => stat,
            _ => return false,
        };
        place.is_crowded |= place.entries.len() >= MOST && !place.entries.contains_key(name);
        if place.is_crowded {
            return place.entries.contains_key(name);
        }
        let entry = place.entries.entry(name.to_owned()).or_default();
        let mount = stat.is_mount_root.then_some(stat.mount_id);
        if entry.mount.is_some_and(|id| mount != Some(id)) {
            // The host has removed it, and made another one.
            *entry = Entry::default();
        }
        // Before it is read: what happens from here on is told.
        self.watches.watch_once(&path, number, name);
        let is_new = entry.mount.is_none();
        if is_new {
            place.unprotected.remove(name);
            if !is_of_others(&path, &self.slots, private) {
                return true;
            }
            match self.protect(&path) {
                Ok(id) => entry.mount = Some(id),
                Err(Errno::NOENT | Errno::NOTDIR) => return false,
                Err(_) => {
                    place.unprotected.insert(name.to_owned());
                    return true;
                }
            }
            events.push(Event { path: path.clone(), what: What::Protected });
        }
        if entry.changed.is_none() {
            entry.changed = check::changed(&path, &place.path, is_new);
            let file = entry.changed.as_ref().map(|file| path.join(file));
            events.extend(file.map(|path| Event { path, what: What::Changed }));
        }
        true
    }

    /// Makes a directory read-only, by a mount of itself. Answers its id.
    fn protect(&self, path: &Path) -> Result<u64, Errno> {
        insist(|| {
            let at = mount::open_exact(CWD, path)?;
            let stat = mount::stat(at.as_fd())?;
            if stat.is_mount_root && mount::is_read_only(&at)? {
                return Ok(Tried::Is(stat.mount_id));
            }
            let tree = self.detached(at.as_fd(), Mode::Ro);
            let attach = |tree: OwnedFd| mount::attach(tree.as_fd(), at.as_fd());
            Ok(Tried::Mounted(tree.and_then(attach)))
        })
    }
}

impl Place {
    /// Notes all that is there.
    fn find(&mut self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, &self.path, flags, rustix::fs::Mode::empty());
        let Ok(dir) = dir.and_then(Dir::new) else { return };
        let names = dir.filter_map(|entry| {
            Some(OsStr::from_bytes(entry.ok()?.file_name().to_bytes()).to_owned())
        });
        let names =
            names.filter(|name| name != "." && name != ".." && !self.planned.contains(name));
        let found: BTreeSet<OsString> = names.take(MOST + 1).collect();
        self.is_crowded = found.len() > MOST;
        // Of a crowd not all have been seen.
        if !self.is_crowded {
            self.entries.retain(|name, _| found.contains(name));
            self.unprotected.retain(|name| found.contains(name));
        }
        self.touched.extend(self.entries.keys().cloned());
        self.touched.extend(found);
    }

    /// Whether something in it cannot be protected.
    fn is_closed(&self) -> bool {
        self.is_crowded || !self.unprotected.is_empty()
    }

    fn forget(&mut self, name: &OsStr) {
        self.entries.remove(name);
        self.unprotected.remove(name);
    }
}

/// Whether the worktree that a git directory is made for is one that somebody outside uses and
/// nobody inside can write to.
fn is_of_others(git_dir: &Path, slots: &[Slot], private: Option<&Private>) -> bool {
    let text = match check::read(CWD, &git_dir.join(check::GITDIR)) {
        // It does not say yet.
        Err(Errno::NOENT) => return false,
        Ok(text) if text.is_empty() => return false,
        Ok(text) => text,
        // Git makes a file, and no longer one.
        Err(_) => return true,
    };
    let Some(pointer) = check::named(&text, git_dir) else { return true };
    let is_writable =
        |slot: &Slot| slot.kept.kind.is_changeable() && pointer.starts_with(&slot.kept.path);
    if slots.iter().any(is_writable) {
        return false;
    }
    match private.and_then(|private| private.around(&pointer)) {
        None => true,
        // Only if the host has it too.
        Some((place, below)) => {
            place.is_ok_and(|place| check::leads_back(place.as_fd(), below, git_dir))
        }
    }
}
