//! Putting back what the host takes away.
//!
//! A mount of the sandbox goes away when the host renames another file over the one it is
//! mounted on, or removes that; it moves away when the host renames a directory. Then what
//! is at its path can be changed from inside. The kernel tells of the first
//! (`poll(2)` on `mountinfo`, before the rename is complete), inotify of the names that
//! come and go. All is looked at once in a while, and before a request if neither would tell.
//!
//! Where there is nothing to mount on, the mount that holds the path is made read-only, so
//! that nothing can be created, and its target is stale, until there is something again.
//! A placeholder that was removed is made again after a moment.

use crate::name::Mode;
use crate::placeholder::{self, Kind as StandIn};
use crate::sandbox::{Index, Registry};
use crate::sys::mount::{self, Attributes, FileStat, Reach};
use rustix::fs::CWD;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod news;

/// How long after the start is looked for the first time: a short command costs nothing.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// How often, if nothing happens: for what neither the kernel nor inotify tells.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often while a mount that is to be made read-only is busy.
const RETRY_EVERY: Duration = Duration::from_millis(1);

/// How often while something is lost, without watches.
const SEARCH_EVERY: Duration = Duration::from_millis(10);

/// How long a placeholder may be missing: whoever replaces it in two steps is not to find
/// another one in the way.
const GRACE: Duration = Duration::from_millis(500);

/// Tries to mount on a file whose rename is under way, each of a few microseconds.
const TRIES: u32 = 2000;

/// A mount that is to stay where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where, inside: absolute, without symlinks.
    pub path: PathBuf,
    /// What.
    pub kind: Kind,
}

/// What is mounted somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// What is there itself, read-only; with what stands in for it if it does not exist.
    Protected(Option<StandIn>),
    /// What is there itself, in the mode of a target, by its place in the registry.
    Member(Index),
    /// What is there itself, writable.
    Writable,
    /// An empty, read-only file or directory: this one.
    Masked(PathBuf),
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
}

impl What {
    /// As the event log calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lost => "protection-lost",
            Self::Healed => "protection-restored",
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
    /// `None` where there are no watches left to have: then only time tells.
    watches: Option<Watches>,
    /// Mounts that were made read-only, since something in them is lost.
    closed: BTreeSet<usize>,
    due: Instant,
}

#[derive(Debug)]
struct Watches {
    fd: OwnedFd,
    /// The names that matter in each directory.
    names: BTreeMap<i32, BTreeSet<OsString>>,
    /// Nothing comes or goes without being told.
    tell_all: bool,
}

#[derive(Debug)]
struct Slot {
    kept: Kept,
    /// The nearest mount above it that can be made read-only.
    holder: Option<usize>,
    /// The mount that was last seen there.
    mount: Option<u64>,
    lost_since: Option<Instant>,
}

impl Healer {
    /// Watches `kept`. `table` is the sandbox's mount table, opened; `limit` is where the
    /// limit of mount namespaces is written. Nothing is looked at yet.
    #[must_use]
    pub fn new(mut kept: Vec<Kept>, table: OwnedFd, limit: Option<OwnedFd>) -> Self {
        // Parents first.
        kept.sort_by(|a, b| a.path.cmp(&b.path));
        let mut slots: Vec<Slot> = Vec::with_capacity(kept.len());
        for kept in kept {
            let above = |slot: &&mut Slot| {
                kept.path != slot.kept.path && kept.path.starts_with(&slot.kept.path)
            };
            let nearest = slots.iter_mut().enumerate().rev().find(|(_, slot)| above(slot));
            // In what is read-only nothing can be created.
            let holder = nearest.filter(|(_, slot)| slot.kept.kind.is_changeable()).map(|(i, _)| i);
            slots.push(Slot { kept, holder, mount: None, lost_since: None });
        }
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let watches = inotify::init(flags).ok().map(|fd| Watches {
            fd,
            names: BTreeMap::new(),
            tell_all: false,
        });
        let due = Instant::now() + FIRST_LOOK;
        Self { slots, table, limit, watches, closed: BTreeSet::new(), due }
    }

