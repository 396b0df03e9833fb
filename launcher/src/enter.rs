//! The processes of a sandbox, from the first fork to the agent's exec.
//!
//! ```text
//! launcher ── broker ── init (PID 1) ── agent
//! ```
//!
//! The broker makes the namespaces and forks init into the PID namespace; init builds
//! the file tree, hands the broker its descriptors and forks the agent. Broker and
//! init confine themselves at the same time; the agent is executed only when the
//! broker has said that it is ready.

mod identity;
mod init;

pub(crate) use init::Start;

use crate::confine::{self, EmptyBoundingSet};
use crate::mount::Handles;
use crate::outside;
use crate::plan::{Namespaces, Plan};
use crate::report::{Failure, Link, Message, Reporter};
use nix::sched::CloneFlags;
use remount_broker::escape::Escaped;
use remount_broker::filter::broker_filter;
use remount_broker::holders::Inspector;
use remount_broker::proto::{Origin, SandboxInfo};
use remount_broker::server::{self, Context, Explain, Setup};
use remount_broker::sys::process::{self, Fork};
use remount_broker::sys::seccomp;
use remount_broker::target::{Member, Target};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, PidfdFlags, Signal, pidfd_open, set_dumpable_behavior};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the broker's process inherits from the launcher.
#[derive(Debug)]
pub struct Inherited {
    /// A connection whose end means that the launcher is gone.
    pub life: OwnedFd,
    /// Where failures and the agent's fate are told.
    pub reporter: Reporter,
    /// The signal mask that the agent is to have.
    pub signal_mask: nix::sys::signal::SigSet,
    /// What leads outside: for the broker alone.
    pub outside: outside::Handles,
}

/// A stage of the start that failed.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The namespaces were refused.
    #[error("create namespaces ({names}): {errno}")]
    Namespaces {
        /// Which.
        names: String,
        /// Why.
        errno: Errno,
    },
    /// The new user namespace's ids could not be mapped.
    #[error("write {file}: {errno}")]
    IdMap {
        /// Which file.
        file: &'static str,
        /// Why.
        errno: Errno,
    },
    /// A mount failed.
    #[error(transparent)]
    Mount(#[from] crate::mount::MountError),
    /// A layer of confinement failed.
    #[error(transparent)]
    Confine(#[from] confine::ConfineError),
    /// Something else that the kernel refused.
    #[error("{step}: {errno}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// The agent's working directory is not there.
    #[error("change to {path:?} in the sandbox: {errno}")]
    WorkingDirectory {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// What a Landlock rule names is not there.
    #[error("grant {path:?} in Landlock: {errno}")]
    Rule {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// The agent's program could not be executed.
    #[error("execute {path:?}: {errno}")]
    Exec {
        /// Its file.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// The broker ended before the agent started.
    #[error("wait for the broker: it ended before the sandbox was ready")]
    NoBroker,
}

/// Names the step that a system call belongs to.
pub(crate) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, EnterError>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, step: &'static str) -> Result<T, EnterError> {
        self.map_err(|errno| EnterError::System { step, errno })
    }
}

impl<T> Step<T> for nix::Result<T> {
    fn step(self, step: &'static str) -> Result<T, EnterError> {
        self.map_err(rustix_errno).step(step)
    }
}

fn rustix_errno(errno: nix::Error) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}

impl EnterError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Namespaces { errno: Errno::NOSPC | Errno::USERS, .. } => Some(
                "the host allows no more namespaces: raise the sysctl user.max_user_namespaces \
                 (and user.max_mnt_namespaces, user.max_pid_namespaces)",
            ),
            Self::Namespaces { .. } => Some(
                "the host forbids unprivileged user namespaces: set the sysctl kernel.unprivileged_userns_clone=1, \
                 or kernel.apparmor_restrict_unprivileged_userns=0, or give remount-run an AppArmor profile \
                 with `userns,`; in a container, run it with a seccomp profile that allows unshare",
            ),
            Self::IdMap { .. } => Some(
                "the host restricts user namespaces: see the sysctl kernel.apparmor_restrict_unprivileged_userns",
            ),
            Self::Mount(error) if error.errno == Errno::STALE => {
                Some("the file was replaced while the sandbox started: start it again")
            }
            Self::Mount(error) if error.errno == Errno::MFILE || error.errno == Errno::NFILE => {
                Some("raise the limit of open files (ulimit -n)")
            }
            Self::Exec { errno: Errno::ACCESS | Errno::NOEXEC, .. } => {
                Some("it must be executable, and not on a file system mounted noexec")
            }
            Self::Exec { errno: Errno::NOENT, .. } => Some(
                "it or its interpreter is not visible in the sandbox: --ro-bind what is missing",
            ),
            _ => None,
        }
    }

    fn failure(&self) -> Failure {
        let code = match self {
            Self::Exec { errno: Errno::NOENT, .. } => 127,
            Self::Exec { .. } => 126,
            _ => 125,
        };
        Failure { code, message: self.to_string(), hint: self.hint().map(str::to_owned) }
    }
}

/// Ends this process, telling the launcher why if there is a reason.
fn end(reporter: &Reporter, result: Result<(), EnterError>) -> ! {
    let Err(error) = result else { process::exit(0) };
    // If the launcher cannot be told, it is gone, and this process with it.
    let told = reporter.tell(&Message::Failed(error.failure()));
    process::exit(if told.is_ok() { 125 } else { 124 })
}

