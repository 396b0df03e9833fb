//! The last stage before exec, in the process that becomes the sandboxed command.
//!
//! The order is [`empty_bounding_set`] (before the broker and the command's side part, for
//! both), [`limits`], [`drop_capabilities`], [`landlock::restrict`] (which sets
//! `no_new_privs`), the seccomp filter, [`verify`]. The bounding set goes first because
//! emptying it takes a capability; the filter goes last because it may deny what the
//! steps before it call. Everything here acts on the calling thread: the process must
//! have no other.

mod caps;
pub mod landlock;
mod limits;
mod status;

pub use caps::{
    BROKER_CAPABILITIES, BROKER_CAPABILITIES_IN_USER_NAMESPACE, EmptyBoundingSet,
    drop_capabilities, empty_bounding_set, reduce_capabilities,
};
pub use limits::{CoreDumps, limits};
pub use status::{filters_in_force, verify, verify_but_bounding};

use remount_broker::escape::Escaped;
use remount_broker::reason::{IoReason, Reason};
use rustix::io::Errno;
use std::error::Error;
use std::path::PathBuf;

/// Which step of confinement failed, and why.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A capability could not be dropped from the bounding set. `EPERM`: the process
    /// has no `CAP_SETPCAP`, that is, it is neither root nor in a user namespace of its own.
    #[error("drop capability {capability} from the bounding set: {:#}", Reason::from(*source))]
    Bounding {
        /// Its number, `CAP_*` of include/uapi/linux/capability.h.
        capability: u32,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The effective, permitted and inheritable sets could not be set.
    #[error("set the capabilities: {:#}", Reason::from(*.0))]
    Capabilities(#[source] Errno),
    /// `no_new_privs` could not be set.
    #[error("set no_new_privs: {:#}", Reason::from(*.0))]
    NoNewPrivileges(#[source] Errno),
    /// The limit of core dumps could not be set.
    #[error("limit core dumps: {:#}", Reason::from(*.0))]
    CoreLimit(#[source] Errno),
    /// The kernel did not make the Landlock ruleset that its ABI promises.
    #[error("make a Landlock ruleset of ABI {abi}: {}", deepest(source.as_ref()))]
    LandlockRuleset {
        /// The ABI that was asked for.
        abi: u32,
        /// What Landlock said.
        #[source]
        source: Box<::landlock::RulesetError>,
    },
    /// A file could not be examined or granted.
    #[error("grant {} in Landlock: {}", Escaped::path(path), deepest(source.as_ref()))]
    LandlockRule {
        /// Where it is, inside.
        path: PathBuf,
        /// What Landlock said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The Landlock ruleset could not be enforced.
    #[error("enforce the Landlock ruleset: {}", deepest(.0.as_ref()))]
    LandlockEnforce(#[source] Box<::landlock::RulesetError>),
    /// The kernel enforces less than was asked for.
    #[error("Landlock is not fully enforced")]
    LandlockIncomplete,
    /// The state of the process could not be read.
    #[error("read {path}: {:#}", Reason::from(*source))]
    ReadStatus {
        /// The file.
        path: &'static str,
        /// What the kernel said; `ENODEV` if it is no file of a proc filesystem.
        #[source]
        source: Errno,
    },
    /// After all steps, the kernel's own account of the process is not that of a
    /// confined one.
    #[error("the process is not confined: {field} is {found}")]
    NotConfined {
        /// The field of `/proc/self/status`.
        field: &'static str,
        /// Its value, or `missing`.
        found: String,
    },
}

/// What the system said, below the layers of a library that wrap it.
fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    match (deepest.downcast_ref::<std::io::Error>(), deepest.downcast_ref::<Errno>()) {
        (Some(error), _) => format!("{:#}", IoReason(error)),
        (_, Some(errno)) => format!("{:#}", Reason::from(*errno)),
        _ => deepest.to_string(),
    }
}

/// What the tests of the steps share.
#[cfg(test)]
mod testing {
    use rustix::thread::CapabilitySet;
    use std::process::Command;

    /// Runs `test` in a thread of its own, so that what it does to itself ends with it:
    /// capabilities, `no_new_privs`, Landlock and seccomp are the thread's.
    pub(super) fn in_thread(test: impl FnOnce() + Send + 'static) {
        if let Err(panic) = std::thread::spawn(test).join() {
            std::panic::resume_unwind(panic);
        }
    }

    /// Whether the calling thread may empty its bounding set.
    pub(super) fn may_drop() -> bool {
        let sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.contains(CapabilitySet::SETPCAP)
    }

    /// Whether the calling test is to go on. Without privileges it runs once more, as
    /// root of a user namespace, and there goes on; this run then has nothing to do.
    pub(super) fn privileged(test: &str) -> bool {
        if may_drop() {
            return true;
        }
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&status.stdout);
        assert!(status.status.success() && output.contains("1 passed"), "{output}");
        false
    }
}
