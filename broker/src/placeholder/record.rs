//! What one sandbox has made, on disk.
//!
//! Fields end with a NUL, which no path has: `d` or `f`, the file's bytes, the device and
//! inode of a directory that exists (`MAJOR:MINOR:INODE`), its path, and the
//! placeholder's path below it. A record that was cut
//! short, by a full disk or a power cut, is good as far as its entries are whole.

use super::Kind;
use super::one::draft_of;
use crate::sys::mount::{self, FileId};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, PathBuf};

/// The longest record that is read, in bytes: none that was written here is longer.
const LONGEST: usize = 16 << 20;

/// A placeholder that was made, or was about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub kind: Kind,
    /// The nearest directory that existed before.
    pub base: PathBuf,
    /// Which one that is: a path can come to mean another place.
    pub base_id: FileId,
    /// The path below it; what is on the way are placeholders too.
    pub below: PathBuf,
    /// Of the base, among those that are open.
    pub index: usize,
}

/// An open directory: a base, or one below it.
pub(super) enum Parent<'a> {
    Base(BorrowedFd<'a>),
    Below(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Base(fd) => *fd,
            Self::Below(fd) => fd.as_fd(),
        }
    }
}

impl Entry {
    pub fn path(&self) -> PathBuf {
        self.base.join(&self.below)
    }

    pub fn name(&self) -> &OsStr {
        self.below.file_name().unwrap_or_default()
    }

    /// The directory that it is in, found without a symlink.
    pub fn parent<'a>(&self, base: BorrowedFd<'a>) -> Result<Parent<'a>, Errno> {
        match self.below.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => {
                mount::open_exact(base, dir).map(Parent::Below)
            }
            _ => Ok(Parent::Base(base)),
        }
    }

    /// As it is found by its path now: another directory may be there. `None` if none is.
    pub fn at_its_path(&self) -> Option<(OwnedFd, Self)> {
        let base = mount::open_exact(CWD, &self.base).ok()?;
        let base_id = mount::stat(base.as_fd()).ok()?.id;
        Some((base, Self { base_id, ..self.clone() }))
    }

    /// Whether both are the same file, by whatever path.
    pub fn is_at(&self, other: &Self) -> bool {
        self.base_id == other.base_id && self.below == other.below
    }

    fn to_bytes(&self) -> Vec<u8> {
        let (letter, bytes) = match &self.kind {
            Kind::Directory => (b"d", &[][..]),
            Kind::File(bytes) => (b"f", bytes.as_slice()),
        };
        let FileId { dev: (major, minor), ino } = self.base_id;
        let id = format!("{major}:{minor}:{ino}");
        let (base, below) = (self.base.as_os_str(), self.below.as_os_str());
        let fields = [letter, bytes, id.as_bytes(), base.as_bytes(), below.as_bytes(), b""];
        fields.join(&0)
    }

    fn parse(fields: &[&[u8]; 5]) -> Option<Self> {
        let [letter, bytes, id, base, below] = fields;
        let kind = match *letter {
            b"d" => Kind::Directory,
            b"f" => Kind::File(bytes.to_vec()),
            _ => return None,
        };
        let mut numbers = str::from_utf8(id).ok()?.split(':');
        let (major, minor, ino) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let dev = (major.parse().ok()?, minor.parse().ok()?);
        let base_id = FileId { dev, ino: ino.parse().ok()? };
        let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        let (base, below) = (path(base), path(below));
        let is_plain = |part| matches!(part, Component::Normal(_));
        let good =
            base.is_absolute() && below.file_name().is_some() && below.components().all(is_plain);
        good.then_some(Self { kind, base, base_id, below, index: 0 })
    }
}

/// All that one sandbox has made.
#[derive(Debug)]
pub(super) struct Record {
    pub name: OsString,
    pub entries: Vec<Entry>,
}

impl Record {
    pub fn holds(&self, entry: &Entry) -> bool {
        self.entries.iter().any(|own| own.is_at(entry))
    }

    /// Whether it has an entry with the same path, whatever was there then.
    pub fn names(&self, entry: &Entry) -> bool {
        self.entries.iter().any(|own| own.base == entry.base && own.below == entry.below)
    }

