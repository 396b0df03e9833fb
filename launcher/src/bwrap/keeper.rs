//! What stands in for protected paths that do not exist, for as long as a sandbox needs it.
//!
//! The process that was called may be killed at any time, and may end before the sandbox does. So
//! a process of its own, which no signal of the terminal reaches, waits for the sandbox's end.

use super::error::{OrDie, Result};
use super::narrow::{Narrowing, die};
use remount_broker::placeholder::{Placeholders, Store};
use remount_broker::sys::process::{self, Fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::AsFd;

/// Makes what the profile needs; `None` if that is nothing.
pub(super) fn make(narrowing: Option<&Narrowing>) -> Result<Option<Placeholders>> {
    let Some(narrowing) = narrowing.filter(|narrowing| !narrowing.placeholders.is_empty()) else {
        return Ok(None);
    };
    let made = Store::create(&narrowing.records).and_then(|it| it.make(&narrowing.placeholders));
    made.map(Some).map_err(|error| die(&error, error.hint()))
}

/// Removes them when `child` has ended: init and so all of the sandbox, or the command if there
/// is no init.
pub(super) fn leave(placeholders: Placeholders, child: Pid) -> Result<()> {
    let end = pidfd_open(child, PidfdFlags::empty()).or_die(|| "pidfd_open()")?;
    let Fork::Parent(_) = process::fork().or_die(|| "Can't fork for --profile")? else {
        let own: Vec<_> = placeholders.descriptors().chain([end.as_fd()]).collect();
        let alone = process::close_all_but(&own).and_then(|()| rustix::process::setsid());
        while let Err(Errno::INTR) = poll(&mut [PollFd::new(&end, PollFlags::IN)], None) {}
        // What cannot be removed is recorded, and tried again by the next start.
        process::exit(match alone.is_ok() && placeholders.remove().is_ok() {
            true => 0,
            false => 1,
        });
    };
    Ok(())
}
