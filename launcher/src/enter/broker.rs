//! The broker's process: it joins the sandbox's user and mount namespace, confines
//! itself and serves.

use super::{EnterError, Handover, Step, die_with_parent, end};
use crate::confine;
use crate::hold::Since;
use crate::mount::{Handles, MemberHandle, SourceHandle};
use crate::outside;
use crate::plan::{Plan, Policy, TargetPlan};
use crate::report::{Link, Reporter};
use remount_broker::escape::Escaped;
use remount_broker::filter::broker_filter;
use remount_broker::heal::{FileSource, Healer, Kept, Private};
use remount_broker::held::Watch;
use remount_broker::holders::Inspector;
use remount_broker::name;
use remount_broker::proto::{Origin, SandboxInfo};
use remount_broker::server::{self, Context, Explain, Setup};
use remount_broker::sys::{memory, process, seccomp};
use remount_broker::target::{Member, Target};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a broker has to know of its sandbox.
#[derive(Debug)]
pub struct Serving<'a> {
    /// What can be switched.
    pub targets: &'a [TargetPlan],
    /// How requests are treated.
    pub policy: &'a Policy,
    /// What is held read-only, as it was when the start looked; `None` without a place to
    /// look.
    pub held: Option<&'a Since>,
    /// Whether the sandbox has a user namespace of its own, and no more mount namespaces.
    pub user_namespace: bool,
    /// Whether it has a PID namespace of its own.
    pub pid_namespace: bool,
    /// Whether the broker gets a filter.
    pub filter: bool,
    /// What explains the tree, and says what of it is put back.
    pub plan: Option<&'a Plan>,
}

impl<'a> Serving<'a> {
    /// A sandbox of this plan.
    pub fn of(plan: &'a Plan) -> Self {
        Self {
            targets: &plan.mounts.targets,
            policy: &plan.policy,
            held: plan.held.as_ref(),
            user_namespace: plan.namespaces.user.is_some(),
            pid_namespace: true,
            filter: plan.filter.is_some(),
            plan: Some(plan),
        }
    }
}

/// What the broker's process inherits from the launcher.
#[derive(Debug)]
pub struct Broker<'a> {
    /// What it serves.
    pub serving: Serving<'a>,
    /// A connection to the launcher: what leads outside comes on it, and its end means that
    /// the launcher is gone, or wants the end.
    pub life: Link,
    /// Where a failure is told.
    pub reporter: Reporter,
    /// Init's process id.
    pub init: Pid,
    /// The connection to init; its end means that init is gone, or wants the end.
    pub from_init: Link,
    /// What is readable when the sandbox has ended, if the end of the connection to init
    /// does not tell that.
    pub end: Option<OwnedFd>,
    /// The broker's end of the connection that all processes inside inherit.
    pub shared: Link,
}

impl Broker<'_> {
    /// Serves until the sandbox or the launcher has ended; does not return.
    pub fn run(self) -> ! {
        let Self { serving, life, reporter, init, from_init, end: ending, shared } = self;
        let serve = || {
            let proc = open_proc()?;
            let watch = |held: &Since| Watch::new(&held.state).step("find what is held read-only");
            let holds = serving.held.map(watch).transpose()?.map(Arc::new);
            let (processes, handover) = join_sandbox(&from_init)?;
            check_held(&serving, holds.as_deref())?;
            // From here on the agent may start: until the broker is confined it hears nobody.
            from_init.send(b"go", None).step("start the agent")?;
            let healer = serving.plan.map(|plan| healer(plan, handover.sources, proc.as_fd()));
            let healer = healer.transpose()?;
            // Without it, all is the same but later.
            process::ask_for_short_turns().unwrap_or(());
            confine(&serving)?;
            // Who has the PID namespace of everybody else cannot be told from them.
            let inspector = match serving.pid_namespace {
                true => Some(Inspector::new(proc, processes, init).step("look at /proc")?),
                false => None,
            };
            let Some(outside) = outside::receive(&life).step("hear from the launcher")? else {
                return Ok(());
            };
            let listeners = [(handover.listener, Origin::Inside)]
                .into_iter()
                .chain([(outside.listener, Origin::Outside)]);
            let setup = Setup {
                life: life.into_fd(),
                // Its end also tells init that there is no broker.
                init: ending.unwrap_or(from_init.into_fd()),
                shared: Some(shared.into_fd()),
                listeners: listeners.filter_map(|(fd, origin)| Some((fd?, origin))).collect(),
                targets: targets(&serving, handover.members),
                context: Context {
                    inspector,
                    sandbox: Some(info(serving.policy, outside.id)),
                    log: outside.log,
                    on_busy: serving.policy.on_busy,
                    approval_timeout: serving.policy.confirm_timeout,
                    explain: serving.plan.map(|plan| Explain::new(|path| plan.verdict(path))),
                    healer,
                    holds,
                },
            };
            // If it fails, this process is larger than it need be.
            memory::release_program().unwrap_or(());
            server::serve(setup).map(drop).map_err(|_| EnterError::NoBroker)
        };
        end(&reporter, serve())
    }
}

