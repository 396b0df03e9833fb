//! The broker of a sandbox with targets: as a profile's, beside the sandbox.
//!
//! ```text
//! monitor ─┬─ init, or the command itself
//!          └─ broker
//! ```
//!
//! The command is executed when the broker says so. If the broker dies, the monitor ends
//! the sandbox; if the monitor does, so does the broker, and the targets stay as they are.

use super::error::{self, Die, OrDie, Result};
use super::request::Request;
use super::toggle::Targets;
use crate::enter::{self, EnterError, Handover, Serving};
use crate::exec;
use crate::mount::{Handles, MemberHandle, files};
use crate::outside::Presence;
use crate::report::{self, Link, Message, Reports};
use remount_broker::sys::process::{self, Fork};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The ends that are the sandbox's, of connections to its broker.
pub(super) struct Inside {
    broker: Link,
    shared: Link,
}

/// The ends that are the broker's.
pub(super) struct Ends {
    from_init: Link,
    shared: Link,
}

/// Connections for the broker of a sandbox.
pub(super) fn connect() -> Result<(Inside, Ends)> {
    let pair = || Link::pair().or_die(|| "socketpair()");
    let ((broker, from_init), (inside, shared)) = (pair()?, pair()?);
    Ok((Inside { broker, shared: inside }, Ends { from_init, shared }))
}

/// The broker, as the monitor knows it.
pub(super) struct Broker {
    pid: Pid,
    /// When it is closed, the broker ends.
    life: Link,
    reports: Reports,
    presence: Option<Presence>,
    ended: bool,
    /// Why it has failed.
    failure: Option<String>,
}

impl Broker {
    /// Starts the broker of the sandbox whose first process is `init`.
    pub(super) fn start(
        request: &Request,
        targets: &Targets,
        init: Pid,
        ends: Ends,
    ) -> Result<Self> {
        let Ends { from_init, shared } = ends;
        let (life, broker_life) = Link::pair().or_die(|| "socketpair()")?;
        let (reporter, reports) = report::channel().or_die(|| "socketpair()")?;
        let end = pidfd_open(init, PidfdFlags::empty()).or_die(|| "pidfd_open()")?;
        let Fork::Parent(pid) = process::fork().or_die(|| "Can't fork the broker")? else {
            // What the command line names is for others, who may wait for its end.
            let own = [&broker_life, &from_init, &shared].map(AsFd::as_fd);
            let own: Vec<_> = own.into_iter().chain([reporter.as_fd(), end.as_fd()]).collect();
            if process::close_all_but(&own).is_err() {
                process::exit(1);
            }
            let serving = serving(request, targets);
            let (life, end) = (broker_life, Some(end));
            enter::Broker { serving, life, reporter, init, from_init, end, shared }.run()
        };
        drop((broker_life, reporter, end, from_init, shared));
        // In this process nobody looks for its directories again.
        let (handles, presence, warnings) = targets.outside.borrow_mut().appear();
        for warning in warnings {
            error::warn(&warning);
        }
        handles.send(&life);
        Ok(Self { pid, life, reports, presence, ended: false, failure: None })
    }

    /// Its process.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// It was found dead, and has been buried. Whether the sandbox goes on without it: one
    /// that could not be made ends by itself, and says why.
    pub(super) fn leaves_it_alone(&mut self) -> bool {
        self.ended = true;
        let consequence = EnterError::NoInit.to_string();
        match self.reports.next() {
            Ok(Some(Message::Failed(failure))) if failure.message == consequence => false,
            Ok(Some(Message::Failed(failure))) => {
                self.failure = Some(failure.message);
                true
            }
            _ => true,
        }
    }

    /// What must stay open as long as it lives.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let own = [self.life.as_fd(), self.reports.as_fd()];
        own.into_iter().chain(self.presence.as_ref().map(AsFd::as_fd))
    }

    /// Ends it, and says why it has failed, if it has.
    pub(super) fn finish(mut self) {
        self.presence = None;
        // It fails only if the broker is gone.
        self.life.hang_up().unwrap_or(());
        if !self.ended {
            // It fails only if there is no such child.
            waitpid(Some(self.pid), WaitOptions::empty()).map(drop).unwrap_or(());
            self.leaves_it_alone();
        }
        if let Some(failure) = self.failure {
            Die::new(failure).print();
        }
    }
}

fn serving<'a>(request: &'a Request, targets: &'a Targets) -> Serving<'a> {
    Serving {
        targets: &targets.plans,
        policy: &targets.policy,
        held: request.hold.as_ref().map(|hold| &hold.since),
        user_namespace: request.unshare.user,
        pid_namespace: request.unshare.pid || request.pidns.is_some(),
        filter: true,
        plan: None,
    }
}

impl Inside {
    /// Gives the broker what was mounted, forbids copies of it, and waits until the broker
    /// is there. Answers the connection that the command gets.
    pub(super) fn hand_over(
        self,
        request: &Request,
        members: Vec<MemberHandle>,
        proc: &OwnedFd,
    ) -> Result<OwnedFd> {
        let open = |name: &str| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::openat(proc, format!("self/ns/{name}"), flags, Mode::empty())
                .or_die(|| "Can't open the new namespaces")
        };
        // With --userns, the broker is in it already.
        let user = request.unshare.user.then(|| open("user")).transpose()?;
        if user.is_some() {
            // A mount namespace made inside would keep a writable copy of what is closed.
            files::namespace_limit(proc.as_fd())
                .and_then(|limit| files::forbid_mount_namespaces(limit.as_fd()))
                .or_die(|| "sysctl user.max_mnt_namespaces = 1")?;
        }
        let processes = rustix::fs::statat(proc, c"self/ns/pid", AtFlags::empty());
        let processes = processes.or_die(|| "Can't open the new namespaces")?;
        let processes = (processes.st_dev, processes.st_ino);
        let handles = Handles { listener: None, members, sources: Vec::new(), sockets: Vec::new() };
        let handover = Handover { user, mount: open("mnt")?, processes, handles };
        let gone = || process::exit(1);
        // It says itself why it is gone.
        enter::init::hand_over(&self.broker, handover).unwrap_or_else(|_| gone());
        match self.broker.receive() {
            Ok((bytes, None)) if bytes == b"go" => {}
            _ => gone(),
        }
        exec::keep(self.shared.as_fd()).or_die(|| "Can't keep the connection to the broker")
    }
}

/// Ends the sandbox: its broker is gone, and with it whoever could close a target.
pub(super) fn end_without_broker(init: Pid) -> Die {
    match rustix::process::kill_process(init, rustix::process::Signal::KILL) {
        // It has ended in the meantime.
        Ok(()) | Err(Errno::SRCH) => Die::new("The sandbox's broker ended"),
        Err(errno) => Die::errno("The sandbox's broker ended, and the sandbox goes on", errno),
    }
}
