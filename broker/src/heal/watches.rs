//! Names that come and go in the directories that matter.

use super::{Slot, news};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is watched.
#[derive(Debug)]
pub(super) struct Watches {
    /// `None` if this user has no more of them to have: then only time tells.
    fd: Option<OwnedFd>,
    /// The names that matter in each directory, with the mounts that they matter to.
    names: BTreeMap<i32, BTreeMap<OsString, Vec<usize>>>,
    /// Directories in which every name matters, with their numbers.
    places: BTreeMap<i32, usize>,
    /// What in such a directory is watched until something changes in it.
    entries: BTreeMap<i32, (usize, OsString)>,
    /// A directory that is there is not watched: it cannot be read, or the limit of watches
    /// is reached.
    is_blind: bool,
    /// Every name that matters is told of.
    tell_all: bool,
}

/// What has happened to names that matter.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The mounts in whose places.
    pub slots: BTreeSet<usize>,
    /// Names in directories in which each matters, with the directories' numbers.
    pub names: Vec<(usize, OsString)>,
    /// A directory that is watched has gone itself, or something was not told.
    pub is_of_directories: bool,
}

impl Watches {
    /// Nothing is watched yet.
    pub(super) fn new() -> Self {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let fd = inotify::init(flags).ok();
        let (names, places, entries) = Default::default();
        Self { fd, names, places, entries, is_blind: false, tell_all: false }
    }

    /// What to wait for (`POLLIN`).
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Whether no name comes or goes untold.
    pub(super) fn tell_all(&self) -> bool {
        self.tell_all
    }

    /// Whether some names come and go untold.
    pub(super) fn miss_something(&self) -> bool {
        self.fd.is_none() || self.is_blind
    }

    /// The names that have come and gone.
    pub(super) fn heard(&mut self) -> Heard {
        let mut heard = Heard::default();
        let Some(fd) = &self.fd else { return heard };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        while let Ok(event) = reader.next() {
            // Without a directory: events were lost. What is watched no more does not matter.
            heard.is_of_directories |= event.wd() < 0;
            if let Some(entry) = self.entries.remove(&event.wd()) {
                heard.names.push(entry);
            }
            let (names, place) = (self.names.get(&event.wd()), self.places.get(&event.wd()));
            if names.is_none() && place.is_none() {
                continue;
            }
            // Without a name: the directory itself has gone.
            let Some(name) = event.file_name() else {
                heard.is_of_directories = true;
                continue;
            };
            let name = OsStr::from_bytes(name.to_bytes());
            heard.slots.extend(names.and_then(|names| names.get(name)).into_iter().flatten());
            heard.names.extend(place.map(|place| (*place, name.to_owned())));
        }
        heard
    }

    /// Watches the directories that the mounts are in, as they are now, and those of the
    /// files that are followed, and those in which every name matters.
    pub(super) fn renew<'p>(
        &mut self,
        slots: &[Slot],
        places: impl Iterator<Item = (usize, &'p Path)>,
    ) {
        let Some(fd) = &self.fd else { return };
        self.names.clear();
        self.places.clear();
        self.is_blind = false;
        let (mut is_complete, mut all_local) = (true, true);
        let mut ids: BTreeMap<&Path, Option<i32>> = BTreeMap::new();
        for (index, Slot { kept, source, .. }) in slots.iter().enumerate() {
            let mut keep = |watched: Result<i32, Errno>, name: OsString| match watched {
                Ok(id) => {
                    self.names.entry(id).or_default().entry(name).or_default().push(index);
                }
                // Lost itself: its own parent is watched.
                Err(Errno::NOENT | Errno::NOTDIR) => is_complete = false,
                Err(_) => (is_complete, self.is_blind) = (false, true),
            };
            if let Some(source) = source {
                keep(source.watch(fd, flags()), source.name.clone());
                all_local &= news::is_local(source.dir.as_fd());
            }
            let (Some(parent), Some(name)) = (kept.path.parent(), kept.path.file_name()) else {
                continue;
            };
            if let Some(known) = ids.get(parent) {
                if let Some(id) = known {
                    keep(Ok(*id), name.to_owned());
                }
                continue;
            }
            let watched = inotify::add_watch(fd, parent, flags());
            ids.insert(parent, watched.ok());
            keep(watched, name.to_owned());
            all_local &= news::is_local_at(parent);
        }
        for (number, place) in places {
            match inotify::add_watch(fd, place, flags()) {
                Ok(id) => drop(self.places.insert(id, number)),
                // It is a mount that is lost.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(_) => (is_complete, self.is_blind) = (false, true),
            }
        }
        self.tell_all = is_complete && all_local;
    }

    /// Tells once that something has changed in what has this name in the directory with this
    /// number.
    pub(super) fn watch_once(&mut self, path: &Path, number: usize, name: &OsStr) {
        let Some(fd) = &self.fd else { return };
        let changes = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        let flags = WatchFlags::ONESHOT | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
        match inotify::add_watch(fd, path, changes | flags) {
            Ok(id) => drop(self.entries.insert(id, (number, name.to_owned()))),
            // Gone, or another kind of file.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(_) => self.is_blind = true,
        }
    }
}

fn flags() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
        | WatchFlags::DONT_FOLLOW
}