/// The process file system outside, for the broker alone: it finds there who holds a
/// mount, and who is no process of the sandbox.
fn open_proc() -> Result<OwnedFd, EnterError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(c"/proc", flags, Mode::empty()).step("open /proc")
}

/// What puts mounts back, for the namespaces that this process has joined.
fn healer(
    plan: &Plan,
    sources: Vec<SourceHandle>,
    proc: BorrowedFd<'_>,
) -> Result<Healer, EnterError> {
    let open = |path, flags| rustix::fs::openat(proc, path, flags | OFlags::CLOEXEC, Mode::empty());
    let table = open(c"self/mountinfo", OFlags::RDONLY).step("open the mount table")?;
    let limit = match plan.namespaces.user {
        Some(_) => {
            let limit = open(c"sys/user/max_mnt_namespaces", OFlags::WRONLY);
            Some(limit.step("open the limit of mount namespaces")?)
        }
        None => None,
    };
    let sources = sources.into_iter().filter_map(|SourceHandle { path, fd, mode }| {
        let name = plan.mounts.source_of(&path)?.file_name()?.to_owned();
        Some(FileSource { path, dir: fd, name, mode })
    });
    let kept = plan.mounts.kept();
    let private = match kept.iter().any(Kept::holds_worktrees) {
        true => {
            let host =
                open(c"..", OFlags::PATH | OFlags::DIRECTORY).step("open the host's root")?;
            let places = plan.mounts.private().map(Path::to_owned).collect();
            Some(Private { host, places })
        }
        false => None,
    };
    Ok(Healer::new(kept, sources.collect(), table, limit, private))
}

/// A person who begins to hold something looks for running sandboxes after writing that
/// down, and may have seen this one before it had its mounts.
fn check_held(serving: &Serving<'_>, holds: Option<&Watch>) -> Result<(), EnterError> {
    let Some((since, holds)) = serving.held.zip(holds) else { return Ok(()) };
    match holds.version().step("look at what is held read-only")? == since.version {
        true => Ok(()),
        false => Err(EnterError::HeldChanged),
    }
}

fn info(policy: &Policy, id: String) -> SandboxInfo {
    SandboxInfo {
        id,
        pid: rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get()),
        profile: policy.profile.clone(),
        cwd: Escaped::path(&policy.cwd).to_string(),
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    }
}

/// Takes what init made and joins its namespaces; from then on nobody can inspect this
/// process. Also gives device and inode of the PID namespace, which it does not join.
fn join_sandbox(from_init: &Link) -> Result<((u64, u64), Handles), EnterError> {
    die_with_parent()?;
    let Handover { user, mount, processes, handles } = receive(from_init)?;
    if let Some(user) = &user {
        move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))
            .step("join the user namespace")?;
    }
    // This also changes the root and the working directory to the sandbox's.
    move_into_link_name_space(mount.as_fd(), Some(LinkNameSpaceType::Mount))
        .step("join the mount namespace")?;
    // Another user namespace may have reset both (prctl(2)).
    die_with_parent()?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("make the broker unreadable")?;
    Ok((processes, handles))
}

