//! From a specification to a plan: order, pinned ancestors, members, rules.
//!
//! Everything here is a pure function of the specification and the host's mount table.

use super::{
    CONTROL_DIR, Identity, LandlockPlan, MountOp, MountPlan, Namespaces, OpKind, Plan, Shape,
    Source, TargetPlan,
};
use crate::confine::landlock::Access;
use crate::host::{Found, MountTable};
use crate::paths::is_in;
use crate::profile::Proc;
use crate::spec::{Asker, Entry, Spec, What};
use remount_broker::filter::{PERMISSIONS, PROFILING, agent_filter_with};
use remount_broker::heal;
use remount_broker::name::Mode;
use remount_broker::placeholder::Kind as StandIn;
use remount_broker::sys::mount::FileId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What of a fresh `/proc` is read-only for an ordinary user, who owns nothing there but
/// his processes and, in a user namespace, some of `/proc/sys`. For root all of it is: it
/// owns the files, of which all process file systems show the same, and could change the
/// host by writing to some and its permissions on others.
const PROC_READ_ONLY: &[&str] = &["sys", "sysrq-trigger"];

/// What of a fresh `/proc` only root can read, and must not.
const PROC_MASKED: &[&str] =
    &["kcore", "keys", "timer_list", "kpagecount", "kpageflags", "kpagecgroup"];

impl Plan {
    /// Puts a specification in order.
    pub fn build(spec: Spec, host_mounts: &MountTable) -> Self {
        let is_root = spec.identity.uid == 0;
        let mounts = MountPlan::build(&spec, host_mounts, is_root);
        let landlock =
            spec.landlock.map(|abi| LandlockPlan { abi, rules: mounts.landlock_rules() });
        let mut more = Vec::new();
        more.extend((!spec.chmod).then_some(PERMISSIONS));
        more.extend(spec.read_only.then_some(PROFILING));
        Self {
            profiles: spec.profiles,
            host_directories: spec.host_directories,
            placeholders: spec.placeholders,
            records: spec.records,
            namespaces: Namespaces {
                user: spec.user_namespace.then_some(Identity { ..spec.identity }),
                unshare_network: spec.unshare_network,
                hostname: spec.hostname,
            },
            mounts,
            landlock,
            filter: spec.seccomp.then(|| match spec.audit {
                Some(_) => agent_filter_with(&more).asking_for_execution().compile(),
                None => agent_filter_with(&more).compile(),
            }),
            audit: spec.audit,
            exec: spec.exec,
            policy: spec.policy,
            sockets: spec.sockets,
            held: spec.held,
            reducible: spec.reducible,
            warnings: spec.warnings,
        }
    }
}

impl MountPlan {
    fn build(spec: &Spec, host_mounts: &MountTable, is_root: bool) -> Self {
        let mut ops: BTreeMap<PathBuf, MountOp> = BTreeMap::new();
        let mut targets = Vec::new();
        for op in own_ops(spec, is_root) {
            ops.insert(op.dest.clone(), op);
        }
        for entry in &spec.entries {
            let member_of = target_of(entry, &mut targets);
            let kind = kind_of(entry);
            let (dest, origin) = (entry.dest.clone(), entry.origin.clone());
            ops.insert(dest.clone(), MountOp { dest, kind, member_of, origin });
        }
        for entry in &spec.entries {
            if matches!(entry.what, What::Open(_)) {
                open_part(&mut ops, &targets, &entry.dest);
            }
        }
        protect_kernel_files(&mut ops, host_mounts);
        pin_ancestors(&mut ops, host_mounts);
        assign_submounts(&mut ops, host_mounts);
        let is_guard = |entry: &&Entry| matches!(entry.what, What::Guard(_));
        let guards = spec.entries.iter().filter(is_guard).map(|entry| entry.dest.as_path());
        let (ops, independent) = in_order(guards, ops);
        Self { ops, independent, targets }
    }

