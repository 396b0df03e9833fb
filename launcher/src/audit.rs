//! The record of commands: each `execve(2)` inside waits until it is written down outside.
//!
//! The command's filter announces it (`seccomp_unotify(2)`) to a process of its own, a child
//! of the launcher. That reads path and arguments from the memory of who asks, writes a line,
//! and lets the call go on. No shell is trusted, and nothing inside can do without: if that
//! process ends, the kernel lets no more commands start, and the launcher ends the sandbox.
//!
//! The kernel reads path and arguments again when it executes; another thread can have
//! changed them by then. So what runs is looked at afterwards, too ([`process`]).

mod process;
mod watch;

use crate::confine;
use crate::enter::{EnterError, Step, die_with_parent};
use crate::front::say;
use crate::plan::{Exec, Plan};
use crate::report::Link;
use remount_broker::filter::watcher_filter;
use remount_broker::sys::{process as sys, seccomp};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use watch::Watch;

/// Opens the file, for all sandboxes that write to it: it is only added to.
///
/// # Errors
/// As `open(2)`: `ELOOP` if it is a symbolic link; `EINVAL` if it is no ordinary file.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW;
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind.is_file() { Ok(file) } else { Err(Errno::INVAL) }
}

/// Writes to `file` until the sandbox, which has the other end of `link`, has ended; does
/// not return.
pub(crate) fn run(plan: &Plan, link: Link, file: &OwnedFd) -> ! {
    let code = match serve(plan, &link, file) {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("remount-run: write down what is executed: {error}"));
            1
        }
    };
    sys::exit(code)
}

fn serve(plan: &Plan, link: &Link, file: &OwnedFd) -> Result<(), EnterError> {
    die_with_parent()?;
    sys::close_all_but(&[link.as_fd(), file.as_fd()]).step("close descriptors")?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open(c"/proc", flags, Mode::empty()).step("open /proc")?;
    rustix::process::chdir("/").step("change to /")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .step("make the watcher unreadable")?;
    // Two for each process that runs.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).step("set limits")?;
    confine::limits()?;
    let own = rustix::thread::capabilities(None).step("look at the capabilities")?;
    confine::reduce_capabilities(own.effective & CapabilitySet::SYS_PTRACE)?;
    if plan.filter.is_some() {
        seccomp::load(&watcher_filter().compile()).step("load the watcher's filter")?;
    }
    let (_, listener) = link.receive().step("receive the sandbox's filter")?;
    // The sandbox was not made, and why is told by who failed.
    let Some(listener) = listener else { return Ok(()) };
    Watch::new(listener, proc, file, &plan.exec).run(link.as_fd()).step("watch the sandbox")
}

/// What the first command is: its memory is init's until it is executed, and that nobody
/// can read.
fn first(exec: &Exec) -> process::Asked {
    process::Asked {
        path: exec.program.to_string_lossy().into_owned(),
        arguments: exec.arguments.iter().map(|it| it.to_string_lossy().into_owned()).collect(),
        is_truncated: false,
    }
}
