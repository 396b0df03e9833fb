//! The launcher's own process while the sandbox lives: it waits, passes signals on,
//! stops and resumes with the agent, and ends with the agent's exit code.

use crate::audit;
use crate::confirm::Confirm;
use crate::enter::{self, Broker, Init, Serving};
use crate::front::say;
use crate::outside::{Outside, Presence};
use crate::plan::Plan;
use crate::proxy;
use crate::report::{self, Failure, Link, Message, Reports, UNPERMITTED};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{getpid, getsid};
use remount_broker::escape::Escaped;
use remount_broker::placeholder::{Placeholders, Store};
use remount_broker::reason::{IoReason, Reason};
use remount_broker::sys::memory;
use remount_broker::sys::process::{self, Fork};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Starts what the plan says and waits for its end. What is executed is written to `record`,
/// if the plan says so.
///
/// # Errors
/// If the sandbox could not be made, or ended without a word.
pub fn run(plan: &Plan, outside: &mut Outside, record: Option<OwnedFd>) -> Result<u8, Failure> {
    // From here on no signal ends this process before what it makes is removed.
    let signal_mask = block_signals().map_err(|errno| fault("prepare the sandbox", errno))?;
    let result = run_blocked(plan, outside, signal_mask, record);
    if result.as_ref().is_err_and(|failure| failure.code == UNPERMITTED) {
        // As it was, for whoever goes on without the sandbox.
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signal_mask), None)
            .map_err(|errno| fault("restore signals", Errno::from_raw_os_error(errno as i32)))?;
    }
    result
}

fn run_blocked(
    plan: &Plan,
    outside: &mut Outside,
    signal_mask: SigSet,
    record: Option<OwnedFd>,
) -> Result<u8, Failure> {
    make_directories(plan)?;
    let forked = Forked::new(plan, signal_mask, record)?;
    // From here on others build the sandbox, and there is time.
    let made = take_changes(plan).and_then(|taken| Ok((taken, make_placeholders(plan)?)));
    let (_taken, placeholders) = match made {
        Ok(made) => made,
        Err(failure) => {
            forked.abandon();
            return Err(failure);
        }
    };
    let result = forked.appear(plan, outside).supervise(plan.exec.new_session);
    if let Some(placeholders) = placeholders {
        remove_placeholders(placeholders);
    }
    result
}

/// Starts what serves the plan's sockets.
fn fork_filter(plan: &Plan, link: Link) -> Result<Process, Errno> {
    match process::fork()? {
        Fork::Parent(pid) => Process::new(pid),
        Fork::Child => proxy::run(plan, link),
    }
}

/// Starts what writes down each command.
fn fork_audit(plan: &Plan, link: Link, file: &OwnedFd) -> Result<Process, Errno> {
    match process::fork()? {
        Fork::Parent(pid) => Process::new(pid),
        Fork::Child => audit::run(plan, link, file),
    }
}

/// Waits for the end of those that serve the sandbox. Who writes down waits itself for the last
/// processes; a dead file system of the host may hold it.
fn join_servers(filter: Option<&Process>, audit: Option<&Process>) -> Result<(), Errno> {
    filter.map_or(Ok(()), Process::join)?;
    let Some(audit) = audit else { return Ok(()) };
    if !wait_for([Some(audit.fd.as_fd())], Some(&LAST))?[0] {
        // It fails only if it has ended.
        process::send_signal(audit.fd.as_fd(), libc::SIGKILL).unwrap_or(());
    }
    audit.join()
}

/// Takes the directories in which overlays keep what is written, for as long as the
/// answer lives: two overlays may not share one (Documentation/filesystems/overlayfs.rst).
fn take_changes(plan: &Plan) -> Result<Vec<OwnedFd>, Failure> {
    let take = |dir: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty())?;
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        Ok(fd)
    };
    let take = |dir: &Path| {
        take(dir).map_err(|errno: Errno| {
            let (reason, hint) = match errno {
                Errno::WOULDBLOCK => (
                    "another sandbox has it".to_owned(),
                    Some("end that one first, or name another directory for this one".to_owned()),
                ),
                errno => (format!("{:#}", Reason::from(errno)), None),
            };
            let message = format!("keep changes in {}: {reason}", Escaped::path(dir));
            Failure { code: 125, message, hint }
        })
    };
    plan.mounts.changes().map(take).collect()
}

/// Makes what stands in for protected paths that do not exist.
fn make_placeholders(plan: &Plan) -> Result<Option<Placeholders>, Failure> {
    if plan.placeholders.is_empty() {
        return Ok(None);
    }
    let made = Store::create(&plan.records).and_then(|store| store.make(&plan.placeholders));
    made.map(Some).map_err(|error| Failure {
        code: 125,
        message: error.to_string(),
        hint: error.hint().map(str::to_owned),
    })
}

