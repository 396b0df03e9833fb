//! The broker's event loop: one thread, and never a call that waits for a peer.
//!
//! The process that runs it is confined before. Filters have to let these system calls
//! through (seen with `strace -f`; `#` marks what only the C library or the runtime
//! behind them can add):
//!
//! ```text
//! ppoll recvfrom recvmsg sendto accept4 close getsockopt fcntl
//! mount_setattr statx fstatfs sched_yield exit_group
//! brk mmap munmap mremap madvise clock_gettime getrandom futex write     # malloc, clock, panic
//! rt_sigaction rt_sigprocmask rt_sigreturn gettid timer_create timer_settime timer_delete
//! sigaltstack restart_syscall   #
//! ```
//!
//! Where things will go: an event log hooks `Server::answer`, through which every outcome
//! passes once and where the session's `Caller` is at hand; a lease is a `Pending` that the
//! loop makes by itself, with a time in `Server::pause`; a request that waits longer is one
//! with a later deadline.

use crate::apply::{RETRY_EVERY, RETRY_FOR};
use crate::channel::{self, Arrival};
use crate::heal::Healer;
use crate::proto::{self, Dialect, ErrorCode, Fault, Origin, Refusal, Reply, Request};
use crate::reason::Reason;
use crate::sandbox::{BadTargets, Caller, Registry};
use crate::sys::patience::Patience;
use crate::sys::socket::peer;
use crate::target::Target;
use queue::{Finished, Pending, Queue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use session::Session;
use sessions::{SessionId, Sessions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

mod queue;
mod session;
mod sessions;
#[cfg(test)]
mod tests;

/// What a broker works with.
#[derive(Debug)]
pub struct Setup {
    /// A socket to the launcher: when the launcher is gone, so is the broker.
    pub life: OwnedFd,
    /// What is readable when the sandbox's PID 1 ends: a socket to it, or a pidfd.
    pub init: OwnedFd,
    /// The broker's end of the inherited channel ([`channel::pair`]).
    pub shared: Option<OwnedFd>,
    /// Listening sockets ([`channel::listen`]), and the side that can reach each: this
    /// alone decides what a client is allowed.
    pub listeners: Vec<(OwnedFd, Origin)>,
    /// What can be switched.
    pub targets: Vec<Target>,
    /// What puts mounts back that the host takes away.
    pub healer: Option<Healer>,
}

/// Why the broker is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The sandbox's PID 1 has exited.
    InitExited,
    /// The launcher has.
    LauncherGone,
}

/// The broker cannot work. Nothing that a client does leads here.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The targets are unusable.
    #[error(transparent)]
    Targets(#[from] BadTargets),
    /// A listener cannot be used.
    #[error("make the listener non-blocking: {:#}", Reason::from(*.0))]
    Listener(Errno),
    /// Waiting fails.
    #[error("wait for events: {:#}", Reason::from(*.0))]
    Poll(Errno),
    /// The timer that ends what waits too long cannot be made.
    #[error("make a timer: {:#}", Reason::from(*.0))]
    Timer(Errno),
}

/// Serves the sandbox until its init or the launcher is gone.
///
/// # Errors
/// The setup is unusable, or the kernel does not let it wait.
pub fn serve(setup: Setup) -> Result<Ending, ServerError> {
    let Setup { life, init, shared, listeners, targets, healer } = setup;
    let mut server = Server::new(life, init, shared, listeners, Registry::new(targets)?)?;
    server.healer = healer;
    server.run()
}

/// How long a source of connections that failed (no descriptors left, no memory) is not
/// looked at: it would fail again at once.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Connections taken from one source in one turn; then those already here are served.
const BATCH: usize = 16;

/// Something that new connections come from.
#[derive(Debug)]
struct Source {
    fd: OwnedFd,
    kind: Kind,
    state: Flow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    /// It failed; it is looked at again then.
    PausedUntil(Instant),
    /// Nothing will come from it any more.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Shared,
    Listener(Origin),
}

#[derive(Debug)]
struct Server {
    life: OwnedFd,
    init: OwnedFd,
    sources: Vec<Source>,
    sessions: Sessions,
    queue: Queue,
    registry: Registry,
    healer: Option<Healer>,
}

/// What an event is about.
#[derive(Debug, Clone, Copy)]
enum Token {
    Life,
    Init,
    Source(usize),
    Session(SessionId),
    /// The mount table has changed.
    Mounts,
    /// Names that are watched have.
    Names,
}

impl Server {
    fn new(
        life: OwnedFd,
        init: OwnedFd,
        shared: Option<OwnedFd>,
        listeners: Vec<(OwnedFd, Origin)>,
        registry: Registry,
    ) -> Result<Self, ServerError> {
        let source = |kind| move |fd| Source { fd, kind, state: Flow::Open };
        let mut sources: Vec<_> = shared.into_iter().map(source(Kind::Shared)).collect();
        for (fd, origin) in listeners {
            // A connection can be gone again by the time it is accepted.
            let flags = rustix::fs::fcntl_getfl(&fd).map_err(ServerError::Listener)?;
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)
                .map_err(ServerError::Listener)?;
            sources.push(source(Kind::Listener(origin))(fd));
        }
        let (sessions, queue) = (Sessions::default(), Queue::default());
        Ok(Self { life, init, sources, sessions, queue, registry, healer: None })
    }

    fn run(mut self) -> Result<Ending, ServerError> {
        let patience = Patience::new().map_err(ServerError::Timer)?;
        let ending = self.work(&patience);
        let _limited = patience.limit();
        drop(self);
        ending
    }

    fn work(&mut self, patience: &Patience) -> Result<Ending, ServerError> {
        loop {
            let tokens = self.wait()?;
            self.heal(&tokens);
            // Whatever closes what a peer has sent can be made to wait by the peer.
            let limited = patience.limit();
            for token in tokens {
                match token {
                    Token::Init => return Ok(Ending::InitExited),
                    Token::Life if self.launcher_is_gone() => return Ok(Ending::LauncherGone),
                    Token::Life | Token::Mounts | Token::Names => {}
                    Token::Source(index) => self.take_connections(index),
                    Token::Session(id) => {
                        if let Some(session) = self.sessions.get_mut(id) {
                            session.ready();
                        }
                    }
                }
            }
            self.sources.retain(|source| source.state != Flow::Closed);
            drop(limited);
            self.hear();
            for finished in self.queue.advance(&self.registry, Instant::now()) {
                self.finish(finished);
            }
            let _limited = patience.limit();
            self.sessions.reap();
        }
    }

    /// Puts mounts back, if anything speaks for looking.
    fn heal(&mut self, tokens: &[Token]) {
        let Some(healer) = &mut self.healer else { return };
        let now = Instant::now();
        let has = |wanted: fn(&Token) -> bool| tokens.iter().any(wanted);
        let heard = has(|token| matches!(token, Token::Names)) && healer.heard();
        let asked = has(|token| matches!(token, Token::Mounts | Token::Session(_)));
        if heard || asked || healer.due() <= now {
            healer.look(&mut self.registry, now);
        }
    }

    fn launcher_is_gone(&self) -> bool {
        let mut chunk = [0_u8; 64];
        match rustix::net::recv(&self.life, &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((_, received)) => received == 0,
            Err(errno) => !matches!(errno, Errno::AGAIN | Errno::INTR),
        }
    }

    /// Waits until something happens or is due.
    fn wait(&mut self) -> Result<Vec<Token>, ServerError> {
        let now = Instant::now();
        let pause = self.pause(now);
        let mut tokens = vec![Token::Life, Token::Init];
        let watch = |fd, flags| PollFd::from_borrowed_fd(fd, flags);
        let mut fds = vec![
            watch(self.life.as_fd(), PollFlags::IN | PollFlags::RDHUP),
            watch(self.init.as_fd(), PollFlags::IN),
        ];
        for (index, source) in self.sources.iter_mut().enumerate() {
            if matches!(source.state, Flow::PausedUntil(then) if then <= now) {
                source.state = Flow::Open;
            }
            if source.state == Flow::Open {
                tokens.push(Token::Source(index));
                fds.push(watch(source.fd.as_fd(), PollFlags::IN));
            }
        }
        if let Some(healer) = &self.healer {
            let (table, names) = healer.sources();
            tokens.push(Token::Mounts);
            fds.push(watch(table, PollFlags::PRI));
            if let Some(names) = names {
                tokens.push(Token::Names);
                fds.push(watch(names, PollFlags::IN));
            }
        }
        for (id, session) in self.sessions.iter() {
            if let Some((fd, flags)) = session.interest() {
                tokens.push(Token::Session(id));
                fds.push(watch(fd, flags));
            }
        }
        let timeout = pause.map(|pause| Timespec {
            tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: pause.subsec_nanos().into(),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(ServerError::Poll(errno)),
        }
        let happened =
            |(token, fd): (Token, PollFd<'_>)| (!fd.revents().is_empty()).then_some(token);
        Ok(tokens.into_iter().zip(fds).filter_map(happened).collect())
    }

    /// How long the loop may sleep if nothing happens; `None` for ever.
    fn pause(&self, now: Instant) -> Option<Duration> {
        if self.sessions.iter().any(|(_, session)| session.has_line()) {
            return Some(Duration::ZERO);
        }
        let retry = (!self.queue.is_empty()).then_some(RETRY_EVERY);
        let resume = self.sources.iter().filter_map(|source| match source.state {
            Flow::PausedUntil(then) => Some(then.saturating_duration_since(now)),
            Flow::Open | Flow::Closed => None,
        });
        let look = self.healer.as_ref().map(|it| it.due().saturating_duration_since(now));
        resume.chain(retry).chain(look).min()
    }

    fn take_connections(&mut self, index: usize) {
        for _ in 0..BATCH {
            let Some(source) = self.sources.get_mut(index) else { return };
            let (stream, origin) = match next_connection(source.fd.as_fd(), source.kind) {
                Ok(Arrival::Connection(stream)) => (stream, source.kind.origin()),
                Ok(Arrival::Nonsense) => continue,
                Ok(Arrival::Empty) => return,
                Ok(Arrival::Closed) => {
                    source.state = Flow::Closed;
                    return;
                }
                Err(_) => {
                    source.state = Flow::PausedUntil(Instant::now() + BACK_OFF);
                    return;
                }
            };
            let caller = Caller { origin, peer: peer(stream.as_fd()).ok() };
            if let Some(evicted) = self.sessions.admit(Session::new(stream, caller)) {
                self.queue.cancel(evicted, Instant::now());
            }
        }
    }

    /// Takes one request of each client that has made one: many in a row from one client
    /// do not hold up the others.
    fn hear(&mut self) {
        for id in self.sessions.with_line() {
            self.sessions.touch(id);
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let Some(line) = session.next_line() else { continue };
            let origin = session.caller.origin;
            let (dialect, request) = proto::parse(&line);
            let reply = match request {
                Ok(Request::List) => Reply::List(self.registry.report(self.registry.all())),
                Ok(Request::Status) => {
                    Reply::Status(origin, self.registry.report(self.registry.all()))
                }
                Ok(Request::Quit) => Reply::Bye,
                Ok(Request::Set(set)) => match self.registry.select(&set) {
                    Ok(targets) => {
                        session.busy = true;
                        let deadline = Instant::now() + RETRY_FOR;
                        self.queue.push(Pending::new(id, dialect, origin, set, targets, deadline));
                        continue;
                    }
                    Err(fault) => Reply::Refused(Refusal::from(&fault)),
                },
                Err(malformed) => Reply::Refused(Refusal::from(&Fault::from(malformed))),
            };
            self.answer(id, dialect, &reply);
        }
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { pending, outcome } = finished;
        let reply = match outcome {
            Ok(report) => Reply::Done(report),
            Err(fault) => Reply::Refused(Refusal::from(&fault)),
        };
        // It may have been evicted meanwhile.
        if let Some(session) = self.sessions.get_mut(pending.session) {
            session.busy = false;
        }
        self.answer(pending.session, pending.dialect, &reply);
    }

    /// Tells a client what became of its request. One that does not speak the protocol is
    /// sent away: what follows in its stream would be no better.
    fn answer(&mut self, id: SessionId, dialect: Dialect, reply: &Reply) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.reply(&reply.to_bytes(dialect));
        let is_last = match reply {
            Reply::Bye => true,
            Reply::Refused(refusal) => refusal.error == ErrorCode::BadRequest,
            Reply::Done(_) | Reply::List(_) | Reply::Status(..) => false,
        };
        if is_last {
            session.close();
        }
    }
}

impl Kind {
    fn origin(self) -> Origin {
        match self {
            // Only processes of the sandbox inherit it.
            Self::Shared => Origin::Inside,
            Self::Listener(origin) => origin,
        }
    }
}

fn next_connection(fd: BorrowedFd<'_>, kind: Kind) -> Result<Arrival, Errno> {
    match kind {
        Kind::Shared => channel::receive(fd),
        Kind::Listener(_) => {
            channel::accept(fd).map(|stream| stream.map_or(Arrival::Empty, Arrival::Connection))
        }
    }
}
