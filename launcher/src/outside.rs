//! The sandbox's place outside: its control socket, and where its events are written.
//!
//! Both are in directories that only this user can enter and that no sandbox shows
//! ([`Outside::hidden`]). The directories are there before the sandbox is planned; what is
//! in them the launcher makes while the sandbox is being built by others, and hands to the
//! broker: no start waits for it.

use crate::host::Host;
use crate::report::Link;
use remount_broker::channel;
use remount_broker::host::{LOG, Places, RUN, SUFFIX, UNFINISHED, open_own};
use remount_broker::reason::Reason;
use remount_broker::server::Log;
use rustix::fs::{AtFlags, Mode, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The directories.
#[derive(Debug)]
pub struct Outside {
    /// What no sandbox may show: absolute, without symlinks.
    pub hidden: Vec<PathBuf>,
    places: Places,
    /// Of the two directories, those that are there, without symlinks.
    state: Option<PathBuf>,
    runtime: Option<PathBuf>,
    /// What was made, in this order.
    made: Vec<PathBuf>,
}

/// The control socket; its name is removed with this.
#[derive(Debug)]
pub struct Presence {
    directory: OwnedFd,
    name: String,
}

impl AsFd for Presence {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
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
    /// Looks where the directories are. Nothing is made.
    pub fn find(host: &Host) -> Self {
        let places = Places::of(|name| host.variable(name).map(OsStr::to_owned), &host.home);
        Self::at(places, |dir| host.files.find(dir).ok().map(|found| found.path))
    }

    /// The same of known places; `find` answers a directory without symlinks, if it is there.
    pub fn at(places: Places, find: impl Fn(&PathBuf) -> Option<PathBuf>) -> Self {
        let state = find(&places.state);
        let runtime = places.runtime.as_ref().and_then(&find);
        let hidden = state.iter().chain(&runtime).cloned().collect();
        Self { hidden, places, state, runtime, made: Vec::new() }
    }

    /// Where what outlives a sandbox is written down.
    pub fn state(&self) -> &Path {
        &self.places.state
    }

    /// Makes the directories that are missing. Whether there is a new one: then they have to
    /// be looked for [again](Self::found_again), since none may be seen inside.
    pub fn make(&mut self) -> bool {
        if self.state.is_none() {
            let state = self.places.state.clone();
            let missing = |dir: &&Path| !dir.exists();
            for dir in state.ancestors().take_while(missing).collect::<Vec<_>>().iter().rev() {
                self.make_one(dir);
            }
        }
        // The directory around it is the system's to make.
        if let Some(dir) = self.places.runtime.clone().filter(|_| self.runtime.is_none()) {
            self.make_one(&dir);
        }
        !self.made.is_empty()
    }

    /// What cannot be made is said when it is missed.
    fn make_one(&mut self, dir: &Path) {
        if rustix::fs::mkdir(dir, Mode::RWXU).is_ok() {
            self.made.push(dir.to_owned());
        }
    }

    /// Looks again, after [`Self::make`].
    pub fn found_again(self, host: &Host) -> Self {
        Self { made: self.made, ..Self::find(host) }
    }

    /// Removes what was made, as far as nobody else uses it: nothing was started.
    pub fn unmake(&self) {
        for dir in self.made.iter().rev() {
            rustix::fs::rmdir(dir).unwrap_or(());
        }
    }

    /// Makes the control socket and finds the directory of the log. What cannot be had is
    /// said, and done without.
    pub fn appear(&mut self) -> (Handles, Option<Presence>, Vec<String>) {
        let id = new_id();
        let mut warnings = Vec::new();
        let mut warn = |what: &str, errno: Errno| {
            warnings.push(format!("{what}: {:#}", Reason::from(errno)));
        };
        let log = self.in_state(LOG).map(|directory| Log { directory, name: id.clone() });
        let log = log.map_err(|errno| warn("no event log is written: open its directory", errno));
        let socket = self.run().and_then(|directory| {
            let (listener, name) = listen(&directory, &id)?;
            Ok((listener, Presence { directory, name }))
        });
        let socket = socket
            .map_err(|errno| warn("it cannot be controlled from outside: make its socket", errno));
        let (listener, presence) = socket.ok().unzip();
        (Handles { listener, log: log.ok(), id }, presence, warnings)
    }

    fn run(&mut self) -> Result<OwnedFd, Errno> {
        let runtime = self.runtime.as_deref().ok_or(Errno::NOENT).and_then(open_exactly);
        runtime.or_else(|_| self.in_state(RUN))
    }

    /// Opens a directory in the one that is hidden as a whole; makes it if need be.
    fn in_state(&mut self, name: &str) -> Result<OwnedFd, Errno> {
        let dir = self.state.as_ref().ok_or(Errno::NOENT)?.join(name);
        match open_exactly(&dir) {
            Err(Errno::NOENT) => {
                self.make_one(&dir);
                open_exactly(&dir)
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

/// A link there now was not when the sandbox was planned, which hides what it leads to.
fn open_exactly(dir: &Path) -> Result<OwnedFd, Errno> {
    open_own(dir, ResolveFlags::NO_SYMLINKS)
}

/// Makes the socket `ID.sock`. It gets this name when it listens: whoever sees it can
/// connect.
fn listen(directory: &OwnedFd, id: &str) -> Result<(OwnedFd, String), Errno> {
    let unfinished = format!("{id}{UNFINISHED}");
    let name = format!("{id}{SUFFIX}");
    // By descriptor: a socket's address is at most 107 bytes long (unix(7)).
    let path = format!("/proc/self/fd/{}/{unfinished}", directory.as_raw_fd());
    let listener = channel::listen(Path::new(&path))?;
    let finish = || {
        rustix::fs::chmodat(directory, &*unfinished, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
        rustix::fs::renameat(directory, &*unfinished, directory, &*name)
    };
    if let Err(errno) = finish() {
        rustix::fs::unlinkat(directory, &*unfinished, AtFlags::empty()).unwrap_or(());
        return Err(errno);
    }
    Ok((listener, name))
}

/// Eight letters and digits by chance: ids of sandboxes that have ended stand in logs, so
/// process ids would not do.
pub(crate) fn new_id() -> String {
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
    fn a_socket_that_has_its_name_answers() {
        let dir = std::env::temp_dir().join(format!("outside-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let opened = OwnedFd::from(std::fs::File::open(&dir).unwrap());
        let (listener, name) = listen(&opened, "a1").unwrap();
        let names = || -> Vec<_> {
            std::fs::read_dir(&dir).unwrap().map(|it| it.unwrap().file_name()).collect()
        };
        assert_eq!((name.as_str(), names()), ("a1.sock", vec!["a1.sock".into()]));
        std::os::unix::net::UnixStream::connect(dir.join(&name)).unwrap();
        drop((listener, Presence { directory: opened, name }));
        // Presence took its name away.
        std::fs::remove_dir(&dir).unwrap();
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