/// What cannot be removed now is recorded, and tried again by the next start.
fn remove_placeholders(placeholders: Placeholders) {
    let failed = match placeholders.remove() {
        Ok(removed) => removed.failed,
        Err(error) => vec![error],
    };
    for error in failed {
        say(&format!("remount-run: warning: {error}"));
        say("hint: `remountctl doctor --clean` tries again");
    }
}

pub(crate) fn fault(step: &str, errno: Errno) -> Failure {
    let hint = enter::limit_hint(errno).map(str::to_owned);
    Failure { code: 125, message: format!("{step}: {:#}", Reason::from(errno)), hint }
}

/// Makes the directories that hold an agent's own state, where they are missing.
fn make_directories(plan: &Plan) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    for dir in &plan.host_directories {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
            Failure {
                code: 125,
                message: format!("create {}: {}", Escaped::path(dir), IoReason(&error)),
                hint: Some("the profile keeps the agent's own state there".to_owned()),
            }
        })?;
    }
    Ok(())
}

/// Blocks every signal: they are read from a descriptor instead. Returns the mask
/// that was in force.
pub(crate) fn block_signals() -> Result<SigSet, Errno> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    Ok(before)
}

/// A process of ours.
struct Process {
    pid: Pid,
    fd: OwnedFd,
}

impl Process {
    fn new(pid: Pid) -> Result<Self, Errno> {
        Ok(Self { pid, fd: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// Waits for its end; whether that was without an error.
    fn joined_well(&self) -> Result<bool, Failure> {
        let ended = waitpid(Some(self.pid), WaitOptions::empty());
        let ended = ended.map_err(|errno| fault("wait for a process of the sandbox", errno))?;
        Ok(ended.is_some_and(|(_, status)| status.exit_status() == Some(0)))
    }

    /// Waits for its end.
    fn join(&self) -> Result<(), Errno> {
        waitpid(Some(self.pid), WaitOptions::empty()).map(drop)
    }
}

/// A running sandbox, from outside.
struct Sandbox<'a> {
    init: Process,
    broker: Process,
    /// The filter of sockets, until it has ended.
    filter: Option<Process>,
    /// Who writes down what is executed, until it has ended.
    audit: Option<Process>,
    reports: Reports,
    /// The agent's pidfd, once it is there.
    agent: Option<OwnedFd>,
    /// Signals that came before the agent.
    waiting: Vec<i32>,
    terminal: Option<Terminal>,
    /// What the broker asks; when the connection is closed, however that comes about, the
    /// broker ends.
    confirm: Confirm<'a>,
    presence: Option<Presence>,
}

/// What happened last.
enum Fate {
    Running,
    Exited(u8),
    Failed(Failure),
}

/// Init and broker at work, before anybody outside can see them.
struct Forked {
    init: Process,
    broker: Process,
    filter: Option<Process>,
    audit: Option<Process>,
    reports: Reports,
    /// When it is closed the broker ends.
    life: Link,
    terminal: Option<Terminal>,
}

impl Forked {
    fn new(plan: &Plan, signal_mask: SigSet, record: Option<OwnedFd>) -> Result<Self, Failure> {
        let prepare = || Ok((Link::pair()?, report::channel()?, Link::pair()?, Link::pair()?));
        let prepared = prepare().map_err(|errno| fault("prepare the sandbox", errno))?;
        let ((life, broker_life), (reporter, reports), to_init, shared) = prepared;
        let to_filter = (!plan.sockets.is_empty()).then(Link::pair).transpose();
        let to_filter = to_filter.map_err(|errno| fault("prepare the filter of sockets", errno))?;
        let (filter_link, to_filter) = to_filter.unzip();
        let to_audit = record.is_some().then(Link::pair).transpose();
        let to_audit = to_audit.map_err(|errno| fault("prepare the record of commands", errno))?;
        let (audit_link, to_audit) = to_audit.unzip();
        let fork = enter::fork_into(&plan.namespaces).map_err(|error| error.failure())?;
        let Fork::Parent(pid) = fork else {
            drop((
                life,
                broker_life,
                reports,
                to_init.0,
                shared.0,
                filter_link,
                audit_link,
                record,
            ));
            let (broker, shared, filter, audit) = (to_init.1, shared.1, to_filter, to_audit);
            Init { plan, reporter, broker, shared, filter, audit, signal_mask }.run()
        };
        drop((to_init.1, shared.1, to_filter, to_audit));
        let fork_broker = || {
            let init = Process::new(pid)?;
            Ok((init, process::fork()?))
        };
        let (init, fork) = fork_broker().map_err(|errno| fault("fork the broker", errno))?;
        let Fork::Parent(broker) = fork else {
            drop((life, reports, init, filter_link, audit_link, record));
            let (from_init, shared) = (to_init.0, shared.0);
            let serving = Serving::of(plan);
            let (life, init, end) = (broker_life, pid, None);
            Broker { serving, life, reporter, init, from_init, end, shared }.run()
        };
        let broker = Process::new(broker).map_err(|errno| fault("watch the broker", errno))?;
        let filter = filter_link.map(|link| fork_filter(plan, link)).transpose();
        let filter = filter.map_err(|errno| fault("fork the filter of sockets", errno))?;
        let audit = audit_link.zip(record).map(|(link, file)| fork_audit(plan, link, &file));
        let audit = audit.transpose().map_err(|errno| fault("fork the record's writer", errno))?;
        let terminal = Terminal::controlled();
        Ok(Self { init, broker, filter, audit, reports, life, terminal })
    }

    /// Ends them. That they have ended already is the only way for it to fail.
    fn abandon(self) {
        process::send_signal(self.init.fd.as_fd(), libc::SIGKILL).unwrap_or(());
        drop(self.life);
        let joined = self.init.join().and_then(|()| self.broker.join());
        let joined = joined.and_then(|()| join_servers(self.filter.as_ref(), self.audit.as_ref()));
        joined.unwrap_or(());
    }

    /// Lets init go on: the host has what it needs. Makes the sandbox known outside.
    fn appear<'a>(self, plan: &'a Plan, outside: &mut Outside) -> Sandbox<'a> {
        let Self { init, broker, filter, audit, reports, life, terminal } = self;
        if plan.waits_for_host() {
            // It fails only if both have ended, which they report.
            reports.allow().unwrap_or(());
        }
        let (handles, presence, warnings) = outside.appear();
        for warning in warnings {
            say(&format!("remount-run: warning: {warning}"));
        }
        let id = handles.id.clone();
        // The listener is the broker's: where nobody listens, nobody may seem to.
        handles.send(&life);
        let confirm = Confirm::new(life, &plan.policy, id);
        let (agent, waiting) = (None, Vec::new());
        Sandbox {
            init,
            broker,
            filter,
            audit,
            reports,
            agent,
            waiting,
            terminal,
            confirm,
            presence,
        }
    }
}