    /// What Landlock grants: the same as the mounts. Targets are granted writing for
    /// good, since rules cannot be widened later; there the mount flag is the gate.
    fn landlock_rules(&self) -> Vec<(PathBuf, Access)> {
        let access = |op: &MountOp| match &op.kind {
            _ if op.dest == Path::new("/") => Some(Access::ReadExecute),
            OpKind::Dev { .. } => Some(Access::Device),
            OpKind::Bind { mode, .. } if *mode == Mode::Rw || op.member_of.is_some() => {
                Some(Access::Full)
            }
            OpKind::Tmpfs { .. } | OpKind::Overlay { .. } => Some(Access::Full),
            OpKind::Proc(Mode::Rw) => Some(Access::WriteExisting),
            OpKind::Socket(_) => Some(Access::Socket),
            OpKind::Bind { .. }
            | OpKind::SelfBind { .. }
            | OpKind::Mask(_)
            | OpKind::Shim
            | OpKind::Proc(Mode::Ro)
            | OpKind::HostProc
            | OpKind::Sealed(_)
            | OpKind::Control { .. } => None,
        };
        let mut rules: Vec<_> =
            self.ops.iter().filter_map(|op| Some((op.dest.clone(), access(op)?))).collect();
        // These add to the others of the same place.
        for op in &self.ops {
            match &op.kind {
                OpKind::Bind { devices: true, .. } => rules.push((op.dest.clone(), Access::Device)),
                OpKind::Dev { .. } => rules.push((op.dest.join("shm"), Access::Full)),
                // The rule is one for the file that is there now. Another that takes its place
                // is found by the directory; all else in that is on a read-only mount.
                OpKind::Bind { mode, follow: true, .. }
                    if *mode == Mode::Rw || op.member_of.is_some() =>
                {
                    let parent = op.dest.parent().unwrap_or(Path::new("/"));
                    rules.push((parent.to_owned(), Access::WriteExisting));
                }
                _ => {}
            }
        }
        rules
    }
}

/// What every sandbox has.
fn own_ops(spec: &Spec, is_root: bool) -> Vec<MountOp> {
    let op = |dest: &str, kind| MountOp {
        dest: dest.into(),
        kind,
        member_of: None,
        origin: Asker::Sandbox,
    };
    let root = Source { path: "/".into(), id: None, shape: Shape::Directory };
    let root = OpKind::Bind {
        source: root,
        mode: Mode::Ro,
        devices: false,
        follow: false,
        submounts: Vec::new(),
    };
    let program = source_of(Some(&spec.program), &spec.program.path);
    let sockets = spec.sockets.iter().map(|socket| socket.name.clone()).collect();
    let control =
        OpKind::Control { program, hooks: spec.hooks.clone(), shims: spec.shims.clone(), sockets };
    let run = match &spec.run {
        Some(found) => OpKind::Sealed(source_of(Some(found), &found.path)),
        None => OpKind::Tmpfs { size: None, permissions: 0o755 },
    };
    let (proc, read_only) = match (spec.proc, is_root) {
        (Proc::Host, _) => (OpKind::HostProc, &[][..]),
        (Proc::Own, true) => (OpKind::Proc(Mode::Ro), &[][..]),
        (Proc::Own, false) => (OpKind::Proc(Mode::Rw), PROC_READ_ONLY),
    };
    let mut ops = vec![
        op("/", root),
        // The place for the control directory, if no profile has another tmpfs there.
        op("/run", run),
        op(CONTROL_DIR, control),
        op("/dev", OpKind::Dev { terminal: spec.terminal.clone() }),
        op("/proc", proc),
    ];
    let masked = if is_root { PROC_MASKED } else { &[] };
    for name in read_only {
        let kind = self_bind(None, heal::Shape::Directory, Mode::Ro, None);
        ops.push(op(&format!("/proc/{name}"), kind));
    }
    ops.extend(masked.iter().map(|name| op(&format!("/proc/{name}"), OpKind::Mask(Shape::File))));
    ops
}

fn target_of(entry: &Entry, targets: &mut Vec<TargetPlan>) -> Option<usize> {
    let What::Bind { target: Some(toggle), mode, .. } = &entry.what else { return None };
    targets.push(TargetPlan {
        name: toggle.name.clone(),
        dest: entry.dest.clone(),
        mode: *mode,
        authority: toggle.authority,
        max_lease: toggle.max_lease,
    });
    Some(targets.len() - 1)
}

