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
//! Looking for holders, and the event log, add
//!
//! ```text
//! openat getdents64 newfstatat readlinkat read lseek ioctl(NS_GET_PARENT) pidfd_send_signal
//! geteuid
//! ```

use crate::apply::RETRY_EVERY;
use crate::channel::{self, Arrival};
use crate::escape::Escaped;
use crate::heal::Healer;
use crate::held::Watch;
use crate::holders::Inspector;
use crate::name::TargetName;
use crate::proto::{OnBusy, Origin, SandboxInfo, Verdict};
use crate::reason::Reason;
use crate::sandbox::{BadTargets, Caller, Registry};
use crate::sys::patience::Patience;
use crate::sys::socket::{peer, peer_pidfd};
use crate::target::Target;
use approvals::Approvals;
pub use approvals::PATIENCE;
use journal::Journal;
pub use journal::Log;
use leases::Leases;
use queue::{Pending, Queue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::Pid;
use session::Session;
use sessions::{SessionId, Sessions};
use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod approvals;
mod busy;
pub(crate) mod journal;
pub(crate) mod leases;
mod queue;
mod requests;
pub(crate) mod session;
pub(crate) mod sessions;
#[cfg(test)]
mod tests;

/// What a broker works with.
#[derive(Debug)]
pub struct Setup<'a> {
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
    /// What else it knows.
    pub context: Context<'a>,
}

/// What a broker knows of the world around. Without any of it, it switches modes all the
/// same.
#[derive(Debug)]
pub struct Context<'a> {
    /// For holders, and for who is outside. Without it, the channel alone decides that.
    pub inspector: Option<Inspector>,
    /// What is told of the sandbox.
    pub sandbox: Option<SandboxInfo>,
    /// Where events are written.
    pub log: Option<Log>,
    /// What a request does that finds its target busy and does not say.
    pub on_busy: OnBusy,
    /// How long a request waits for a person.
    pub approval_timeout: Duration,
    /// What answers `why`.
    pub explain: Option<Explain<'a>>,
    /// What puts mounts back that the host takes away.
    pub healer: Option<Healer>,
    /// Where it is written what a person holds read-only.
    pub holds: Option<Arc<Watch>>,
}

impl Default for Context<'_> {
    fn default() -> Self {
        Self {
            inspector: None,
            sandbox: None,
            log: None,
            on_busy: OnBusy::Fail,
            approval_timeout: PATIENCE,
            explain: None,
            healer: None,
            holds: None,
        }
    }
}

/// Says what decides about a path; computed only when somebody asks.
pub struct Explain<'a>(Box<About<'a>>);

type About<'a> = dyn Fn(&Path) -> Option<Verdict> + Send + 'a;

impl<'a> Explain<'a> {
    /// Asks `about`.
    pub fn new(about: impl Fn(&Path) -> Option<Verdict> + Send + 'a) -> Self {
        Self(Box::new(about))
    }

    fn about(&self, path: &Path) -> Option<Verdict> {
        (self.0)(path)
    }
}

