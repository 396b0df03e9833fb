//! The launcher's own process while the sandbox lives: it waits, passes signals on,
//! stops and resumes with the agent, and ends with the agent's exit code.

use crate::confirm::Confirm;
use crate::enter::{self, Inherited};
use crate::outside::{Outside, Presence};
use crate::plan::Plan;
use crate::report::{self, Failure, Message, Reports};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use remount_broker::sys::process::{self, Fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, pidfd_send_signal, waitpid,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Starts what the plan says and waits for its end.
///
/// # Errors
/// If the sandbox could not be made, or ended without a word.
pub fn run(plan: &Plan, outside: Outside) -> Result<u8, Failure> {
    make_directories(plan)?;
    let (handles, presence, warnings) = outside.appear();
    for warning in warnings {
        eprintln!("remount-run: warning: {warning}");
    }
    let start = || -> Result<Sandbox<'_>, Errno> {
        let signal_mask = block_signals()?;
        let flags = SocketFlags::CLOEXEC;
        let (life, broker_life) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let (reporter, reports) = report::channel()?;
        let pid = match process::fork()? {
            Fork::Child => {
                drop((life, reports));
                // The socket's name is the launcher's to remove.
                if let Some(presence) = presence {
                    presence.abandon();
                }
                let inherited =
                    Inherited { life: broker_life, reporter, signal_mask, outside: handles };
                enter::broker(plan, inherited)
            }
            Fork::Parent(pid) => pid,
        };
        let broker = pidfd_open(pid, PidfdFlags::empty())?;
        let terminal = Terminal::controlled();
        let id = handles.id.clone();
        // The listener is the broker's: where nobody listens, nobody may seem to.
        drop(handles);
        Ok(Sandbox {
            pid,
            broker,
            reports,
            agent: None,
            waiting: Vec::new(),
            terminal,
            confirm: Confirm::new(life, &plan.policy, id),
            _presence: presence,
        })
    };
    let sandbox = start().map_err(|errno| fault("start the broker", errno))?;
    sandbox.supervise(plan.exec.new_session)
}

fn fault(step: &str, errno: Errno) -> Failure {
    Failure { code: 125, message: format!("{step}: {errno}"), hint: None }
}

/// Makes the directories that hold an agent's own state, where they are missing.
fn make_directories(plan: &Plan) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    for dir in &plan.host_directories {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
            Failure {
                code: 125,
                message: format!("create {dir:?}: {error}"),
                hint: Some("the profile keeps the agent's own state there".to_owned()),
            }
        })?;
    }
    Ok(())
}

/// Blocks every signal: they are read from a descriptor instead. Returns the mask
/// that was in force.
fn block_signals() -> Result<SigSet, Errno> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    Ok(before)
}

/// A running sandbox, from outside.
struct Sandbox<'a> {
    pid: Pid,
    broker: OwnedFd,
    reports: Reports,
    /// The agent's pidfd, once it is there.
    agent: Option<OwnedFd>,
    /// Signals that came before the agent.
    waiting: Vec<Signal>,
    terminal: Option<Terminal>,
    /// What the broker asks; the connection closes when this process ends, however it
    /// ends, and then the broker ends too.
    confirm: Confirm<'a>,
    _presence: Option<Presence>,
}

/// What happened last.
enum Fate {
    Running,
    Exited(u8),
    Failed(Failure),
}

