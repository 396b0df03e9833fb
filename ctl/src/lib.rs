//! The program `remountctl`, as a function: the launcher is one file with it inside a
//! sandbox, and calls it under that name.
//!
//! Programs that want to switch targets themselves use [`remount_broker::client`].

mod cli;
mod doctor;
mod hook;
mod render;

use cli::{Args, Command, HookAction, Scope};
use hook::Agent;
use remount_broker::channel::NoBroker;
use remount_broker::client::{Client, ClientError};
use remount_broker::proto::{BadReply, ErrorCode, TargetReport, Wish};
use remount_broker::reason::IoReason;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

/// How it ended, as a number that scripts decide by (DESIGN.md §10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Done = 0,
    Failed = 1,
    /// Wrong usage, or no such target.
    Usage = 2,
    Busy = 3,
    NoBroker = 4,
    NotAuthorised = 5,
    Stale = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs `remountctl` with the whole command line, the program's name first. Prints to
/// standard output and error; does not exit the process.
#[must_use]
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let exit = match cli::parse(args) {
        cli::Parsed::Run(args) => run(&args),
        cli::Parsed::Print(text) => print(&text),
        cli::Parsed::Wrong(message) => {
            complain(&message, Some("'remountctl --help' shows the usage"));
            Exit::Usage
        }
    };
    exit.into()
}

fn run(args: &Args) -> Exit {
    if let Command::Hook(agent, action) = &args.command {
        return hook(*agent, action);
    }
    if let Command::Doctor { clean } = args.command {
        return doctor::run(clean, args.quiet);
    }
    match ask(&args.command) {
        Ok(text) if args.quiet => {
            drop(text);
            Exit::Done
        }
        // The mode has changed whether or not anyone can read of it.
        Ok(text) if matches!(args.command, Command::Set(..)) => {
            print(&text);
            Exit::Done
        }
        Ok(text) => print(&text),
        Err(error) => {
            let (exit, hint) = explain(&error);
            complain(&render::line(&error.to_string()), hint.as_deref());
            exit
        }
    }
}

/// Does it, and gives what there is to print.
fn ask(command: &Command) -> Result<String, ClientError> {
    let mut client = Client::connect()?;
    match command {
        Command::Set(wish, scope) => Ok(render::modes(&set(&mut client, *wish, scope)?)),
        // Asks no broker: handled before.
        Command::Doctor { .. } => Ok(String::new()),
        Command::List => Ok(render::table(&client.list()?)),
        Command::Status { json: false } => Ok(render::status(&client.status()?)),
        Command::Hook(..) => Ok(String::new()),
        Command::Status { json: true } => render::json(&client.status()?)
            .map_err(|error| ClientError::BadReply(BadReply(error.to_string()))),
    }
}

fn set(client: &mut Client, wish: Wish, scope: &Scope) -> Result<Vec<TargetReport>, ClientError> {
    match scope {
        Scope::All => client.set_all(wish),
        Scope::Named(names) => client.set(names, wish),
    }
}

/// Is a hook, or configures one.
fn hook(agent: Agent, action: &HookAction) -> Exit {
    let result = match action {
        HookAction::Run(mode) => return answer(hook::run(agent, mode.as_deref())),
        HookAction::Print => hook::print(agent),
        HookAction::Install => hook::install(agent),
        HookAction::Uninstall => hook::uninstall(agent),
    };
    match result {
        Ok(text) => print(&text),
        Err(message) => {
            complain(&message, None);
            Exit::Failed
        }
    }
}

/// Answers as agents understand it: what is denied is denied by exit code 2.
fn answer(answer: hook::Answer) -> Exit {
    match answer {
        hook::Answer::Nothing => Exit::Done,
        hook::Answer::Tell(text) => print(&format!("{text}\n")),
        hook::Answer::Deny(text) => {
            complain(&text, None);
            Exit::Usage
        }
        hook::Answer::Failed(text) => {
            complain(&text, None);
            Exit::Failed
        }
    }
}

/// The exit code of a failure, and what the person can do about it.
fn explain(error: &ClientError) -> (Exit, Option<String>) {
    match error {
        ClientError::NoBroker(NoBroker { .. }) => {
            let hint = "this works in a sandbox that remount-run started with targets";
            (Exit::NoBroker, Some(hint.to_owned()))
        }
        ClientError::Refused(refusal) => {
            let exit = match refusal.error {
                ErrorCode::Busy => Exit::Busy,
                ErrorCode::UnknownTarget | ErrorCode::BadRequest => Exit::Usage,
                ErrorCode::NotAuthorised => Exit::NotAuthorised,
                ErrorCode::Stale => Exit::Stale,
                ErrorCode::Failed => Exit::Failed,
            };
            (exit, refusal.hint.as_deref().map(render::line))
        }
        ClientError::TooLong => (Exit::Usage, Some("use --all, or fewer names".to_owned())),
        ClientError::TimedOut => {
            (Exit::Failed, Some("'remountctl list' shows what became of it".to_owned()))
        }
        ClientError::Closed | ClientError::Transport(_) | ClientError::BadReply(_) => {
            (Exit::Failed, None)
        }
    }
}

/// Prints to standard output. A reader that has gone away (`| head -1`) has what it
/// wanted; any other failure is one.
fn print(text: &str) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("write to standard output: {}", IoReason(&error)), None);
            Exit::Failed
        }
        _ => Exit::Done,
    }
}

/// Prints to standard error. If that fails too, the exit code has to do.
fn complain(message: &str, hint: Option<&str>) {
    let mut text = format!("remountctl: {message}\n");
    if let Some(hint) = hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    drop(io::stderr().write_all(text.as_bytes()));
}
