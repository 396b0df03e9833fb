//! PID 1 of the sandbox: builds it, starts the agent in it, and buries its dead.

use super::{EnterError, Handover, Step, die_with_parent, end, identity};
use crate::confine::{self, EmptyBoundingSet};
use crate::exec;
use crate::mount;
use crate::plan::Plan;
use crate::proxy;
use crate::report::{Link, Message, Reporter};
use crate::supervise::QUIET;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use remount_broker::sys::memory;
use remount_broker::sys::net;
use remount_broker::sys::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, WaitOptions, pidfd_open, set_dumpable_behavior, wait,
};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// What init inherits from the launcher.
#[derive(Debug)]
pub struct Init<'a> {
    /// What is to be done.
    pub plan: &'a Plan,
    /// Where failures and the agent's fate are told.
    pub reporter: Reporter,
    /// The connection to the broker.
    pub broker: Link,
    /// The agent's end of the connection that all processes inside inherit.
    pub shared: Link,
    /// The connection to the filter of sockets, if there is one; its end is the end of that.
    pub filter: Option<Link>,
    /// The connection to who writes down what is executed; its end is the end of that.
    pub audit: Option<Link>,
    /// The signal mask that the agent is to have.
    pub signal_mask: SigSet,
}

impl Init<'_> {
    /// Builds the sandbox and stays as its init until the agent has ended; does not return.
    pub fn run(self) -> ! {
        let Self { plan, reporter, broker, shared, filter, audit, signal_mask } = self;
        let result = build(plan, &broker, &reporter, filter.as_ref()).and_then(|bounding| {
            let inherited = exec::Inherited {
                broker: &broker,
                audit: audit.as_ref(),
                shared: &shared,
                signal_mask,
                bounding,
            };
            let agent = start_agent(plan, &reporter, &inherited)?;
            drop(shared);
            confine::drop_capabilities(bounding)?;
            rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
            reap(agent, &broker, &reporter)
        });
        end(&reporter, result)
    }
}

fn build(
    plan: &Plan,
    broker: &Link,
    reporter: &Reporter,
    filter: Option<&Link>,
) -> Result<EmptyBoundingSet, EnterError> {
    die_with_parent()?;
    if let Some(identity) = plan.namespaces.user {
        identity::map_ids(identity)?;
    }
    let user = plan.namespaces.user.map(|_| namespace("/proc/self/ns/user")).transpose()?;
    let mount = namespace("/proc/self/ns/mnt")?;
    let processes = rustix::fs::stat("/proc/self/ns/pid").step("look at the new namespaces")?;
    let processes = (processes.st_dev, processes.st_ino);
    // The modes of what is made are those that are asked for.
    let umask = rustix::process::umask(Mode::empty());
    let tree = mount::begin(&plan.mounts, plan.namespaces.user.is_some())?;
    if plan.waits_for_host() {
        reporter.wait().step("wait for the host's placeholders")?;
    }
    let mut handles = tree.finish(&plan.mounts)?;
    rustix::process::umask(umask);
    if let Some(filter) = filter {
        let sockets = std::mem::take(&mut handles.sockets);
        proxy::hand_over(filter, sockets).step("hand the sockets over to the filter")?;
    }
    hand_over(broker, Handover { user, mount, processes, handles })?;
    if let Some(hostname) = &plan.namespaces.hostname {
        nix::unistd::sethostname(hostname).step("set the host name")?;
    }
    if plan.namespaces.unshare_network {
        net::loopback_up().step("bring up the loopback interface")?;
    }
    Ok(confine::empty_bounding_set()?)
}

fn namespace(path: &str) -> Result<OwnedFd, EnterError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).step("open the new namespaces")
}

