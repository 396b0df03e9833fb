//! What sandboxes that were killed have left on the host.

use crate::{Exit, complain, print, render};
use remount_broker::client::TIMEOUT;
use remount_broker::escape::Escaped;
use remount_broker::host::{self, Dead, Places};
use remount_broker::placeholder::{Away, KEPT_FOR, PlaceholderError, Removed, STORE, Store};
use remount_broker::reason::Reason;
use remount_broker::scratch::{self, Scratch};
use std::path::{Path, PathBuf};

/// Shows what is left, or removes it.
pub(crate) fn run(clean: bool, quiet: bool) -> Exit {
    let Some(path) = store() else {
        complain("find the home directory: HOME is not set", Some("set HOME or XDG_STATE_HOME"));
        return Exit::Failed;
    };
    let place = scratch::place(variable("TMPDIR"));
    let directories = match Scratch::leftovers(&place) {
        Ok(directories) => directories,
        Err(errno) => {
            let (place, why) = (show_path(&place), Reason::from(errno));
            complain(&format!("look for what is left in {place}: {why:#}"), None);
            return Exit::Failed;
        }
    };
    let result = match clean {
        true => self::clean(&path, directories, quiet),
        false => show(&path, &directories, quiet),
    };
    result.unwrap_or_else(|error| {
        complain(&render::line(&error.to_string()), error.hint());
        Exit::Failed
    })
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|it| it.is_absolute())
}

fn store() -> Option<PathBuf> {
    let state = variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join(STORE))
}

fn show(path: &Path, others: &[Scratch], quiet: bool) -> Result<Exit, PlaceholderError> {
    let left = Store::open(path)?.map(|store| store.leftovers()).transpose()?.unwrap_or_default();
    let sockets = dead_sockets();
    let found = left.found.iter().map(PathBuf::as_path).chain(others.iter().map(Scratch::path));
    let found = found.chain(sockets.iter().map(|socket| socket.path.as_path()));
    let mut lines: Vec<_> = found.map(|path| format!("left over: {}", show_path(path))).collect();
    if lines.is_empty() {
        lines.push("nothing is left over".to_owned());
        lines.extend(away(&left.away));
        return Ok(tell(&lines, quiet, Exit::Done));
    }
    lines.extend(away(&left.away));
    lines.push(
        "hint: remountctl doctor --clean removes it; so do the next sandbox of the kind and, of \
         sockets, remountctl ps"
            .to_owned(),
    );
    Ok(tell(&lines, false, Exit::Failed))
}

/// Control sockets of sandboxes that were killed.
fn dead_sockets() -> Vec<Dead> {
    Places::here().map(|places| host::find(&places, TIMEOUT).1).unwrap_or_default()
}

/// What cannot be looked for: no reason for anybody to act.
fn away(all: &[Away]) -> impl Iterator<Item = String> {
    let days = KEPT_FOR.as_secs() / (24 * 60 * 60);
    all.iter().map(move |Away { base, count }| {
        format!(
            "elsewhere: up to {count} placeholders below {}, which is not there now: they are removed \
             once it is, and forgotten {days} days after they were made",
            show_path(base)
        )
    })
}

fn clean(path: &Path, others: Vec<Scratch>, quiet: bool) -> Result<Exit, PlaceholderError> {
    let store = Store::open(path)?;
    let Removed { removed, kept, failed, away: elsewhere } =
        store.map(|store| store.clean()).transpose()?.unwrap_or_default();
    let sockets = dead_sockets();
    sockets.iter().for_each(Dead::remove);
    let removed = removed.iter().chain(sockets.iter().map(|socket| &socket.path));
    let mut lines: Vec<_> = removed.map(|path| format!("removed: {}", show_path(path))).collect();
    let kept = kept.iter().map(|path| format!("in use, now like any other: {}", show_path(path)));
    lines.extend(kept);
    let mut failed: Vec<_> = failed.iter().map(ToString::to_string).collect();
    for other in others {
        let path = other.path().to_owned();
        match other.remove() {
            Ok(()) => lines.push(format!("removed: {}", show_path(&path))),
            Err(errno) => {
                let why = Reason::from(errno);
                failed.push(format!("remove {}: {why:#}", show_path(&path)));
            }
        }
    }
    if lines.is_empty() && failed.is_empty() {
        lines.push("nothing is left over".to_owned());
    }
    lines.extend(away(&elsewhere));
    for error in &failed {
        complain(&render::line(error), None);
    }
    let exit = if failed.is_empty() { Exit::Done } else { Exit::Failed };
    Ok(tell(&lines, quiet, exit))
}

fn tell(lines: &[String], quiet: bool, exit: Exit) -> Exit {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    match if quiet { Exit::Done } else { print(&text) } {
        Exit::Done => exit,
        failed => failed,
    }
}

fn show_path(path: &Path) -> Escaped<'_> {
    Escaped::path(path)
}
