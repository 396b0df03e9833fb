//! PID 1 of the sandbox: builds it, starts the agent in it, and buries its dead.

use super::{EnterError, Step, die_with_parent, end};
use crate::confine::{self, EmptyBoundingSet};
use crate::exec;
use crate::mount::{self, Handles, MemberHandle};
use crate::plan::Plan;
use crate::report::{Link, Message, Reporter};
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use remount_broker::sys::net;
use remount_broker::sys::process::{self, Fork};
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open, set_dumpable_behavior};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// What init inherits from the broker.
pub(crate) struct Start {
    /// Where the broker says that it is ready.
    pub from_broker: Link,
    /// The agent's end of the connection that all processes inside inherit.
    pub shared: Link,
    /// The signal mask that the agent is to have.
    pub signal_mask: SigSet,
    /// What lets capabilities be dropped.
    pub bounding: EmptyBoundingSet,
}

/// Builds the sandbox and stays as its init until the agent has ended.
pub(super) fn run(plan: &Plan, reporter: &Reporter, start: Start) -> Result<(), EnterError> {
    die_with_parent()?;
    let umask = rustix::process::umask(Mode::empty());
    let handles = mount::build(&plan.mounts, plan.namespaces.user.is_some())?;
    hand_over(&start.from_broker, handles)?;
    if let Some(hostname) = &plan.namespaces.hostname {
        nix::unistd::sethostname(hostname).step("set the host name")?;
    }
    if plan.namespaces.unshare_network {
        net::loopback_up().step("bring up the loopback interface")?;
    }
    // Before the agent exists: it has the same user id, and could otherwise read this
    // process's memory and use its descriptors.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("make init unreadable")?;
    let agent = match process::fork().step("fork the agent")? {
        Fork::Child => {
            rustix::process::umask(umask);
            let confined = exec::Confining { plan, start };
            end(reporter, confined.execute())
        }
        Fork::Parent(pid) => pid,
    };
    let bounding = start.bounding;
    drop(start);
    let pidfd = pidfd_open(agent, PidfdFlags::empty()).step("open a pidfd of the agent")?;
    reporter.tell(&Message::Started(pidfd)).step("report the agent")?;
    confine::drop_capabilities(bounding)?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    reap(agent, reporter)
}

/// Gives the broker what it needs of the tree.
fn hand_over(broker: &Link, handles: Handles) -> Result<(), EnterError> {
    broker.send(b"L", Some(handles.listener.as_fd())).step("hand over the socket")?;
    for member in handles.members {
        let target = u32::try_from(member.target).unwrap_or(u32::MAX).to_le_bytes();
        let message = [&b"M"[..], &target, member.path.as_os_str().as_bytes(), b"\0"].concat();
        broker.send(&message, Some(member.fd.as_fd())).step("hand over a mount")?;
    }
    broker.send(b".", None).step("hand over the mounts")
}

/// Reads what [`hand_over`] wrote between `M` and the final NUL.
pub(super) fn parse_member(message: &[u8], fd: OwnedFd) -> MemberHandle {
    let (target, path) = message.split_at(4);
    let target = target.iter().rev().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
    MemberHandle { target, path: OsStr::from_bytes(path).into(), fd }
}

/// Waits for every process that ends, until the agent has. Everything that is left
/// then dies with this process, the PID namespace's first.
fn reap(agent: Pid, reporter: &Reporter) -> Result<(), EnterError> {
    let agent = nix::unistd::Pid::from_raw(agent.as_raw_nonzero().get());
    loop {
        let message = match waitpid(None, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == agent => Message::Exited(code as u8),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == agent => {
                Message::Exited(128 + signal as i32 as u8)
            }
            Ok(WaitStatus::Stopped(pid, _)) if pid == agent => Message::Stopped,
            Ok(_) | Err(nix::Error::EINTR) => continue,
            Err(errno) => return Err(errno).step("wait for the agent"),
        };
        let is_last = matches!(message, Message::Exited(_));
        reporter.tell(&message).step("report the agent's state")?;
        if is_last {
            return Ok(());
        }
    }
}
