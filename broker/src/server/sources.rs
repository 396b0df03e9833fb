//! Where connections come from, and which side each is on.

use super::Server;
use super::session::Session;
use crate::channel::{self, Arrival};
use crate::holders::Inspector;
use crate::proto::Origin;
use crate::sandbox::Caller;
use crate::sys::socket::{peer, peer_pidfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Pid;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a source of connections that failed (no descriptors left, no memory) is not
/// looked at: it would fail again at once.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Connections taken from one source in one turn; then those already here are served.
const BATCH: usize = 16;

/// Something that new connections come from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) fd: OwnedFd,
    kind: Kind,
    pub(super) state: Flow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    /// It failed; it is looked at again then.
    PausedUntil(Instant),
    /// Nothing will come from it any more.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Shared,
    Listener(Origin),
}

impl Source {
    pub(super) fn new(fd: OwnedFd, kind: Kind) -> Self {
        Self { fd, kind, state: Flow::Open }
    }
}

impl Server<'_> {
    pub(super) fn take_connections(&mut self, index: usize) {
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
