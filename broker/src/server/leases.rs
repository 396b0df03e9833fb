//! Leases: `rw` that ends by itself.
//!
//! A lease ends at its time, or when the last client that holds it is gone. Then the
//! target becomes `ro`, as soon as nothing is open for writing; until that succeeds the
//! broker tries again and again, in its turn among all requests.

use super::queue::{Patience, Pending};
use super::sessions::SessionId;
use super::{Server, journal::Entry};
use crate::apply::RETRY_FOR;
use crate::name::Mode;
use crate::proto::{
    Dialect, Fault, Lease, Selection, SetRequest, TargetReport, Term, Wish, milliseconds,
};
use crate::sandbox::{Index, Standing};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two attempts to end a lease of a busy target.
const AGAIN: Duration = Duration::from_millis(100);

/// The longest pause between two attempts, if one after another fails for another reason.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// One of so many attempts is made while the sandbox stands still, if nobody is found who
/// holds the target.
const HALTED: u32 = 10;

/// The session of what the broker asks itself; no client has this number.
pub(crate) const OWN: SessionId = 0;

/// The leases of a broker's targets, each known by a `K`.
#[derive(Debug)]
pub(crate) struct Leases<K = Index> {
    by_target: BTreeMap<K, Running>,
}

impl<K> Default for Leases<K> {
    fn default() -> Self {
        Self { by_target: BTreeMap::new() }
    }
}

#[derive(Debug, Default)]
struct Running {
    until: Option<Instant>,
    /// Clients that hold it, and the latest end of each.
    held: Vec<(SessionId, Option<Instant>)>,
    closing: Option<Closing>,
}

#[derive(Debug)]
struct Closing {
    /// When to try next; none while an attempt is under way.
    next: Option<Instant>,
    tries: u32,
    /// How many in a row have failed, and not because the target was busy.
    failed: u32,
}

/// How an attempt to close a target went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Closed,
    /// It is in use, which passes.
    Busy,
    /// Whether it passes, nobody knows.
    Failed,
}

impl<K: Ord + Clone> Leases<K> {
    /// What there is to say of a target's lease.
    pub(crate) fn report(&self, target: &K, now: Instant) -> Option<Lease> {
        let running = self.by_target.get(target)?;
        let ends = running.held.iter().map(|(_, end)| *end).chain([running.until]);
        let ends = ends.flatten().max();
        // A client without an end holds it longer than any time.
        let open_end = running.held.iter().any(|(_, end)| end.is_none());
        let left = ends.filter(|_| !open_end).map(|end| end.saturating_duration_since(now));
        Some(Lease {
            left_ms: left.map(milliseconds),
            held: running.held.len(),
            closing: running.closing.is_some(),
        })
    }

    /// Takes note that a request made `target` `mode`.
    pub(crate) fn changed(
        &mut self,
        target: &K,
        mode: Mode,
        session: SessionId,
        lease: Option<Term>,
        most: Option<Duration>,
    ) {
        let now = Instant::now();
        let most = most.map(|most| now + most);
        let end = |time: Duration| Some(most.map_or(now + time, |most| most.min(now + time)));
        match (mode, lease, most) {
            (Mode::Ro, ..) | (Mode::Rw, None, None) => {
                self.by_target.remove(target);
                return;
            }
            (Mode::Rw, None, Some(_)) => self.entry(target).until = most,
            (Mode::Rw, Some(Term::For(time)), _) => self.entry(target).until = end(time),
            (Mode::Rw, Some(Term::Held), _) => {
                let held = &mut self.entry(target).held;
                // Asked for again by the same client, it is no other one.
                held.retain(|(holder, _)| *holder != session);
                held.push((session, most));
            }
        }
        self.entry(target).closing = None;
    }

    fn entry(&mut self, target: &K) -> &mut Running {
        self.by_target.entry(target.clone()).or_default()
    }

    /// Drops what has ended, and gives the targets whose turn to be closed it is.
    pub(crate) fn due(&mut self, now: Instant, lives: impl Fn(SessionId) -> bool) -> Vec<(K, u32)> {
        let mut due = Vec::new();
        for (target, running) in &mut self.by_target {
            let ended = |end: Option<Instant>| end.is_some_and(|end| end <= now);
            running.held.retain(|(session, end)| lives(*session) && !ended(*end));
            if ended(running.until) {
                running.until = None;
            }
            if running.until.is_some() || !running.held.is_empty() {
                continue;
            }
            let closing =
                running.closing.get_or_insert(Closing { next: Some(now), tries: 0, failed: 0 });
            if closing.next.is_some_and(|next| next <= now) {
                closing.next = None;
                closing.tries = closing.tries.saturating_add(1);
                due.push((target.clone(), closing.tries));
            }
        }
        due
    }

