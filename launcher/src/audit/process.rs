//! What can be seen of a process outside, through its directory in `/proc`.

use remount_broker::sys::notify::Notice;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, pread};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The longest path that the kernel takes, and the longest argument that is written down.
const LONGEST: usize = 4096;

/// The most arguments, and their bytes, that are written down.
const MOST_ARGUMENTS: usize = 1024;
const MOST_BYTES: usize = 64 << 10;

/// What a call of `execve(2)` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub path: String,
    pub arguments: Vec<String>,
    /// There is more than is written down.
    pub is_truncated: bool,
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

    fn text(&self, name: &str) -> Result<Vec<u8>, Errno> {
        let file = self.file(name)?;
        let mut text = vec![0; MOST_BYTES];
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

    fn link(&self, name: &str) -> Option<String> {
        let target = rustix::fs::readlinkat(&self.dir, name, Vec::new()).ok()?;
        Some(String::from_utf8_lossy(target.as_bytes()).into_owned())
    }

    pub fn cwd(&self) -> Option<String> {
        self.link("cwd")
    }

    /// The program that it runs.
    pub fn executable(&self) -> Option<String> {
        self.link("exe")
    }

    /// The arguments that the program was given.
    pub fn arguments(&self) -> Option<Vec<String>> {
        let text = self.text("cmdline").ok()?;
        let text = text.strip_suffix(b"\0").unwrap_or(&text);
        let words = text.split(|byte| *byte == 0).take(MOST_ARGUMENTS);
        Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
    }

    /// Its number outside, which a thread has from its process, and inside.
    pub fn numbers(&self) -> Option<(i32, i32)> {
        let status = String::from_utf8(self.text("status").ok()?).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let inside = field("NSpid:")?.split_whitespace().next_back()?;
        Some((field("Tgid:")?.trim().parse().ok()?, inside.parse().ok()?))
    }

    /// A field of `/proc/PID/stat`, counted as proc_pid_stat(5) does; above 2.
    fn stat(&self) -> Option<Vec<String>> {
        let stat = String::from_utf8(self.text("stat").ok()?).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        Some(rest.split_whitespace().map(str::to_owned).collect())
    }

    pub fn image(&self) -> Option<Image> {
        let fields = self.stat()?;
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Image([field(28)?, field(48)?, field(49)?, field(50)?, field(51)?]))
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
        let (path, is_truncated) = string(memory.as_fd(), path, LONGEST)?;
        let mut asked = Asked { path, arguments: Vec::new(), is_truncated };
        if at && !asked.path.starts_with('/') {
            // Relative to a descriptor; AT_FDCWD is none, and then it is to the directory.
            let dir = self.link(&format!("fd/{}", first as i32));
            asked.path = match (dir, asked.path.is_empty()) {
                (Some(dir), true) => dir,
                (Some(dir), false) => format!("{dir}/{}", asked.path),
                (None, _) => asked.path,
            };
        }
        let mut left = MOST_BYTES;
        for number in 0..=MOST_ARGUMENTS as u64 {
            let mut pointer = [0; 8];
            let place = list.wrapping_add(8 * number);
            // No list at all is an empty one.
            if list == 0 || read_exactly(memory.as_fd(), &mut pointer, place)? < 8 {
                break;
            }
            let pointer = u64::from_ne_bytes(pointer);
            if pointer == 0 {
                return Ok(asked);
            }
            let (argument, is_cut) = string(memory.as_fd(), pointer, LONGEST.min(left))?;
            left -= argument.len().min(left);
            asked.arguments.push(argument);
            asked.is_truncated |= is_cut;
            if left == 0 {
                break;
            }
        }
        asked.is_truncated |= list != 0;
        Ok(asked)
    }
}

/// The text at an address, as far as a NUL or so many bytes; whether it goes on.
fn string(memory: BorrowedFd<'_>, at: u64, most: usize) -> Result<(String, bool), Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 256];
    while bytes.len() < most {
        let place = at.wrapping_add(bytes.len() as u64);
        let count = read_exactly(memory, &mut chunk, place)?;
        let text = chunk[..count].split(|byte| *byte == 0).next().unwrap_or(&[]);
        bytes.extend_from_slice(text);
        if text.len() < count || count < chunk.len() {
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), text.len() == count));
        }
    }
    bytes.truncate(most);
    Ok((String::from_utf8_lossy(&bytes).into_owned(), true))
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
