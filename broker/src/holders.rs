//! Who keeps files of a mount open for writing, and on which side a process is.
//!
//! The broker stands outside the sandbox's PID namespace and keeps the host's `/proc`,
//! opened before the sandbox had a root of its own. Every question about a process goes
//! through a descriptor of its directory there: that names this one process for ever, so
//! neither an answer nor a signal can reach another one that got its number later.
//!
//! A search is bounded in time and in what it lists: how many processes and files there
//! are is the sandbox's choice.

mod family;
mod halt;
mod held;
mod process;

use crate::name::TargetName;
use crate::proto::{Holder, Holders};
use crate::sys::process::{parent_pid_namespace, thread_time};
use crate::target::Member;
pub(crate) use halt::{Halted, pause};
use held::{Held, descriptors, mappings, threads};
use process::{Namespace, Stat, command, each_number, inner_ids, name, namespace, namespace_at};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Result;
use rustix::process::{Pid, Signal};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The processor time that a search may take: nobody else is served meanwhile.
const LIMIT: Duration = Duration::from_millis(60);

/// The time that it may take on a machine that is busy with other things.
const LONGEST: Duration = Duration::from_secs(2);

/// The most holders listed.
const MOST: usize = 64;

/// PID namespaces lie at most this deep in each other (`MAX_PID_NS_LEVEL`).
const DEPTH: usize = 32;

/// Looks at processes.
#[derive(Debug)]
pub struct Inspector {
    proc: OwnedFd,
    /// The broker's own PID namespace.
    own: Namespace,
    /// The sandbox's.
    sandbox: Namespace,
    /// The sandbox's first process.
    init: Pid,
    /// How many ids a process has that is in the broker's own.
    depth: usize,
}

/// A mount whose holders are looked for.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    /// The target that it belongs to.
    pub target: TargetName,
    /// `stx_mnt_id`.
    pub mount: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// A process that was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// What is said of it, one for each file.
    pub holders: Vec<Holder>,
    /// Its directory in `/proc`, for signals.
    process: OwnedFd,
    /// Whether it is a process of the sandbox, and not its init.
    pub is_inside: bool,
}

/// The outcome of a search.
#[derive(Debug, Default)]
pub(crate) struct Search {
    pub found: Vec<Found>,
    pub more: bool,
    /// All processes of the sandbox were looked at, and hold nothing.
    pub is_clear_inside: bool,
}

impl Search {
    /// As it is reported.
    pub fn report(&self) -> Holders {
        let holders = self.found.iter().flat_map(|found| found.holders.iter().cloned());
        Holders { holders: holders.take(MOST).collect(), more: self.more }
    }
}

impl Found {
    /// Signals this process: by its directory, which is as good as a pidfd
    /// (pidfd_send_signal(2)), so never another one.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::pidfd_send_signal(&self.process, signal)
    }

    /// Its process id outside.
    pub fn pid(&self) -> i32 {
        self.holders.first().map_or(0, |holder| holder.pid)
    }
}

impl Inspector {
    /// Looks through `proc`, the root of the process file system outside, for processes in
    /// the PID namespace `sandbox` (device and inode of its file in `/proc/PID/ns`), whose
    /// first one is `init`.
    ///
    /// # Errors
    /// `proc` is no process file system, or not one that shows this process.
    pub fn new(proc: OwnedFd, sandbox: (u64, u64), init: Pid) -> Result<Self> {
        let own = namespace(proc.as_fd(), c"self/ns/pid")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let this = openat(&proc, c"self", flags, Mode::empty())?;
        let depth = inner_ids(this.as_fd()).len();
        Ok(Self { proc, own, sandbox, init, depth })
    }

    /// Whether the process with this id outside is no process of any sandbox: it lies in
    /// no PID namespace below the broker's. Told by how many ids it has, which anybody may
    /// read; its namespaces themselves a broker in a user namespace may not look at.
    pub(crate) fn is_outside(&self, pid: Pid) -> bool {
        let ids = self
            .process(pid.as_raw_nonzero().get())
            .map(|process| inner_ids(process.as_fd()).len())
            .unwrap_or(usize::MAX);
        (1..=self.depth).contains(&ids)
    }

    /// The command line of a process outside, as printable text.
    pub(crate) fn command(&self, pid: Pid) -> String {
        let process = self.process(pid.as_raw_nonzero().get());
        process.map(|process| command(process.as_fd())).unwrap_or_default()
    }

    /// The name of a process outside, as printable text. Unlike [`Self::command`] it never waits
    /// for that process.
    pub(crate) fn name(&self, pid: Pid) -> String {
        let process = self.process(pid.as_raw_nonzero().get());
        process.map(|process| name(process.as_fd())).unwrap_or_default()
    }

    /// The ids, outside, of a process and its ancestors.
    pub(crate) fn lineage(&self, pid: Pid) -> Vec<i32> {
        let mut lineage = vec![pid.as_raw_nonzero().get()];
        while let Some(&last) = lineage.last()
            && lineage.len() < 256
        {
            let stat = self.process(last).and_then(|process| Stat::of(process.as_fd()));
            match stat {
                Ok(stat) if stat.parent > 0 && !lineage.contains(&stat.parent) => {
                    lineage.push(stat.parent);
                }
                _ => break,
            }
        }
        lineage
    }

