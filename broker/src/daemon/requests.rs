//! What each request asks for, and what of it is refused without a look into the sandbox.

use super::errand::{Act, Spot, Task};
use super::jobs::{Job, Kind};
use super::place::{NsId, Place, refusal};
use super::rules::{Rule, Who};
use super::serve::Daemon;
use crate::apply::RETRY_FOR;
use crate::escape::Escaped;
use crate::name::{Authority, Mode};
use crate::proto::{
    self, Dialect, ErrorCode, Fault, OnBusy, Origin, PathClaim, Refusal, Reply, Request, Selection,
    SetRequest, Term, Wish,
};
use crate::sandbox::Standing;
use crate::server::sessions::SessionId;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

/// Sandboxes' targets that one user may have on lease at a time: each keeps a namespace.
const MOST_LEASES: usize = 64;

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
        let Asked { kind, task, lease, patience } = asked;
        self.last_job += 1;
        let mut job = Job::new(self.last_job, (id, dialect), kind, (Rc::new(place), who), task);
        (job.lease, job.patience) = (lease, patience);
        self.queue.push(job);
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
            if let Some(path) = path.map(|_| &spot.path).filter(|path| self.is_of_other(rule, path))
            {
                let path = Escaped::path(path);
                let message = format!("switch {name}: {path} belongs to another target");
                return Err(refusal(ErrorCode::NotAuthorised, message, "use that one's name"));
            }
            if !spots.contains(&spot) {
                spots.push(spot);
            }
        }
        Ok((spots, false))
    }
}

impl Daemon<'_> {
    /// Whether a path below that of `rule` is at or below one that another rule is about: what
    /// that one keeps, this one must not undo.
    fn is_of_other(&self, rule: &Rule, path: &Path) -> bool {
        let is_nearer =
            |other: &Rule| other.path != rule.path && other.path.starts_with(&rule.path);
        self.rules.targets.iter().any(|other| is_nearer(other) && path.starts_with(&other.path))
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
