//! Who one is in a new user namespace: one user and one group, and nobody else.

use super::EnterError;
use crate::plan::Identity;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// An id map that could not be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    /// Which file of `/proc/self`.
    pub file: &'static str,
    /// Why.
    pub errno: Errno,
}

/// Maps this user and this group to themselves.
pub(super) fn map_ids(identity: Identity) -> Result<(), EnterError> {
    map(CWD, "/proc/self/", identity, identity).map_err(|Refused { file, errno }| {
        EnterError::IdMap { file: format!("/proc/self/{file}"), errno }
    })
}

/// Maps `outside` to `inside` (user_namespaces(7): without privileges, one id each, and no
/// `setgroups`), through the files of this process: `prefix` leads to them from `dir`.
pub(crate) fn map(
    dir: BorrowedFd<'_>,
    prefix: &str,
    inside: Identity,
    outside: Identity,
) -> Result<(), Refused> {
    let uids = format!("{} {} 1", inside.uid, outside.uid);
    let gids = format!("{} {} 1", inside.gid, outside.gid);
    // In bubblewrap's order: the first that fails is what its callers are told.
    for (file, text) in [("uid_map", &*uids), ("setgroups", "deny"), ("gid_map", &*gids)] {
        let path = [prefix, file].concat();
        rustix::fs::openat(dir, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|fd| rustix::io::write(fd, text.as_bytes()))
            .map_err(|errno| Refused { file, errno })?;
    }
    Ok(())
}
