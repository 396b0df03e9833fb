//! The processes that go into sandboxes: kept ready, sent, heard, given up.
//!
//! One is forked before there is a request for it, since that and what a new process has to
//! do first takes longer than its errand. It is used once: where it was is no good company.

use super::errand::{Errand, MOUNT, receive};
use super::place::{NsId, refusal};
use super::visit::{Filters, visit};
use crate::proto::{ErrorCode, Refusal, Reply};
use crate::reason::Reason;
use crate::sys::memory::Heap;
use crate::sys::process::{Fork, fork};
use rustix::io::{Errno, Result as KernelResult};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, pidfd_open,
    pidfd_send_signal, waitid, waitpid,
};
use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a helper may take. Requests that find their target busy take a quarter of a
/// second, and looking for holders less than a tenth.
const DEADLINE: Duration = Duration::from_secs(2);

/// Helpers at a time; of one user, not more than a part of them. One that waits for a
/// file system may be beyond the reach of SIGKILL, and who has all rights in its sandbox can
/// make its end slow: it counts as long as it is there.
const MOST: usize = 48;
const MOST_OF_ONE: usize = 12;

/// What is known of one whose time is over. Who has all rights in a sandbox may stop it there.
const NO_ANSWER: &str = "its helper did not answer within 2s: stuck in a file system of the \
                         sandbox, or stopped by somebody there";

/// An answer is no longer: our own helper wrote it, but where it was is no good company.
const LONGEST: usize = 256 << 10;

/// What can wait is done so long after an errand began or ended: the client has its answer by
/// then, and no process that begins or ends is in its way.
const LATER: Duration = Duration::from_micros(500);

/// How long an answer is looked for without sleeping. Most errands take less, and to sleep and to
/// be woken takes a processor a good part of it, above all a virtual one.
pub(super) const LOOK: Duration = Duration::from_micros(200);

/// A process without an errand.
#[derive(Debug)]
struct Ready {
    pidfd: OwnedFd,
    socket: OwnedFd,
}

/// A process in a sandbox.
#[derive(Debug)]
pub(super) struct Helper {
    pub pidfd: OwnedFd,
    /// Where its answers come from, until its end is seen to.
    pub socket: Option<OwnedFd>,
    /// Whether it was sent SIGKILL, which it may not heed.
    killed: bool,
    input: Vec<u8>,
    deadline: Instant,
    uid: u32,
    sort: Sort,
    /// The namespace, and what of it nobody else may touch meanwhile.
    claim: Claim,
    /// For whom it works, in the order of its answers.
    jobs: VecDeque<u64>,
    /// How many mounts it may still send.
    lends: usize,
    /// Those that it has sent with what it answers next; none for one that did not arrive.
    mounts: Vec<Option<OwnedFd>>,
}

/// What a helper is sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Request,
    /// The end of a lease.
    Close,
}

/// Targets of a namespace, by name.
pub(super) type Claim = (NsId, BTreeSet<String>);

#[derive(Debug)]
pub(super) struct Helpers {
    pub running: Vec<Helper>,
    ready: Option<Ready>,
    /// When one is to be made ready, and those that are done are to end.
    chores: Option<Instant>,
    /// Until then an answer is looked for without sleeping.
    look: Option<Instant>,
    /// The host's `/proc`.
    proc: OwnedFd,
    filters: Filters,
    heap: Option<Heap>,
}

/// What became of a job.
#[derive(Debug)]
pub(super) struct Outcome {
    pub job: u64,
    pub reply: Result<Reply, Refusal>,
    /// The mounts of the targets that it may have lent, in their order.
    pub mounts: Vec<Option<OwnedFd>>,
}

impl Outcome {
    /// It was not carried out.
    pub fn refused(job: u64, refusal: Refusal) -> Self {
        Self { job, reply: Err(refusal), mounts: Vec::new() }
    }
}

impl Helpers {
    pub fn new(proc: OwnedFd) -> Self {
        let (filters, heap) = (Filters::new(), Heap::find());
        Self { running: Vec::new(), ready: None, chores: None, look: None, proc, filters, heap }
    }

    /// Whether another one may be sent for this user.
    ///
    /// No request of anybody's keeps a lease from its end: what ends leases has room of its own,
    /// and every user some of it. Those that are stuck do not count there, and are few: one for
    /// a target, and their user's requests, which leases come from, have so much less room.
    pub fn has_room(&self, uid: u32, sort: Sort) -> bool {
        let of_sort = self.running.iter().filter(|helper| helper.sort == sort);
        if sort == Sort::Request {
            return of_sort.count() < MOST && self.of_user(uid).count() < MOST_OF_ONE;
        }
        let own = self.of_user(uid).filter(|helper| helper.sort == sort && !helper.killed).count();
        own == 0 || own < MOST_OF_ONE && of_sort.filter(|helper| !helper.killed).count() < MOST
    }

