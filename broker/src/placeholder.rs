//! Placeholders: empty files and directories that stand on the host, for as long as a
//! sandbox needs them, where a protected path does not exist. Only what exists can be
//! mounted on, and only what is mounted on cannot be created.
//!
//! Nothing of them is left behind, whoever is killed when:
//!
//! - Each start writes one *record* of what it is about to make, before it makes it, into
//!   a directory of the user's, the [`Store`]. A record is locked for as long as its
//!   launcher lives, so that who still needs a placeholder is known from the kernel.
//!   Whoever starts or ends next, of all sandboxes of the user, removes what the
//!   dead have left.
//! - A placeholder is known by its permissions, which it is made with in one step:
//!   nobody makes a private directory or a file sticky. So one whose record a power cut
//!   has eaten is known too, by the next sandbox that needs it.
//! - Only what is as it was made is removed. What somebody has put there or replaced it
//!   with in the meantime is left, with ordinary permissions.
//!
//! Several sandboxes on one tree share a placeholder; the last one removes it.

mod away;
mod one;
mod record;
mod spare;

pub use away::{Away, KEPT_FOR};
pub use one::is_one;
pub(crate) use one::make as make_one;

use crate::escape::Escaped;
use crate::reason::Reason;
use crate::sys::mount::{self, FileId};
use away::Bases;
use record::{Entry, Record};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use spare::{SPARE, Spares};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the store is, below the user's directory for state (`XDG_STATE_HOME`, else
/// `~/.local/state`).
pub const STORE: &str = "remount/placeholders";

/// How long to wait for another start or end of a sandbox, each of which takes less
/// than a millisecond: longer only if one was stopped in the middle.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An empty directory.
    Directory,
    /// A file with these bytes.
    File(Vec<u8>),
}

/// A placeholder that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where, on the host: absolute, without symlinks; its parent exists, or is wanted
    /// too, and comes before it.
    pub path: PathBuf,
    /// What.
    pub kind: Kind,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}: {:#}", Escaped::path(path), Reason::from(*errno))]
pub struct PlaceholderError {
    /// What was tried.
    pub step: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    pub errno: Errno,
}

impl PlaceholderError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match (self.step, self.errno) {
            (step::LOCK, _) => {
                Some("another remount-run of yours was stopped while it started: resume or end it")
            }
            (step::STORE, Errno::NOSPC | Errno::DQUOT) => {
                Some("free some space there, or set XDG_STATE_HOME to a directory that has some")
            }
            (step::STORE, _) => Some(
                "what is made for protected paths that do not exist is recorded there: \
                 set XDG_STATE_HOME to a directory that you can write to",
            ),
            (step::RECOGNISE, _) => Some(
                "this file system does not keep permissions: give the path missing = \"skip\" \
                 in a profile, or create it",
            ),
            (step::MAKE, Errno::NOSPC | Errno::DQUOT) => Some(
                "a protected path that does not exist needs an empty stand-in: free some space \
                 there, or give the path missing = \"skip\" in a profile",
            ),
            (step::MAKE, _) => Some(
                "a protected path that does not exist needs an empty stand-in: create it, or \
                 give it missing = \"skip\" in a profile",
            ),
            _ => None,
        }
    }
}

/// The steps that can fail, as messages name them.
mod step {
    pub const STORE: &str = "record what will be made in";
    pub const LOCK: &str = "wait for";
    pub const PARENT: &str = "find the directory";
    pub const MAKE: &str = "make a placeholder at";
    pub const RECOGNISE: &str = "recognise the placeholder at";
    pub const REMOVE: &str = "remove the placeholder at";
}

fn failed(step: &'static str, path: &Path) -> impl Fn(Errno) -> PlaceholderError {
    move |errno| PlaceholderError { step, path: path.to_owned(), errno }
}

/// Where the records of a user's sandboxes are.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    dir: OwnedFd,
}

/// Nobody else changes the store or a placeholder while this lives.
struct Locked<'a>(&'a Store);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It fails only for a descriptor that is none; closing it would unlock it too.
        rustix::fs::flock(&self.0.dir, FlockOperation::Unlock).unwrap_or(());
    }
}

