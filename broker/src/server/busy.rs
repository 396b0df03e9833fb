//! What a request does that met a busy target: try again, or end who holds it.
//!
//! A waiting request never holds the target: between two attempts nothing is changed, and
//! others take their turns.

use super::Server;
use super::queue::{Patience, Pending, Stage};
use crate::apply::RETRY_FOR;
use crate::holders::{Search, Watched, watched};
use crate::proto::{Fault, Holders};
use crate::sandbox::Index;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(10);

/// How often the sandbox is held still for a request. Once is enough, unless the machine is
/// so busy that system calls do not end in time.
const MOST_HALTS: u8 = 4;

/// After SIGKILL: the kernel closes the files of a process a moment after it has died.
const AFTER_KILL: Duration = Duration::from_secs(2);

/// What to do next.
pub(super) enum Next {
    /// Try again then.
    Again(Instant),
    /// Try again at once, and hold the sandbox still meanwhile.
    Halting,
    /// Give up; with another reason than the one met, perhaps.
    Fail(Option<Fault>),
}

impl Server<'_> {
    /// Decides about a request that found a target busy.
    pub(super) fn met_busy(&mut self, pending: &mut Pending, now: Instant) -> Next {
        match pending.patience {
            Patience::Until(end) if now < end => Next::Again(end.min(now + AGAIN)),
            Patience::None | Patience::Until(_) => self.last_resort(pending),
            Patience::Lease { .. } => Next::Fail(None),
            Patience::Kill { grace, force, ref stage } => match *stage {
                Stage::Asked => {
                    let then = Stage::Terminated { until: now + grace };
                    self.end_holders(pending, force, Signal::TERM, then)
                }
                Stage::Terminated { until } if now < until => Next::Again(now + AGAIN),
                Stage::Terminated { .. } => {
                    let then = Stage::Killed { until: now + AFTER_KILL };
                    self.end_holders(pending, force, Signal::KILL, then)
                }
                Stage::Killed { until } if now < until => {
                    // Whoever came since.
                    let then = Stage::Killed { until };
                    self.end_holders(pending, force, Signal::KILL, then)
                }
                Stage::Killed { .. } => self.last_resort(pending),
            },
        }
    }

    /// If nobody can be found who holds it, it is busy with what passes: directories that
    /// are made and removed, say. Then it is tried while all stands still.
    fn last_resort(&self, pending: &Pending) -> Next {
        if pending.halts < MOST_HALTS && self.seems_to_pass(&pending.targets) {
            Next::Halting
        } else {
            Next::Fail(None)
        }
    }

    /// Signals every holder, or none: one that is spared would keep the target busy, and
    /// the others would have died for nothing.
    fn end_holders(
        &mut self,
        pending: &mut Pending,
        force: bool,
        signal: Signal,
        then: Stage,
    ) -> Next {
        let Some(inspector) = &self.context.inspector else { return Next::Fail(None) };
        let search = inspector.search(&self.watched(&pending.targets));
        let caller = self.sessions.get(pending.session).and_then(|it| it.caller.peer?.pid);
        let lineage = caller.map(|pid| inspector.lineage(pid)).unwrap_or_default();
        let reason = search.found.iter().find_map(|found| {
            let shown = found.holders.first().map_or("", |holder| &holder.command);
            let pid = found.pid();
            if !found.is_inside {
                Some(format!("process {pid} ({shown}) holds it and is no process of the sandbox"))
            } else if lineage.contains(&pid) && !force {
                Some(format!(
                    "process {pid} ({shown}) holds it and is, or started, the one that asks"
                ))
            } else {
                None
            }
        });
        if let (Some(reason), Some(&target)) = (reason, pending.targets.first()) {
            let name = search.found[0].holders[0].target.clone();
            let name = if pending.targets.len() == 1 {
                self.registry.target(target).name.clone()
            } else {
                name
            };
            return Next::Fail(Some(Fault::Spared { name, reason }));
        }
        for found in &search.found {
            // One that cannot be signalled has ended.
            found.signal(signal).unwrap_or(());
        }
        if let Patience::Kill { stage, .. } = &mut pending.patience {
            *stage = then;
        }
        Next::Again(Instant::now() + AGAIN)
    }

    /// Whether nobody can be found who holds these targets.
    pub(super) fn seems_to_pass(&self, targets: &[Index]) -> bool {
        let Some(inspector) = &self.context.inspector else { return false };
        let search = inspector.search(&self.watched(targets));
        search.is_clear_inside && search.found.is_empty()
    }

    /// Who holds these targets now.
    pub(super) fn holders(&self, targets: &[Index]) -> Option<Holders> {
        let inspector = self.context.inspector.as_ref()?;
        let search: Search = inspector.search(&self.watched(targets));
        Some(search.report())
    }

    fn watched(&self, targets: &[Index]) -> Vec<Watched> {
        let targets = targets.iter().map(|&index| self.registry.target(index));
        let members = targets.flat_map(|target| target.members.iter().map(|it| (&target.name, it)));
        members.filter_map(|(name, it)| watched(name, it)).collect()
    }

    /// Puts requests back into the queue whose time has come.
    pub(super) fn resume(&mut self, now: Instant) {
        let parked = std::mem::take(&mut self.parked);
        for (at, pending) in parked {
            if at <= now {
                // One round only: other requests for the target go on in between.
                self.queue.push(pending.renewed(now));
            } else {
                self.parked.push((at, pending));
            }
        }
    }

    /// The first attempt's deadline: what passes by itself passes by then.
    pub(super) fn first_deadline(now: Instant) -> Instant {
        now + RETRY_FOR
    }
}
