//! The processes of a sandbox, from the first fork to the agent's exec.
//!
//! ```text
//! launcher ─┬─ init (PID 1 of the new namespaces) ── agent
//!           └─ broker (joins the user and mount namespace, not the PID namespace)
//! ```
//!
//! Init builds the file tree, hands the broker its descriptors and forks the agent.
//! The broker gets ready at the same time; the agent is executed only when the broker
//! has said that it is. Each dies with the launcher, and init with the broker.

mod broker;
pub(crate) mod identity;
pub(crate) mod init;

pub use broker::{Broker, Serving};
pub use init::Init;

use crate::confine;
use crate::mount::Handles;
use crate::plan::Namespaces;
use crate::report::{Failure, Message, Reporter, UNPERMITTED};
use remount_broker::escape::Escaped;
use remount_broker::reason::Reason;
use remount_broker::sys::process::{self, Fork};
use rustix::io::Errno;
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A stage of the start that failed.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The namespaces were refused.
    #[error("create namespaces ({names}): {:#}", Reason::from(*errno))]
    Namespaces {
        /// Which.
        names: String,
        /// Why.
        errno: Errno,
    },
    /// The new user namespace's ids could not be mapped.
    #[error("write {file}: {:#}", Reason::from(*errno))]
    IdMap {
        /// Which file.
        file: String,
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
    #[error("{step}: {:#}", Reason::from(*errno))]
    System {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// The agent's working directory is not there.
    #[error("change to {} in the sandbox: {}", Escaped::path(path), Reason::from(*errno))]
    WorkingDirectory {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// What a Landlock rule names is not there.
    #[error("grant {} in Landlock: {:#}", Escaped::path(path), Reason::from(*errno))]
    Rule {
        /// Which.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// The agent's program could not be executed.
    #[error("execute {}: {}", Escaped::path(path), Reason::from(*errno))]
    Exec {
        /// Its file.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// Something else is held read-only than when the plan was made.
    #[error("start the sandbox: what is held read-only was changed meanwhile")]
    HeldChanged,
    /// The broker ended: the sandbox cannot go on without it.
    #[error("the sandbox's broker ended")]
    NoBroker,
    /// Another process looks at the system calls of this one already.
    #[error("write down what is executed: another process is told of it already (EBUSY)")]
    Listener,
    /// Init ended before the sandbox was ready.
    #[error("the sandbox's init ended before the sandbox was ready")]
    NoInit,
}

/// Which limit to raise, if `errno` says that one is reached; `EAGAIN` as of `fork(2)`.
pub(crate) fn limit_hint(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::MFILE | Errno::NFILE => Some("raise the limit of open files (ulimit -n)"),
        Errno::AGAIN => Some(
            "there are as many processes as there may be: end some, or raise the limit of the user \
             (ulimit -u), of the service (TasksMax=) or of the container (its pids limit)",
        ),
        _ => None,
    }
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
            Self::Namespaces { names, errno: Errno::PERM } if !names.contains("user") => Some(
                "root has no CAP_SYS_ADMIN here, as in most containers: give it to the container, or set \
                 user-namespace = \"always\" under [sandbox] in a profile and let the container's \
                 seccomp profile allow unshare",
            ),
            Self::Namespaces {
                errno: Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::INVAL,
                ..
            } => Some(
                "the host forbids unprivileged user namespaces: set the sysctl kernel.unprivileged_userns_clone=1, \
                 or kernel.apparmor_restrict_unprivileged_userns=0, or give remount-run an AppArmor profile \
                 with `userns,`; in a container, run it with a seccomp profile that allows unshare; \
                 inside another sandbox it cannot run",
            ),
            Self::IdMap { .. } => Some(
                "the host restricts user namespaces: see the sysctl kernel.apparmor_restrict_unprivileged_userns",
            ),
            Self::HeldChanged => Some("start it again"),
            Self::Listener => Some(
                "the kernel has one such process for each: leave --audit out here, as in a sandbox \
                 that has it, or in a container that is watched in this way",
            ),
            Self::Mount(error) if error.errno == Errno::STALE => {
                Some("the file was replaced while the sandbox started: start it again")
            }
            Self::Mount(error)
                if error.step == crate::mount::OVERLAY
                    && matches!(
                        error.errno,
                        Errno::PERM
                            | Errno::ACCESS
                            | Errno::NODEV
                            | Errno::INVAL
                            | Errno::OPNOTSUPP
                    ) =>
            {
                Some(
                    "an overlay needs overlayfs, for ordinary users Linux 5.11, and for the changes a file \
                     system with user.* attributes (ext4, xfs, btrfs; tmpfs from Linux 6.6)",
                )
            }
            Self::Mount(error) => limit_hint(error.errno),
            Self::Namespaces { errno, .. }
            | Self::System { errno, .. }
            | Self::Rule { errno, .. } => limit_hint(*errno),
            Self::Exec { errno: Errno::ACCESS, .. } => {
                Some("it must be executable, and not on a file system mounted noexec")
            }
            Self::Exec { errno: Errno::NOEXEC, .. } => Some(
                "it must be a program for this machine, or a script whose first line is \
                 #! and its interpreter",
            ),
            Self::Exec { errno: Errno::NOENT, .. } => Some(
                "it or its interpreter is not visible in the sandbox: --ro-bind what is missing",
            ),
            _ => None,
        }
    }

    pub(crate) fn failure(&self) -> Failure {
        let code = match self {
            Self::Exec { errno: Errno::NOENT, .. } => 127,
            Self::Exec { .. } => 126,
            // A lack that passes, and no word on what is permitted.
            Self::Namespaces { errno: Errno::AGAIN | Errno::NOMEM, .. } => 125,
            Self::Namespaces { .. } | Self::IdMap { .. } => UNPERMITTED,
            Self::Mount(error)
                if matches!(error.errno, Errno::PERM | Errno::ACCESS | Errno::NOSYS) =>
            {
                UNPERMITTED
            }
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

/// If the launcher dies, so does this process, whatever it is doing.
pub(crate) fn die_with_parent() -> Result<(), EnterError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .step("bind to the launcher's life")
}

/// Forks into the namespaces of the plan.
///
/// # Errors
/// [`EnterError::Namespaces`], with a hint at the setting that forbids them.
pub fn fork_into(namespaces: &Namespaces) -> Result<Fork, EnterError> {
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC;
    for (wanted, flag) in [
        (namespaces.user.is_some(), libc::CLONE_NEWUSER),
        (namespaces.hostname.is_some(), libc::CLONE_NEWUTS),
        (namespaces.unshare_network, libc::CLONE_NEWNET),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    process::fork_into(flags as u64)
        .map_err(|errno| EnterError::Namespaces { names: namespaces.names().join(", "), errno })
}

/// What init hands to the broker.
#[derive(Debug)]
pub(crate) struct Handover {
    /// The user namespace, if it is a new one.
    pub(crate) user: Option<OwnedFd>,
    pub(crate) mount: OwnedFd,
    /// Device and inode of the PID namespace.
    pub(crate) processes: (u64, u64),
    pub(crate) handles: Handles,
}
