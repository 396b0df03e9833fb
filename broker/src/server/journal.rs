//! What happened, one line of JSON each: kept for a while, and written to a file outside
//! before anybody is told that it happened.

use crate::name::TargetName;
use crate::proto::{Event, Origin};
use crate::time::timestamp;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

/// Events kept in memory, for `events`.
const KEPT: usize = 256;

/// A file gets no longer than this; then the other of the two is emptied and goes on.
/// Nothing is lost but what is older than at least so much.
const LONGEST: u64 = 512 << 10;

/// Where a sandbox's events are written.
#[derive(Debug)]
pub struct Log {
    /// The directory outside, in which nothing but this broker and people write.
    pub directory: OwnedFd,
    /// What its files' names begin with: `NAME.jsonl` and `NAME.1.jsonl`.
    pub name: String,
}

/// One event. What is empty is left out.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Entry<'a> {
    pub event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub targets: &'a [TargetName],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub command: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
}

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    time: &'a str,
    sandbox: &'a str,
    #[serde(flatten)]
    entry: &'a Entry<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug)]
pub(crate) struct Journal {
    sandbox: String,
    seq: u64,
    kept: VecDeque<Vec<u8>>,
    log: Option<Log>,
    file: Option<File>,
    /// Lines that could not be written: said in the next one that can.
    lost: u64,
    /// What is written first, once there is something to write.
    start: Option<Vec<u8>>,
}

#[derive(Debug)]
struct File {
    fd: OwnedFd,
    length: u64,
    is_second: bool,
}

impl Journal {
    /// Begins with the event `start`, which is written together with the next one: a
    /// sandbox of which nobody wants anything leaves no file behind.
    pub(crate) fn new(log: Option<Log>, sandbox: &str, start: &Entry<'_>) -> Self {
        let (kept, sandbox) = (VecDeque::new(), sandbox.to_owned());
        let mut journal = Self { sandbox, seq: 0, kept, log, file: None, lost: 0, start: None };
        journal.start = Some(journal.line(start));
        journal
    }

    fn line(&mut self, entry: &Entry<'_>) -> Vec<u8> {
        self.seq += 1;
        let time = timestamp(SystemTime::now());
        let line =
            Line { seq: self.seq, time: &time, sandbox: &self.sandbox, entry, lost: self.lost };
        let line = crate::proto::json_line(&line);
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(line.clone());
        line
    }

    /// Notes an event; on return it is in the file. Returns its line.
    pub(crate) fn record(&mut self, entry: &Entry<'_>) -> Vec<u8> {
        let line = self.line(entry);
        if self.log.is_some() {
            let start = self.start.take().unwrap_or_default();
            match self.write(&start).and_then(|()| self.write(&line)) {
                Ok(()) => self.lost = 0,
                Err(_) => self.lost += 1,
            }
        }
        line
    }

    /// Whether anything but the start has been written.
    pub(crate) fn has_begun(&self) -> bool {
        self.start.is_none()
    }

    /// The last events.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.kept.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    fn write(&mut self, line: &[u8]) -> Result<(), Errno> {
        if line.is_empty() {
            return Ok(());
        }
        let Some(log) = &self.log else { return Ok(()) };
        let file = match &mut self.file {
            Some(file) if file.length + line.len() as u64 <= LONGEST => file,
            full => {
                let is_second = full.as_ref().is_some_and(|file| !file.is_second);
                full.insert(open(log, is_second)?)
            }
        };
        let mut rest = line;
        while !rest.is_empty() {
            match rustix::io::write(&file.fd, rest) {
                Ok(written) => {
                    rest = &rest[written..];
                    file.length += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

fn open(log: &Log, is_second: bool) -> Result<File, Errno> {
    let name = format!("{}{}", log.name, if is_second { ".1.jsonl" } else { ".jsonl" });
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(&log.directory, name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(File { fd, length: 0, is_second })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    fn entry(event: &str) -> Entry<'_> {
        Entry { event, ..Entry::default() }
    }

    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("journal-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn log(dir: &Path) -> Log {
        Log { directory: std::fs::File::open(dir).unwrap().into(), name: "abc".to_owned() }
    }

    fn seqs(file: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(file).unwrap();
        let line = |line: &str| serde_json::from_str::<Event>(line).unwrap()["seq"].as_u64();
        text.lines().map(|it| line(it).unwrap()).collect()
    }

    #[test]
    fn what_happened_is_in_the_file_at_once_and_nothing_before() {
        let dir = directory("once");
        let mut journal = Journal::new(Some(log(&dir)), "abc", &entry("start"));
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        journal.record(&entry("granted"));
        let file = dir.join("abc.jsonl");
        assert_eq!(seqs(&file), [1, 2]);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(journal.events().len(), 2);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_files_stay_small_and_the_newest_lines_stay() {
        let dir = directory("small");
        let mut journal = Journal::new(Some(log(&dir)), "abc", &entry("start"));
        let long = "x".repeat(3000);
        for _ in 0..600 {
            journal.record(&Entry { command: &long, ..entry("granted") });
        }
        let files = [dir.join("abc.jsonl"), dir.join("abc.1.jsonl")];
        let mut all: Vec<u64> = files.iter().flat_map(|file| seqs(file)).collect();
        all.sort_unstable();
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= LONGEST));
        assert_eq!(*all.last().unwrap(), 601);
        let first = all[0];
        assert!(all.iter().copied().eq(first..=601), "a gap");
        assert!(601 - first >= LONGEST / 3200, "too few");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
