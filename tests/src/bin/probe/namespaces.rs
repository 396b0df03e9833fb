//! Acts on mounts and namespaces.

use crate::{Answer, Args, checked, errno, usage};
use nix::errno::Errno;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::ptr::null;

const FSCONFIG_CMD_CREATE: u32 = 6;

pub(crate) fn act(name: &str, args: &Args) -> Option<Answer> {
    let path = || c_path(args.at(0));
    let result = match name {
        "mount-tmpfs" => mount(Some(c"tmpfs"), &path(), Some(c"tmpfs"), 0),
        "mount-proc" => mount(Some(c"proc"), &path(), Some(c"proc"), 0),
        "bind-mount" => mount(Some(&path()), &c_path(args.at(1)), None, libc::MS_BIND),
        "remount-rw" => mount(None, &path(), None, libc::MS_REMOUNT | libc::MS_BIND),
        "remount-ro" => {
            mount(None, &path(), None, libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY)
        }
        "umount" => {
            let path = path();
            // SAFETY: `path` is a NUL-terminated string that outlives the call.
            checked(unsafe { libc::syscall(libc::SYS_umount2, path.as_ptr(), libc::MNT_DETACH) })
        }
        // `mount-setattr PATH ro|rw [recursive]`
        "mount-setattr" => mount_setattr(&path(), args.text(1), args.get(2).is_some()),
        "open-tree" => open_tree(&path(), libc::OPEN_TREE_CLOEXEC),
        // A detached copy, which keeps the flags of now.
        "open-tree-clone" => open_tree(&path(), libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC),
        "move-mount" => move_mount(&path(), &c_path(args.at(1))),
        // `fsopen TYPE`: only the context.
        "fsopen" => fsopen(&path()),
        // A whole detached file system: fsopen, fsconfig, fsmount.
        "fsmount" => fsmount(&path()),
        "fspick" => {
            let path = path();
            // SAFETY: `path` is a NUL-terminated string that outlives the call.
            checked(unsafe { libc::syscall(libc::SYS_fspick, libc::AT_FDCWD, path.as_ptr(), 0) })
        }
        "pivot-root" => {
            let (new, old) = (path(), c_path(args.at(1)));
            // SAFETY: both are NUL-terminated strings that outlive the call.
            checked(unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) })
        }
        "chroot" => {
            let path = path();
            // SAFETY: `path` is a NUL-terminated string that outlives the call.
            checked(unsafe { libc::syscall(libc::SYS_chroot, path.as_ptr()) })
        }
        // `unshare NAMESPACE[,NAMESPACE…]`
        "unshare" => {
            let flags = flags(args.text(0));
            // SAFETY: the call touches no memory, and the process has one thread.
            checked(unsafe { libc::syscall(libc::SYS_unshare, flags) })
        }
        // `clone [NAMESPACE,…]`: the child exits at once.
        "clone" => clone(args.get(0).map_or(0, flags)),
        "clone3" => clone3(args.get(0).map_or(0, flags)),
        // `setns FILE [NAMESPACE]`
        "setns" => setns(args),
        // What remount-run must stop: a mount namespace of one's own.
        "own-mount-namespace" => enter_user_namespace().map(|()| 0),
        _ => return None,
    };
    Some(result.map(|_| String::new()))
}

/// Mounts an empty file system, with a file `file` in it.
pub(crate) fn mount_tmpfs(path: &OsStr) -> Result<(), Errno> {
    mount(Some(c"tmpfs"), &c_path(path), Some(c"tmpfs"), 0)?;
    std::fs::write(std::path::Path::new(path).join("file"), "").map_err(errno)
}

pub(crate) fn make_read_only(path: &OsStr) -> Result<(), Errno> {
    mount_setattr(&c_path(path), "ro", false).map(drop)
}

pub(crate) fn c_path(path: &OsStr) -> CString {
    CString::new(path.as_bytes()).unwrap_or_else(|_| usage("NUL in a path"))
}

fn flags(names: &str) -> libc::c_long {
    names.split(',').fold(0, |flags, name| {
        flags
            | libc::c_long::from(match name {
                "user" => libc::CLONE_NEWUSER,
                "mnt" => libc::CLONE_NEWNS,
                "pid" => libc::CLONE_NEWPID,
                "net" => libc::CLONE_NEWNET,
                "ipc" => libc::CLONE_NEWIPC,
                "uts" => libc::CLONE_NEWUTS,
                "cgroup" => libc::CLONE_NEWCGROUP,
                "time" => libc::CLONE_NEWTIME,
                other => return flags | crate::parse_number(other),
            })
    })
}

