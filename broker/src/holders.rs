//! Who keeps files of a mount open for writing, and on which side a process is.
//!
//! The broker stands outside the sandbox's PID namespace and keeps the host's `/proc`,
//! opened before the sandbox had a root of its own. Every question about a process goes
//! through a descriptor of its directory there: that names this one process for ever, so
//! neither an answer nor a signal can reach another one that got its number later.
//!
//! A search is bounded in time and in what it lists: how many processes and files there
//! are is the sandbox's choice.

use crate::escape::Escaped;
use crate::name::TargetName;
use crate::proto::{Hold, Holder, Holders};
use crate::sys::mount::mount_id_at;
use crate::sys::process::parent_pid_namespace;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, openat, statat};
use rustix::io::{Errno, Result};
use rustix::process::{Pid, Signal};
use std::ffi::{CStr, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The longest a search may take: nobody else is served meanwhile.
const LIMIT: Duration = Duration::from_millis(60);

/// The most holders listed.
const MOST: usize = 64;

/// Files listed of one process.
const MOST_OF_ONE: usize = 8;

/// Characters kept of a command line.
const COMMAND: usize = 200;

/// Clock ticks a second in `/proc/PID/stat`: the same on every architecture that we run
/// on (`USER_HZ`, include/uapi/asm-generic/param.h).
const TICKS: u64 = 100;

/// PID namespaces lie at most this deep in each other (`MAX_PID_NS_LEVEL`).
const DEPTH: usize = 32;

/// Which namespace: device and inode of its file in `/proc/PID/ns`.
type Namespace = (u64, u64);

/// Looks at processes.
#[derive(Debug)]
pub struct Inspector {
    proc: OwnedFd,
    /// The broker's own PID namespace.
    own: Namespace,
    /// The sandbox's.
    sandbox: Namespace,
    /// How many ids a process has that is in the broker's own.
    depth: usize,
}

/// A mount whose holders are looked for.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    /// The target that it belongs to.
    pub target: TargetName,
    /// `stx_mnt_id`.
    pub mount: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// A process that was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// What is said of it, one for each file.
    pub holders: Vec<Holder>,
    /// Its directory in `/proc`, for signals.
    process: OwnedFd,
    /// Whether it is a process of the sandbox, and not its init.
    pub is_inside: bool,
}

/// The outcome of a search.
#[derive(Debug, Default)]
pub(crate) struct Search {
    pub found: Vec<Found>,
    pub more: bool,
}

impl Search {
    /// As it is reported.
    pub fn report(&self) -> Holders {
        let holders = self.found.iter().flat_map(|found| found.holders.iter().cloned());
        Holders { holders: holders.take(MOST).collect(), more: self.more }
    }
}

impl Found {
    /// Signals this process: by its directory, which is as good as a pidfd
    /// (pidfd_send_signal(2)), so never another one.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::pidfd_send_signal(&self.process, signal)
    }

    /// Its process id outside.
    pub fn pid(&self) -> i32 {
        self.holders.first().map_or(0, |holder| holder.pid)
    }
}

impl Inspector {
    /// Looks through `proc`, the root of the process file system outside, for processes in
    /// the PID namespace `sandbox` (device and inode of its file in `/proc/PID/ns`).
    ///
    /// # Errors
    /// `proc` is no process file system, or not one that shows this process.
    pub fn new(proc: OwnedFd, sandbox: (u64, u64)) -> Result<Self> {
        let own = namespace(proc.as_fd(), c"self/ns/pid")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let this = openat(&proc, c"self", flags, Mode::empty())?;
        let depth = inner_ids(this.as_fd()).len();
        Ok(Self { proc, own, sandbox, depth })
    }

