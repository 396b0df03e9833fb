//! What sandboxes that were killed have left on the host.

use crate::{Exit, complain, print, render};
use remount_broker::escape::Escaped;
use remount_broker::placeholder::{PlaceholderError, Removed, STORE, Store};
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
    let left: Vec<_> =
        left.iter().map(PathBuf::as_path).chain(others.iter().map(Scratch::path)).collect();
    if left.is_empty() {
        return Ok(tell(&["nothing is left over".to_owned()], quiet, Exit::Done));
    }
    let mut lines: Vec<_> =
        left.iter().map(|path| format!("left over: {}", show_path(path))).collect();
    lines.push(
        "hint: remountctl doctor --clean removes it, and so does the next sandbox of the kind"
            .to_owned(),
    );
    Ok(tell(&lines, false, Exit::Failed))
}

fn clean(path: &Path, others: Vec<Scratch>, quiet: bool) -> Result<Exit, PlaceholderError> {
    let store = Store::open(path)?;
    let Removed { removed, kept, failed } =
        store.map(|store| store.clean()).transpose()?.unwrap_or_default();
    let mut lines: Vec<_> =
        removed.iter().map(|path| format!("removed: {}", show_path(path))).collect();
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
