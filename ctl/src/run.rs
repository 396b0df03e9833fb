//! `rw NAME -- CMD`: writable while a command runs.

use super::cli::Broker;
use super::{Exit, Failure, change, complain, connect, held};
use crate::render;
use remount_broker::client::Client;
use remount_broker::name::{Mode, TargetName};
use remount_broker::proto::Selection;
use remount_broker::sys::process::leave_terminal_signals_to_the_command;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long to look whether the target is closed again, before it is said that it is not.
const CLOSING: Duration = Duration::from_millis(500);

/// Runs `command` with the targets writable. The lease is the connection: it ends with
/// this process, however that ends.
pub(super) fn while_writable(
    wanted: &Broker,
    targets: Selection,
    command: &[OsString],
) -> Result<Exit, Failure> {
    let mut way = connect(wanted)?;
    let reports = change(&mut way, held(targets))?;
    let names: Vec<_> = reports.into_iter().map(|report| report.name).collect();
    let exit = match run(command) {
        Ok(status) => Exit::Of(code(status)),
        Err(error) => {
            complain(&format!("run {}: {error}", render::os(&command[0])), None);
            Exit::Of(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
        }
    };
    drop(way);
    // What follows in a script must find it closed.
    wait_until_closed(&mut connect(wanted)?.client, &names)?;
    Ok(exit)
}

fn run(command: &[OsString]) -> io::Result<ExitStatus> {
    leave_terminal_signals_to_the_command().map_err(io::Error::from)?;
    Command::new(&command[0]).args(&command[1..]).spawn()?.wait()
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn wait_until_closed(client: &mut Client, names: &[TargetName]) -> Result<(), Failure> {
    let end = Instant::now() + CLOSING;
    loop {
        let status = client.status()?;
        let of_ours = status.targets.into_iter().filter(|it| names.contains(&it.name));
        let is_closing = |it: &remount_broker::proto::TargetReport| {
            it.mode == Mode::Rw && it.lease.as_ref().is_some_and(|lease| lease.closing)
        };
        let open: Vec<_> = of_ours.filter(is_closing).map(|it| it.name.to_string()).collect();
        if open.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            let names = open.join(", ");
            complain(
                &format!("{names}: still writable, since a file is open for writing"),
                Some("it becomes read-only as soon as that is closed"),
            );
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
