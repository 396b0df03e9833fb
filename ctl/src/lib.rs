//! The program `remountctl`, as a function: the launcher is one file with it inside a
//! sandbox, and calls it under that name.
//!
//! Programs that want to switch targets themselves use [`remount_broker::client`].

mod ahead;
mod cli;
mod daemon;
mod doctor;
mod hold;
mod hook;
mod outside;
mod render;
mod run;

use cli::{Args, Broker, Command, HookAction, Show};
use hook::Agent;
use remount_broker::channel::{self, CHANNEL_VARIABLE, DEFAULT_SOCKET, NoBroker, SOCKET_VARIABLE};
use remount_broker::client::{Client, ClientError, TIMEOUT};
use remount_broker::host::{NotOne, Running};
use remount_broker::name::Authority;
use remount_broker::proto::{
    BadReply, ErrorCode, OnBusy, Origin, Selection, SetRequest, Term, Verdict, Wish,
};
use remount_broker::reason::IoReason;
use rustix::io::Errno;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How it ended, as a number that scripts decide by (DESIGN.md §10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Done,
    Failed,
    /// Wrong usage, or no such target.
    Usage,
    Busy,
    NoBroker,
    NotAuthorised,
    Stale,
    /// The code of a command that was run.
    Of(u8),
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Busy => 3,
            Exit::NoBroker => 4,
            Exit::NotAuthorised => 5,
            Exit::Stale => 6,
            Exit::Of(code) => code,
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    Client(ClientError),
    NotOne(NotOne),
    /// The sandbox ended before it answered.
    Ended {
        id: String,
        /// Whether processes were to be ended.
        kill: bool,
    },
    /// What was tried, and why it failed.
    Io(String, io::Error),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// Runs `remountctl` with the whole command line, the program's name first. Prints to
/// standard output and error; does not exit the process. The exit code.
#[must_use]
pub fn main(args: impl Iterator<Item = OsString>) -> u8 {
    let exit = match cli::parse(args) {
        cli::Parsed::Run(args) => {
            let quiet = args.quiet;
            run(args, quiet).unwrap_or_else(|failure| explain(&failure))
        }
        cli::Parsed::Print(text) => print(&text),
        cli::Parsed::Wrong(message, hint) => {
            let hint = hint.as_deref().unwrap_or("'remountctl --help' shows the usage");
            complain(&message, Some(hint));
            Exit::Usage
        }
    };
    exit.into()
}

fn run(args: Args, quiet: bool) -> Result<Exit, Failure> {
    let print = |text: &str| if quiet { Exit::Done } else { print(text) };
    let wanted = &args.broker;
    Ok(match args.command {
        Command::Set(set) => {
            let mut way = match ahead::take() {
                Some(stream) => daemon::asked(wanted, stream),
                None => connect(wanted)?,
            };
            let text = match change(&mut way, set.clone()) {
                Err(error) if daemon::is_first(&way, &error) => daemon::classic(way, &set, error)?,
                Err(error) => return Err(outside::why_ended(error, way.sandbox, set.busy)),
                Ok(targets) => render::modes(&targets),
            };
            // The mode has changed whether or not anyone can read of it.
            print(&text);
            Exit::Done
        }
        Command::While(targets, command) => run::while_writable(wanted, targets, &command)?,
        Command::RoEverywhere(busy) => outside::ro_everywhere(busy, quiet),
        Command::Hold { path, wish } => hold::run(&path, wish, quiet)?,
        Command::Hook(agent, action) => hook(agent, &action),
        Command::Doctor { clean } => doctor::run(clean, quiet),
        Command::List => {
            let mut way = connect(wanted)?;
            print(&match way.client.list() {
                Err(error) if daemon::is_first(&way, &error) => daemon::classic_list(way, error)?,
                other => render::table(&other?),
            })
        }
        // Agents show it all the time, also where there is no sandbox.
        Command::Status { show: Show::Statusline, .. }
            if *wanted == Broker::default() && !is_inside() =>
        {
            Exit::Done
        }
        Command::Status { show, watch: false } => {
            print(&status(&mut connect(wanted)?.client, &show)?)
        }
        Command::Status { show, watch: true } => watch(&mut connect(wanted)?.client, &show)?,
        Command::Holders { which, json } => {
            let holders = connect(wanted)?.client.holders(which)?;
            print(&if json {
                render::json(&holders).map_err(unprintable)?
            } else {
                render::holders(&holders)
            })
        }
        Command::Why(path) => {
            let path = resolve(&path)?;
            let verdict = connect(wanted)?.client.why(&path)?;
            print(&why(&path, &verdict))
        }
        Command::Decide(decision) => {
            match &wanted.sandbox {
                // The broker there says no.
                None if is_inside() => Client::connect()?.decide(decision)?,
                wanted => outside::decide(wanted.as_deref(), decision)?,
            }
            Exit::Done
        }
        Command::Ps { json } => print(&outside::ps(json).map_err(unprintable)?),
        Command::Events { follow, json } => outside::events(connect(wanted)?.client, follow, json)?,
        Command::Log { id, json } => outside::log(id.as_deref(), json)?,
    })
}

fn unprintable(error: impl ToString) -> Failure {
    ClientError::BadReply(BadReply(error.to_string())).into()
}

/// A connection to a broker.
struct Way {
    client: Client,
    /// Where it listens, if it is remountd.
    daemon: Option<PathBuf>,
    /// The sandbox's id, if this is outside of it.
    sandbox: Option<String>,
}

impl From<Client> for Way {
    fn from(client: Client) -> Self {
        Self { client, daemon: None, sandbox: None }
    }
}

impl From<Running> for Way {
    fn from(running: Running) -> Self {
        Self { sandbox: Some(running.id), ..running.client.into() }
    }
}

/// Connects to the broker that is meant: the one named, in a sandbox of remount-run its
/// own, else the one of the sandbox chosen; where there is none of those, to remountd.
fn connect(wanted: &Broker) -> Result<Way, Failure> {
    if let Some(socket) = daemon::named(wanted)? {
        return daemon::connect(&[socket], wanted.pid);
    }
    if wanted.sandbox.is_none() && wanted.pid.is_none() && is_inside() {
        return Ok(Client::connect()?.into());
    }
    if wanted.pid.is_some() {
        return daemon::connect(&daemon::places(), wanted.pid);
    }
    match outside::choose(wanted.sandbox.as_deref()) {
        // What is said of the daemon matters only if there is one.
        Err(Failure::NotOne(NotOne::None)) => match daemon::connect(&daemon::places(), None) {
            Err(Failure::Client(ClientError::NoBroker(NoBroker {
                errno: Errno::NOENT, ..
            }))) => Err(Failure::NotOne(NotOne::None)),
            other => other,
        },
        other => other.map(Way::from),
    }
}

/// Whether this process seems to be in a sandbox: only the way to a broker depends on it.
fn is_inside() -> bool {
    let named = |name: &&str| channel::variable(name).is_some();
    [CHANNEL_VARIABLE, SOCKET_VARIABLE].iter().any(named) || Path::new(DEFAULT_SOCKET).exists()
}

/// Changes modes, with the patience that this takes.
fn change(
    way: &mut Way,
    set: SetRequest,
) -> Result<Vec<remount_broker::proto::TargetReport>, ClientError> {
    let client = &mut way.client;
    let wait = match set.busy {
        Some(OnBusy::Wait(time)) => time,
        Some(OnBusy::Kill { grace, .. }) => grace + Duration::from_secs(3),
        // The profile may say to wait; there the broker's word ends it.
        Some(OnBusy::Fail) => Duration::ZERO,
        None if way.daemon.is_some() => Duration::ZERO,
        None => PATIENCE,
    };
    // remountd asks nobody.
    if set.wish != Wish::Ro && way.daemon.is_none() {
        tell_if_a_person_is_asked(client, &set.targets)?;
    }
    client.set_timeout(wait.saturating_add(TIMEOUT))?;
    client.request(set)
}

/// How long a request may take that names no time itself.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

fn tell_if_a_person_is_asked(client: &mut Client, targets: &Selection) -> Result<(), ClientError> {
    let status = client.status()?;
    let is_meant = |name| match targets {
        Selection::All => true,
        Selection::Named(names) => names.contains(name),
    };
    let asks = status.targets.iter().any(|it| {
        it.authority == Authority::Confirm
            && it.mode == remount_broker::name::Mode::Ro
            && is_meant(&it.name)
    });
    if asks && status.origin == Origin::Inside {
        complain("waiting for a person outside to approve", None);
    }
    Ok(())
}

fn status(client: &mut Client, show: &Show) -> Result<String, Failure> {
    let status = client.status()?;
    match show {
        Show::Table => Ok(render::status(&status)),
        Show::Json => render::status_json(&status).map_err(unprintable),
        Show::Format(format) => Ok(render::formatted(&status, format)),
        Show::Statusline => Ok(render::statusline(&status)),
    }
}

/// Prints the status whenever it has changed. Until the sandbox ends, or nobody reads.
fn watch(client: &mut Client, show: &Show) -> Result<Exit, Failure> {
    let mut before = String::new();
    loop {
        let now = match status(client, show) {
            Err(Failure::Client(ClientError::Closed)) if !before.is_empty() => {
                return Ok(Exit::Done);
            }
            other => other?,
        };
        if now != before {
            let mut out = io::stdout().lock();
            if out.write_all(now.as_bytes()).and_then(|()| out.flush()).is_err() {
                return Ok(Exit::Done);
            }
            before = now;
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// The path as the kernel would find it: its directories followed, also if the file
/// itself does not exist.
fn resolve(path: &Path) -> Result<PathBuf, Failure> {
    let tried = |error| Failure::Io(format!("find {}", render::path(path)), error);
    let absolute = std::path::absolute(path).map_err(tried)?;
    let mut missing = Vec::new();
    for parent in absolute.ancestors() {
        if let Ok(found) = std::fs::canonicalize(parent) {
            return Ok(missing.into_iter().rev().fold(found, |path, name| path.join(name)));
        }
        missing.extend(parent.file_name());
    }
    Ok(absolute.clone())
}

fn why(path: &Path, verdict: &Verdict) -> String {
    let mut text = render::verdict(path, verdict);
    if let (Some(target), Some(mode)) = (&verdict.target, verdict.mode) {
        text.push_str(&format!("change it: remountctl {} {target}\n", mode.flipped()));
    }
    text
}

/// Prints why it failed; the exit code.
fn explain(failure: &Failure) -> Exit {
    match failure {
        Failure::Client(error) => explain_client(error),
        Failure::NotOne(error) => {
            complain(&error.to_string(), not_one_hint(error).as_deref());
            if *error == NotOne::None { Exit::NoBroker } else { Exit::Usage }
        }
        Failure::Ended { id, kill } => {
            let hint = "its own command seems to be one of those that were ended";
            complain(&format!("sandbox {id} ended before it answered"), kill.then_some(hint));
            Exit::Failed
        }
        Failure::Io(tried, error) => {
            complain(&format!("{tried}: {}", IoReason(error)), None);
            Exit::Failed
        }
    }
}

fn not_one_hint(error: &NotOne) -> Option<String> {
    match error {
        NotOne::None => Some("this works in a sandbox of remount-run, or beside one".to_owned()),
        NotOne::Unknown(_) => Some("'remountctl ps' shows them".to_owned()),
        NotOne::Several(ids) => Some(format!("use -s with one of: {}", ids.join(", "))),
    }
}

fn explain_client(error: &ClientError) -> Exit {
    let hint = match error {
        ClientError::NoBroker(NoBroker { errno: Errno::ACCESS, .. }) => {
            Some("who may connect is in the group of the socket, or is its owner".to_owned())
        }
        ClientError::NoBroker(_) => {
            Some("this works in a sandbox that remount-run started with targets".to_owned())
        }
        ClientError::Refused(refusal) => refusal.hint.as_deref().map(render::line),
        ClientError::TooLong => Some("use --all, fewer names, or a shorter path".to_owned()),
        ClientError::TimedOut => Some("'remountctl list' shows what became of it".to_owned()),
        ClientError::Closed | ClientError::Transport(_) | ClientError::BadReply(_) => None,
    };
    let mut message = render::line(&error.to_string());
    if let ClientError::Refused(refusal) = error
        && let Some(holders) = &refusal.holders
    {
        message.push('\n');
        message.push_str(render::holders(holders).trim_end());
    }
    complain(&message, hint.as_deref());
    match error {
        ClientError::NoBroker(_) => Exit::NoBroker,
        ClientError::TooLong => Exit::Usage,
        ClientError::Refused(refusal) => match refusal.error {
            ErrorCode::Busy => Exit::Busy,
            ErrorCode::UnknownTarget | ErrorCode::BadRequest => Exit::Usage,
            ErrorCode::NotAuthorised => Exit::NotAuthorised,
            ErrorCode::Stale => Exit::Stale,
            ErrorCode::Failed => Exit::Failed,
        },
        _ => Exit::Failed,
    }
}

/// A request that lasts as long as its connection.
fn held(targets: Selection) -> SetRequest {
    SetRequest { lease: Some(Term::Held), ..SetRequest::new(targets, Wish::Rw) }
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

/// The exit code of a hook for which agents do not run the tool.
const DENIED: u8 = 2;

/// Answers as agents understand it.
fn answer(answer: hook::Answer) -> Exit {
    match answer {
        hook::Answer::Nothing => Exit::Done,
        hook::Answer::Tell(text) => print(&format!("{text}\n")),
        hook::Answer::Deny(text) => {
            complain(&text, None);
            Exit::Of(DENIED)
        }
        hook::Answer::Failed(text) => {
            complain(&text, None);
            Exit::Failed
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