/// The placeholders of one sandbox, and the lock that says that it lives.
#[derive(Debug)]
pub struct Placeholders {
    store: Store,
    name: OsString,
    /// Locked until it is closed.
    record: OwnedFd,
    entries: Vec<Entry>,
    /// The directories they are below: open, so that they are found if one is moved.
    bases: Vec<OwnedFd>,
}

/// What came of a removal.
#[derive(Debug, Default)]
pub struct Removed {
    /// Placeholders that are gone now.
    pub removed: Vec<PathBuf>,
    /// What was left, as somebody has put something there.
    pub kept: Vec<PathBuf>,
    /// What could not be removed. It stays recorded, and is tried again.
    pub failed: Vec<PlaceholderError>,
    /// What could not be looked for. It stays recorded for a while.
    pub away: Vec<Away>,
}

/// What sandboxes that are dead have left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Placeholders that still are there.
    pub found: Vec<PathBuf>,
    /// Those that cannot be looked for now.
    pub away: Vec<Away>,
}

impl Store {
    /// Opens the store at `path`; `None` if there is none.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open(path: &Path) -> Result<Option<Self>, PlaceholderError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(dir) => Ok(Some(Self { path: path.to_owned(), dir })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(step::STORE, path)(errno)),
        }
    }

    /// Opens the store at `path`, making it if there is none.
    ///
    /// # Errors
    /// As `mkdir(2)` and `open(2)`.
    pub fn create(path: &Path) -> Result<Self, PlaceholderError> {
        use std::os::unix::fs::DirBuilderExt;
        if let Some(store) = Self::open(path)? {
            return Ok(store);
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        let errno = match made.map_err(|error| Errno::from_io_error(&error)) {
            Ok(()) => Errno::NOENT,
            Err(errno) => errno.unwrap_or(Errno::IO),
        };
        Self::open(path)?.ok_or_else(|| failed(step::STORE, path)(errno))
    }

    /// Makes what is `wanted`, and removes what sandboxes that are dead have left. What
    /// exists by now is left as it is: it is protected like anything that exists.
    ///
    /// # Errors
    /// Nothing of what is wanted is left then.
    pub fn make(self, wanted: &[Wanted]) -> Result<Placeholders, PlaceholderError> {
        let uid = rustix::process::geteuid().as_raw();
        let (entries, bases) = prepare(wanted)?;
        let locked = self.lock()?;
        // First of all: what a dead one has left and this one wants must not be without a
        // record for a moment.
        let (name, record) = locked.write(&entries)?;
        let made = locked.bury(uid).and_then(|_| make(&entries, &bases, &mut locked.spares()));
        drop(locked);
        let placeholders = Placeholders { store: self, name, record, entries, bases };
        match made {
            Ok(()) => Ok(placeholders),
            Err(error) => {
                // The first error is the one to tell.
                drop(placeholders.remove());
                Err(error)
            }
        }
    }

    /// Removes what sandboxes that are dead have left.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn clean(&self) -> Result<Removed, PlaceholderError> {
        self.lock()?.bury(rustix::process::geteuid().as_raw())
    }

    /// What sandboxes that are dead have left.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn leftovers(&self) -> Result<Leftovers, PlaceholderError> {
        let uid = rustix::process::geteuid().as_raw();
        let (dead, live) = self.lock()?.records()?;
        let mut left = Leftovers::default();
        for record in dead {
            let mut bases = Bases::default();
            let dead = record.entries.iter();
            for entry in dead.filter(|entry| !live.iter().any(|record| record.holds(entry))) {
                let path = entry.path();
                let stat = mount::open_exact(CWD, &path).and_then(|fd| mount::stat(fd.as_fd()));
                let is_there = stat.is_ok_and(|stat| is_one(&stat, uid));
                bases.note(entry, entry.at_its_path().map(|(_, now)| now.base_id), is_there);
                left.found.extend(is_there.then_some(path));
            }
            left.away.extend(bases.away());
        }
        left.found.sort();
        left.found.dedup();
        left.away = away::of_all(left.away);
        Ok(left)
    }

    fn lock(&self) -> Result<Locked<'_>, PlaceholderError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match rustix::fs::flock(&self.dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Locked(self)),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(errno) => return Err(failed(step::LOCK, &self.path)(errno)),
            }
        }
    }
}

