//! What each request leads to.

use super::journal::Entry;
use super::leases::OWN;
use super::queue::{Finished, Patience, Pending, Stage};
use super::sessions::SessionId;
use super::{Server, busy};
use crate::escape::Escaped;
use crate::heal::Healer;
use crate::name::{Mode, TargetName};
use crate::proto::{
    self, Dialect, ErrorCode, Fault, OnBusy, Origin, Refusal, Reply, Request, SetRequest,
    StatusReport, TargetReport, Verdict,
};
use crate::sandbox::{Index, Standing, Why};
use std::path::Path;
use std::time::Instant;

impl Server<'_> {
    /// Takes one request of each client that has made one: many in a row from one client
    /// do not hold up the others.
    pub(super) fn hear(&mut self) {
        for id in self.sessions.with_line() {
            self.sessions.touch(id);
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let Some(line) = session.next_line() else { continue };
            let origin = session.caller.origin;
            let (dialect, request) = proto::parse(&line);
            let reply = match request {
                Ok(Request::Set(set)) => {
                    self.set(id, dialect, origin, set);
                    continue;
                }
                Ok(request) => self
                    .query(id, origin, request)
                    .unwrap_or_else(|fault| Reply::Refused(Refusal::from(&fault))),
                Err(malformed) => Reply::Refused(Refusal::from(&Fault::from(malformed))),
            };
            self.answer(id, dialect, &reply);
        }
    }

    /// Answers what changes no mode.
    fn query(&mut self, id: SessionId, origin: Origin, request: Request) -> Result<Reply, Fault> {
        let outside = |what| match origin {
            Origin::Outside => Ok(()),
            Origin::Inside => Err(Fault::OutsideOnly(what)),
        };
        Ok(match request {
            Request::List => Reply::List(self.report(&self.registry.all().collect::<Vec<_>>())),
            Request::Status => Reply::Status(Box::new(self.status(origin))),
            Request::Holders(selection) => {
                let targets = self.registry.find(&selection)?;
                Reply::Holders(self.holders(&targets).unwrap_or_default())
            }
            Request::Why(path) => Reply::Why(self.why(&path)),
            Request::Decide(decision) => {
                outside("decide about a request")?;
                self.decide(decision, id)?;
                Reply::Done(Vec::new())
            }
            Request::Events { follow } => {
                outside("read the events")?;
                if let Some(session) = self.sessions.get_mut(id) {
                    session.follows |= follow;
                }
                Reply::Events(self.journal.events())
            }
            Request::In(..) => return Err(Fault::OneSandbox),
            Request::Set(_) | Request::Quit => Reply::Bye,
        })
    }

    /// Begins to change modes, or to wait for a person.
    fn set(&mut self, id: SessionId, dialect: Dialect, origin: Origin, set: SetRequest) {
        let now = Instant::now();
        let selected = self.registry.select(&set);
        let targets = selected.as_ref().map_or(Vec::new(), Clone::clone);
        let patience = self.patience(&set, now);
        let asks = self.registry.needs_person(&set, origin);
        let deadline = Self::first_deadline(now);
        let standing = Standing::from(origin);
        let pending =
            Pending::new(id, dialect, standing, set, targets, deadline).with_patience(patience);
        if let Some(session) = self.sessions.get_mut(id) {
            session.busy = true;
        }
        if let Err(fault) = selected {
            self.conclude(pending, Err(fault));
        } else if asks {
            let (session, dialect, set) = (id, pending.dialect, pending.request.clone());
            let targets = pending.targets.clone();
            self.park(id);
            if let Err(fault) = self.ask_person(pending) {
                let pending = Pending::new(session, dialect, standing, set, targets, deadline);
                self.conclude(pending, Err(fault));
            }
        } else {
            self.queue.push(pending);
        }
    }

    fn patience(&self, set: &SetRequest, now: Instant) -> Patience {
        match set.busy.unwrap_or(self.context.on_busy) {
            OnBusy::Fail => Patience::None,
            OnBusy::Wait(time) => Patience::Until(now + time),
            OnBusy::Kill { grace, force } => Patience::Kill { grace, force, stage: Stage::Asked },
        }
    }

    /// What is to be done with a change that is over, or has found its target busy.
    pub(super) fn finish(&mut self, finished: Finished) {
        let Finished { mut pending, outcome } = finished;
        if !matches!(outcome, Err(Fault::Busy { .. })) {
            return self.conclude(pending, outcome);
        }
        match self.met_busy(&mut pending, Instant::now()) {
            busy::Next::Again(at) => {
                self.park(pending.session);
                self.parked.push((at, pending));
            }
            busy::Next::Halting => self.queue.push(pending.renewed(Instant::now()).halting()),
            busy::Next::Fail(None) => self.conclude(pending, outcome),
            busy::Next::Fail(Some(fault)) => self.conclude(pending, Err(fault)),
        }
    }

    /// From now on only the client's end is looked for.
    fn park(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.parked = true;
        }
    }

    /// The end of a request: what it changed is noted, written down, and then told.
    pub(super) fn conclude(&mut self, pending: Pending, outcome: Result<Vec<TargetReport>, Fault>) {
        if let Patience::Lease { tries } = pending.patience {
            return self.lease_closed(&pending, tries, &outcome);
        }
        let session = pending.session;
        // It may have been evicted meanwhile.
        if let Some(session) = self.sessions.get_mut(session) {
            (session.busy, session.parked) = (false, false);
        }
        let reply = match outcome {
            Ok(mut targets) => {
                for (&index, report) in pending.targets.iter().zip(&mut targets) {
                    let most = self.registry.target(index).max_lease;
                    let lease = pending.request.lease;
                    self.leases.changed(&index, report.mode, session, lease, most);
                    report.lease = self.leases.report(&index, Instant::now());
                }
                let holds = self.leases.holds(session);
                if let Some(session) = self.sessions.get_mut(session) {
                    session.holds = holds;
                }
                self.log_outcome(&pending, None);
                Reply::Done(targets)
            }
            Err(fault) => {
                let mut refusal = Refusal::from(&fault);
                if refusal.error == ErrorCode::Stale {
                    let reports = self.registry.report(pending.targets.iter().copied());
                    self.note_stale(&reports);
                } else if refusal.error == ErrorCode::Busy {
                    refusal.holders = self.holders(&pending.targets);
                }
                self.log_outcome(&pending, Some(&refusal));
                Reply::Refused(refusal)
            }
        };
        self.answer(session, pending.dialect, &reply);
    }

    fn log_outcome(&mut self, pending: &Pending, refusal: Option<&Refusal>) {
        let targets: Vec<TargetName> = pending.targets.iter().map(|&it| self.name(it)).collect();
        let (pid, uid, command) = self.identity(pending.session);
        let error = refusal.map(|refusal| refusal.error.word());
        self.record(&Entry {
            event: if refusal.is_some() { "refused" } else { "granted" },
            mode: Some(pending.request.wish.word()),
            targets: &targets,
            origin: self.sessions.get(pending.session).map(|session| session.caller.origin),
            pid,
            uid,
            command: &command,
            error,
            message: refusal.map(|refusal| refusal.message.as_str()),
            ..Entry::default()
        });
    }

    /// Who asks: process, user and command line. The command line is read once for each
    /// connection.
    pub(super) fn identity(&self, id: SessionId) -> (Option<i32>, Option<u32>, String) {
        let Some(session) = self.sessions.get(id) else { return (None, None, String::new()) };
        let Some(peer) = session.caller.peer else { return (None, None, String::new()) };
        let command = session.command.get_or_init(|| {
            let inspector = self.context.inspector.as_ref();
            inspector.zip(peer.pid).map(|(it, pid)| it.command(pid)).unwrap_or_default()
        });
        let pid = peer.pid.map(|pid| pid.as_raw_nonzero().get());
        (pid, Some(peer.uid), command.clone())
    }

    /// Writes an event down and tells it to those who follow.
    pub(super) fn record(&mut self, entry: &Entry<'_>) {
        let line = self.journal.record(entry);
        self.sessions.tell_followers(&line);
    }

    pub(super) fn name(&self, target: Index) -> TargetName {
        self.registry.target(target).name.clone()
    }

    /// Targets as they are now, with their leases.
    fn report(&mut self, which: &[Index]) -> Vec<TargetReport> {
        let mut reports = self.registry.report(which.iter().copied());
        let now = Instant::now();
        for (&index, report) in which.iter().zip(&mut reports) {
            report.lease = self.leases.report(&index, now);
        }
        reports
    }

    fn status(&mut self, origin: Origin) -> StatusReport {
        let all: Vec<_> = self.registry.all().collect();
        let targets = self.report(&all);
        self.note_stale(&targets);
        let (sandbox, pending) = (self.context.sandbox.clone(), self.waiting(Instant::now()));
        let changed = self.context.healer.as_ref().map(Healer::changed).unwrap_or_default();
        let changed = changed.iter().map(|path| Escaped::path(path).to_string()).collect();
        StatusReport { origin, sandbox, targets, pending, changed }
    }

    fn why(&self, path: &Path) -> Verdict {
        let explain = self.context.explain.as_ref();
        let mut verdict = explain.and_then(|explain| explain.about(path)).unwrap_or(Verdict {
            mount: "/".to_owned(),
            kind: "unknown".to_owned(),
            rule: String::new(),
            mode: None,
            target: None,
            landlock: None,
            lost: None,
            is_file: false,
        });
        // What a target's mount allows is its mode now, not the one it began with.
        let index = verdict.target.as_ref().and_then(|name| self.registry.by_name(name));
        if let Some(index) = index {
            let mode = self.registry.mode_at(index, path);
            verdict.mode = Some(mode);
            if mode == Mode::Ro && self.registry.wanted(index) == Mode::Rw {
                let lost = self.registry.unprotected(index, Why::Lost);
                verdict.lost = lost.map(|lost| Escaped::path(lost).to_string());
            }
        }
        verdict
    }

    /// Tells a client what became of its request. One that does not speak the protocol is
    /// sent away: what follows in its stream would be no better.
    fn answer(&mut self, id: SessionId, dialect: Dialect, reply: &Reply) {
        if id == OWN {
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.reply(&reply.to_bytes(dialect));
        self.answered = Some(Instant::now());
        let is_last = match reply {
            Reply::Bye => true,
            Reply::Refused(refusal) => refusal.error == ErrorCode::BadRequest,
            _ => false,
        };
        if is_last {
            session.close();
        }
    }

    /// Gives up what a client that is gone had asked for, but not what it has been given:
    /// its leases end in their turn.
    pub(super) fn forget(&mut self, id: SessionId, now: Instant) {
        self.queue.cancel(id, now);
        self.parked.retain(|(_, it)| it.session != id || it.patience.is_ending());
        for id in self.approvals.forget(id) {
            let message = Some("the one that asked is gone");
            self.record(&Entry { event: "withdrawn", id: Some(id), message, ..Entry::default() });
        }
    }
}
