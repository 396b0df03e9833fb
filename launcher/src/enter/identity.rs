//! Who one is in a new user namespace: one user and one group, and nobody else.

use super::EnterError;
use crate::plan::Identity;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// An id map that could not be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    /// Which file.
    pub file: &'static str,
    /// Why.
    pub errno: Errno,
}

/// Maps this user and this group to themselves.
pub(super) fn map_ids(identity: Identity) -> Result<(), EnterError> {
    map(identity, identity).map_err(|Refused { file, errno }| EnterError::IdMap { file, errno })
}

/// Maps `outside` to `inside` (user_namespaces(7): without privileges, one id each, and no
/// `setgroups`).
pub(crate) fn map(inside: Identity, outside: Identity) -> Result<(), Refused> {
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{} {} 1", inside.uid, outside.uid))?;
    write("/proc/self/gid_map", &format!("{} {} 1", inside.gid, outside.gid))
}

fn write(file: &'static str, text: &str) -> Result<(), Refused> {
    let write = || {
        let fd = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(fd, text.as_bytes()).map(drop)
    };
    write().map_err(|errno| Refused { file, errno })
}
