//! Directories that are held read-only in all sandboxes: `ro --path` and `rw --path`.

use super::{Exit, Failure, complain, print, render};
use remount_broker::held::running::{Outcome, Place, Sandbox, sandboxes};
use remount_broker::held::{self, Closed, Held};
use remount_broker::host::Places;
use remount_broker::proto::Wish;
use remount_broker::reason::Reason;
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// Holds a directory, or holds it no longer. What is written down counts for every sandbox
/// that starts from then on; those that run are gone through after it.
pub(super) fn run(path: &Path, wish: Wish, quiet: bool) -> Result<Exit, Failure> {
    let no_home = || io::Error::other("HOME is not set");
    let tried = |what: &str| format!("{what} {}", render::path(path));
    let places = Places::here().ok_or_else(|| Failure::Io(tried("hold"), no_home()))?;
    let path = std::fs::canonicalize(path).map_err(|error| Failure::Io(tried("find"), error))?;
    let exit = match wish {
        Wish::Rw => open(&places.state, &path)?,
        Wish::Ro | Wish::Toggle => close(&places.state, &path)?,
    };
    if !quiet {
        let held = if wish == Wish::Rw { "no longer held" } else { "held read-only" };
        print(&format!("{}: {held}\n", render::path(&path)));
    }
    Ok(exit)
}

fn change<T>(state: &Path, act: impl FnOnce(&mut Held) -> T) -> Result<T, Failure> {
    let file = state.join(held::FILE);
    held::change(state, act).map_err(|errno| failed("change", &file, errno))
}

fn failed(step: &str, path: &Path, errno: Errno) -> Failure {
    Failure::Io(format!("{step} {}", render::path(path)), errno.into())
}

fn close(state: &Path, path: &Path) -> Result<Exit, Failure> {
    change(state, |held| {
        if !held.paths.iter().any(|it| it == path) {
            held.paths.push(path.to_owned());
        }
    })?;
    let place = Place::of(path).map_err(|errno| failed("find", path, errno))?;
    let (mut closed, mut exit) = (Vec::new(), Exit::Done);
    for sandbox in sandboxes() {
        // One that has ended in the meantime does not matter.
        for outcome in sandbox.close(&place).unwrap_or_default() {
            match outcome {
                Outcome::Closed(mount) => closed.push(mount),
                other => exit = tell(&sandbox, &other, path),
            }
        }
    }
    change(state, |held| held.closed.extend(closed))?;
    Ok(exit)
}

/// Says what keeps a running sandbox from being closed.
fn tell(sandbox: &Sandbox, outcome: &Outcome, path: &Path) -> Exit {
    let whose = format!(
        "{} in process {} ({})",
        render::path(path),
        sandbox.pid,
        render::line(&sandbox.name)
    );
    let (reason, hint, exit) = match outcome {
        Outcome::Busy(_) => (
            "a file on it is open for writing".to_owned(),
            "close it, or end the process, and try again",
            Exit::Busy,
        ),
        Outcome::Wider(point) => (
            format!("it is part of {}, which is writable as a whole", render::path(point)),
            "end the process; what starts from now on has it read-only",
            Exit::Failed,
        ),
        Outcome::Refused(_, errno) => {
            (Reason::from(*errno).to_string(), "end the process", Exit::Failed)
        }
        Outcome::Closed(_) => return Exit::Done,
    };
    complain(&format!("make {whose} read-only: {reason}"), Some(hint));
    exit
}

fn open(state: &Path, path: &Path) -> Result<Exit, Failure> {
    let closed: Vec<Closed> = change(state, |held| {
        held.paths.retain(|it| it != path);
        let (this, rest) =
            std::mem::take(&mut held.closed).into_iter().partition(|it| it.path == path);
        held.closed = rest;
        this
    })?;
    let mut exit = Exit::Done;
    for sandbox in sandboxes().iter().filter(|_| !closed.is_empty()) {
        if let Err(errno) = sandbox.open(&closed) {
            exit = tell(sandbox, &Outcome::Refused(path.to_owned(), errno), path);
        }
    }
    Ok(exit)
}

/// What is held, for `ps`.
pub(super) fn list() -> String {
    let Some(places) = Places::here() else { return String::new() };
    match held::read(&places.state) {
        Ok(held) => held
            .paths
            .iter()
            .map(|path: &PathBuf| format!("held read-only: {}\n", render::path(path)))
            .collect(),
        Err(errno) => format!("held read-only: unknown: {}\n", Reason::from(errno)),
    }
}