    /// Those that are done count again if closing them is not enough.
    fn of_user(&self, uid: u32) -> impl Iterator<Item = &Helper> {
        self.running.iter().filter(move |helper| helper.uid == uid && !helper.is_done())
    }

    /// Whether all that this user may have for requests are stuck: nothing will move soon.
    pub fn is_hopeless(&self, uid: u32, now: Instant) -> bool {
        let is_stuck = |helper: &&Helper| helper.killed && helper.deadline <= now;
        let all = || self.running.iter().filter(|helper| helper.sort == Sort::Request);
        self.of_user(uid).filter(is_stuck).count() >= MOST_OF_ONE
            || all().filter(is_stuck).count() >= MOST
    }

    /// Whether somebody works on any of these.
    pub fn is_taken(&self, id: NsId, names: &BTreeSet<String>) -> bool {
        self.running.iter().any(|helper| helper.claim.0 == id && !helper.claim.1.is_disjoint(names))
    }

    /// Sends a process on an errand: the one that is ready, else a new one.
    ///
    /// # Errors
    /// As `fork(2)` and [`Errand::send`].
    pub fn send(
        &mut self,
        (errand, fds): (&Errand, &[BorrowedFd<'_>]),
        (uid, sort): (u32, Sort),
        claim: Claim,
        jobs: Vec<u64>,
    ) -> KernelResult<()> {
        let sent = match self.ready.take() {
            Some(waiting) => self.tell(waiting, errand, fds),
            None => Err(Errno::PIPE),
        };
        let sent = match sent {
            // There is none, or it has ended, which is not its to do.
            Err(errno) if errno != Errno::TOOMANYREFS => {
                self.fork(&[]).and_then(|fresh| self.tell(fresh, errand, fds))
            }
            sent => sent,
        };
        let ready = match sent {
            // What is on its way between processes of this user, its sandboxes' among them, is
            // as much as may be. That keeps nobody from being born with descriptors.
            Err(Errno::TOOMANYREFS) => {
                self.fork(fds).and_then(|heir| self.tell(heir, errand, &[]))?
            }
            sent => sent?,
        };
        let (jobs, lends) = (jobs.into(), errand.lends());
        self.running.push(Helper { uid, sort, claim, jobs, lends, ..ready.into() });
        self.look = Some(Instant::now() + LOOK);
        self.put_off();
        Ok(())
    }

    fn tell(
        &mut self,
        ready: Ready,
        errand: &Errand,
        fds: &[BorrowedFd<'_>],
    ) -> KernelResult<Ready> {
        match errand.send(ready.socket.as_fd(), fds) {
            Ok(()) => Ok(ready),
            Err(errno) => {
                self.bury(ready);
                Err(errno)
            }
        }
    }

    /// A new one, which has these descriptors.
    fn fork(&self, fds: &[BorrowedFd<'_>]) -> KernelResult<Ready> {
        let flags = SocketFlags::CLOEXEC;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // It reads as soon as it runs, and only an errand of very many targets has to wait.
        set_socket_timeout(&socket, Timeout::Send, Some(DEADLINE))?;
        let pid = match fork()? {
            Fork::Child => visit(self.proc.as_fd(), &self.filters, self.heap, (&theirs, fds)),
            Fork::Parent(pid) => pid,
        };
        // Only time is lost without.
        self.heap.map_or(Ok(()), Heap::own).unwrap_or(());
        // Our own child, which nobody else waits for: the number is its own.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
            // Nobody would hear of its end. Both fail only if it is no child.
            kill_process(pid, Signal::KILL).unwrap_or(());
            waitpid(Some(pid), WaitOptions::empty()).map(drop).unwrap_or(());
        })?;
        Ok(Ready { pidfd, socket })
    }

    /// Sees to the end of one that is of no use.
    fn bury(&mut self, ready: Ready) {
        let mut helper = Helper::from(ready);
        helper.end();
        self.running.push(helper);
    }

    /// What becomes readable when the one that is ready ends, which is not its to do.
    pub fn ready(&self) -> Option<BorrowedFd<'_>> {
        self.ready.as_ref().map(|ready| ready.socket.as_fd())
    }

    /// Sees to the end of the one that was ready. The next request makes another: if it is
    /// their nature to end, one for each request is enough.
    pub fn bury_ready(&mut self) {
        if let Some(ended) = self.ready.take() {
            self.bury(ended);
        }
    }

    fn put_off(&mut self) {
        self.chores.get_or_insert_with(|| Instant::now() + LATER);
    }

    /// When something is to be done next.
    pub fn next(&self) -> Option<Instant> {
        let working = self.running.iter().filter(|it| it.socket.is_some() && !it.is_done());
        working.map(|it| it.deadline).chain(self.chores).min()
    }

    /// Until when an answer is to be expected so soon that sleeping is not worth while.
    pub fn soon(&self, now: Instant) -> Option<Instant> {
        self.look.filter(|then| *then > now)
    }

    /// Reads what the helper at `index` has to say.
    pub fn hear(&mut self, index: usize) -> Vec<Outcome> {
        let Some(helper) = self.running.get_mut(index) else { return Vec::new() };
        let Some(socket) = &helper.socket else { return Vec::new() };
        let mut chunk = [0_u8; 4096];
        let outcomes = match receive(socket.as_fd(), &mut chunk, RecvFlags::DONTWAIT) {
            Ok(part) if part.bytes > 0 && helper.input.len() < LONGEST => {
                helper.input.extend_from_slice(&chunk[..part.bytes]);
                helper.answers(part.fds)
            }
            Err(Errno::INTR | Errno::AGAIN) => Vec::new(),
            _ => helper.give_up("its helper ended before it answered"),
        };
        if helper.is_done() {
            self.look = None;
            self.put_off();
        }
        outcomes
    }

    /// Gives up those whose time is over, and forgets those that have ended.
    pub fn tidy(&mut self, now: Instant) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        if self.chores.is_some_and(|then| then <= now) {
            self.do_chores();
        }
        self.running.retain_mut(|helper| {
            if helper.socket.is_some() && !helper.is_done() && helper.deadline <= now {
                outcomes.extend(helper.give_up(NO_ANSWER));
            }
            helper.socket.is_some() || !helper.has_ended()
        });
        outcomes
    }

