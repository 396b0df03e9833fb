//! Requests under way. Those that share a target take their turns in order of arrival;
//! others pass each other.

use super::sessions::SessionId;
use crate::apply::{Operation, Progress};
use crate::holders::{Inspector, pause};
use crate::proto::{Dialect, Fault, SetRequest, TargetReport};
use crate::sandbox::{Index, Registry, Standing};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What a request does that finds a target busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Patience {
    /// Refuse.
    None,
    /// Try again until then.
    Until(Instant),
    /// End the holders.
    Kill { grace: Duration, force: bool, stage: Stage },
    /// It is the end of a lease, tried so many times.
    Lease { tries: u32 },
}

impl Patience {
    /// Whether holders are being ended: that is carried through even if the one that
    /// asked for it is gone, perhaps as one of them.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self, Self::Kill { stage, .. } if *stage != Stage::Asked)
    }
}

/// How far the end of the holders is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing was done yet.
    Asked,
    /// They were asked to end, and have until then.
    Terminated { until: Instant },
    /// They were ended; by then their files are closed.
    Killed { until: Instant },
}

/// A change that was asked for.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) session: SessionId,
    pub(super) dialect: Dialect,
    pub(super) standing: Standing,
    pub(super) request: SetRequest,
    pub(super) targets: Vec<Index>,
    /// Counted from arrival, so that a queue before a busy target does not add up.
    pub(super) deadline: Instant,
    /// What happens when a target is busy at the deadline.
    pub(super) patience: Patience,
    /// How often the sandbox has been held still for it, and whether it is to be now.
    pub(super) halts: u8,
    halted: bool,
    /// Once it is this request's turn.
    operation: Option<Operation>,
}

/// How long an attempt takes at most for which the sandbox stands still: those who were in
/// a system call need a processor to end it. Without other work that is well below 1 ms.
const STANDSTILL: Duration = Duration::from_millis(250);

impl Pending {
    pub(super) fn new(
        session: SessionId,
        dialect: Dialect,
        standing: Standing,
        request: SetRequest,
        targets: Vec<Index>,
        deadline: Instant,
    ) -> Self {
        Self {
            session,
            dialect,
            standing,
            request,
            targets,
            deadline,
            patience: Patience::None,
            halts: 0,
            halted: false,
            operation: None,
        }
    }

    pub(super) fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// The same request, to be tried anew.
    pub(super) fn renewed(self, deadline: Instant) -> Self {
        Self { deadline, operation: None, ..self }
    }

    /// When its turn comes the sandbox is to be held still.
    pub(super) fn halting(self) -> Self {
        Self { halted: true, halts: self.halts.saturating_add(1), ..self }
    }

    /// Authorises at the last moment: what a toggle does depends on those before it.
    fn advance(
        &mut self,
        registry: &Registry,
        inspector: Option<&Inspector>,
        now: Instant,
    ) -> Progress {
        if self.halted
            && let Some(inspector) = inspector
        {
            self.halted = false;
            return self.at_standstill(registry, inspector);
        }
        let operation = match &mut self.operation {
            Some(operation) => operation,
            None => match registry.authorize(&self.request, self.standing) {
                Ok(right) => self.operation.insert(Operation::new(right, registry, self.deadline)),
                Err(fault) => return Progress::Done(Err(fault)),
            },
        };
        operation.advance(registry, now)
    }

    /// The whole change, while nothing in the sandbox moves.
    fn at_standstill(&mut self, registry: &Registry, inspector: &Inspector) -> Progress {
        let _halted = inspector.halt();
        self.deadline = Instant::now() + STANDSTILL;
        loop {
            match self.advance(registry, None, Instant::now()) {
                // Not beyond what it may take to take back what was changed.
                Progress::Parked if Instant::now() < self.deadline + STANDSTILL => {
                    pause(Duration::from_micros(100));
                }
                progress => return progress,
            }
        }
    }
}

/// A change that is over, to be answered.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) pending: Pending,
    /// The targets as they were at that moment: the next request in the queue may have
    /// changed them since.
    pub(super) outcome: Result<Vec<TargetReport>, Fault>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In order of arrival.
    pending: Vec<Pending>,
}

