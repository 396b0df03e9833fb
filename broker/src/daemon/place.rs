//! In which mount namespace a request acts: the kernel's word, never the peer's.

use super::rules::Who;
use crate::proto::{ErrorCode, Refusal};
use crate::reason::Reason;
use crate::sys::namespace::{self, Kind, owner, owner_uid};
use crate::sys::socket::peer_pidfd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};
use rustix::io::{Errno, Result as KernelResult, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::CapabilitySet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Which namespace: device and inode of its file.
pub(super) type NsId = (u64, u64);

/// A refusal in so many words.
pub(super) fn refusal(error: ErrorCode, message: impl Into<String>, hint: &str) -> Refusal {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    Refusal { error, message: message.into(), hint, holders: None }
}

/// What the daemon knows of the machine.
#[derive(Debug)]
pub(super) struct World {
    pub proc: OwnedFd,
    /// Mount namespaces that are the host's: the daemon's own, and that of process 1.
    host: Vec<NsId>,
    /// The daemon's own PID namespace, and its user namespace.
    pids: NsId,
    users: NsId,
    /// Whether it may enter mount namespaces without entering a user namespace first.
    pub privileged: bool,
}

/// A client's process, and the mount namespace that it connected from.
#[derive(Debug)]
pub(super) struct Home {
    /// Held from the first moment on: the number cannot come to name another process.
    pidfd: OwnedFd,
    pub id: NsId,
}

/// A mount namespace to act in, and what has been found out about it.
#[derive(Debug)]
pub(super) struct Place {
    pub id: NsId,
    pub mount: OwnedFd,
    /// The user namespace that owns it, to be entered first; none for the daemon's own.
    pub user: Option<OwnedFd>,
    pub is_host: bool,
    /// Who made it.
    pub owner: u32,
    /// The PID namespace of the process that it was found by, and that process.
    pub pids: NsId,
    pub pid: Pid,
}

impl World {
    pub fn new() -> KernelResult<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open(c"/proc", flags, Mode::empty())?;
        let mut host = vec![id_at(proc.as_fd(), "self/ns/mnt")?];
        // An ordinary user may not look; no sandbox of that user's is the host's then.
        host.extend(id_at(proc.as_fd(), "1/ns/mnt"));
        let pids = id_at(proc.as_fd(), "self/ns/pid")?;
        let users = id_at(proc.as_fd(), "self/ns/user")?;
        let sets = rustix::thread::capabilities(None)?;
        let privileged = sets.effective.contains(CapabilitySet::SYS_ADMIN);
        Ok(Self { proc, host, pids, users, privileged })
    }

    /// Pins the process that connected, and notes its mount namespace.
    pub fn receive(&self, stream: BorrowedFd<'_>, who: &Who) -> Result<Home, Refusal> {
        let pidfd = match peer_pidfd(stream) {
            Ok(pidfd) => pidfd,
            Err(Errno::NOPROTOOPT) => self.find_by_number(who)?,
            Err(_) => return Err(gone()),
        };
        let id = self.peer(&pidfd, who)?.namespace_id(Kind::Mount, "look at")?;
        Ok(Home { pidfd, id })
    }

    /// Before Linux 6.5. Who connected may have ended by now, and its number be another's:
    /// that one has to be the same user's at least.
    fn find_by_number(&self, who: &Who) -> Result<OwnedFd, Refusal> {
        let pidfd = pidfd_open(number(who)?, PidfdFlags::empty()).map_err(|_| gone())?;
        let is_same = self.peer(&pidfd, who)?.real_uid() == Some(who.peer.uid);
        if is_same { Ok(pidfd) } else { Err(gone()) }
    }

    pub fn is_host(&self, id: NsId) -> bool {
        self.host.contains(&id)
    }

    /// Where the process that connected is now; it has to be where it connected from.
    pub fn locate(&self, home: &Home, who: &Who) -> Result<Place, Refusal> {
        let place = self.place(&self.peer(&home.pidfd, who)?)?;
        if place.id != home.id {
            let message = "find the caller: it has changed its mount namespace since it connected";
            return Err(refusal(ErrorCode::Failed, message, "connect anew"));
        }
        Ok(place)
    }

    /// Where the process is that a caller on the host names: one of the caller's own.
    pub fn locate_named(&self, pid: u32, home: &Home, who: &Who) -> Result<Place, Refusal> {
        let denied = |why: &str| {
            let message = format!("find the sandbox of process {pid}: {why}");
            refusal(ErrorCode::NotAuthorised, message, "")
        };
        let caller = self.peer(&home.pidfd, who)?;
        if caller.namespace_id(Kind::Pid, "look at")? != self.pids {
            return Err(denied("the caller numbers processes in its own way"));
        }
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let none =
            || refusal(ErrorCode::UnknownTarget, format!("find process {pid}: there is none"), "");
        let number = number.ok_or_else(none)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).map_err(|_| none())?;
        let process = Process { number, pidfd: &pidfd, proc: self.proc.as_fd() };
        if process.real_uid() != Some(who.peer.uid) {
            return Err(denied("it is another user's"));
        }
        self.place(&process)
    }

    fn peer<'a>(&'a self, pidfd: &'a OwnedFd, who: &Who) -> Result<Process<'a>, Refusal> {
        Ok(Process { number: number(who)?, pidfd, proc: self.proc.as_fd() })
    }

    fn place(&self, process: &Process<'_>) -> Result<Place, Refusal> {
        let mount = process.namespace(Kind::Mount, "enter")?;
        let pids = process.namespace_id(Kind::Pid, "enter")?;
        let id = id_of(mount.as_fd()).map_err(|errno| unseen("enter", errno))?;
        let user = owner(mount.as_fd()).map_err(|errno| unseen("find the owner of", errno))?;
        let owner = owner_uid(user.as_fd()).map_err(|errno| unseen("find the owner of", errno))?;
        let of_user = id_of(user.as_fd()).map_err(|errno| unseen("enter", errno))?;
        let user = (of_user != self.users).then_some(user);
        Ok(Place { id, mount, user, is_host: self.is_host(id), owner, pids, pid: process.number })
    }
}

