//! What can be seen of a process outside, through its directory in `/proc`.

use remount_broker::escape::Escaped;
use remount_broker::sys::notify::Notice;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, pread};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// The longest path that the kernel takes, and the longest argument that is written down.
const LONGEST: usize = 4096;

/// The most arguments, and the most of their bytes, that are written down.
const MOST_ARGUMENTS: usize = 1024;
const MOST_BYTES: usize = 16 << 10;

/// `PROC_SUPER_MAGIC`, include/uapi/linux/magic.h.
const PROC: u64 = 0x9fa0;

/// Text of the sandbox's as it is written: distinct bytes stay distinct.
pub(super) fn shown(bytes: &[u8]) -> String {
    Escaped::os(OsStr::from_bytes(bytes)).to_string()
}

/// What a call of `execve(2)` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub path: Vec<u8>,
    pub arguments: Vec<Vec<u8>>,
    /// There is more than this.
    pub is_truncated: bool,
}

impl Asked {
    /// As much of it as is written down.
    pub fn of(path: Vec<u8>, arguments: impl Iterator<Item = Vec<u8>>) -> Self {
        let mut asked = Self { path, arguments: Vec::new(), is_truncated: false };
        let mut left = MOST_BYTES;
        for mut argument in arguments {
            if asked.arguments.len() == MOST_ARGUMENTS || left == 0 {
                asked.is_truncated = true;
                break;
            }
            let most = LONGEST.min(left);
            asked.is_truncated |= argument.len() > most;
            argument.truncate(most);
            left -= argument.len();
            asked.arguments.push(argument);
        }
        asked
    }
}

/// Where a path leads, as far as that is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// The file's path without symlinks.
    To(Vec<u8>),
    /// There is nothing, for sure.
    Nowhere,
    Unknown,
}

/// A process, by a directory that names it for ever.
#[derive(Debug)]
pub(super) struct Process {
    dir: OwnedFd,
}

/// What changes when a process executes a program: where its stack, arguments and
/// environment lie (`/proc/PID/stat`, fields 28 and 48 to 51), at random for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image([u64; 5]);

impl Process {
    pub fn open(proc: BorrowedFd<'_>, pid: i32) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { dir: rustix::fs::openat(proc, pid.to_string(), flags, Mode::empty())? })
    }

