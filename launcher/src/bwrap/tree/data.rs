//! Files, links and modes that options make.

use super::{At, Tree};
use crate::bwrap::error::{Die, OrDie, Result, bytes};
use crate::bwrap::fds::{Named, link, write_all};
use crate::bwrap::request::Access;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

impl Tree<'_> {
    pub(super) fn file(&self, at: At<'_>, from: &Named, permissions: u32) -> Result<()> {
        let file = self
            .base
            .create(at.path, permissions)
            .or_die(|| bytes!("Can't create file ", at.dest))?;
        copy(from, file.as_fd()).or_die(|| bytes!("Can't write data to file ", at.dest))?;
        from.close();
        Ok(())
    }

    pub(super) fn bind_data(
        &mut self,
        at: At<'_>,
        from: &Named,
        permissions: u32,
        access: Access,
    ) -> Result<()> {
        let name = self.unique("bindfile");
        let spare = self.spare().or_die(|| bytes!("Can't create tmpfile for ", at.dest))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&spare, &*name, flags, Mode::from_raw_mode(permissions))
            .or_die(|| bytes!("Can't create tmpfile for ", at.dest))?;
        copy(from, file.as_fd()).or_die(|| bytes!("Can't write data to file ", at.dest))?;
        from.close();
        let place =
            self.base.file(at.path, 0o444).or_die(|| bytes!("Can't create file at ", at.dest))?;
        self.mount_bind(file.as_fd(), &place, at.path, access)?;
        // Nobody will find it but through the mount.
        rustix::fs::unlinkat(&spare, &*name, AtFlags::empty())
            .or_die(|| bytes!("Can't remove tmpfile for ", at.dest))
    }

    pub(super) fn symlink(&self, at: At<'_>, target: &OsStr) -> Result<()> {
        let text = || bytes!("Can't make symlink at ", at.dest);
        let made = self
            .base
            .parent(at.path)
            .and_then(|(parent, name)| rustix::fs::symlinkat(target, parent, name));
        match made {
            Err(Errno::EXIST) => {}
            result => return result.or_die(text),
        }
        let existing = self
            .base
            .parent(at.path)
            .or(Err(Errno::INVAL))
            .and_then(|(parent, name)| rustix::fs::readlinkat(parent, name, Vec::new()));
        match existing {
            Ok(existing) if existing.as_bytes() == target.as_bytes() => Ok(()),
            Ok(existing) => {
                let existing = OsStr::from_bytes(existing.as_bytes());
                Err(Die::new(bytes!(
                    "Can't make symlink at ",
                    at.dest,
                    ": existing destination is ",
                    existing
                )))
            }
            Err(Errno::INVAL) => Err(Die::new(bytes!(
                "Can't make symlink at ",
                at.dest,
                ": destination exists and is not a symlink"
            ))),
            Err(errno) => Err(Die::errno(
                bytes!(
                    "Can't make symlink at ",
                    at.dest,
                    ": destination exists, and cannot read symlink target"
                ),
                errno,
            )),
        }
    }

    pub(super) fn chmod(&self, at: At<'_>, permissions: u32) -> Result<()> {
        let changed = self.base.find(at.path).and_then(|place| {
            let mode = Mode::from_raw_mode(permissions);
            rustix::fs::chmodat(CWD, link(place.as_fd()), mode, AtFlags::empty())
        });
        changed.or_die(|| {
            let octal = if permissions == 0 { "0".to_owned() } else { format!("0{permissions:o}") };
            bytes!("Can't chmod ", &octal, " ", at.dest)
        })
    }
}

/// All that can be read, into a file.
fn copy(from: &Named, to: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    write_all(to, &from.read_to_end()?)
}
