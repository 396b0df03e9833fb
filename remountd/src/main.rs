//! `remountd`: the standalone broker. See [`remount_broker::daemon`].

mod accounts;
mod cli;
mod config;
mod listen;
mod notify;
mod run;

use cli::Parsed;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match cli::parse(std::env::args_os()) {
        Parsed::Run(args) => run::run(&args),
        Parsed::Print(text) => {
            return match std::io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Parsed::Wrong(message) => {
            complain(&format!("{message}\nhint: 'remountd --help' shows the usage"));
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

/// Prints to standard error. If that fails too, the exit code has to do.
fn complain(message: &str) {
    drop(std::io::stderr().write_all(format!("remountd: {message}\n").as_bytes()));
}
