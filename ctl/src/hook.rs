//! `remountctl hook AGENT`: an agent tells its mode, the targets follow.
//!
//! Agents call it before each tool and with each prompt, and give it JSON on standard
//! input. What a mode means is the profile's to say; the launcher left it in
//! [`TABLE`]. A mode that is not there changes nothing, and neither does a call outside of
//! a sandbox, so that the same configuration serves both.
//!
//! Going to `ro` fails closed: exit code 2, for which agents refuse the tool. Going to
//! `rw` undoes what going to `ro` did, and no more: what a person made read-only stays so.
//! An agent can call this itself; it is a help for honest ones, and the authority of the
//! target is the boundary.

mod agents;
mod event;
mod install;
mod rollout;
mod settings;
mod state;

pub(crate) use agents::Agent;
pub(crate) use install::{install, print, uninstall};

use crate::render;
use event::{Event, Moment};
use remount_broker::client::{Client, ClientError};
use remount_broker::name::{Mode, TargetName};
use remount_broker::proto::{ErrorCode, OnBusy, Selection, SetRequest, Wish};
use state::State;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// What modes mean, as lines `AGENT MODE ro|rw`. Made by the launcher, read-only.
const TABLE: &str = "/run/remount/hooks";

/// Where is written what was made read-only: private memory of the sandbox.
const STATE: &str = "/run/remount-hook";

/// No event is longer: a tool's input may hold a whole file.
const MAX_EVENT: u64 = 256 << 20;

/// How long a file may stay open for writing until planning mode is refused.
const WRITER: Duration = Duration::from_secs(1);

/// How long a person may take to approve; then the next event asks again. Agents end a hook
/// that takes longer than they were told to wait.
const APPROVAL: Duration = Duration::from_secs(5);

/// What the agent is told in answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing: go on.
    Nothing,
    /// Go on, and this is for the model to know.
    Tell(String),
    /// Do not go on, for this reason.
    Deny(String),
    /// Something is wrong that is no reason to stop.
    Failed(String),
}

/// Does what an agent's event says, or the mode that is named instead of one.
pub(crate) fn run(agent: Agent, mode: Option<&str>) -> Answer {
    let table = match std::fs::read_to_string(TABLE) {
        Ok(table) => table,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Answer::Nothing,
        Err(error) => return Answer::Failed(format!("read {TABLE}: {error}")),
    };
    let state = State::new(Path::new(STATE));
    let event = match mode {
        Some(mode) => Event::of_mode(mode),
        None => match read_event(agent, &state) {
            Ok(event) => event,
            Err(error) => return Answer::Failed(error),
        },
    };
    let Some(mode) = &event.mode else { return Answer::Nothing };
    match (look_up(&table, agent.name(), mode), event.of_subagent) {
        (Some(Mode::Ro), _) => close(&state, event.moment),
        // It shares its mounts with the agent, which may be in planning mode.
        (Some(Mode::Rw), true) | (None, _) => Answer::Nothing,
        (Some(Mode::Rw), false) => open(&state, event.moment),
    }
}

fn read_event(agent: Agent, state: &State) -> Result<Event, String> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(MAX_EVENT + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("read standard input: {error}"))?;
    if bytes.len() as u64 > MAX_EVENT {
        return Err(format!("read standard input: more than {MAX_EVENT} bytes"));
    }
    agent.event(&bytes, state)
}

/// What a mode of an agent means.
fn look_up(table: &str, agent: &str, mode: &str) -> Option<Mode> {
    let found = table.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.next() == Some(agent) && words.next() == Some(mode)).then(|| words.next())?
    });
    match found {
        Some("ro") => Some(Mode::Ro),
        Some("rw") => Some(Mode::Rw),
        _ => None,
    }
}

/// Makes every target read-only that is not, and remembers which those were.
fn close(state: &State, moment: Moment) -> Answer {
    match try_close(state) {
        Ok(None) => Answer::Nothing,
        Ok(Some(unremembered)) => match unremembered {
            Ok(()) => told(moment, CLOSED),
            Err(error) => Answer::Failed(format!(
                "write {STATE}: {error}; leaving planning mode will not make the project \
                 writable again, `remountctl rw` does"
            )),
        },
        Err(error) => {
            let text = refused(&error);
            match moment {
                Moment::BeforeTool | Moment::Named => Answer::Deny(text),
                Moment::Prompt | Moment::Other => {
                    Answer::Tell(format!("{text}\nUntil it is, tools are refused."))
                }
            }
        }
    }
}

