//! What each request leads to.

use super::helpers::{Outcome, cannot_start};
use super::place::{NsId, Place, refusal};
use super::rules::{Rule, Who};
use super::serve::Daemon;
use super::visit::{Act, Spot, Task};
use crate::apply::RETRY_FOR;
use crate::name::{Authority, Mode};
use crate::proto::{
    self, Dialect, ErrorCode, Fault, OnBusy, Origin, PathClaim, Refusal, Reply, Request, Selection,
    SetRequest, StatusReport, TargetReport, Term, Wish,
};
use crate::sandbox::Standing;
use crate::server::journal::Entry;
use crate::server::leases::{AGAIN, OWN};
use crate::server::sessions::SessionId;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A target of a sandbox.
pub(super) type Key = (NsId, PathBuf);

/// Between two attempts at a busy target.
const RETRY_BUSY: Duration = Duration::from_millis(20);

/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// Sandboxes' targets that one user may have on lease at a time: each keeps a namespace.
const MOST_LEASES: usize = 64;

/// Requests that one helper answers: those for one target that wait for one another.
const BATCH: usize = 64;

/// A request that needs a look into a sandbox.
#[derive(Debug)]
pub(super) struct Job {
    id: u64,
    session: SessionId,
    dialect: Dialect,
    kind: Kind,
    who: Rc<Who>,
    place: Rc<Place>,
    task: Task,
    lease: Option<Term>,
    /// Until then it is tried again when the target is busy.
    patience: Option<Instant>,
    not_before: Instant,
    give_up: Instant,
    started: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Set,
    List,
    Status(Origin),
    Holders,
    /// The end of a lease, tried so many times.
    Close(u32),
}

/// What is asked, once the dialect is off.
struct Asked {
    kind: Kind,
    task: Task,
    lease: Option<Term>,
    patience: Option<Instant>,
}