/// Makes a mount a member of the target around it, with its mode.
fn open_part(ops: &mut BTreeMap<PathBuf, MountOp>, targets: &[TargetPlan], dest: &Path) {
    let mut around = dest.ancestors().skip(1).filter_map(|parent| ops.get(parent)?.member_of);
    let Some(target) = around.next() else { return };
    if let Some(MountOp { kind: OpKind::Bind { mode, .. }, member_of, .. }) = ops.get_mut(dest) {
        (*mode, *member_of) = (targets[target].mode, Some(target));
    }
}

fn kind_of(entry: &Entry) -> OpKind {
    match &entry.what {
        What::Bind { source, path, mode, devices, follow, .. } => OpKind::Bind {
            source: source_of(source.as_ref(), path),
            mode: *mode,
            devices: *devices,
            follow: *follow,
            submounts: Vec::new(),
        },
        What::Tmpfs { size, permissions } => {
            OpKind::Tmpfs { size: *size, permissions: *permissions }
        }
        What::Overlay { lower, changes } => {
            OpKind::Overlay { lower: source_of(Some(lower), &lower.path), changes: changes.clone() }
        }
        What::Mask(shape) => OpKind::Mask(*shape),
        What::Shim => OpKind::Shim,
        What::Socket(name) => OpKind::Socket(name.clone()),
        // Its mode is that of the target around it, once that is known.
        What::Open(found) => OpKind::Bind {
            source: source_of(Some(found), &found.path),
            mode: Mode::Ro,
            devices: false,
            follow: false,
            submounts: Vec::new(),
        },
        What::Protect(found) => {
            let shape = match shape(found) {
                Shape::Directory => heal::Shape::Directory,
                Shape::File if found.stat.is_symlink() => heal::Shape::Link,
                Shape::File => heal::Shape::File,
            };
            self_bind(Some(found.stat.id), shape, Mode::Ro, None)
        }
        // Made by the start: whatever is there by then is protected, unless it is a link.
        What::Guard(stand_in) => {
            self_bind(None, heal::Shape::File, Mode::Ro, Some(stand_in.clone()))
        }
    }
}

fn self_bind(
    id: Option<FileId>,
    shape: heal::Shape,
    mode: Mode,
    stand_in: Option<StandIn>,
) -> OpKind {
    OpKind::SelfBind { id, shape, mode, stand_in, submounts: Vec::new() }
}

fn source_of(found: Option<&Found>, path: &Path) -> Source {
    let shape = found.map_or(Shape::Directory, shape);
    Source { path: path.to_owned(), id: found.map(|found| found.stat.id), shape }
}

fn shape(found: &Found) -> Shape {
    if found.stat.is_dir() { Shape::Directory } else { Shape::File }
}

/// The deepest operation whose destination holds `path` strictly.
fn enclosing<'a>(ops: &'a BTreeMap<PathBuf, MountOp>, path: &Path) -> Option<&'a MountOp> {
    path.ancestors().skip(1).find_map(|parent| ops.get(parent))
}

/// Whether processes inside can rename what is below it, now or after a toggle, and
/// it is the host's.
fn is_changeable_host(op: &MountOp) -> bool {
    match op.kind {
        OpKind::Bind { mode, .. } | OpKind::SelfBind { mode, .. } => {
            mode == Mode::Rw || op.member_of.is_some()
        }
        _ => false,
    }
}

/// Keeps what the kernel shows below a writable bind read-only: in a project with a root
/// file system for a container in it, `/proc/sys` and `/sys` of the host may be mounted.
fn protect_kernel_files(ops: &mut BTreeMap<PathBuf, MountOp>, host_mounts: &MountTable) {
    let mut found = Vec::new();
    for op in ops.values().filter(|op| is_changeable_host(op)) {
        let OpKind::Bind { source, devices: false, .. } = &op.kind else { continue };
        for mount in host_mounts.below(&source.path).into_iter().filter(|mount| mount.is_kernels())
        {
            let Ok(below) = mount.point.strip_prefix(&source.path) else { continue };
            let dest = op.dest.join(below);
            if enclosing(ops, &dest).is_some_and(|holder| holder.dest == op.dest) {
                found.push(dest);
            }
        }
    }
    for dest in found {
        let kind = self_bind(None, heal::Shape::Directory, Mode::Ro, None);
        let op = MountOp { dest: dest.clone(), kind, member_of: None, origin: Asker::Sandbox };
        ops.entry(dest).or_insert(op);
    }
}

