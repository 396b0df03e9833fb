//! The record of commands: each `execve(2)` inside waits until it is written down outside.
//!
//! The command's filter announces it (`seccomp_unotify(2)`) to a process of its own, a child
//! of the launcher. That reads path and arguments from the memory of who asks, writes a line,
//! and lets the call go on. No shell is trusted, and nothing inside can do without: if that
//! process ends, the kernel lets no more commands start, and the launcher ends the sandbox.
//!
//! It decides nothing: the kernel reads path and arguments again when it executes, and another
//! thread can have changed them by then. So what runs is looked at afterwards, too ([`watch`]).
//! What shims decide is found out from the outside as well ([`tools`]): what runs in a tool's
//! place runs with the rights of its caller, who could say anything in its name.

mod process;
mod tools;
mod watch;

use crate::confine;
use crate::enter::{EnterError, Step, die_with_parent};
use crate::front::say;
use crate::plan::{OpKind, Plan};
use crate::report::Link;
use process::Asked;
use remount_broker::filter::{Program, watcher_filter};
use remount_broker::sys::notify;
use remount_broker::sys::{process as sys, seccomp};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getppid, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use std::fmt;
use std::hash::RandomState;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tools::Tools;
use watch::Watch;

/// Descriptors that are not for processes that are followed.
const SPARE: u64 = 64;

/// The open file of `--audit`.
#[derive(Debug)]
pub struct Record {
    /// Only added to.
    pub file: OwnedFd,
    /// Whether it was made now.
    pub is_new: bool,
}

/// Why a file is none that commands can be written down in.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// As `openat2(2)`; `ELOOP` if it is a symbolic link.
    #[error("{:#}", remount_broker::reason::Reason::from(*.0))]
    Open(#[from] Errno),
    /// A directory, a device, a FIFO.
    #[error("it is no ordinary file")]
    Kind,
    /// By another name it could be seen inside.
    #[error("it has another name (a hard link)")]
    Names,
    /// What others write there could pass for what is written here.
    #[error("it belongs to somebody else, or others may write to it")]
    Others,
}

/// Opens the file, for all sandboxes that write to it; makes it, for this user alone, if it
/// does not exist. `path` is without symlinks.
///
/// # Errors
/// As [`RecordError`] says; nothing of an existing file was changed.
pub fn open(path: &Path) -> Result<Record, RecordError> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let open = |more, mode| {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(CWD, path, flags | more, mode, resolve)
    };
    let made = open(OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR);
    let (file, is_new) = match made {
        Err(Errno::EXIST) => (open(OFlags::empty(), Mode::empty())?, false),
        made => (made?, true),
    };
    let stat = rustix::fs::fstat(&file)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(RecordError::Kind);
    }
    if stat.st_nlink != 1 {
        return Err(RecordError::Names);
    }
    let others = Mode::WGRP | Mode::WOTH;
    if stat.st_uid != rustix::process::geteuid().as_raw()
        || Mode::from_raw_mode(stat.st_mode).intersects(others)
    {
        return Err(RecordError::Others);
    }
    Ok(Record { file, is_new })
}

/// Loads a command's filter, and hands what it announces over to who writes it down. Nobody
/// else has that descriptor then.
pub(crate) fn load(filter: &Program, link: &Link) -> Result<(), EnterError> {
    let listener = notify::load(filter);
    if let Err(Errno::BUSY) = listener {
        return Err(EnterError::Listener);
    }
    let listener = listener.step("load the system call filter")?;
    link.send(b"N", Some(listener.as_fd())).step("hand the filter over to who writes down")
}

/// What there is to know of a sandbox.
pub(crate) struct Subject {
    /// The first command. Its memory is init's until it is executed, and that nobody can read.
    first: Asked,
    cwd: Vec<u8>,
    tools: Tools,
}

impl Subject {
    pub fn of(plan: &Plan) -> Self {
        let exec = &plan.exec;
        let bytes = |text: &std::ffi::OsStr| text.as_bytes().to_vec();
        let table = plan.mounts.ops.iter().find_map(|op| match &op.kind {
            OpKind::Control { shims, .. } => Some(shims.table.clone()),
            _ => None,
        });
        let first = Asked::of(
            bytes(exec.program.as_os_str()),
            exec.arguments.iter().map(|word| bytes(word)),
        );
        Self { first, cwd: bytes(exec.cwd.as_os_str()), tools: Tools(table.unwrap_or_default()) }
    }
}

/// Writes to `file` until the sandbox, which has the other end of `link`, has ended; does
/// not return.
pub(crate) fn run(plan: &Plan, link: Link, file: &OwnedFd) -> ! {
    let code = match confine_and_serve(plan, &link, file) {
        Ok(()) => 0,
        Err(error) => {
            tell(&error);
            1
        }
    };
    sys::exit(code)
}

fn tell(error: &dyn fmt::Display) {
    say(&format!("remount-run: write down what is executed: {error}"));
}

fn confine_and_serve(plan: &Plan, link: &Link, file: &OwnedFd) -> Result<(), EnterError> {
    die_with_parent()?;
    sys::close_all_but(&[link.as_fd(), file.as_fd()]).step("close descriptors")?;
    rustix::process::chdir("/").step("change to /")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .step("make who writes down unreadable")?;
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).step("set limits")?;
    confine::limits()?;
    let sandbox = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let surroundings = Surroundings::new(sandbox)?;
    let own = rustix::thread::capabilities(None).step("look at the capabilities")?;
    confine::reduce_capabilities(own.effective & CapabilitySet::SYS_PTRACE)?;
    if plan.filter.is_some() {
        seccomp::load(&watcher_filter().compile()).step("load the filter of who writes down")?;
    }
    follow(Subject::of(plan), link, file, surroundings)
}

/// The same in a thread of this process, which keeps its rights: where there are no
/// namespaces, it takes an ancestor of a process to look at its memory (Yama).
pub(crate) fn serve(subject: Subject, link: &Link, file: &OwnedFd) -> Result<(), EnterError> {
    let serve = || {
        let sandbox = rustix::process::getpid().as_raw_nonzero().get();
        follow(subject, link, file, Surroundings::new(sandbox)?)
    };
    serve().inspect_err(|error| tell(error))
}

/// What is asked for before this process has its filter.
struct Surroundings {
    proc: OwnedFd,
    /// How lines are marked, since several sandboxes may write to one file: the number of the
    /// launcher.
    sandbox: i32,
    /// So many processes are followed at a time: reading needs descriptors, too.
    most: u64,
    /// With a key that nobody inside knows.
    hasher: RandomState,
}

impl Surroundings {
    fn new(sandbox: i32) -> Result<Self, EnterError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open(c"/proc", flags, Mode::empty()).step("open /proc")?;
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // A directory and a pidfd for each.
        let most = descriptors.saturating_sub(SPARE) / 2;
        Ok(Self { proc, sandbox, most, hasher: RandomState::new() })
    }
}

fn follow(
    subject: Subject,
    link: &Link,
    file: &OwnedFd,
    surroundings: Surroundings,
) -> Result<(), EnterError> {
    let (_, listener) = link.receive().step("receive the command's filter")?;
    // Nothing was executed, and why is told by who failed.
    let Some(listener) = listener else { return Ok(()) };
    Watch::new(listener, file, subject, surroundings).run(link.as_fd()).step("watch the commands")
}
