//! The sandbox's place outside: its control socket, and where its events are written.
//!
//! Both are in directories that only this user can enter and that no sandbox shows
//! ([`Outside::hidden`]). They are opened before the sandbox is made; the broker keeps
//! them, the socket as its listener for requests from outside.

use crate::host::Host;
use remount_broker::channel;
use remount_broker::host::{Places, SUFFIX, open_own};
use remount_broker::server::Log;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Whether directories are made where they are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// They are.
    Create,
    /// They are not: nothing is to change.
    Leave,
}

/// The directories, opened.
#[derive(Debug)]
pub struct Outside {
    /// What no sandbox may show: absolute, without symlinks.
    pub hidden: Vec<PathBuf>,
    run: Result<OwnedFd, Errno>,
    log: Result<OwnedFd, Errno>,
}

/// The control socket; its name is removed with this.
#[derive(Debug)]
pub struct Presence {
    /// The sandbox's id.
    pub id: String,
    /// None in a process that must not remove it.
    directory: Option<OwnedFd>,
    name: String,
}

impl Presence {
    /// Lets go of it without removing anything: in the child of a fork, the name is the
    /// parent's.
    pub fn abandon(mut self) {
        self.directory = None;
    }
}

/// What of it the broker gets.
#[derive(Debug, Default)]
pub struct Handles {
    /// The listening socket.
    pub listener: Option<OwnedFd>,
    /// Where events are written.
    pub log: Option<Log>,
    /// The sandbox's id.
    pub id: String,
}

impl Outside {
    /// Opens the directories.
    pub fn open(host: &Host, missing: Missing) -> Self {
        let places = Places::of(|name| host.variable(name).map(OsStr::to_owned), &host.home);
        let own = |dir: &Path| match open_own(dir) {
            Err(Errno::NOENT) if missing == Missing::Create => {
                // Of the runtime directory only our own part: it is the system's to make.
                let recursive = dir.starts_with(&places.state);
                let made = std::fs::DirBuilder::new().recursive(recursive).mode(0o700).create(dir);
                // Somebody may have been faster; whose it is, the next call says.
                made.or_else(|_| std::fs::symlink_metadata(dir).map(drop))
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                open_own(dir)
            }
            other => other,
        };
        let mut run = Err(Errno::NOENT);
        for dir in &places.run {
            run = own(dir);
            if run.is_ok() {
                break;
            }
        }
        let log = own(&places.log);
        let all = places.run.iter().chain([&places.state]);
        let mut hidden: Vec<PathBuf> = Vec::new();
        for path in all.filter_map(|dir| host.files.find(dir).ok()).map(|found| found.path) {
            hidden.retain(|other| !other.starts_with(&path));
            if !hidden.iter().any(|other| path.starts_with(other)) {
                hidden.push(path);
            }
        }
        Self { hidden, run, log }
    }

    /// Makes the control socket. What cannot be had is said, and done without.
    pub fn appear(self) -> (Handles, Option<Presence>, Vec<String>) {
        let id = new_id();
        let mut warnings = Vec::new();
        let log = match self.log {
            Ok(directory) => Some(Log { directory, name: id.clone() }),
            Err(errno) => {
                warnings.push(format!("no event log is written: open its directory: {errno}"));
                None
            }
        };
        let socket = self.run.and_then(|directory| {
            let name = format!("{id}{SUFFIX}");
            let listener = listen(&directory, &name)?;
            Ok((listener, Presence { id: id.clone(), directory: Some(directory), name }))
        });
        let (listener, presence) = match socket {
            Ok((listener, presence)) => (Some(listener), Some(presence)),
            Err(errno) => {
                warnings.push(format!("not controllable from outside: make its socket: {errno}"));
                (None, None)
            }
        };
        (Handles { listener, log, id }, presence, warnings)
    }
}

fn listen(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    // By descriptor: a socket's address is at most 107 bytes long (unix(7)).
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    let listener = channel::listen(Path::new(&path))?;
    rustix::fs::chmodat(directory, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    Ok(listener)
}

/// Eight letters and digits by chance: ids of sandboxes that have ended stand in logs, so
/// process ids would not do.
fn new_id() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    // Seeded by the kernel (getrandom(2)) for each process.
    let chance = RandomState::new().build_hasher().finish();
    let letter = |place: u32| char::from(LETTERS[(chance >> (5 * place)) as usize % 32]);
    (0..8).map(letter).collect()
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            // If it cannot be removed, `remountctl ps` does so later.
            rustix::fs::unlinkat(directory, &self.name, AtFlags::empty()).unwrap_or(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_and_differ() {
        let (a, b) = (new_id(), new_id());
        assert!(remount_broker::host::is_id(&a), "{a}");
        assert_ne!(a, b);
    }
}
