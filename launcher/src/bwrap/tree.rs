//! The sandbox's tree, in the order of the command line.
//!
//! The mounts are made by the same calls as those of a profile's plan (`crate::mount`,
//! `sys::mount`); what differs is bubblewrap's: a path may pass through symlinks, what is
//! missing is made, one option may mount on what another one made.

use super::cover::{self, Mount};
use super::error::{Die, OrDie, Result, bytes};
use super::fds::{Named, link, write_all};
use super::hold;
use super::members::{self, Members};
use super::place::{Base, Place, below_new_root};
use super::request::{Access, Kind, Op, Source, Store};
use super::source::{HostFile, OldRoot, Sources, host_path, open_source, real_path};
use super::toggle::Targets;
use crate::hold::{Hold, Shown};
use crate::mount::{MemberHandle, devices, files};
use crate::spec::{Cover, Covering};
use remount_broker::sys::mount::{self, Attributes, Reach};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What of a fresh `/proc` is read-only.
const PROC_READ_ONLY: [&str; 4] = ["sys", "sysrq-trigger", "irq", "bus"];

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

    fn mqueue(&self, at: At<'_>) -> Result<()> {
        let place = self.directory(at, 0o755)?;
        let none = MountAttrFlags::empty();
        let mounted = files::filesystem("mqueue", &[("source", "mqueue")], &[], none)
            .and_then(|tree| attach(tree.as_fd(), &place));
        mounted.or_die_mounting(|| bytes!("Can't mount mqueue on ", OsStr::from_bytes(&at.full())))
    }

    fn proc(&self, at: At<'_>) -> Result<()> {
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

    fn dev(&self, at: At<'_>) -> Result<()> {
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

    fn file(&self, at: At<'_>, from: &Named, permissions: u32) -> Result<()> {
        let file = self
            .base
            .create(at.path, permissions)
            .or_die(|| bytes!("Can't create file ", at.dest))?;
        copy(from, file.as_fd()).or_die(|| bytes!("Can't write data to file ", at.dest))?;
        from.close();
        Ok(())
    }

    fn bind_data(
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

    fn symlink(&self, at: At<'_>, target: &OsStr) -> Result<()> {
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

    fn chmod(&self, at: At<'_>, permissions: u32) -> Result<()> {
        let changed = self.base.find(at.path).and_then(|place| {
            let mode = Mode::from_raw_mode(permissions);
            rustix::fs::chmodat(CWD, link(place.as_fd()), mode, AtFlags::empty())
        });
        changed.or_die(|| {
            let octal = if permissions == 0 { "0".to_owned() } else { format!("0{permissions:o}") };
            bytes!("Can't chmod ", &octal, " ", at.dest)
        })
    }

    fn overlay(&mut self, at: At<'_>, store: &Store, found: &[OwnedFd]) -> Result<()> {
        let place = self.directory(at, 0o755)?;
        let memory;
        let (store, layers) = match (store, found) {
            (Store::Host { .. }, [upper, work, layers @ ..]) => {
                self.refuse_held(upper)?;
                (Some((upper, work)), layers)
            }
            (Store::Memory, layers) => {
                memory = self.memory_store()?;
                (Some((&memory.0, &memory.1)), layers)
            }
            (_, layers) => (None, layers),
        };
        let lower: Vec<_> = layers.iter().map(AsFd::as_fd).collect();
        let fds = store.map(|(upper, work)| (upper.as_fd(), work.as_fd()));
        let source = [("source", "overlay")];
        let mounted = files::overlay_of(&lower, fds, &source, MountAttrFlags::empty())
            .and_then(|tree| attach(tree.as_fd(), &place).map(|()| tree));
        let tree = mounted.map_err(|errno| {
            let text = overlay_text(at, layers, store);
            if errno == Errno::LOOP {
                let text = OsStr::from_bytes(&text);
                return Die::new(bytes!(text, ": Overlay directories may not overlap"));
            }
            Die::mount(text, errno)
        })?;
        // What is written does not reach the layers.
        found.iter().try_for_each(|layer| self.narrow(&tree, layer, Access::ReadOnly))
    }

    /// An overlay writes below its mount, where no flag holds it back.
    fn refuse_held(&self, upper: &OwnedFd) -> Result<()> {
        let path = real_path(upper.as_fd()).or_die(|| "Can't make overlay mount")?;
        let touches = |cover: &&Cover| {
            let is_part = cover.path.starts_with(&path) || path.starts_with(&cover.path);
            is_part && cover.kind != Covering::Open
        };
        if let Some(cover) = self.around.covers.iter().find(touches) {
            let of = &cover.path;
            return Err(Die::new(bytes!("Can't write to ", &path, ": the profile protects ", of)));
        }
        match self.around.hold.map_or(Shown::Writable, |hold| hold.shown(&path)) {
            Shown::Writable => Ok(()),
            _ => Err(Die::new(bytes!("Can't write to ", &path, ": it is held read-only"))),
        }
    }

    /// A name for something new outside of the new root.
    fn unique(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}{}", self.made)
    }

    /// A place in memory outside of the new root, from which files can be mounted.
    fn spare(&mut self) -> std::result::Result<OwnedFd, Errno> {
        if self.spare.is_none() {
            let spare = tmpfs(None, None, self.around)?;
            rustix::fs::mkdirat(&self.base.0, c"spare", Mode::RWXU)?;
            let place = mount::open_exact(self.base.0.as_fd(), c"spare")?;
            mount::attach(spare.as_fd(), place.as_fd())?;
            self.spare = Some(spare);
        }
        let spare = self.spare.as_ref().ok_or(Errno::NOENT)?;
        rustix::io::fcntl_dupfd_cloexec(spare, 3)
    }

    /// Where an overlay keeps what is written and will be thrown away.
    fn memory_store(&mut self) -> Result<(OwnedFd, OwnedFd)> {
        let mut make = |kind: &str| {
            let name = self.unique(kind);
            let made = self.spare().and_then(|spare| {
                rustix::fs::mkdirat(&spare, &*name, Mode::from_raw_mode(0o755))?;
                mount::open_exact(spare.as_fd(), &*name)
            });
            made.or_die(|| format!("Creating --tmp-overlay {kind}dir failed"))
        };
        Ok((make("upper")?, make("work")?))
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

/// A path of the host, as messages name it.
fn bytes_path(path: &Path) -> OsString {
    OsString::from_vec([b"/oldroot", path.as_os_str().as_bytes()].concat())
}

fn overlay_text(at: At<'_>, layers: &[OwnedFd], store: Option<(&OwnedFd, &OwnedFd)>) -> Vec<u8> {
    let full = at.full();
    let mut options = Vec::new();
    if let Some((upper, work)) = store {
        let (upper, work) = (host_path(upper.as_fd()), host_path(work.as_fd()));
        options.extend(bytes!("upperdir=", &upper, ",workdir=", &work, ","));
    }
    let layers: Vec<_> = layers.iter().map(|layer| host_path(layer.as_fd())).collect();
    options.extend(bytes!("lowerdir=", &layers.join(OsStr::new(":")), ",userxattr"));
    let (full, options) = (OsStr::from_bytes(&full), OsStr::from_bytes(&options));
    bytes!("Can't make overlay mount on ", full, " with options ", options)
}

/// Mounts a tree at a place, if that was found.
fn attach(tree: BorrowedFd<'_>, place: &Place) -> std::result::Result<(), Errno> {
    mount::attach(tree, place.as_ref().map_err(|errno| *errno)?.as_fd())
}

/// All that can be read, into a file.
fn copy(from: &Named, to: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    write_all(to, &from.read_to_end()?)
}
