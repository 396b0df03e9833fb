//! Requests that need a look into a sandbox: queued, given to helpers, concluded.

use super::errand::{Act, Carried, Errand, Spot, Task};
use super::helpers::{Outcome, Sort, cannot_start};
use super::place::{NsId, Place, refusal};
use super::rules::Who;
use super::serve::Daemon;
use crate::apply::RETRY_FOR;
use crate::proto::{
    Dialect, ErrorCode, Origin, Refusal, Reply, StatusReport, TargetReport, Term, Wish,
};
use crate::sandbox::Standing;
use crate::server::journal::Entry;
use crate::server::leases::{Attempt, OWN};
use crate::server::sessions::SessionId;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A target of a sandbox.
pub(super) type Key = (NsId, PathBuf);

/// What has a lease.
#[derive(Debug, Clone)]
pub(super) struct Lent {
    spot: Spot,
    /// Its mount, to be closed whatever becomes of the path. It is passed on and closed, and
    /// nothing else is done with it here: whoever made its file system could make that wait.
    mount: Option<Rc<OwnedFd>>,
}

/// Between two attempts at a busy target.
const RETRY_BUSY: Duration = Duration::from_millis(20);

/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// Requests that one helper answers: those for one target that wait for one another.
const BATCH: usize = 64;

/// A request that needs a look into a sandbox.
#[derive(Debug)]
pub(super) struct Job {
    id: u64,
    pub session: SessionId,
    pub dialect: Dialect,
    pub kind: Kind,
    pub who: Rc<Who>,
    place: Rc<Place>,
    pub task: Task,
    pub lease: Option<Term>,
    /// The mount to be closed, if that is not to be looked for.
    mount: Option<Rc<OwnedFd>>,
    /// Until then it is tried again when the target is busy.
    pub patience: Option<Instant>,
    not_before: Instant,
    give_up: Instant,
    started: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Set,
    List,
    Status(Origin),
    Holders,
    /// The end of a lease, tried so many times.
    Close(u32),
}

/// Jobs in the order in which they came.
pub(super) type Queue = Vec<Job>;

