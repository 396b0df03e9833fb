//! Targets: named mounts that can be switched.

use crate::name::{Authority, TargetName};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

/// A named set of mounts that has one mode.
#[derive(Debug)]
pub struct Target {
    /// The name that requests use; no two targets of a sandbox share one.
    pub name: TargetName,
    /// Where it is, in the sandbox: absolute, for people.
    pub path: PathBuf,
    /// Who may make it writable.
    pub authority: Authority,
    /// The longest that it stays writable at a time; none for no limit.
    pub max_lease: Option<Duration>,
    /// The mounts that are switched, in this order, all or none. At least one, and none
    /// that was read-only for another reason than the target's mode when the sandbox was
    /// made: every member becomes writable with the target.
    pub members: Vec<Member>,
}

/// One mount of a target.
#[derive(Debug)]
pub struct Member {
    /// The mount's root, `O_PATH`. It pins the mount, so that what is switched is this
    /// mount for ever, whatever becomes of the path.
    pub fd: OwnedFd,
    /// Where the mount was attached, absolute and without symlinks: another mount found
    /// there later means that the target is stale.
    pub path: PathBuf,
    /// What of the host it shows, without symlinks: what a person holds read-only is not
    /// made writable. None if it is of no interest there.
    pub source: Option<PathBuf>,
}
