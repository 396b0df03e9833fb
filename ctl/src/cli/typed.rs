//! The command line as it is typed: what clap reads, and what that comes to.

use super::{Args, Broker, Command, HookAction, Show};
use crate::hook::Agent;
use crate::render;
use clap::{Parser, Subcommand};
use remount_broker::name::TargetName;
use remount_broker::proto::{
    Answer, Decision, OnBusy, PathClaim, Selection, SetRequest, Term, Wish,
};
use remount_broker::time::parse as duration;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Switch a sandbox's directories between read-only and read-write
#[derive(Debug, Default, Parser)]
#[cfg_attr(test, derive(PartialEq))]
#[command(
    name = "remountctl",
    version,
    disable_help_subcommand = true,
    subcommand_negates_reqs = true,
    after_help = "DURATION: 500ms, 30s, 30m, 2h, 1h30m; a plain number is in seconds\n\
                  Exit codes: 0 done, 1 failed, 2 usage or unknown target, 3 busy, 4 no broker,\n\
                  5 not authorised, 6 stale; of 'rw NAME -- CMD' those of CMD"
)]
pub(super) struct Typed {
    /// Print nothing on success
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Outside: the sandbox with this id, or that was started in this directory
    #[arg(short, long, global = true, value_name = "ID|DIR")]
    pub(super) sandbox: Option<OsString>,
    /// The broker that listens at this socket
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "sandbox")]
    pub(super) socket: Option<PathBuf>,
    /// The remountd whose configuration this is, for the socket named in it
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["sandbox", "socket"])]
    pub(super) config: Option<PathBuf>,
    /// Outside, of remountd: the sandbox that this process of yours is in
    #[arg(long, global = true, value_name = "PID", conflicts_with = "sandbox")]
    pub(super) pid: Option<u32>,
    /// The same as the command 'list'
    #[arg(long, required = true)]
    pub(super) list: bool,
    #[command(subcommand)]
    pub(super) command: Option<TypedCommand>,
}

// Deferred: of all commands only the one that is meant is put together, which takes more time
// than all else before the request is sent.
#[derive(Debug, Subcommand)]
#[cfg_attr(test, derive(PartialEq))]
#[command(defer = true)]
pub(super) enum TypedCommand {
    /// Make targets read-only
    Ro {
        #[command(flatten)]
        which: WhichToClose,
        /// Outside: hold DIR read-only in every sandbox of yours, now and later, until 'rw
        /// --path'; of those that run, in all that bwrap or remount-run started
        #[arg(long, value_name = "DIR", conflicts_with_all = ["names", "all", "everywhere", "sandbox"])]
        path: Option<PathBuf>,
        #[command(flatten)]
        busy: BusyArgs,
    },
    /// Make targets writable
    Rw {
        #[command(flatten)]
        which: WhichToOpen,
        /// Outside: hold DIR no longer
        #[arg(long, value_name = "DIR", conflicts_with_all = ["names", "all", "sandbox", "lease", "run"])]
        path: Option<PathBuf>,
        /// Until this time has passed
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        lease: Option<Duration>,
        /// As long as this command runs; its exit code is the result
        #[arg(last = true, value_name = "CMD", conflicts_with = "lease")]
        run: Vec<OsString>,
    },
    /// Give each target the mode it does not have
    Toggle {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        busy: BusyArgs,
    },
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
        /// Again whenever something has changed, until interrupted
        #[arg(long)]
        watch: bool,
        /// For each target a line of this form, with {name}, {mode}, {state}, {authority},
        /// {path}, {left} (time left), {sandbox} and {pending} (requests that wait);
        /// 'statusline': all of them in a few words, and nothing outside of a sandbox
        #[arg(long, value_name = "TEXT", conflicts_with = "json", value_parser = format)]
        format: Option<String>,
    },
    /// Show which processes keep targets from becoming read-only
    Holders {
        #[command(flatten)]
        which: Which,
        /// As one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what decides whether PATH can be written, and how to change that
    Why {
        /// A path in the sandbox
        path: PathBuf,
    },
    /// Outside: allow a request that waits
    Approve {
        /// Its number
        id: u64,
    },
    /// Outside: refuse a request that waits
    Deny {
        /// Its number
        id: u64,
    },
    /// Outside: show your sandboxes
    Ps {
        /// As JSON, one line for each
        #[arg(long)]
        json: bool,
    },
    /// Outside: show what happened in a sandbox
    Events {
        /// Go on as it happens
        #[arg(short, long)]
        follow: bool,
        /// As JSON, one line for each
        #[arg(long)]
        json: bool,
    },
    /// Outside: show what happened, also in sandboxes that have ended
    Log {
        /// The id of a sandbox, or its beginning
        id: Option<String>,
        /// As JSON, one line for each
        #[arg(long)]
        json: bool,
    },
    /// Let an agent's planning mode make the targets read-only
    ///
    /// Agents call it, with an event on standard input. Exit code 2: the tool must not run.
    Hook(TypedHook),
}

