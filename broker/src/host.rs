//! The sandboxes of this user, seen from outside.
//!
//! Each has a socket `ID.sock` in a directory that only this user can enter, and that no
//! sandbox shows ([`Places`]). The socket is all there is: what is to be known of a
//! sandbox its broker tells, so nothing can be out of date. Nobody answers at the socket
//! of one that is gone; it is then removed.

use crate::channel::{Connection, NoBroker};
use crate::client::{Client, ClientError, Status};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::{Errno, Result};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The directory of sockets in [`Places::state`].
pub const RUN: &str = "run";

/// The directory of event logs in [`Places::state`].
pub const LOG: &str = "log";

/// What a socket's name ends with.
pub const SUFFIX: &str = ".sock";

/// What its name ends with until somebody listens at it. A launcher that is killed just
/// then leaves it.
pub const UNFINISHED: &str = ".new";

/// What is unfinished is removed once it is older.
const FRESH: Duration = Duration::from_secs(10);

/// Where sandboxes are found, and what they leave behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The directory that sockets are in, in the one for the user's session, if there is one.
    pub runtime: Option<PathBuf>,
    /// The directory that sockets are in otherwise.
    pub run: PathBuf,
    /// The directory of event logs.
    pub log: PathBuf,
    /// All of [`Self::log`] and [`Self::run`]: what no sandbox may show.
    pub state: PathBuf,
}

impl Places {
    /// As `XDG_RUNTIME_DIR`, `XDG_STATE_HOME` and the home directory say (XDG Base
    /// Directory Specification: what is not absolute is ignored).
    pub fn of(variable: impl Fn(&str) -> Option<OsString>, home: &Path) -> Self {
        let path = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = path("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state"));
        let state = state.join("remount");
        let runtime = path("XDG_RUNTIME_DIR").map(|dir| dir.join("remount"));
        Self { runtime, run: state.join(RUN), log: state.join(LOG), state }
    }

    /// Those of this process's environment; `None` without a home directory.
    #[must_use]
    pub fn here() -> Option<Self> {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        Some(Self::of(|name| std::env::var_os(name), &home?))
    }
}

/// A sandbox that runs.
#[derive(Debug)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// A connection to its broker.
    pub client: Client,
    /// What it said of itself.
    pub status: Status,
}

/// A socket at which nobody answers any more.
#[derive(Debug)]
pub struct Dead {
    dir: Rc<OwnedFd>,
    name: String,
    /// Where it is.
    pub path: PathBuf,
}

impl Dead {
    /// Removes it. If another process was faster, it is gone all the same.
    pub fn remove(&self) {
        rustix::fs::unlinkat(&*self.dir, &*self.name, AtFlags::empty()).unwrap_or(());
    }
}

/// Every sandbox that answers, the oldest first. Removes what others have left.
#[must_use]
pub fn running(places: &Places, timeout: Duration) -> Vec<Running> {
    let (running, dead) = find(places, timeout);
    dead.iter().for_each(Dead::remove);
    running
}

/// Every sandbox that answers, the oldest first, and what others have left.
#[must_use]
pub fn find(places: &Places, timeout: Duration) -> (Vec<Running>, Vec<Dead>) {
    let (mut all, mut dead): (Vec<Running>, Vec<Dead>) = (Vec::new(), Vec::new());
    for path in places.runtime.iter().chain([&places.run]) {
        let Ok(dir) = open_own(path, ResolveFlags::empty()) else { continue };
        let dir = Rc::new(dir);
        for name in names(&dir).unwrap_or_default() {
            let is_dead = match name.strip_suffix(SUFFIX) {
                None => name.ends_with(UNFINISHED) && is_old(&dir, &name),
                Some(id) => match connect(&dir, id, timeout) {
                    Ok((client, status)) => {
                        all.push(Running { id: id.to_owned(), client, status });
                        false
                    }
                    Err(ClientError::NoBroker(NoBroker { errno, .. })) => {
                        errno == Errno::CONNREFUSED
                    }
                    // One that is busy starting or ending.
                    Err(_) => false,
                },
            };
            if is_dead {
                dead.push(Dead { dir: Rc::clone(&dir), path: path.join(&name), name });
            }
        }
    }
    let started = |it: &Running| it.status.sandbox.as_ref().map(|info| info.started);
    all.sort_by_cached_key(|it| (started(it), it.id.clone()));
    (all, dead)
}

/// Opens a directory that belongs to this user and that nobody else can enter; a last
/// symlink is not followed.
///
/// # Errors
/// As `open(2)`; `EACCES` if it is another's, or open to others.
pub fn open_own(dir: &Path, resolve: ResolveFlags) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat2(CWD, dir, flags, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&fd)?;
    let is_own = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o077 == 0;
    if is_own { Ok(fd) } else { Err(Errno::ACCESS) }
}

