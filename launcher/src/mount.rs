//! Building the sandbox's file tree: a plan's operations, done by descriptor.
//!
//! The new root is built beside the old one, so that every source is still seen on
//! the old one while every destination is looked up in the new one. No lookup follows
//! a symlink; what is found must be the file that the plan was made for.

mod control;
pub(crate) mod devices;
pub(crate) mod files;

use crate::plan::{MountOp, MountPlan, OpKind, Shape, Source};
use crate::spec::Asker;
use control::Control;
use remount_broker::escape::Escaped;
use remount_broker::name::Mode;
use remount_broker::reason::Reason;
use remount_broker::sys::mount::{self, Attributes, FileId, Reach};
use rustix::fs::CWD;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What no mount of a sandbox honours: set-user-id bits and device nodes.
const NO_SUID_DEV: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// The step for which a kernel may lack something.
pub(crate) const OVERLAY: &str = "make an overlay for";

/// A mount that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {step} {}: {:#}", Escaped::path(path), Reason::from(*errno))]
pub struct MountError {
    /// What was tried.
    pub step: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Who asked for it.
    pub origin: Asker,
    /// Why the kernel refused.
    pub errno: Errno,
}

/// Mounts that a target's mode applies to, and the broker's socket: what the broker
/// needs of the tree.
#[derive(Debug)]
pub struct Handles {
    /// The broker's listening socket, if there is one inside.
    pub listener: Option<OwnedFd>,
    /// One descriptor for each mount of each target.
    pub members: Vec<MemberHandle>,
    /// One for each file that is followed.
    pub sources: Vec<SourceHandle>,
    /// The filter's listening sockets, in the order of the plan.
    pub sockets: Vec<OwnedFd>,
}

/// Where a file is that is followed.
#[derive(Debug)]
pub struct SourceHandle {
    /// Where it is shown, inside.
    pub path: PathBuf,
    /// Its directory, on the sandbox's own view of the host.
    pub fd: OwnedFd,
    /// How it is shown.
    pub mode: Mode,
}

/// One mount of a target.
#[derive(Debug)]
pub struct MemberHandle {
    /// Which target, counting into [`MountPlan::targets`].
    pub target: usize,
    /// Where the mount is, inside.
    pub path: PathBuf,
    /// What of the host it shows; `None` where the plan says so.
    pub source: Option<PathBuf>,
    /// The root of the mount, opened as a location.
    pub fd: OwnedFd,
}

/// Builds the tree as far as it needs no placeholder of the host. `limit_namespaces`:
/// forbid, in the end, further mount namespaces in this process's user namespace.
///
/// # Errors
/// The first operation that failed. The half-built tree dies with this process.
pub fn begin(plan: &MountPlan, limit_namespaces: bool) -> Result<Tree, MountError> {
    let old_root = open_old_root()?;
    let mut tree = Tree {
        old_root,
        root: None,
        control: None,
        members: Vec::new(),
        sources: Vec::new(),
        limit_namespaces,
        limit: None,
        sealed: Vec::new(),
    };
    let (root, rest) = plan.ops[..plan.independent].split_at(1);
    tree.perform_all(root)?;
    // Now that all of the host is seen: some of it will be covered.
    for op in &plan.ops {
        tree.open_followed(op).map_err(|failed| failed.in_op(op))?;
    }
    tree.perform_all(rest)?;
    Ok(tree)
}

/// The old root, cut off from the host: what is mounted from here on is seen nowhere else.
fn open_old_root() -> Result<OwnedFd, MountError> {
    let private = || {
        let root = mount::open_exact(CWD, c"/")?;
        mount::set_attributes(root.as_fd(), Attributes::PRIVATE, Reach::Tree)?;
        Ok(root)
    };
    private().map_err(|errno| Failed("make private", errno).on(Path::new("/"), &Asker::Sandbox))
}

/// A step and why it failed.
struct Failed(&'static str, Errno);

impl Failed {
    fn on(self, path: &Path, origin: &Asker) -> MountError {
        MountError { step: self.0, path: path.to_owned(), origin: origin.clone(), errno: self.1 }
    }

    fn in_op(self, op: &MountOp) -> MountError {
        self.on(&op.dest, &op.origin)
    }
}

/// Names the step that a system call belongs to.
trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, Failed>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, step: &'static str) -> Result<T, Failed> {
        self.map_err(|errno| Failed(step, errno))
    }
}