/// The broker's process: does not return.
pub fn broker(plan: &Plan, inherited: Inherited) -> ! {
    let reporter = inherited.reporter;
    let Inherited { life, signal_mask, outside, .. } = inherited;
    let result = run_broker(plan, &reporter, life, signal_mask, outside);
    end(&reporter, result)
}

fn run_broker(
    plan: &Plan,
    reporter: &Reporter,
    life: OwnedFd,
    signal_mask: nix::sys::signal::SigSet,
    outside: outside::Handles,
) -> Result<(), EnterError> {
    die_with_parent()?;
    // A working directory on the host's mounts would keep them reachable.
    rustix::process::chdir(c"/").step("change to /")?;
    let proc = open_proc().step("open /proc")?;
    let started = SystemTime::now();
    let shared = Link::pair().step("create the inherited connection")?;
    create_namespaces(&plan.namespaces)?;
    let bounding = confine::empty_bounding_set()?;
    let (to_init, from_broker) = Link::pair().step("connect broker and init")?;
    let init = match process::fork().step("fork init")? {
        Fork::Child => {
            // Init holds nothing of the host.
            drop((to_init, shared.0, proc, outside, life));
            let start = Start { from_broker, shared: shared.1, signal_mask, bounding };
            end(reporter, init::run(plan, reporter, start))
        }
        Fork::Parent(pid) => pid,
    };
    drop((from_broker, shared.1));
    let init = pidfd_open(init, PidfdFlags::empty()).step("open a pidfd of init")?;
    let inspector = Inspector::new(proc).step("look at /proc")?;
    confine_broker(bounding)?;
    let handles = receive_handles(&to_init)?;
    let inside = [(handles.listener, Origin::Inside)];
    let from_outside = outside.listener.map(|listener| (listener, Origin::Outside));
    let setup = Setup {
        life,
        init,
        shared: Some(shared.0.into_fd()),
        listeners: inside.into_iter().chain(from_outside).collect(),
        targets: targets(plan, handles.members),
        context: Context {
            inspector: Some(inspector),
            sandbox: Some(info(plan, outside.id, started)),
            log: outside.log,
            on_busy: plan.policy.on_busy,
            approval_timeout: plan.policy.confirm_timeout,
            explain: Some(Explain::new(|path| plan.mounts.verdict(path))),
        },
    };
    to_init.send(b"go", None).step("start the agent")?;
    drop(to_init);
    server::serve(setup).map(drop).map_err(|_| EnterError::NoBroker)
}

fn info(plan: &Plan, id: String, started: SystemTime) -> SandboxInfo {
    SandboxInfo {
        id,
        pid: rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get()),
        profile: plan.policy.profile.clone(),
        cwd: Escaped::path(&plan.policy.cwd).to_string(),
        started: started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    }
}

/// The process file system outside, for the broker alone: it finds there who holds a
/// mount, and who is no process of the sandbox.
fn open_proc() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(c"/proc", flags, rustix::fs::Mode::empty())
}

/// If the parent dies, so does this process, whatever it is doing.
fn die_with_parent() -> Result<(), EnterError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .step("bind to the parent's life")
}

fn create_namespaces(namespaces: &Namespaces) -> Result<(), EnterError> {
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
    let mut names = vec!["mount", "pid", "ipc"];
    for (wanted, flag, name) in [
        (namespaces.user.is_some(), CloneFlags::CLONE_NEWUSER, "user"),
        (namespaces.hostname.is_some(), CloneFlags::CLONE_NEWUTS, "uts"),
        (namespaces.unshare_network, CloneFlags::CLONE_NEWNET, "network"),
    ] {
        if wanted {
            flags |= flag;
            names.push(name);
        }
    }
    nix::sched::unshare(flags).map_err(|errno| EnterError::Namespaces {
        names: names.join(", "),
        errno: rustix_errno(errno),
    })?;
    namespaces.user.map_or(Ok(()), identity::map_ids)
}

/// Everything the broker will not need is given up: capabilities but three, new
/// privileges, being inspected, and most system calls.
fn confine_broker(bounding: EmptyBoundingSet) -> Result<(), EnterError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("make the broker unreadable")?;
    confine::reduce_capabilities(bounding, confine::BROKER_CAPABILITIES)?;
    seccomp::load(&broker_filter().compile()).step("load the broker's filter")
}

/// Takes the descriptors that init made: first the listener, then one for each mount
/// of each target, then an end mark.
fn receive_handles(from_init: &Link) -> Result<Handles, EnterError> {
    let mut listener = None;
    let mut members = Vec::new();
    loop {
        let (bytes, fd) = from_init.receive().step("receive the mounts")?;
        match (bytes.as_slice(), fd) {
            ([b'L'], Some(fd)) => listener = Some(fd),
            ([b'M', target @ .., b'\0'], Some(fd)) if target.len() > 4 => {
                members.push(init::parse_member(target, fd));
            }
            ([b'.'], None) => break,
            _ => return Err(EnterError::NoBroker),
        }
    }
    let listener = listener.ok_or(EnterError::NoBroker)?;
    Ok(Handles { listener, members })
}

fn targets(plan: &Plan, members: Vec<crate::mount::MemberHandle>) -> Vec<Target> {
    let mut targets: Vec<Target> = plan
        .mounts
        .targets
        .iter()
        .map(|target| Target {
            name: target.name.clone(),
            path: target.dest.clone(),
            authority: target.authority,
            max_lease: target.max_lease,
            members: Vec::new(),
        })
        .collect();
    for member in members {
        if let Some(target) = targets.get_mut(member.target) {
            target.members.push(Member { fd: member.fd, path: member.path });
        }
    }
    targets
}