impl Sandbox<'_> {
    fn supervise(mut self, new_session: bool) -> Result<u8, Failure> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&SigSet::all(), flags)
            .map_err(|errno| fault("read signals", Errno::from_raw_os_error(errno as i32)))?;
        let mut fate = Fate::Running;
        let mut reports_open = true;
        loop {
            let ready = wait_for([
                reports_open.then(|| self.reports.as_fd()),
                Some(signals.as_fd()),
                Some(self.broker.as_fd()),
                self.confirm.interest(),
            ])
            .map_err(|errno| fault("wait for the sandbox", errno))?;
            if ready[0] {
                match self.reports.next() {
                    Ok(Some(message)) => self.hear(message, &mut fate),
                    Ok(None) => reports_open = false,
                    Err(errno) => return Err(fault("hear from the sandbox", errno)),
                }
                continue;
            }
            if ready[3] {
                self.confirm.hear();
            }
            if ready[1] {
                while let Ok(Some(info)) = signals.read_signal() {
                    self.confirm.reap();
                    self.pass_on(info.ssi_signo, info.ssi_code, new_session);
                }
            }
            if ready[2] {
                break;
            }
        }
        waitpid(Some(self.pid), WaitOptions::empty())
            .map_err(|errno| fault("wait for the broker", errno))?;
        if let Some(terminal) = &self.terminal {
            terminal.take_back();
        }
        match fate {
            Fate::Exited(code) => Ok(code),
            Fate::Failed(failure) => Err(failure),
            Fate::Running => Err(Failure {
                code: 125,
                message: "wait for the sandbox: it was killed".to_owned(),
                hint: Some("broker or init was killed from outside, or memory ran out".to_owned()),
            }),
        }
    }

    fn hear(&mut self, message: Message, fate: &mut Fate) {
        match message {
            // The first failure is the cause of all others.
            Message::Failed(failure) => {
                if !matches!(fate, Fate::Failed(_)) {
                    *fate = Fate::Failed(failure);
                }
            }
            Message::Started(pidfd) => {
                self.agent = Some(pidfd);
                for signal in std::mem::take(&mut self.waiting) {
                    self.send(signal);
                }
            }
            Message::Stopped => self.stop_too(),
            Message::Exited(code) => {
                if matches!(fate, Fate::Running) {
                    *fate = Fate::Exited(code);
                }
            }
        }
    }

    /// The shell that started us must see that the job has stopped; when it resumes
    /// us, the agent resumes.
    fn stop_too(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.take_back();
        }
        // SIGSTOP cannot be blocked: this returns after SIGCONT.
        if kill_process(rustix::process::getpid(), Signal::STOP).is_ok() {
            self.send(Signal::CONT);
        }
    }

    /// Passes a signal on to the agent, unless the agent got it as well: what the
    /// terminal sends goes to the whole foreground group.
    fn pass_on(&mut self, number: u32, code: i32, new_session: bool) {
        let from_terminal = code == libc::SI_KERNEL;
        let Some(signal) = i32::try_from(number).ok().and_then(Signal::from_named_raw) else {
            return;
        };
        if signal == Signal::CHILD || (from_terminal && !new_session) {
            return;
        }
        if self.agent.is_some() {
            self.send(signal);
        } else {
            self.waiting.push(signal);
        }
    }

    fn send(&self, signal: Signal) {
        if let Some(agent) = &self.agent {
            // It fails only if the agent has ended, which init reports.
            pidfd_send_signal(agent, signal).unwrap_or(());
        }
    }
}

/// Waits until one of the descriptors is readable or closed; tells which.
fn wait_for<const N: usize>(fds: [Option<BorrowedFd<'_>>; N]) -> Result<[bool; N], Errno> {
    let mut polled: Vec<_> =
        fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    while let Err(errno) = poll(&mut polled, None) {
        if errno != Errno::INTR {
            return Err(errno);
        }
    }
    let mut answers = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && answers.next().unwrap_or(false)))
}

/// The terminal, if this process was in its foreground at the start: a shell inside
/// gives the foreground to its own jobs, and cannot give it back to a group that it
/// does not see.
struct Terminal {
    fd: OwnedFd,
    group: Pid,
}

impl Terminal {
    fn controlled() -> Option<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok()?;
        let group = rustix::process::getpgrp();
        (rustix::termios::tcgetpgrp(&fd).ok()? == group).then_some(Self { fd, group })
    }

    /// SIGTTOU is blocked, so that this works from the background (tcsetpgrp(3)); it
    /// fails only if the terminal is gone.
    fn take_back(&self) {
        if rustix::termios::tcgetpgrp(&self.fd).is_ok_and(|group| group != self.group) {
            rustix::termios::tcsetpgrp(&self.fd, self.group).unwrap_or(());
        }
    }
}
