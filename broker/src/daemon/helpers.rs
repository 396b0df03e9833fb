//! The processes that are in sandboxes: started, heard, given up.

use super::place::{NsId, Place, World, refusal};
use super::rules::Who;
use super::visit::{Task, visit};
use crate::filter::Program;
use crate::proto::{ErrorCode, Refusal, Reply};
use crate::reason::Reason;
use crate::sys::process::{Fork, fork};
use rustix::io::{Errno, Result as KernelResult};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a helper may take. Requests that find their target busy take a quarter of a
/// second, and looking for holders less than a tenth.
const DEADLINE: Duration = Duration::from_secs(2);

/// Helpers at a time; of one user, not more than a part of them. One that waits for a
/// file system may be beyond the reach of SIGKILL, and counts as long as it is there.
const MOST: usize = 48;
const MOST_OF_ONE: usize = 12;

/// An answer is no longer: our own helper wrote it, but where it was is no good company.
const LONGEST: usize = 256 << 10;

/// A process in a sandbox.
#[derive(Debug)]
pub(super) struct Helper {
    pid: Pid,
    pub pidfd: OwnedFd,
    /// Where its answers come from; none once it has been given up.
    pub pipe: Option<OwnedFd>,
    input: Vec<u8>,
    deadline: Instant,
    uid: u32,
    /// The namespace, and what of it nobody else may touch meanwhile.
    pub claim: (NsId, BTreeSet<String>),
    /// For whom it works, in the order of its answers.
    pub jobs: std::collections::VecDeque<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Helpers {
    pub running: Vec<Helper>,
}

/// What became of a job.
pub(super) type Outcome = (u64, Result<Reply, Refusal>);

impl Helpers {
    /// Whether another one may be started for this user.
    pub fn has_room(&self, uid: u32) -> bool {
        let of_user = self.running.iter().filter(|helper| helper.uid == uid).count();
        self.running.len() < MOST && of_user < MOST_OF_ONE
    }

    /// Whether all that this user may have are stuck: nothing will move soon.
    pub fn is_hopeless(&self, uid: u32) -> bool {
        let stuck = |helper: &&Helper| helper.pipe.is_none();
        let of_user = self.running.iter().filter(|helper| helper.uid == uid);
        !self.has_room(uid)
            && (of_user.clone().filter(stuck).count() == of_user.count()
                || self.running.iter().filter(stuck).count() == MOST)
    }

    /// Whether somebody works on any of these.
    pub fn is_taken(&self, id: NsId, names: &BTreeSet<String>) -> bool {
        self.running.iter().any(|helper| helper.claim.0 == id && !helper.claim.1.is_disjoint(names))
    }

    /// Sends a process to `place`.
    pub fn start(
        &mut self,
        world: &World,
        filter: &Program,
        (place, who): (&Place, &Who),
        tasks: &[Task],
        jobs: Vec<u64>,
    ) -> KernelResult<()> {
        let (pipe, answers) = pipe_with(PipeFlags::CLOEXEC)?;
        let pid = match fork()? {
            Fork::Child => {
                let tools = (world.proc.as_fd(), filter);
                visit(place, who, world.privileged, tasks, tools, &answers)
            }
            Fork::Parent(pid) => pid,
        };
        // Our own child, which nobody else waits for: the number is its own.
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let names = tasks.iter().flat_map(|task| match task.act {
            super::visit::Act::Set { .. } => {
                task.spots.iter().map(|it| it.name.to_string()).collect()
            }
            _ => Vec::new(),
        });
        self.running.push(Helper {
            pid,
            pidfd,
            pipe: Some(pipe),
            input: Vec::new(),
            deadline: Instant::now() + DEADLINE,
            uid: who.peer.uid,
            claim: (place.id, names.collect()),
            jobs: jobs.into(),
        });
        Ok(())
    }

    /// When the next one has to be given up.
    pub fn next(&self) -> Option<Instant> {
        self.running.iter().filter(|it| it.pipe.is_some()).map(|it| it.deadline).min()
    }

    /// Reads what the helper at `index` has to say.
    pub fn hear(&mut self, index: usize) -> Vec<Outcome> {
        let Some(helper) = self.running.get_mut(index) else { return Vec::new() };
        let Some(pipe) = &helper.pipe else { return Vec::new() };
        let mut chunk = [0_u8; 4096];
        match rustix::io::read(pipe, &mut chunk) {
            Ok(count) if count > 0 && helper.input.len() < LONGEST => {
                helper.input.extend_from_slice(&chunk[..count]);
                helper.answers()
            }
            Err(Errno::INTR | Errno::AGAIN) => Vec::new(),
            _ => helper.give_up("its helper ended before it answered"),
        }
    }

    /// Gives up those whose time is over, and forgets those that have ended.
    pub fn tidy(&mut self, now: Instant) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        self.running.retain_mut(|helper| {
            if helper.pipe.is_some() && helper.deadline <= now {
                outcomes.extend(helper.give_up("a file system in the sandbox does not answer"));
            }
            helper.pipe.is_some() || !helper.has_ended()
        });
        outcomes
    }
}

impl Helper {
    fn answers(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            let Some(job) = self.jobs.pop_front() else { break };
            let reply = Reply::from_json(&line);
            outcomes
                .push((job, reply.map_err(|bad| refusal(ErrorCode::Failed, bad.to_string(), ""))));
        }
        if self.jobs.is_empty() {
            self.pipe = None;
            // What it still does, it does for nobody.
            self.claim.1.clear();
        }
        outcomes
    }

    fn give_up(&mut self, why: &str) -> Vec<Outcome> {
        self.pipe = None;
        // It may have ended.
        pidfd_send_signal(&self.pidfd, Signal::KILL).unwrap_or(());
        let failed = |job| {
            let message = format!("carry out the request: {why}");
            let hint = "'remountctl list' shows what became of it";
            (job, Err(refusal(ErrorCode::Failed, message, hint)))
        };
        std::mem::take(&mut self.jobs).into_iter().map(failed).collect()
    }

    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let ended = waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
        debug_assert!(self.pid.as_raw_nonzero().get() > 1);
        !matches!(ended, Ok(None) | Err(Errno::INTR))
    }
}

/// Why no helper could be started.
pub(super) fn cannot_start(errno: Errno) -> Refusal {
    let message = format!("start a helper: {:#}", Reason::from(errno));
    refusal(ErrorCode::Failed, message, "try again")
}
