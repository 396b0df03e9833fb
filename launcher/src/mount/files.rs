//! File systems made from nothing, and places to mount them.

use crate::plan::Shape;
use remount_broker::sys::mount;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

/// What no mount of a sandbox honours.
pub(crate) const NO_SUID_DEV: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// A file system of type `kind`, configured by `options`, not attached anywhere.
pub(crate) fn filesystem(
    kind: &str,
    options: &[(&str, &str)],
    flags: &[&str],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    for flag in flags {
        fsconfig_set_flag(&context, *flag)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// An empty directory in memory.
pub(super) fn tmpfs(size: Option<u64>, permissions: u32) -> Result<OwnedFd, Errno> {
    let mode = format!("{permissions:o}");
    let size = size.map(|size| size.to_string());
    let mut options = vec![("mode", mode.as_str())];
    options.extend(size.as_deref().map(|size| ("size", size)));
    filesystem("tmpfs", &options, &[], NO_SUID_DEV)
}

/// The process file system of this process's PID namespace.
pub(super) fn proc() -> Result<OwnedFd, Errno> {
    filesystem("proc", &[], &[], NO_SUID_DEV | MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

/// What is below `lower`, with writes kept in `scratch`: an attached and empty tmpfs, or a
/// directory that may have been used for that before.
pub(super) fn overlay(lower: BorrowedFd<'_>, scratch: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let permissions = Mode::from_raw_mode(mount::stat(lower)?.mode.into());
    let make = |name: &CStr, permissions| match rustix::fs::mkdirat(scratch, name, permissions) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    };
    make(c"upper", permissions)?;
    make(c"work", Mode::RWXU)?;
    let upper = mount::open_exact(scratch, c"upper")?;
    let work = mount::open_exact(scratch, c"work")?;
    overlay_of(&[lower], Some((upper.as_fd(), work.as_fd())), &[], NO_SUID_DEV)
}

/// Several directories as one, the first on top. Writes go to `store`'s first directory,
/// whose second is overlayfs's own; without one it is read-only.
pub(crate) fn overlay_of(
    layers: &[BorrowedFd<'_>],
    store: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    // By descriptor: no name that has to be escaped, none that can be replaced.
    let path = |fd: &BorrowedFd<'_>| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lower = layers.iter().map(path).collect::<Vec<_>>().join(":");
    let store = store.map(|(upper, work)| (path(&upper), path(&work)));
    let mut options = options.to_vec();
    options.push(("lowerdir", &lower));
    if let Some((upper, work)) = &store {
        options.extend([("upperdir", upper.as_str()), ("workdir", work)]);
    }
    // Without `trusted.*` attributes, which a user namespace cannot write.
    filesystem("overlay", &options, &["userxattr"], attributes)
}

/// Where the limit of mount namespaces of this process's user namespace is written.
pub(crate) fn namespace_limit(proc: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(proc, c"sys/user/max_mnt_namespaces", flags, Mode::empty())
}

/// Allows this process's user namespace, and all below it, no more mount namespaces
/// than the one it has: a new one would keep its own writable copy of every target.
/// Detached mounts count as well, so that this comes after the last of them.
pub(crate) fn forbid_mount_namespaces(limit: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::write(limit, b"1").map(drop)
}

/// Makes `dest` below `root`, and the directories on the way, and opens it.
pub(super) fn make_mountpoint(
    root: BorrowedFd<'_>,
    dest: &Path,
    shape: Shape,
) -> Result<OwnedFd, Errno> {
    let mut names = dest.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let last = names.next_back().ok_or(Errno::EXIST)?;
    let mut dir = mount::open_exact_in(root, c"/")?;
    for name in names {
        dir = match mount::open_exact(dir.as_fd(), name) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755))?;
                mount::open_exact(dir.as_fd(), name)?
            }
            result => result?,
        };
    }
    match shape {
        Shape::Directory => rustix::fs::mkdirat(&dir, last, Mode::from_raw_mode(0o755))?,
        Shape::File => empty_file(dir.as_fd(), last, 0o644)?,
    }
    mount::open_exact(dir.as_fd(), last)
}

/// Makes a file for all to read, in memory, where a short text is written at once.
pub(super) fn file(dir: BorrowedFd<'_>, name: &CStr, text: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o444))?;
    match rustix::io::write(&file, text.as_bytes())? {
        written if written == text.len() => Ok(()),
        _ => Err(Errno::NOSPC),
    }
}

/// Makes an empty file; one that exists is an error.
pub(crate) fn empty_file(
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    permissions: u32,
) -> Result<(), Errno> {
    rustix::fs::mknodat(dir, name, FileType::RegularFile, Mode::from_raw_mode(permissions), 0)
}
