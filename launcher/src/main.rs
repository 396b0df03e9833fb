//! `remount-run`: starts an agent in a sandbox. Under the name `remountctl` it is the
//! client, so that one file is all a sandbox needs to see; under the name `bwrap` it takes
//! bubblewrap's options and does what bubblewrap does.

#![forbid(unsafe_code)]

use remount_launcher::{Failure, run, say};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    if remount_launcher::is_called(&args, "remountctl") {
        return remount_ctl::main(args.into_iter());
    }
    if remount_launcher::is_called(&args, "bwrap") {
        return remount_launcher::bwrap(args);
    }
    if args.get(1).is_some_and(|word| word == "--bwrap") {
        args.remove(1);
        return remount_launcher::bwrap(args);
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
