//! What a process keeps open for writing.

use super::process::{each_number, read};
use super::{Budget, Watched};
use crate::escape::Escaped;
use crate::name::TargetName;
use crate::proto::Hold;
use crate::sys::mount::mount_id_at;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Files listed of one process.
const MOST_OF_ONE: usize = 8;

/// What is held: target, path and way.
pub(super) type Held = (TargetName, String, Hold);

/// The files that `dir` (a process or a thread) has open for writing on one of `mounts`.
pub(super) fn descriptors(
    dir: BorrowedFd<'_>,
    mounts: &[Watched],
    budget: Budget,
    held: &mut Vec<Held>,
) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(infos) = openat(dir, c"fdinfo", flags, Mode::empty()) else { return };
    let listed = each_number(infos.as_fd(), |fd| {
        if held.len() >= MOST_OF_ONE || budget.is_spent() {
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

pub(super) fn threads(
    process: BorrowedFd<'_>,
    mounts: &[Watched],
    budget: Budget,
    held: &mut Vec<Held>,
) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(tasks) = openat(process, c"task", flags, Mode::empty()) else { return };
    let listed = each_number(tasks.as_fd(), |thread| {
        if let Ok(task) = openat(&tasks, thread.to_string(), flags, Mode::empty()) {
            descriptors(task.as_fd(), mounts, budget, held);
        }
        held.len() < MOST_OF_ONE && !budget.is_spent()
    });
    listed.unwrap_or(());
}

/// The mount of a descriptor that is open for writing (proc_pid_fdinfo(5)).
pub(super) fn writable_mount(info: &[u8]) -> Option<u64> {
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
pub(super) fn mappings(process: BorrowedFd<'_>, mounts: &[Watched], held: &mut Vec<Held>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::watched;
    use crate::target::Member;
    use std::path::Path;
    use std::time::{Duration, Instant};

    #[test]
    fn a_writer_of_this_process_is_found_and_a_reader_is_not() {
        let dir = std::env::temp_dir().join(format!("holders-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let root = rustix::fs::open(&dir, OFlags::PATH, Mode::empty()).unwrap();
        let mounts = [watched(&"t".parse().unwrap(), &Member::new(root, dir.clone())).unwrap()];
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let this = rustix::fs::open("/proc/self", flags, Mode::empty()).unwrap();
        let mine = |path: &str| {
            let (work, end) = (Duration::MAX, Instant::now() + Duration::from_secs(60));
            let mut held = Vec::new();
            descriptors(this.as_fd(), &mounts, Budget { work, end }, &mut held);
            held.iter().any(|(_, held, kind)| held.ends_with(path) && *kind == Hold::Open)
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
    }
}
