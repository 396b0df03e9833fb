//! A minimal `/dev`.

use super::{Failed, Step, files};
use remount_broker::sys::mount::{self, Attributes, Reach};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// The devices every program may use, with the numbers they must have
/// (Documentation/admin-guide/devices.txt): a file put in a device's place is refused.
pub(crate) const DEVICES: &[(&str, (u32, u32))] = &[
    ("null", (1, 3)),
    ("zero", (1, 5)),
    ("full", (1, 7)),
    ("random", (1, 8)),
    ("urandom", (1, 9)),
    ("tty", (5, 0)),
];

pub(crate) const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Mounts a `/dev` on `at`, with the host's devices and terminals of its own.
/// `terminal` is the person's, which appears as `console`.
pub(super) fn mount(
    old_root: BorrowedFd<'_>,
    at: BorrowedFd<'_>,
    terminal: Option<&Path>,
) -> Result<(), Failed> {
    let dev = files::tmpfs(None, 0o755).step("make a tmpfs for")?;
    mount::attach(dev.as_fd(), at).step("mount on")?;
    let host = mount::open_exact_in(old_root, c"/dev").step("find the host's")?;
    for (name, numbers) in DEVICES {
        device(host.as_fd(), dev.as_fd(), name, *numbers).step("bind a device in")?;
    }
    if let Some(terminal) = terminal {
        console(old_root, dev.as_fd(), terminal).step("bind the terminal in")?;
    }
    for (name, to) in LINKS {
        rustix::fs::symlinkat(*to, &dev, *name).step("make a symlink in")?;
    }
    rustix::fs::mkdirat(&dev, c"shm", Mode::from_raw_mode(0o777)).step("make shm in")?;
    // Not subject to the umask of whoever started this.
    let sticky = Mode::from_raw_mode(0o1777);
    rustix::fs::chmodat(&dev, c"shm", sticky, rustix::fs::AtFlags::empty()).step("make shm in")?;
    terminals(dev.as_fd()).step("make pts in")
}

fn device(
    host: BorrowedFd<'_>,
    dev: BorrowedFd<'_>,
    name: &str,
    numbers: (u32, u32),
) -> Result<(), Errno> {
    let tree = mount::clone_file(host, name)?;
    let stat = mount::stat(tree.as_fd())?;
    if !stat.is_char_device() || stat.device != numbers {
        return Err(Errno::NODEV);
    }
    place(tree.as_fd(), dev, name)
}

fn console(old_root: BorrowedFd<'_>, dev: BorrowedFd<'_>, terminal: &Path) -> Result<(), Errno> {
    let source = mount::open_exact_in(old_root, terminal)?;
    if !mount::stat(source.as_fd())?.is_char_device() {
        return Err(Errno::NODEV);
    }
    place(mount::clone_tree(source.as_fd())?.as_fd(), dev, "console")
}

fn place(tree: BorrowedFd<'_>, dev: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    files::empty_file(dev, name, 0o666)?;
    // Read-only does not keep a device from being written to, but its node from being
    // changed: root owns the host's, and could take it from everybody (chmod).
    let flags = Attributes::READ_ONLY.and_set(libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC);
    mount::set_attributes(tree, flags, Reach::This)?;
    mount::attach_at(tree, dev, name)
}

fn terminals(dev: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::mkdirat(dev, c"pts", Mode::from_raw_mode(0o755))?;
    let options = [("ptmxmode", "0666"), ("mode", "0620")];
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = files::filesystem("devpts", &options, &[], attributes)?;
    mount::attach_at(pts.as_fd(), dev, c"pts")
}