impl Locked<'_> {
    /// The records of the dead, and of the living.
    fn records(&self) -> Result<(Vec<Record>, Vec<Record>), PlaceholderError> {
        let Store { path, dir } = self.0;
        let failed = failed(step::STORE, path);
        let (mut dead, mut live) = (Vec::new(), Vec::new());
        for entry in rustix::fs::Dir::read_from(dir).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || name == SPARE.as_bytes() {
                continue;
            }
            match Record::read(dir.as_fd(), name) {
                Ok((record, true)) => live.push(record),
                Ok((record, false)) => dead.push(record),
                // What this user cannot read is no record of his.
                Err(_) => {}
            }
        }
        Ok((dead, live))
    }

    /// Removes what the dead have left and no living one wants, and their records: those of
    /// what cannot be looked for only after a while.
    fn bury(&self, uid: u32) -> Result<Removed, PlaceholderError> {
        let (dead, live) = self.records()?;
        let (mut removed, mut spares) = (Removed::default(), Spares::default());
        if !dead.is_empty() {
            spares = self.spares();
        }
        let mut all_away = Vec::new();
        for record in dead {
            let (mut bases, failed) = (Bases::default(), removed.failed.len());
            for entry in record.entries.iter().rev() {
                // Its directory is somewhere else now, or gone: whoever moved it knows why.
                // In the place of that there may be one, too.
                let Some((base, there)) = entry.at_its_path() else {
                    bases.note(entry, None, false);
                    continue;
                };
                let wants = |record: &Record| record.holds(&there) || record.names(&there);
                let is_found = live.iter().any(wants)
                    || remove(base.as_fd(), &there, uid, &mut spares, &mut removed);
                bases.note(entry, Some(there.base_id), is_found);
            }
            let away = bases.away();
            if !away.is_empty() {
                all_away.push((record.name, away));
            } else if removed.failed.len() == failed {
                self.forget(&record.name)?;
            }
        }
        removed.away = self.keep(all_away)?;
        Ok(removed)
    }

    fn spares(&self) -> Spares {
        Spares::open(self.0.dir.as_fd())
    }

    fn forget(&self, name: &OsStr) -> Result<(), PlaceholderError> {
        rustix::fs::unlinkat(&self.0.dir, name, AtFlags::empty())
            .map_err(failed(step::STORE, &self.0.path))
    }

    fn write(&self, entries: &[Entry]) -> Result<(OsString, OwnedFd), PlaceholderError> {
        Record::write(self.0.dir.as_fd(), entries).map_err(failed(step::STORE, &self.0.path))
    }
}

/// Finds the directories that exist already, below which placeholders are wanted.
fn prepare(wanted: &[Wanted]) -> Result<(Vec<Entry>, Vec<OwnedFd>), PlaceholderError> {
    let mut entries: Vec<Entry> = Vec::with_capacity(wanted.len());
    let mut bases: Vec<OwnedFd> = Vec::new();
    for Wanted { path, kind } in wanted {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let (base, base_id, index) = match known(&entries, dir) {
            Some(known) => known,
            None => {
                let find = failed(step::PARENT, dir);
                let base = mount::open_exact(CWD, dir).map_err(&find)?;
                let id = mount::stat(base.as_fd()).map_err(&find)?.id;
                bases.push(base);
                (dir.to_owned(), id, bases.len() - 1)
            }
        };
        let below = path.strip_prefix(&base).unwrap_or(path).to_owned();
        entries.push(Entry { kind: kind.clone(), base, base_id, below, index });
    }
    Ok((entries, bases))
}

