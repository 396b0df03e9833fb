//! `remount-run`: starts an agent in a sandbox. Under the name `remountctl` it is the
//! client, so that one file is all a sandbox needs to see; under the name `bwrap` it takes
//! bubblewrap's options and does what bubblewrap does; in the place of a tool it is a shim.

#![forbid(unsafe_code)]

use remount_launcher::{Failure, run, say};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    if remount_launcher::is_called(&args, "remountctl") {
        return ExitCode::from(remount_ctl::main(args.into_iter()));
    }
    if remount_launcher::is_called(&args, "bwrap") {
        return remount_launcher::bwrap(args);
    }
    if args.get(1).is_some_and(|word| word == "--bwrap") {
        args.remove(1);
        return remount_launcher::bwrap(args);
    }
    // Under any other name: `remount-run` is nobody's shim, so that a start is not asked.
    if !remount_launcher::is_called(&args, "remount-run")
        && let Some(code) = remount_launcher::shim(&args)
    {
        return code;
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
