//! Mounts that are not in their places: each is put back.
//!
//! One that has protected paths below it comes back read-only: at first none of those is in
//! its place. It gets its mode when all of them are ([`super::hold`]).

use super::tries::{Tried, insist};
use super::{GRACE, Healer, Kept, Kind, Shape, Slot};
use crate::name::Mode;
use crate::placeholder;
use crate::sandbox::Registry;
use crate::sys::mount::{self, Attributes, FileStat, Reach};
use rustix::fs::CWD;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

impl Healer {
    /// Whether the mount had to be put back.
    pub(super) fn put_back(
        &mut self,
        index: usize,
        registry: &mut Registry,
        now: Instant,
    ) -> Result<bool, Errno> {
        let slot = &self.slots[index];
        let path = &slot.kept.path;
        match mount::lstat_at(CWD, path) {
            Ok(stat) if stat.is_mount_root && slot.mount == Some(stat.mount_id) => {
                return self.settle(index).map(|()| false);
            }
            Ok(_) => {}
            Err(Errno::NOENT) if self.may_stand_in(slot, now) => self.stand_in(index)?,
            Err(errno) => return Err(errno),
        }
        let is_back = insist(|| {
            let slot = &self.slots[index];
            let at = mount::open_exact_or_link(CWD, &slot.kept.path)?;
            let stat = mount::stat(at.as_fd())?;
            if slot.is_another_kind_of_file(&stat) {
                return Err(Errno::NOTDIR);
            }
            if stat.is_mount_root && slot.is_its_own(&stat) {
                let was = slot.mount;
                self.adopt(index, at, &stat, registry)?;
                return Ok(Tried::Is(was.is_some()));
            }
            if slot.kept.kind.is_changeable() && !slot.is_nested {
                // Where nobody inside can put anything, another directory is not the one
                // that was given.
                return Err(Errno::STALE);
            }
            self.retire(index, registry)?;
            self.slots[index].doubt(&stat);
            Ok(Tried::Mounted(self.mount(index, at.as_fd(), &stat, registry)))
        })?;
        self.settle(index).map(|()| is_back)
    }

    /// Takes what is mounted there for what belongs there.
    fn adopt(
        &mut self,
        index: usize,
        at: OwnedFd,
        stat: &FileStat,
        registry: &mut Registry,
    ) -> Result<(), Errno> {
        let slot = &self.slots[index];
        match slot.kept.kind {
            // Another one that was moved here may be writable.
            Kind::Protected if !mount::is_read_only(&at)? => {
                mount::set_attributes(at.as_fd(), Attributes::READ_ONLY, Reach::This)?;
            }
            Kind::Writable | Kind::Other(None) if slot.mount.is_none() => {
                self.slots[index].was_writable = !mount::is_read_only(&at)?;
            }
            Kind::Writable => self.admit(index, at.as_fd(), registry)?,
            // What the host has read-only was never a member.
            Kind::Member(target) if self.is_member_now(index, registry) => {
                let own = registry.member(target, &slot.kept.path).map(mount::mount_id);
                if own != Some(Ok(stat.mount_id)) {
                    self.retire(index, registry)?;
                    self.admit(index, at.as_fd(), registry)?;
                    registry.replace_member(target, &self.slots[index].kept.path, at);
                }
            }
            _ => {}
        }
        self.slots[index].mount = Some(stat.mount_id);
        self.slots[index].note_names(stat);
        Ok(())
    }

    /// Gives another mount than the one that was in a place the mode that it is to have now.
    fn admit(
        &mut self,
        index: usize,
        at: BorrowedFd<'_>,
        registry: &Registry,
    ) -> Result<(), Errno> {
        self.closed.remove(&index);
        if !self.slots[index].below.is_empty() {
            match mount::set_attributes(at, Attributes::READ_ONLY, Reach::This) {
                Ok(()) => {
                    self.closed.insert(index);
                    return Ok(());
                }
                // Not the one that was made here, but one that was moved here, with what is
                // below: is any of that lost, it is a holder like any other.
                Err(Errno::BUSY) => {}
                Err(errno) => return Err(errno),
            }
        }
        mount::set_attributes(at, Attributes::mode(self.wanted(index, registry)), Reach::This)
    }

    /// Whoever makes a directory again makes what belongs in it next: what stands in for that
    /// waits as long as if it had been lost just now.
    pub(super) fn wait_anew(&mut self, index: usize, now: Instant) {
        for below in self.slots[index].below.clone() {
            let lost_since = &mut self.slots[below].lost_since;
            *lost_since = lost_since.map(|_| now);
        }
    }

    /// The mode that the mount of a slot is to have when nothing below it is lost.
    pub(super) fn wanted(&self, index: usize, registry: &Registry) -> Mode {
        let slot = &self.slots[index];
        match slot.kept.kind {
            Kind::Member(target) | Kind::Other(Some(target))
                if self.is_member_now(index, registry) =>
            {
                registry.wanted(target)
            }
            Kind::Writable | Kind::Other(None) if slot.was_writable => Mode::Rw,
            _ => Mode::Ro,
        }
    }

