//! The process that was called: it starts the sandbox, tells who asked what it started,
//! and waits for the command's end.

use super::child::{self, Inside};
use super::error::{Die, OrDie, Result};
use super::fds::{Named, close_all_but, write_all};
use super::keeper;
use super::request::Request;
use super::serve::{self, Broker};
use super::status::{self, Started};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use remount_broker::placeholder::Placeholders;
use remount_broker::sys::process::{self, Fork};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, UCred,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

/// What the monitor keeps of the connections to the sandbox.
struct Ends {
    /// Init writes the command's exit status here, plus one.
    event: Option<OwnedFd>,
    /// Where the sandbox is told that it may go on, if it waits for that.
    gate: Option<OwnedFd>,
    /// A byte comes before the command is executed, and another if that failed.
    setup: Option<OwnedFd>,
    /// Where a sandbox in a PID namespace that was there says which process it is.
    pid: Option<OwnedFd>,
    /// The broker's connections to the sandbox, if there is to be one.
    broker: Option<serve::Ends>,
    /// What was made on the host for a profile.
    placeholders: Option<Placeholders>,
}

/// Starts what is asked for and waits for its end.
pub(super) fn start(request: &Request) -> Result<ExitCode> {
    let event = (request.unshare.pid && !request.as_pid_1)
        .then(|| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))
        .transpose()
        .or_die(|| "eventfd()")?;
    block_child_signals()?;
    let (gate, go) = waits(request).then(pipe).transpose()?.unzip();
    let (setup, report) = request.json_status_fd.is_some().then(pipe).transpose()?.unzip();
    if let Some(userns) = &request.userns {
        join_user_namespace(userns)?;
    }
    let (pid_socket, own_pid) = pid_sockets(request)?.unzip();
    // Before there is a command: whoever sees that it runs may end the caller.
    child::die_with_parent(request)?;
    let (inside, broker) = request.targets.is_some().then(serve::connect).transpose()?.unzip();
    let placeholders = keeper::make(request.narrowing.as_ref())?;
    let fork = match process::fork_into(clone_flags(request)) {
        Ok(fork) => fork,
        Err(errno) => {
            // What cannot be removed is recorded.
            drop(placeholders.map(Placeholders::remove));
            return Err(no_namespaces(request, errno));
        }
    };
    let Fork::Parent(pid) = fork else {
        drop((go, setup, pid_socket, broker, placeholders));
        let inside = Inside { request, event, gate, report, own_pid, broker: inside };
        // It has said why.
        process::exit(child::enter(inside));
    };
    drop((gate, report, own_pid, inside));
    let ends = Ends { event, gate: go, setup, pid: pid_socket, broker, placeholders };
    watch(request, pid, ends)
}

/// Whether the sandbox has to wait for this process before it goes on.
fn waits(request: &Request) -> bool {
    request.info_fd.is_some()
        || request.json_status_fd.is_some()
        || request.userns_block_fd.is_some()
        // If it cannot be joined, one of the two says so.
        || request.userns2.is_some()
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).or_die(|| "pipe2()")
}

/// SIGCHLD is read from a descriptor. Children that this process was given by whoever
/// executed it are buried.
fn block_child_signals() -> Result<()> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
        .or_die(|| "sigprocmask")?;
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    Ok(())
}

fn join_user_namespace(userns: &Named) -> Result<()> {
    match userns.with(|fd| move_into_link_name_space(fd, Some(LinkNameSpaceType::User))) {
        Err(Errno::INVAL) => Err(Die::new(
            "Joining the specified user namespace failed, it might not be a descendant of the \
             current user namespace.",
        )),
        result => result.or_die(|| "Joining specified user namespace failed"),
    }
}

/// A sandbox that joins a PID namespace has processes on the way there: this one is told
/// which is the last, and buries it.
fn pid_sockets(request: &Request) -> Result<Option<(OwnedFd, OwnedFd)>> {
    if request.pidns.is_none() {
        return Ok(None);
    }
    let me = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(me)).or_die(|| "prctl")?;
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .or_die(|| "Can't create intermediate pids socket")?;
    rustix::net::sockopt::set_socket_passcred(&ours, true).or_die(|| "Can't set SO_PASSCRED")?;
    Ok(Some((ours, theirs)))
}

/// Tells the monitor which process this is, in whatever namespace it looks.
pub(super) fn send_pid(socket: &OwnedFd) -> Result<()> {
    let credentials = UCred {
        pid: rustix::process::getpid(),
        uid: rustix::process::geteuid(),
        gid: rustix::process::getegid(),
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmCredentials(credentials)) {
        return Err(Die::errno("Can't send pid", Errno::NOBUFS));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(b"\0")], &mut control, SendFlags::empty())
        .or_die(|| "Can't send pid")
        .map(drop)
}

fn receive_pid(socket: &OwnedFd) -> Result<Pid> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::empty(),
    )
    .or_die(|| "Can't read pid from socket")?;
    let pid = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
        _ => None,
    });
    pid.ok_or_else(|| Die::new("Unexpected short read from pid socket"))
}

