//! The last stage: the agent's process confines itself and becomes the agent.

use crate::audit;
use crate::confine::landlock;
use crate::confine::{self, EmptyBoundingSet};
use crate::enter::{EnterError, Step};
use crate::plan::{Exec, LandlockPlan, Plan};
use crate::report::Link;
use nix::sys::signal::{SigSet, SigmaskHow};
use remount_broker::sys::{mount, process, seccomp};
use rustix::io::{Errno, FdFlags};
use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The number from which the inherited connection gets its descriptor: above what
/// shells and scripts use for themselves.
const CHANNEL_FROM: i32 = 100;

/// The variable that names it.
pub(crate) const CHANNEL: &str = "REMOUNT_CHANNEL";

/// What the agent's process inherits from init.
#[derive(Debug)]
pub(crate) struct Inherited<'a> {
    /// Where the broker says that it is ready.
    pub broker: &'a Link,
    /// Where the announcements of what is executed go, if they are wanted.
    pub audit: Option<&'a Link>,
    /// The agent's end of the connection that all processes inside inherit.
    pub shared: &'a Link,
    /// The signal mask that the agent is to have.
    pub signal_mask: SigSet,
    /// What lets capabilities be dropped.
    pub bounding: EmptyBoundingSet,
}

/// Gives everything up, in the order that makes each step stick, and executes the
/// agent. Returns only if that fails; nothing was executed then.
pub(crate) fn execute(plan: &Plan, inherited: &Inherited<'_>) -> Result<Infallible, EnterError> {
    let Inherited { broker, audit: record, shared, signal_mask, bounding } = *inherited;
    let exec = &plan.exec;
    rustix::process::chdir(&exec.cwd)
        .map_err(|errno| EnterError::WorkingDirectory { path: exec.cwd.clone(), errno })?;
    if exec.new_session {
        rustix::process::setsid().step("start a session")?;
    }
    own_null().step("open /dev/null")?;
    // Every descriptor from before the sandbox ends with exec, but the connection.
    process::mark_close_on_exec_from(3).step("close descriptors")?;
    let channel = keep(shared.as_fd()).step("keep the connection to the broker")?;
    let command = Command::new(exec, Some(&channel))?;
    // With the capabilities, which may be what opens the way there.
    let rules = plan.landlock.as_ref().map(Rules::open).transpose()?;
    confine::limits()?;
    confine::drop_capabilities(bounding)?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    if let Some(rules) = rules {
        rules.enforce()?;
    }
    restore_signals(&signal_mask)?;
    match &plan.filter {
        None => confine::verify(None)?,
        Some(filter) => {
            let filters = confine::filters_in_force()?;
            match record {
                None => seccomp::load(filter).step("load the system call filter")?,
                Some(link) => audit::load(filter, link)?,
            }
            confine::verify(Some(filters))?;
        }
    }
    match broker.receive() {
        Ok((bytes, None)) if bytes == b"go" => command.execute(),
        _ => Err(EnterError::NoBroker),
    }
}

/// What the Landlock rules name, opened as it is inside.
struct Rules<'a> {
    abi: u32,
    opened: Vec<(&'a Path, OwnedFd, landlock::Access)>,
}

impl<'a> Rules<'a> {
    fn open(plan: &'a LandlockPlan) -> Result<Self, EnterError> {
        let mut opened = Vec::with_capacity(plan.rules.len());
        for (path, access) in &plan.rules {
            let fd = mount::open_exact(rustix::fs::CWD, path)
                .map_err(|errno| EnterError::Rule { path: path.clone(), errno })?;
            opened.push((path.as_path(), fd, *access));
        }
        Ok(Self { abi: plan.abi, opened })
    }

    /// Restricts this process to them.
    fn enforce(self) -> Result<(), EnterError> {
        let rules: Vec<_> = self
            .opened
            .iter()
            .map(|(path, fd, access)| landlock::Rule { path, at: fd.as_fd(), access: *access })
            .collect();
        Ok(landlock::restrict(self.abi, &rules)?)
    }
}

/// Puts the sandbox's own `/dev/null` in place of the host's on the standard descriptors:
/// through a descriptor from outside root could change the host's node (`fchmod`).
fn own_null() -> Result<(), Errno> {
    use rustix::fs::{Mode, OFlags};
    use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr, stdin, stdout};
    let is_null = |fd| mount::stat(fd).is_ok_and(|s| s.is_char_device() && s.device == (1, 3));
    let null = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    if is_null(stdin()) {
        dup2_stdin(null()?)?;
    }
    if is_null(stdout()) {
        dup2_stdout(null()?)?;
    }
    if is_null(stderr()) {
        dup2_stderr(null()?)?;
    }
    Ok(())
}

/// Gives `fd` a high number that survives exec; where the limit of open files does not
/// allow one that high (EINVAL), any number above the standard ones.
pub(crate) fn keep(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let fd = match rustix::io::fcntl_dupfd_cloexec(fd, CHANNEL_FROM) {
        Err(Errno::INVAL) => rustix::io::fcntl_dupfd_cloexec(fd, 3)?,
        result => result?,
    };
    rustix::io::fcntl_setfd(&fd, FdFlags::empty())?;
    Ok(fd)
}

/// The agent starts with the signal mask that the launcher was started with, and
/// dies of a broken pipe like any program (the Rust runtime had that ignored).
pub(crate) fn restore_signals(mask: &SigSet) -> Result<(), EnterError> {
    process::default_sigpipe().step("restore SIGPIPE")?;
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None)
        .step("restore the signal mask")
}

/// How the command is told of the connection that it inherits.
pub(crate) fn variable(channel: &OwnedFd) -> Result<String, Errno> {
    let inode = mount::stat(channel.as_fd())?.id.ino;
    Ok(format!("{CHANNEL}={}:{inode}", channel.as_raw_fd()))
}

/// What `execve(2)` takes, ready.
pub(crate) struct Command<'a> {
    exec: &'a Exec,
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl<'a> Command<'a> {
    /// `channel` is the connection to the broker, if there is one.
    pub(crate) fn new(exec: &'a Exec, channel: Option<&OwnedFd>) -> Result<Self, EnterError> {
        let mut environment = Vec::with_capacity(exec.environment.len() + 1);
        if let Some(channel) = channel {
            let channel = variable(channel).step("look at the connection to the broker")?;
            environment.push(c_string(OsStr::new(&channel))?);
        }
        for (name, value) in &exec.environment {
            environment.push(c_string(&[name.as_os_str(), value].join(OsStr::new("=")))?);
        }
        let arguments =
            exec.arguments.iter().map(|word| c_string(word)).collect::<Result<_, _>>()?;
        Ok(Self { exec, program: c_string(exec.program.as_os_str())?, arguments, environment })
    }

    pub(crate) fn execute(self) -> Result<Infallible, EnterError> {
        nix::unistd::execve(&self.program, &self.arguments, &self.environment).map_err(|errno| {
            EnterError::Exec {
                path: self.exec.program.clone(),
                errno: Errno::from_raw_os_error(errno as i32),
            }
        })
    }
}

fn c_string(text: &OsStr) -> Result<CString, EnterError> {
    CString::new(text.as_bytes())
        .map_err(|_| Errno::INVAL)
        .step("prepare the command (it contains a NUL byte)")
}