impl Sandbox<'_> {
    fn supervise(mut self, new_session: bool) -> Result<u8, Failure> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&SigSet::all(), flags)
            .map_err(|errno| fault("read signals", Errno::from_raw_os_error(errno as i32)))?;
        let mut fate = Fate::Running;
        let mut reports_open = true;
        let mut quiet = Some(QUIET);
        loop {
            let fds = [
                reports_open.then(|| self.reports.as_fd()),
                Some(signals.as_fd()),
                Some(self.init.fd.as_fd()),
                self.confirm.interest(),
                self.filter.as_ref().map(|filter| filter.fd.as_fd()),
                self.audit.as_ref().map(|audit| audit.fd.as_fd()),
            ];
            let ready = wait_for(fds, quiet.as_ref())
                .map_err(|errno| fault("wait for the sandbox", errno))?;
            if !ready.contains(&true) {
                quiet = None;
                // If it fails, this process is larger than it need be.
                memory::release_program().unwrap_or(());
            }
            if ready[0] {
                match self.reports.next() {
                    Ok(Some(message)) => self.hear(message, &mut fate),
                    Ok(None) => reports_open = false,
                    Err(errno) => return Err(fault("hear from the sandbox", errno)),
                }
                continue;
            }
            if ready[3] && !self.confirm.hear() {
                // Init ends without a broker, unless the broker had stopped it for a moment
                // just then. It fails only if init has ended.
                process::send_signal(self.init.fd.as_fd(), libc::SIGCONT).unwrap_or(());
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
            if ready[4] {
                self.lose_filter()?;
            }
            if ready[5] {
                self.lose_audit(&mut fate)?;
            }
        }
        self.confirm.close();
        let joined = self.init.join().and_then(|()| self.broker.join());
        let joined = joined.and_then(|()| join_servers(self.filter.as_ref(), self.audit.as_ref()));
        joined.map_err(|errno| fault("wait for the sandbox's end", errno))?;
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

    /// It ends with the sandbox, and then without an error. Without it nobody listens at its
    /// sockets: nothing is open that was not before.
    fn lose_filter(&mut self) -> Result<(), Failure> {
        let Some(filter) = self.filter.take() else { return Ok(()) };
        if !filter.joined_well()? {
            say("remount-run: warning: the filter of sockets has ended: what it served is closed");
        }
        Ok(())
    }

    /// It ends with the sandbox, and then without an error. Without it no command can be
    /// executed: the sandbox ends.
    fn lose_audit(&mut self, fate: &mut Fate) -> Result<(), Failure> {
        let Some(audit) = self.audit.take() else { return Ok(()) };
        if !audit.joined_well()? && matches!(fate, Fate::Running) {
            *fate = Fate::Failed(Failure {
                code: 125,
                message: "write down what is executed: who writes it has ended, and the sandbox \
                          with it"
                    .to_owned(),
                hint: Some("check that there is room for the file of --audit".to_owned()),
            });
            // It fails only if init has ended.
            process::send_signal(self.init.fd.as_fd(), libc::SIGKILL).unwrap_or(());
        }
        Ok(())
    }

    fn hear(&mut self, message: Message, fate: &mut Fate) {
        match message {
            // The first failure is the cause of all others; one that comes after the end
            // (a signal can end the agent before its command) is a consequence of it.
            Message::Failed(failure) => {
                if matches!(fate, Fate::Running) {
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
                // Init and broker end at the same time, and so does the place outside.
                self.confirm.close();
                self.presence = None;
                if matches!(fate, Fate::Running) {
                    *fate = Fate::Exited(code);
                }
            }
        }
    }

    /// The shell that started us must see that the job has stopped; when it resumes
    /// us, the agent resumes.
    ///
    /// Not if the agent runs again: a stop that is reported late (it was resumed twice,
    /// by the shell and by us, and stopped twice) would never be ended by anybody.
    fn stop_too(&mut self) {
        if self.agent.as_ref().is_some_and(|agent| is_stopped(agent) == Some(false)) {
            return;
        }
        if let Some(terminal) = &self.terminal {
            terminal.take_back();
        }
        // SIGSTOP cannot be blocked: this returns after SIGCONT.
        if kill_process(rustix::process::getpid(), Signal::STOP).is_ok() {
            if let Some(terminal) = &mut self.terminal {
                terminal.look_again();
            }
            self.send(libc::SIGCONT);
        }
    }

    /// Passes a signal on to the agent, unless the agent got it as well.
    fn pass_on(&mut self, number: u32, code: i32, new_session: bool) {
        let Ok(signal) = i32::try_from(number) else { return };
        if signal == libc::SIGCHLD || (!new_session && all_have(signal, code)) {
            return;
        }
        if self.agent.is_some() {
            self.send(signal);
        } else {
            self.waiting.push(signal);
        }
    }

    /// By number: the real-time signals have no names.
    fn send(&self, signal: i32) {
        if let Some(agent) = &self.agent {
            // It fails only if the agent has ended, which init reports.
            process::send_signal(agent.as_fd(), signal).unwrap_or(());
        }
    }
}

/// Whether a signal came from the terminal, which sends it to its whole foreground group.
///
/// When the terminal goes away it is the leader of its session alone who is told
/// (`tty_signal_session_leader` in drivers/tty/tty_jobctrl.c); usually a shell, but this
/// process where a window runs nothing else.
pub(crate) fn all_have(signal: i32, code: i32) -> bool {
    let leads = || getsid(None).is_ok_and(|leader| leader == getpid());
    code == libc::SI_KERNEL && !(signal == libc::SIGHUP && leads())
}

/// Whether a process is stopped now; `None` if that cannot be found out.
fn is_stopped(pidfd: &OwnedFd) -> Option<bool> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    // It ends before it is gone: what is gone is not stopped.
    Some(
        stat.is_some_and(|stat| {
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        }),
    )
}

