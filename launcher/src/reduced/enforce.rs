//! The command's process confines itself; this one waits, and ends what is left of it.

use crate::audit::{self, Subject};
use crate::confine::landlock::Access;
use crate::confine::{self, landlock};
use crate::enter::{EnterError, Step};
use crate::exec::{self, Command};
use crate::plan::Exec;
use crate::report::{self, Failure, Link, Message, Reporter};
use crate::supervise::{Terminal, all_have, block_signals, fault};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use remount_broker::filter::Program;
use remount_broker::sys::process::{self, Fork};
use remount_broker::sys::seccomp;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, kill_process, pidfd_open,
    set_child_subreaper, set_parent_process_death_signal, wait,
};
use rustix::thread::CapabilitySet;
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// All that is enforced.
pub(super) struct Reduced {
    pub abi: u32,
    pub rules: Vec<(PathBuf, Access)>,
    pub filter: Program,
    pub exec: Exec,
}

impl Reduced {
    /// Runs the command to its end, and ends what it started. With `record`, what is executed
    /// is written down.
    pub fn run(self, record: Option<(Subject, OwnedFd)>) -> Result<u8, Failure> {
        let links = record.is_some().then(Link::pair).transpose();
        let (to_command, link) =
            links.map_err(|errno| fault("prepare the record of commands", errno))?.unzip();
        let prepare = || -> Result<_, Errno> {
            let mask = block_signals()?;
            // Orphans of the command come to this process, and to no other.
            set_child_subreaper(Some(getpid()))?;
            let channel = report::channel()?;
            Ok((mask, channel, Terminal::controlled(), process::fork()?))
        };
        let (mask, (reporter, reports), terminal, fork) =
            prepare().map_err(|errno| fault("prepare the command", errno))?;
        let Fork::Parent(command) = fork else {
            drop((reports, link, record));
            let Err(error) = self.confine(&mask, to_command.as_ref());
            failed(&reporter, &error)
        };
        drop(reporter);
        let attend = || {
            let code = attend(command, terminal, self.exec.new_session);
            end_all();
            code.map_err(|errno| fault("wait for the command", errno))
        };
        let code = match link.zip(record) {
            None => attend(),
            Some((link, record)) => write_down(record, link, command, || {
                let code = attend();
                drop(to_command);
                code
            }),
        };
        match reports.next() {
            Ok(Some(Message::Failed(failure))) => Err(failure),
            _ => code,
        }
    }

    fn confine(&self, mask: &SigSet, record: Option<&Link>) -> Result<Infallible, EnterError> {
        set_parent_process_death_signal(Some(Signal::KILL)).step("bind to the launcher's life")?;
        rustix::process::chdir(&self.exec.cwd)
            .map_err(|errno| EnterError::WorkingDirectory { path: self.exec.cwd.clone(), errno })?;
        if self.exec.new_session {
            rustix::process::setsid().step("start a session")?;
        }
        process::mark_close_on_exec_from(3).step("close descriptors")?;
        let command = Command::new(&self.exec, None)?;
        confine::limits()?;
        confine::reduce_capabilities(CapabilitySet::empty())?;
        landlock::restrict_paths(self.abi, &self.rules)?;
        exec::restore_signals(mask)?;
        let filters = confine::filters_in_force()?;
        match record {
            None => seccomp::load(&self.filter).step("load the system call filter")?,
            Some(link) => audit::load(&self.filter, link)?,
        }
        confine::verify_but_bounding(filters)?;
        command.execute()
    }
}

/// Does `attend`, which waits for the command, and meanwhile writes down what is executed. If
/// that cannot go on, the command ends.
fn write_down(
    (subject, file): (Subject, OwnedFd),
    link: Link,
    command: Pid,
    attend: impl FnOnce() -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let pidfd = pidfd_open(command, PidfdFlags::empty())
        .map_err(|errno| fault("watch the command", errno))?;
    let (code, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let written = audit::serve(subject, &link, &file);
            if written.is_err() {
                // It fails only if it has ended.
                process::send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap_or(());
            }
            written
        });
        (attend(), writer.join())
    });
    match written {
        Ok(Ok(())) => code,
        Ok(Err(error)) => Err(error.failure()),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Tells the launcher why nothing was executed.
fn failed(reporter: &Reporter, error: &EnterError) -> ! {
    let told = reporter.tell(&Message::Failed(error.failure()));
    process::exit(if told.is_ok() { 125 } else { 124 })
}

/// Waits for the command's end, passes signals on, and stops when it does.
fn attend(command: Pid, mut terminal: Option<Terminal>, alone: bool) -> Result<u8, Errno> {
    let as_errno = |errno| Errno::from_raw_os_error(errno as i32);
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC).map_err(as_errno)?;
    let fd = pidfd_open(command, PidfdFlags::empty())?;
    // It fails only if the command has ended, which is noticed.
    let pass_on = |signal| process::send_signal(fd.as_fd(), signal).unwrap_or(());
    loop {
        while let Some((pid, status)) = next()? {
            if pid != command {
                continue;
            }
            if let Some(code) = ended(status) {
                if let Some(terminal) = &terminal {
                    terminal.take_back();
                }
                return Ok(code);
            }
            if let Some(terminal) = &terminal {
                terminal.take_back();
            }
            // SIGSTOP cannot be blocked: this returns after SIGCONT.
            kill_process(getpid(), Signal::STOP)?;
            if let Some(terminal) = &mut terminal {
                terminal.look_again();
            }
            pass_on(libc::SIGCONT);
        }
        let Some(info) = signals.read_signal().map_err(as_errno)? else { continue };
        match i32::try_from(info.ssi_signo) {
            Ok(libc::SIGCHLD) | Err(_) => {}
            Ok(signal) if alone || !all_have(signal, info.ssi_code) => pass_on(signal),
            Ok(_) => {}
        }
    }
}

fn next() -> Result<Option<(Pid, WaitStatus)>, Errno> {
    match wait(WaitOptions::UNTRACED | WaitOptions::NOHANG) {
        Err(Errno::CHILD) => Ok(None),
        other => other,
    }
}

fn ended(status: WaitStatus) -> Option<u8> {
    let by_signal = status.terminating_signal().map(|signal| ((128 + signal) & 0xff) as u8);
    by_signal.or_else(|| status.exit_status().map(|code| (code & 0xff) as u8))
}

/// Ends all that the command left: each process whose parent is killed becomes a child of
/// this one, until there is none.
fn end_all() {
    let own = getpid().as_raw_nonzero().to_string();
    loop {
        for pid in children(&own) {
            kill_process(pid, Signal::KILL).unwrap_or(());
        }
        if matches!(wait(WaitOptions::empty()), Err(Errno::CHILD)) {
            return;
        }
    }
}

/// The processes whose parent this is (`PPid`, proc_pid_status(5)).
fn children(own: &str) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name.split(' ').nth(1) == Some(own)
    };
    pids.filter(is_child).filter_map(Pid::from_raw).collect()
}
