//! Holding a sandbox still for a moment.
//!
//! Each `mkdir`, `unlink` or `chmod` counts as a writer of its mount from its beginning to
//! its end, also while it waits for its turn on the directory or for a processor. Where
//! several processes do nothing else, there is hardly ever an instant without one
//! (`mnt_want_write`, fs/namespace.c), and no number of attempts makes `ro` certain. A
//! process that is stopped has ended its system call first, so once all are, only files
//! that are open remain.

use super::Inspector;
use super::process::{Stat, each_number};
use rustix::event::{Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::process::{Pid, Signal, pidfd_send_signal};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// The longest that it takes to stop all processes; then those that were are all there is.
const GATHER: Duration = Duration::from_millis(200);

/// Processes that stand still. They go on when this is dropped; should the broker die
/// first, the launcher resumes init, which then ends the sandbox.
#[derive(Debug)]
pub(crate) struct Halted {
    /// In the order in which they were stopped.
    processes: Vec<OwnedFd>,
}

impl Inspector {
    /// Stops every process of the sandbox that is not stopped already, parents before
    /// their children and init first of all: nobody who waits for a child learns that it
    /// was stopped, since it runs again before they do.
    pub(crate) fn halt(&self) -> Halted {
        let end = Instant::now() + GATHER;
        let mut halted = Halted { processes: Vec::new() };
        let mut known = BTreeSet::new();
        // Without a PID namespace of its own a sandbox cannot be told from the machine.
        if self.own == self.sandbox {
            return halted;
        }
        if self.halt_init(&mut halted, end).is_err() {
            return halted;
        }
        // Again, for those who were started meanwhile.
        while Instant::now() < end {
            let mut new = self.not_halted(&known, end);
            if new.is_empty() {
                break;
            }
            while let Some((pid, process)) = take_eldest(&mut new) {
                known.insert(pid);
                // One that cannot be signalled has ended.
                if pidfd_send_signal(&process, Signal::STOP).is_ok() {
                    halted.processes.push(process);
                }
            }
        }
        halted
    }

    /// Init must stand still before the first of its children does: it would report that.
    fn halt_init(&self, halted: &mut Halted, end: Instant) -> Result<()> {
        let init = self.process(self.init.as_raw_nonzero().get())?;
        pidfd_send_signal(&init, Signal::STOP)?;
        halted.processes.push(init);
        while !self.stat(self.init)?.is_stopped() {
            if Instant::now() >= end {
                return Err(Errno::TIMEDOUT);
            }
            pause(Duration::from_micros(50));
        }
        Ok(())
    }

    fn stat(&self, pid: Pid) -> Result<Stat> {
        Stat::of(self.process(pid.as_raw_nonzero().get())?.as_fd())
    }

    /// The sandbox's processes that run, without those that are known.
    fn not_halted(&self, known: &BTreeSet<i32>, end: Instant) -> Vec<Running> {
        let mut found = Vec::new();
        let listed = each_number(self.proc.as_fd(), |pid| {
            if known.contains(&pid) || pid == self.init.as_raw_nonzero().get() {
                return true;
            }
            let Ok(process) = self.process(pid) else { return true };
            if self.is_in_sandbox(process.as_fd())
                && let Ok(stat) = Stat::of(process.as_fd())
                && !stat.is_stopped()
            {
                found.push(Running { pid, parent: stat.parent, process });
            }
            Instant::now() < end
        });
        // What cannot be listed is not stopped; then the mount stays busy.
        listed.unwrap_or(());
        found
    }
}

struct Running {
    pid: i32,
    parent: i32,
    process: OwnedFd,
}

/// Takes one whose parent is not among them.
fn take_eldest(running: &mut Vec<Running>) -> Option<(i32, OwnedFd)> {
    let pids: BTreeSet<i32> = running.iter().map(|it| it.pid).collect();
    let place = running.iter().position(|it| !pids.contains(&it.parent)).unwrap_or(0);
    let found = (!running.is_empty()).then(|| running.swap_remove(place))?;
    Some((found.pid, found.process))
}

/// Sleeps without a system call of its own.
pub(crate) fn pause(time: Duration) {
    let time = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    // Being interrupted makes it shorter.
    poll(&mut [], Some(&time)).unwrap_or(0);
}

impl Drop for Halted {
    fn drop(&mut self) {
        for process in self.processes.iter().rev() {
            // One that cannot be signalled has been killed.
            pidfd_send_signal(process, Signal::CONT).unwrap_or(());
        }
    }
}
