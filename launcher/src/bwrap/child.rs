//! Inside the new namespaces: the tree, the identity, and the processes.

use super::command::{self, Confinement};
use super::error::{Die, OrDie, Result};
use super::fds::{close_all_but, write_all};
use super::landlock::Rules;
use super::monitor::{exit_code, send_pid};
use super::request::{Kind, Request};
use super::seccomp::Program;
use super::serve;
use super::tree::{self, Surroundings};
use crate::enter::identity::{self, Refused};
use crate::plan::Identity;
use nix::sched::{CloneFlags, unshare};
use remount_broker::sys::net;
use remount_broker::sys::process::{self, Fork};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions, wait};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What the first process inside has of the connections to the monitor.
pub(super) struct Inside<'a> {
    pub(super) request: &'a Request,
    /// Where init tells the command's exit status.
    pub(super) event: Option<OwnedFd>,
    /// Where the monitor says that this process may go on, if it has to wait.
    pub(super) gate: Option<OwnedFd>,
    /// Told that the command is executed next, and if that failed.
    pub(super) report: Option<OwnedFd>,
    /// Where it is told which process this is.
    pub(super) own_pid: Option<OwnedFd>,
    /// The connections to the broker, if there is one.
    pub(super) broker: Option<serve::Inside>,
}

/// Becomes the command, or its init. Returns the status to exit with, once the reason
/// has been said.
pub(super) fn enter(inside: Inside<'_>) -> i32 {
    match set_up(inside) {
        Ok(code) => code.into(),
        Err(die) => {
            die.print();
            1
        }
    }
}

/// Binds this process's life to that of its parent, if that is asked for.
pub(super) fn die_with_parent(request: &Request) -> Result<()> {
    if !request.die_with_parent {
        return Ok(());
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).or_die(|| "prctl")
}

/// `/proc/self` belongs to the user, as there is nothing to hide.
pub(super) fn be_dumpable() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
        .or_die(|| "can't set dumpable")
}

