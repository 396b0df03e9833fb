//! The sandbox's own directory: `remountctl`, the broker's socket, and the empty file
//! and directory that masks are made of.

use super::{Failed, Step, files};
use crate::plan::{SOCKETS, Shape};
use remount_broker::sys::mount::{self, Attributes, Reach};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// For the agent, which reads it when a write is refused.
const README: &str = include_str!("control/README");

/// Connections that may wait for the broker.
const BACKLOG: i32 = 128;

/// The mounted directory.
pub(super) struct Control {
    /// The broker's socket.
    pub listener: OwnedFd,
    /// The filter's.
    pub sockets: Vec<OwnedFd>,
    mount: OwnedFd,
    directory: OwnedFd,
    file: OwnedFd,
}

impl Control {
    /// Mounts it on `at`; `program` is this program's file, `hooks` the table for
    /// `remountctl hook`, `sockets` the names of the filter's.
    pub fn mount(
        at: BorrowedFd<'_>,
        program: BorrowedFd<'_>,
        hooks: &str,
        sockets: &[String],
    ) -> Result<Self, Failed> {
        let mount = files::tmpfs(Some(1 << 20), 0o755).step("make a tmpfs for")?;
        mount::attach(mount.as_fd(), at).step("mount on")?;
        let fill = |mount: OwnedFd| -> Result<Self, Errno> {
            rustix::fs::mkdirat(&mount, c"bin", Mode::from_raw_mode(0o755))?;
            rustix::fs::mkdirat(&mount, c"empty", Mode::from_raw_mode(0o555))?;
            files::empty_file(mount.as_fd(), c"nothing", 0o444)?;
            files::empty_file(mount.as_fd(), c"bin/remountctl", 0o555)?;
            let tree = mount::clone_tree(program)?;
            let flags = Attributes::READ_ONLY.and_set(super::NO_SUID_DEV);
            mount::set_attributes(tree.as_fd(), flags, Reach::Tree)?;
            mount::attach_at(tree.as_fd(), mount.as_fd(), c"bin/remountctl")?;
            let listener = listen(mount.as_fd(), "socket")?;
            let sockets = listen_all(mount.as_fd(), sockets)?;
            if !hooks.is_empty() {
                files::file(mount.as_fd(), c"hooks", hooks)?;
                files::file(mount.as_fd(), c"README", README)?;
            }
            // From here on nothing in it changes, and what is cloned of it is read-only too.
            mount::set_attributes(mount.as_fd(), Attributes::READ_ONLY, Reach::This)?;
            let directory = mount::open_exact(mount.as_fd(), c"empty")?;
            let file = mount::open_exact(mount.as_fd(), c"nothing")?;
            Ok(Self { listener, sockets, mount, directory, file })
        };
        fill(mount).step("fill")
    }

    /// The filter's socket of this name, to mount somewhere.
    pub fn socket(&self, name: &str) -> Result<OwnedFd, Errno> {
        let dir = mount::open_exact(self.mount.as_fd(), SOCKETS)?;
        mount::clone_tree(mount::open_exact(dir.as_fd(), name)?.as_fd())
    }

    /// An empty, read-only file or directory to mount somewhere.
    pub fn empty(&self, shape: Shape) -> Result<OwnedFd, Errno> {
        match shape {
            Shape::Directory => mount::clone_tree(self.directory.as_fd()),
            Shape::File => mount::clone_tree(self.file.as_fd()),
        }
    }
}

/// The filter's sockets, in a directory of their own.
fn listen_all(dir: BorrowedFd<'_>, names: &[String]) -> Result<Vec<OwnedFd>, Errno> {
    if !names.is_empty() {
        rustix::fs::mkdirat(dir, SOCKETS, Mode::from_raw_mode(0o755))?;
    }
    names.iter().map(|name| listen(dir, &format!("{SOCKETS}/{name}"))).collect()
}

/// The broker's socket, or another. Everybody inside may connect; who may do what is the broker's
/// to decide.
fn listen(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmodat(dir, name, Mode::from_raw_mode(0o666), AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}
