//! Connections: many, none of which another has to wait for.
//!
//! One thread and one `poll(2)`. A connection carries one request: its answer is passed on
//! as it comes, at the speed of whoever reads it, until the program outside has closed; then
//! this side is closed too. Nothing is read from a client once its request has been.

use super::request::{LONGEST_HEAD, Refusal, Request};
use crate::plan::SocketPlan;
use remount_broker::escape::Escaped;
use remount_broker::reason::Reason;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    connect, send, shutdown, socket_with,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// As much is read at once, and waits for a client at the most.
const CHUNK: usize = 64 << 10;

/// After an accept that failed for want of something.
const PAUSE: Duration = Duration::from_millis(100);

/// How much a client may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// How long a request may take to come, and its refusal to be read.
    pub patience: Duration,
    /// How many bytes are read and thrown away after a refusal: a client that still writes
    /// its request would not read the answer if the connection were closed.
    pub discard: usize,
}

impl Limits {
    pub(super) const ORDINARY: Self =
        Self { connections: 64, patience: Duration::from_secs(10), discard: 16 << 20 };
}

/// A socket, and the program that is asked.
#[derive(Debug)]
pub(super) struct Service {
    listener: OwnedFd,
    upstream: PathBuf,
}

impl Service {
    pub(super) fn new(listener: OwnedFd, socket: &SocketPlan) -> Self {
        Self { listener, upstream: socket.upstream.clone() }
    }

    /// A connection to the program: to whoever listens at its path now.
    fn connect(&self) -> Result<OwnedFd, Refusal> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connect = || -> Result<OwnedFd, Errno> {
            let address = SocketAddrUnix::new(&self.upstream)?;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            connect(&socket, &address)?;
            Ok(socket)
        };
        connect().map_err(|errno| {
            let (path, reason) = (Escaped::path(&self.upstream), Reason::from(errno));
            let message = format!("remount: connect to {path} outside: {reason}");
            Refusal::new("502 Bad Gateway", message)
        })
    }
}

/// Bytes on their way out.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    sent: usize,
}