fn set_up(inside: Inside<'_>) -> Result<u8> {
    let Inside { request, event, gate, report, own_pid, broker } = inside;
    let terminal = rustix::termios::ttyname(rustix::stdio::stdout(), Vec::new()).ok();
    let terminal = terminal.map(|name| PathBuf::from(OsString::from_vec(name.into_bytes())));
    if let Some(pidns) = &request.pidns {
        join_pid_namespace(request, pidns)?;
    }
    if let Some(socket) = own_pid {
        send_pid(&socket)?;
    }
    for named in [&request.info_fd, &request.json_status_fd].into_iter().flatten() {
        named.close();
    }
    if let Some(gate) = gate {
        wait_at(&gate)?;
    }
    let cwd = caller_directory(request);
    // The new tree may have another one, or none.
    let proc = rustix::fs::open(c"/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .or_die(|| "Can't open /proc")?;
    let identities = take_identity(request, &proc)?;
    let umask = rustix::process::umask(Mode::empty());
    if let Some(label) = &request.file_label {
        super::labels::files(label)?;
    }
    let around = Surroundings {
        own_pids: request.unshare.pid || request.pidns.is_some(),
        terminal: terminal.as_deref(),
        label: request.file_label.as_deref(),
        hold: request.hold.as_ref(),
        targets: request.targets.as_ref(),
        covers: request.narrowing.as_ref().map_or(&[], |narrowing| &narrowing.covers),
    };
    let members = tree::build(&request.ops, &around)?;
    let targets: Vec<_> = members.iter().map(|member| member.path.clone()).collect();
    let hand_over = |broker: serve::Inside| broker.hand_over(request, members, &proc);
    let channel = broker.map(hand_over).transpose()?;
    identities.settle(request, &proc)?;
    request.capabilities.take()?;
    be_dumpable()?;
    if let Some(block) = &request.block_fd {
        block.wait();
        block.close();
    }
    let late = request.seccomp_fd.as_ref().map(Program::read).transpose()?;
    let narrowing = request.narrowing.as_ref();
    let own = narrowing.and_then(|narrowing| narrowing.filter.as_ref());
    let filters: Vec<&Program> = own.into_iter().chain(&request.filters).chain(&late).collect();
    let landlock = narrowing.and_then(|narrowing| narrowing.landlock);
    let rules = landlock.map(|abi| Rules::of(abi, &proc, &targets)).transpose()?;
    rustix::process::umask(umask);
    let confinement = Confinement { rules, filters };
    let start = command::Start::new(request, cwd, confinement, report, channel)?;
    if request.new_session {
        rustix::process::setsid().or_die(|| "setsid")?;
    }
    if let Some(label) = &request.exec_label {
        super::labels::exec(label, start.name())?;
    }
    let held = !request.lock_files.is_empty() || request.sync_fd.is_some();
    if !request.as_pid_1 && (request.unshare.pid || held) {
        return be_init(request, &start, event);
    }
    match start.execute()? {}
}

/// Waits until the monitor lets this process go on. If it has ended instead, so does
/// this one: whoever was to be told what is started was not.
fn wait_at(gate: &OwnedFd) -> Result<()> {
    let mut byte = [0];
    loop {
        match rustix::io::read(gate, &mut byte) {
            Err(Errno::INTR) => {}
            Ok(0) => process::exit(1),
            Ok(_) => return Ok(()),
            Err(errno) => return Err(Die::errno("wait for the monitor", errno)),
        }
    }
}

/// Joins a PID namespace: only what is forked afterwards is in it.
fn join_pid_namespace(request: &Request, pidns: &super::fds::Named) -> Result<()> {
    pidns
        .with(|fd| move_into_link_name_space(fd, Some(LinkNameSpaceType::ProcessID)))
        .or_die(|| "Setting pidns failed")?;
    go_on_in_child()?;
    if request.unshare.pid {
        unshare(CloneFlags::CLONE_NEWPID)
            .map_err(|errno| Errno::from_raw_os_error(errno as i32))
            .or_die(|| "unshare pid ns")?;
        go_on_in_child()?;
    }
    Ok(())
}

fn go_on_in_child() -> Result<()> {
    match process::fork().or_die(|| "Can't fork for --pidns")? {
        Fork::Child => Ok(()),
        Fork::Parent(_) => process::exit(0),
    }
}

/// The caller's working directory, by the name that the caller has for it, if `PWD` is
/// one; `None` if it is gone.
fn caller_directory(request: &Request) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let place = |path: &std::path::Path| {
        let stat = std::fs::metadata(path).ok()?;
        Some((stat.dev(), stat.ino()))
    };
    if let Some(named) = request.environment.get("PWD") {
        let named = PathBuf::from(named);
        let here = place(".".as_ref());
        if here.is_some() && place(&named) == here {
            return Some(named);
        }
    }
    std::env::current_dir().ok()
}

/// Who one is in the user namespace that the tree is built in, and who in the end.
struct Identities {
    first: Identity,
    last: Identity,
}

/// Takes the place in the user namespace from which the tree can be built.
fn take_identity(request: &Request, proc: &OwnedFd) -> Result<Identities> {
    let real = request.caller;
    let last =
        Identity { uid: request.uid.unwrap_or(real.uid), gid: request.gid.unwrap_or(real.gid) };
    let mut first = last;
    if request.unshare.user || request.userns.is_some() {
        request.capabilities.bound()?;
    }
    if request.userns.is_some() {
        change_ids(real, last)?;
    }
    if request.unshare.net {
        net::loopback_up().or_die(|| "loopback: Failed RTM_NEWADDR")?;
    }
    if request.unshare.user && request.userns_block_fd.is_none() {
        // As bubblewrap, so that what the command sees of its user namespace is the
        // same: terminals used to need a mapped root.
        if request.ops.iter().any(|op| matches!(op.kind, Kind::Dev)) {
            first = Identity { uid: 0, gid: 0 };
        }
        map(proc, first, real)?;
    }
    Ok(Identities { first, last })
}

fn map(proc: &OwnedFd, inside: Identity, outside: Identity) -> Result<()> {
    identity::map(proc.as_fd(), "self/", inside, outside).map_err(|Refused { file, errno }| {
        let text = match file {
            "uid_map" => "setting up uid map",
            "gid_map" => "setting up gid map",
            _ => "error writing to setgroups",
        };
        Die::errno(text, errno)
    })
}

