//! Landlock, if a profile asks for it: the same as the mounts, as the kernel lists them
//! when the tree is complete.

use super::error::{Die, OrDie, Result};
use crate::confine::landlock::{self, Access, Rule};
use crate::host::{self, Mount, MountTable};
use remount_broker::sys::mount::{self, FileStat};
use rustix::fs::{CWD, Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What the command may use, opened as it is inside.
#[derive(Debug)]
pub(super) struct Rules {
    abi: u32,
    opened: Vec<(PathBuf, OwnedFd, Access)>,
}

impl Rules {
    /// Those of the finished tree, whose mounts `proc` lists. `targets` can become writable.
    pub(super) fn of(abi: u32, proc: &OwnedFd, targets: &[PathBuf]) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let text = || "--profile: read the mount table";
        let table = rustix::fs::openat(proc, c"self/mountinfo", flags, Mode::empty());
        let table = host::read_to_end(table.or_die(text)?).or_die(text)?;
        let table = MountTable::parse(&table);
        let root = Path::new("/");
        let mut opened = Vec::new();
        for mount in table.of(root).into_iter().chain(table.below(root)) {
            // What cannot be reached needs no rule.
            let Ok(fd) = mount::open_exact(CWD, &mount.point) else { continue };
            let stat = mount::stat(fd.as_fd()).or_die(|| "--profile: look at a mount")?;
            for access in granted(mount, &stat, targets.contains(&mount.point)) {
                let fd =
                    rustix::io::fcntl_dupfd_cloexec(&fd, 3).or_die(|| "--profile: keep a mount")?;
                opened.push((mount.point.clone(), fd, access));
            }
        }
        Ok(Self { abi, opened })
    }

    /// Restricts this process, and all that it starts, to them.
    pub(super) fn enforce(&self) -> Result<()> {
        let rules: Vec<_> = self
            .opened
            .iter()
            .map(|(path, fd, access)| Rule { path, at: fd.as_fd(), access: *access })
            .collect();
        landlock::restrict(self.abi, &rules)
            .map_err(|error| Die::new(format!("--profile: {error}")))
    }
}

/// What is granted at a mount, and so below it. Where a target is, for good: rules cannot be
/// widened later, and the mount's flag is the gate.
fn granted(mount: &Mount, stat: &FileStat, is_target: bool) -> Vec<Access> {
    let mut granted = Vec::new();
    if mount.point == Path::new("/") {
        granted.push(Access::ReadExecute);
    }
    if mount.kind == "proc" {
        if !mount.read_only {
            granted.push(Access::WriteExisting);
        }
        return granted;
    }
    if !mount.read_only || is_target {
        granted.push(Access::Full);
    }
    if mount.devices {
        granted.push(Access::Device);
    }
    if stat.is_socket() {
        granted.push(Access::Socket);
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_follows_the_mounts() {
        let table = MountTable::parse(
            b"\
27 1 254:0 / / ro,nodev - ext4 /dev/vda rw
28 27 254:0 /p /p rw,nodev - ext4 /dev/vda rw
29 28 254:0 /p/.git/hooks /p/.git/hooks ro,nodev - ext4 /dev/vda rw
30 27 0:5 / /proc rw,nodev - proc proc rw
31 30 0:5 /sys /proc/sys ro,nodev - proc proc rw
32 27 0:6 /null /dev/null rw - tmpfs devtmpfs rw
33 27 254:0 /t /t ro,nodev - ext4 /dev/vda rw
",
        );
        let stat = mount::stat(std::fs::File::open("/").unwrap().as_fd()).unwrap();
        let granted = |path: &str| {
            let mount = table.of(Path::new(path)).unwrap();
            granted(mount, &stat, path == "/t")
        };
        assert_eq!(granted("/"), [Access::ReadExecute]);
        assert_eq!(granted("/p"), [Access::Full]);
        assert_eq!(granted("/p/.git/hooks"), []);
        assert_eq!(granted("/proc"), [Access::WriteExisting]);
        assert_eq!(granted("/proc/sys"), []);
        assert_eq!(granted("/dev/null"), [Access::Full, Access::Device]);
        assert_eq!(granted("/t"), [Access::Full]);
    }
}