    fn file(&self, name: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// The first bytes of a file, at most so many.
    fn text(&self, name: &str, most: usize) -> Result<Vec<u8>, Errno> {
        let file = self.file(name)?;
        let mut text = vec![0; most];
        let mut length = 0;
        while length < text.len() {
            match rustix::io::read(&file, &mut text[length..])? {
                0 => break,
                count => length += count,
            }
        }
        text.truncate(length);
        Ok(text)
    }

    fn link(&self, name: &str) -> Option<Vec<u8>> {
        let target = rustix::fs::readlinkat(&self.dir, name, Vec::new()).ok()?;
        Some(target.into_bytes())
    }

    pub fn cwd(&self) -> Option<Vec<u8>> {
        self.link("cwd")
    }

    /// The program that it runs.
    pub fn executable(&self) -> Option<Vec<u8>> {
        self.link("exe")
    }

    /// The arguments that the program was given, if there are any.
    pub fn arguments(&self) -> Option<Asked> {
        let text = self.text("cmdline", MOST_BYTES + MOST_ARGUMENTS).ok()?;
        if text.is_empty() {
            return None;
        }
        let text = text.strip_suffix(b"\0").unwrap_or(&text);
        Some(Asked::of(Vec::new(), text.split(|byte| *byte == 0).map(<[u8]>::to_vec)))
    }

    /// Its number outside, which a thread has from its process, and inside.
    pub fn numbers(&self) -> Option<(i32, i32)> {
        let status = String::from_utf8_lossy(&self.text("status", MOST_BYTES).ok()?).into_owned();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let inside = field("NSpid:")?.split_whitespace().next_back()?;
        Some((field("Tgid:")?.trim().parse().ok()?, inside.parse().ok()?))
    }

    /// The fields of `/proc/PID/stat` after the name: the first is the third, as
    /// proc_pid_stat(5) counts.
    fn stat(&self) -> Option<Vec<String>> {
        let stat = String::from_utf8_lossy(&self.text("stat", LONGEST).ok()?).into_owned();
        let (_, rest) = stat.rsplit_once(") ")?;
        Some(rest.split_whitespace().map(str::to_owned).collect())
    }

    /// `None` if it has ended, or cannot be looked at.
    pub fn image(&self) -> Option<Image> {
        let fields = self.stat()?;
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        let image = [field(28)?, field(48)?, field(49)?, field(50)?, field(51)?];
        (image != [0; 5]).then_some(Image(image))
    }

    /// How it ended, as `wait(2)` encodes it, if it has ended and not been buried.
    pub fn ended(&self) -> Option<i32> {
        let fields = self.stat()?;
        (fields.first()? == "Z").then(|| fields.get(52 - 3)?.parse().ok())?
    }

    /// Reads what a call asks for, from the memory of its thread.
    pub fn asked(&self, notice: &Notice) -> Result<Asked, Errno> {
        let memory = self.file("mem")?;
        let [first, second, third, ..] = notice.arguments;
        let at = i64::from(notice.number) == libc::SYS_execveat;
        let (path, list) = if at { (second, third) } else { (first, second) };
        let (mut path, is_cut) = string(memory.as_fd(), path, LONGEST)?;
        if at && !path.starts_with(b"/") {
            // Relative to a descriptor; AT_FDCWD is none, and then it is to the directory.
            path = match (self.link(&format!("fd/{}", first as i32)), path.is_empty()) {
                (Some(dir), true) => dir,
                (Some(dir), false) => [&dir[..], b"/", &path].concat(),
                (None, _) => path,
            };
        }
        let mut arguments = Vec::new();
        let mut left = MOST_BYTES + 1;
        // No list at all is an empty one. One argument and one byte more than are written down
        // show that there are more.
        while list != 0 && left > 0 && arguments.len() <= MOST_ARGUMENTS {
            let mut pointer = [0; 8];
            let place = list.wrapping_add(8 * arguments.len() as u64);
            if read_exactly(memory.as_fd(), &mut pointer, place)? < 8 {
                return Err(Errno::FAULT);
            }
            let pointer = u64::from_ne_bytes(pointer);
            if pointer == 0 {
                break;
            }
            let (argument, _) = string(memory.as_fd(), pointer, left.min(LONGEST + 1))?;
            left -= argument.len();
            arguments.push(argument);
        }
        let asked = Asked::of(path, arguments.into_iter());
        Ok(Asked { is_truncated: asked.is_truncated || is_cut, ..asked })
    }

    /// Where an absolute path leads for this process. What is in `/proc` looks different to
    /// it: there nothing is known.
    pub fn lead(&self, proc: BorrowedFd<'_>, path: &[u8]) -> Lead {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let Ok(root) = rustix::fs::openat(&self.dir, "root", flags, Mode::empty()) else {
            return Lead::Unknown;
        };
        match open_in(root.as_fd(), path, OFlags::empty()) {
            Ok(file) => {
                let link = format!("self/fd/{}", file.as_raw_fd());
                let link = rustix::fs::readlinkat(proc, link, Vec::new());
                link.map_or(Lead::Unknown, |path| Lead::To(path.into_bytes()))
            }
            Err(Errno::NOENT) if is_missing(root.as_fd(), path) => Lead::Nowhere,
            Err(_) => Lead::Unknown,
        }
    }
}

/// Opens a mere location, below `root` as if that were `/`.
fn open_in(root: BorrowedFd<'_>, path: &[u8], more: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | more;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

/// Whether it is for sure that nothing is at an absolute path: the last directory on the way
/// that is there has no such name.
fn is_missing(root: BorrowedFd<'_>, path: &[u8]) -> bool {
    /// So many names that are missing are looked at.
    const MOST: u32 = 8;
    let mut path = path;
    for _ in 0..MOST {
        while let Some(rest) = path.strip_suffix(b"/") {
            path = rest;
        }
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else { return false };
        let (dir, name) = (&path[..=slash], &path[slash + 1..]);
        match open_in(root, dir, OFlags::DIRECTORY) {
            Ok(dir) => {
                let is_proc = rustix::fs::fstatfs(&dir).map_or(true, |fs| fs.f_type as u64 == PROC);
                let named = open_in(dir.as_fd(), name, OFlags::NOFOLLOW);
                return !is_proc && matches!(named, Err(Errno::NOENT));
            }
            Err(Errno::NOENT) => path = dir,
            Err(_) => return false,
        }
    }
    false
}

/// The text at an address, as far as a NUL or so many bytes; whether it goes on.
fn string(memory: BorrowedFd<'_>, at: u64, most: usize) -> Result<(Vec<u8>, bool), Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 256];
    while bytes.len() < most {
        let place = at.wrapping_add(bytes.len() as u64);
        let count = read_exactly(memory, &mut chunk, place)?;
        let text = chunk[..count].split(|byte| *byte == 0).next().unwrap_or(&[]);
        bytes.extend_from_slice(text);
        if text.len() < count {
            let is_cut = bytes.len() > most;
            bytes.truncate(most);
            return Ok((bytes, is_cut));
        }
        if count < chunk.len() {
            // What is mapped ends before the text does.
            return Err(Errno::FAULT);
        }
    }
    bytes.truncate(most);
    Ok((bytes, true))
}

/// Reads as much as there is up to the end of what is mapped.
fn read_exactly(memory: BorrowedFd<'_>, to: &mut [u8], at: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < to.len() {
        match pread(memory, &mut to[done..], at.wrapping_add(done as u64)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::IO | Errno::FAULT) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}
