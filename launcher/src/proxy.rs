//! The filter of sockets: outside, in a process of its own, it lets of a Docker API through
//! what only reads.
//!
//! A process inside connects to a socket that init made; this process accepts, reads one
//! request, judges it ([`request`], [`api`]), writes one of its own making to the program
//! outside, and passes the answer on ([`relay`]). What was sent is never passed on itself.
//!
//! It is started only where a profile asks for it, has no capability and no file open but
//! its sockets, and its system call filter lets it make and use unix sockets and nothing
//! else. Whose rights count outside is the launcher's user.

mod api;
mod relay;
mod request;

use crate::confine;
use crate::enter::{EnterError, Step, die_with_parent};
use crate::front::say;
use crate::plan::Plan;
use crate::report::Link;
use relay::{Limits, Relay, Service};
use remount_broker::filter::relay_filter;
use remount_broker::sys::{process, seccomp};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, setrlimit};
use rustix::thread::CapabilitySet;
use std::os::fd::{AsFd, OwnedFd};

/// For two sockets of each connection, and what there is besides.
const DESCRIPTORS: u64 = 2 * Limits::ORDINARY.connections as u64 + 32;

/// Many times what all connections need; a fault in here is to end this process first.
const MEMORY: u64 = 1 << 30;

/// Hands over what init has made.
pub(crate) fn hand_over(filter: &Link, sockets: Vec<OwnedFd>) -> Result<(), Errno> {
    for socket in sockets {
        filter.send(b"L", Some(socket.as_fd()))?;
    }
    filter.send(b".", None)
}

/// Serves until init, at the other end of `link`, has ended; does not return.
pub(crate) fn run(plan: &Plan, link: Link) -> ! {
    let code = match serve(plan, &link) {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("remount-run: warning: no sockets are served: {error}"));
            1
        }
    };
    process::exit(code)
}

fn serve(plan: &Plan, link: &Link) -> Result<(), EnterError> {
    die_with_parent()?;
    process::close_all_but(&[link.as_fd()]).step("close descriptors")?;
    let mut services = Vec::with_capacity(plan.sockets.len());
    for socket in &plan.sockets {
        match link.receive().step("receive the sockets")? {
            (_, Some(listener)) => services.push(Service::new(listener, socket)),
            // The sandbox was not made, and why is told by who failed.
            (_, None) => return Ok(()),
        }
    }
    rustix::process::chdir("/").step("change to /")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .step("make the filter unreadable")?;
    for (resource, limit) in
        [(Resource::Nofile, DESCRIPTORS), (Resource::As, MEMORY), (Resource::Fsize, 0)]
    {
        let limit = Some(limit.min(rustix::process::getrlimit(resource).maximum.unwrap_or(limit)));
        setrlimit(resource, Rlimit { current: limit, maximum: limit }).step("set limits")?;
    }
    confine::limits()?;
    confine::reduce_capabilities(CapabilitySet::empty())?;
    if plan.filter.is_some() {
        seccomp::load(&relay_filter().compile()).step("load the filter's own filter")?;
    }
    Relay::new(services, Limits::ORDINARY).run(link.as_fd()).step("serve sockets")
}
