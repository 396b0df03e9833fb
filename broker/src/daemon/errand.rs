//! What a helper is told. It was there before the request, so all that it has to know comes
//! over its socket: one message, and with it the namespaces to enter, and the mount that a
//! lease was given of. If the kernel does not let them be sent, it is born with them.

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

/// The most descriptors that come with one message.
const MOST_CARRIED: usize = 3;

/// What a helper sends along with a mount, one byte for each: no answer begins with it.
pub(super) const MOUNT: u8 = b'+';

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Act {
    Set { wish: Wish, standing: Standing },
    Report,
    Holders,
}

impl Act {
    /// Whether a target that may be writable for so long becomes so for a time only: its mount is
    /// kept then, so that it can be closed whatever becomes of the path.
    pub fn lends(self, is_leased: bool, most: Option<Duration>) -> bool {
        let opens = matches!(self, Self::Set { wish: Wish::Rw | Wish::Toggle, .. });
        opens && (is_leased || most.is_some())
    }

    /// Whether it is the end of a lease.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Set { standing: Standing::Broker, .. })
    }
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
    /// Whether there is a user namespace to enter first.
    pub enters_user: bool,
    /// Whether it comes with the mount that is to be closed.
    pub has_mount: bool,
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
    /// Whether a lease was asked for.
    pub is_leased: bool,
    /// How long `ro` puts up with EBUSY.
    pub patience: Duration,
}

/// What comes with an errand, or goes with it: a `T` is a descriptor.
#[derive(Debug)]
pub(super) struct Carried<T> {
    /// The mount namespace; none if it is the host's.
    pub mount: Option<T>,
    /// The user namespace to be entered first; none if it is the daemon's own.
    pub user: Option<T>,
    /// The mount to be closed, if that is not to be looked for.
    pub target: Option<T>,
}

impl<'a> Carried<BorrowedFd<'a>> {
    /// What it takes to act at this place, on this mount.
    pub fn new(place: &'a Place, target: Option<&'a OwnedFd>) -> Self {
        let is_entered = !place.is_host;
        let user = place.user.as_ref().filter(|_| is_entered);
        Self {
            mount: is_entered.then(|| place.mount.as_fd()),
            user: user.map(AsFd::as_fd),
            target: target.map(AsFd::as_fd),
        }
    }

    /// In the order in which they are sent.
    pub fn all(&self) -> Vec<BorrowedFd<'a>> {
        [self.mount, self.user, self.target].into_iter().flatten().collect()
    }
}

/// A part of what came over a socket.
#[derive(Debug)]
pub(super) struct Part {
    pub bytes: usize,
    pub fds: Vec<OwnedFd>,
}

/// Sends all of a message, and these descriptors with its beginning.
///
/// # Errors
/// As `sendmsg(2)`: `EPIPE` if nobody is there; `ETOOMANYREFS` if so many descriptors of this
/// user's have been sent and not received that no more may be.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    mut message: &[u8],
    fds: &[BorrowedFd<'_>],
) -> KernelResult<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_CARRIED))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::NOBUFS);
    }
    while !message.is_empty() {
        let part = [IoSlice::new(message)];
        match rustix::net::sendmsg(socket, &part, &mut control, SendFlags::NOSIGNAL) {
            Ok(sent) => {
                message = &message[sent..];
                control.clear();
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Receives what is there, and the descriptors that came with it: no more than the other side
/// sends at a time, the kernel closes the others.
///
/// # Errors
/// As `recvmsg(2)`.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    chunk: &mut [u8],
    flags: RecvFlags,
) -> KernelResult<Part> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_CARRIED))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut part = [IoSliceMut::new(chunk)];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let bytes = rustix::net::recvmsg(socket, &mut part, &mut control, flags)?.bytes;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            fds.extend(descriptors);
        }
    }
    Ok(Part { bytes, fds })
}

impl Errand {
    /// These tasks, which have the same targets, at this place for this user; of each, whether it
    /// asks for a lease.
    pub fn new(
        place: &Place,
        who: &Who,
        privileged: bool,
        has_mount: bool,
        tasks: &[(Task, bool)],
    ) -> Self {
        let is_other = privileged && who.peer.uid != rustix::process::geteuid().as_raw();
        let now = Instant::now();
        let step = |(task, is_leased): &(Task, bool)| Step {
            optional: task.optional,
            act: task.act,
            is_leased: *is_leased,
            patience: task.deadline.saturating_duration_since(now),
        };
        Self {
            rights: is_other.then(|| (who.peer.uid, who.peer.gid, who.groups.clone())),
            is_users_own: !privileged,
            is_host: place.is_host,
            enters_user: place.user.is_some() && !place.is_host,
            has_mount,
            pids: (place.pids, place.pid.as_raw_nonzero().get()),
            spots: tasks.first().map_or(Vec::new(), |(task, _)| task.spots.clone()),
            steps: tasks.iter().map(step).collect(),
        }
    }

    /// How many mounts come back, at most.
    pub fn lends(&self) -> usize {
        let of_step = |step: &Step| {
            let lends = |spot: &&Spot| step.act.lends(step.is_leased, spot.max_lease);
            self.spots.iter().filter(lends).count()
        };
        self.steps.iter().map(of_step).sum()
    }

    /// Tells it to the helper at the other end of `socket`, with these descriptors.
    ///
    /// # Errors
    /// As [`send`].
    pub fn send(&self, socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> KernelResult<()> {
        // A path that is not UTF-8 comes neither from a configuration nor from a client.
        let message = postcard::to_allocvec_cobs(self).map_err(|_| Errno::ILSEQ)?;
        send(socket, &message, fds)
    }

    /// Waits for one, whose descriptors come with it if they are not `fds`; `None` if the daemon
    /// has ended, or has none.
    ///
    /// # Errors
    /// As `recvmsg(2)`; `EPROTO` for what is no errand.
    pub fn receive(
        socket: BorrowedFd<'_>,
        mut fds: Vec<OwnedFd>,
    ) -> KernelResult<Option<(Self, Carried<OwnedFd>)>> {
        let mut message = Vec::new();
        let mut chunk = [0_u8; 4096];
        while !message.ends_with(&[END]) {
            let part = retry_on_intr(|| receive(socket, &mut chunk, RecvFlags::empty()))?;
            if part.bytes == 0 {
                return Ok(None);
            }
            message.extend_from_slice(&chunk[..part.bytes]);
            fds.extend(part.fds);
        }
        let errand: Self = postcard::from_bytes_cobs(&mut message).map_err(|_| Errno::PROTO)?;
        let mut fds = fds.into_iter();
        let mut take = |is_there: bool| match is_there {
            true => fds.next().map(Some).ok_or(Errno::PROTO),
            false => Ok(None),
        };
        let mount = take(!errand.is_host)?;
        let carried =
            Carried { mount, user: take(errand.enters_user)?, target: take(errand.has_mount)? };
        Ok(Some((errand, carried)))
    }
}
