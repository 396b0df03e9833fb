//! The command lines that are typed and run all day, read without putting clap's tree of all
//! options together, which takes 0.2 ms.
//!
//! A line with anything else in it, or anything wrong, is clap's, with all that is said about it.
//! What is read here is what clap reads; a test with random lines compares the two.

use super::typed::{BusyArgs, Typed, TypedCommand, TypedHook, Which, WhichToClose, WhichToOpen};
use super::typed::{Word, format, word};
use std::ffi::OsString;

/// What clap makes of the line, or nothing if it is not one of those.
pub(super) fn parse(words: &[OsString]) -> Option<Typed> {
    let (_, rest) = words.split_first()?;
    let mut line = Line::default();
    let mut rest = rest.iter().map(|word| word.to_str());
    while let Some(word) = rest.next() {
        let word = word?;
        // An option of a command stands behind it.
        if line.words.is_empty() && matches!(word, "--all" | "--json" | "--mode" | "--format") {
            return None;
        }
        let flag = match word {
            "-q" | "--quiet" => &mut line.quiet,
            "--all" => &mut line.all,
            "--json" => &mut line.json,
            _ => {
                let slot = match word {
                    "--socket" => &mut line.socket,
                    "-s" | "--sandbox" => &mut line.sandbox,
                    "--mode" => &mut line.mode,
                    "--format" => &mut line.format,
                    _ if word.is_empty() || word.starts_with('-') => return None,
                    _ => {
                        line.words.push(word);
                        continue;
                    }
                };
                let value = rest.next()??;
                if value.is_empty() || value.starts_with('-') || slot.is_some() {
                    return None;
                }
                *slot = Some(value);
                continue;
            }
        };
        // Twice is an error.
        if std::mem::replace(flag, true) {
            return None;
        }
    }
    line.read()
}

/// The words of a line, sorted by what they are.
#[derive(Default)]
struct Line<'a> {
    quiet: bool,
    socket: Option<&'a str>,
    sandbox: Option<&'a str>,
    /// The command, and what stands after it.
    words: Vec<&'a str>,
    all: bool,
    json: bool,
    mode: Option<&'a str>,
    format: Option<&'a str>,
}

impl Line<'_> {
    fn read(&self) -> Option<Typed> {
        let (&command, words) = self.words.split_first()?;
        let sets = matches!(command, "ro" | "rw" | "toggle");
        let (shows, hooks) = (command == "status", command == "hook");
        let misplaced = (self.all && !sets)
            || ((self.json || self.format.is_some()) && !shows)
            || (self.mode.is_some() && !hooks);
        if misplaced || (self.socket.is_some() && self.sandbox.is_some()) {
            return None;
        }
        let command = match (command, words) {
            (_, names) if sets => self.set(command, names)?,
            ("list", []) => TypedCommand::List,
            ("status", []) if !(self.json && self.format.is_some()) => {
                let format = self.format.map(format).transpose().ok()?;
                TypedCommand::Status { json: self.json, watch: false, format }
            }
            ("hook", [agent]) => TypedCommand::Hook(TypedHook {
                agent: agent.parse().ok()?,
                mode: self.mode.map(str::to_owned),
                print: false,
                install: false,
                uninstall: false,
            }),
            _ => return None,
        };
        Some(Typed {
            quiet: self.quiet,
            sandbox: self.sandbox.map(OsString::from),
            socket: self.socket.map(Into::into),
            command: Some(command),
            ..Typed::default()
        })
    }

    fn set(&self, command: &str, names: &[&str]) -> Option<TypedCommand> {
        // Either names or all of them.
        if names.is_empty() != self.all {
            return None;
        }
        let names: Vec<Word> =
            names.iter().map(|name| word(name)).collect::<Result<_, _>>().ok()?;
        let (all, busy) = (self.all, BusyArgs::default());
        Some(match command {
            "ro" => {
                let which = WhichToClose { names, all, everywhere: false };
                TypedCommand::Ro { which, path: None, busy }
            }
            "rw" => {
                let which = WhichToOpen { names, all };
                TypedCommand::Rw { which, path: None, lease: None, run: Vec::new() }
            }
            _ => TypedCommand::Toggle { which: Which { names, all }, busy },
        })
    }
}