/// A tree that is being built.
pub struct Tree {
    old_root: OwnedFd,
    root: Option<OwnedFd>,
    control: Option<Control>,
    members: Vec<MemberHandle>,
    sources: Vec<SourceHandle>,
    limit_namespaces: bool,
    /// Where the limit of mount namespaces is written.
    limit: Option<OwnedFd>,
    /// What is read-only once everything below it is mounted.
    sealed: Vec<OwnedFd>,
}

impl Tree {
    /// Builds the rest and makes the tree the root of this process's mount namespace; the
    /// old root is gone afterwards.
    ///
    /// # Errors
    /// As [`begin`].
    pub fn finish(mut self, plan: &MountPlan) -> Result<Handles, MountError> {
        self.perform_all(&plan.ops[plan.independent..])?;
        self.enter()
    }

    fn perform_all(&mut self, ops: &[MountOp]) -> Result<(), MountError> {
        ops.iter().try_for_each(|op| self.perform(op).map_err(|failed| failed.in_op(op)))
    }

    fn perform(&mut self, op: &MountOp) -> Result<(), Failed> {
        match &op.kind {
            OpKind::Bind { source, mode, devices, submounts, .. } => {
                self.bind(op, source, *mode, *devices, submounts)
            }
            OpKind::SelfBind { id, mode, submounts, .. } => {
                self.self_bind(op, *id, *mode, submounts)
            }
            OpKind::Tmpfs { size, permissions } => {
                let tmpfs = files::tmpfs(*size, *permissions).step("make a tmpfs for")?;
                self.attach(op, tmpfs.as_fd(), Shape::Directory)
            }
            OpKind::Overlay { lower, changes } => self.overlay(op, lower, changes.as_deref()),
            OpKind::Mask(shape) => self.mask(op, *shape),
            OpKind::Dev { terminal } => {
                let at = self.mountpoint(&op.dest, Shape::Directory)?;
                devices::mount(self.old_root.as_fd(), at.as_fd(), terminal.as_deref())
            }
            OpKind::Proc(mode) => self.proc(op, *mode),
            OpKind::HostProc => self.host_proc(op),
            OpKind::Sealed(lower) => self.sealed(op, lower),
            OpKind::Control { program, hooks, sockets } => {
                let at = self.mountpoint(&op.dest, Shape::Directory)?;
                let program = self.open_source(program)?;
                self.control = Some(Control::mount(at.as_fd(), program.as_fd(), hooks, sockets)?);
                Ok(())
            }
            OpKind::Socket(name) => {
                let control = self.control.as_ref().ok_or(Failed("find", Errno::NOENT))?;
                let socket = control.socket(name).step("make a socket for")?;
                self.attach(op, socket.as_fd(), Shape::File)
            }
        }
    }

    /// Opens the directory of a file that is followed.
    fn open_followed(&mut self, op: &MountOp) -> Result<(), Failed> {
        let OpKind::Bind { source, follow: true, .. } = &op.kind else { return Ok(()) };
        let (Some(parent), Some(name)) = (source.path.parent(), source.path.file_name()) else {
            return Ok(());
        };
        let fd = mount::open_exact_in(self.root(), parent).step("open the directory of")?;
        // Where the host hides it from its own copy, it stays as it is.
        let there = mount::lstat_at(fd.as_fd(), name).map(|stat| stat.id);
        if there.is_ok_and(|id| source.id == Some(id)) {
            self.sources.push(SourceHandle { path: op.dest.clone(), fd, mode: Mode::Ro });
        }
        Ok(())
    }