impl Queue {
    pub(super) fn push(&mut self, pending: Pending) {
        self.pending.push(pending);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Does what can be done now, and hands back what is over.
    pub(super) fn advance(
        &mut self,
        registry: &Registry,
        inspector: Option<&Inspector>,
        now: Instant,
    ) -> Vec<Finished> {
        let mut finished = Vec::new();
        let mut taken = BTreeSet::new();
        for mut pending in std::mem::take(&mut self.pending) {
            let free = pending.targets.iter().all(|target| !taken.contains(target));
            let progress =
                if free { pending.advance(registry, inspector, now) } else { Progress::Parked };
            match progress {
                Progress::Done(outcome) => {
                    let report = |()| registry.report_changed(&pending.targets);
                    finished.push(Finished { outcome: outcome.map(report), pending });
                }
                Progress::Parked => {
                    taken.extend(pending.targets.iter().copied());
                    self.pending.push(pending);
                }
            }
        }
        finished
    }

    /// Gives up the request of a client that is no more: one that has begun is taken back,
    /// in its turn.
    pub(super) fn cancel(&mut self, session: SessionId, now: Instant) {
        self.pending.retain_mut(|pending| match &mut pending.operation {
            _ if pending.session != session => true,
            Some(operation) => {
                operation.abandon(now);
                true
            }
            None => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::tests::{FakeMounts, target};
    use crate::apply::{RETRY_EVERY, RETRY_FOR};
    use crate::name::{Authority, Mode};
    use crate::proto::tests::Chance;
    use crate::proto::{Origin, Selection, Wish};
    use rustix::io::Errno;

    const NAMES: [&str; 3] = ["a", "b", "c"];

    /// A queue, mounts with a will of their own, and what the modes ought to be: `None`
    /// where a change that failed could not be taken back, which the peer was told.
    struct World {
        chance: Chance,
        mounts: FakeMounts,
        registry: Registry,
        queue: Queue,
        now: Instant,
        model: [Option<Mode>; 3],
        arrived: SessionId,
        last: [SessionId; 3],
    }

    impl World {
        fn new(seed: u64) -> Self {
            let mounts = FakeMounts::default();
            let targets = NAMES.map(|name| {
                target(name, Authority::Inside, &[&format!("/{name}"), &format!("/{name}/x")])
            });
            let registry = Registry::with_mounts(targets.into(), Box::new(mounts.clone())).unwrap();
            let (queue, now) = (Queue::default(), Instant::now());
            let (model, last) = ([Some(Mode::Ro); 3], [0; 3]);
            let chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            Self { chance, mounts, registry, queue, now, model, arrived: 0, last }
        }

        fn disturb(&mut self) {
            let name = NAMES[self.chance.below(3) as usize];
            let path = format!("/{name}{}", ["", "/x"][self.chance.below(2) as usize]);
            let busy = [0, 3, 100, 5000][self.chance.below(4) as usize];
            let refuses = (self.chance.below(4) == 0).then_some((Mode::Rw, Errno::PERM));
            self.mounts.with(path, |mount| (mount.busy, mount.refuses) = (busy, refuses));
        }

        fn request(&mut self) {
            let mask = 1 + self.chance.below(7);
            let named = NAMES.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
            let targets = Selection::Named(named.map(|(_, name)| name.parse().unwrap()).collect());
            let wish = [Wish::Ro, Wish::Rw, Wish::Toggle][self.chance.below(3) as usize];
            let request = SetRequest::new(targets, wish);
            let targets = self.registry.select(&request).unwrap();
            self.arrived += 1;
            let (id, until) = (self.arrived, self.now + RETRY_FOR);
            let standing = Standing::from(Origin::Inside);
            self.queue.push(Pending::new(id, Dialect::Json, standing, request, targets, until));
        }

        fn check(&mut self, finished: Finished) {
            let Finished { pending, outcome } = finished;
            for (place, &index) in pending.targets.iter().enumerate() {
                assert!(self.last[index] < pending.session, "out of order");
                self.last[index] = pending.session;
                let model = &mut self.model[index];
                match &outcome {
                    Ok(report) => {
                        let wished = match pending.request.wish {
                            Wish::Ro => Some(Mode::Ro),
                            Wish::Rw => Some(Mode::Rw),
                            Wish::Toggle => model.map(Mode::flipped),
                        };
                        *model = Some(report[place].mode);
                        assert!(wished.is_none() || wished == *model, "{:?}", pending.request);
                    }
                    Err(fault) if fault.to_string().contains("taken back") => *model = None,
                    Err(_) => {}
                }
            }
        }

        /// What no request under way works on is exactly as the model has it.
        fn compare(&self) {
            let begun = self.queue.pending.iter().filter(|pending| pending.operation.is_some());
            let taken: BTreeSet<_> = begun.flat_map(|pending| pending.targets.clone()).collect();
            for (index, name) in NAMES.iter().enumerate() {
                let Some(mode) = self.model[index] else { continue };
                if !taken.contains(&index) {
                    let paths = [format!("/{name}"), format!("/{name}/x")];
                    assert_eq!(paths.map(|path| self.mounts.mode_at(path)), [mode; 2], "{name}");
                }
            }
        }

        fn step(&mut self) {
            self.now += RETRY_EVERY;
            for finished in self.queue.advance(&self.registry, None, self.now) {
                self.check(finished);
            }
            self.compare();
        }
    }

    /// Whatever arrives while whatever is busy, refused or cancelled: every answer is true,
    /// requests on a target keep their order, and every failure leaves all as it was.
    #[test]
    fn every_interleaving_agrees_with_the_model() {
        for seed in 1..=60 {
            let mut world = World::new(seed);
            for _ in 0..400 {
                match world.chance.below(8) {
                    0 => world.disturb(),
                    1 | 2 => world.request(),
                    3 if world.chance.below(8) == 0 => {
                        let id = 1 + world.chance.below(world.arrived + 1);
                        world.queue.cancel(id, world.now);
                    }
                    _ => world.step(),
                }
            }
            for _ in 0..100_000 {
                world.step();
                if world.queue.is_empty() {
                    break;
                }
            }
            assert!(world.queue.is_empty(), "seed {seed}: something never ends");
        }
    }
}
