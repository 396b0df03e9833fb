//! A read-only sandbox where the host permits no namespaces, and so no mounts: in most
//! containers. Landlock grants reading and one directory to write in, the filter refuses what
//! Landlock does not know, capabilities are gone. What is missing is said.

mod enforce;

use crate::audit;
use crate::confine::landlock::Access;
use crate::front::say;
use crate::host::Files;
use crate::mount::devices::DEVICES;
use crate::outside;
use crate::paths::is_in;
use crate::plan::{OpKind, Plan};
use crate::report::Failure;
use remount_broker::escape::Escaped;
use remount_broker::filter::{REDUCED, agent_filter_with};
use remount_broker::reason::Reason;
use remount_broker::scratch::Scratch;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What truncating takes: without it a file can be emptied that is only open for reading.
const ABI_NEEDED: u32 = 3;

/// What keeps signals from processes outside.
const ABI_OF_SIGNALS: u32 = 6;

/// What of a sandbox there is not.
pub struct Lost<'a> {
    /// Whether it would have had shims, which are mounts.
    pub had_shims: bool,
    /// Why it was not permitted.
    pub why: &'a Failure,
    /// Where a directory to write in is made.
    pub place: PathBuf,
}

/// Runs the command of a plan whose sandbox the host did not permit. What is executed is
/// written to `record`, if the plan says so.
///
/// # Errors
/// What the plan asks for cannot be had without mounts, or Landlock cannot do enough.
pub fn run(
    plan: &Plan,
    files: &dyn Files,
    lost: Lost<'_>,
    record: Option<OwnedFd>,
) -> Result<u8, Failure> {
    let Lost { had_shims, why, place } = lost;
    let refuse = |what: &str| Failure {
        code: 125,
        message: format!("{what} without namespaces: {}", why.message),
        hint: why.hint.clone(),
    };
    if let Some(asked) = needs_mounts(plan) {
        return Err(refuse(&asked));
    }
    let abi = plan.landlock.as_ref().map_or(0, |landlock| landlock.abi);
    if abi < ABI_NEEDED || plan.filter.is_none() {
        return Err(refuse("keep files from being changed by Landlock and seccomp alone"));
    }
    let scratch = make_scratch(&place);
    let path = scratch.as_ref().map(Scratch::path);
    for lost in losses(plan, abi, path, why) {
        say(&format!("remount-run: warning: {lost}"));
    }
    if had_shims {
        say("remount-run: warning: no shims: what tools change elsewhere is up to their logins");
    }
    let mut exec = plan.exec.clone();
    exec.environment.retain(|(name, _)| name != "TMPDIR");
    exec.environment.extend(path.map(|path| ("TMPDIR".into(), OsString::from(path))));
    let reduced = enforce::Reduced {
        abi,
        rules: rules(plan, files, path),
        filter: match record {
            Some(_) => agent_filter_with(REDUCED).asking_for_execution().compile(),
            None => agent_filter_with(REDUCED).compile(),
        },
        exec,
    };
    let result = reduced.run(record.map(|file| (audit::Subject::of(plan), file)));
    scratch.into_iter().for_each(remove);
    result
}

/// A directory to write in, if one can be made; removes what others have left.
fn make_scratch(place: &Path) -> Option<Scratch> {
    // What cannot be looked for is for `remountctl doctor` to tell.
    Scratch::leftovers(place).unwrap_or_default().into_iter().for_each(remove);
    Scratch::make(place, outside::new_id).ok()
}

fn remove(scratch: Scratch) {
    let path = scratch.path().to_owned();
    if let Err(errno) = scratch.remove() {
        let (path, why) = (Escaped::path(&path), Reason::from(errno));
        say(&format!("remount-run: warning: remove {path}: {why:#}"));
        say("hint: `remountctl doctor --clean` tries again");
    }
}