    /// Whether the process with this id outside is no process of any sandbox: it lies in
    /// no PID namespace below the broker's. Told by how many ids it has, which anybody may
    /// read; its namespaces themselves a broker in a user namespace may not look at.
    pub(crate) fn is_outside(&self, pid: Pid) -> bool {
        let ids = self
            .process(pid.as_raw_nonzero().get())
            .map(|process| inner_ids(process.as_fd()).len())
            .unwrap_or(usize::MAX);
        (1..=self.depth).contains(&ids)
    }

    /// The command line of a process outside, as printable text.
    pub(crate) fn command(&self, pid: Pid) -> String {
        let process = self.process(pid.as_raw_nonzero().get());
        process.map(|process| command(process.as_fd())).unwrap_or_default()
    }

    /// The ids, outside, of a process and its ancestors.
    pub(crate) fn lineage(&self, pid: Pid) -> Vec<i32> {
        let mut lineage = vec![pid.as_raw_nonzero().get()];
        while let Some(&last) = lineage.last()
            && lineage.len() < 256
        {
            let stat = self.process(last).and_then(|process| Stat::of(process.as_fd()));
            match stat {
                Ok(stat) if stat.parent > 0 && !lineage.contains(&stat.parent) => {
                    lineage.push(stat.parent);
                }
                _ => break,
            }
        }
        lineage
    }

    /// Who holds these mounts. Processes of the sandbox are looked at first; their single
    /// threads, and then other processes, only if none of those is it.
    pub(crate) fn search(&self, mounts: &[Watched]) -> Search {
        let end = Instant::now() + LIMIT;
        let mut search = Search::default();
        for pass in [Pass::Processes, Pass::Threads, Pass::Others] {
            let done = self.pass(pass, mounts, end, &mut search);
            search.more |= !done;
            if !search.found.is_empty() || search.more {
                break;
            }
        }
        search
    }

    /// `false` if it was cut short.
    fn pass(&self, pass: Pass, mounts: &[Watched], end: Instant, search: &mut Search) -> bool {
        let mut done = true;
        // A directory that cannot be read has nothing to tell.
        let listed = each_number(self.proc.as_fd(), |pid| {
            done = Instant::now() < end && search.found.len() < MOST;
            if !done {
                return false;
            }
            // A look by number first: most processes of a machine are not meant.
            let space = namespace_at(self.proc.as_fd(), format!("{pid}/ns/pid"));
            let skip = match pass {
                Pass::Others => space == Ok(self.sandbox),
                Pass::Processes | Pass::Threads => {
                    space.is_err() || space == Ok(self.own) && self.own != self.sandbox
                }
            };
            if skip {
                return true;
            }
            let Ok(process) = self.process(pid) else { return true };
            let is_inside = self.is_in_sandbox(process.as_fd());
            if is_inside == matches!(pass, Pass::Others) {
                return true;
            }
            let mut holders = Vec::new();
            if pass == Pass::Threads {
                threads(process.as_fd(), mounts, end, &mut holders);
            } else {
                descriptors(process.as_fd(), mounts, end, &mut holders);
                mappings(process.as_fd(), mounts, &mut holders);
            }
            if !holders.is_empty() {
                search.found.push(describe(self.proc.as_fd(), process, pid, is_inside, holders));
            }
            true
        });
        done && listed.is_ok()
    }

    fn process(&self, pid: i32) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.proc, pid.to_string(), flags, Mode::empty())
    }

    /// Whether a process is in the sandbox's PID namespace or in one below it.
    fn is_in_sandbox(&self, process: BorrowedFd<'_>) -> bool {
        match namespace(process, c"ns/pid") {
            Ok(space) if space == self.sandbox => true,
            Ok(space) if space == self.own => false,
            Ok(_) => self.is_below_sandbox(process),
            Err(_) => false,
        }
    }

    fn is_below_sandbox(&self, process: BorrowedFd<'_>) -> bool {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(mut space) = openat(process, c"ns/pid", flags, Mode::empty()) else { return false };
        for _ in 0..DEPTH {
            match rustix::fs::fstat(&space) {
                Ok(stat) if (stat.st_dev, stat.st_ino) == self.sandbox => return true,
                Ok(stat) if (stat.st_dev, stat.st_ino) == self.own => return false,
                _ => {}
            }
            match parent_pid_namespace(space.as_fd()) {
                Ok(parent) => space = parent,
                Err(_) => return false,
            }
        }
        false
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// The sandbox's processes.
    Processes,
    /// Their threads: one may have descriptors of its own.
    Threads,
    /// All other processes: one may have been sent a descriptor.
    Others,
}

