//! Who one is in a new user namespace: oneself, and nobody else.

use super::EnterError;
use crate::plan::Identity;
use rustix::fs::{Mode, OFlags};

/// Maps this user and this group to themselves (user_namespaces(7): without
/// privileges, one id each, and no `setgroups`).
pub(super) fn map_ids(identity: Identity) -> Result<(), EnterError> {
    let Identity { uid, gid } = identity;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", &format!("{gid} {gid} 1"))
}

fn write(file: &'static str, text: &str) -> Result<(), EnterError> {
    let write = || {
        let fd = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(fd, text.as_bytes()).map(drop)
    };
    write().map_err(|errno| EnterError::IdMap { file, errno })
}