    /// The new root; before the first operation, the place where it will be attached.
    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_ref().unwrap_or(&self.old_root).as_fd()
    }

    /// Opens a source on the old root and checks that it is the file of the plan.
    fn open_source(&self, source: &Source) -> Result<OwnedFd, Failed> {
        let fd =
            mount::open_exact_in(self.old_root.as_fd(), &source.path).step("open the source of")?;
        check_identity(fd.as_fd(), source.id)?;
        Ok(fd)
    }

    fn bind(
        &mut self,
        op: &MountOp,
        source: &Source,
        mode: Mode,
        devices: bool,
        submounts: &[PathBuf],
    ) -> Result<(), Failed> {
        let source_fd = self.open_source(source)?;
        let tree = mount::clone_tree(source_fd.as_fd()).step("clone the source of")?;
        let mut flags = if devices { libc::MOUNT_ATTR_NOSUID } else { NO_SUID_DEV };
        let toggled = op.member_of.is_some();
        if mode == Mode::Ro && !toggled {
            flags |= libc::MOUNT_ATTR_RDONLY;
        }
        let attributes = Attributes::default().and_set(flags);
        mount::set_attributes(tree.as_fd(), attributes, Reach::Tree).step("set the flags of")?;
        if mode == Mode::Rw
            && let Some(followed) = self.sources.iter_mut().find(|it| it.path == op.dest)
            && !mount::is_read_only(&tree).step("look at the mode of")?
        {
            followed.mode = Mode::Rw;
        }
        self.attach(op, tree.as_fd(), source.shape)?;
        if op.dest == Path::new("/") {
            self.root = Some(tree);
            return Ok(());
        }
        self.finish_member(op, tree, mode, submounts)
    }

    fn self_bind(
        &mut self,
        op: &MountOp,
        id: Option<FileId>,
        mode: Mode,
        submounts: &[PathBuf],
    ) -> Result<(), Failed> {
        let found = match id {
            // A symlink, if it is the one that was found when the plan was made.
            Some(_) => mount::open_exact_or_link_in(self.root(), &op.dest),
            None => mount::open_exact_in(self.root(), &op.dest),
        };
        let at = match found {
            // Not every kernel has every file in /proc.
            Err(Errno::NOENT) if id.is_none() && op.dest.starts_with("/proc") => return Ok(()),
            result => result.step("find")?,
        };
        check_identity(at.as_fd(), id)?;
        let tree = mount::clone_tree(at.as_fd()).step("clone")?;
        if mode == Mode::Ro && op.member_of.is_none() {
            mount::set_attributes(tree.as_fd(), Attributes::READ_ONLY, Reach::Tree)
                .step("protect")?;
        }
        mount::attach(tree.as_fd(), at.as_fd()).step("mount on")?;
        self.finish_member(op, tree, mode, submounts)
    }

    /// Keeps the mounts that follow a target's mode, and gives them its mode.
    fn finish_member(
        &mut self,
        op: &MountOp,
        tree: OwnedFd,
        mode: Mode,
        submounts: &[PathBuf],
    ) -> Result<(), Failed> {
        let Some(target) = op.member_of else { return Ok(()) };
        let mut mounts = vec![(op.dest.clone(), tree)];
        for path in submounts {
            let fd = mount::open_exact_in(self.root(), path).step("find the mounts below")?;
            if mount::stat(fd.as_fd()).step("find the mounts below")?.is_mount_root {
                mounts.push((path.clone(), fd));
            }
        }
        for (path, fd) in mounts {
            // What the host has read-only never becomes writable: it is not a member.
            if mount::is_read_only(&fd).step("look at the mode of")? {
                continue;
            }
            if mode == Mode::Ro {
                mount::set_attributes(fd.as_fd(), Attributes::READ_ONLY, Reach::This)
                    .step("set the mode of")?;
            }
            self.members.push(MemberHandle { target, path, source: None, fd });
        }
        Ok(())
    }

    fn overlay(
        &mut self,
        op: &MountOp,
        lower: &Source,
        changes: Option<&Path>,
    ) -> Result<(), Failed> {
        let lower = self.open_source(lower)?;
        if let Some(changes) = changes {
            let changes = mount::open_exact_in(self.old_root.as_fd(), changes)
                .step("open what keeps the changes of")?;
            let overlay = files::overlay(lower.as_fd(), changes.as_fd()).step(OVERLAY)?;
            return self.attach(op, overlay.as_fd(), Shape::Directory);
        }
        let scratch = files::tmpfs(None, 0o700).step("make a tmpfs for")?;
        self.attach(op, scratch.as_fd(), Shape::Directory)?;
        let overlay = files::overlay(lower.as_fd(), scratch.as_fd()).step(OVERLAY)?;
        mount::attach(overlay.as_fd(), scratch.as_fd()).step("mount on")
    }

    /// An overlay that can be written to until the tree is finished, so that places to mount
    /// on can be made in it.
    fn sealed(&mut self, op: &MountOp, lower: &Source) -> Result<(), Failed> {
        let lower = self.open_source(lower)?;
        let scratch = files::tmpfs(Some(1 << 20), 0o700).step("make a tmpfs for")?;
        self.attach(op, scratch.as_fd(), Shape::Directory)?;
        let overlay = files::overlay(lower.as_fd(), scratch.as_fd()).step(OVERLAY)?;
        mount::attach(overlay.as_fd(), scratch.as_fd()).step("mount on")?;
        self.sealed.extend([overlay, scratch]);
        Ok(())
    }

    fn mask(&mut self, op: &MountOp, shape: Shape) -> Result<(), Failed> {
        let at = match mount::open_exact_in(self.root(), &op.dest) {
            // Not every kernel has every file in /proc, and of the host's /run what is mounted
            // below is not there.
            Err(Errno::NOENT) if ["/proc", "/run"].iter().any(|dir| op.dest.starts_with(dir)) => {
                return Ok(());
            }
            result => result.step("find")?,
        };
        let control = self.control.as_ref().ok_or(Failed("mask", Errno::NOENT))?;
        let empty = control.empty(shape).step("make an empty file for")?;
        mount::attach(empty.as_fd(), at.as_fd()).step("mask")
    }

    fn host_proc(&mut self, op: &MountOp) -> Result<(), Failed> {
        if self.limit_namespaces {
            let own = files::proc().step("make")?;
            self.limit =
                Some(files::namespace_limit(own.as_fd()).step("limit mount namespaces in")?);
        }
        let host = mount::open_exact_in(self.old_root.as_fd(), c"/proc").step("find the host's")?;
        let tree = mount::clone_tree(host.as_fd()).step("clone the host's")?;
        let flags = Attributes::READ_ONLY.and_set(NO_SUID_DEV | libc::MOUNT_ATTR_NOEXEC);
        mount::set_attributes(tree.as_fd(), flags, Reach::Tree).step("set the flags of")?;
        self.attach(op, tree.as_fd(), Shape::Directory)
    }

    fn proc(&mut self, op: &MountOp, mode: Mode) -> Result<(), Failed> {
        let mut proc = files::proc().step("make")?;
        if self.limit_namespaces {
            // Opened now, since it will be read-only, and written last.
            self.limit =
                Some(files::namespace_limit(proc.as_fd()).step("limit mount namespaces in")?);
            if mode == Mode::Ro {
                // Another mount of it: what is open for writing keeps this one writable.
                proc = files::proc().step("make")?;
            }
        }
        if mode == Mode::Ro {
            let read_only = mount::set_attributes(proc.as_fd(), Attributes::READ_ONLY, Reach::This);
            read_only.step("make read-only")?;
        }
        self.attach(op, proc.as_fd(), Shape::Directory)
    }

    fn attach(&self, op: &MountOp, tree: BorrowedFd<'_>, shape: Shape) -> Result<(), Failed> {
        let at = self.mountpoint(&op.dest, shape)?;
        mount::attach(tree, at.as_fd()).step("mount on")
    }

    /// The place to mount on; made if it is missing, which works in private memory
    /// only: everything else is read-only or was looked at when the plan was made.
    fn mountpoint(&self, dest: &Path, shape: Shape) -> Result<OwnedFd, Failed> {
        match mount::open_exact_in(self.root(), dest) {
            Err(Errno::NOENT) => files::make_mountpoint(self.root(), dest, shape).step("create"),
            result => result.step("find"),
        }
    }

    /// Makes the new tree the root and lets go of the old one.
    fn enter(self) -> Result<Handles, MountError> {
        let (Some(root), Some(control)) = (&self.root, self.control) else {
            return Err(Failed("find", Errno::NOENT).on(Path::new("/"), &Asker::Sandbox));
        };
        let enter = || -> Result<(), Failed> {
            for sealed in &self.sealed {
                mount::set_attributes(sealed.as_fd(), Attributes::READ_ONLY, Reach::This)
                    .step("seal")?;
            }
            if let Some(limit) = &self.limit {
                files::forbid_mount_namespaces(limit.as_fd()).step("limit mount namespaces in")?;
            }
            rustix::process::fchdir(root).step("enter")?;
            rustix::process::pivot_root(c".", c".").step("pivot to")?;
            // The old root now lies on top of the new one: take it off.
            rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)
                .step("let go of the old")?;
            rustix::process::chdir(c"/").step("enter")
        };
        enter().map_err(|failed| failed.on(Path::new("/"), &Asker::Sandbox))?;
        let (listener, members, sources) = (Some(control.listener), self.members, self.sources);
        Ok(Handles { listener, members, sources, sockets: control.sockets })
    }
}

fn check_identity(fd: BorrowedFd<'_>, expected: Option<FileId>) -> Result<(), Failed> {
    match expected {
        Some(id) if mount::stat(fd).step("look at")?.id != id => {
            Err(Failed("recognise", Errno::STALE))
        }
        _ => Ok(()),
    }
}
