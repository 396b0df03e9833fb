//! Mounts by descriptor: clone, attach, change, identify.

use crate::name::Mode;
use rustix::fs::{AtFlags, CWD, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Attributes of a mount, as `mount_setattr(2)` takes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_PRIVATE` or another propagation type, or 0 to leave it.
    pub propagation: u64,
}

impl Attributes {
    /// Read-only, nothing else changed.
    pub const READ_ONLY: Self = Self { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };
    /// Not read-only, nothing else changed.
    pub const READ_WRITE: Self = Self { set: 0, clear: libc::MOUNT_ATTR_RDONLY, propagation: 0 };
    /// No mount event crosses, in either direction.
    pub const PRIVATE: Self = Self { set: 0, clear: 0, propagation: libc::MS_PRIVATE };

    /// These attributes and `more` flags set (`MOUNT_ATTR_*`).
    #[must_use]
    pub const fn and_set(mut self, more: u64) -> Self {
        self.set |= more;
        self
    }

    /// What makes a mount have `mode`.
    #[must_use]
    pub const fn mode(mode: Mode) -> Self {
        match mode {
            Mode::Ro => Self::READ_ONLY,
            Mode::Rw => Self::READ_WRITE,
        }
    }
}

/// How far a change of attributes reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The one mount.
    This,
    /// The mount and all mounts below it. Never for a toggle: it would make
    /// protected mounts underneath writable.
    Tree,
}

/// Changes the attributes of the mount whose root `fd` is open on
/// (`mount_setattr(2)` with `AT_EMPTY_PATH`, so no path is followed).
///
/// # Errors
/// `EBUSY`: read-only was asked for while a file on the mount is open for writing.
/// `EINVAL`: `fd` is not the root of a mount of this mount namespace.
/// `EPERM`: no `CAP_SYS_ADMIN` in the owner of the mount namespace, or a locked flag.
pub fn set_attributes(fd: BorrowedFd<'_>, attributes: Attributes, reach: Reach) -> Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH
        | match reach {
            Reach::This => 0,
            Reach::Tree => libc::AT_RECURSIVE,
        };
    // SAFETY: the path is a NUL-terminated literal; `attr` lives to the end of
    // this function, is only read, and its true size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The calling thread's `errno`, as the call that just failed left it.
pub(super) fn last_errno() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Errno::from_raw_os_error(code)
}

/// Which file: the same in every mount namespace, whatever its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// `st_dev`, major and minor.
    pub dev: (u32, u32),
    /// `st_ino`.
    pub ino: u64,
}

/// What `statx(2)` tells of a file that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Which file.
    pub id: FileId,
    /// File type and permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// How many names it has.
    pub names: u32,
    /// The mount it was reached through (`stx_mnt_id`).
    pub mount_id: u64,
    /// Whether it is the root of that mount.
    pub is_mount_root: bool,
    /// Major and minor number, if it is a device.
    pub device: (u32, u32),
}

impl FileStat {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        u32::from(self.mode) & libc::S_IFMT == libc::S_IFDIR
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        u32::from(self.mode) & libc::S_IFMT == libc::S_IFLNK
    }

    /// Whether it is a socket.
    pub fn is_socket(&self) -> bool {
        u32::from(self.mode) & libc::S_IFMT == libc::S_IFSOCK
    }

    /// Whether it is a character device.
    pub fn is_char_device(&self) -> bool {
        u32::from(self.mode) & libc::S_IFMT == libc::S_IFCHR
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        u32::from(self.mode) & libc::S_IFMT == libc::S_IFREG
    }
}

/// What the kernel says of the file that `fd` is open on.
///
/// # Errors
/// As `statx(2)`.
pub fn stat(fd: BorrowedFd<'_>) -> Result<FileStat> {
    stat_at(fd, c"", AtFlags::EMPTY_PATH)
}

/// What the kernel says of `path` below `dir`, not following a last symlink.
///
/// # Errors
/// As `statx(2)`.
pub fn lstat_at(dir: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<FileStat> {
    stat_at(dir, path, AtFlags::SYMLINK_NOFOLLOW)
}

/// The mount that `fd` is on (`stx_mnt_id`). An id is not given to another mount
/// while a descriptor pins the first.
///
/// # Errors
/// As `statx(2)`.
pub fn mount_id(fd: BorrowedFd<'_>) -> Result<u64> {
    mount_id_with(fd, c"", AtFlags::EMPTY_PATH)
}

/// The mount on which `path` below `dir` lies, not following a last symlink. Asks
/// the filesystem for no attribute, so that a slow one (FUSE, NFS) is not waited for.
///
/// # Errors
/// As `statx(2)`.
pub fn mount_id_at(dir: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<u64> {
    mount_id_with(dir, path, AtFlags::SYMLINK_NOFOLLOW)
}

fn mount_id_with(dir: BorrowedFd<'_>, path: impl rustix::path::Arg, flags: AtFlags) -> Result<u64> {
    let flags = flags | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let answer = rustix::fs::statx(dir, path, flags, StatxFlags::MNT_ID)?;
    if answer.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(answer.stx_mnt_id)
}

fn stat_at(dir: BorrowedFd<'_>, path: impl rustix::path::Arg, flags: AtFlags) -> Result<FileStat> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let s = rustix::fs::statx(dir, path, flags | AtFlags::NO_AUTOMOUNT, wanted)?;
    Ok(FileStat {
        id: FileId { dev: (s.stx_dev_major, s.stx_dev_minor), ino: s.stx_ino },
        mode: s.stx_mode,
        uid: s.stx_uid,
        names: s.stx_nlink,
        mount_id: s.stx_mnt_id,
        is_mount_root: s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        device: (s.stx_rdev_major, s.stx_rdev_minor),
    })
}

/// Opens `path` as a mere location (`O_PATH`), following no symlink at all, not
/// even a magic one, in any component.
///
/// # Errors
/// As `openat2(2)`; `ELOOP` if any component is a symlink.
pub fn open_exact(dir: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<OwnedFd> {
    open_location(dir, path, ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)
}

/// As [`open_exact`], but a last component that is a symlink is opened itself.
///
/// # Errors
/// As `openat2(2)`; `ELOOP` if any other component is a symlink.
pub fn open_exact_or_link(dir: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    open_with(dir, path, OFlags::NOFOLLOW, resolve)
}

/// As [`open_exact`], with `dir` as the root: an absolute path begins there and
/// `..` does not leave it.
///
/// # Errors
/// As `openat2(2)`; `ELOOP` if any component is a symlink.
pub fn open_exact_in(root: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    open_location(root, path, resolve)
}

/// As [`open_exact_in`], but a last component that is a symlink is opened itself.
///
/// # Errors
/// As [`open_exact_or_link`].
pub fn open_exact_or_link_in(
    root: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    open_with(root, path, OFlags::NOFOLLOW, resolve)
}

/// Opens `path` as a mere location (`O_PATH`), following symlinks.
///
/// # Errors
/// As `open(2)`.
pub fn open_following(path: &Path) -> Result<OwnedFd> {
    open_location(CWD, path, ResolveFlags::NO_MAGICLINKS)
}

/// Opens a regular file to read, as [`open_exact`] finds it or with other `resolve` flags. What
/// is none is looked at only: to open a FIFO or a device does something to others.
///
/// # Errors
/// As `openat2(2)`; `EINVAL` if it is no regular file, `ESTALE` if it became another one.
pub fn open_regular(dir: BorrowedFd<'_>, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd> {
    let seen = stat(open_with(dir, path, OFlags::NOFOLLOW, resolve)?.as_fd())?;
    if !seen.is_file() {
        return Err(Errno::INVAL);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(dir, path, flags, rustix::fs::Mode::empty(), resolve)?;
    if stat(file.as_fd())?.id == seen.id { Ok(file) } else { Err(Errno::STALE) }
}

fn open_location(
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    open_with(dir, path, OFlags::empty(), resolve)
}

fn open_with(
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    more: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | more;
    let no_mode = rustix::fs::Mode::empty();
    path.into_with_c_str(|path| {
        // The kernel answers EAGAIN when a rename elsewhere raced with an IN_ROOT
        // lookup; it is to be tried again (openat2(2)).
        for _ in 0..64 {
            match rustix::fs::openat2(dir, path, flags, no_mode, resolve) {
                Err(Errno::AGAIN) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    })
}

/// A detached copy of the mount that `fd` is on, beginning at `fd`, with the
/// mounts below it: what a bind mount attaches.
///
/// # Errors
/// As `open_tree(2)`; `EINVAL` if `fd` is on a mount of another mount namespace.
pub fn clone_tree(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(fd, c"", flags)
}

/// As [`clone_tree`], of the file `name` in `dir` and nothing below it; a symlink is not followed.
///
/// # Errors
/// As `open_tree(2)`.
pub fn clone_file(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    rustix::mount::open_tree(dir, name, flags)
}

/// As [`clone_tree`], without the mounts below it.
///
/// # Errors
/// As `open_tree(2)`; `EINVAL` also if a mount below must not be taken away, as those
/// of the host in a user namespace. `ENOSPC` if there may be no more mount namespace.
pub fn clone_one(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(fd, c"", flags)
}

/// Attaches the detached tree `tree` on top of the file that `at` is open on.
/// `tree` stays a descriptor of the mount, now attached.
///
/// # Errors
/// As `move_mount(2)`; `ENOTDIR` if one is a directory and the other is not.
pub fn attach(tree: BorrowedFd<'_>, at: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", at, c"", flags)
}

/// As [`attach`], below the mount whose root `at` is open on: it is seen once that is gone.
///
/// # Errors
/// As `move_mount(2)` with `MOVE_MOUNT_BENEATH`; `EINVAL` also before Linux 6.5.
pub fn attach_beneath(tree: BorrowedFd<'_>, at: BorrowedFd<'_>) -> Result<()> {
    // include/uapi/linux/mount.h: MOVE_MOUNT_BENEATH.
    let beneath = MoveMountFlags::from_bits_retain(0x200);
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", at, c"", flags | beneath)
}

/// Takes the topmost mount off `path`, which is no symlink, at once; whoever is in it keeps it.
///
/// # Errors
/// As `umount2(2)`; `EINVAL` also if it came with the user namespace.
pub fn detach(path: &Path) -> Result<()> {
    let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
    rustix::mount::unmount(path, flags)
}

/// As [`attach`], on the file `name` in `dir`; a symlink is not followed.
///
/// # Errors
/// As `move_mount(2)`.
pub fn attach_at(
    tree: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
) -> Result<()> {
    rustix::mount::move_mount(tree, c"", dir, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Whether the mount or the filesystem that `fd` is on is read-only.
///
/// # Errors
/// As `fstatvfs(3)`.
pub fn is_read_only(fd: impl AsFd) -> Result<bool> {
    Ok(rustix::fs::fstatvfs(fd)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}