impl Pending {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, sent: 0 }
    }

    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Sends as much as can be without waiting.
    fn send(&mut self, to: &OwnedFd) -> Result<(), Errno> {
        match send(to, &self.bytes[self.sent..], SendFlags::NOSIGNAL) {
            Ok(count) => self.sent += count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    /// Reads what is there, once all before is sent. Whether there was an end.
    fn fill(&mut self, from: &OwnedFd) -> Result<bool, Errno> {
        self.bytes.resize(CHUNK, 0);
        self.sent = 0;
        let result = read(from, &mut self.bytes);
        self.bytes.truncate(*result.as_ref().unwrap_or(&0));
        match result {
            Ok(count) => Ok(count == 0),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// How far a connection is.
#[derive(Debug)]
enum State {
    /// The request comes.
    Reading(Vec<u8>),
    /// The request goes to the program outside, and the answer comes from there.
    Passing { upstream: OwnedFd, request: Pending, answer: Pending, is_over: bool },
    /// A refusal goes back.
    Refusing(Pending),
    /// It has gone; so many bytes were thrown away since.
    Discarding(usize),
}

#[derive(Debug)]
struct Connection {
    client: OwnedFd,
    service: usize,
    state: State,
    /// When it is ended, unless an answer is being passed on.
    until: Instant,
}

/// What is to become of a connection.
enum Next {
    Stay,
    End,
}

impl Connection {
    /// What to wait for: of the client, and of the program outside.
    fn interest(&self) -> (PollFlags, Option<(BorrowedFd<'_>, PollFlags)>) {
        match &self.state {
            State::Reading(_) | State::Discarding(_) => (PollFlags::IN, None),
            State::Refusing(_) => (PollFlags::OUT, None),
            State::Passing { answer, .. } if !answer.is_empty() => (PollFlags::OUT, None),
            // Of the client only its end, which is always told.
            State::Passing { upstream, request, .. } => {
                let wanted = if request.is_empty() { PollFlags::IN } else { PollFlags::OUT };
                (PollFlags::empty(), Some((upstream.as_fd(), wanted)))
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        (!matches!(self.state, State::Passing { .. })).then_some(self.until)
    }

    /// Does what can be done, after something has happened.
    fn go_on(
        &mut self,
        services: &[Service],
        limits: Limits,
        now: Instant,
        client: PollFlags,
    ) -> Next {
        let is_passing = matches!(self.state, State::Passing { .. });
        if is_passing && client.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Next::End;
        }
        match self.try_go_on(services, limits, now) {
            Ok(next) => next,
            // One of the two has gone; there is nobody to tell.
            Err(_) => Next::End,
        }
    }

    fn try_go_on(
        &mut self,
        services: &[Service],
        limits: Limits,
        now: Instant,
    ) -> Result<Next, Errno> {
        match &mut self.state {
            State::Reading(head) => {
                let before = head.len();
                let mut chunk = Pending::default();
                let is_over = chunk.fill(&self.client)?;
                head.extend_from_slice(&chunk.bytes);
                if is_over {
                    return Ok(Next::End);
                }
                if head.len() > before {
                    let read = Request::read(head);
                    self.judge(read, &services[self.service], limits, now);
                }
            }
            State::Passing { upstream, request, answer, is_over } => {
                if !request.is_empty() {
                    request.send(upstream)?;
                } else if answer.is_empty() {
                    *is_over = answer.fill(upstream)?;
                }
                if !answer.is_empty() {
                    answer.send(&self.client)?;
                }
                return Ok(if *is_over { Next::End } else { Next::Stay });
            }
            State::Refusing(refusal) => {
                refusal.send(&self.client)?;
                if refusal.is_empty() {
                    shutdown(&self.client, Shutdown::Write)?;
                    self.state = State::Discarding(0);
                    self.until = now + limits.patience;
                }
            }
            State::Discarding(count) => {
                let mut chunk = Pending::default();
                let is_over = chunk.fill(&self.client)?;
                *count += chunk.bytes.len();
                return Ok(if is_over || *count > limits.discard { Next::End } else { Next::Stay });
            }
        }
        Ok(Next::Stay)
    }

    fn judge(
        &mut self,
        read: Result<Option<Request>, Refusal>,
        service: &Service,
        limits: Limits,
        now: Instant,
    ) {
        let connected = match read {
            Ok(None) => return,
            Ok(Some(request)) => service.connect().map(|upstream| (upstream, request)),
            Err(refusal) => Err(refusal),
        };
        match connected {
            Ok((upstream, request)) => {
                let (request, answer) = (Pending::new(request.to_bytes()), Pending::default());
                self.state = State::Passing { upstream, request, answer, is_over: false };
            }
            Err(refusal) => self.refuse(&refusal, limits, now),
        }
    }

    fn refuse(&mut self, refusal: &Refusal, limits: Limits, now: Instant) {
        self.state = State::Refusing(Pending::new(refusal.to_bytes()));
        self.until = now + limits.patience;
    }

    /// Its time is up. A client whose request was slow is told so.
    fn expire(&mut self, limits: Limits, now: Instant) -> Next {
        if !matches!(self.state, State::Reading(_)) {
            return Next::End;
        }
        self.refuse(&Refusal::too_slow(), limits, now);
        Next::Stay
    }
}

/// All connections of all services.
#[derive(Debug)]
pub(super) struct Relay {
    services: Vec<Service>,
    limits: Limits,
    /// The oldest first.
    connections: Vec<Connection>,
    /// No connection is accepted before.
    pause: Option<Instant>,
}

impl Relay {
    pub(super) fn new(services: Vec<Service>, limits: Limits) -> Self {
        Self { services, limits, connections: Vec::new(), pause: None }
    }

    /// Serves until the other end of `end` is closed.
    ///
    /// # Errors
    /// As `poll(2)`.
    pub(super) fn run(mut self, end: BorrowedFd<'_>) -> Result<(), Errno> {
        loop {
            let ready = self.wait(end)?;
            if ready.is_over {
                return Ok(());
            }
            let now = Instant::now();
            self.serve(&ready.connections, now);
            self.pause = self.pause.filter(|until| *until > now);
            for service in ready.services {
                self.accept(service, now);
            }
        }
    }

    fn wait(&self, end: BorrowedFd<'_>) -> Result<Ready, Errno> {
        let mut polled = vec![PollFd::from_borrowed_fd(end, PollFlags::empty())];
        let listening = if self.pause.is_none() { self.services.as_slice() } else { &[] };
        let listeners = listening.iter().map(|service| service.listener.as_fd());
        polled.extend(listeners.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let first = polled.len();
        // For each connection, whether the program outside is waited for as well.
        let mut both = Vec::with_capacity(self.connections.len());
        for connection in &self.connections {
            let (client, upstream) = connection.interest();
            polled.push(PollFd::from_borrowed_fd(connection.client.as_fd(), client));
            both.push(upstream.is_some());
            polled.extend(upstream.map(|(fd, wanted)| PollFd::from_borrowed_fd(fd, wanted)));
        }
        let deadlines = self.connections.iter().filter_map(Connection::deadline);
        let timeout = deadlines.chain(self.pause).min().map(time_until);
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno),
        }
        let mut events = polled[first..].iter().map(PollFd::revents);
        let mut next = || events.next().unwrap_or(PollFlags::empty());
        let connections = both.into_iter().map(|both| {
            let client = next();
            (client, if both { next() } else { PollFlags::empty() })
        });
        let connections = connections.collect();
        let is_ready = |index: &usize| !polled[1 + index].revents().is_empty();
        let services = (0..listening.len()).filter(is_ready).collect();
        Ok(Ready { is_over: !polled[0].revents().is_empty(), services, connections })
    }

    /// Lets every connection go on for which something has happened.
    fn serve(&mut self, events: &[(PollFlags, PollFlags)], now: Instant) {
        let (services, limits) = (&self.services, self.limits);
        let mut events = events.iter();
        self.connections.retain_mut(|connection| {
            let Some((client, upstream)) = events.next() else { return true };
            let mut next = Next::Stay;
            if !(client.is_empty() && upstream.is_empty()) {
                next = connection.go_on(services, limits, now, *client);
            }
            if matches!(next, Next::Stay) && connection.deadline().is_some_and(|end| end <= now) {
                next = connection.expire(limits, now);
            }
            matches!(next, Next::Stay)
        });
    }

    /// Accepts one connection. If there are many, the oldest that has not asked yet goes.
    fn accept(&mut self, service: usize, now: Instant) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = match accept_with(&self.services[service].listener, flags) {
            Ok(client) => client,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(_) => {
                self.pause = Some(now + PAUSE);
                return;
            }
        };
        let state = State::Reading(Vec::with_capacity(LONGEST_HEAD / 8));
        let until = now + self.limits.patience;
        let mut connection = Connection { client, service, state, until };
        if self.connections.len() >= self.limits.connections {
            let is_idle = |it: &Connection| !matches!(it.state, State::Passing { .. });
            match self.connections.iter().position(is_idle) {
                Some(oldest) => drop(self.connections.remove(oldest)),
                None => {
                    let message = "remount: too many connections at a time";
                    let refusal = Refusal::new("503 Service Unavailable", message);
                    // What there is room for at once.
                    let mut answer = Pending::new(refusal.to_bytes());
                    answer.send(&connection.client).unwrap_or(());
                    return;
                }
            }
        }
        // What came with the connection need not be waited for.
        if let Next::Stay = connection.go_on(&self.services, self.limits, now, PollFlags::empty()) {
            self.connections.push(connection);
        }
    }
}

/// What has happened.
#[derive(Debug, Default)]
struct Ready {
    is_over: bool,
    /// By number, who has a connection to accept.
    services: Vec<usize>,
    /// For each connection, of the client and of the program outside; for none if nothing
    /// is known.
    connections: Vec<(PollFlags, PollFlags)>,
}

fn time_until(end: Instant) -> Timespec {
    // Rounded up: otherwise the last part of a millisecond would be waited for in turns.
    let left = end.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests;
