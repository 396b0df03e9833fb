//! A client of the broker, for programs that want to switch targets themselves.
//!
//! ```no_run
//! use remount_broker::client::Client;
//! use remount_broker::proto::Wish;
//!
//! let mut client = Client::connect()?;
//! let plans = "plans".parse()?;
//! for target in client.set(&[plans], Wish::Rw)? {
//!     println!("{}: {}", target.name, target.mode);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A connection serves any number of requests, one after the other; a toggle takes some
//! 25 to 50 microseconds. While answers come that soon, the client looks for the next one for 50 us
//! before it sleeps, and the broker likewise for the next request: a few requests in a row cost
//! no wake-up, and what is over costs 50 us of a processor at each end, once.
//! [`Client::request`] takes conditions:
//!
//! ```no_run
//! use remount_broker::client::Client;
//! use remount_broker::proto::{OnBusy, Selection, SetRequest, Term, Wish};
//! use std::time::Duration;
//!
//! let mut client = Client::connect()?;
//! // Read-only; if something writes there, wait for it, at most two seconds.
//! client.request(SetRequest {
//!     busy: Some(OnBusy::Wait(Duration::from_secs(2))),
//!     ..SetRequest::new(Selection::All, Wish::Ro)
//! })?;
//! // Writable as long as this connection lives, whatever becomes of this process.
//! client.request(SetRequest {
//!     lease: Some(Term::Held),
//!     ..SetRequest::new(Selection::Named(vec!["workspace".parse()?]), Wish::Rw)
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! From outside, [`crate::host`] finds the sandboxes of this user and connects to one.
//! After an error other than [`ClientError::Refused`] the connection is
//! of no more use: connect anew.

use crate::channel::{Connection, NoBroker};
use crate::name::TargetName;
use crate::proto::{
    BadReply, Decision, Event, Holders, MAX_LINE, Refusal, Reply, Request, Selection, SetRequest,
    TargetReport, Verdict, Wish,
};
use crate::reason::Reason;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a broker may take to answer, if nothing else is said. It gives up a mount that
/// somebody holds after a quarter of a second, and one that is busy without anybody to be
/// found after two seconds at most.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer is looked for without sleeping, if the one before came that soon: to
/// sleep and to be woken takes a processor longer than a toggle, above all a virtual one.
const LOOK: Duration = Duration::from_micros(50);

/// The same for the answer to a request that was sent while this process began: most of the time
/// that it takes has passed.
const LOOK_AFTER_START: Duration = Duration::from_micros(200);

/// An answer that took no longer may come within [`LOOK`] of looking.
const SOON: Duration = Duration::from_micros(100);

/// No reply is longer: a broker that says more is none.
const MAX_REPLY: usize = 1 << 20;