    /// Whether the mount of a slot is one that its target's mode applies to.
    pub(super) fn is_member_now(&self, index: usize, registry: &Registry) -> bool {
        let Kept { path, kind, .. } = &self.slots[index].kept;
        kind.target().is_some_and(|target| registry.member(target, path).is_some())
    }

    /// Closes a target's mount that is not at its path any more, for good: another one
    /// takes its place, and what was opened through it must not stay writable.
    pub(super) fn retire(&self, index: usize, registry: &Registry) -> Result<(), Errno> {
        let Kept { path, kind: Kind::Member(target) | Kind::Followed(Some(target)), .. } =
            &self.slots[index].kept
        else {
            return Ok(());
        };
        let Some(old) = registry.member(*target, path) else { return Ok(()) };
        match mount::set_attributes(old, Attributes::READ_ONLY, Reach::This) {
            // Taken out of the tree, since its directory was removed.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Mounts what belongs on `at`. It has its flags before anybody can see it.
    fn mount(
        &self,
        index: usize,
        at: BorrowedFd<'_>,
        stat: &FileStat,
        registry: &Registry,
    ) -> Result<(), Errno> {
        let slot = &self.slots[index];
        let tree = match &slot.kept.kind {
            // What is protected below is not there yet.
            Kind::Member(_) | Kind::Writable if !slot.below.is_empty() => {
                self.detached(at, Mode::Ro)?
            }
            Kind::Protected | Kind::Member(_) | Kind::Writable => {
                self.detached(at, self.wanted(index, registry))?
            }
            Kind::Masked { file, directory } => {
                let directory = directory.as_ref().filter(|_| stat.is_dir());
                let over = mount::open_exact(CWD, directory.unwrap_or(file))?;
                self.detached(over.as_fd(), Mode::Ro)?
            }
            Kind::Followed(_) | Kind::Other(_) => return Err(Errno::OPNOTSUPP),
        };
        mount::attach(tree.as_fd(), at)
    }

    /// A mount of what `source` is open on that is nowhere yet.
    pub(super) fn detached(&self, source: BorrowedFd<'_>, mode: Mode) -> Result<OwnedFd, Errno> {
        // It counts as a mount namespace, and one more is allowed for as long as it takes:
        // should somebody inside be faster, there is none for this process.
        let allow = |count: &[u8]| match &self.limit {
            Some(limit) => rustix::io::pwrite(limit, count, 0).map(drop),
            None => Ok(()),
        };
        allow(b"2")?;
        let tree = mount::clone_one(source);
        allow(b"1")?;
        let tree = tree?;
        mount::set_attributes(tree.as_fd(), Attributes::mode(mode), Reach::This)?;
        Ok(tree)
    }

    /// Whether it is time for a placeholder; only where nobody inside can open it for
    /// writing before it is mounted on.
    fn may_stand_in(&self, slot: &Slot, now: Instant) -> bool {
        let is_due = slot.lost_since.is_some_and(|since| now >= since + GRACE);
        let is_held = |holder| self.halted.is_some() || self.closed.contains(&holder);
        // Not in a directory that was never given, in the place of one that was moved away.
        let is_there = |holder: usize| {
            let parent = mount::lstat_at(CWD, slot.kept.path.parent().unwrap_or(Path::new("/")));
            parent.is_ok_and(|parent| Some(parent.mount_id) == self.slots[holder].mount)
        };
        is_due && slot.holder.is_some_and(|holder| is_held(holder) && is_there(holder))
    }

    /// Makes a placeholder where one has been removed, through a mount that nobody else
    /// sees: the one that is there is read-only, and stays so.
    fn stand_in(&self, index: usize) -> Result<(), Errno> {
        let Kept { path, stand_in: Some(kind), .. } = &self.slots[index].kept else {
            return Err(Errno::NOENT);
        };
        let parent = mount::open_exact(CWD, path.parent().unwrap_or(Path::new("/")))?;
        let parent = self.detached(parent.as_fd(), Mode::Rw)?;
        match placeholder::make_one(parent.as_fd(), path.file_name().unwrap_or_default(), kind) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

impl Slot {
    /// Whether what is at the path must not be taken for what belongs there. A link that has
    /// taken the place of something else leads to where nothing is protected, and so does a file
    /// in the place of a git directory. Somebody inside may have been there first. What covers
    /// the path itself covers anything.
    fn is_another_kind_of_file(&self, stat: &FileStat) -> bool {
        let Kept { kind, shape, .. } = &self.kept;
        let is_new_link = stat.is_symlink() && *shape != Shape::Link;
        let is_new_file = *shape == Shape::Directory && kind.is_changeable() && !stat.is_dir();
        !kind.is_mask() && (is_new_link || is_new_file)
    }

    /// Whether a mount is of this slot's kind, and not one that was moved here.
    fn is_its_own(&self, stat: &FileStat) -> bool {
        let is = |path: &PathBuf| mount::lstat_at(CWD, path).is_ok_and(|it| it.id == stat.id);
        match &self.kept.kind {
            Kind::Masked { file, directory } => is(file) || directory.as_ref().is_some_and(is),
            _ => true,
        }
    }
}