/// Binds every directory between a writable mount and what is mounted below it onto
/// itself: rename refuses a mountpoint, but not the parent of one, and with a parent
/// renamed away a fresh, unprotected one could take its place.
fn pin_ancestors(ops: &mut BTreeMap<PathBuf, MountOp>, host_mounts: &MountTable) {
    let mut pins = Vec::new();
    // Mounts of the host too: moved away with its parent, one makes its target stale.
    let submounts = submounts(ops, host_mounts).into_iter().map(|(_, dest)| dest);
    for dest in ops.keys().cloned().chain(submounts) {
        let Some(holder) = enclosing(ops, &dest).filter(|op| is_changeable_host(op)) else {
            continue;
        };
        let between = dest.ancestors().skip(1).take_while(|parent| *parent != holder.dest);
        let mode = match holder.kind {
            OpKind::Bind { mode, .. } | OpKind::SelfBind { mode, .. } => mode,
            _ => Mode::Ro,
        };
        for parent in between {
            pins.push(MountOp {
                dest: parent.to_owned(),
                kind: self_bind(None, heal::Shape::Directory, mode, None),
                member_of: holder.member_of,
                origin: Asker::Pin(dest.clone()),
            });
        }
    }
    for pin in pins {
        ops.entry(pin.dest.clone()).or_insert(pin);
    }
}

/// Gives every host mount below a target to the operation that shows it.
fn assign_submounts(ops: &mut BTreeMap<PathBuf, MountOp>, host_mounts: &MountTable) {
    for (owner, dest) in submounts(ops, host_mounts) {
        if let Some(OpKind::Bind { submounts, .. } | OpKind::SelfBind { submounts, .. }) =
            ops.get_mut(&owner).map(|op| &mut op.kind)
        {
            submounts.push(dest);
        }
    }
}

/// The host's mounts that follow a target's mode, each after the operation that shows it.
/// A mount that is read-only on the host is nobody's: it never becomes writable.
fn submounts(
    ops: &BTreeMap<PathBuf, MountOp>,
    host_mounts: &MountTable,
) -> Vec<(PathBuf, PathBuf)> {
    let mut owned = Vec::new();
    for op in ops.values().filter(|op| op.member_of.is_some()) {
        let OpKind::Bind { source, .. } = &op.kind else { continue };
        for mount in host_mounts.below(&source.path).into_iter().filter(|mount| !mount.read_only) {
            let Ok(below) = mount.point.strip_prefix(&source.path) else { continue };
            let dest = op.dest.join(below);
            let Some(owner) = enclosing(ops, &dest) else { continue };
            if !ops.contains_key(&dest) && owner.member_of == op.member_of {
                owned.push((owner.dest.clone(), dest));
            }
        }
    }
    owned
}

/// Parents before children. The control directory comes as early as it can, since
/// masks are made of its empty file and its empty directory; what holds placeholders comes
/// last, after as many operations as the answer says.
fn in_order<'a>(
    guards: impl Iterator<Item = &'a Path>,
    ops: BTreeMap<PathBuf, MountOp>,
) -> (Vec<MountOp>, usize) {
    let control = Path::new(CONTROL_DIR);
    let is_changeable = |dest: &&Path| ops.get(*dest).is_some_and(is_changeable_host);
    let mut holders: Vec<PathBuf> = guards
        .filter_map(|dest| dest.ancestors().skip(1).filter(is_changeable).last())
        .map(Path::to_owned)
        .collect();
    holders.dedup();
    let (mut all, rest): (Vec<_>, Vec<_>) =
        ops.into_values().partition(|op| control.starts_with(&op.dest));
    let (last, rest): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|op| holders.iter().any(|holder| is_in(&op.dest, holder)));
    all.extend(rest);
    let independent = all.len();
    all.extend(last);
    (all, independent)
}

#[cfg(test)]
mod tests;