fn clone_flags(request: &Request) -> u64 {
    let unshare = &request.unshare;
    let flags = [
        (unshare.user, libc::CLONE_NEWUSER),
        (unshare.pid && request.pidns.is_none(), libc::CLONE_NEWPID),
        (unshare.net, libc::CLONE_NEWNET),
        (unshare.ipc, libc::CLONE_NEWIPC),
        (unshare.uts, libc::CLONE_NEWUTS),
        (unshare.cgroup, libc::CLONE_NEWCGROUP),
    ];
    let flags = flags.into_iter().filter(|(wanted, _)| *wanted);
    flags.fold(libc::CLONE_NEWNS, |all, (_, flag)| all | flag) as u64
}

fn no_namespaces(request: &Request, errno: Errno) -> Die {
    match errno {
        Errno::INVAL if request.unshare.user => Die::new(
            "Creating new namespace failed, likely because the kernel does not support user \
             namespaces.  bwrap must be installed setuid on such systems.",
        ),
        Errno::PERM if request.unshare.user => Die::new(
            "No permissions to create a new namespace, likely because the kernel does not allow \
             non-privileged user namespaces. On e.g. debian this can be enabled with 'sysctl \
             kernel.unprivileged_userns_clone=1'.",
        ),
        Errno::NOSPC => Die::new(
            "Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces \
             exceeded (ENOSPC)",
        ),
        errno => Die::errno("Creating new namespace failed", errno),
    }
}

/// Tells who asked what was started, lets it go on, and waits for its end.
fn watch(request: &Request, child: Pid, mut ends: Ends) -> Result<ExitCode> {
    let child = match &ends.pid {
        Some(socket) => receive_pid(socket)?,
        None => child,
    };
    ends.placeholders.take().map_or(Ok(()), |made| keeper::leave(made, child))?;
    let broker = match request.targets.as_ref().zip(ends.broker.take()) {
        Some((targets, ends)) => Some(Broker::start(request, targets, child, ends)?),
        None => None,
    };
    let (info, status) = (request.info_fd.as_ref(), request.json_status_fd.as_ref());
    // Before privileges are given up, which may be needed to look.
    let started =
        (info.is_some() || status.is_some()).then(|| Started::look(child, &request.unshare));
    if let Some(userns) = &request.userns2 {
        userns
            .with(|fd| move_into_link_name_space(fd, Some(LinkNameSpaceType::User)))
            .or_die(|| "Setting userns2 failed")?;
    }
    request.capabilities.give_up()?;
    child::be_dumpable()?;
    // Another user namespace may have reset it (prctl(2)).
    child::die_with_parent(request)?;
    if let Some(started) = started {
        started.tell(info, status)?;
    }
    if let Some(block) = &request.userns_block_fd {
        block.wait();
        block.close();
    }
    if let Some(gate) = ends.gate.take() {
        // If the sandbox has ended, that is told by how it ended.
        write_all(gate.as_fd(), b"1").unwrap_or(());
    }
    let mut only = SigSet::empty();
    only.add(Signal::SIGCHLD);
    let signals = SignalFd::with_flags(&only, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
        .or_die(|| "Can't create signalfd")?;
    // It ends here: most of what it owns is closed, and must not be closed again.
    process::exit(match stay(status, child, &ends, &signals, broker) {
        Ok(code) => code.into(),
        Err(die) => {
            die.print();
            1
        }
    })
}

/// Closes what others passed to the command by way of this process, waits, and tells how
/// it ended.
fn stay(
    status: Option<&Named>,
    child: Pid,
    ends: &Ends,
    signals: &SignalFd,
    mut broker: Option<Broker>,
) -> Result<u8> {
    let mut own = vec![signals.as_fd()];
    own.extend(ends.event.iter().chain(&ends.setup).map(AsFd::as_fd));
    own.extend(broker.iter().flat_map(Broker::descriptors));
    close_all_but(&own, status).or_die(|| "close_range")?;
    let code = wait_for(child, ends.event.as_ref(), signals, broker.as_mut());
    if let Some(broker) = broker {
        broker.finish();
    }
    let code = code?;
    if let (Some(status), Some(setup)) = (status, &ends.setup) {
        let mut bytes = [0; 2];
        // One byte: it was executed. None: it never came so far. Two: that failed.
        if rustix::io::read(setup, &mut bytes) == Ok(1) {
            status::tell_end(status, code);
        }
    }
    Ok(code)
}

/// The exit status of the command, which init tells, or of `child` if init does not.
fn wait_for(
    child: Pid,
    event: Option<&OwnedFd>,
    signals: &SignalFd,
    mut broker: Option<&mut Broker>,
) -> Result<u8> {
    loop {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        fds.extend(event.map(|event| PollFd::new(event, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Die::errno("poll", errno)),
        }
        drop(fds);
        // First: when the command ends, init often ends at once.
        if let Some(event) = event {
            let mut value = [0; 8];
            if rustix::io::read(event, &mut value) == Ok(8) {
                let code = u64::from_ne_bytes(value).saturating_sub(1);
                return Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX));
            }
        }
        while let Ok(Some(_)) = signals.read_signal() {}
        let mut alone = false;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(broker) = broker.as_mut().filter(|broker| broker.pid() == pid) {
                alone = broker.leaves_it_alone();
            }
            if pid == child {
                return Ok(exit_code(status));
            }
        }
        // When the sandbox ends so does its broker, and both were found.
        if alone {
            return Err(serve::end_without_broker(child));
        }
    }
}

/// A process's end as a shell tells it.
pub(super) fn exit_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (_, Some(signal)) => 128 + signal,
        _ => 255,
    };
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}
