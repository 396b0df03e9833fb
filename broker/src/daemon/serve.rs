//! The daemon's event loop: one thread, and never a call that waits for anybody else.

use super::clients::Clients;
use super::helpers::{Helpers, LOOK, Outcome};
use super::jobs::{Key, Lent, Queue};
use super::place::{Place, World};
use super::rules::{Rules, Who};
use crate::channel::accept;
use crate::holders::Inspector;
use crate::proto::Origin;
use crate::reason::Reason;
use crate::sandbox::Caller;
use crate::server::awaited::Awaited;
use crate::server::journal::{Entry, Journal};
use crate::server::leases::Leases;
use crate::server::session::Session;
use crate::server::sessions::SessionId;
use crate::sys::patience::Patience;
use crate::sys::socket::{peer, peer_groups};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Descriptors that are not for clients: what the daemon has open, and sockets and pidfds of
/// a few helpers.
const RESERVED: u64 = 40;

/// The most clients, whatever the limit on descriptors is.
const MOST_CLIENTS: u64 = 16384;

/// Connections taken in one turn.
const BATCH: usize = 64;

/// How long a listener that failed is not looked at.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What a daemon works with.
pub struct Setup<'a> {
    /// Listening sockets, non-blocking.
    pub listeners: Vec<OwnedFd>,
    /// A connection that is already there: the daemon then ends with it.
    pub connection: Option<OwnedFd>,
    /// What may be asked for.
    pub rules: Rules,
    /// Becomes readable when a signal is there; reads it.
    pub signals: OwnedFd,
    /// What to do then: other rules, or none to go on with those there are; or the end.
    pub on_signal: Box<dyn FnMut(BorrowedFd<'_>) -> Signalled + 'a>,
    /// Where events go.
    pub log: Log<'a>,
}

impl fmt::Debug for Setup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

/// Writes an event's line somewhere, without ever waiting.
pub type Log<'a> = Box<dyn FnMut(&[u8]) + 'a>;

/// What a signal leads to.
#[derive(Debug)]
pub enum Signalled {
    /// Nothing.
    Nothing,
    /// These rules hold from now on.
    Reload(Rules),
    /// The end.
    End,
}

/// The daemon cannot work.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// `/proc` does not say who is who.
    #[error("look into /proc: {:#}", Reason::from(*.0))]
    Proc(Errno),
    /// Waiting fails.
    #[error("wait for events: {:#}", Reason::from(*.0))]
    Poll(Errno),
    /// A timer or a limit cannot be set.
    #[error("prepare: {:#}", Reason::from(*.0))]
    Prepare(Errno),
}

#[derive(Debug)]
struct Source {
    fd: OwnedFd,
    paused_until: Option<Instant>,
}

pub(super) struct Daemon<'a> {
    pub world: World,
    pub rules: Rules,
    pub clients: Clients,
    pub queue: Queue,
    pub helpers: Helpers,
    pub leases: Leases<Key>,
    /// Where the targets are that have a lease.
    pub lent: BTreeMap<Key, (Rc<Place>, Rc<Who>, Lent)>,
    pub journal: Journal,
    pub inspector: Inspector,
    pub last_job: u64,
    log: Log<'a>,
    sources: Vec<Source>,
    /// Whether the end of the last client is the daemon's.
    is_single: bool,
}

#[derive(Debug, Clone, Copy)]
enum Token {
    Signal,
    Source(usize),
    Client(SessionId),
    Helper(usize),
    /// The helper that has no errand yet.
    Ready,
}

/// Serves until a signal ends it, or the only connection there is has ended.
///
/// # Errors
/// The kernel does not let it look or wait.
pub fn serve(setup: Setup<'_>) -> Result<(), DaemonError> {
    let Setup { listeners, connection, rules, signals, mut on_signal, log } = setup;
    rustix::thread::set_no_new_privs(true).map_err(DaemonError::Prepare)?;
    let world = World::new().map_err(DaemonError::Proc)?;
    let proc = rustix::io::dup(&world.proc).map_err(DaemonError::Proc)?;
    let helpers_proc = rustix::io::dup(&world.proc).map_err(DaemonError::Proc)?;
    // For command lines only.
    let inspector = Inspector::new(proc, (0, 0), Pid::INIT).map_err(DaemonError::Proc)?;
    let source = |fd| Source { fd, paused_until: None };
    let start = Entry { event: "start", ..Entry::default() };
    let mut daemon = Daemon {
        world,
        rules,
        clients: Clients::new(room_for_clients()?),
        queue: Queue::new(),
        helpers: Helpers::new(helpers_proc),
        leases: Leases::default(),
        lent: BTreeMap::new(),
        journal: Journal::new(None, "", &start),
        inspector,
        last_job: 0,
        log,
        sources: listeners.into_iter().map(source).collect(),
        is_single: connection.is_some(),
    };
    let patience = Patience::new().map_err(DaemonError::Prepare)?;
    if let Some(connection) = connection {
        daemon.admit(connection, &patience);
    }
    loop {
        let tokens = daemon.wait(&signals)?;
        if tokens.iter().any(|token| matches!(token, Token::Signal)) {
            match on_signal(signals.as_fd()) {
                Signalled::Nothing => {}
                Signalled::Reload(rules) => daemon.reload(rules),
                Signalled::End => return Ok(()),
            }
        }
        daemon.work(&tokens, &patience);
        if daemon.is_single && daemon.clients.iter().next().is_none() && daemon.queue.is_empty() {
            return Ok(());
        }
    }
}

