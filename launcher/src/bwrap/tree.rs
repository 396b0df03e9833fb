//! The sandbox's tree, in the order of the command line.
//!
//! The mounts are made by the same calls as those of a profile's plan (`crate::mount`,
//! `sys::mount`); what differs is bubblewrap's: a path may pass through symlinks, what is
//! missing is made, one option may mount on what another one made.

mod data;
mod kernel;
mod overlay;

use super::cover::{self, Mount};
use super::error::{Die, OrDie, Result, bytes};
use super::hold;
use super::members::{self, Members};
use super::place::{Base, Place, below_new_root};
use super::request::{Access, Kind, Op, Source};
use super::source::{HostFile, OldRoot, Sources, host_path, real_path};
use super::toggle::Targets;
use crate::hold::{Hold, Shown};
use crate::mount::{MemberHandle, files};
use crate::spec::Cover;
use remount_broker::sys::mount::{self, Attributes, Reach};
use rustix::fs::Mode;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the tree depends on besides its steps.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    /// Whether the PID namespace is another one than the caller's.
    pub(super) own_pids: bool,
    /// The terminal that standard output leads to.
    pub(super) terminal: Option<&'a Path>,
    /// The SELinux label of files in memory.
    pub(super) label: Option<&'a OsStr>,
    /// What may not be shown writable.
    pub(super) hold: Option<&'a Hold>,
    /// What can be switched.
    pub(super) targets: Option<&'a Targets>,
    /// What a profile lays over files of the host.
    pub(super) covers: &'a [Cover],
}

/// Builds the tree and makes it the root of this process's mount namespace. Answers the
/// mounts of targets.
pub(super) fn build(ops: &[Op], around: &Surroundings<'_>) -> Result<Vec<MemberHandle>> {
    let sources = Sources::find(ops)?;
    let old = OldRoot::open()?;
    // Mounts that the host makes later appear inside as well; none the other way round.
    let receive = Attributes { propagation: libc::MS_SLAVE, ..Attributes::default() };
    mount::set_attributes(old.root.as_fd(), receive, Reach::Tree)
        .or_die_mounting(|| "Failed to make / slave")?;
    let base = new_base(&old, around)?;
    let members = Members::default();
    let mut tree = Tree { old, base, around, spare: None, made: 0, members };
    for (number, (op, sources)) in ops.iter().zip(sources.0).enumerate() {
        tree.perform(number, op, sources)?;
    }
    if let Some(hold) = around.hold {
        hold::check(&hold.since)?;
    }
    let members = match around.targets {
        Some(targets) => std::mem::take(&mut tree.members).finish(&tree.base, targets)?,
        None => Vec::new(),
    };
    tree.enter()?;
    Ok(members)
}

/// The file system in memory with an empty `newroot` in it. As bubblewrap's it is mounted
/// on `/tmp`, which is there on every host, and goes with the old root.
fn new_base(old: &OldRoot, around: &Surroundings<'_>) -> Result<Base> {
    let mounted = tmpfs(None, None, around).and_then(|base| {
        mount::attach(base.as_fd(), old.tmp.as_fd())?;
        Ok(base)
    });
    let base = mounted.or_die_mounting(|| "Failed to mount tmpfs")?;
    let make = || {
        rustix::fs::mkdirat(&base, c"newroot", Mode::from_raw_mode(0o755))?;
        mount::open_exact(base.as_fd(), c"newroot")
    };
    let place = make().or_die(|| "Creating newroot failed")?;
    let root = mount::clone_tree(place.as_fd()).and_then(|tree| {
        mount::attach(tree.as_fd(), place.as_fd())?;
        // A bind of `/` shows what the host has in `/tmp`, and not this.
        let hidden = Attributes { propagation: libc::MS_UNBINDABLE, ..Attributes::default() };
        mount::set_attributes(base.as_fd(), hidden, Reach::This)
    });
    root.or_die_mounting(|| "setting up newroot bind")?;
    Ok(Base(base))
}