/// Why a request brought no answer, or not the one hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no broker to talk to.
    #[error(transparent)]
    NoBroker(#[from] NoBroker),
    /// The broker refused the request, and says why.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The request does not fit in one line.
    #[error("send the request: it is longer than {MAX_LINE} bytes")]
    TooLong,
    /// The broker did not answer in time. What became of the request is not known.
    #[error("wait for the broker's answer: timed out")]
    TimedOut,
    /// The connection ended before the answer.
    #[error("talk to the broker: it closed the connection")]
    Closed,
    /// The connection failed.
    #[error("talk to the broker: {:#}", Reason::from(*.0))]
    Transport(Errno),
    /// The answer makes no sense.
    #[error(transparent)]
    BadReply(#[from] BadReply),
}

/// What [`Client::status`] tells.
pub use crate::proto::StatusReport as Status;

/// A connection to a broker.
#[derive(Debug)]
pub struct Client {
    stream: OwnedFd,
    /// Whether an answer may still be under way that belongs to no request.
    broken: bool,
    /// Of remountd: the process whose sandbox every request is about.
    process: Option<u32>,
    /// How long the next answer is looked for without sleeping.
    look: Duration,
    /// Whether the next request has been sent by somebody else.
    sent: bool,
}

impl Client {
    /// Connects to the broker of the sandbox that this process is in (see
    /// [`Connection::open`]); [`TIMEOUT`] holds for every call.
    ///
    /// # Errors
    /// [`ClientError::NoBroker`].
    pub fn connect() -> Result<Self, ClientError> {
        Self::connect_within(TIMEOUT)
    }

    /// As [`Self::connect`], with another limit for every call.
    ///
    /// # Errors
    /// [`ClientError::NoBroker`].
    pub fn connect_within(timeout: Duration) -> Result<Self, ClientError> {
        Ok(Connection::open(timeout)?.into())
    }

    /// From now on every request is about the sandbox that this process is in. Only
    /// remountd knows more than one, and only a process on the host may name one.
    #[must_use]
    pub fn of_process(self, process: u32) -> Self {
        Self { process: Some(process), ..self }
    }

    /// The next request has been sent on this connection already: it is not sent again, and
    /// its answer is the one that is due.
    #[must_use]
    pub fn after_sending(self) -> Self {
        Self { sent: true, look: LOOK_AFTER_START, ..self }
    }

    /// Changes the mode of `names`, all of them or, on any error, none. The answer has
    /// them as they are now; once `ro` is answered, no write through them succeeds.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the broker did not do it, else the connection failed.
    pub fn set(
        &mut self,
        names: &[TargetName],
        wish: Wish,
    ) -> Result<Vec<TargetReport>, ClientError> {
        self.change(Selection::Named(names.to_vec()), wish)
    }

    /// As [`Self::set`], for every target of the sandbox.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_all(&mut self, wish: Wish) -> Result<Vec<TargetReport>, ClientError> {
        self.change(Selection::All, wish)
    }

    fn change(&mut self, targets: Selection, wish: Wish) -> Result<Vec<TargetReport>, ClientError> {
        self.request(SetRequest::new(targets, wish))
    }

    /// As [`Self::set`], with conditions: what to do if a target is busy, or for how long
    /// it is to be writable. A request that waits takes as long as it says, and one that
    /// needs a person's word as long as that takes: see [`Self::set_timeout`].
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn request(&mut self, set: SetRequest) -> Result<Vec<TargetReport>, ClientError> {
        self.targets(&Request::Set(set))
    }

    /// From now on, no call takes longer than `timeout` (at least a millisecond).
    ///
    /// # Errors
    /// As `setsockopt(2)`; none while an answer is due ([`Self::after_sending`]), which is then
    /// waited for without an end.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), ClientError> {
        match crate::channel::limit(self.stream.as_fd(), timeout) {
            Err(_) if self.sent => Ok(()),
            set => set.map_err(ClientError::Transport),
        }
    }

    /// Every target, as it is now.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn list(&mut self) -> Result<Vec<TargetReport>, ClientError> {
        self.targets(&Request::List)
    }

    /// The sandbox, every target, and what the broker takes this process for.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(BadReply("not a status".to_owned()).into()),
        }
    }

    /// The processes because of which these targets cannot become read-only.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn holders(&mut self, targets: Selection) -> Result<Holders, ClientError> {
        match self.ask(&Request::Holders(targets))? {
            Reply::Holders(holders) => Ok(holders),
            _ => Err(BadReply("no holders".to_owned()).into()),
        }
    }

    /// What decides whether `path`, absolute and without symlinks, can be written.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn why(&mut self, path: &Path) -> Result<Verdict, ClientError> {
        match self.ask(&Request::Why(path.to_owned()))? {
            Reply::Why(verdict) => Ok(verdict),
            _ => Err(BadReply("no verdict".to_owned()).into()),
        }
    }

    /// Approves or denies a request that waits. Only from outside.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn decide(&mut self, decision: Decision) -> Result<(), ClientError> {
        self.ask(&Request::Decide(decision)).map(drop)
    }

    /// The last events. Only from outside.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn events(&mut self) -> Result<Vec<Event>, ClientError> {
        self.ask_for_events(false)
    }

    /// The last events, and then each that happens, until `each` says to stop or the
    /// sandbox ends. Only from outside.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn follow(mut self, mut each: impl FnMut(Event) -> bool) -> Result<(), ClientError> {
        let mut go_on = self.ask_for_events(true)?.into_iter().all(&mut each);
        let mut input = Vec::new();
        while go_on {
            match self.receive_into(&mut input) {
                Ok(()) => {}
                Err(ClientError::TimedOut) => continue,
                Err(ClientError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
            while let Some(end) = input.iter().position(|byte| *byte == b'\n')
                && go_on
            {
                let line: Vec<u8> = input.drain(..=end).collect();
                let event = serde_json::from_slice(&line);
                go_on = each(event.map_err(|error| BadReply(error.to_string()))?);
            }
        }
        Ok(())
    }

    fn ask_for_events(&mut self, follow: bool) -> Result<Vec<Event>, ClientError> {
        match self.ask(&Request::Events { follow })? {
            Reply::Events(events) => Ok(events),
            _ => Err(BadReply("no events".to_owned()).into()),
        }
    }

    fn targets(&mut self, request: &Request) -> Result<Vec<TargetReport>, ClientError> {
        match self.ask(request)? {
            Reply::Done(targets) | Reply::List(targets) => Ok(targets),
            _ => Err(BadReply("no targets".to_owned()).into()),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let line = match self.process {
            Some(process) => Request::In(process, Box::new(request.clone())).to_line(),
            None => request.to_line(),
        };
        let line = line.ok_or(ClientError::TooLong)?;
        if self.broken {
            return Err(ClientError::Closed);
        }
        // Until the answer is there: giving up half-way leaves one behind.
        self.broken = true;
        match if std::mem::take(&mut self.sent) { Ok(()) } else { self.send(&line) } {
            // It may have said why before it hung up.
            Ok(()) | Err(ClientError::Closed) => {}
            Err(error) => return Err(error),
        }
        let asked = Instant::now();
        self.look(asked);
        let reply = Reply::from_json(&self.receive()?)?;
        self.look = if asked.elapsed() <= SOON { LOOK } else { Duration::ZERO };
        self.broken = false;
        match reply {
            Reply::Refused(refusal) => Err(ClientError::Refused(refusal)),
            reply => Ok(reply),
        }
    }

    fn send(&self, mut line: &[u8]) -> Result<(), ClientError> {
        while !line.is_empty() {
            match rustix::net::send(&self.stream, line, SendFlags::NOSIGNAL) {
                Ok(sent) => line = &line[sent..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(transport(errno)),
            }
        }
        Ok(())
    }

    /// Waits for something to read, but no longer than is worth while, and without sleeping.
    fn look(&self, since: Instant) {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let is_none = || rustix::net::recv(&self.stream, &mut [0_u8; 1][..], flags);
        while since.elapsed() < self.look && matches!(is_none(), Err(Errno::AGAIN)) {
            // Who answers may be waiting for this processor.
            rustix::thread::sched_yield();
        }
    }

    fn receive(&self) -> Result<Vec<u8>, ClientError> {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n") {
            self.receive_into(&mut answer)?;
        }
        Ok(answer)
    }

    fn receive_into(&self, answer: &mut Vec<u8>) -> Result<(), ClientError> {
        let mut chunk = [0_u8; 4096];
        match rustix::net::recv(&self.stream, &mut chunk[..], RecvFlags::empty()) {
            Ok((_, 0)) => return Err(ClientError::Closed),
            Ok((_, received)) => answer.extend_from_slice(&chunk[..received]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(transport(errno)),
        }
        if answer.len() > MAX_REPLY {
            return Err(BadReply("too long".to_owned()).into());
        }
        Ok(())
    }
}

/// For a connection made in another way than [`Client::connect`] makes it.
impl From<Connection> for Client {
    fn from(connection: Connection) -> Self {
        let stream = connection.into_fd();
        Self { stream, broken: false, process: None, look: Duration::ZERO, sent: false }
    }
}

fn transport(errno: Errno) -> ClientError {
    match errno {
        Errno::AGAIN => ClientError::TimedOut,
        Errno::PIPE | Errno::CONNRESET => ClientError::Closed,
        errno => ClientError::Transport(errno),
    }
}