/// Something that was asked for and cannot be had, in words.
fn needs_mounts(plan: &Plan) -> Option<String> {
    if plan.namespaces.unshare_network {
        return Some("give it a network of its own".to_owned());
    }
    if plan.namespaces.hostname.is_some() {
        return Some("give it a host name of its own".to_owned());
    }
    plan.mounts.ops.iter().find_map(|op| {
        let is_there = match &op.kind {
            OpKind::Bind { source, .. } => source.path == op.dest && !op.kind.is_writable(),
            OpKind::Tmpfs { .. } => ["/tmp", "/run"].iter().any(|own| op.dest == Path::new(own)),
            OpKind::Overlay { .. } | OpKind::Proc(_) | OpKind::Socket(_) => false,
            OpKind::SelfBind { .. }
            | OpKind::Shim
            | OpKind::Sealed(_)
            | OpKind::Mask(_)
            | OpKind::Dev { .. }
            | OpKind::HostProc
            | OpKind::Control { .. } => true,
        };
        (!is_there).then(|| format!("mount {} ({})", Escaped::path(&op.dest), op.origin))
    })
}

/// What a person should know, a line for each layer.
fn losses(plan: &Plan, abi: u32, scratch: Option<&Path>, why: &Failure) -> Vec<String> {
    let mut lost = vec![
        format!("no mount namespace ({}): Landlock and the system call filter alone keep files \
                 from being changed; unix sockets and changes of permissions and times are refused \
                 everywhere", why.message),
        "no PID namespace: if this process is killed, what the command left in the background lives on"
            .to_owned(),
        "no IPC namespace: shared memory, semaphores and queues of System V and POSIX are refused"
            .to_owned(),
        match scratch {
            Some(path) => format!(
                "no private /tmp: the only place to write to is {}, whose size is not limited",
                Escaped::path(path)
            ),
            None => "no private /tmp, and none can be made in the host's: there is no place to write to"
                .to_owned(),
        },
    ];
    if !hidden(plan).is_empty() {
        lost.push(
            "no masks: what is hidden cannot be read, but names in it are seen, and what is \
                   made beside it from now on cannot be read either"
                .to_owned(),
        );
    }
    if !plan.mounts.targets.is_empty() {
        lost.push("no broker: no target can be made writable".to_owned());
    }
    if abi < ABI_OF_SIGNALS {
        lost.push(
            "no scope for signals (Landlock before Linux 6.12): other processes of this user \
                   can be signalled"
                .to_owned(),
        );
    }
    lost
}

/// What of the host is not to be read; the devices are granted one by one.
fn hidden(plan: &Plan) -> Vec<&Path> {
    let masks = plan.mounts.ops.iter().filter(|op| matches!(op.kind, OpKind::Mask(_)));
    let paths = masks.map(|op| op.dest.as_path());
    let paths = paths.filter(|path| !path.starts_with("/proc"));
    paths.chain(plan.audit.as_deref()).collect()
}

fn rules(plan: &Plan, files: &dyn Files, scratch: Option<&Path>) -> Vec<(PathBuf, Access)> {
    let mut hidden = hidden(plan);
    hidden.push(Path::new("/dev"));
    let mut readable = Vec::new();
    readable_in(Path::new("/"), &hidden, files, &mut readable);
    let mut rules = vec![(PathBuf::from("/"), Access::List)];
    rules.extend(readable.into_iter().map(|path| (path, Access::ReadExecute)));
    let devices = DEVICES.iter().map(|(name, _)| *name).chain(["ptmx", "pts/ptmx"]);
    rules.extend(devices.map(|name| (Path::new("/dev").join(name), Access::Device)));
    let terminal = plan.mounts.ops.iter().find_map(|op| match &op.kind {
        OpKind::Dev { terminal } => terminal.clone(),
        _ => None,
    });
    rules.extend(terminal.map(|path| (path, Access::Device)));
    rules.extend(scratch.map(|path| (path.to_owned(), Access::Full)));
    rules
}

/// The files and directories in `dir` in which nothing is hidden. Rules can only grant: what
/// holds something hidden is granted name by name.
fn readable_in(dir: &Path, hidden: &[&Path], files: &dyn Files, found: &mut Vec<PathBuf>) {
    let mut names = Vec::new();
    let listed = files.names(dir, usize::MAX, &mut |name| names.push(name.to_owned()));
    if listed.is_err() {
        // What cannot be listed now is not granted.
        return;
    }
    for path in names.into_iter().map(|name| dir.join(name)) {
        if hidden.contains(&path.as_path()) {
            continue;
        }
        if hidden.iter().any(|hidden| is_in(hidden, &path)) {
            readable_in(&path, hidden, files, found);
        } else {
            found.push(path);
        }
    }
}
