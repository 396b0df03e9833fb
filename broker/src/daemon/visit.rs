//! What is done in a sandbox, by a process of its own that enters it.
//!
//! That process executes nothing, loads nothing, and looks at nothing but the paths that
//! the rules name and the host's `/proc`, which it was given as a descriptor. Whatever
//! stands in its way there can hold up nobody but it.

use super::errand::{Act, Carried, Errand, MOUNT, Spot, Step, send};
use super::place::{NsId, refusal};
use crate::apply::{Operation, Progress, RETRY_EVERY, TRIES};
use crate::escape::Escaped;
use crate::filter::{Program, entered_filter, visitor_filter};
use crate::held::Watch;
use crate::holders::{Inspector, pause, watched};
use crate::host::Places;
use crate::name::Mode;
use crate::proto::{
    Dialect, ErrorCode, Fault, Holders, Refusal, Reply, Selection, SetRequest, State, TargetReport,
    Wish,
};
use crate::reason::Reason;
use crate::sandbox::{Registry, Standing};
use crate::sys::memory::{Heap, map_program};
use crate::sys::mount::{self, Attributes, FileId, Reach};
use crate::sys::{namespace, process, seccomp};
use crate::target::{Member, Target};
use rustix::fs::CWD;
use rustix::io::{Errno, Result as KernelResult, retry_on_intr};
use rustix::process::{
    DumpableBehavior, Pid, Signal, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, LinkNameSpaceType, move_into_link_name_space,
    set_capabilities, set_thread_groups,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// A helper's whole life, which begins before there is a request: it gives up what it does not
/// need, waits at `socket` for its one errand, answers each step of it there with a line, and
/// waits for the daemon to end it, so that its end is in nobody's way. It keeps `inherited`, if
/// the descriptors of its errand cannot be sent.
pub(super) fn visit(
    proc: BorrowedFd<'_>,
    filters: &Filters,
    heap: Option<Heap>,
    (socket, inherited): (&OwnedFd, &[BorrowedFd<'_>]),
) -> ! {
    let ready = prepare(proc, filters, (socket, inherited));
    // Page faults that the request would wait for; only time is lost without.
    map_program().and(heap.map_or(Ok(()), Heap::own)).unwrap_or(());
    let owned = inherited.iter().map(BorrowedFd::try_clone_to_owned).collect();
    let Ok(owned) = owned else { process::exit(1) };
    let Ok(Some((errand, carried))) = Errand::receive(socket.as_fd(), owned) else {
        process::exit(1)
    };
    let ways = (socket.as_fd(), proc);
    let visitor = ready.and_then(|()| Visitor::enter(&errand, carried, ways, &filters.entered));
    for step in &errand.steps {
        let reply = match &visitor {
            Ok(visitor) => visitor.carry_out(step),
            Err(errno) => {
                let message = format!("enter the sandbox: {:#}", Reason::from(*errno));
                Reply::Refused(refusal(ErrorCode::Failed, message, ""))
            }
        };
        if write_all(socket, &reply.to_bytes(Dialect::Json)).is_err() {
            process::exit(1);
        }
    }
    let mut none = [0_u8];
    // Nothing more is sent: whatever comes back is the end.
    process::exit(match retry_on_intr(|| rustix::io::read(socket, &mut none)) {
        Ok(0) => 0,
        _ => 1,
    })
}

/// What allows a helper the calls that it needs.
#[derive(Debug)]
pub(super) struct Filters {
    /// From the beginning, with what entering takes.
    whole: Program,
    /// On top of it, once it has entered and could still go elsewhere: without that.
    entered: Program,
}

impl Filters {
    pub fn new() -> Self {
        Self {
            whole: visitor_filter().compile_for_a_few_calls(),
            entered: entered_filter().compile_for_a_few_calls(),
        }
    }
}

/// Gives up all that no errand needs.
fn prepare(
    proc: BorrowedFd<'_>,
    filters: &Filters,
    (socket, inherited): (&OwnedFd, &[BorrowedFd<'_>]),
) -> KernelResult<()> {
    process::close_all_but(&[&[socket.as_fd(), proc], inherited].concat())?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    seccomp::load(&filters.whole)
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> KernelResult<()> {
    while !bytes.is_empty() {
        bytes = &bytes[rustix::io::write(to, bytes)?..];
    }
    Ok(())
}

/// A process that is in a sandbox.
struct Visitor<'a> {
    spots: &'a [Spot],
    /// For each of them: the file that it has to be.
    meant: Vec<KernelResult<FileId>>,
    /// The mount of the only one, if it is to be closed and not to be looked for.
    mount: Option<OwnedFd>,
    is_host: bool,
    /// Where the daemon is told.
    socket: BorrowedFd<'a>,
    proc: BorrowedFd<'a>,
    /// The sandbox's PID namespace, and a process there.
    pids: (NsId, Pid),
    /// What a user's own daemon knows to be held read-only.
    holds: Option<Arc<Watch>>,
}

impl<'a> Visitor<'a> {
    fn enter(
        errand: &'a Errand,
        carried: Carried<OwnedFd>,
        (socket, proc): (BorrowedFd<'a>, BorrowedFd<'a>),
        entered: &Program,
    ) -> KernelResult<Self> {
        if let Some((uid, gid, groups)) = &errand.rights {
            // With the rights of who asks, here and there: what that user may not reach
            // is not reached, nor told of.
            let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
            set_thread_groups(&groups)?;
            namespace::reach_files_as(*uid, *gid)?;
        }
        let id = |spot: &Spot| Ok(mount::stat(mount::open_exact(CWD, &spot.source)?.as_fd())?.id);
        let Carried { mount, user, target } = carried;
        // What is not looked for here cannot be made unreachable either.
        let sought = if target.is_some() { &[] } else { &errand.spots[..] };
        let meant = sought.iter().map(id).collect();
        let places = if errand.is_users_own { Places::here() } else { None };
        let holds = places.map(|places| Watch::new(&places.state).map(Arc::new)).transpose()?;
        // From a user namespace that it has entered, an ordinary user's process has no way back
        // or to another sandbox: rights over a namespace come from those above it
        // (cap_capable, security/commoncap.c). The filter would deny what the kernel denies.
        let is_powerless = errand.is_users_own && user.is_some();
        if let Some(user) = user {
            move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
        }
        if let Some(mount) = mount {
            move_into_link_name_space(mount.as_fd(), Some(LinkNameSpaceType::Mount))?;
        }
        let keep = CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE;
        let now = rustix::thread::capabilities(None)?.permitted;
        let (keep, inheritable) = (keep & now, CapabilitySet::empty());
        set_capabilities(None, CapabilitySets { effective: keep, permitted: keep, inheritable })?;
        // Changing user or user namespace takes both back (commit_creds, kernel/cred.c).
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if !is_powerless {
            seccomp::load(entered)?;
        }
        let (pids, pid) = errand.pids;
        let pids = (pids, Pid::from_raw(pid).ok_or(Errno::PROTO)?);
        let (spots, is_host, mount) = (&errand.spots[..], errand.is_host, target);
        Ok(Self { spots, meant, mount, is_host, socket, proc, pids, holds })
    }

    fn carry_out(&self, step: &Step) -> Reply {
        let done = match step.act {
            Act::Set { .. } if self.mount.is_some() => self.close(step).map(Reply::Done),
            Act::Set { wish, standing } => self.set(step, wish, standing).map(Reply::Done),
            Act::Report => Ok(Reply::List(self.report())),
            Act::Holders => self.registry(step).map(|it| Reply::Holders(self.holders(&it))),
        };
        done.unwrap_or_else(Reply::Refused)
    }

    /// The targets that are to be switched; each has to be a mount.
    fn registry(&self, step: &Step) -> Result<Registry, Refusal> {
        let mut targets = Vec::new();
        for (spot, meant) in self.spots.iter().zip(&self.meant) {
            let (target, is_mount) = match find(spot, *meant) {
                Err(_) if step.optional => continue,
                // Out of sight is not closed: it is to be tried again.
                Err(refused) if step.act.is_end() => {
                    return Err(Refusal { error: ErrorCode::Failed, ..refused });
                }
                found => found?,
            };
            if !is_mount && step.optional {
                continue;
            }
            if !is_mount {
                let path = Escaped::path(&spot.path);
                let message = format!("switch {}: {path} is no mount of its own", spot.name);
                let hint = "bind it in the sandbox: bwrap --bind DIR DIR, or --ro-bind DIR DIR";
                return Err(refusal(ErrorCode::Stale, message, hint));
            }
            targets.push(target);
        }
        let bad = |error: crate::sandbox::BadTargets| {
            refusal(ErrorCode::BadRequest, error.to_string(), "")
        };
        Registry::new(targets, self.holds.clone()).map_err(bad)
    }

    fn set(
        &self,
        step: &Step,
        wish: Wish,
        standing: Standing,
    ) -> Result<Vec<TargetReport>, Refusal> {
        let registry = self.registry(step)?;
        let request = SetRequest::new(Selection::All, wish);
        let fault = |fault| Refusal::from(&fault);
        let right = registry.authorize(&request, standing).map_err(fault)?;
        self.lend(step, &registry)?;
        let mut operation = Operation::new(right, &registry, Instant::now() + step.patience);
        loop {
            match operation.advance(&registry, Instant::now()) {
                Progress::Parked => pause(RETRY_EVERY),
                Progress::Done(Ok(())) => return Ok(registry.report(registry.all())),
                Progress::Done(Err(fault)) => {
                    let mut refusal = Refusal::from(&fault);
                    if refusal.error == ErrorCode::Busy {
                        refusal.hint = Some(
                            "close what writes there, or use --wait 10s; nothing was changed"
                                .into(),
                        );
                        refusal.holders = Some(self.holders(&registry));
                    }
                    return Err(refusal);
                }
            }
        }
    }

    /// Gives the daemon the mounts that are to be closed again, before they are opened: it will
    /// not need their paths then, which whoever is in the sandbox can make unreachable.
    fn lend(&self, step: &Step, registry: &Registry) -> Result<(), Refusal> {
        for target in registry.all().map(|index| registry.target(index)) {
            if !step.act.lends(step.is_leased, target.max_lease) {
                continue;
            }
            let mounts: Vec<_> = target.members.iter().map(Member::fd).collect();
            send(self.socket, &[MOUNT], &mounts).map_err(|errno| {
                let why = Reason::from(errno);
                let message = format!("lend {}: keep hold of its mount: {why:#}", target.name);
                let hint = "nothing was changed; processes of this user have sent too many \
                            descriptors that nobody has received";
                let hint = if errno == Errno::TOOMANYREFS { hint } else { "nothing was changed" };
                refusal(ErrorCode::Failed, message, hint)
            })?;
        }
        Ok(())
    }

    /// Closes the mount that a lease was given of, wherever it is by now. No file system is asked
    /// anything: none can hold this up.
    fn close(&self, step: &Step) -> Result<Vec<TargetReport>, Refusal> {
        let (Some(mount), Some(spot)) = (&self.mount, self.spots.first()) else {
            return Err(refusal(ErrorCode::Failed, "close a target: none was named", ""));
        };
        let (name, path) = (spot.name.clone(), spot.path.clone());
        let until = Instant::now() + step.patience;
        let mut tries = 0;
        loop {
            tries += 1;
            let fault =
                match mount::set_attributes(mount.as_fd(), Attributes::READ_ONLY, Reach::This) {
                    Ok(()) => return Ok(Vec::new()),
                    Err(Errno::BUSY) if Instant::now() < until => {
                        if tries % TRIES == 0 {
                            pause(RETRY_EVERY)
                        } else {
                            std::thread::yield_now()
                        }
                        continue;
                    }
                    Err(Errno::BUSY) => Fault::Busy { name, path },
                    // Taken out of the tree: nobody can change it any more, nor find it.
                    Err(Errno::INVAL) => Fault::Detached { name, path },
                    Err(errno) => {
                        let reason = Reason::from(errno).to_string();
                        Fault::Failed { name, mode: Mode::Ro, path, reason }
                    }
                };
            return Err(Refusal::from(&fault));
        }
    }

    fn holders(&self, registry: &Registry) -> Holders {
        let proc = rustix::io::fcntl_dupfd_cloexec(self.proc, 3);
        let (pids, pid) = self.pids;
        let Ok(inspector) = proc.and_then(|proc| Inspector::new(proc, pids, pid)) else {
            return Holders::default();
        };
        let targets = registry.all().map(|index| registry.target(index));
        let members = targets.flat_map(|target| target.members.iter().map(|it| (&target.name, it)));
        let mounts: Vec<_> = members.filter_map(|(name, it)| watched(name, it)).collect();
        inspector.search(&mounts).report()
    }

    /// What is there of the targets; what is not, is left out.
    fn report(&self) -> Vec<TargetReport> {
        let mut reports = Vec::new();
        for (spot, meant) in self.spots.iter().zip(&self.meant) {
            let Ok((target, is_mount)) = find(spot, *meant) else { continue };
            let Ok(registry) = Registry::new(vec![target], None) else { continue };
            let mut found = registry.report(registry.all());
            for report in &mut found {
                let here = is_mount || self.is_host;
                report.state = if here { State::Ok } else { State::Unmounted };
            }
            reports.append(&mut found);
        }
        reports
    }
}

/// The target, and whether it is the root of a mount; it is the file that is meant.
fn find(spot: &Spot, meant: KernelResult<FileId>) -> Result<(Target, bool), Refusal> {
    let path = Escaped::path(&spot.path);
    let stale = |why: String| {
        let message = format!("find {}: {path}: {why}", spot.name);
        refusal(
            ErrorCode::Stale,
            message,
            "the sandbox has to show there what the host has at the path",
        )
    };
    let meant = meant.map_err(|errno| {
        let source = Escaped::path(&spot.source);
        let message = format!("find {} on the host: {source}: {}", spot.name, Reason::from(errno));
        refusal(ErrorCode::Stale, message, "")
    })?;
    let fd = mount::open_exact(CWD, &spot.path).map_err(|errno| match errno {
        Errno::LOOP => stale("there is a symbolic link in it, which is not followed".to_owned()),
        errno => stale(Reason::from(errno).to_string()),
    })?;
    let stat = mount::stat(fd.as_fd()).map_err(|errno| stale(Reason::from(errno).to_string()))?;
    if stat.id != meant {
        return Err(stale("in the sandbox that is another file".to_owned()));
    }
    let target = Target {
        name: spot.name.clone(),
        path: spot.path.clone(),
        authority: spot.authority,
        max_lease: spot.max_lease,
        members: vec![Member::new(fd, spot.path.clone()).showing(Some(spot.source.clone()))],
    };
    Ok((target, stat.is_mount_root))
}