/// A start is over after so long without any news: from then on launcher and init do little
/// but wait.
pub(crate) const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// So long after the sandbox's end who writes down may take, which is more than it waits for.
const LAST: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Waits until one of the descriptors is readable or closed, or for so long; tells which.
fn wait_for<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    longest: Option<&Timespec>,
) -> Result<[bool; N], Errno> {
    let mut polled: Vec<_> =
        fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    while let Err(errno) = poll(&mut polled, longest) {
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
pub(crate) struct Terminal {
    fd: OwnedFd,
    group: Pid,
    /// Whether the shell that started us gave us the foreground when it last let us run.
    /// If not (`bg`), who has it is no job from inside, and must not lose it.
    ours: bool,
}

impl Terminal {
    pub(crate) fn controlled() -> Option<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok()?;
        let group = rustix::process::getpgrp();
        (rustix::termios::tcgetpgrp(&fd).ok()? == group).then_some(Self { fd, group, ours: true })
    }

    /// To be called after a stop: a shell gives a job the foreground before it resumes it.
    pub(crate) fn look_again(&mut self) {
        self.ours = rustix::termios::tcgetpgrp(&self.fd) == Ok(self.group);
    }

    /// SIGTTOU is blocked, so that this works from the background (tcsetpgrp(3)); it
    /// fails only if the terminal is gone.
    pub(crate) fn take_back(&self) {
        let other = rustix::termios::tcgetpgrp(&self.fd).is_ok_and(|group| group != self.group);
        if self.ours && other {
            rustix::termios::tcsetpgrp(&self.fd, self.group).unwrap_or(());
        }
    }
}