    fn do_chores(&mut self) {
        self.chores = None;
        // One that was stopped after its answer would not see that its socket is closed.
        self.running.iter_mut().filter(|helper| helper.is_done()).for_each(Helper::end);
        if self.ready.is_none() {
            // If it fails now, only time is lost: the next request forks its own, and if that
            // fails too, its client is told why, and so is the log.
            self.ready = self.fork(&[]).ok();
        }
    }
}

impl From<Ready> for Helper {
    fn from(Ready { pidfd, socket }: Ready) -> Self {
        Self {
            pidfd,
            socket: Some(socket),
            killed: false,
            input: Vec::new(),
            deadline: Instant::now() + DEADLINE,
            uid: 0,
            sort: Sort::Request,
            claim: ((0, 0), BTreeSet::new()),
            jobs: VecDeque::new(),
            lends: 0,
            mounts: Vec::new(),
        }
    }
}

impl Helper {
    /// Whether it has answered all that it was asked, and did not have to be given up.
    fn is_done(&self) -> bool {
        self.jobs.is_empty() && !self.killed
    }

    /// What it has said so far; these descriptors came with the end of it.
    fn answers(&mut self, fds: Vec<OwnedFd>) -> Vec<Outcome> {
        let (mut outcomes, mut fds) = (Vec::new(), fds.into_iter());
        loop {
            while self.input.first() == Some(&MOUNT) {
                self.input.remove(0);
                if self.lends > 0 {
                    self.lends -= 1;
                    self.mounts.push(fds.next());
                }
            }
            let end = self.input.iter().position(|byte| *byte == b'\n');
            let Some(end) = end else { break };
            let line: Vec<u8> = self.input.drain(..=end).collect();
            let Some(job) = self.jobs.pop_front() else { break };
            let reply = Reply::from_json(&line);
            let reply = reply.map_err(|bad| refusal(ErrorCode::Failed, bad.to_string(), ""));
            outcomes.push(Outcome { job, reply, mounts: std::mem::take(&mut self.mounts) });
        }
        if self.jobs.is_empty() {
            // What it still does, it does for nobody.
            self.claim.1.clear();
        }
        outcomes
    }

    fn give_up(&mut self, why: &str) -> Vec<Outcome> {
        self.end();
        let failed = |job| {
            let message = format!("carry out the request: {why}");
            let hint = "'remountctl list' shows what became of it";
            Outcome::refused(job, refusal(ErrorCode::Failed, message, hint))
        };
        std::mem::take(&mut self.jobs).into_iter().map(failed).collect()
    }

    fn end(&mut self) {
        // It may have ended.
        pidfd_send_signal(&self.pidfd, Signal::KILL).unwrap_or(());
        self.socket = None;
        self.killed = true;
    }

    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let ended = waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
        !matches!(ended, Ok(None) | Err(Errno::INTR))
    }
}

/// Why no helper could be started.
pub(super) fn cannot_start(errno: Errno) -> Refusal {
    let message = format!("start a helper: {:#}", Reason::from(errno));
    refusal(ErrorCode::Failed, message, "try again")
}
