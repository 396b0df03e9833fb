//! `remountd`: the standalone broker. See [`remount_broker::daemon`].

mod accounts;
mod cli;
mod config;
mod listen;
mod notify;
mod run;

use anyhow::{Result, bail};
use cli::Parsed;
use remount_broker::reason::IoReason;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match cli::parse(std::env::args_os()) {
        Parsed::Run(args) => run::run(&args),
        Parsed::Print(text) => print(&text),
        Parsed::Wrong(message, hint) => {
            let hint = hint.as_deref().unwrap_or("'remountd --help' shows the usage");
            complain(&format!("{message}\nhint: {hint}"));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints to standard output; who reads no more of it wants no more.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            bail!("write to standard output: {}", IoReason(&error))
        }
        _ => Ok(()),
    }
}

/// Prints to standard error. If that fails too, the exit code has to do.
fn complain(message: &str) {
    drop(std::io::stderr().write_all(format!("remountd: {message}\n").as_bytes()));
}