/// `None`: nothing was to be done. Else how well it was remembered.
fn try_close(state: &State) -> Result<Option<io::Result<()>>, ClientError> {
    let mut client = Client::connect()?;
    let open = client.list()?.into_iter().filter(|target| target.mode == Mode::Rw);
    let open: Vec<TargetName> = open.map(|target| target.name).collect();
    if open.is_empty() {
        return Ok(None);
    }
    // First, as this process may be killed between the two.
    let remembered = state.add(&open);
    // Most of what writes is done in a moment.
    let busy = Some(OnBusy::Wait(WRITER));
    client.request(SetRequest { busy, ..SetRequest::new(Selection::Named(open), Wish::Ro) })?;
    Ok(Some(remembered))
}

/// Makes writable what [`close`] made read-only.
fn open(state: &State, moment: Moment) -> Answer {
    let closed = match state.take() {
        Ok(closed) if closed.is_empty() => return Answer::Nothing,
        Ok(closed) => closed,
        Err(error) => return Answer::Failed(format!("read {STATE}: {error}")),
    };
    let opened =
        Client::connect_within(APPROVAL).and_then(|mut client| client.set(&closed, Wish::Rw));
    let Err(error) = opened else { return told(moment, OPENED) };
    // The next event tries again. If even that cannot be written, `remountctl rw` helps.
    let hint = if state.add(&closed).is_ok() { "" } else { "; use `remountctl rw`" };
    let text = match &error {
        ClientError::Refused(refusal) if refusal.error == ErrorCode::NotAuthorised => {
            format!("The project is still read-only: {}{hint}.", render::line(&refusal.message))
        }
        error => {
            format!("The project is still read-only: {}{hint}.", render::line(&error.to_string()))
        }
    };
    match moment {
        Moment::Prompt => Answer::Tell(text),
        Moment::Named => Answer::Failed(text),
        // The tool runs, and the kernel says what it may not do.
        Moment::BeforeTool | Moment::Other => Answer::Nothing,
    }
}

/// For the model, when it begins to matter to it.
const CLOSED: &str = "Planning mode: the project is read-only now, for every tool, shell and \
    subagent. Writing to it fails with \"Read-only file system\"; do not look for ways around it. \
    It becomes writable when the user leaves planning mode.";

const OPENED: &str = "The user left planning mode: the project is writable again.";

fn told(moment: Moment, text: &str) -> Answer {
    if moment == Moment::Prompt { Answer::Tell(text.to_owned()) } else { Answer::Nothing }
}

/// Why planning mode does not hold, with what the broker knows about it.
fn refused(error: &ClientError) -> String {
    let mut text = "Refused: this is planning mode, and the project could not be made \
                    read-only: "
        .to_owned();
    text.push_str(&render::line(&error.to_string()));
    if let ClientError::Refused(refusal) = error {
        if let Some(holders) = &refusal.holders {
            text.push_str(&format!("\n{}", render::holders(holders).trim_end()));
        }
        if let Some(hint) = &refusal.hint {
            text.push_str(&format!("\nhint: {}", render::line(hint)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_looked_up_by_whole_words() {
        let table = "claude plan ro\nclaude default rw\nqwen plan rw\nclaude broken\n";
        assert_eq!(look_up(table, "claude", "plan"), Some(Mode::Ro));
        assert_eq!(look_up(table, "claude", "default"), Some(Mode::Rw));
        assert_eq!(look_up(table, "qwen", "plan"), Some(Mode::Rw));
        for (agent, mode) in
            [("claude", "pla"), ("claud", "plan"), ("claude", "broken"), ("", ""), ("claude", "")]
        {
            assert_eq!(look_up(table, agent, mode), None, "{agent} {mode}");
        }
        assert_eq!(look_up("", "claude", "plan"), None);
    }
}