fn mount(
    source: Option<&std::ffi::CStr>,
    target: &std::ffi::CStr,
    kind: Option<&std::ffi::CStr>,
    flags: libc::c_ulong,
) -> Result<libc::c_long, Errno> {
    let pointer = |text: Option<&std::ffi::CStr>| text.map_or(null(), |text| text.as_ptr());
    // SAFETY: each pointer is null, which mount(2) allows for these, or a
    // NUL-terminated string that outlives the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount,
            pointer(source),
            target.as_ptr(),
            pointer(kind),
            flags,
            null::<u8>(),
        )
    })
}

fn mount_setattr(path: &CString, mode: &str, recursive: bool) -> Result<libc::c_long, Errno> {
    const RDONLY: u64 = 1;
    let attributes: [u64; 4] = match mode {
        "ro" => [RDONLY, 0, 0, 0],
        "rw" => [0, RDONLY, 0, 0],
        _ => usage("mount-setattr PATH ro|rw [recursive]"),
    };
    let at = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attributes` is a `struct mount_attr` (four u64: set, clr, propagation,
    // userns_fd) of the length given; `path` is NUL-terminated; both outlive the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            at,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    })
}

fn open_tree(path: &CString, flags: libc::c_uint) -> Result<libc::c_long, Errno> {
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    checked(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

fn move_mount(from: &CString, to: &CString) -> Result<libc::c_long, Errno> {
    let cwd = libc::AT_FDCWD;
    // SAFETY: both are NUL-terminated strings that outlive the call.
    checked(unsafe { libc::syscall(libc::SYS_move_mount, cwd, from.as_ptr(), cwd, to.as_ptr(), 0) })
}

fn fsopen(kind: &CString) -> Result<libc::c_long, Errno> {
    // SAFETY: `kind` is a NUL-terminated string that outlives the call.
    checked(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 0) })
}

fn fsmount(kind: &CString) -> Result<libc::c_long, Errno> {
    let context = fsopen(kind)?;
    // SAFETY: this command takes no key and no value.
    checked(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context,
            FSCONFIG_CMD_CREATE,
            null::<u8>(),
            null::<u8>(),
            0,
        )
    })?;
    // SAFETY: the call touches no memory.
    checked(unsafe { libc::syscall(libc::SYS_fsmount, context, 0, 0) })
}

fn clone(flags: libc::c_long) -> Result<libc::c_long, Errno> {
    let flags = flags | libc::c_long::from(libc::SIGCHLD);
    // SAFETY: like fork: no stack given, so the child has a copy of this one, and it
    // does nothing but exit.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    leave_or_reap(pid)
}

fn clone3(flags: libc::c_long) -> Result<libc::c_long, Errno> {
    // struct clone_args (include/uapi/linux/sched.h), its first version.
    let mut arguments = [0u64; 8];
    arguments[0] = flags.cast_unsigned();
    arguments[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: like fork, as in `clone`; `arguments` has the length given and outlives
    // the call.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
    leave_or_reap(pid)
}

fn leave_or_reap(pid: libc::c_long) -> Result<libc::c_long, Errno> {
    if pid == 0 {
        // SAFETY: ends the child at once, running nothing of this process's clean-up.
        unsafe { libc::_exit(0) }
    }
    let pid = checked(pid)?;
    // SAFETY: the status is not asked for; `pid` is this process's own child.
    unsafe { libc::waitpid(i32::try_from(pid).unwrap_or(-1), std::ptr::null_mut(), 0) };
    Ok(pid)
}

fn setns(args: &Args) -> Result<libc::c_long, Errno> {
    let file = File::open(args.at(0)).map_err(errno)?;
    let kind = args.get(1).map_or(0, flags);
    // SAFETY: the call touches no memory; the descriptor is open.
    checked(unsafe { libc::syscall(libc::SYS_setns, file.as_raw_fd(), kind) })
}

/// Binds `source`, with what is mounted below it, on `dir`.
pub(crate) fn bind_all(source: &OsStr, dir: &OsStr) -> Result<(), Errno> {
    mount(Some(&c_path(source)), &c_path(dir), None, libc::MS_BIND | libc::MS_REC).map(drop)
}

/// Enters a new user and mount namespace in which the present ids are mapped and
/// all capabilities are held.
pub(crate) fn enter_user_namespace() -> Result<(), Errno> {
    // SAFETY: these two only return numbers.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: the call touches no memory, and the process has one thread.
    checked(unsafe { libc::syscall(libc::SYS_unshare, flags("user,mnt")) })?;
    std::fs::write("/proc/self/setgroups", "deny").map_err(errno)?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).map_err(errno)?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).map_err(errno)?;
    Ok(())
}