#[derive(Debug, clap::Args)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct TypedHook {
    /// claude, codex, gemini, generic, opencode or qwen
    pub(super) agent: Agent,
    /// The agent is in this mode; nothing is read
    #[arg(long)]
    pub(super) mode: Option<String>,
    /// Show what to add to the agent's configuration, and where
    #[arg(long, conflicts_with_all = ["mode", "install", "uninstall"])]
    pub(super) print: bool,
    /// Add it; a copy of the file before is kept beside it
    #[arg(long, conflicts_with_all = ["mode", "uninstall"])]
    pub(super) install: bool,
    /// Take it out again
    #[arg(long, conflicts_with = "mode")]
    pub(super) uninstall: bool,
}

#[derive(Debug, clap::Args)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct Which {
    /// A target's name; last, an absolute PATH: of remountd, a mount below that target
    #[arg(value_name = "NAME", required_unless_present = "all", value_parser = word)]
    pub(super) names: Vec<Word>,
    /// Every target of the sandbox
    #[arg(long, conflicts_with = "names")]
    pub(super) all: bool,
}

#[derive(Debug, clap::Args)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct WhichToOpen {
    /// A target's name; last, an absolute PATH: of remountd, a mount below that target
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "path"], value_parser = word)]
    pub(super) names: Vec<Word>,
    /// Every target of the sandbox
    #[arg(long, conflicts_with = "names")]
    pub(super) all: bool,
}

#[derive(Debug, clap::Args)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct WhichToClose {
    /// A target's name; last, an absolute PATH: of remountd, a mount below that target
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "everywhere", "path"], value_parser = word)]
    pub(super) names: Vec<Word>,
    /// Every target of the sandbox
    #[arg(long, conflicts_with = "names")]
    pub(super) all: bool,
    /// Outside: every target of every sandbox of yours
    #[arg(long, conflicts_with_all = ["names", "all", "sandbox"])]
    pub(super) everywhere: bool,
}

#[derive(Debug, Default, clap::Args)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct BusyArgs {
    /// If a file is open for writing, wait until it is closed, at most this long
    #[arg(long, value_name = "DURATION", conflicts_with = "kill", value_parser = duration)]
    pub(super) wait: Option<Duration>,
    /// If a file is open for writing, end the processes of the sandbox that have it open
    #[arg(long)]
    pub(super) kill: bool,
    /// With --kill: the time between SIGTERM and SIGKILL (2s)
    #[arg(long, value_name = "DURATION", requires = "kill", value_parser = duration)]
    pub(super) grace: Option<Duration>,
    /// With --kill: end also the process that asks, or one that started it
    #[arg(long, requires = "kill")]
    pub(super) force: bool,
    /// If a file is open for writing, do not wait, whatever the profile says
    #[arg(long, conflicts_with_all = ["wait", "kill"])]
    pub(super) no_wait: bool,
}

impl BusyArgs {
    fn resolve(&self) -> Option<OnBusy> {
        let grace = self.grace.unwrap_or(Duration::from_secs(2));
        match self.wait {
            Some(time) => Some(OnBusy::Wait(time)),
            None if self.kill => Some(OnBusy::Kill { grace, force: self.force }),
            None => self.no_wait.then_some(OnBusy::Fail),
        }
    }
}

/// What can stand where targets are named.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) enum Word {
    Name(TargetName),
    Path(String),
}

pub(super) fn word(text: &str) -> Result<Word, remount_broker::name::BadName> {
    if text.starts_with('/') {
        return Ok(Word::Path(text.to_owned()));
    }
    text.parse().map(Word::Name)
}

/// The format that is not a text with fields.
const STATUSLINE: &str = "statusline";

