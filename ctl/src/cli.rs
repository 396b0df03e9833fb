//! The command line.

use crate::hook::Agent;
use crate::render;
use clap::error::ErrorKind;
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
#[derive(Debug, Parser)]
#[command(
    name = "remountctl",
    version,
    disable_help_subcommand = true,
    subcommand_negates_reqs = true,
    after_help = "DURATION: 500ms, 30s, 30m, 2h, 1h30m; a plain number is in seconds\n\
                  Exit codes: 0 done, 1 failed, 2 usage or unknown target, 3 busy, 4 no broker,\n\
                  5 not authorised, 6 stale; of 'rw NAME -- CMD' those of CMD"
)]
struct Typed {
    /// Print nothing on success
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Outside: the sandbox with this id, or that was started in this directory
    #[arg(short, long, global = true, value_name = "ID|DIR")]
    sandbox: Option<OsString>,
    /// The broker that listens at this socket
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "sandbox")]
    socket: Option<PathBuf>,
    /// The remountd whose configuration this is, for the socket named in it
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["sandbox", "socket"])]
    config: Option<PathBuf>,
    /// Outside, of remountd: the sandbox that this process of yours is in
    #[arg(long, global = true, value_name = "PID", conflicts_with = "sandbox")]
    pid: Option<u32>,
    /// The same as the command 'list'
    #[arg(long, required = true)]
    list: bool,
    #[command(subcommand)]
    command: Option<TypedCommand>,
}

// Deferred: of all commands only the one that is meant is put together, which takes more time
// than all else before the request is sent.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum TypedCommand {
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
struct TypedHook {
    /// claude, codex, copilot, gemini, generic, opencode or qwen
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
    /// A target's name; last, an absolute PATH: of remountd, a mount below that target
    #[arg(value_name = "NAME", required_unless_present = "all", value_parser = word)]
    names: Vec<Word>,
    /// Every target of the sandbox
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

#[derive(Debug, clap::Args)]
struct WhichToOpen {
    /// A target's name; last, an absolute PATH: of remountd, a mount below that target
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "path"], value_parser = word)]
    names: Vec<Word>,
    /// Every target of the sandbox
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

#[derive(Debug, clap::Args)]
struct WhichToClose {
    /// A target's name; last, an absolute PATH: of remountd, a mount below that target
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "everywhere", "path"], value_parser = word)]
    names: Vec<Word>,
    /// Every target of the sandbox
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Outside: every target of every sandbox of yours
    #[arg(long, conflicts_with_all = ["names", "all", "sandbox"])]
    everywhere: bool,
}

#[derive(Debug, clap::Args)]
struct BusyArgs {
    /// If a file is open for writing, wait until it is closed, at most this long
    #[arg(long, value_name = "DURATION", conflicts_with = "kill", value_parser = duration)]
    wait: Option<Duration>,
    /// If a file is open for writing, end the processes of the sandbox that have it open
    #[arg(long)]
    kill: bool,
    /// With --kill: the time between SIGTERM and SIGKILL (2s)
    #[arg(long, value_name = "DURATION", requires = "kill", value_parser = duration)]
    grace: Option<Duration>,
    /// With --kill: end also the process that asks, or one that started it
    #[arg(long, requires = "kill")]
    force: bool,
    /// If a file is open for writing, do not wait, whatever the profile says
    #[arg(long, conflicts_with_all = ["wait", "kill"])]
    no_wait: bool,
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
enum Word {
    Name(TargetName),
    Path(String),
}

fn word(text: &str) -> Result<Word, remount_broker::name::BadName> {
    if text.starts_with('/') {
        return Ok(Word::Path(text.to_owned()));
    }
    text.parse().map(Word::Name)
}

/// The format that is not a text with fields.
const STATUSLINE: &str = "statusline";

/// Refuses a field that there is not.
fn format(text: &str) -> Result<String, String> {
    for part in text.split('{').skip(1) {
        let field = part.split_once('}').map(|(field, _)| field);
        if !field.is_some_and(|field| render::FIELDS.contains(&field)) {
            return Err(format!("fields are {{{}}}", render::FIELDS.join("}, {")));
        }
    }
    Ok(text.to_owned())
}

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
    /// What is wrong with it, fit for a terminal.
    Wrong(String),
}

pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Parsed {
    match Typed::try_parse_from(args) {
        Ok(typed) => typed.resolve().map_or_else(Parsed::Wrong, Parsed::Run),
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
    fn resolve(self) -> Result<Args, String> {
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

    fn set(wish: Wish, names: &[&str]) -> SetRequest {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        SetRequest::new(Selection::Named(names), wish)
    }

    #[test]
    fn commands() {
        let seconds = Duration::from_secs;
        let wait = SetRequest { busy: Some(OnBusy::Wait(seconds(2))), ..set(Wish::Ro, &["a"]) };
        let kill = OnBusy::Kill { grace: seconds(2), force: true };
        let kill = SetRequest { busy: Some(kill), ..set(Wish::Ro, &["a"]) };
        let lease = SetRequest { lease: Some(Term::For(seconds(5400))), ..set(Wish::Rw, &["a"]) };
        let all = SetRequest::new(Selection::All, Wish::Toggle);
        let a = Selection::Named(vec!["a".parse().unwrap()]);
        for (line, command) in [
            (&["ro", "a"][..], Command::Set(set(Wish::Ro, &["a"]))),
            (&["rw", "a", "b"], Command::Set(set(Wish::Rw, &["a", "b"]))),
            (&["ro", "a", "--wait", "2s"], Command::Set(wait)),
            (&["ro", "--kill", "--force", "a"], Command::Set(kill)),
            (&["rw", "a", "--for", "1h30m"], Command::Set(lease)),
            (&["rw", "a", "--", "make", "-j"], {
                Command::While(a.clone(), vec!["make".into(), "-j".into()])
            }),
            (&["ro", "--everywhere"], Command::RoEverywhere(None)),
            (&["toggle", "--all"], Command::Set(all)),
            (&["list"], Command::List),
            (&["--list"], Command::List),
            (&["status"], Command::Status { show: Show::Table, watch: false }),
            (&["status", "--json"], Command::Status { show: Show::Json, watch: false }),
            (&["status", "--format", "{name}={mode}"], {
                Command::Status { show: Show::Format("{name}={mode}".into()), watch: false }
            }),
            (&["holders", "a"], Command::Holders { which: a, json: false }),
            (&["deny", "3"], Command::Decide(Decision { id: 3, verdict: Answer::Deny })),
            (&["ps"], Command::Ps { json: false }),
            (&["log", "abc"], Command::Log { id: Some("abc".into()), json: false }),
            (&["doctor"], Command::Doctor { clean: false }),
            (&["doctor", "--clean"], Command::Doctor { clean: true }),
        ] {
            let broker = Broker::default();
            assert_eq!(run(line), Args { quiet: false, broker, command }, "{line:?}");
        }
        assert!(run(&["-q", "ro", "a"]).quiet);
        assert!(run(&["ro", "a", "--quiet"]).quiet);
        assert_eq!(run(&["ro", "a", "-s", "x1"]).broker.sandbox, Some("x1".into()));
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
            &["ro", "a", "--wait"],
            &["ro", "a", "--wait", "x\u{1b}"],
            &["ro", "a", "--wait", "1s", "--kill"],
            &["ro", "a", "--force"],
            &["rw", "a", "--for", "1s", "--", "x"],
            &["rw", "--", "x"],
            &["status", "--format", "{no}"],
            &["status", "--format", "{"],
            &["approve", "x"],
            &["approve"],
            &["status", "--json=1"],
            &["ro", ""],
            &["ro", "/a"],
            &["ro", "/a", "a"],
            &["ro", "a", "b", "/c"],
            &["holders", "a", "/c"],
            &["ro", "a", "--pid", "x"],
            &["ro", "a", "--socket", "/s", "-s", "x"],
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