impl Daemon<'_> {
    /// Sends helpers to where something is to be done.
    pub(super) fn dispatch(&mut self, now: Instant) {
        let mut taken: BTreeSet<(NsId, String)> = BTreeSet::new();
        let mut index = 0;
        while index < self.queue.len() {
            let job = &self.queue[index];
            index += 1;
            if job.started {
                continue;
            }
            let names = job.claims();
            let (id, uid, sort) = (job.place.id, job.who.peer.uid, job.sort());
            let waits = taken.iter().any(|(ns, name)| *ns == id && names.contains(name));
            let has_room = self.helpers.has_room(uid, sort);
            let blocked = waits || self.helpers.is_taken(id, &names) || !has_room;
            let is_hopeless = sort == Sort::Request && self.helpers.is_hopeless(uid, now);
            if now >= job.not_before && !blocked {
                // If it could not be sent, it is no longer there.
                index -= usize::from(!self.send(index - 1));
            } else if now >= job.give_up || is_hopeless {
                let message = match is_hopeless {
                    true => "carry out the request: earlier ones are stuck in a file system",
                    false => "carry out the request: earlier ones took too long",
                };
                let refusal = refusal(ErrorCode::Failed, message, "try again later");
                self.finish(Outcome::refused(job.id, refusal));
                index -= 1;
            }
            // Those that came later wait for those before them; who tries again does not
            // keep others from the target.
            taken.extend(names.into_iter().map(|name| (id, name)));
        }
    }

    /// Starts a helper for the job at `index`, and for those like it behind it. Else they are
    /// concluded.
    fn send(&mut self, index: usize) -> bool {
        let now = Instant::now();
        let first = &self.queue[index];
        let (place, who) = (first.place.clone(), first.who.clone());
        let (spots, sort) = (first.task.spots.clone(), first.sort());
        let mount = first.mount.clone();
        // What needs no look goes alone: nothing that looks is to be in its way.
        let most = if mount.is_some() { 1 } else { BATCH };
        let (mut tasks, mut jobs, mut claims) = (Vec::new(), Vec::new(), BTreeSet::new());
        for job in self.queue[index..].iter_mut().filter(|job| !job.started) {
            let same = job.place.id == place.id && job.task.spots == spots;
            let same = same && job.mount.is_some() == mount.is_some();
            let same = same && (job.who.peer.uid, job.who.peer.gid) == (who.peer.uid, who.peer.gid);
            if same && job.who.groups == who.groups && job.not_before <= now && jobs.len() < most {
                job.started = true;
                claims.append(&mut job.claims());
                tasks.push((job.task.clone(), job.lease.is_some()));
                jobs.push(job.id);
            }
        }
        let ids = jobs.clone();
        let errand = Errand::new(&place, &who, self.world.privileged, mount.is_some(), &tasks);
        let fds = Carried::new(&place, mount.as_deref()).all();
        let claim = (place.id, claims);
        let user = (who.peer.uid, sort);
        let started = self.helpers.send((&errand, &fds), user, claim, jobs);
        if let Err(errno) = started {
            for id in ids {
                self.finish(Outcome::refused(id, cannot_start(errno)));
            }
            return false;
        }
        // Who asks is written down at the end, and is known by then: this is the time for it.
        let asked = |job: &&Job| job.kind == Kind::Set && ids.contains(&job.id);
        for job in self.queue.iter().filter(asked) {
            self.command(job.session);
        }
        true
    }

    /// What is to be done with an answer.
    pub(super) fn finish(&mut self, Outcome { job: id, reply, mounts }: Outcome) {
        let Some(index) = self.queue.iter().position(|job| job.id == id) else { return };
        let now = Instant::now();
        let outcome = reply.and_then(|reply| match reply {
            Reply::Refused(refusal) => Err(refusal),
            reply => Ok(reply),
        });
        let job = &mut self.queue[index];
        let is_busy = matches!(&outcome, Err(refused) if refused.error == ErrorCode::Busy);
        if is_busy && job.patience.is_some_and(|until| now < until) {
            job.started = false;
            // Others take their turns in between, and one attempt is enough.
            job.not_before = now + RETRY_BUSY;
            job.give_up = job.not_before + TURN;
            job.task.deadline = now;
            let session = job.session;
            if let Some(client) = self.clients.get_mut(session) {
                client.session.parked = true;
            }
            return;
        }
        let job = self.queue.remove(index);
        match job.kind {
            Kind::Close(tries) => self.closed(&job, tries, &outcome),
            _ => self.conclude(&job, outcome, mounts),
        }
    }

    fn conclude(
        &mut self,
        job: &Job,
        outcome: Result<Reply, Refusal>,
        mounts: Vec<Option<OwnedFd>>,
    ) {
        if let Some(client) = self.clients.get_mut(job.session) {
            (client.session.busy, client.session.parked) = (false, false);
        }
        let reply = match outcome {
            Err(refused) => Err(refused),
            Ok(Reply::List(targets)) => Ok(self.completed(job, targets, mounts)),
            Ok(other) => Ok(other),
        };
        if job.kind == Kind::Set {
            self.record_set(job, reply.as_ref().err());
        }
        let reply = reply.unwrap_or_else(Reply::Refused);
        self.answer(job.session, job.dialect, &reply);
    }

    /// The answer to a job whose targets are these now.
    fn completed(
        &mut self,
        job: &Job,
        mut targets: Vec<TargetReport>,
        mounts: Vec<Option<OwnedFd>>,
    ) -> Reply {
        let (now, mut mounts) = (Instant::now(), mounts.into_iter());
        for report in &mut targets {
            let Some(spot) = job.task.spots.iter().find(|it| it.name == report.name) else {
                continue;
            };
            let key = (job.place.id, spot.path.clone());
            report.path.clone_from(&spot.path);
            if job.kind == Kind::Set {
                let most = spot.max_lease;
                let is_sent = job.task.act.lends(job.lease.is_some(), most);
                let mount = if is_sent { mounts.next().flatten() } else { None };
                self.leases.changed(&key, report.mode, job.session, job.lease, most);
                if self.leases.has(&key) {
                    let lent = Lent { spot: spot.clone(), mount: mount.map(Rc::new) };
                    self.lent.insert(key.clone(), (job.place.clone(), job.who.clone(), lent));
                } else {
                    self.lent.remove(&key);
                }
            }
            report.lease = self.leases.report(&key, now);
        }
        let holds = self.leases.holds(job.session);
        if let Some(client) = self.clients.get_mut(job.session) {
            client.session.holds = holds;
        }
        match job.kind {
            Kind::Set => Reply::Done(targets),
            Kind::Status(origin) => Reply::Status(Box::new(StatusReport {
                origin,
                sandbox: None,
                targets,
                pending: Vec::new(),
                changed: Vec::new(),
            })),
            _ => Reply::List(targets),
        }
    }

    /// Begins to close the targets whose lease has ended.
    pub(super) fn end_leases(&mut self, now: Instant) {
        let clients = &self.clients;
        for (key, tries) in self.leases.due(now, |id| clients.has(id)) {
            let Some((place, who, lent)) = self.lent.get(&key).cloned() else {
                self.leases.ended(&key);
                continue;
            };
            let act = Act::Set { wish: Wish::Ro, standing: Standing::Broker };
            let deadline = if tries == 1 { now + RETRY_FOR } else { now };
            self.last_job += 1;
            let task = Task { spots: vec![lent.spot], optional: false, act, deadline };
            let from = (OWN, Dialect::Json);
            let mut job = Job::new(self.last_job, from, Kind::Close(tries), (place, who), task);
            job.mount = lent.mount;
            // Before all requests: those for the same target would keep it waiting.
            let next = self.queue.iter().position(|job| job.sort() == Sort::Request);
            self.queue.insert(next.unwrap_or(self.queue.len()), job);
        }
    }

    /// Takes note of how an attempt to close went.
    fn closed(&mut self, job: &Job, tries: u32, outcome: &Result<Reply, Refusal>) {
        let Some(spot) = job.task.spots.first() else { return };
        let key = (job.place.id, spot.path.clone());
        let targets = [spot.name.clone()];
        let message = outcome.as_ref().err().map(|refused| refused.message.clone());
        // One that is no longer in the tree is not writable there either. One that could not be
        // found may be.
        let attempt = match outcome {
            Ok(_) => Attempt::Closed,
            Err(refused) => match refused.error {
                ErrorCode::Stale => Attempt::Closed,
                ErrorCode::Busy => Attempt::Busy,
                _ => Attempt::Failed,
            },
        };
        if attempt == Attempt::Closed {
            self.lent.remove(&key);
        }
        if let Some(entry) = self.leases.attempted(&key, tries, attempt) {
            self.record(&Entry { targets: &targets, message: message.as_deref(), ..entry });
        }
    }

    /// Gives up what a client that is gone had asked for, if nobody works on it yet.
    pub(super) fn forget(&mut self, id: SessionId) {
        self.queue.retain(|job| job.session != id || job.started);
    }

    /// When something in the queue is due.
    pub(super) fn next_job(&self) -> Option<Instant> {
        let idle = self.queue.iter().filter(|job| !job.started);
        idle.map(|job| if job.not_before > Instant::now() { job.not_before } else { job.give_up })
            .min()
    }
}

impl Job {
    /// One that may begin at once, is tried once, and lends nothing.
    pub(super) fn new(
        id: u64,
        (session, dialect): (SessionId, Dialect),
        kind: Kind,
        (place, who): (Rc<Place>, Rc<Who>),
        task: Task,
    ) -> Self {
        let now = Instant::now();
        Self {
            id,
            session,
            dialect,
            kind,
            who,
            place,
            task,
            lease: None,
            mount: None,
            patience: None,
            not_before: now,
            give_up: now + TURN,
            started: false,
        }
    }

    fn sort(&self) -> Sort {
        match self.kind {
            Kind::Close(_) => Sort::Close,
            _ => Sort::Request,
        }
    }

    /// The targets that nobody else may work on meanwhile.
    fn claims(&self) -> BTreeSet<String> {
        match self.task.act {
            Act::Set { .. } => self.task.spots.iter().map(|it| it.name.to_string()).collect(),
            Act::Report | Act::Holders => BTreeSet::new(),
        }
    }
}
