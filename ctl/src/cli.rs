//! The command line.

use crate::hook::Agent;
use crate::render;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use remount_broker::name::TargetName;
use remount_broker::proto::Wish;
use std::ffi::OsString;

/// Switch a sandbox's directories between read-only and read-write
#[derive(Debug, Parser)]
#[command(
    name = "remountctl",
    version,
    disable_help_subcommand = true,
    subcommand_negates_reqs = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or unknown target, 3 busy, 4 no broker,\n\
                  5 not authorised, 6 stale"
)]
struct Typed {
    /// Print nothing on success
    #[arg(short, long, global = true)]
    quiet: bool,
    /// The same as the command 'list'
    #[arg(long, required = true)]
    list: bool,
    #[command(subcommand)]
    command: Option<TypedCommand>,
}

#[derive(Debug, Subcommand)]
enum TypedCommand {
    /// Make targets read-only
    Ro(Which),
    /// Make targets writable
    Rw(Which),
    /// Give each target the mode it does not have
    Toggle(Which),
    /// Show the targets
    List,
    /// Show what sandboxes that were killed have left in projects (outside only)
    Doctor {
        /// Remove it
        #[arg(long)]
        clean: bool,
    },
    /// Show the targets and their state
    Status {
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Let an agent's planning mode make the targets read-only
    ///
    /// Agents call it, with an event on standard input. Exit code 2: the tool must not run.
    Hook(TypedHook),
}

#[derive(Debug, clap::Args)]
struct TypedHook {
    /// claude, codex, gemini, generic, opencode or qwen
    agent: Agent,
    /// The agent is in this mode; nothing is read
    #[arg(long)]
    mode: Option<String>,
    /// Show what to add to the agent's configuration, and where
    #[arg(long, conflicts_with_all = ["mode", "install", "uninstall"])]
    print: bool,
    /// Add it; a copy of the file before is kept beside it
    #[arg(long, conflicts_with_all = ["mode", "uninstall"])]
    install: bool,
    /// Take it out again
    #[arg(long, conflicts_with = "mode")]
    uninstall: bool,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// A target's name
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<TargetName>,
    /// Every target of the sandbox
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) quiet: bool,
    pub(crate) command: Command,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Set(Wish, Scope),
    List,
    Status { json: bool },
    Doctor { clean: bool },
    Hook(Agent, HookAction),
}

/// What is to be done about an agent's hooks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HookAction {
    /// Be one; in the mode that is named, else the event says it.
    Run(Option<String>),
    Print,
    Install,
    Uninstall,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Named(Vec<TargetName>),
    All,
}

/// What a command line comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Run(Args),
    /// Help or version.
    Print(String),
    /// What is wrong with it, fit for a terminal.
    Wrong(String),
}

pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Parsed {
    match Typed::try_parse_from(args) {
        Ok(typed) => Parsed::Run(typed.resolve()),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Parsed::Print(error.to_string()),
            ErrorKind::MissingRequiredArgument if error.to_string().contains("--list") => {
                Parsed::Wrong(
                    "a command is missing: ro, rw, toggle, list, status or doctor".to_owned(),
                )
            }
            _ => Parsed::Wrong(one_line(&error.to_string())),
        },
    }
}

/// The message that clap prints over several lines, with arguments as they came: what is
/// wrong, on one line and escaped.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let text = text.split("\n\n").next().unwrap_or(text);
    let lines: Vec<_> = text.lines().map(|line| render::line(line.trim())).collect();
    lines.join(" ")
}

impl Typed {
    fn resolve(self) -> Args {
        let set = |wish, which: Which| {
            let scope = if which.all { Scope::All } else { Scope::Named(which.names) };
            Command::Set(wish, scope)
        };
        let command = match self.command {
            Some(TypedCommand::Ro(which)) => set(Wish::Ro, which),
            Some(TypedCommand::Rw(which)) => set(Wish::Rw, which),
            Some(TypedCommand::Toggle(which)) => set(Wish::Toggle, which),
            Some(TypedCommand::Status { json }) => Command::Status { json },
            Some(TypedCommand::Hook(hook)) => {
                let action = match hook {
                    TypedHook { print: true, .. } => HookAction::Print,
                    TypedHook { install: true, .. } => HookAction::Install,
                    TypedHook { uninstall: true, .. } => HookAction::Uninstall,
                    TypedHook { mode, .. } => HookAction::Run(mode),
                };
                Command::Hook(hook.agent, action)
            }
            Some(TypedCommand::Doctor { clean }) => Command::Doctor { clean },
            Some(TypedCommand::List) | None => Command::List,
        };
        Args { quiet: self.quiet, command }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn words(line: &[&str]) -> Parsed {
        parse(std::iter::once("remountctl").chain(line.iter().copied()).map(OsString::from))
    }

    fn run(line: &[&str]) -> Args {
        match words(line) {
            Parsed::Run(args) => args,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn named(names: &[&str]) -> Scope {
        Scope::Named(names.iter().map(|name| name.parse().unwrap()).collect())
    }

    #[test]
    fn commands() {
        for (line, command) in [
            (&["ro", "a"][..], Command::Set(Wish::Ro, named(&["a"]))),
            (&["rw", "a", "b"], Command::Set(Wish::Rw, named(&["a", "b"]))),
            (&["toggle", "--all"], Command::Set(Wish::Toggle, Scope::All)),
            (&["list"], Command::List),
            (&["--list"], Command::List),
            (&["status"], Command::Status { json: false }),
            (&["status", "--json"], Command::Status { json: true }),
            (&["doctor"], Command::Doctor { clean: false }),
            (&["doctor", "--clean"], Command::Doctor { clean: true }),
        ] {
            assert_eq!(run(line), Args { quiet: false, command });
        }
        assert!(run(&["-q", "ro", "a"]).quiet);
        assert!(run(&["ro", "a", "--quiet"]).quiet);
    }

    #[test]
    fn help_and_version_are_printed() {
        for line in [&["--help"][..], &["-h"], &["ro", "--help"], &["--version"], &["-V"]] {
            assert!(matches!(words(line), Parsed::Print(_)), "{line:?}");
        }
    }

    #[test]
    fn wrong_usage_is_one_clean_line() {
        for line in [
            &[][..],
            &["-q"],
            &["ro"],
            &["ro", "--all", "a"],
            &["rx", "a"],
            &["ro", "a", "--for"],
            &["ro", "A"],
            &["ro", "a b"],
            &["ro", "\u{1b}[2Jx"],
            &["ro", "a\nhint: do as I say"],
            &["\u{1b}]0;x\u{7}"],
            &["--\u{9b}x"],
            &["list", "x"],
            &["status", "--json=1"],
            &["ro", ""],
        ] {
            let Parsed::Wrong(message) = words(line) else { panic!("{line:?}") };
            assert!(!message.is_empty(), "{line:?}");
            assert!(!message.contains(char::is_control), "{line:?}: {message:?}");
        }
        let bytes = [&b"remountctl"[..], b"ro", b"\xff\x1b"];
        let args = bytes.into_iter().map(|arg| OsString::from_vec(arg.to_vec()));
        assert!(matches!(parse(args), Parsed::Wrong(_)));
    }
}
