//! The processes that descend from the one that a sandbox is known by: of a machine's
//! thousands they are found without a look at the others.
//!
//! `/proc/PID/task/TID/children` (proc_pid_tid_children(5)) may miss some while processes
//! end, and kernels can be built without it; who enters a sandbox from outside descends
//! from nobody there. So whoever is not found this way is still looked for in the whole list.

use super::Inspector;
use super::process::{Namespace, each_number, namespace_at, read};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Result;
use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes read of one list of children: some eight thousand of them.
const LONGEST: usize = 64 << 10;

impl Inspector {
    /// Calls `each` with the id of each member of the family, parents before their children,
    /// until it says `false`.
    pub(super) fn each_relative(&self, mut each: impl FnMut(i32) -> bool) {
        let mut waiting: VecDeque<i32> = self.eldest().into_iter().collect();
        let mut known: BTreeSet<i32> = waiting.iter().copied().collect();
        while let Some(pid) = waiting.pop_front()
            && each(pid)
        {
            // One that has ended has no children any more: init took them in.
            let Ok(process) = self.process(pid) else { continue };
            let children = children(process.as_fd()).unwrap_or_default();
            waiting.extend(children.into_iter().filter(|child| known.insert(*child)));
        }
    }

    /// The eldest ancestor of the process that the sandbox is known by, that one included,
    /// in the same mount and PID namespace. `None` where that is all of a machine's processes.
    fn eldest(&self) -> Option<i32> {
        let init = self.init.as_raw_nonzero().get();
        let own = self.home(init).ok();
        let is_there = |pid: &i32| own.is_some() && self.home(*pid).ok() == own;
        let eldest = self.lineage(self.init).into_iter().take_while(is_there).last();
        eldest.or(Some(init)).filter(|pid| *pid != 1)
    }

    /// The mount and the PID namespace of a process.
    fn home(&self, pid: i32) -> Result<(Namespace, Namespace)> {
        let at = |name: &str| namespace_at(self.proc.as_fd(), format!("{pid}/ns/{name}"));
        Ok((at("mnt")?, at("pid")?))
    }
}

/// The children of all threads of a process.
fn children(process: BorrowedFd<'_>) -> Result<Vec<i32>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tasks = openat(process, c"task", flags, Mode::empty())?;
    let mut found = Vec::new();
    each_number(tasks.as_fd(), |thread| {
        let list = read(tasks.as_fd(), format!("{thread}/children"), LONGEST).unwrap_or_default();
        let list = String::from_utf8_lossy(&list);
        found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        true
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_by_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let this = rustix::fs::open("/proc/self", flags, Mode::empty()).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(children(this.as_fd()).unwrap().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children(this.as_fd()).unwrap().contains(&pid));
    }
}