    /// When something is due next.
    pub(crate) fn next(&self) -> Option<Instant> {
        let next = |running: &Running| {
            let ends = running.held.iter().filter_map(|(_, end)| *end).chain(running.until);
            let closing = running.closing.as_ref().and_then(|closing| closing.next);
            ends.chain(closing).min()
        };
        self.by_target.values().filter_map(next).min()
    }

    /// Whether a lease has lost its last client, and nobody has looked yet.
    pub(crate) fn is_unheld(&self, lives: impl Fn(SessionId) -> bool) -> bool {
        let gone = |running: &Running| running.held.iter().any(|(session, _)| !lives(*session));
        self.by_target.values().any(gone)
    }

    pub(crate) fn holds(&self, session: SessionId) -> bool {
        let held = self.by_target.values().flat_map(|running| &running.held);
        held.into_iter().any(|(holder, _)| *holder == session)
    }

    /// Whether there is one.
    pub(crate) fn has(&self, target: &K) -> bool {
        self.by_target.contains_key(target)
    }

    /// Takes note that `target` is closed.
    pub(crate) fn ended(&mut self, target: &K) {
        self.by_target.remove(target);
    }

    /// Takes note of how an attempt to close `target` went: its lease is over, or it is due again
    /// soon. What is to be recorded of that: of attempts that fail, the first.
    pub(crate) fn attempted(
        &mut self,
        target: &K,
        tries: u32,
        attempt: Attempt,
    ) -> Option<Entry<'static>> {
        if attempt == Attempt::Closed {
            self.ended(target);
            return Some(Entry { event: "lease-ended", mode: Some("ro"), ..Entry::default() });
        }
        if let Some(closing) = self.by_target.get_mut(target).and_then(|it| it.closing.as_mut()) {
            closing.failed =
                if attempt == Attempt::Failed { closing.failed.saturating_add(1) } else { 0 };
            let pause = AGAIN * (1 << closing.failed.saturating_sub(1).min(7));
            closing.next = Some(Instant::now() + pause.min(LONGEST_PAUSE));
        }
        (tries == 1).then(|| Entry { event: "lease-busy", ..Entry::default() })
    }
}

impl Server<'_> {
    /// Begins to close the targets whose lease has ended.
    pub(crate) fn end_leases(&mut self, now: Instant) {
        let sessions = &self.sessions;
        let due = self.leases.due(now, |id| sessions.has(id));
        for (target, tries) in due {
            let name = self.registry.target(target).name.clone();
            let request = SetRequest::new(Selection::Named(vec![name]), Wish::Ro);
            // Only the first attempt waits for writers that come and go: later ones must
            // not keep others from the target.
            let deadline = if tries == 1 { now + RETRY_FOR } else { now };
            let (dialect, standing) = (Dialect::Json, Standing::Broker);
            let pending = Pending::new(OWN, dialect, standing, request, vec![target], deadline)
                .with_patience(Patience::Lease { tries });
            // Not each time: whoever holds it would stand still ten times a second.
            let halts = tries % HALTED == 2 && self.seems_to_pass(&pending.targets);
            self.queue.push(if halts { pending.halting() } else { pending });
        }
    }

    /// Takes note of how an attempt to close went.
    pub(crate) fn lease_closed(
        &mut self,
        pending: &Pending,
        tries: u32,
        outcome: &Result<Vec<TargetReport>, Fault>,
    ) {
        for &target in &pending.targets {
            let names = [self.registry.target(target).name.clone()];
            let is_closed = self.registry.mode(target) == Mode::Ro;
            let attempt = if is_closed { Attempt::Closed } else { Attempt::Busy };
            let message = outcome.as_ref().err().map(ToString::to_string);
            if let Some(entry) = self.leases.attempted(&target, tries, attempt) {
                self.record(&Entry { targets: &names, message: message.as_deref(), ..entry });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_holds_a_target_once() {
        let (mut leases, now) = (Leases::default(), Instant::now());
        for session in [7, 8, 7, 7] {
            leases.changed(&"w", Mode::Rw, session, Some(Term::Held), None);
        }
        assert_eq!(leases.report(&"w", now).map(|lease| lease.held), Some(2));
        assert!(leases.due(now, |session| session == 7).is_empty());
        assert_eq!(leases.report(&"w", now).map(|lease| lease.held), Some(1));
        assert_eq!(leases.due(now, |_| false), [("w", 1)]);
    }
}
