//! The sandboxes that run, whoever made them: a process of the same user may enter the
//! namespaces of a sandbox that this user's processes made, and change its mounts there
//! (user_namespaces(7): whoever made a user namespace has all capabilities in it).

use super::Closed;
use crate::sys::mount::{self, Attributes, Reach};
use crate::sys::process::{self, Fork};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often and how long the kernel is asked again that says "busy": for an instant each
/// `mkdir` keeps a mount busy.
const TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(1);

/// A line of `mountinfo` (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    id: u64,
    device: String,
    /// What of the file system is mounted.
    root: PathBuf,
    point: PathBuf,
    read_only: bool,
}

/// A mount namespace of a sandbox, and a process in it.
#[derive(Debug)]
pub struct Sandbox {
    /// The process, for messages.
    pub pid: u32,
    /// Its name, for messages.
    pub name: String,
    namespace: u64,
}

/// What came of one mount.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is read-only now.
    Closed(Closed),
    /// A file on it is open for writing.
    Busy(PathBuf),
    /// The directory is part of a mount that is writable as a whole.
    Wider(PathBuf),
    /// The kernel refused.
    Refused(PathBuf, Errno),
}

fn parse(text: &[u8]) -> Vec<Line> {
    let line = |line: &[u8]| {
        let mut words = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let device = String::from_utf8(words.nth(1)?.to_vec()).ok()?;
        let (root, point) = (unescape(words.next()?), unescape(words.next()?));
        let read_only = words.next()?.split(|byte| *byte == b',').any(|option| option == b"ro");
        Some(Line { id, device, root, point, read_only })
    };
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Spaces and the like are octal there.
fn unescape(text: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        if *first == b'\\'
            && let [a @ b'0'..=b'7', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = after
        {
            path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            path.push(*first);
            rest = after;
        }
    }
    OsString::from_vec(path).into()
}

fn lines(process: &str) -> Result<Vec<Line>> {
    let text = std::fs::read(format!("/proc/{process}/mountinfo"));
    text.map(|text| parse(&text)).map_err(|error| io_errno(&error))
}

fn io_errno(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A directory, as any mount namespace knows it: a file system and a path in it.
#[derive(Debug)]
pub struct Place {
    device: String,
    root: PathBuf,
    path: PathBuf,
}

impl Place {
    /// Of a directory of this namespace, given without symlinks.
    ///
    /// # Errors
    /// As `open(2)`; `ENOENT` if it is on no mount that can be seen.
    pub fn of(path: &Path) -> Result<Self> {
        let fd = mount::open_exact(CWD, path)?;
        let id = mount::mount_id(fd.as_fd())?;
        let line = lines("self")?.into_iter().find(|line| line.id == id).ok_or(Errno::NOENT)?;
        let below = path.strip_prefix(&line.point).map_err(|_| Errno::NOENT)?;
        Ok(Self { device: line.device, root: join(&line.root, below), path: path.to_owned() })
    }
}

fn join(root: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { root.to_owned() } else { root.join(below) }
}

fn inode(path: String) -> Option<u64> {
    rustix::fs::statat(CWD, path, AtFlags::empty()).ok().map(|stat| stat.st_ino)
}

/// The sandboxes of this user that can be entered.
#[must_use]
pub fn sandboxes() -> Vec<Sandbox> {
    let own = inode("/proc/self/ns/mnt".to_owned());
    let mut found: Vec<Sandbox> = Vec::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        // Of those that belong to others this cannot be seen.
        let Some(namespace) = inode(format!("/proc/{pid}/ns/mnt")) else { continue };
        let known = found.iter().any(|sandbox| sandbox.namespace == namespace);
        if Some(namespace) == own || known || !is_sandbox(pid) {
            continue;
        }
        found.push(Sandbox { pid, name: name(pid), namespace });
    }
    found
}

fn name(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// Whether a process is in a sandbox: it has a user namespace of its own, or one that makes
/// sandboxes started it. Root's services may have mount namespaces of their own as well.
fn is_sandbox(pid: u32) -> bool {
    let own = inode("/proc/self/ns/user".to_owned());
    if inode(format!("/proc/{pid}/ns/user")) != own {
        return true;
    }
    let mut pid = pid;
    while pid > 1 {
        if ["bwrap", "remount-run"].contains(&&*name(pid)) {
            return true;
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        pid = parent.and_then(|parent| parent.parse().ok()).unwrap_or(0);
    }
    false
}

impl Sandbox {
    /// Makes a place read-only in it, wherever it is mounted writable.
    ///
    /// # Errors
    /// If the sandbox cannot be looked at; `ESRCH` and the like if it has ended.
    pub fn close(&self, place: &Place) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for line in lines(&self.pid.to_string())? {
            if line.device != place.device || line.read_only {
                continue;
            }
            if line.root.starts_with(&place.root) {
                let result = self.set(&line.point, line.id, Attributes::READ_ONLY);
                outcomes.push(match result {
                    Ok(()) => Outcome::Closed(Closed {
                        namespace: self.namespace,
                        mount: line.id,
                        path: place.path.clone(),
                    }),
                    Err(Errno::BUSY) => Outcome::Busy(line.point),
                    // Another mount covers it: nobody reaches it.
                    Err(Errno::STALE) => continue,
                    Err(errno) => Outcome::Refused(line.point, errno),
                });
            } else if let Ok(below) = place.root.strip_prefix(&line.root) {
                let path = join(&line.point, below);
                match self.inside(&path, line.id, Attributes::default()) {
                    Ok(()) => outcomes.push(Outcome::Wider(line.point)),
                    Err(Errno::STALE | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(errno) => outcomes.push(Outcome::Refused(path, errno)),
                }
            }
        }
        Ok(outcomes)
    }

    /// Makes those of `closed` writable again that are in it; tells which those are.
    ///
    /// # Errors
    /// As [`Self::close`].
    pub fn open(&self, closed: &[Closed]) -> Result<Vec<Closed>> {
        let mut opened = Vec::new();
        // Others are none of this, and may end while they are looked at.
        if !closed.iter().any(|it| it.namespace == self.namespace) {
            return Ok(opened);
        }
        for line in lines(&self.pid.to_string())? {
            let is = |it: &&Closed| it.namespace == self.namespace && it.mount == line.id;
            if let Some(closed) = closed.iter().find(is) {
                self.set(&line.point, line.id, Attributes::READ_WRITE)?;
                opened.push(closed.clone());
            }
        }
        Ok(opened)
    }

    fn set(&self, point: &Path, id: u64, attributes: Attributes) -> Result<()> {
        for _ in 0..TRIES {
            match self.inside(point, id, attributes) {
                Err(Errno::BUSY) => std::thread::sleep(PAUSE),
                result => return result,
            }
        }
        Err(Errno::BUSY)
    }

    /// In the sandbox's namespaces: finds `path` on the mount `id` and changes that mount,
    /// if there is anything to change. In a process of its own, which does nothing else.
    fn inside(&self, path: &Path, id: u64, attributes: Attributes) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let open = |name: &str| {
            rustix::fs::open(format!("/proc/{}/ns/{name}", self.pid), flags, Mode::empty())
        };
        let namespace = open("mnt")?;
        let owner = process::owner_of(namespace.as_fd())?;
        let act = || enter_and_set(&owner, &namespace, path, id, attributes);
        match process::fork()? {
            Fork::Child => process::exit(match act() {
                Ok(()) => 0,
                Err(errno) => errno.raw_os_error(),
            }),
            Fork::Parent(child) => {
                let ended = waitpid(Some(child), WaitOptions::empty())?;
                match ended.and_then(|(_, status)| status.exit_status()) {
                    Some(0) => Ok(()),
                    Some(errno) => Err(Errno::from_raw_os_error(errno)),
                    None => Err(Errno::IO),
                }
            }
        }
    }
}

fn enter_and_set(
    owner: &OwnedFd,
    namespace: &OwnedFd,
    path: &Path,
    id: u64,
    attributes: Attributes,
) -> Result<()> {
    let own = rustix::fs::stat("/proc/self/ns/user")?;
    let theirs = rustix::fs::fstat(owner)?;
    if (own.st_dev, own.st_ino) != (theirs.st_dev, theirs.st_ino) {
        move_into_link_name_space(owner.as_fd(), Some(LinkNameSpaceType::User))?;
    }
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let place = mount::open_exact(CWD, path)?;
    if mount::mount_id(place.as_fd())? != id {
        return Err(Errno::STALE);
    }
    if attributes == Attributes::default() {
        return Ok(());
    }
    mount::set_attributes(place.as_fd(), attributes, Reach::This)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_read() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402 ro,noatime master:1 - ext3 /dev/root rw\n\
                     66 43 0:39 / /a\\134b rw,ro_x - tmpfs tmpfs ro\nodd\n";
        let line = |id, device: &str, root: &str, point: &str, read_only| Line {
            id,
            device: device.to_owned(),
            root: root.into(),
            point: point.into(),
            read_only,
        };
        assert_eq!(
            parse(text),
            [line(36, "98:0", "/mnt1", "/mnt 2", true), line(66, "0:39", "/", "/a\\b", false)]
        );
    }

    #[test]
    fn a_place_is_a_path_in_a_file_system() {
        let place = Place::of(&std::env::current_dir().unwrap().canonicalize().unwrap()).unwrap();
        assert!(place.root.is_absolute() && place.device.contains(':'));
    }
}