/// Gives up everything that the broker will not need: capabilities but three, new
/// privileges, and most system calls, executing a program among them.
fn confine(serving: &Serving<'_>) -> Result<(), EnterError> {
    let mut capabilities = confine::BROKER_CAPABILITIES;
    if serving.user_namespace {
        capabilities |= confine::BROKER_CAPABILITIES_IN_USER_NAMESPACE;
    }
    confine::reduce_capabilities(capabilities)?;
    match serving.filter {
        true => seccomp::load(&broker_filter().compile()).step("load the broker's filter"),
        false => Ok(()),
    }
}

/// Takes the descriptors that init made, each in a message that begins with its kind.
fn receive(from_init: &Link) -> Result<Handover, EnterError> {
    let (mut user, mut mount, mut listener) = (None, None, None);
    let (mut members, mut sources) = (Vec::new(), Vec::new());
    loop {
        let (bytes, fd) = from_init.receive().step("receive the mounts")?;
        match (bytes.as_slice(), fd) {
            ([b'U'], Some(fd)) => user = Some(fd),
            ([b'N', ids @ ..], Some(fd)) => mount = Some((fd, parse_processes(ids)?)),
            ([b'L'], Some(fd)) => listener = Some(fd),
            ([b'M', message @ ..], Some(fd)) => {
                members.push(parse_member(message, fd).ok_or(EnterError::NoInit)?);
            }
            ([b'F', mode, path @ ..], Some(fd)) => {
                let mode = if *mode == b'w' { name::Mode::Rw } else { name::Mode::Ro };
                sources.push(SourceHandle { path: OsStr::from_bytes(path).into(), fd, mode });
            }
            ([b'.'], None) => break,
            _ => return Err(EnterError::NoInit),
        }
    }
    let (mount, processes) = mount.ok_or(EnterError::NoInit)?;
    Ok(Handover {
        user,
        mount,
        processes,
        handles: Handles { listener, members, sources, sockets: Vec::new() },
    })
}

/// Device and inode, eight bytes each.
fn parse_processes(bytes: &[u8]) -> Result<(u64, u64), EnterError> {
    let (device, inode) = bytes.split_first_chunk().ok_or(EnterError::NoInit)?;
    let inode = inode.try_into().map_err(|_| EnterError::NoInit)?;
    Ok((u64::from_le_bytes(*device), u64::from_le_bytes(inode)))
}

/// A target's number, four bytes, the path of one of its mounts, and after a NUL what of
/// the host it shows, if that is said.
fn parse_member(message: &[u8], fd: OwnedFd) -> Option<MemberHandle> {
    let (target, paths) = message.split_first_chunk::<4>()?;
    let target = u32::from_le_bytes(*target).try_into().ok()?;
    let (path, source) = paths.split_at(paths.iter().position(|byte| *byte == 0)?);
    let path_of = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let source = Some(&source[1..]).filter(|source| !source.is_empty()).map(path_of);
    Some(MemberHandle { target, path: path_of(path), source, fd })
}

/// Those that have mounts: what is read-only on the host is none.
fn targets(serving: &Serving<'_>, members: Vec<MemberHandle>) -> Vec<Target> {
    let mut targets: Vec<Target> = serving
        .targets
        .iter()
        .map(|target| Target {
            name: target.name.clone(),
            path: target.dest.clone(),
            authority: target.authority,
            max_lease: target.max_lease,
            members: Vec::new(),
        })
        .collect();
    for member in members {
        if let Some(target) = targets.get_mut(member.target) {
            let plan = serving.plan.map(|plan| &plan.mounts);
            let source = member.source.or_else(|| plan?.host_path(&member.path));
            target.members.push(Member::new(member.fd, member.path).showing(source));
        }
    }
    targets.retain(|target| serving.plan.is_some() || !target.members.is_empty());
    targets
}