/// Raises the limit on descriptors as far as it goes.
fn room_for_clients() -> Result<usize, DaemonError> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(DaemonError::Prepare)?;
    // For each a connection and a process, a request's two namespaces, a lease's two, its
    // mount, and who ends it.
    let room = maximum.unwrap_or(u64::MAX).saturating_sub(RESERVED) / 8;
    let room = room.clamp(4, MOST_CLIENTS);
    Ok(usize::try_from(room).unwrap_or(4))
}

impl Daemon<'_> {
    fn work(&mut self, tokens: &[Token], patience: &Patience) {
        let mut outcomes: Vec<Outcome> = Vec::new();
        // Who connects has mostly asked, too, by the time that this is seen.
        let mut newcomers: Vec<Token> = Vec::new();
        for token in tokens {
            if let Token::Source(index) = *token {
                self.take_connections(index, patience, &mut newcomers);
            }
        }
        let tokens = || tokens.iter().chain(&newcomers);
        {
            // Whatever closes what a peer has sent can be made to wait by the peer.
            let hears_peers = tokens().any(|token| matches!(token, Token::Client(_)));
            let closes = hears_peers || self.clients.any_over();
            let _limited = closes.then(|| patience.limit());
            for token in tokens() {
                match *token {
                    Token::Signal | Token::Source(_) => {}
                    Token::Helper(index) => outcomes.extend(self.helpers.hear(index)),
                    Token::Ready => self.helpers.bury_ready(),
                    Token::Client(id) => {
                        let gone = self.clients.get_mut(id).is_some_and(|it| !it.session.ready());
                        if gone {
                            self.forget(id);
                        }
                    }
                }
            }
            self.clients.reap();
        }
        let now = Instant::now();
        outcomes.extend(self.helpers.tidy(now));
        for outcome in outcomes {
            self.finish(outcome);
        }
        self.end_leases(now);
        self.hear();
        // Those that came just now are due, too.
        self.dispatch(Instant::now());
        if self.clients.any_over() {
            let _limited = patience.limit();
            self.clients.reap();
        }
    }

    fn wait(&mut self, signals: &OwnedFd) -> Result<Vec<Token>, DaemonError> {
        let now = Instant::now();
        let pause = self.pause(now);
        let mut awaited = Awaited::default();
        awaited.add(Token::Signal, signals.as_fd(), PollFlags::IN);
        for (index, source) in self.sources.iter_mut().enumerate() {
            source.paused_until = source.paused_until.filter(|then| *then > now);
            if source.paused_until.is_none() {
                awaited.add(Token::Source(index), source.fd.as_fd(), PollFlags::IN);
            }
        }
        for (index, helper) in self.helpers.running.iter().enumerate() {
            let fd = helper.socket.as_ref().unwrap_or(&helper.pidfd);
            awaited.add(Token::Helper(index), fd.as_fd(), PollFlags::IN);
        }
        if let Some(fd) = self.helpers.ready() {
            awaited.add(Token::Ready, fd, PollFlags::IN);
        }
        for (id, client) in self.clients.iter() {
            if let Some((fd, flags)) = client.session.interest() {
                awaited.add(Token::Client(id), fd, flags);
            }
        }
        let may_look = pause.is_none_or(|pause| pause > LOOK);
        match self.helpers.soon(now).filter(|_| may_look) {
            Some(then) => awaited.look_until(then, pause),
            None => awaited.wait(pause),
        }
        .map_err(DaemonError::Poll)
    }

    /// How long the loop may sleep if nothing happens; `None` for ever.
    fn pause(&self, now: Instant) -> Option<Duration> {
        if self.clients.iter().any(|(_, client)| client.session.has_line())
            || self.leases.is_unheld(|id| self.clients.has(id))
        {
            return Some(Duration::ZERO);
        }
        let paused = self.sources.iter().filter_map(|source| source.paused_until);
        let due =
            paused.chain(self.helpers.next()).chain(self.leases.next()).chain(self.next_job());
        due.min().map(|at| at.saturating_duration_since(now))
    }

    fn take_connections(&mut self, index: usize, patience: &Patience, newcomers: &mut Vec<Token>) {
        for _ in 0..BATCH {
            let Some(source) = self.sources.get_mut(index) else { return };
            match accept(source.fd.as_fd()) {
                Ok(Some(stream)) => {
                    newcomers.extend(self.admit(stream, patience).map(Token::Client));
                }
                Ok(None) => return,
                Err(_) => {
                    source.paused_until = Some(Instant::now() + BACK_OFF);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: OwnedFd, patience: &Patience) -> Option<SessionId> {
        let Ok(peer) = peer(stream.as_fd()) else {
            // Nobody whom the kernel cannot name is served.
            let _limited = patience.limit();
            drop(stream);
            return None;
        };
        let groups = peer_groups(stream.as_fd()).unwrap_or_default();
        let who = Rc::new(Who { peer, groups });
        // A look that is interrupted would be taken for an answer: no limit here.
        let home = self.world.receive(stream.as_fd(), &who).map(Rc::new);
        let is_host = home.as_ref().is_ok_and(|home| self.world.is_host(home.id));
        let origin = if is_host { Origin::Outside } else { Origin::Inside };
        let session = Session::new(stream, Caller { origin, peer: Some(peer) });
        let _limited = self.clients.is_full().then(|| patience.limit());
        let (id, evicted) = self.clients.admit(session, who, home, is_host);
        if let Some(evicted) = evicted {
            self.forget(evicted);
        }
        Some(id)
    }

    fn reload(&mut self, rules: Rules) {
        self.rules = rules;
        self.record(&Entry { event: "reload", ..Entry::default() });
    }

    /// Writes an event down and tells it to those who follow.
    pub(super) fn record(&mut self, entry: &Entry<'_>) {
        let line = self.journal.record(entry);
        (self.log)(&line);
        self.clients.tell_followers(&line);
    }
}
