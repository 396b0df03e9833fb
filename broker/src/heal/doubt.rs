//! Files that came in the place of others. Until one was covered somebody inside could open it,
//! or give it another name, by the name under which it was written: what so can still be changed
//! is not protected yet.

use super::{Event, GRACE, Healer, Kind, Slot, What};
use crate::sys::mount::{self, FileStat};
use crate::sys::writers;
use rustix::fs::{CWD, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

/// What is known of the file that a slot's mount lies on.
#[derive(Debug, Default)]
pub(super) struct File {
    /// How many names it has, or the one before it had; 0 if that is not known.
    names: u32,
    /// It came in the place of another, and has not been found to be nobody's yet.
    pub(super) is_doubted: bool,
    /// It was said that it may have been changed.
    is_changed: bool,
}

impl Slot {
    /// Notes that a file comes in the place of another.
    pub(super) fn doubt(&mut self, stat: &FileStat) {
        if self.kept.kind == Kind::Protected && stat.is_file() {
            (self.file.is_doubted, self.file.is_changed) = (true, false);
        }
    }

    /// Takes a file for what belongs there, unless it is doubted.
    pub(super) fn note_names(&mut self, stat: &FileStat) {
        if !self.file.is_doubted {
            self.file.names = stat.names;
        }
    }

    /// Whether anybody can still change what the mount lies on: with a descriptor, or by another
    /// name, unless it always had several (some keep files so). Nobody can open it now, but
    /// whoever takes away the right to read it does not keep it from being asked about.
    fn is_open_to_others(&self, stat: &FileStat) -> bool {
        if stat.names > 1 && self.file.names <= 1 {
            return true;
        }
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = mount::open_regular(CWD, &self.kept.path, resolve);
        match file.and_then(|file| writers::are_there(file.as_fd())) {
            Ok(is_open) => is_open,
            // Somebody has a lease on it.
            Err(Errno::AGAIN) => true,
            Err(Errno::ACCESS) => stat.uid == rustix::process::geteuid().as_raw(),
            // It cannot be known here.
            Err(_) => false,
        }
    }
}

impl Healer {
    /// Takes the file that a slot's mount lies on for what belongs there.
    ///
    /// # Errors
    /// `EBUSY` as long as it may be changed.
    pub(super) fn settle(&mut self, index: usize) -> Result<(), Errno> {
        let slot = &mut self.slots[index];
        if !slot.file.is_doubted {
            return Ok(());
        }
        let stat = mount::lstat_at(CWD, &slot.kept.path)?;
        if slot.is_open_to_others(&stat) {
            return Err(Errno::BUSY);
        }
        slot.file.is_doubted = false;
        slot.note_names(&stat);
        Ok(())
    }

    /// Says once of a file that it may have been changed: who puts one there is mostly done
    /// with it soon.
    pub(super) fn say_doubt(&mut self, index: usize, now: Instant) -> Option<Event> {
        let slot = &mut self.slots[index];
        let is_due = slot.lost_since.is_some_and(|since| now >= since + GRACE);
        if !is_due || !slot.file.is_doubted || slot.file.is_changed {
            return None;
        }
        slot.file.is_changed = true;
        Some(Event { path: slot.kept.path.clone(), what: What::Changed })
    }

    /// The files of which that was said, and that have not been replaced since.
    pub(super) fn doubted(&self) -> impl Iterator<Item = PathBuf> {
        let changed = self.slots.iter().filter(|slot| slot.file.is_changed);
        changed.map(|slot| slot.kept.path.clone())
    }
}
