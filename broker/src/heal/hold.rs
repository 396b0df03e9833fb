//! What holds the lost: nothing is to be created there meanwhile.

use super::tries::pause;
use super::{Event, Healer, Slot, What};
use crate::holders::Inspector;
use crate::name::Mode;
use crate::sandbox::{Registry, Unprotected, Why};
use crate::sys::mount::{self, Attributes, Reach};
use rustix::fs::CWD;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::AsFd;

/// Tries to make a mount read-only that is busy: a name that is being made or removed is
/// done after one, a file that is open for writing is not after any number.
const TRIES: u32 = 64;

impl Healer {
    /// Makes the mounts that hold what is lost read-only, or the sandbox stand still, and gives
    /// the others the mode again that they are to have. Whether one is busy.
    pub(super) fn hold_the_lost(
        &mut self,
        registry: &mut Registry,
        inspector: Option<&Inspector>,
        events: &mut Vec<Event>,
    ) -> bool {
        let mut busy = self.close_holders(registry);
        if let (Some(holder), None, Some(inspector)) = (busy, &self.halted, inspector) {
            self.halted = Some(inspector.halt());
            // Of those who make and remove names without pause none is in the way now.
            busy = self.close_holders(registry);
            if busy.is_some() {
                let path = self.slots[holder].kept.path.clone();
                events.push(Event { path, what: What::Halted });
                self.is_halted_for = Some(holder);
            }
        }
        if busy.is_none() && self.halted.take().is_some() {
            let holder = self.is_halted_for.take();
            let path = holder.map(|holder| self.slots[holder].kept.path.clone());
            events.extend(path.map(|path| Event { path, what: What::Resumed }));
        }
        let is_opening = self.open_others(registry);
        busy.is_some() || is_opening
    }

    /// The mounts that hold what is lost.
    fn holders(&self) -> BTreeSet<usize> {
        let lost = |slot: &&Slot| slot.lost_since.is_some();
        let holders = self.slots.iter().filter(lost).filter_map(|slot| slot.holder);
        holders.chain(self.worktrees.closed()).collect()
    }

    /// Makes them read-only; the answer is one that is busy.
    fn close_holders(&mut self, registry: &mut Registry) -> Option<usize> {
        let lost = self.slots.iter().filter(|slot| slot.lost_since.is_some());
        let lost = lost.filter_map(|slot| Some((slot.holder?, &slot.kept.path, Why::Lost)));
        let crowded = self.worktrees.closed();
        let crowded = crowded.map(|place| (place, &self.slots[place].kept.path, Why::Crowded));
        let unprotected = lost.chain(crowded).filter_map(|(holder, path, why)| {
            let target = self.slots[holder].kept.kind.target()?;
            Some(Unprotected { target, path: path.clone(), why })
        });
        registry.set_unprotected(unprotected.collect());
        let mut busy = None;
        for holder in self.holders().difference(&self.closed.clone()) {
            // A file may be open for writing: until it is closed, this is tried again.
            match self.open(*holder, Mode::Ro, registry) {
                Ok(()) => drop(self.closed.insert(*holder)),
                Err(Errno::BUSY) => busy = Some(*holder),
                // It is lost itself: nothing leads to what it holds.
                Err(_) => {}
            }
        }
        busy
    }

    /// Gives the mounts that hold nothing lost any more the mode that they are to have.
    /// Whether one was not to be had.
    fn open_others(&mut self, registry: &Registry) -> bool {
        let mut is_busy = false;
        for holder in self.closed.clone().difference(&self.holders()) {
            match self.open(*holder, self.wanted(*holder, registry), registry) {
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
        for turn in 1..=TRIES {
            result = mount::set_attributes(fd, Attributes::mode(mode), Reach::This);
            if result != Err(Errno::BUSY) {
                break;
            }
            pause(turn);
        }
        result
    }
}