/// The names in `dir` that are an id and an ending.
fn names(dir: &OwnedFd) -> Result<Vec<String>> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(dir.as_fd(), &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        let id = name.and_then(|name| Some(name.split_once('.')?.0));
        names.extend(name.filter(|_| id.is_some_and(is_id)).map(str::to_owned));
    }
    Ok(names)
}

/// Whether this can be a sandbox's id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !text.is_empty() && text.len() <= 32 && text.bytes().all(fits)
}

fn connect(
    dir: &OwnedFd,
    id: &str,
    timeout: Duration,
) -> std::result::Result<(Client, Status), ClientError> {
    // By descriptor: a socket's address is at most 107 bytes long (unix(7)).
    let path = format!("/proc/self/fd/{}/{id}{SUFFIX}", dir.as_raw_fd());
    let mut client: Client = Connection::open_at(Path::new(&path), timeout)?.into();
    let status = client.status()?;
    Ok((client, status))
}

fn is_old(dir: &OwnedFd, name: &str) -> bool {
    let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    let made = UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    SystemTime::now().duration_since(made).is_ok_and(|age| age > FRESH)
}

/// Why no single sandbox was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOne {
    /// There is none.
    #[error("find a sandbox: none of yours is running")]
    None,
    /// There is none like this.
    #[error("find sandbox {0}: none of yours has this id or directory")]
    Unknown(String),
    /// There are several.
    #[error("choose a sandbox: {} are running", .0.len())]
    Several(Vec<String>),
}

/// The one sandbox that is meant: by id or its beginning, or by a directory that it was
/// started in or that is in one of its targets; if nothing is said, by `cwd`, or the only
/// one there is.
///
/// # Errors
/// None or several are meant.
pub fn choose(
    mut all: Vec<Running>,
    wanted: Option<&OsStr>,
    cwd: Option<&Path>,
) -> std::result::Result<Running, NotOne> {
    let ids = |list: &[Running]| list.iter().map(|it| it.id.clone()).collect();
    if all.is_empty() {
        return Err(NotOne::None);
    }
    if let Some(wanted) = wanted {
        let text = wanted.to_string_lossy();
        let mut found: Vec<_> = all.extract_if(.., |it| it.id.starts_with(&*text)).collect();
        if found.is_empty()
            && let Ok(dir) = std::fs::canonicalize(wanted)
        {
            found = nearest(all, &dir);
        }
        return match found.len() {
            0 => Err(NotOne::Unknown(crate::escape::Escaped::os(wanted).to_string())),
            1 => Ok(found.remove(0)),
            _ => Err(NotOne::Several(ids(&found))),
        };
    }
    if all.len() > 1
        && let Some(cwd) = cwd
    {
        let everything = ids(&all);
        all = nearest(all, cwd);
        if all.len() != 1 {
            return Err(NotOne::Several(everything));
        }
    }
    Ok(all.remove(0))
}

/// The sandboxes that `dir` is about most closely.
fn nearest(all: Vec<Running>, dir: &Path) -> Vec<Running> {
    let shown = crate::escape::Escaped::path(dir).to_string();
    let closeness = |it: &Running| {
        let cwd = it.status.sandbox.as_ref().map(|info| PathBuf::from(&info.cwd));
        let places = it.status.targets.iter().map(|target| target.path.clone()).chain(cwd);
        let around = places.filter(|place| Path::new(&shown).starts_with(place));
        around.map(|place| place.components().count()).max().unwrap_or(0)
    };
    let best = all.iter().map(closeness).max().unwrap_or(0);
    all.into_iter().filter(|it| best > 0 && closeness(it) == best).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_the_environment() {
        let with = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            let get = move |name: &str| {
                pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.into())
            };
            Places::of(get, Path::new("/h"))
        };
        let plain = with(&[("XDG_RUNTIME_DIR", ""), ("XDG_STATE_HOME", "x")]);
        assert_eq!((plain.runtime, plain.run), (None, "/h/.local/state/remount/run".into()));
        assert_eq!(plain.log, Path::new("/h/.local/state/remount/log"));
        let set = with(&[("XDG_RUNTIME_DIR", "/r"), ("XDG_STATE_HOME", "/s")]);
        let runtime = Some(PathBuf::from("/r/remount"));
        assert_eq!((set.runtime, set.run), (runtime, "/s/remount/run".into()));
    }

    #[test]
    fn ids_are_plain() {
        assert!(is_id("a1b2"));
        for bad in ["", "A", "../x", "a.b", &"x".repeat(33)] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
