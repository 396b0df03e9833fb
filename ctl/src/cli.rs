//! The command line.

mod quick;
#[cfg(test)]
mod tests;
mod typed;

use crate::hook::Agent;
use clap::Parser;
use clap::error::ErrorKind;
use remount_broker::escape::told_by_clap;
use remount_broker::proto::{Decision, OnBusy, Selection, SetRequest, Wish};
use std::ffi::OsString;
use std::path::PathBuf;
use typed::Typed;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) quiet: bool,
    pub(crate) broker: Broker,
    pub(crate) command: Command,
}

/// Which broker is meant.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Broker {
    /// The sandbox with this id or directory.
    pub(crate) sandbox: Option<OsString>,
    /// The broker that listens here.
    pub(crate) socket: Option<PathBuf>,
    /// The remountd of which this is the configuration.
    pub(crate) config: Option<PathBuf>,
    /// Of remountd: the sandbox of this process.
    pub(crate) pid: Option<u32>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Set(SetRequest),
    /// `rw … -- CMD`.
    While(Selection, Vec<OsString>),
    RoEverywhere(Option<OnBusy>),
    /// `ro --path` and `rw --path`.
    Hold {
        path: PathBuf,
        wish: Wish,
    },
    List,
    Status {
        show: Show,
        watch: bool,
    },
    Holders {
        which: Selection,
        json: bool,
    },
    Why(PathBuf),
    Decide(Decision),
    Ps {
        json: bool,
    },
    Events {
        follow: bool,
        json: bool,
    },
    Log {
        id: Option<String>,
        json: bool,
    },
    Doctor {
        clean: bool,
    },
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

/// How a status is printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Show {
    Table,
    Json,
    Format(String),
    /// A few words for the status line of an agent.
    Statusline,
}

/// What a command line comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Run(Args),
    /// Help or version.
    Print(String),
    /// What is wrong with it, and what may have been meant, fit for a terminal.
    Wrong(String, Option<String>),
}

pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Parsed {
    let words: Vec<_> = args.collect();
    match quick::parse(&words).map_or_else(|| Typed::try_parse_from(&words), Ok) {
        Ok(typed) => {
            typed.resolve().map_or_else(|message| Parsed::Wrong(message, None), Parsed::Run)
        }
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Parsed::Print(error.to_string()),
            ErrorKind::MissingRequiredArgument if error.to_string().contains("--list") => {
                let message = "a command is missing: ro, rw, toggle, list, status or doctor";
                Parsed::Wrong(message.to_owned(), None)
            }
            _ => {
                let (message, hint) = told_by_clap(&error.to_string());
                Parsed::Wrong(message, hint)
            }
        },
    }
}