    /// Writes one under a name of its own, and locks it. To be called with the store
    /// locked: before its own lock is there, it looks like a dead one's.
    pub fn write(dir: BorrowedFd<'_>, entries: &[Entry]) -> Result<(OsString, OwnedFd), Errno> {
        let mut text: Vec<u8> = Vec::new();
        for entry in entries {
            text.extend(entry.to_bytes());
            if matches!(&entry.kind, Kind::File(bytes) if !bytes.is_empty()) {
                let below = entry.below.with_file_name(draft_of(entry.name()));
                text.extend(Entry { below, ..entry.clone() }.to_bytes());
            }
        }
        // Process ids come again: a dead one's record may still be there, if it
        // could not be cleaned up.
        let id = rustix::process::getpid().as_raw_nonzero();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let mut attempt = 0_u32;
        let (name, file) = loop {
            let name = OsString::from(format!("{id}.{attempt}"));
            match rustix::fs::openat(dir, &*name, flags, mode) {
                Err(Errno::EXIST) if attempt < 1000 => attempt += 1,
                result => break (name, result?),
            }
        };
        let write = || {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            let mut rest = text.as_slice();
            while !rest.is_empty() {
                let written = rustix::io::write(&file, rest)?;
                rest = &rest[written..];
            }
            Ok(())
        };
        match write() {
            Ok(()) => Ok((name, file)),
            Err(errno) => {
                rustix::fs::unlinkat(dir, &*name, AtFlags::empty())?;
                Err(errno)
            }
        }
    }

    /// Reads one, and says whether its sandbox lives.
    pub fn read(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(Self, bool), Errno> {
        let name = OsStr::from_bytes(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let lives = match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => false,
            Err(Errno::WOULDBLOCK) => true,
            Err(errno) => return Err(errno),
        };
        let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
        while text.len() < LONGEST {
            match rustix::io::read(&file, &mut chunk)? {
                0 => break,
                length => text.extend_from_slice(&chunk[..length]),
            }
        }
        Ok((Self { name: name.to_owned(), entries: parse(&text) }, lives))
    }
}

fn parse(text: &[u8]) -> Vec<Entry> {
    let mut fields: Vec<&[u8]> = text.split(|byte| *byte == 0).collect();
    // What follows the last NUL is nothing, or was cut short.
    fields.pop();
    let (whole, _) = fields.as_chunks::<5>();
    whole.iter().filter_map(Entry::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(below: &[u8], kind: Kind) -> Entry {
        let below = PathBuf::from(OsString::from_vec(below.to_vec()));
        let base_id = FileId { dev: (8, 1), ino: 77 };
        Entry { kind, base: "/p \n".into(), base_id, below, index: 0 }
    }

    #[test]
    fn what_is_written_is_read_however_it_is_cut() {
        let entries = [
            entry(b".git/commondir", Kind::File(b".\n".to_vec())),
            entry(b"\xff \n:d", Kind::Directory),
            entry(b"x", Kind::File(Vec::new())),
        ];
        let text: Vec<u8> = entries.iter().flat_map(Entry::to_bytes).collect();
        assert_eq!(parse(&text), entries);
        for length in 0..text.len() {
            let read = parse(&text[..length]);
            assert_eq!(read, entries[..read.len()], "cut at {length}");
        }
    }

    #[test]
    fn nonsense_is_no_entry() {
        for text in [
            &b"x\0\x008:1:7\0/p\0x\0"[..],
            b"d\0\x008:1\0/p\0x\0",
            b"d\0\x008:1:7\0p\0x\0",
            b"d\0\x008:1:7\0/p\0/x\0",
            b"d\0\x008:1:7\0/p\0\0",
            b"d\0\x008:1:7\0/p\0../x\0",
            b"d\0\x008:1:7\0/p\0x/..\0",
            b"\0\0\0\0\0\0\0\0\0\0",
            &[0xff; 999],
        ] {
            assert_eq!(parse(text), [], "{}", text.escape_ascii());
        }
    }
}