/// Gives the broker what it needs, each descriptor in a message that begins with its kind.
pub(crate) fn hand_over(broker: &Link, handover: Handover) -> Result<(), EnterError> {
    let send = |bytes: &[u8], fd: &OwnedFd| {
        broker.send(bytes, Some(fd.as_fd())).step("hand the mounts over to the broker")
    };
    if let Some(user) = &handover.user {
        send(b"U", user)?;
    }
    let (device, inode) = handover.processes;
    send(&[&b"N"[..], &device.to_le_bytes(), &inode.to_le_bytes()].concat(), &handover.mount)?;
    if let Some(listener) = &handover.handles.listener {
        send(b"L", listener)?;
    }
    for member in &handover.handles.members {
        let target = u32::try_from(member.target).map_err(|_| EnterError::NoBroker)?.to_le_bytes();
        let path = member.path.as_os_str().as_bytes();
        let source = member.source.as_ref().map_or(&b""[..], |path| path.as_os_str().as_bytes());
        send(&[&b"M"[..], &target, path, b"\0", source].concat(), &member.fd)?;
    }
    for source in &handover.handles.sources {
        let mode = if source.mode == remount_broker::name::Mode::Rw { b"Fw" } else { b"Fr" };
        send(&[&mode[..], source.path.as_os_str().as_bytes()].concat(), &source.fd)?;
    }
    broker.send(b".", None).step("hand the mounts over to the broker")
}

fn start_agent(
    plan: &Plan,
    reporter: &Reporter,
    inherited: &exec::Inherited<'_>,
) -> Result<Pid, EnterError> {
    // Before the agent exists: it has the same user id, and could otherwise read this
    // process's memory and use its descriptors.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("make init unreadable")?;
    let agent = process::spawn_borrowing(&mut || match exec::execute(plan, inherited) {
        Ok(never) => match never {},
        Err(error) => end(reporter, Err(error)),
    });
    let agent = agent.step("fork the agent")?;
    let pidfd = pidfd_open(agent, PidfdFlags::empty()).step("open a pidfd of the agent")?;
    reporter.tell(&Message::Started(pidfd)).step("report the agent")?;
    Ok(agent)
}

/// Waits for every process that ends, until the agent has, or the broker. Everything
/// that is left then dies with this process, the PID namespace's first.
fn reap(agent: Pid, broker: &Link, reporter: &Reporter) -> Result<(), EnterError> {
    let mut child = SigSet::empty();
    child.add(nix::sys::signal::Signal::SIGCHLD);
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let children = SignalFd::with_flags(&child, flags).step("watch the agent")?;
    let mut quiet = Some(QUIET);
    loop {
        // First look, then wait: the agent may have ended before the descriptor was there.
        while let Some(state) = next_state(agent)? {
            if matches!(state, Message::Exited(_)) {
                // The broker ends while the launcher and this process do.
                broker.hang_up().step("end the broker")?;
                return reporter.tell(&state).step("report the agent's end");
            }
            reporter.tell(&state).step("report the agent's state")?;
        }
        let mut fds = [
            PollFd::new(&children, PollFlags::IN),
            // Only its end matters: what the broker sends is for the agent.
            PollFd::new(broker, PollFlags::empty()),
        ];
        match poll(&mut fds, quiet.as_ref()) {
            Ok(0) => {
                quiet = None;
                // If it fails, this process is larger than it need be.
                memory::release_program().unwrap_or(());
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).step("wait for the agent"),
        }
        if !fds[1].revents().is_empty() {
            return Err(EnterError::NoBroker);
        }
        while let Ok(Some(_)) = children.read_signal() {}
    }
}

/// The next change of the agent's state; what else has ended is buried on the way.
///
/// The status is taken as the kernel gives it: an orphan may have died of a signal that
/// has no name, and that is no reason to fail.
fn next_state(agent: Pid) -> Result<Option<Message>, EnterError> {
    loop {
        let (pid, status) = match wait(WaitOptions::UNTRACED | WaitOptions::NOHANG) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(Errno::CHILD) => return Ok(None),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).step("wait for the agent"),
        };
        if pid != agent {
            continue;
        }
        if let Some(signal) = status.terminating_signal() {
            return Ok(Some(Message::Exited(((128 + signal) & 0xff) as u8)));
        }
        if let Some(code) = status.exit_status() {
            return Ok(Some(Message::Exited((code & 0xff) as u8)));
        }
        if status.stopped() {
            return Ok(Some(Message::Stopped));
        }
    }
}
