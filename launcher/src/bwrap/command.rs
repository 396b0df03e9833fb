//! The command: its working directory, its environment, and its execution.

use super::child::die_with_parent;
use super::error::{Die, OrDie, Result, bytes};
use super::fds::write_all;
use super::landlock::Rules;
use super::request::Request;
use super::seccomp::Program;
use crate::confine;
use crate::exec;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use remount_broker::sys::start;
use rustix::io::{Errno, FdFlags};
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Where commands are when there is no `PATH` (confstr(3)).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What the command may do, besides what it sees.
pub(super) struct Confinement<'a> {
    /// A profile's.
    pub(super) rules: Option<Rules>,
    /// Filters, in the order in which they are loaded.
    pub(super) filters: Vec<&'a Program>,
}

/// Everything that execution needs, ready.
pub(super) struct Start<'a> {
    request: &'a Request,
    program: &'a OsStr,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    pub(super) confinement: Confinement<'a>,
    report: Option<OwnedFd>,
    /// The connection to the broker, which the command inherits.
    _channel: Option<OwnedFd>,
}

impl<'a> Start<'a> {
    /// Changes to the working directory and prepares the rest.
    pub(super) fn new(
        request: &'a Request,
        cwd: Option<PathBuf>,
        confinement: Confinement<'a>,
        report: Option<OwnedFd>,
        channel: Option<OwnedFd>,
    ) -> Result<Self> {
        let cwd = change_directory(request, cwd)?;
        let mut environment = request.environment.entries(&cwd);
        if let Some(channel) = &channel {
            let variable = exec::variable(channel).or_die(|| "Can't name the broker")?;
            let name = format!("{}=", exec::CHANNEL);
            environment.retain(|entry| !entry.as_bytes().starts_with(name.as_bytes()));
            environment.push(variable.into());
        }
        let program: &OsStr = request.command.first().map_or(OsStr::new(""), |word| word);
        let mut arguments =
            request.command.iter().map(|word| c_string(word)).collect::<Result<Vec<_>>>()?;
        if let (Some(named), Some(first)) = (&request.argv0, arguments.first_mut()) {
            *first = c_string(named)?;
        }
        let environment = environment.iter().map(|entry| c_string(entry)).collect::<Result<_>>()?;
        Ok(Self {
            request,
            program,
            arguments,
            environment,
            confinement,
            report,
            _channel: channel,
        })
    }

    /// What is executed, as typed.
    pub(super) fn name(&self) -> &OsStr {
        self.program
    }

    /// Executes the command. Returns only if that fails.
    pub(super) fn execute(&self) -> Result<Infallible> {
        if let Some(sync) = self.request.sync_fd.as_ref().filter(|_| !self.request.as_pid_1) {
            // It ends here with exec; init has it as well.
            sync.with(|fd| rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)).unwrap_or(());
        }
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&children), None)
            .map_err(|errno| Errno::from_raw_os_error(errno as i32))
            .or_die(|| "sigprocmask")?;
        start::give_back().or_die(|| "sigaction")?;
        die_with_parent(self.request)?;
        self.request.capabilities.make_ambient()?;
        if self.request.narrowing.is_some() {
            confine::limits().map_err(|error| Die::new(format!("--profile: {error}")))?;
        }
        if let Some(rules) = &self.confinement.rules {
            rules.enforce()?;
        }
        for filter in &self.confinement.filters {
            filter.load()?;
        }
        self.report();
        let errno = self.search();
        self.report();
        Err(Die::errno(bytes!("execvp ", self.program), errno))
    }

    /// Tells the monitor that the command is executed next, or that this has failed.
    fn report(&self) {
        if let Some(report) = &self.report {
            // If the monitor is gone, there is nobody to tell.
            write_all(report.as_fd(), b"\0").unwrap_or(());
        }
    }

    /// As `execvp(3)`: a name without a slash is looked for in `PATH`; what the kernel
    /// does not know is a script for the shell.
    fn search(&self) -> Errno {
        let name = self.program.as_bytes();
        if name.is_empty() {
            return Errno::NOENT;
        }
        if name.contains(&b'/') {
            return self.try_file(name);
        }
        let path = self.request.environment.get("PATH").unwrap_or(OsStr::new(DEFAULT_PATH));
        let mut denied = false;
        for dir in path.as_bytes().split(|byte| *byte == b':') {
            let slash: &[u8] = if dir.is_empty() { b"" } else { b"/" };
            match self.try_file(&[dir, slash, name].concat()) {
                Errno::ACCESS => denied = true,
                Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::NODEV | Errno::TIMEDOUT => {}
                errno => return errno,
            }
        }
        if denied { Errno::ACCESS } else { Errno::NOENT }
    }

    fn try_file(&self, path: &[u8]) -> Errno {
        let Ok(path) = CString::new(path) else { return Errno::NOENT };
        match self.exec(&path, &self.arguments) {
            Errno::NOEXEC => {
                let mut words = vec![c"/bin/sh".to_owned(), path];
                words.extend(self.arguments.iter().skip(1).cloned());
                self.exec(c"/bin/sh", &words)
            }
            errno => errno,
        }
    }

    fn exec(&self, path: &std::ffi::CStr, arguments: &[CString]) -> Errno {
        match nix::unistd::execve(path, arguments, &self.environment) {
            Ok(never) => match never {},
            Err(errno) => Errno::from_raw_os_error(errno as i32),
        }
    }
}

/// Changes to the directory that is asked for, else the caller's, else home, else the
/// root; returns what `PWD` is to say.
fn change_directory(request: &Request, caller: Option<PathBuf>) -> Result<OsString> {
    if let Some(dir) = &request.chdir {
        rustix::process::chdir(dir).or_die(|| bytes!("Can't chdir to ", dir))?;
        return Ok(dir.clone());
    }
    let home = request.environment.get("HOME").map(PathBuf::from);
    let reached =
        [caller, home].into_iter().flatten().find(|dir| rustix::process::chdir(dir).is_ok());
    Ok(reached.unwrap_or_else(|| PathBuf::from("/")).into_os_string())
}

fn c_string(text: &OsStr) -> Result<CString> {
    // Words of a command line have no NUL byte in them.
    CString::new(text.as_bytes()).map_err(|_| Die::errno("execvp", Errno::INVAL))
}