fn tmpfs(
    size: Option<u64>,
    permissions: Option<u32>,
    around: &Surroundings<'_>,
) -> std::result::Result<OwnedFd, Errno> {
    let mode = permissions.map(|permissions| format!("{permissions:o}"));
    let size = size.map(|size| size.to_string());
    let label = around.label.map(OsStr::to_string_lossy);
    let options: Vec<(&str, &str)> = [
        ("source", Some("tmpfs")),
        ("mode", mode.as_deref()),
        ("size", size.as_deref()),
        ("context", label.as_deref()),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
    .collect();
    files::filesystem("tmpfs", &options, &[], files::NO_SUID_DEV)
}

struct Tree<'a> {
    old: OldRoot,
    base: Base,
    around: &'a Surroundings<'a>,
    /// A place in memory outside of the new root, once something has needed it.
    spare: Option<OwnedFd>,
    /// How much was made there.
    made: u32,
    /// Mounts of targets.
    members: Members,
}

/// The mode of directories that are made on the way: whom the thing at the end is closed
/// to, they are closed to as well. What has no mode of its own counts as closed to all
/// but the owner, although bwrap(1) says 0755.
fn parents_mode(kind: &Kind) -> u32 {
    let permissions = match kind {
        Kind::Tmpfs { permissions, .. }
        | Kind::Directory { permissions }
        | Kind::File { permissions, .. }
        | Kind::BindData { permissions, .. } => *permissions,
        _ => 0,
    };
    let group = if permissions & 0o070 == 0 { 0o050 } else { 0 };
    let others = if permissions & 0o007 == 0 { 0o005 } else { 0 };
    0o755 & !group & !others
}

impl Tree<'_> {
    fn perform(&mut self, number: usize, op: &Op, sources: Option<Vec<HostFile>>) -> Result<()> {
        let Some(sources) = sources else { return Ok(()) };
        let sources: Vec<_> =
            sources.into_iter().map(|file| self.old.take(file)).collect::<Result<_>>()?;
        if let Kind::Hostname = op.kind {
            return nix::unistd::sethostname(&op.dest)
                .map_err(|errno| Errno::from_raw_os_error(errno as i32))
                .or_die(|| bytes!("Can't set hostname to ", &op.dest));
        }
        let path = below_new_root(&op.dest);
        if !matches!(op.kind, Kind::Chmod { .. }) {
            self.base
                .make_parents(&path, parents_mode(&op.kind))
                .or_die(|| bytes!("Can't mkdir parents for ", &op.dest))?;
        }
        let at = At { path: &path, dest: &op.dest };
        match &op.kind {
            Kind::Bind { source, access, .. } => {
                let target = self.around.targets.and_then(|targets| targets.of(number));
                self.bind(at, &sources, source, *access, target)
            }
            Kind::Overlay { store, .. } => self.overlay(at, store, &sources),
            Kind::RemountRo => self.remount(at),
            Kind::Proc => self.proc(at),
            Kind::Dev => self.dev(at),
            Kind::Tmpfs { permissions, size, .. } => {
                let place = self.directory(at, 0o755)?;
                self.tmpfs(at, &place, *permissions, *size)
            }
            Kind::Mqueue => self.mqueue(at),
            Kind::Directory { permissions } => self.directory(at, *permissions).map(drop),
            Kind::File { from, permissions, .. } => self.file(at, from, *permissions),
            Kind::BindData { from, permissions, access, .. } => {
                self.bind_data(at, from, *permissions, *access)
            }
            Kind::Symlink { target } => self.symlink(at, target),
            Kind::Chmod { permissions } => self.chmod(at, *permissions),
            Kind::Hostname => Ok(()),
        }
    }
}

/// The place of a step.
#[derive(Clone, Copy)]
struct At<'p> {
    /// From the base.
    path: &'p [u8],
    /// As typed.
    dest: &'p OsStr,
}