/// Refuses a field that there is not.
pub(super) fn format(text: &str) -> Result<String, String> {
    for part in text.split('{').skip(1) {
        let field = part.split_once('}').map(|(field, _)| field);
        if !field.is_some_and(|field| render::FIELDS.contains(&field)) {
            return Err(format!("fields are {{{}}}", render::FIELDS.join("}, {")));
        }
    }
    Ok(text.to_owned())
}

impl Which {
    fn resolve(self) -> Selection {
        if self.all { Selection::All } else { Selection::Named(self.targets()) }
    }

    fn targets(&self) -> Vec<TargetName> {
        let name = |word: &Word| match word {
            Word::Name(name) => Some(name.clone()),
            Word::Path(_) => None,
        };
        self.names.iter().filter_map(name).collect()
    }

    /// The path, and whether words are where they belong: one name and one path, or no path.
    fn path(&self) -> Result<Option<PathClaim>, String> {
        match &self.names[..] {
            [Word::Name(_), Word::Path(path)] => Ok(Some(PathClaim::exact(path))),
            words if words.iter().any(|word| matches!(word, Word::Path(_))) => {
                Err("a PATH stands after one NAME".to_owned())
            }
            _ => Ok(None),
        }
    }
}

impl Typed {
    pub(super) fn resolve(self) -> Result<Args, String> {
        let Self { quiet, sandbox, socket, config, pid, command, .. } = self;
        let broker = Broker { sandbox, socket, config, pid };
        let command = command.map_or(Ok(Command::List), TypedCommand::resolve)?;
        Ok(Args { quiet, broker, command })
    }
}

impl TypedCommand {
    fn resolve(self) -> Result<Command, String> {
        let set = |wish, which: Which, busy: Option<OnBusy>, lease: Option<Duration>| {
            let (lease, path) = (lease.map(Term::For), which.path()?);
            let request = SetRequest::new(which.resolve(), wish);
            Ok::<_, String>(Command::Set(SetRequest { busy, lease, path, ..request }))
        };
        // Where a PATH has no meaning.
        let named = |which: Which| match which.path()? {
            None => Ok(which.resolve()),
            Some(_) => Err("a PATH stands after 'ro NAME', 'rw NAME' or 'toggle NAME'".to_owned()),
        };
        let decide = |id, verdict| Command::Decide(Decision { id, verdict });
        Ok(match self {
            Self::Ro { path: Some(path), .. } => Command::Hold { path, wish: Wish::Ro },
            Self::Rw { path: Some(path), .. } => Command::Hold { path, wish: Wish::Rw },
            Self::Ro { which: WhichToClose { everywhere: true, .. }, busy, .. } => {
                Command::RoEverywhere(busy.resolve())
            }
            Self::Ro { which: WhichToClose { names, all, .. }, busy, .. } => {
                set(Wish::Ro, Which { names, all }, busy.resolve(), None)?
            }
            Self::Rw { which: WhichToOpen { names, all }, lease, run, .. } => {
                let which = Which { names, all };
                match run.is_empty() {
                    true => set(Wish::Rw, which, None, lease)?,
                    false => Command::While(named(which)?, run),
                }
            }
            Self::Toggle { which, busy } => set(Wish::Toggle, which, busy.resolve(), None)?,
            Self::Status { json, watch, format } => {
                let show = match format {
                    Some(format) if format == STATUSLINE => Show::Statusline,
                    Some(format) => Show::Format(format),
                    None if json => Show::Json,
                    None => Show::Table,
                };
                Command::Status { show, watch }
            }
            Self::Holders { which, json } => Command::Holders { which: named(which)?, json },
            Self::Why { path } => Command::Why(path),
            Self::Approve { id } => decide(id, Answer::Approve),
            Self::Deny { id } => decide(id, Answer::Deny),
            Self::Ps { json } => Command::Ps { json },
            Self::Events { follow, json } => Command::Events { follow, json },
            Self::Log { id, json } => Command::Log { id, json },
            Self::Hook(hook) => {
                let action = match hook {
                    TypedHook { print: true, .. } => HookAction::Print,
                    TypedHook { install: true, .. } => HookAction::Install,
                    TypedHook { uninstall: true, .. } => HookAction::Uninstall,
                    TypedHook { mode, .. } => HookAction::Run(mode),
                };
                Command::Hook(hook.agent, action)
            }
            Self::Doctor { clean } => Command::Doctor { clean },
            Self::List => Command::List,
        })
    }
}