/// In a user namespace that others made there may be more ids than one.
fn change_ids(from: Identity, to: Identity) -> Result<()> {
    let errno = |errno| Errno::from_raw_os_error(errno as i32);
    if to.uid != from.uid {
        nix::unistd::setuid(to.uid.into())
            .map_err(errno)
            .or_die(|| format!("unable to switch to uid {}", to.uid))?;
    }
    if to.gid != from.gid {
        nix::unistd::setgid(to.gid.into())
            .map_err(errno)
            .or_die(|| format!("unable to switch to gid {}", to.gid))?;
    }
    Ok(())
}

impl Identities {
    /// Takes the last identity, when the tree is built: in a user namespace below the
    /// first one, whose limits it cannot change, nor its mounts.
    fn settle(&self, request: &Request, proc: &OwnedFd) -> Result<()> {
        if let Some(userns) = &request.userns2 {
            userns
                .with(|fd| move_into_link_name_space(fd, Some(LinkNameSpaceType::User)))
                .or_die(|| "Setting userns2 failed")?;
        }
        let below = self.first != self.last || request.disable_userns;
        if request.unshare.user && request.userns_block_fd.is_none() && below {
            if request.disable_userns {
                forbid_user_namespaces(proc)?;
            }
            new_user_namespace().or_die(|| "unshare user ns")?;
            request.capabilities.bound()?;
            map(proc, self.last, self.first)?;
        }
        let disabled = request.disable_userns || request.assert_userns_disabled;
        if disabled && new_user_namespace().is_ok() {
            let text = "creation of new user namespaces was not disabled as requested";
            return Err(Die::new(text));
        }
        Ok(())
    }
}

/// One user namespace below this one, and no more.
fn forbid_user_namespaces(proc: &OwnedFd) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let limit = rustix::fs::openat(proc, c"sys/user/max_user_namespaces", flags, Mode::empty())
        .or_die(|| "cannot open /proc/sys/user/max_user_namespaces")?;
    rustix::io::write(limit, b"1").or_die(|| "sysctl user.max_user_namespaces = 1").map(drop)
}

fn new_user_namespace() -> std::result::Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// Starts the command and stays as its init, until no process is left inside: those that
/// the command leaves behind go on without the monitor.
fn be_init(request: &Request, start: &command::Start<'_>, event: Option<OwnedFd>) -> Result<u8> {
    let locks = take_locks(request)?;
    let command = process::spawn_borrowing(&mut || match start.execute() {
        Ok(never) => match never {},
        Err(die) => {
            die.print();
            process::exit(1)
        }
    });
    let command = command.or_die(|| "Can't fork for pid 1")?;
    // It ends here: most of what it owns is closed, and must not be closed again.
    process::exit(match stay(request, start, event.as_ref(), &locks, command) {
        Ok(code) => code.into(),
        Err(die) => {
            die.print();
            1
        }
    })
}

/// What init does once the command runs: gives up what only the command needs, and waits.
fn stay(
    request: &Request,
    start: &command::Start<'_>,
    event: Option<&OwnedFd>,
    locks: &[OwnedFd],
    command: Pid,
) -> Result<u8> {
    request.capabilities.give_up()?;
    // What the command was given, init must not hold open, except the descriptor that
    // shows others that the sandbox lives.
    let own: Vec<_> = event.into_iter().chain(locks).map(AsFd::as_fd).collect();
    close_all_but(&own, request.sync_fd.as_ref()).or_die(|| "close_range")?;
    die_with_parent(request)?;
    for filter in &start.confinement.filters {
        filter.load()?;
    }
    bury(command, event)
}

/// Locks the files: they stay locked as long as this process lives.
fn take_locks(request: &Request) -> Result<Vec<OwnedFd>> {
    let lock = |path: &OsString| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())
            .or_die(|| super::error::bytes!("Unable to open lock file ", path))?;
        process::lock_shared(file.as_fd())
            .or_die(|| super::error::bytes!("Unable to lock file ", path))?;
        Ok(file)
    };
    request.lock_files.iter().map(lock).collect()
}

/// Waits for every process inside; tells the monitor when the command has ended.
fn bury(command: Pid, event: Option<&OwnedFd>) -> Result<u8> {
    let mut code = 1;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == command => {
                code = exit_code(status);
                if let Some(event) = event {
                    // If the monitor is gone, there is nobody to tell.
                    let value = (u64::from(code) + 1).to_ne_bytes();
                    write_all(event.as_fd(), &value).unwrap_or(());
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(code),
            Err(errno) => return Err(Die::errno("init wait()", errno)),
        }
    }
}