impl Daemon<'_> {
    /// Takes one request of each client that has made one.
    pub(super) fn hear(&mut self) {
        for id in self.clients.with_line() {
            let Some(client) = self.clients.get_mut(id) else { continue };
            let Some(line) = client.session.next_line() else { continue };
            let (dialect, request) = proto::parse(&line);
            let reply = match request {
                Ok(Request::Quit) => Some(Reply::Bye),
                Ok(request) => match self.begin(id, dialect, request) {
                    Ok(reply) => reply,
                    Err(refused) => {
                        self.record_refusal(id, &refused);
                        Some(Reply::Refused(refused))
                    }
                },
                Err(malformed) => Some(Reply::Refused(Refusal::from(&Fault::from(malformed)))),
            };
            if let Some(reply) = reply {
                self.answer(id, dialect, &reply);
            }
        }
    }

    /// Checks what can be checked from here, and queues what cannot. `None` if the answer
    /// comes later.
    fn begin(
        &mut self,
        id: SessionId,
        dialect: Dialect,
        request: Request,
    ) -> Result<Option<Reply>, Refusal> {
        let Some(client) = self.clients.get(id) else { return Ok(None) };
        let who = client.who.clone();
        let home = client.home.clone()?;
        let is_host = client.is_host;
        if !self.world.privileged && who.peer.uid != rustix::process::geteuid().as_raw() {
            let message = "serve the request: this remountd serves the user that runs it";
            return Err(refusal(ErrorCode::NotAuthorised, message, ""));
        }
        let (place, request) = match request {
            Request::In(_, _) if !is_host => {
                return Err(Refusal::from(&Fault::OutsideOnly("name a process")));
            }
            Request::In(pid, request) => (self.world.locate_named(pid, &home, &who)?, *request),
            Request::Events { follow } => return self.events(id, is_host, follow).map(Some),
            request => (self.world.locate(&home, &who)?, request),
        };
        let asked = self.asked(&place, &who, is_host, request)?;
        self.check_leases(&asked, place.id, &who)?;
        let now = Instant::now();
        self.last_job += 1;
        self.queue.push(Job {
            id: self.last_job,
            session: id,
            dialect,
            kind: asked.kind,
            who,
            place: Rc::new(place),
            task: asked.task,
            lease: asked.lease,
            patience: asked.patience,
            not_before: now,
            give_up: now + TURN,
            started: false,
        });
        if let Some(client) = self.clients.get_mut(id) {
            client.session.busy = true;
        }
        Ok(None)
    }

    /// Leases outlive whoever asked, and even the sandbox: they are bounded.
    fn check_leases(&self, asked: &Asked, place: NsId, who: &Who) -> Result<(), Refusal> {
        let lends = |spot: &&Spot| {
            let is_new = !self.lent.contains_key(&(place, spot.path.clone()));
            is_new && (asked.lease.is_some() || spot.max_lease.is_some())
        };
        let Act::Set { wish: Wish::Rw | Wish::Toggle, .. } = asked.task.act else { return Ok(()) };
        let more = asked.task.spots.iter().filter(lends).count();
        let of_user = self.lent.values().filter(|(_, it, _)| it.peer.uid == who.peer.uid).count();
        let is_full = of_user + more > MOST_LEASES || self.lent.len() + more > self.clients.most();
        if more > 0 && is_full {
            let message = "lend a target: too many are on lease in other sandboxes";
            return Err(refusal(ErrorCode::Failed, message, "make some of them read-only"));
        }
        Ok(())
    }

    fn events(&mut self, id: SessionId, is_host: bool, follow: bool) -> Result<Reply, Refusal> {
        let uid = self.clients.get(id).map(|client| client.who.peer.uid);
        if !is_host || uid != Some(rustix::process::geteuid().as_raw()) {
            return Err(Refusal::from(&Fault::OutsideOnly("read the events")));
        }
        if let Some(client) = self.clients.get_mut(id) {
            client.session.follows |= follow;
        }
        Ok(Reply::Events(self.journal.events()))
    }

    fn asked(
        &self,
        place: &Place,
        who: &Who,
        is_host: bool,
        request: Request,
    ) -> Result<Asked, Refusal> {
        let origin = if is_host { Origin::Outside } else { Origin::Inside };
        let deadline = Instant::now() + RETRY_FOR;
        let plain = |kind, spots, act| {
            let task = Task { spots, optional: true, act, deadline };
            Ok(Asked { kind, task, lease: None, patience: None })
        };
        match request {
            Request::List | Request::Status => {
                let may = |rule: &&Rule| may_act(rule, place, who).is_ok() || place.is_host;
                let spots = self.rules.of(who).filter(may).map(|rule| spot(rule, None));
                let kind = if request == Request::List { Kind::List } else { Kind::Status(origin) };
                plain(kind, spots.collect::<Result<_, _>>()?, Act::Report)
            }
            Request::Holders(selection) => {
                let (spots, optional) = self.select(&selection, None, place, who, None)?;
                let task = Task { spots, optional, act: Act::Holders, deadline };
                Ok(Asked { kind: Kind::Holders, task, lease: None, patience: None })
            }
            Request::Set(set) => self.asked_to_set(place, who, origin, set, deadline),
            _ => {
                let message = "carry out the request: remountd does not do this";
                let hint = "it works with a sandbox of remount-run";
                Err(refusal(ErrorCode::BadRequest, message, hint))
            }
        }
    }

    fn asked_to_set(
        &self,
        place: &Place,
        who: &Who,
        origin: Origin,
        set: SetRequest,
        deadline: Instant,
    ) -> Result<Asked, Refusal> {
        let SetRequest { targets, wish, path, busy, lease } = set;
        let patience = match busy {
            None | Some(OnBusy::Fail) => None,
            Some(OnBusy::Wait(time)) => Some(Instant::now() + time),
            Some(OnBusy::Kill { .. }) => {
                let message = "end the holders: remountd ends no processes";
                return Err(refusal(
                    ErrorCode::BadRequest,
                    message,
                    "use --wait, or end them yourself",
                ));
            }
        };
        let (spots, optional) = self.select(&targets, Some(wish), place, who, path.as_ref())?;
        let act = Act::Set { wish, standing: Standing::from(origin) };
        let task = Task { spots, optional, act, deadline };
        Ok(Asked { kind: Kind::Set, task, lease, patience })
    }

    /// The targets that are meant, and whether they need not all be there.
    fn select(
        &self,
        selection: &Selection,
        wish: Option<Wish>,
        place: &Place,
        who: &Who,
        path: Option<&PathClaim>,
    ) -> Result<(Vec<Spot>, bool), Refusal> {
        let allows = |rule: &Rule| match wish {
            Some(Wish::Ro) => rule.allows(Mode::Ro),
            Some(Wish::Rw) => rule.allows(Mode::Rw),
            Some(Wish::Toggle) => rule.allows(Mode::Ro) && rule.allows(Mode::Rw),
            None => true,
        };
        let names = match selection {
            Selection::All => {
                let may = |rule: &&Rule| may_act(rule, place, who).is_ok() && allows(rule);
                let spots = self.rules.of(who).filter(may).map(|rule| spot(rule, None));
                return Ok((spots.collect::<Result<_, _>>()?, true));
            }
            Selection::Named(names) => names,
        };
        let mut spots: Vec<Spot> = Vec::new();
        for name in names {
            let rule = self.rules.of(who).find(|rule| rule.name == *name);
            let rule = rule.ok_or_else(|| Refusal::from(&Fault::UnknownTarget(name.clone())))?;
            may_act(rule, place, who)?;
            if !allows(rule) {
                let message = format!("switch {name}: the configuration does not allow this mode");
                return Err(refusal(ErrorCode::NotAuthorised, message, ""));
            }
            let spot = spot(rule, path)?;
            if !spots.contains(&spot) {
                spots.push(spot);
            }
        }
        Ok((spots, false))
    }

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
            let (id, uid) = (job.place.id, job.who.peer.uid);
            let waits = taken.iter().any(|(ns, name)| *ns == id && names.contains(name));
            let blocked = waits || self.helpers.is_taken(id, &names) || !self.helpers.has_room(uid);
            if now >= job.not_before && !blocked {
                self.send(index - 1);
            } else if now >= job.give_up || self.helpers.is_hopeless(uid) {
                let message = "carry out the request: earlier ones are stuck in a file system";
                let outcome = (job.id, Err(refusal(ErrorCode::Failed, message, "try again later")));
                self.finish(outcome);
                index -= 1;
            }
            // Those that came later wait for those before them; who tries again does not
            // keep others from the target.
            taken.extend(names.into_iter().map(|name| (id, name)));
        }
    }

    /// Starts a helper for the job at `index`, and for those like it behind it.
    fn send(&mut self, index: usize) {
        let now = Instant::now();
        let first = &self.queue[index];
        let (place, who) = (first.place.clone(), first.who.clone());
        let spots = first.task.spots.clone();
        let (mut tasks, mut jobs) = (Vec::new(), Vec::new());
        for job in self.queue[index..].iter_mut().filter(|job| !job.started) {
            let same = job.place.id == place.id && job.task.spots == spots;
            let same = same && (job.who.peer.uid, job.who.peer.gid) == (who.peer.uid, who.peer.gid);
            if same && job.who.groups == who.groups && job.not_before <= now && jobs.len() < BATCH {
                job.started = true;
                tasks.push(job.task.clone());
                jobs.push(job.id);
            }
        }
        let ids = jobs.clone();
        let started = self.helpers.start(&self.world, &self.filter, (&place, &who), &tasks, jobs);
        if let Err(errno) = started {
            for id in ids {
                self.finish((id, Err(cannot_start(errno))));
            }
            return;
        }
        // Who asks is written down at the end, and is known by then: this is the time for it.
        let asked = |job: &&Job| job.kind == Kind::Set && ids.contains(&job.id);
        for job in self.queue.iter().filter(asked) {
            self.command(job.session);
        }
    }

    /// What is to be done with an answer.
    pub(super) fn finish(&mut self, (id, reply): Outcome) {
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
            _ => self.conclude(&job, outcome),
        }
    }

    fn conclude(&mut self, job: &Job, outcome: Result<Reply, Refusal>) {
        if let Some(client) = self.clients.get_mut(job.session) {
            (client.session.busy, client.session.parked) = (false, false);
        }
        let reply = match outcome {
            Err(refused) => Err(refused),
            Ok(Reply::List(targets)) => Ok(self.completed(job, targets)),
            Ok(other) => Ok(other),
        };
        if job.kind == Kind::Set {
            self.record_set(job, reply.as_ref().err());
        }
        let reply = reply.unwrap_or_else(Reply::Refused);
        self.answer(job.session, job.dialect, &reply);
    }

    /// The answer to a job whose targets are these now.
    fn completed(&mut self, job: &Job, mut targets: Vec<TargetReport>) -> Reply {
        let now = Instant::now();
        for report in &mut targets {
            let Some(spot) = job.task.spots.iter().find(|it| it.name == report.name) else {
                continue;
            };
            let key = (job.place.id, spot.path.clone());
            report.path.clone_from(&spot.path);
            if job.kind == Kind::Set {
                let most = spot.max_lease;
                self.leases.changed(&key, report.mode, job.session, job.lease, most);
                if self.leases.has(&key) {
                    let lent = (job.place.clone(), job.who.clone(), spot.clone());
                    self.lent.insert(key.clone(), lent);
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
            })),
            _ => Reply::List(targets),
        }
    }

    /// Begins to close the targets whose lease has ended.
    pub(super) fn end_leases(&mut self, now: Instant) {
        let clients = &self.clients;
        for (key, tries) in self.leases.due(now, |id| clients.has(id)) {
            let Some((place, who, spot)) = self.lent.get(&key).cloned() else {
                self.leases.ended(&key);
                continue;
            };
            let act = Act::Set { wish: Wish::Ro, standing: Standing::Broker };
            let deadline = if tries == 1 { now + RETRY_FOR } else { now };
            self.last_job += 1;
            self.queue.push(Job {
                id: self.last_job,
                session: OWN,
                dialect: Dialect::Json,
                kind: Kind::Close(tries),
                who,
                place,
                task: Task { spots: vec![spot], optional: false, act, deadline },
                lease: None,
                patience: None,
                not_before: now,
                give_up: now + TURN,
                started: false,
            });
        }
    }

    /// Takes note of how an attempt to close went.
    fn closed(&mut self, job: &Job, tries: u32, outcome: &Result<Reply, Refusal>) {
        let Some(spot) = job.task.spots.first() else { return };
        let key = (job.place.id, spot.path.clone());
        let targets = [spot.name.clone()];
        let message = outcome.as_ref().err().map(|refused| refused.message.clone());
        let entry = Entry { targets: &targets, message: message.as_deref(), ..Entry::default() };
        // A target that is no longer there is not writable there either.
        let over = match outcome {
            Ok(_) => true,
            Err(refused) => refused.error == ErrorCode::Stale,
        };
        if over {
            self.leases.ended(&key);
            self.lent.remove(&key);
            self.record(&Entry { event: "lease-ended", mode: Some("ro"), ..entry });
        } else {
            self.leases.retry(&key, Instant::now() + AGAIN);
            if tries == 1 {
                self.record(&Entry { event: "lease-busy", ..entry });
            }
        }
    }

    fn record_set(&mut self, job: &Job, refused: Option<&Refusal>) {
        let Act::Set { wish, standing } = job.task.act else { return };
        let targets: Vec<_> = job.task.spots.iter().map(|spot| spot.name.clone()).collect();
        let origin = if standing == Standing::Outside { Origin::Outside } else { Origin::Inside };
        let (pid, command) = self.identity(job.session);
        self.record(&Entry {
            event: if refused.is_some() { "refused" } else { "granted" },
            mode: Some(wish.word()),
            targets: &targets,
            origin: Some(origin),
            pid,
            uid: Some(job.who.peer.uid),
            command: &command,
            error: refused.map(|refused| refused.error.word()),
            message: refused.map(|refused| refused.message.as_str()),
            ..Entry::default()
        });
    }

    fn record_refusal(&mut self, id: SessionId, refused: &Refusal) {
        let (pid, command) = self.identity(id);
        let client = self.clients.get(id);
        let (uid, is_host) = client.map_or((None, false), |it| (Some(it.who.peer.uid), it.is_host));
        self.record(&Entry {
            event: "refused",
            origin: Some(if is_host { Origin::Outside } else { Origin::Inside }),
            pid,
            uid,
            command: &command,
            error: Some(refused.error.word()),
            message: Some(&refused.message),
            ..Entry::default()
        });
    }

    fn identity(&self, id: SessionId) -> (Option<i32>, String) {
        let pid = self.clients.get(id).and_then(|client| client.who.peer.pid);
        let command = self.command(id).unwrap_or_default().to_owned();
        (pid.map(|pid| pid.as_raw_nonzero().get()), command)
    }

    /// The client's command line, read once for each connection.
    fn command(&self, id: SessionId) -> Option<&str> {
        let client = self.clients.get(id)?;
        let pid = client.who.peer.pid?;
        Some(client.session.command.get_or_init(|| self.inspector.command(pid)))
    }

    fn answer(&mut self, id: SessionId, dialect: Dialect, reply: &Reply) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.session.reply(&reply.to_bytes(dialect));
        let is_last = match reply {
            Reply::Bye => true,
            Reply::Refused(refused) => refused.error == ErrorCode::BadRequest,
            _ => false,
        };
        if is_last {
            client.session.close();
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
    /// The targets that nobody else may work on meanwhile.
    fn claims(&self) -> BTreeSet<String> {
        match self.task.act {
            Act::Set { .. } => self.task.spots.iter().map(|it| it.name.to_string()).collect(),
            Act::Report | Act::Holders => BTreeSet::new(),
        }
    }
}