/// The base of what is in `dir`, if one is known from an entry before.
fn known(entries: &[Entry], dir: &Path) -> Option<(PathBuf, FileId, usize)> {
    let same =
        |entry: &&Entry| dir == entry.base || dir.starts_with(&entry.base) && entry.path() == dir;
    let entry = entries.iter().find(same)?;
    Some((entry.base.clone(), entry.base_id, entry.index))
}

/// Makes all of them, in order.
fn make(entries: &[Entry], bases: &[OwnedFd], spares: &mut Spares) -> Result<(), PlaceholderError> {
    let mut checked = vec![false; bases.len()];
    for entry in entries {
        let mut make = || {
            let parent = entry.parent(bases[entry.index].as_fd())?;
            let is_directory = entry.kind == Kind::Directory;
            if !(is_directory && spares.take(parent.as_fd(), entry.name())?) {
                one::make(parent.as_fd(), entry.name(), &entry.kind)?;
            }
            Ok(parent)
        };
        let parent = match make() {
            Ok(parent) => parent,
            Err(Errno::EXIST) => continue,
            Err(errno) => return Err(failed(step::MAKE, &entry.path())(errno)),
        };
        // What holds for one below a directory holds for all.
        if !std::mem::replace(&mut checked[entry.index], true) {
            let path = entry.path();
            let recognise = failed(step::RECOGNISE, &path);
            let stat = mount::lstat_at(parent.as_fd(), entry.name()).map_err(&recognise)?;
            if !is_one(&stat, stat.uid) {
                one::unmake(parent.as_fd(), entry).map_err(failed(step::REMOVE, &path))?;
                return Err(recognise(Errno::OPNOTSUPP));
            }
        }
    }
    Ok(())
}

impl Placeholders {
    /// What must stay open until they are removed.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let own = [self.store.dir.as_fd(), self.record.as_fd()];
        own.into_iter().chain(self.bases.iter().map(AsFd::as_fd))
    }

    /// Removes those that no other sandbox needs.
    ///
    /// # Errors
    /// The records cannot be read or removed.
    pub fn remove(self) -> Result<Removed, PlaceholderError> {
        let uid = rustix::process::geteuid().as_raw();
        let locked = self.store.lock()?;
        let (_, mut live) = locked.records()?;
        live.retain(|record| record.name != self.name);
        let (mut removed, mut spares) = (Removed::default(), locked.spares());
        let replaced: Vec<bool> =
            (0..self.bases.len()).map(|base| self.is_replaced(base)).collect();
        for entry in self.entries.iter().rev() {
            if !live.iter().any(|record| record.holds(entry)) {
                let base = self.bases[entry.index].as_fd();
                remove(base, entry, uid, &mut spares, &mut removed);
            }
            // Where the host has put another directory, the broker has made it again.
            if replaced[entry.index]
                && let Some((base, other)) = entry.at_its_path()
                && !live.iter().any(|record| record.holds(&other) || record.names(&other))
            {
                remove(base.as_fd(), &other, uid, &mut spares, &mut removed);
            }
        }
        if removed.failed.is_empty() {
            locked.forget(&self.name)?;
        }
        Ok(removed)
    }

    /// Whether another directory is at the path of one of the bases.
    fn is_replaced(&self, base: usize) -> bool {
        let entry = self.entries.iter().find(|entry| entry.index == base);
        let now = entry.and_then(|entry| Some((entry.at_its_path()?.1, entry)));
        now.is_some_and(|(now, entry)| now.base_id != entry.base_id)
    }
}

/// Removes a placeholder if it is as it was made, and says what came of it. Whether there is
/// one.
fn remove(
    base: BorrowedFd<'_>,
    entry: &Entry,
    uid: u32,
    spares: &mut Spares,
    removed: &mut Removed,
) -> bool {
    match one::remove(base, entry, uid, spares) {
        Ok(Some(true)) => removed.removed.push(entry.path()),
        Ok(Some(false)) => removed.kept.push(entry.path()),
        Ok(None) => return false,
        Err(errno) => removed.failed.push(failed(step::REMOVE, &entry.path())(errno)),
    }
    true
}

#[cfg(test)]
mod tests;
