//! What is read of a process in `/proc`.

use crate::escape::Escaped;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, openat, statat};
use rustix::io::{Errno, Result};
use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Characters kept of a command line.
const COMMAND: usize = 200;

/// Clock ticks a second in `/proc/PID/stat`: the same on every architecture that we run
/// on (`USER_HZ`, include/uapi/asm-generic/param.h).
const TICKS: u64 = 100;

/// Which namespace: device and inode of its file in `/proc/PID/ns`.
pub(super) type Namespace = (u64, u64);

pub(super) fn namespace(dir: BorrowedFd<'_>, path: &CStr) -> Result<Namespace> {
    namespace_at(dir, path)
}

pub(super) fn namespace_at(dir: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<Namespace> {
    let stat = statat(dir, path, AtFlags::empty())?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Calls `each` with every entry of `dir` that is a number, until it says `false`.
pub(super) fn each_number(dir: BorrowedFd<'_>, mut each: impl FnMut(i32) -> bool) -> Result<()> {
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
pub(super) fn read(
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    limit: usize,
) -> Result<Vec<u8>> {
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

/// The ids of a process in its PID namespaces, from that of this `/proc` inwards.
pub(super) fn inner_ids(process: BorrowedFd<'_>) -> Vec<i32> {
    let status = read(process, c"status", 4096).unwrap_or_default();
    let text = String::from_utf8_lossy(&status);
    let ids = text.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    ids.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// The name as printable text; without a look into the process's memory.
pub(super) fn name(process: BorrowedFd<'_>) -> String {
    let name = read(process, c"comm", 64).unwrap_or_default();
    Escaped::os(OsStr::from_bytes(name.trim_ascii_end())).to_string()
}

/// The command line as printable text, shortened; of one that is empty, the name.
pub(super) fn command(process: BorrowedFd<'_>) -> String {
    let line = read(process, c"cmdline", 4 * COMMAND).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
    let mut text = Escaped::os(OsStr::from_bytes(&words.join(&b' '))).to_string();
    if text.is_empty() {
        text = format!("[{}]", name(process));
    }
    match text.char_indices().nth(COMMAND) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What of `/proc/PID/stat` matters here.
pub(super) struct Stat {
    pub parent: i32,
    /// Since the machine started, in ticks.
    start: u64,
    state: char,
}

impl Stat {
    pub fn of(process: BorrowedFd<'_>) -> Result<Self> {
        let bytes = read(process, c"stat", 2048)?;
        Self::parse(&String::from_utf8_lossy(&bytes)).ok_or(Errno::INVAL)
    }

    /// The name in it is anybody's, and may hold blanks and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let start = fields.nth(17)?.parse().ok()?;
        Some(Self { parent, start, state })
    }

    /// Whether it stands still, or does nothing any more.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't' | 'Z' | 'X')
    }

    /// In seconds since 1970; `proc` tells how long the machine has been up.
    pub fn started(&self, proc: BorrowedFd<'_>) -> Option<u64> {
        let uptime = String::from_utf8(read(proc, c"uptime", 64).ok()?).ok()?;
        let up: u64 = uptime.split('.').next()?.parse().ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(now.saturating_sub(up.saturating_sub(self.start / TICKS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_confuses_nobody() {
        let stat =
            Stat::parse("7 (a) b) (c) S 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0").unwrap();
        assert_eq!((stat.parent, stat.start, stat.state), (3, 4242, 'S'));
        assert!(Stat::parse("").is_none());
    }
}