    /// What to wait for: the first for `POLLPRI`, the second for `POLLIN`.
    pub(crate) fn sources(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        (self.table.as_fd(), self.watches.as_ref().map(|watches| watches.fd.as_fd()))
    }

    /// When to look even if nothing has happened.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Whether a name that matters has come or gone.
    pub(crate) fn heard(&mut self) -> bool {
        let Some(watches) = &self.watches else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&watches.fd, &mut buffer);
        let mut matters = false;
        while let Ok(event) = reader.next() {
            let names = watches.names.get(&event.wd());
            let name = event.file_name().map(|name| OsString::from_vec(name.to_bytes().to_vec()));
            // Without a name: the directory itself has gone. Without a directory: events were
            // lost. What is watched no more does not matter.
            let is_known = names.is_some_and(|names| name.is_none_or(|name| names.contains(&name)));
            matters |= is_known || event.wd() < 0;
        }
        matters
    }

    /// Looks at every mount, and puts back what is not in its place.
    pub(crate) fn look(&mut self, registry: &mut Registry, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let mut changed = self.watches.as_ref().is_some_and(|watches| watches.names.is_empty());
        for index in 0..self.slots.len() {
            let result = self.put_back(index, registry, now);
            let slot = &mut self.slots[index];
            let path = || slot.kept.path.clone();
            match result {
                Ok(false) if slot.lost_since.is_none() => {}
                Ok(_) => {
                    slot.lost_since = None;
                    changed = true;
                    events.push(Event { path: path(), what: What::Healed });
                }
                Err(_) if slot.lost_since.is_none() => {
                    slot.lost_since = Some(now);
                    changed = true;
                    events.push(Event { path: path(), what: What::Lost });
                }
                Err(_) => {}
            }
        }
        let is_busy = self.close_what_holds_the_lost(registry);
        if changed {
            self.watch();
        }
        self.due = now + self.pause(is_busy, now);
        events
    }

    /// How long until the next look, if nothing happens.
    fn pause(&self, is_busy: bool, now: Instant) -> Duration {
        let mut lost =
            self.slots.iter().filter_map(|slot| Some((slot, slot.lost_since?))).peekable();
        if is_busy {
            return RETRY_EVERY;
        }
        if lost.peek().is_some() && self.watches.is_none() {
            return SEARCH_EVERY;
        }
        let stand_in = lost
            .filter(|(slot, _)| matches!(slot.kept.kind, Kind::Protected(Some(_))))
            .filter_map(|(_, since)| (since + GRACE).checked_duration_since(now));
        stand_in.chain([LOOK_EVERY]).min().unwrap_or(LOOK_EVERY)
    }

    /// Whether the mount had to be put back.
    fn put_back(
        &mut self,
        index: usize,
        registry: &mut Registry,
        now: Instant,
    ) -> Result<bool, Errno> {
        let slot = &self.slots[index];
        let path = &slot.kept.path;
        match mount::lstat_at(CWD, path) {
            Ok(stat) if stat.is_mount_root && slot.mount == Some(stat.mount_id) => {
                return Ok(false);
            }
            Ok(_) => {}
            Err(Errno::NOENT) if self.may_stand_in(slot, now) => self.stand_in(index)?,
            Err(errno) => return Err(errno),
        }
        let mut last = Errno::NOENT;
        for turn in 1..=TRIES {
            let slot = &self.slots[index];
            let at = mount::open_exact_or_link(CWD, &slot.kept.path)?;
            let stat = mount::stat(at.as_fd())?;
            if stat.is_mount_root && slot.is_its_own(&stat) {
                let was = slot.mount;
                self.adopt(index, at, &stat, registry)?;
                return Ok(was.is_some());
            }
            if slot.kept.kind.is_changeable() && slot.holder.is_none() {
                // Where nobody inside can put anything, another directory is not the one
                // that was given.
                return Err(Errno::STALE);
            }
            self.retire(index, registry)?;
            match self.mount(index, at.as_fd(), registry) {
                Ok(()) => {}
                // The rename is not complete yet; or the one slot that there is was taken.
                Err(errno @ (Errno::NOENT | Errno::NOSPC)) => {
                    last = errno;
                    pause(turn);
                }
                Err(errno) => return Err(errno),
            }
        }
        Err(last)
    }

    /// Takes what is mounted there for what belongs there.
    fn adopt(
        &mut self,
        index: usize,
        at: OwnedFd,
        stat: &FileStat,
        registry: &mut Registry,
    ) -> Result<(), Errno> {
        let slot = &self.slots[index];
        match slot.kept.kind {
            // Another one that was moved here may be writable.
            Kind::Protected(_) if !mount::is_read_only(&at)? => {
                mount::set_attributes(at.as_fd(), Attributes::READ_ONLY, Reach::This)?;
            }
            Kind::Member(target) => {
                let own = registry.member(target, &slot.kept.path).map(mount::mount_id);
                if own != Some(Ok(stat.mount_id)) {
                    self.retire(index, registry)?;
                    mount::set_attributes(
                        at.as_fd(),
                        Attributes::mode(registry.wanted(target)),
                        Reach::This,
                    )?;
                    registry.replace_member(target, &self.slots[index].kept.path, at);
                }
            }
            _ => {}
        }
        self.slots[index].mount = Some(stat.mount_id);
        Ok(())
    }

    /// Closes a target's mount that is not at its path any more, for good: another one
    /// takes its place, and what was opened through it must not stay writable.
    fn retire(&self, index: usize, registry: &Registry) -> Result<(), Errno> {
        let Kept { path, kind: Kind::Member(target) } = &self.slots[index].kept else {
            return Ok(());
        };
        let Some(old) = registry.member(*target, path) else { return Ok(()) };
        match mount::set_attributes(old, Attributes::READ_ONLY, Reach::This) {
            // Taken out of the tree, since its directory was removed.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Mounts what belongs there. It has its flags before anybody can see it.
    fn mount(&self, index: usize, at: BorrowedFd<'_>, registry: &Registry) -> Result<(), Errno> {
        let tree = match &self.slots[index].kept.kind {
            Kind::Protected(_) => self.detached(at, Mode::Ro)?,
            Kind::Member(target) => self.detached(at, registry.wanted(*target))?,
            Kind::Writable => self.detached(at, Mode::Rw)?,
            Kind::Masked(empty) => {
                self.detached(mount::open_exact(CWD, empty)?.as_fd(), Mode::Ro)?
            }
            Kind::Other(_) => return Err(Errno::OPNOTSUPP),
        };
        mount::attach(tree.as_fd(), at)
    }

    /// A mount of what `source` is open on that is nowhere yet.
    fn detached(&self, source: BorrowedFd<'_>, mode: Mode) -> Result<OwnedFd, Errno> {
        // It counts as a mount namespace, and one more is allowed for as long as it takes:
        // should somebody inside be faster, there is none for this process.
        let allow = |count: &[u8]| match &self.limit {
            Some(limit) => rustix::io::pwrite(limit, count, 0).map(drop),
            None => Ok(()),
        };
        allow(b"2")?;
        let tree = mount::clone_one(source);
        allow(b"1")?;
        let tree = tree?;
        mount::set_attributes(tree.as_fd(), Attributes::mode(mode), Reach::This)?;
        Ok(tree)
    }

    /// Whether it is time for a placeholder; only where nobody inside can open it for
    /// writing before it is mounted on.
    fn may_stand_in(&self, slot: &Slot, now: Instant) -> bool {
        let is_due = slot.lost_since.is_some_and(|since| now >= since + GRACE);
        is_due && slot.holder.is_some_and(|holder| self.closed.contains(&holder))
    }

    /// Makes a placeholder where one has been removed, through a mount that nobody else
    /// sees: the one that is there is read-only, and stays so.
    fn stand_in(&self, index: usize) -> Result<(), Errno> {
        let Kept { path, kind } = &self.slots[index].kept;
        let Kind::Protected(Some(kind)) = kind else { return Err(Errno::NOENT) };
        let parent = mount::open_exact(CWD, path.parent().unwrap_or(Path::new("/")))?;
        let parent = self.detached(parent.as_fd(), Mode::Rw)?;
        match placeholder::make_one(parent.as_fd(), path.file_name().unwrap_or_default(), kind) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Makes the mounts that hold what is lost read-only, and gives the others the mode
    /// again that they are to have. Whether one is busy.
    fn close_what_holds_the_lost(&mut self, registry: &mut Registry) -> bool {
        let lost = |slot: &&Slot| slot.lost_since.is_some();
        let holders: BTreeSet<usize> =
            self.slots.iter().filter(lost).filter_map(|slot| slot.holder).collect();
        let unprotected = self.slots.iter().filter(lost).filter_map(|slot| {
            let target = self.slots[slot.holder?].kept.kind.target()?;
            Some((target, slot.kept.path.clone()))
        });
        registry.set_unprotected(unprotected.collect());
        let mut is_busy = false;
        for holder in holders.difference(&self.closed.clone()) {
            // A file may be open for writing: until it is closed, this is tried again.
            match self.open(*holder, Mode::Ro, registry) {
                Ok(()) => drop(self.closed.insert(*holder)),
                Err(Errno::BUSY) => is_busy = true,
                // It is lost itself: nothing leads to what it holds.
                Err(_) => {}
            }
        }
        for holder in self.closed.clone().difference(&holders) {
            let target = self.slots[*holder].kept.kind.target();
            let mode = target.map_or(Mode::Rw, |target| registry.wanted(target));
            match self.open(*holder, mode, registry) {
                Ok(()) => drop(self.closed.remove(holder)),
                Err(_) => is_busy = true,
            }
        }
        is_busy
    }

    /// Gives the mount of a slot a mode, if it is in its place.
    fn open(&self, index: usize, mode: Mode, registry: &Registry) -> Result<(), Errno> {
        let slot = &self.slots[index];
        let own = slot.kept.kind.target();
        let own = own.and_then(|target| registry.member(target, &slot.kept.path));
        let found;
        let fd = match own {
            Some(fd) => fd,
            None => {
                found = mount::open_exact(CWD, &slot.kept.path)?;
                found.as_fd()
            }
        };
        let mut result = Err(Errno::BUSY);
        for turn in 1..=64 {
            result = mount::set_attributes(fd, Attributes::mode(mode), Reach::This);
            if result != Err(Errno::BUSY) {
                break;
            }
            pause(turn);
        }
        result
    }

    /// Watches the directories that the mounts are in, as they are now.
    fn watch(&mut self) {
        let Some(watches) = &mut self.watches else { return };
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        watches.names.clear();
        watches.tell_all = true;
        let mut ids: BTreeMap<&Path, Option<i32>> = BTreeMap::new();
        for Slot { kept, .. } in &self.slots {
            let (Some(parent), Some(name)) = (kept.path.parent(), kept.path.file_name()) else {
                continue;
            };
            let watch = || {
                watches.tell_all &= news::is_local(parent);
                inotify::add_watch(&watches.fd, parent, flags).ok()
            };
            // What cannot be watched is looked at by the clock.
            if let Some(id) = *ids.entry(parent).or_insert_with(watch) {
                watches.names.entry(id).or_default().insert(name.to_owned());
            } else {
                watches.tell_all = false;
            }
        }
    }
}

impl Kind {
    fn is_changeable(&self) -> bool {
        matches!(self, Self::Member(_) | Self::Writable | Self::Other(_))
    }

    fn target(&self) -> Option<Index> {
        match self {
            Self::Member(target) => Some(*target),
            Self::Other(target) => *target,
            _ => None,
        }
    }
}

impl Slot {
    /// Whether a mount is of this slot's kind, and not one that was moved here.
    fn is_its_own(&self, stat: &FileStat) -> bool {
        match &self.kept.kind {
            Kind::Masked(empty) => {
                mount::lstat_at(CWD, empty).is_ok_and(|empty| empty.id == stat.id)
            }
            _ => true,
        }
    }
}

/// Between two tries. Whoever is waited for is running elsewhere and done in a moment;
/// if not, he needs this processor, and gives it back late if others want it too.
fn pause(turn: u32) {
    if turn.is_multiple_of(32) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}
