//! The sandbox's place outside: its control socket, and where its events are written.
//!
//! Both are in directories that only this user can enter and that no sandbox shows
//! ([`Outside::hidden`]). The directories are there before the sandbox is planned; what is
//! in them the launcher makes while the sandbox is being built by others, and hands to the
//! broker: no start waits for it.

use crate::host::Host;
use crate::report::Link;
use remount_broker::channel;
use remount_broker::host::{Places, SUFFIX, open_own};
use remount_broker::reason::Reason;
use remount_broker::server::Log;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The directories.
#[derive(Debug)]
pub struct Outside {
    /// What no sandbox may show: absolute, without symlinks.
    pub hidden: Vec<PathBuf>,
    places: Places,
    has_state: bool,
    has_runtime: bool,
}

/// The control socket; its name is removed with this.
#[derive(Debug)]
pub struct Presence {
    directory: OwnedFd,
    name: String,
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
    /// Looks where the directories are. Nothing is made.
    pub fn find(host: &Host) -> Self {
        let places = Places::of(|name| host.variable(name).map(OsStr::to_owned), &host.home);
        let mut hidden = Vec::new();
        let mut find = |dir: &Path| {
            let found = host.files.find(dir);
            hidden.extend(found.as_ref().ok().map(|found| found.path.clone()));
            found.is_ok()
        };
        let has_state = find(&places.state);
        let has_runtime = places.runtime.as_deref().is_some_and(find);
        Self { hidden, places, has_state, has_runtime }
    }

    /// Makes the directories that are missing. Whether there is a new one: then they have to
    /// be looked for again, since none may be seen inside.
    pub fn make(&self) -> bool {
        let make = |dir: &Path, recursive| {
            std::fs::DirBuilder::new().recursive(recursive).mode(0o700).create(dir).is_ok()
        };
        // What cannot be made is said when it is missed.
        let state = !self.has_state && make(&self.places.state, true);
        // The directory around is the system's to make.
        let missing = self.places.runtime.as_deref().filter(|_| !self.has_runtime);
        let runtime = missing.is_some_and(|dir| make(dir, false));
        state || runtime
    }

    /// Makes the control socket and finds the directory of the log. What cannot be had is
    /// said, and done without.
    pub fn appear(&self) -> (Handles, Option<Presence>, Vec<String>) {
        let id = new_id();
        let mut warnings = Vec::new();
        let mut warn = |what: &str, errno: Errno| {
            warnings.push(format!("{what}: {:#}", Reason::from(errno)));
        };
        let log =
            self.in_state(&self.places.log).map(|directory| Log { directory, name: id.clone() });
        let log = log.map_err(|errno| warn("no event log is written: open its directory", errno));
        let socket = self.run().and_then(|directory| {
            let name = format!("{id}{SUFFIX}");
            let listener = listen(&directory, &name)?;
            Ok((listener, Presence { directory, name }))
        });
        let socket = socket
            .map_err(|errno| warn("it cannot be controlled from outside: make its socket", errno));
        let (listener, presence) = socket.ok().unzip();
        (Handles { listener, log: log.ok(), id }, presence, warnings)
    }

    fn run(&self) -> Result<OwnedFd, Errno> {
        let runtime = self.places.runtime.as_deref().filter(|_| self.has_runtime);
        let runtime = runtime.ok_or(Errno::NOENT).and_then(open_own);
        runtime.or_else(|_| self.in_state(&self.places.run))
    }

    /// Opens a directory in the one that is hidden as a whole; makes it if need be.
    fn in_state(&self, dir: &Path) -> Result<OwnedFd, Errno> {
        match open_own(dir) {
            Err(Errno::NOENT) if self.has_state => {
                match rustix::fs::mkdir(dir, Mode::RWXU) {
                    // Somebody was faster; whose it is, the next call says.
                    Ok(()) | Err(Errno::EXIST) => open_own(dir),
                    Err(errno) => Err(errno),
                }
            }
            other => other,
        }
    }
}

impl Handles {
    /// Hands them to the broker. If it is gone, so is the sandbox, and that is noticed.
    pub fn send(self, broker: &Link) {
        let send = |bytes: &[u8], fd: Option<&OwnedFd>| {
            broker.send(bytes, fd.map(AsFd::as_fd)).unwrap_or(());
        };
        if let Some(listener) = &self.listener {
            send(b"L", Some(listener));
        }
        if let Some(log) = &self.log {
            send(b"E", Some(&log.directory));
        }
        send(&[b".", self.id.as_bytes()].concat(), None);
    }
}

/// In the broker: takes what the launcher made; `None` if it is gone.
///
/// # Errors
/// As `recvmsg(2)`; `EPROTO` for a message that is none of ours.
pub fn receive(launcher: &Link) -> Result<Option<Handles>, Errno> {
    let mut handles = Handles::default();
    let mut log = None;
    loop {
        let (bytes, fd) = launcher.receive()?;
        match (bytes.as_slice(), fd) {
            ([b'L'], Some(fd)) => handles.listener = Some(fd),
            ([b'E'], Some(fd)) => log = Some(fd),
            ([b'.', id @ ..], None) => {
                handles.id = String::from_utf8(id.to_vec()).map_err(|_| Errno::PROTO)?;
                handles.log = log.map(|directory| Log { directory, name: handles.id.clone() });
                return Ok(Some(handles));
            }
            ([], None) => return Ok(None),
            _ => return Err(Errno::PROTO),
        }
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
        // If it cannot be removed, `remountctl ps` does so later.
        rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty()).unwrap_or(());
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

    #[test]
    fn what_is_sent_arrives() {
        let (launcher, broker) = Link::pair().unwrap();
        let open = || OwnedFd::from(std::fs::File::open("/").unwrap());
        let log = Some(Log { directory: open(), name: "a1".into() });
        Handles { listener: Some(open()), log, id: "a1".into() }.send(&launcher);
        let handles = receive(&broker).unwrap().unwrap();
        assert_eq!((handles.id.as_str(), handles.listener.is_some()), ("a1", true));
        assert_eq!(handles.log.unwrap().name, "a1");
        drop(launcher);
        assert!(receive(&broker).unwrap().is_none());
    }
}