    /// Who holds these mounts. Processes of the sandbox are looked at first, beginning with
    /// those that are found without a search; their single threads, and then other processes,
    /// only if none of those is it.
    pub(crate) fn search(&self, mounts: &[Watched]) -> Search {
        let budget = Budget { work: thread_time() + LIMIT, end: Instant::now() + LONGEST };
        let mut search = Search::default();
        let mut family = BTreeSet::new();
        for pass in [Pass::Processes, Pass::Threads, Pass::Others] {
            let mut look = |pid| self.look(pid, pass, mounts, budget, &mut search);
            match pass {
                Pass::Processes => self.each_relative(|pid| family.insert(pid) && look(pid)),
                Pass::Threads => drop(family.iter().all(|pid| look(*pid))),
                Pass::Others => family.clear(),
            }
            let listed = each_number(self.proc.as_fd(), |pid| family.contains(&pid) || look(pid));
            // A directory that cannot be read has nothing to tell.
            search.more |= listed.is_err();
            let is_clear = !search.more && search.found.is_empty();
            search.is_clear_inside |= is_clear && pass == Pass::Threads;
            if !is_clear {
                break;
            }
        }
        search
    }

    /// Looks at one process, if it is meant in this pass. `false` if the search is to be cut
    /// short here, which is then noted.
    fn look(
        &self,
        pid: i32,
        pass: Pass,
        mounts: &[Watched],
        budget: Budget,
        search: &mut Search,
    ) -> bool {
        if budget.is_spent() || search.found.len() >= MOST {
            search.more = true;
            return false;
        }
        // A look by number first: most processes of a machine are not meant.
        let space = namespace_at(self.proc.as_fd(), format!("{pid}/ns/pid"));
        let skip = match pass {
            Pass::Others => space == Ok(self.sandbox),
            Pass::Processes | Pass::Threads => {
                space.is_err() || space == Ok(self.own) && self.own != self.sandbox
            }
        };
        if skip {
            return true;
        }
        let Ok(process) = self.process(pid) else { return true };
        let is_inside = self.is_in_sandbox(process.as_fd());
        if is_inside == matches!(pass, Pass::Others) {
            return true;
        }
        let mut holders = Vec::new();
        if pass == Pass::Threads {
            threads(process.as_fd(), mounts, budget, &mut holders);
        } else {
            descriptors(process.as_fd(), mounts, budget, &mut holders);
            mappings(process.as_fd(), mounts, &mut holders);
        }
        if !holders.is_empty() {
            search.found.push(describe(self.proc.as_fd(), process, pid, is_inside, holders));
        }
        true
    }

    fn process(&self, pid: i32) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.proc, pid.to_string(), flags, Mode::empty())
    }

    /// Whether a process is in the sandbox's PID namespace or in one below it.
    fn is_in_sandbox(&self, process: BorrowedFd<'_>) -> bool {
        match namespace(process, c"ns/pid") {
            Ok(space) if space == self.sandbox => true,
            Ok(space) if space == self.own => false,
            Ok(_) => self.is_below_sandbox(process),
            Err(_) => false,
        }
    }

    fn is_below_sandbox(&self, process: BorrowedFd<'_>) -> bool {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(mut space) = openat(process, c"ns/pid", flags, Mode::empty()) else { return false };
        for _ in 0..DEPTH {
            match rustix::fs::fstat(&space) {
                Ok(stat) if (stat.st_dev, stat.st_ino) == self.sandbox => return true,
                Ok(stat) if (stat.st_dev, stat.st_ino) == self.own => return false,
                _ => {}
            }
            match parent_pid_namespace(space.as_fd()) {
                Ok(parent) => space = parent,
                Err(_) => return false,
            }
        }
        false
    }
}

/// What a search may take.
#[derive(Debug, Clone, Copy)]
struct Budget {
    /// On the clock of this thread's work.
    work: Duration,
    end: Instant,
}

impl Budget {
    fn is_spent(self) -> bool {
        thread_time() >= self.work || Instant::now() >= self.end
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// The sandbox's processes.
    Processes,
    /// Their threads: one may have descriptors of its own.
    Threads,
    /// All other processes: one may have been sent a descriptor.
    Others,
}

fn describe(
    proc: BorrowedFd<'_>,
    process: OwnedFd,
    pid: i32,
    is_inside: bool,
    held: Vec<Held>,
) -> Found {
    // The second id, after the one outside.
    let inner = || inner_ids(process.as_fd()).get(1).copied();
    let pid_inside = if is_inside { inner() } else { None };
    let command = command(process.as_fd());
    let since = Stat::of(process.as_fd()).ok().and_then(|stat| stat.started(proc)).unwrap_or(0);
    let holder = |(target, path, kind)| Holder {
        target,
        pid,
        pid_inside,
        command: command.clone(),
        path,
        kind,
        since,
    };
    let holders = held.into_iter().map(holder).collect();
    Found { holders, process, is_inside: is_inside && pid_inside != Some(1) }
}

/// What is watched of a mount.
pub(crate) fn watched(target: &TargetName, member: &Member) -> Option<Watched> {
    let mount = member.id().ok()?;
    Some(Watched { target: target.clone(), mount, path: member.path.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Inspector {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty()).unwrap();
        let own = namespace(proc.as_fd(), c"self/ns/pid").unwrap();
        Inspector::new(proc, own, Pid::INIT).unwrap()
    }

    #[test]
    fn lineage_ends_with_the_first_process() {
        let me = rustix::process::getpid();
        let lineage = here().lineage(me);
        assert_eq!(lineage[0], me.as_raw_nonzero().get());
        assert!(lineage.len() > 1);
    }
}
