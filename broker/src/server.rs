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
use crate::heal::Healer;
use crate::name::TargetName;
use crate::proto::Origin;
use crate::sandbox::Registry;
use crate::sys::patience::Patience;
use approvals::Approvals;
use awaited::Awaited;
use journal::Journal;
use leases::Leases;
use queue::{Pending, Queue};
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use sessions::{SessionId, Sessions};
use sources::{Flow, Kind, Source};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

mod approvals;
pub(crate) mod awaited;
mod busy;
pub(crate) mod journal;
pub(crate) mod leases;
mod places;
mod queue;
mod requests;
pub(crate) mod session;
pub(crate) mod sessions;
mod setup;
mod sources;
#[cfg(test)]
mod tests;

pub use approvals::PATIENCE;
pub use journal::Log;
pub use setup::{Context, Ending, Explain, ServerError, Setup};

/// Serves the sandbox until its init or the launcher is gone.
///
/// # Errors
/// The setup is unusable, or the kernel does not let it wait.
pub fn serve(setup: Setup<'_>) -> Result<Ending, ServerError> {
    let Setup { life, init, shared, listeners, targets, context } = setup;
    let registry = Registry::new(targets, context.holds.clone())?;
    Server::new(life, init, shared, listeners, registry, context)?.run()
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
    /// When a client was answered last.
    answered: Option<Instant>,
    /// Until when the next request is looked for without sleeping.
    look: Option<Instant>,
}

/// How long the next request is looked for. Only when the one before came within [`SOON`] of an
/// answer: a single one costs no more than it did, and whoever waits for the processor gets it.
const LOOK: Duration = Duration::from_micros(50);
const SOON: Duration = Duration::from_micros(100);

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
        let shared = shared.into_iter().map(|fd| Source::new(fd, Kind::Shared));
        let mut sources: Vec<_> = shared.collect();
        for (fd, origin) in listeners {
            // A connection can be gone again by the time it is accepted.
            let flags = rustix::fs::fcntl_getfl(&fd).map_err(ServerError::Listener)?;
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)
                .map_err(ServerError::Listener)?;
            sources.push(Source::new(fd, Kind::Listener(origin)));
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
            answered: None,
            look: None,
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
            self.heal_before_requests();
            let now = Instant::now();
            let before = self.answered;
            self.end_leases(now);
            self.hear();
            self.expire_approvals(now);
            self.resume(now);
            self.advance(now);
            // Whether a client asks again as soon as it is answered.
            let is_lively = self.answered != before
                && before.is_some_and(|at| now.saturating_duration_since(at) <= SOON);
            self.look = self.answered.filter(|_| is_lively).map(|at| at + LOOK);
            if self.sessions.any_over() {
                let _limited = patience.limit();
                self.sessions.reap();
            }
        }
    }

    /// Carries out what can be carried out now, and answers it.
    fn advance(&mut self, now: Instant) {
        if self.queue.is_empty() {
            return;
        }
        // Who stands still already is not to be resumed by somebody else.
        let is_halted = self.context.healer.as_ref().is_some_and(Healer::is_halted);
        let inspector = self.context.inspector.as_ref().filter(|_| !is_halted);
        let finished = self.queue.advance(&self.registry, inspector, now);
        if let Some(healer) = &mut self.context.healer {
            healer.made_changes(now);
        }
        for finished in finished {
            self.finish(finished);
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
        let mut awaited = Awaited::default();
        awaited.add(Token::Life, self.life.as_fd(), PollFlags::IN | PollFlags::RDHUP);
        awaited.add(Token::Init, self.init.as_fd(), PollFlags::IN);
        for (index, source) in self.sources.iter_mut().enumerate() {
            if matches!(source.state, Flow::PausedUntil(then) if then <= now) {
                source.state = Flow::Open;
            }
            if source.state == Flow::Open {
                awaited.add(Token::Source(index), source.fd.as_fd(), PollFlags::IN);
            }
        }
        if let Some(healer) = &self.context.healer {
            let (table, names) = healer.sources();
            awaited.add(Token::Mounts, table, PollFlags::PRI);
            if let Some(names) = names {
                awaited.add(Token::Names, names, PollFlags::IN);
            }
        }
        for (id, session) in self.sessions.iter() {
            if let Some((fd, flags)) = session.interest() {
                awaited.add(Token::Session(id), fd, flags);
            }
        }
        match self.look.take().filter(|_| pause.is_none_or(|pause| pause > LOOK)) {
            Some(then) => awaited.look_until(then, pause),
            None => awaited.wait(pause),
        }
        .map_err(ServerError::Poll)
    }

    /// How long the loop may sleep if nothing happens; `None` for ever.
    fn pause(&self, now: Instant) -> Option<Duration> {
        if self.sessions.any_line() {
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
}
