//! Requests under way. Those that share a target take their turns in order of arrival;
//! others pass each other.

use super::sessions::SessionId;
use crate::apply::{Operation, Progress};
use crate::proto::{Dialect, Fault, Origin, SetRequest, TargetReport};
use crate::sandbox::{Index, Registry};
use std::collections::BTreeSet;
use std::time::Instant;

/// A change that was asked for.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) session: SessionId,
    pub(super) dialect: Dialect,
    pub(super) origin: Origin,
    pub(super) request: SetRequest,
    pub(super) targets: Vec<Index>,
    /// Counted from arrival, so that a queue before a busy target does not add up.
    pub(super) deadline: Instant,
    /// Once it is this request's turn.
    operation: Option<Operation>,
}

impl Pending {
    pub(super) fn new(
        session: SessionId,
        dialect: Dialect,
        origin: Origin,
        request: SetRequest,
        targets: Vec<Index>,
        deadline: Instant,
    ) -> Self {
        Self { session, dialect, origin, request, targets, deadline, operation: None }
    }

    /// Authorises at the last moment: what a toggle does depends on those before it.
    fn advance(&mut self, registry: &Registry, now: Instant) -> Progress {
        let operation = match &mut self.operation {
            Some(operation) => operation,
            None => match registry.authorize(&self.request, self.origin) {
                Ok(right) => self.operation.insert(Operation::new(right, registry, self.deadline)),
                Err(fault) => return Progress::Done(Err(fault)),
            },
        };
        operation.advance(registry, now)
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
    pub(super) fn advance(&mut self, registry: &Registry, now: Instant) -> Vec<Finished> {
        let mut finished = Vec::new();
        let mut taken = BTreeSet::new();
        for mut pending in std::mem::take(&mut self.pending) {
            let free = pending.targets.iter().all(|target| !taken.contains(target));
            let progress = if free { pending.advance(registry, now) } else { Progress::Parked };
            match progress {
                Progress::Done(outcome) => {
                    let report = |()| registry.report(pending.targets.iter().copied());
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