impl At<'_> {
    /// As messages name it.
    fn full(&self) -> Vec<u8> {
        [b"/", self.path].concat()
    }

    /// A name below it.
    fn child(&self, name: &str) -> Vec<u8> {
        [self.path, b"/", name.as_bytes()].concat()
    }
}

/// How a bind is called in a message.
fn bind_text(source: &OsStr, path: &[u8]) -> Vec<u8> {
    let path = OsStr::from_bytes(path);
    bytes!("Can't bind mount ", source, " on /", path, ": Unable to mount source on destination")
}

impl Tree<'_> {
    fn directory(&self, at: At<'_>, mode: u32) -> Result<Place> {
        self.base.directory(at.path, mode).or_die(|| bytes!("Can't mkdir ", at.dest))
    }

    /// Mounts what `source` is open on, with all below it, at a place.
    fn mount_bind(
        &self,
        source: BorrowedFd<'_>,
        place: &Place,
        path: &[u8],
        access: Access,
    ) -> Result<OwnedFd> {
        let text = || bind_text(&host_path(source), path);
        let place = place.as_ref().map_err(|errno| *errno).or_die_mounting(text)?;
        let tree = mount::clone_tree(source).or_die_mounting(text)?;
        let mut flags = libc::MOUNT_ATTR_NOSUID;
        if access != Access::Devices {
            flags |= libc::MOUNT_ATTR_NODEV;
        }
        if access == Access::ReadOnly {
            flags |= libc::MOUNT_ATTR_RDONLY;
        }
        let attributes = Attributes::default().and_set(flags);
        mount::set_attributes(tree.as_fd(), attributes, Reach::Tree).or_die_mounting(text)?;
        mount::attach(tree.as_fd(), place.as_fd()).or_die_mounting(text)?;
        Ok(tree)
    }

    fn bind(
        &mut self,
        at: At<'_>,
        found: &[OwnedFd],
        from: &Source,
        access: Access,
        target: Option<usize>,
    ) -> Result<()> {
        let [source] = found else { return Ok(()) };
        let stat = mount::stat(source.as_fd())
            .or_die(|| bytes!("Can't get type of source ", &host_path(source.as_fd())))?;
        let place = if stat.is_dir() {
            self.directory(at, 0o755)?
        } else {
            self.base.file(at.path, 0o444).or_die(|| bytes!("Can't create file at ", at.dest))?
        };
        if let Source::Descriptor(named) = from {
            // What was found by its name must be what the descriptor is open on.
            let meant = named.with(mount::stat);
            let meant = meant.or_die(|| format!("Can't stat fd {}", named.number()))?;
            if meant.id != stat.id {
                return Err(Die::errno("Race condition binding dirfd", Errno::STALE));
            }
            named.close();
        }
        let text = || bind_text(&host_path(source.as_fd()), at.path);
        let close = |tree: &OwnedFd| {
            mount::set_attributes(tree.as_fd(), Attributes::READ_ONLY, Reach::Tree)
                .or_die_mounting(text)
        };
        let shown = match self.around.hold {
            Some(hold) if !hold.is_empty() && access != Access::ReadOnly => {
                hold.shown(&real_path(source.as_fd()).or_die(text)?)
            }
            _ => Shown::Writable,
        };
        let at_first = match (access, target) {
            // What of it the host has read-only is to be told apart.
            (Access::ReadOnly, Some(_)) => Access::Write,
            _ => access,
        };
        let tree = self.mount_bind(source.as_fd(), &place, at.path, at_first)?;
        self.narrow(&tree, source, access)?;
        if let Some(target) = target {
            let real = real_path(source.as_fd()).or_die(text)?;
            self.members.note(target, tree.as_fd(), &real).or_die_mounting(text)?;
        }
        if at_first != access {
            close(&tree)?;
        }
        match shown {
            Shown::Writable => {}
            Shown::ReadOnly => close(&tree)?,
            Shown::Except(held) => {
                held.iter().try_for_each(|path| hold::cover(tree.as_fd(), path))?;
            }
        }
        if let Some(targets) = self.around.targets {
            let real = real_path(source.as_fd()).or_die(text)?;
            members::hide(tree.as_fd(), &real, &targets.hidden())?;
        }
        Ok(())
    }

    /// Lays over a mount what a profile takes away of what it shows.
    fn narrow(&mut self, tree: &OwnedFd, source: &OwnedFd, access: Access) -> Result<()> {
        let covers = self.around.covers;
        let mount = Mount { tree: tree.as_fd(), source: source.as_fd(), access };
        cover::lay(mount, covers, &mut |is_dir| self.empty(is_dir))
    }

    /// Something empty, to mount where nothing may be seen.
    fn empty(&mut self, is_dir: bool) -> std::result::Result<OwnedFd, Errno> {
        let spare = self.spare()?;
        let name = if is_dir { "nothing.d" } else { "nothing" };
        let made = match is_dir {
            true => rustix::fs::mkdirat(&spare, name, Mode::from_raw_mode(0o555)),
            false => files::empty_file(spare.as_fd(), name, 0o444),
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let empty = mount::clone_tree(mount::open_exact(spare.as_fd(), name)?.as_fd())?;
        mount::set_attributes(empty.as_fd(), Attributes::READ_ONLY, Reach::Tree)?;
        Ok(empty)
    }

    fn remount(&self, at: At<'_>) -> Result<()> {
        let path = at.full();
        let full = OsStr::from_bytes(&path);
        let text = || bytes!("Can't remount readonly on ", full);
        let place = self
            .base
            .find(at.path)
            .or_die(|| bytes!(OsStr::from_bytes(&text()), ": realpath(destination)"))?;
        let is_root = mount::stat(place.as_fd()).or_die(text)?.is_mount_root;
        let real = self.in_base(&place).or_die(text)?;
        if !is_root {
            let text = text();
            let text = OsStr::from_bytes(&text);
            return Err(Die::new(bytes!(text, ": Unable to find \"", &real, "\" in mount table")));
        }
        let flags = Attributes::READ_ONLY.and_set(libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV);
        mount::set_attributes(place.as_fd(), flags, Reach::This).or_die_mounting(|| {
            let text = text();
            let text = OsStr::from_bytes(&text);
            bytes!(text, ": Unable to remount destination \"", &real, "\" with correct flags")
        })
    }

    /// A place's path without symlinks, as messages name it.
    fn in_base(&self, place: &OwnedFd) -> std::result::Result<PathBuf, Errno> {
        let (base, path) = (real_path(self.base.0.as_fd())?, real_path(place.as_fd())?);
        Ok(Path::new("/").join(path.strip_prefix(&base).unwrap_or(&path)))
    }

    fn tmpfs(&self, at: At<'_>, place: &Place, permissions: u32, size: Option<u64>) -> Result<()> {
        let mounted = tmpfs(size, Some(permissions), self.around)
            .and_then(|tree| attach(tree.as_fd(), place));
        mounted.or_die_mounting(|| bytes!("Can't mount tmpfs on ", OsStr::from_bytes(&at.full())))
    }

    /// Makes the new tree the root and lets go of the old one, and of the base.
    fn enter(self) -> Result<()> {
        let root = self.base.find(b"newroot").or_die(|| "chdir /newroot")?;
        rustix::process::fchdir(&root).or_die(|| "chdir /newroot")?;
        rustix::process::pivot_root(c".", c".").or_die(|| "pivot_root(/newroot)")?;
        // The old root now lies on top of the new one.
        rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)
            .or_die(|| "umount old root")?;
        rustix::process::chdir(c"/").or_die(|| "chdir /")
    }
}

/// Mounts a tree at a place, if that was found.
fn attach(tree: BorrowedFd<'_>, place: &Place) -> std::result::Result<(), Errno> {
    mount::attach(tree, place.as_ref().map_err(|errno| *errno)?.as_fd())
}