/// What is held: target, path and way.
type Held = (TargetName, String, Hold);

fn namespace(dir: BorrowedFd<'_>, path: &CStr) -> Result<Namespace> {
    namespace_at(dir, path)
}

fn namespace_at(dir: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<Namespace> {
    let stat = statat(dir, path, AtFlags::empty())?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Calls `each` with every entry of `dir` that is a number, until it says `false`.
fn each_number(dir: BorrowedFd<'_>, mut each: impl FnMut(i32) -> bool) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(dir, c".", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let number = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
        if let Some(number) = number
            && !each(number)
        {
            break;
        }
    }
    Ok(())
}

/// The first `limit` bytes of a file of `/proc`.
fn read(dir: BorrowedFd<'_>, path: impl rustix::path::Arg, limit: usize) -> Result<Vec<u8>> {
    let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    let mut chunk = [0_u8; 4096];
    while bytes.len() < limit {
        match rustix::io::read(&file, &mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(limit);
    Ok(bytes)
}

/// The files that `dir` (a process or a thread) has open for writing on one of `mounts`.
fn descriptors(dir: BorrowedFd<'_>, mounts: &[Watched], end: Instant, held: &mut Vec<Held>) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(infos) = openat(dir, c"fdinfo", flags, Mode::empty()) else { return };
    let listed = each_number(infos.as_fd(), |fd| {
        if held.len() >= MOST_OF_ONE || Instant::now() >= end {
            return false;
        }
        let info = read(infos.as_fd(), fd.to_string(), 512).unwrap_or_default();
        let mount = writable_mount(&info);
        if let Some(watched) = mounts.iter().find(|watched| Some(watched.mount) == mount) {
            let path = rustix::fs::readlinkat(dir, format!("fd/{fd}"), Vec::new());
            let path = path.map(|path| OsString::from_vec(path.into_bytes())).unwrap_or_default();
            add(held, watched, &path, Hold::Open);
        }
        true
    });
    // A process that ends meanwhile holds nothing.
    listed.unwrap_or(());
}

fn threads(process: BorrowedFd<'_>, mounts: &[Watched], end: Instant, held: &mut Vec<Held>) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(tasks) = openat(process, c"task", flags, Mode::empty()) else { return };
    let listed = each_number(tasks.as_fd(), |thread| {
        if let Ok(task) = openat(&tasks, thread.to_string(), flags, Mode::empty()) {
            descriptors(task.as_fd(), mounts, end, held);
        }
        held.len() < MOST_OF_ONE && Instant::now() < end
    });
    listed.unwrap_or(());
}

/// The mount of a descriptor that is open for writing (proc_pid_fdinfo(5)).
fn writable_mount(info: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(info).ok()?;
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_ascii);
    let flags = i32::from_str_radix(field("flags:")?, 8).ok()?;
    let writes = matches!(flags & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR);
    if !writes || flags & libc::O_PATH != 0 {
        return None;
    }
    field("mnt_id:")?.parse().ok()
}

/// The files that a process has mapped from a descriptor that was open for writing. The
/// paths in `maps` are as this process, whose root is the sandbox's, would name them.
fn mappings(process: BorrowedFd<'_>, mounts: &[Watched], held: &mut Vec<Held>) {
    let maps = read(process, c"maps", 1 << 20).unwrap_or_default();
    for line in maps.split(|byte| *byte == b'\n') {
        if held.len() >= MOST_OF_ONE {
            return;
        }
        let Some(mapping) = Mapping::parse(line) else { continue };
        let below = |watched: &&Watched| mapping.path.starts_with(&watched.path);
        if !mounts.iter().any(|watched| below(&watched)) || !mapping.is_writable(process) {
            continue;
        }
        let Some(mount) = mapping.mount() else { continue };
        if let Some(watched) = mounts.iter().find(|watched| watched.mount == mount) {
            add(held, watched, mapping.path.as_os_str(), Hold::Mapped);
        }
    }
}

/// A line of `/proc/PID/maps`.
struct Mapping<'a> {
    range: &'a str,
    permissions: &'a str,
    path: PathBuf,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let slash = line.iter().position(|byte| *byte == b'/')?;
        let (head, path) = line.split_at(slash);
        let mut fields = std::str::from_utf8(head).ok()?.split_ascii_whitespace();
        let (range, permissions) = (fields.next()?, fields.next()?);
        // Only a newline is escaped there, as \012.
        let mut bytes = Vec::with_capacity(path.len());
        let mut rest = path;
        while let Some((&first, tail)) = rest.split_first() {
            let newline = rest.starts_with(b"\\012");
            bytes.push(if newline { b'\n' } else { first });
            rest = if newline { &rest[4..] } else { tail };
        }
        Some(Self { range, permissions, path: OsString::from_vec(bytes).into() })
    }

    /// Whether its file was opened for writing: the permissions of the link in
    /// `map_files` are those of the open file (`proc_map_files_instantiate`,
    /// fs/proc/base.c), whatever those of the mapping are. Where the kernel has no such
    /// directory, those of the mapping have to do.
    fn is_writable(&self, process: BorrowedFd<'_>) -> bool {
        let trimmed = |text: &str| match text.trim_start_matches('0') {
            "" => "0".to_owned(),
            text => text.to_owned(),
        };
        let range =
            self.range.split_once('-').map(|(a, b)| format!("{}-{}", trimmed(a), trimmed(b)));
        let stat = range
            .map(|range| statat(process, format!("map_files/{range}"), AtFlags::SYMLINK_NOFOLLOW));
        match stat {
            Some(Ok(stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                stat.st_mode & 0o200 != 0
            }
            _ => self.permissions.starts_with("rw") && self.permissions.ends_with('s'),
        }
    }

    /// The mount that its path is on; if the file is no more, that of the nearest
    /// directory that is.
    fn mount(&self) -> Option<u64> {
        self.path.ancestors().find_map(|path| mount_id_at(CWD, path).ok())
    }
}

fn add(held: &mut Vec<Held>, watched: &Watched, path: &OsStr, kind: Hold) {
    let item = (watched.target.clone(), Escaped::os(path).to_string(), kind);
    if !held.contains(&item) {
        held.push(item);
    }
}

fn describe(
    proc: BorrowedFd<'_>,
    process: OwnedFd,
    pid: i32,
    is_inside: bool,
    held: Vec<Held>,
) -> Found {
    // The second id, after the one outside.
    let inner = || inner_ids(process.as_fd()).get(1).copied();
    let pid_inside = if is_inside { inner() } else { None };
    let command = command(process.as_fd());
    let since = Stat::of(process.as_fd()).ok().and_then(|stat| stat.started(proc)).unwrap_or(0);
    let holder = |(target, path, kind)| Holder {
        target,
        pid,
        pid_inside,
        command: command.clone(),
        path,
        kind,
        since,
    };
    let holders = held.into_iter().map(holder).collect();
    Found { holders, process, is_inside: is_inside && pid_inside != Some(1) }
}

/// The ids of a process in its PID namespaces, from that of this `/proc` inwards.
fn inner_ids(process: BorrowedFd<'_>) -> Vec<i32> {
    let status = read(process, c"status", 4096).unwrap_or_default();
    let text = String::from_utf8_lossy(&status);
    let ids = text.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    ids.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// The command line as printable text, shortened; of one that is empty, the name.
fn command(process: BorrowedFd<'_>) -> String {
    let line = read(process, c"cmdline", 4 * COMMAND).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
    let mut text = Escaped::os(OsStr::from_bytes(&words.join(&b' '))).to_string();
    if text.is_empty() {
        let name = read(process, c"comm", 64).unwrap_or_default();
        text = format!("[{}]", Escaped::os(OsStr::from_bytes(name.trim_ascii_end())));
    }
    match text.char_indices().nth(COMMAND) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What of `/proc/PID/stat` matters here.
struct Stat {
    parent: i32,
    /// Since the machine started, in ticks.
    start: u64,
}

impl Stat {
    fn of(process: BorrowedFd<'_>) -> Result<Self> {
        let bytes = read(process, c"stat", 2048)?;
        Self::parse(&String::from_utf8_lossy(&bytes)).ok_or(Errno::INVAL)
    }

    /// The name in it is anybody's, and may hold blanks and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let start = fields.nth(17)?.parse().ok()?;
        Some(Self { parent, start })
    }

    /// In seconds since 1970; `proc` tells how long the machine has been up.
    fn started(&self, proc: BorrowedFd<'_>) -> Option<u64> {
        let uptime = String::from_utf8(read(proc, c"uptime", 64).ok()?).ok()?;
        let up: u64 = uptime.split('.').next()?.parse().ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(now.saturating_sub(up.saturating_sub(self.start / TICKS)))
    }
}

/// What is watched of a mount.
pub(crate) fn watched(target: &TargetName, fd: BorrowedFd<'_>, path: &Path) -> Option<Watched> {
    let mount = crate::sys::mount::mount_id(fd).ok()?;
    Some(Watched { target: target.clone(), mount, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Inspector {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty()).unwrap();
        let own = namespace(proc.as_fd(), c"self/ns/pid").unwrap();
        Inspector::new(proc, own).unwrap()
    }

    #[test]
    fn a_writer_of_this_process_is_found_and_a_reader_is_not() {
        let dir = std::env::temp_dir().join(format!("holders-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let root = rustix::fs::open(&dir, OFlags::PATH, Mode::empty()).unwrap();
        let mount = watched(&"t".parse().unwrap(), root.as_fd(), &dir).unwrap();
        let mine = |path: &str| {
            let search = here().search(std::slice::from_ref(&mount)).report();
            let pid = i32::try_from(std::process::id()).unwrap();
            search.holders.into_iter().any(|it| it.pid == pid && it.path.ends_with(path))
        };
        let writer = std::fs::File::create(dir.join("a\n")).unwrap();
        let reader = std::fs::File::open(dir.join("a\n")).unwrap();
        assert!(mine(r"a\n"));
        drop(writer);
        assert!(!mine(r"a\n"));
        drop(reader);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_the_kernel_prints_is_read() {
        let info = |flags: &str| format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t29\nino:\t5\n");
        assert_eq!(writable_mount(info("0100001").as_bytes()), Some(29));
        assert_eq!(writable_mount(info("02").as_bytes()), Some(29));
        for other in ["0100000", "012000002", "x", ""] {
            assert_eq!(writable_mount(info(other).as_bytes()), None, "{other}");
        }
        let line = b"7f0000-7f1000 rw-s 00000000 fe:00 12                     /a b\\012c (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!(mapping.path, Path::new("/a b\nc (deleted)"));
        assert_eq!((mapping.range, mapping.permissions), ("7f0000-7f1000", "rw-s"));
        let stat =
            Stat::parse("7 (a) b) (c) S 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0").unwrap();
        assert_eq!((stat.parent, stat.start), (3, 4242));
        assert!(Stat::parse("").is_none());
    }

    #[test]
    fn lineage_ends_with_the_first_process() {
        let me = rustix::process::getpid();
        let lineage = here().lineage(me);
        assert_eq!(lineage[0], me.as_raw_nonzero().get());
        assert!(lineage.len() > 1);
    }
}
