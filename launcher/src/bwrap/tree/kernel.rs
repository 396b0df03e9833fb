//! `/proc`, `/dev` and message queues, as bubblewrap makes them.

use super::{At, Tree, attach, bind_text, tmpfs};
use crate::bwrap::error::{Die, OrDie, Result, bytes};
use crate::bwrap::request::Access;
use crate::bwrap::source::open_source;
use crate::mount::{devices, files};
use remount_broker::sys::mount;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What of a fresh `/proc` is read-only.
const PROC_READ_ONLY: [&str; 4] = ["sys", "sysrq-trigger", "irq", "bus"];

impl Tree<'_> {
    pub(super) fn mqueue(&self, at: At<'_>) -> Result<()> {
        let place = self.directory(at, 0o755)?;
        let none = MountAttrFlags::empty();
        let mounted = files::filesystem("mqueue", &[("source", "mqueue")], &[], none)
            .and_then(|tree| attach(tree.as_fd(), &place));
        mounted.or_die_mounting(|| bytes!("Can't mount mqueue on ", OsStr::from_bytes(&at.full())))
    }

    pub(super) fn proc(&self, at: At<'_>) -> Result<()> {
        let place = self.directory(at, 0o755)?;
        let proc = if self.around.own_pids {
            let attributes = files::NO_SUID_DEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            let mounted = files::filesystem("proc", &[("source", "proc")], &[], attributes)
                .and_then(|tree| attach(tree.as_fd(), &place).map(|()| tree));
            let text = || bytes!("Can't mount proc on ", OsStr::from_bytes(&at.full()));
            mounted.or_die_mounting(text)?
        } else {
            // The PID namespace is the caller's, and so is what can be seen of it.
            let text = || bind_text("oldroot/proc".as_ref(), at.path);
            let source = mount::open_exact(self.old.root.as_fd(), "proc").or_die(text)?;
            self.mount_bind(source.as_fd(), &place, at.path, Access::Write)?
        };
        for name in PROC_READ_ONLY {
            self.cover(at, proc.as_fd(), name)?;
        }
        Ok(())
    }

    /// Makes a file of `/proc` read-only, if it is not for this user anyway.
    fn cover(&self, at: At<'_>, proc: BorrowedFd<'_>, name: &str) -> Result<()> {
        match rustix::fs::accessat(proc, name, rustix::fs::Access::WRITE_OK, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ACCESS | Errno::NOENT | Errno::ROFS) => return Ok(()),
            Err(errno) => {
                let path = [b"/", &*at.child(name)].concat();
                return Err(Die::errno(bytes!("Can't access ", OsStr::from_bytes(&path)), errno));
            }
        }
        let path = at.child(name);
        let open = || mount::open_exact(proc, name).or_die(|| bind_text(OsStr::new(name), &path));
        let (source, place) = (open()?, open()?);
        self.mount_bind(source.as_fd(), &Ok(place), &path, Access::ReadOnly).map(drop)
    }

    pub(super) fn dev(&self, at: At<'_>) -> Result<()> {
        let place = self.directory(at, 0o755)?;
        let text = || bytes!("Can't mount tmpfs on ", OsStr::from_bytes(&at.full()));
        let dev = tmpfs(None, Some(0o755), self.around).or_die_mounting(text)?;
        attach(dev.as_fd(), &place).or_die_mounting(text)?;
        for (name, _) in devices::DEVICES {
            self.device(at, dev.as_fd(), Path::new(&format!("/dev/{name}")), name)?;
        }
        for (name, to) in devices::LINKS.iter().chain(&[("core", "/proc/kcore")]) {
            rustix::fs::symlinkat(*to, &dev, *name)
                .or_die(|| bytes!("Can't create symlink ", at.dest, "/", *name))?;
        }
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&dev, c"shm", mode)
            .or_die(|| bytes!("Can't create ", at.dest, "/shm"))?;
        self.terminals(at, dev.as_fd())?;
        match self.around.terminal {
            Some(terminal) => self.device(at, dev.as_fd(), terminal, "console"),
            None => Ok(()),
        }
    }

    /// Terminals of the sandbox's own, in a `/dev` that is being made.
    fn terminals(&self, at: At<'_>, dev: BorrowedFd<'_>) -> Result<()> {
        let mode = Mode::from_raw_mode(0o755);
        let place = rustix::fs::mkdirat(dev, c"pts", mode)
            .and_then(|()| mount::open_exact(dev, c"pts"))
            .or_die(|| bytes!("Can't create ", at.dest, "/devpts"))?;
        let options = [("source", "devpts"), ("ptmxmode", "0666"), ("mode", "620")];
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mounted = files::filesystem("devpts", &options, &[], attributes)
            .and_then(|tree| mount::attach(tree.as_fd(), place.as_fd()));
        mounted.or_die_mounting(|| {
            bytes!("Can't mount devpts on ", OsStr::from_bytes(&at.full()), "/pts")
        })
    }

    /// The host's device, in a `/dev` that is being made.
    fn device(&self, at: At<'_>, dev: BorrowedFd<'_>, source: &Path, name: &str) -> Result<()> {
        let path = at.child(name);
        let source: PathBuf = source.into();
        files::empty_file(dev, name, 0o444)
            .or_die(|| bytes!("Can't create file ", at.dest, "/", name))?;
        let text = || bind_text(&bytes_path(&source), &path);
        let from = open_source(source.as_os_str()).or_die(text)?;
        let place = mount::open_exact(dev, name);
        self.mount_bind(from.as_fd(), &place, &path, Access::Devices).map(drop)
    }
}

/// A path of the host, as messages name it.
fn bytes_path(path: &Path) -> OsString {
    OsString::from_vec([b"/oldroot", path.as_os_str().as_bytes()].concat())
}
