//! `remount-run`: starts an agent in a sandbox. Under the name `remountctl` it is the
//! client, so that one file is all a sandbox needs to see.

#![forbid(unsafe_code)]

use remount_launcher::{Failure, run, say};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if remount_launcher::is_called(&args, "remountctl") {
        return remount_ctl::main(args.into_iter());
    }
    match run(args) {
        Ok(code) => ExitCode::from(code),
        Err(Failure { code, message, hint }) => {
            say(&format!("remount-run: {message}"));
            if let Some(hint) = hint {
                say(&format!("hint: {hint}"));
            }
            ExitCode::from(code)
        }
    }
}