/// Whether a rule may be acted on at this place for this user.
fn may_act(rule: &Rule, place: &Place, who: &Who) -> Result<(), Refusal> {
    let name = &rule.name;
    if place.is_host {
        let message = format!("switch {name}: the request came from the host, not from a sandbox");
        let hint = "run it in the sandbox, or name a process there: remountctl --pid PID …";
        return match rule.host_namespace {
            true => Ok(()),
            false => Err(refusal(ErrorCode::NotAuthorised, message, hint)),
        };
    }
    if place.owner == who.peer.uid || rule.any_owner {
        return Ok(());
    }
    let message = format!(
        "switch {name}: the sandbox belongs to uid {}, the request came from uid {}",
        place.owner, who.peer.uid
    );
    Err(refusal(ErrorCode::NotAuthorised, message, ""))
}

fn spot(rule: &Rule, claim: Option<&PathClaim>) -> Result<Spot, Refusal> {
    let (mut path, mut source) = (rule.path.clone(), rule.source.clone());
    if let Some(claim) = claim {
        let below = claim.below(&rule.path).filter(|below| below.starts_with(&rule.path));
        let below = below.ok_or_else(|| {
            let (name, path) = (rule.name.clone(), rule.path.clone());
            Refusal::from(&Fault::OtherPath { name, path })
        })?;
        if let Ok(rest) = below.strip_prefix(&rule.path)
            && !rest.as_os_str().is_empty()
        {
            source = source.join(rest);
        }
        path = below;
    }
    // Without a person to ask, what needs one is for the host to do.
    let authority = match rule.authority {
        Authority::Confirm => Authority::Host,
        authority => authority,
    };
    let (name, max_lease) = (rule.name.clone(), rule.max_lease);
    Ok(Spot { name, path, source, authority, max_lease })
}

/// Jobs in the order in which they came.
pub(super) type Queue = Vec<Job>;
