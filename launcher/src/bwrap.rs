//! Under the name `bwrap`: bubblewrap 0.11.1's command line, semantics and messages.
//!
//! ```text
//! monitor ── init (PID 1, if the PID namespace is new) ── command
//! ```
//!
//! Only what bubblewrap does is done: Landlock, a filter, masks and protections only if a profile
//! is named, a broker only if there are targets. What its callers see (descriptors, documents, exit codes, messages) is the same; the file
//! tree is built by the same calls as that of a profile.

mod caps;
mod child;
mod command;
mod cover;
mod environment;
mod error;
mod fds;
mod hold;
mod keeper;
mod labels;
mod landlock;
mod members;
mod monitor;
mod narrow;
mod options;
mod parse;
mod place;
mod request;
mod seccomp;
mod serve;
mod source;
mod status;
mod toggle;
mod tree;

use crate::plan::Identity;
use crate::profile::BwrapPolicy;
use error::{Die, OrDie, Result};
use parse::Parsed;
use remount_broker::host::Places;
use request::Request;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// The version that this behaves as: callers look for it.
const VERSION: &str = "bubblewrap 0.11.1\n";

/// Does what a command line of bubblewrap says, program name first.
pub fn bwrap(words: Vec<OsString>) -> ExitCode {
    match front(words) {
        Ok(code) => code,
        Err(die) => {
            die.print();
            ExitCode::FAILURE
        }
    }
}

fn front(mut words: Vec<OsString>) -> Result<ExitCode> {
    let program = if words.is_empty() { OsString::new() } else { words.remove(0) };
    if words.len() == 1 && words[0] == "--version" {
        return Ok(print(VERSION));
    }
    let uid = rustix::process::getuid();
    if uid != rustix::process::geteuid() {
        return Err(Die::new("remount-run does not run setuid: take the bit from its file"));
    }
    rustix::thread::set_no_new_privs(true).or_die(|| "prctl(PR_SET_NO_NEW_PRIVS) failed")?;
    let gid = rustix::process::getgid();
    let caller = Identity { uid: uid.as_raw(), gid: gid.as_raw() };
    let usage = || options::usage(&program.to_string_lossy());
    let no_command = || {
        // Nobody to tell if this fails.
        drop(std::io::stderr().write_all(usage().as_bytes()));
        Ok(ExitCode::FAILURE)
    };
    if words.is_empty() {
        return no_command();
    }
    let mut request = match parse::parse(words, caller)? {
        Parsed::Help => return Ok(print(&usage())),
        Parsed::Version => return Ok(print(VERSION)),
        Parsed::Request(request) => request,
    };
    check_namespaces(&mut request, uid.is_root())?;
    if request.command.is_empty() {
        return no_command();
    }
    check_identity(&request)?;
    let policy = BwrapPolicy::read(uid.as_raw()).map_err(|error| Die::new(error.to_string()))?;
    narrow::settle(&mut request, policy.profile)?;
    let unshare = &mut request.unshare;
    let has_cgroups = || std::fs::exists("/proc/self/ns/cgroup").unwrap_or(false);
    if unshare.cgroup && !has_cgroups() {
        let text = "Cannot create new cgroup namespace because the kernel does not support it";
        return Err(Die::new(text));
    }
    unshare.cgroup = unshare.cgroup || (unshare.cgroup_try && has_cgroups());
    let places = Places::here();
    request.hold = hold::read(places.as_ref())?;
    toggle::settle(&mut request, &policy.toggles, places)?;
    monitor::start(&request)
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Refuses namespaces that do not go together, and settles which are to be new.
fn check_namespaces(request: &mut Request, root: bool) -> Result<()> {
    let Request { unshare, userns, userns_block_fd, info_fd, disable_userns, .. } = request;
    let (joined, blocked) = (userns.is_some(), userns_block_fd.is_some());
    for (wrong, text) in [
        (blocked && !unshare.user, "--userns-block-fd requires --unshare-user"),
        (blocked && info_fd.is_none(), "--userns-block-fd requires --info-fd"),
        (joined && unshare.user, "--userns not compatible --unshare-user"),
        (joined && unshare.user_try, "--userns not compatible --unshare-user-try"),
        (*disable_userns && !unshare.user, "--disable-userns requires --unshare-user"),
        (*disable_userns && blocked, "--disable-userns is not compatible with  --userns-block-fd"),
    ] {
        if wrong {
            return Err(Die::new(text));
        }
    }
    // Nobody else may mount anything.
    if !root && !joined {
        unshare.user = true;
    }
    if unshare.user_try && !unshare.user {
        unshare.user = has_user_namespaces();
    }
    Ok(())
}

/// Whether this host has user namespaces, for root.
fn has_user_namespaces() -> bool {
    let setting = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    std::fs::exists("/proc/self/ns/user").unwrap_or(false)
        && !setting("/sys/module/user_namespace/parameters/enable").starts_with('N')
        && setting("/proc/sys/user/max_user_namespaces") != "0\n"
}

/// Refuses what needs a namespace that is not new.
fn check_identity(request: &Request) -> Result<()> {
    let unshare = &request.unshare;
    let other = unshare.user || request.userns.is_some();
    let Identity { uid, gid } = request.caller;
    for (wrong, text) in [
        (
            !other && request.uid.is_some_and(|wanted| wanted != uid),
            "Specifying --uid requires --unshare-user or --userns",
        ),
        (
            !other && request.gid.is_some_and(|wanted| wanted != gid),
            "Specifying --gid requires --unshare-user or --userns",
        ),
        (
            !unshare.uts && request.hostname.is_some(),
            "Specifying --hostname requires --unshare-uts",
        ),
        (request.as_pid_1 && !unshare.pid, "Specifying --as-pid-1 requires --unshare-pid"),
        (
            request.as_pid_1 && !request.lock_files.is_empty(),
            "Specifying --as-pid-1 and --lock-file is not permitted",
        ),
    ] {
        if wrong {
            return Err(Die::new(text));
        }
    }
    Ok(())
}
