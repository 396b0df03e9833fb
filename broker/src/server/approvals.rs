//! Requests that wait for a person outside.

use super::Server;
use super::journal::Entry;
use super::queue::Pending;
use super::sessions::SessionId;
use crate::name::TargetName;
use crate::proto::{Answer, Decision, Fault, Waiting, json_line, milliseconds};
use crate::sandbox::{Index, Standing};
use rustix::net::SendFlags;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long a request waits for a person, if nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Requests that wait, by the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Approvals {
    waiting: Vec<Approval>,
    last: u64,
}

#[derive(Debug)]
struct Approval {
    id: u64,
    pending: Pending,
    until: Instant,
}

/// What the launcher is told of a request, as a line of JSON.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Notice<'a> {
    id: u64,
    targets: &'a [TargetName],
    pid: Option<i32>,
    command: &'a str,
    timeout_ms: u64,
}

impl Approvals {
    /// The request that waits for one of `targets`.
    fn about(&self, targets: &[Index]) -> Option<(u64, Index)> {
        self.waiting.iter().find_map(|approval| {
            let shared = approval.pending.targets.iter().find(|target| targets.contains(target));
            shared.map(|&target| (approval.id, target))
        })
    }

    fn take(&mut self, id: u64) -> Option<Approval> {
        let place = self.waiting.iter().position(|approval| approval.id == id)?;
        Some(self.waiting.remove(place))
    }

    /// Forgets what a client asked for; the ids.
    pub(super) fn forget(&mut self, session: SessionId) -> Vec<u64> {
        let of_it = |approval: &mut Approval| approval.pending.session == session;
        self.waiting.extract_if(.., of_it).map(|approval| approval.id).collect()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.iter().map(|approval| approval.until).min()
    }
}

impl Server<'_> {
    /// Lets a request wait for a person.
    ///
    /// # Errors
    /// One waits already for one of the same targets: a person is asked one thing at a
    /// time.
    pub(super) fn ask_person(&mut self, pending: Pending) -> Result<(), Fault> {
        if let Some((id, target)) = self.approvals.about(&pending.targets) {
            return Err(Fault::AlreadyWaiting { name: self.name(target), id });
        }
        self.approvals.last += 1;
        let id = self.approvals.last;
        let timeout = self.context.approval_timeout;
        let targets: Vec<_> = pending.targets.iter().map(|&target| self.name(target)).collect();
        let (pid, uid, command) = self.identity(pending.session);
        let notice = Notice {
            id,
            targets: &targets,
            pid,
            command: &command,
            timeout_ms: milliseconds(timeout),
        };
        self.record(&Entry {
            event: "pending",
            mode: Some("rw"),
            targets: &targets,
            id: Some(id),
            origin: self.sessions.get(pending.session).map(|session| session.caller.origin),
            pid,
            uid,
            command: &command,
            ..Entry::default()
        });
        self.notify(&json_line(&notice));
        self.approvals.waiting.push(Approval { id, pending, until: Instant::now() + timeout });
        Ok(())
    }

    /// Tells the launcher. If it does not listen, a person can still look for the request.
    fn notify(&self, line: &[u8]) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::send(&self.life, line, flags).unwrap_or(0);
    }

    /// Carries out what a person decided.
    ///
    /// # Errors
    /// No such request waits.
    pub(super) fn decide(&mut self, decision: Decision, by: SessionId) -> Result<(), Fault> {
        let Decision { id, verdict } = decision;
        let approval = self.approvals.take(id).ok_or(Fault::NoSuchRequest(id))?;
        let mut pending = approval.pending;
        let (pid, uid, command) = self.identity(by);
        let targets: Vec<_> = pending.targets.iter().map(|&target| self.name(target)).collect();
        let event = if verdict == Answer::Approve { "approved" } else { "denied" };
        let (id, targets) = (Some(id), &targets[..]);
        self.record(&Entry { event, id, targets, pid, uid, command: &command, ..Entry::default() });
        match verdict {
            Answer::Approve => {
                pending.standing = Standing::Approved;
                pending.deadline = Self::first_deadline(Instant::now());
                self.queue.push(pending);
            }
            Answer::Deny => self.conclude(pending, Err(Fault::Denied(approval.id))),
        }
        Ok(())
    }

    /// Refuses what has waited too long.
    pub(super) fn expire_approvals(&mut self, now: Instant) {
        let old = self.approvals.waiting.extract_if(.., |approval| approval.until <= now);
        for Approval { id, pending, .. } in old.collect::<Vec<_>>() {
            self.conclude(pending, Err(Fault::Unanswered(id)));
        }
    }

    /// Those that wait, as they are reported.
    pub(super) fn waiting(&self, now: Instant) -> Vec<Waiting> {
        let report = |approval: &Approval| {
            let (pid, _, command) = self.identity(approval.pending.session);
            Waiting {
                id: approval.id,
                targets: approval.pending.targets.iter().map(|&it| self.name(it)).collect(),
                pid,
                command,
                left_ms: milliseconds(approval.until.saturating_duration_since(now)),
            }
        };
        self.approvals.waiting.iter().map(report).collect()
    }
}
