//! The sandbox's own directory: `remountctl`, the broker's socket, and the empty file
//! and directory that masks are made of.

use super::{Failed, Step, files};
use crate::plan::Shape;
use remount_broker::sys::mount::{self, Attributes, Reach};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Connections that may wait for the broker.
const BACKLOG: i32 = 128;

/// The mounted directory, still writable.
pub(super) struct Control {
    mount: OwnedFd,
    listener: OwnedFd,
}

impl Control {
    /// Mounts it on `at`; `program` is this program's file.
    pub fn mount(at: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<Self, Failed> {
        let mount = files::tmpfs(Some(1 << 20), 0o755).step("make a tmpfs for")?;
        mount::attach(mount.as_fd(), at).step("mount on")?;
        let fill = || -> Result<OwnedFd, Errno> {
            let read_execute = Mode::from_raw_mode(0o555);
            rustix::fs::mkdirat(&mount, c"bin", Mode::from_raw_mode(0o755))?;
            rustix::fs::mkdirat(&mount, c"empty", read_execute)?;
            files::empty_file(mount.as_fd(), c"nothing", 0o444)?;
            files::empty_file(mount.as_fd(), c"bin/remountctl", 0o555)?;
            let tree = mount::clone_tree(program)?;
            let flags = Attributes::READ_ONLY.and_set(super::NO_SUID_DEV);
            mount::set_attributes(tree.as_fd(), flags, Reach::Tree)?;
            let place = mount::open_exact(mount.as_fd(), c"bin/remountctl")?;
            mount::attach(tree.as_fd(), place.as_fd())?;
            listen(mount.as_fd())
        };
        let listener = fill().step("fill")?;
        Ok(Self { mount, listener })
    }

    /// An empty file or directory to mount somewhere.
    pub fn empty(&self, shape: Shape) -> Result<OwnedFd, Errno> {
        let name = match shape {
            Shape::Directory => c"empty",
            Shape::File => c"nothing",
        };
        let file = mount::open_exact(self.mount.as_fd(), name)?;
        let tree = mount::clone_tree(file.as_fd())?;
        mount::set_attributes(tree.as_fd(), Attributes::READ_ONLY, Reach::Tree)?;
        Ok(tree)
    }

    /// Makes the directory read-only; returns the broker's socket.
    pub fn seal(self) -> Result<OwnedFd, Failed> {
        mount::set_attributes(self.mount.as_fd(), Attributes::READ_ONLY, Reach::This)
            .step("seal")?;
        Ok(self.listener)
    }
}

/// The broker's socket. Everybody inside may connect; who may do what is the broker's
/// to decide.
fn listen(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let path = format!("/proc/self/fd/{}/socket", dir.as_raw_fd());
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmodat(dir, c"socket", Mode::from_raw_mode(0o666), AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}