/// A process, pinned.
#[derive(Debug)]
struct Process<'a> {
    number: Pid,
    pidfd: &'a OwnedFd,
    /// The host's `/proc`.
    proc: BorrowedFd<'a>,
}

impl Process<'_> {
    /// Its directory in `/proc`.
    fn dir(&self) -> Result<OwnedFd, Refusal> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = self.number.as_raw_nonzero().get().to_string();
        let dir = openat(self.proc, name, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => gone(),
            errno => unseen("look at", errno),
        })?;
        // The directory is of the process that had the number when it was opened. If the
        // one of the pidfd has not ended by now, it had it all the time.
        self.check_alive()?;
        Ok(dir)
    }

    /// One of its namespaces, to do this with it.
    fn namespace(&self, kind: Kind, what: &str) -> Result<OwnedFd, Refusal> {
        match namespace::of_process(self.pidfd.as_fd(), kind) {
            Ok(opened) => Ok(opened),
            Err(Errno::SRCH) => Err(gone()),
            Err(Errno::NOTTY) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let opened = openat(self.dir()?, kind.path(), flags, Mode::empty());
                let opened = opened.map_err(|errno| unseen(what, errno))?;
                self.check_alive()?;
                Ok(opened)
            }
            Err(errno) => Err(unseen(what, errno)),
        }
    }

    fn namespace_id(&self, kind: Kind, what: &str) -> Result<NsId, Refusal> {
        let opened = self.namespace(kind, what)?;
        id_of(opened.as_fd()).map_err(|errno| unseen(what, errno))
    }

    fn check_alive(&self) -> Result<(), Refusal> {
        let mut fds = [PollFd::new(self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match retry_on_intr(|| poll(&mut fds, Some(&now))) {
            Ok(0) => Ok(()),
            _ => Err(gone()),
        }
    }

    fn real_uid(&self) -> Option<u32> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(self.dir().ok()?, "status", flags, Mode::empty()).ok()?;
        let text = std::io::read_to_string(std::fs::File::from(file)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        self.check_alive().ok()?;
        line.split_ascii_whitespace().next()?.parse().ok()
    }
}

fn gone() -> Refusal {
    refusal(ErrorCode::Failed, "find the caller: it has ended", "")
}

fn number(who: &Who) -> Result<Pid, Refusal> {
    let unknown = "find the caller: its process is not visible from here";
    who.peer.pid.ok_or_else(|| refusal(ErrorCode::Failed, unknown, ""))
}

fn id_at(dir: BorrowedFd<'_>, path: &str) -> KernelResult<NsId> {
    let stat = statat(dir, path, AtFlags::empty())?;
    Ok((stat.st_dev, stat.st_ino))
}

fn id_of(namespace: BorrowedFd<'_>) -> KernelResult<NsId> {
    let stat = rustix::fs::fstat(namespace)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn unseen(what: &str, errno: Errno) -> Refusal {
    let message = format!("{what} the process's namespaces: {:#}", Reason::from(errno));
    refusal(ErrorCode::NotAuthorised, message, "")
}
