//! What a helper is told. It was there before the request, so all that it has to know comes
//! over its socket: one message, and with it the namespaces to enter.

use super::place::{NsId, Place};
use super::rules::Who;
use crate::name::{Authority, TargetName};
use crate::proto::Wish;
use crate::sandbox::Standing;
use rustix::io::{Errno, IoSlice, IoSliceMut, Result as KernelResult, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What ends a message, and is nowhere else in it (consistent overhead byte stuffing).
const END: u8 = 0;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Act {
    Set { wish: Wish, standing: Standing },
    Report,
    Holders,
}

/// A target, and where it is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spot {
    pub name: TargetName,
    pub path: PathBuf,
    pub source: PathBuf,
    pub authority: Authority,
    pub max_lease: Option<Duration>,
}

/// One request, as far as it concerns the sandbox.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub spots: Vec<Spot>,
    /// Whether those that are not there are passed over.
    pub optional: bool,
    pub act: Act,
    /// Until then `ro` puts up with EBUSY.
    pub deadline: Instant,
}

/// All that one helper does.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Errand {
    /// With whose rights on files, if those are not the daemon's own: user, group, groups.
    pub rights: Option<(u32, u32, Vec<u32>)>,
    /// Whether the daemon is a user's own, and so knows what that user has held read-only.
    pub is_users_own: bool,
    pub is_host: bool,
    /// The sandbox's PID namespace, and a process there.
    pub pids: (NsId, i32),
    /// The targets, the same in each step.
    pub spots: Vec<Spot>,
    pub steps: Vec<Step>,
}

/// One task of an errand: the answers come in the order of these.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Step {
    pub optional: bool,
    pub act: Act,
    /// How long `ro` puts up with EBUSY.
    pub patience: Duration,
}

/// The namespaces of an errand; none of them if it is the host's.
#[derive(Debug)]
pub(super) struct Namespaces {
    pub mount: Option<OwnedFd>,
    /// To be entered first; none if it is the daemon's own.
    pub user: Option<OwnedFd>,
}

impl Errand {
    /// These tasks, which have the same targets, at this place for this user.
    pub fn new(place: &Place, who: &Who, privileged: bool, tasks: &[Task]) -> Self {
        let is_other = privileged && who.peer.uid != rustix::process::geteuid().as_raw();
        let now = Instant::now();
        let step = |task: &Task| Step {
            optional: task.optional,
            act: task.act,
            patience: task.deadline.saturating_duration_since(now),
        };
        Self {
            rights: is_other.then(|| (who.peer.uid, who.peer.gid, who.groups.clone())),
            is_users_own: !privileged,
            is_host: place.is_host,
            pids: (place.pids, place.pid.as_raw_nonzero().get()),
            spots: tasks.first().map_or(Vec::new(), |task| task.spots.clone()),
            steps: tasks.iter().map(step).collect(),
        }
    }

    /// Tells it to the helper at the other end of `socket`.
    ///
    /// # Errors
    /// As `sendmsg(2)`: `EPIPE` if it has ended.
    pub fn send(&self, socket: BorrowedFd<'_>, place: &Place) -> KernelResult<()> {
        // A path that is not UTF-8 comes neither from a configuration nor from a client.
        let message = postcard::to_allocvec_cobs(self).map_err(|_| Errno::ILSEQ)?;
        let mut fds = Vec::new();
        if !place.is_host {
            fds.push(place.mount.as_fd());
            fds.extend(place.user.as_ref().map(AsFd::as_fd));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::NOBUFS);
        }
        let mut rest = &message[..];
        while !rest.is_empty() {
            let part = [IoSlice::new(rest)];
            let sent = rustix::net::sendmsg(socket, &part, &mut control, SendFlags::NOSIGNAL);
            match sent {
                Ok(sent) => {
                    rest = &rest[sent..];
                    control.clear();
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Waits for one; `None` if the daemon has ended, or has none.
    ///
    /// # Errors
    /// As `recvmsg(2)`; `EPROTO` for what is no errand.
    pub fn receive(socket: BorrowedFd<'_>) -> KernelResult<Option<(Self, Namespaces)>> {
        let (mut message, mut fds) = (Vec::new(), Vec::new());
        let mut chunk = [0_u8; 4096];
        while !message.ends_with(&[END]) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = retry_on_intr(|| {
                let mut part = [IoSliceMut::new(&mut chunk)];
                rustix::net::recvmsg(socket, &mut part, &mut control, RecvFlags::CMSG_CLOEXEC)
            })?;
            if received.bytes == 0 {
                return Ok(None);
            }
            message.extend_from_slice(&chunk[..received.bytes]);
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    fds.extend(descriptors);
                }
            }
        }
        let errand: Self = postcard::from_bytes_cobs(&mut message).map_err(|_| Errno::PROTO)?;
        let mut fds = fds.into_iter();
        let namespaces = Namespaces { mount: fds.next(), user: fds.next() };
        if errand.is_host == namespaces.mount.is_some() {
            return Err(Errno::PROTO);
        }
        Ok(Some((errand, namespaces)))
    }
}