impl fmt::Debug for Explain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Explain")
    }
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
pub fn serve(setup: Setup<'_>) -> Result<Ending, ServerError> {
    let Setup { life, init, shared, listeners, targets, context } = setup;
    let registry = Registry::new(targets, context.holds.clone())?;
    Server::new(life, init, shared, listeners, registry, context)?.run()
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
struct Server<'a> {
    life: OwnedFd,
    init: OwnedFd,
    sources: Vec<Source>,
    sessions: Sessions,
    queue: Queue,
    registry: Registry,
    context: Context<'a>,
    journal: Journal,
    leases: Leases,
    approvals: Approvals,
    /// Requests that try again at their time.
    parked: Vec<(Instant, Pending)>,
    /// Targets that were found stale and said to be.
    known_stale: BTreeSet<TargetName>,
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

impl<'a> Server<'a> {
    fn new(
        life: OwnedFd,
        init: OwnedFd,
        shared: Option<OwnedFd>,
        listeners: Vec<(OwnedFd, Origin)>,
        registry: Registry,
        mut context: Context<'a>,
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
        let id = context.sandbox.as_ref().map_or("", |sandbox| &sandbox.id);
        let start = journal::Entry { event: "start", ..Default::default() };
        let journal = Journal::new(context.log.take(), id, &start);
        Ok(Self {
            life,
            init,
            sources,
            sessions: Sessions::default(),
            queue: Queue::default(),
            registry,
            context,
            journal,
            leases: Leases::default(),
            approvals: Approvals::default(),
            parked: Vec::new(),
            known_stale: BTreeSet::new(),
        })
    }

    fn run(mut self) -> Result<Ending, ServerError> {
        let patience = Patience::new().map_err(ServerError::Timer)?;
        let ending = self.work(&patience);
        if self.journal.has_begun() {
            self.record(&journal::Entry { event: "exit", ..Default::default() });
        }
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
                        let gone = self.sessions.get_mut(id).is_some_and(|it| !it.ready());
                        if gone {
                            self.forget(id, Instant::now());
                        }
                    }
                }
            }
            self.sources.retain(|source| source.state != Flow::Closed);
            // Before anything is heard: whoever asks after a client has gone is told what
            // became of its lease.
            self.sessions.reap();
            drop(limited);
            let now = Instant::now();
            self.end_leases(now);
            self.hear();
            self.expire_approvals(now);
            self.resume(now);
            for finished in self.queue.advance(&self.registry, self.context.inspector.as_ref(), now)
            {
                self.finish(finished);
            }
            let _limited = patience.limit();
            self.sessions.reap();
        }
    }

    /// Puts mounts back, if anything speaks for looking.
    fn heal(&mut self, tokens: &[Token]) {
        let Some(healer) = &mut self.context.healer else { return };
        let now = Instant::now();
        let has = |wanted: fn(&Token) -> bool| tokens.iter().any(wanted);
        let heard = has(|token| matches!(token, Token::Names)) && healer.heard();
        let asked = has(|token| matches!(token, Token::Mounts | Token::Session(_)));
        if heard || asked || healer.due() <= now {
            for event in healer.look(&mut self.registry, now) {
                let path = Escaped::path(&event.path).to_string();
                let name = event.what.name();
                let message = Some(path.as_str());
                self.record(&journal::Entry { event: name, message, ..Default::default() });
            }
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
        if let Some(healer) = &self.context.healer {
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
        let parked = self.parked.iter().map(|(at, _)| *at);
        let due = parked.chain(self.leases.next()).chain(self.approvals.next()).min();
        let due = due.map(|at| at.saturating_duration_since(now));
        // A lease that a client held may have ended with it just now.
        let ended = self.leases.is_unheld(|id| self.sessions.has(id)).then_some(Duration::ZERO);
        let look = self.context.healer.as_ref().map(|it| it.due().saturating_duration_since(now));
        resume.chain(retry).chain(due).chain(ended).chain(look).min()
    }

    fn take_connections(&mut self, index: usize) {
        for _ in 0..BATCH {
            let Some(source) = self.sources.get_mut(index) else { return };
            let kind = source.kind;
            let stream = match next_connection(source.fd.as_fd(), kind) {
                Ok(Arrival::Connection(stream)) => stream,
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
            let Some(caller) = self.identify(stream.as_fd(), kind) else { continue };
            if let Some(evicted) = self.sessions.admit(Session::new(stream, caller)) {
                self.forget(evicted, Instant::now());
            }
        }
    }

    /// Who is at the other end, and on which side. Nobody who came through a socket
    /// outside is taken for outside because of that alone: the process has to be this
    /// user's, and in the broker's own PID namespace. `None` for somebody else's.
    fn identify(&self, stream: BorrowedFd<'_>, kind: Kind) -> Option<Caller> {
        let peer = peer(stream).ok();
        let Kind::Listener(Origin::Outside) = kind else {
            return Some(Caller { origin: Origin::Inside, peer });
        };
        if peer.is_none_or(|peer| peer.uid != rustix::process::geteuid().as_raw()) {
            return None;
        }
        let outside = match (&self.context.inspector, peer.and_then(|peer| peer.pid)) {
            (Some(inspector), Some(pid)) => is_outside(inspector, stream, pid),
            (Some(_), None) => false,
            (None, _) => true,
        };
        Some(Caller { origin: if outside { Origin::Outside } else { Origin::Inside }, peer })
    }
}

/// Whether the peer is, for certain, a process outside. The number could by now be another
/// process's; a pidfd that has not ended after the look shows that it is not.
fn is_outside(inspector: &Inspector, stream: BorrowedFd<'_>, pid: Pid) -> bool {
    let pidfd = match peer_pidfd(stream) {
        Ok(pidfd) => Some(pidfd),
        // Linux before 6.5.
        Err(Errno::NOPROTOOPT) => None,
        Err(_) => return false,
    };
    inspector.is_outside(pid) && pidfd.is_none_or(|pidfd| !is_readable(pidfd.as_fd()))
}

/// Of a pidfd: whether its process has ended.
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut fds, Some(&now)), Ok(0))
}

fn next_connection(fd: BorrowedFd<'_>, kind: Kind) -> Result<Arrival, Errno> {
    match kind {
        Kind::Shared => channel::receive(fd),
        Kind::Listener(_) => {
            channel::accept(fd).map(|stream| stream.map_or(Arrival::Empty, Arrival::Connection))
        }
    }
}
