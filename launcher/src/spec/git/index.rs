//! The index of a worktree, as far as it names other repositories (gitformat-index(5)). Whoever
//! can commit has written it: nothing in it is believed but names, and nothing more than names
//! that lead down from the worktree.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// A longer name is none of a file (`PATH_MAX`).
const LONGEST: usize = 4096;

/// The mode of an entry that is the commit of another repository.
const GITLINK: u32 = 0o160_000;

/// Lengths of an object's name: SHA-1, SHA-256. The index does not say which, and a small one may
/// make sense either way.
const HASHES: [usize; 2] = [20, 32];

/// Where an entry has its mode, and where the object's name begins.
const MODE: usize = 24;
const HASH: usize = 40;

/// The paths, from the worktree on, of entries that are other repositories; none of an index
/// that is not in order, which git would not read either, nor of one that is split.
/// `is_sha256` says which objects the repository has, and is asked only where it matters.
/// No more than `most`.
pub(super) fn links(text: &[u8], most: usize, is_sha256: impl FnOnce() -> bool) -> Vec<PathBuf> {
    let read = HASHES.map(|hash| Entries::new(text, hash)?.links(most));
    match read {
        [Some(_), Some(long)] if is_sha256() => long,
        [short, long] => short.or(long).unwrap_or_default(),
    }
}

struct Entries<'t> {
    rest: &'t [u8],
    version: u32,
    left: u32,
    hash: usize,
    /// The entry's path, and the one before, which it is greater than.
    path: Vec<u8>,
}

fn number(text: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(text.get(at..at + 4)?.try_into().ok()?))
}

impl<'t> Entries<'t> {
    fn new(text: &'t [u8], hash: usize) -> Option<Self> {
        let rest = text.strip_prefix(b"DIRC")?;
        let (version, left) = (number(rest, 0)?, number(rest, 4)?);
        let rest = &rest[8..];
        (2..=4).contains(&version).then_some(Self { rest, version, left, hash, path: Vec::new() })
    }

    fn links(mut self, most: usize) -> Option<Vec<PathBuf>> {
        let mut found = Vec::new();
        while self.left > 0 {
            self.left -= 1;
            let mode = self.step()?;
            if mode == GITLINK && found.len() < most && self.path.len() < LONGEST {
                let path = Path::new(OsStr::from_bytes(&self.path));
                if path.components().all(|part| matches!(part, Component::Normal(_))) {
                    found.push(path.to_owned());
                }
            }
        }
        Some(found)
    }

    /// Goes to the next entry; its mode.
    fn step(&mut self) -> Option<u32> {
        let mode = number(self.rest, MODE)?;
        let flags = HASH + self.hash;
        let is_extended = self.version >= 3 && self.rest.get(flags)? & 0x40 != 0;
        let name = flags + if is_extended { 4 } else { 2 };
        let (kept, start) = match self.version {
            4 => self.shared_with_the_last(name)?,
            _ => (0, name),
        };
        let length = self.rest.get(start..)?.iter().position(|byte| *byte == 0)?;
        let last = self.path.clone();
        self.path.truncate(kept);
        self.path.extend_from_slice(&self.rest[start..start + length]);
        // In order, but for the stages of one path in conflict.
        if self.path.is_empty() || self.path < last {
            return None;
        }
        let end = match self.version {
            4 => start + length + 1,
            _ => (start + length + 8) & !7,
        };
        self.rest = self.rest.get(end..)?;
        Some(mode)
    }

    /// Version 4: how many bytes of the path before this one begins with, and where its own are.
    /// The number is one of those of pack files (gitformat-pack(5), "offset encoding").
    fn shared_with_the_last(&self, mut at: usize) -> Option<(usize, usize)> {
        let mut byte = *self.rest.get(at)?;
        let mut dropped = usize::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            at += 1;
            byte = *self.rest.get(at)?;
            dropped = dropped.checked_add(1)?.checked_mul(128)? | usize::from(byte & 0x7f);
        }
        Some((self.path.len().checked_sub(dropped)?, at + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::git::is_sha256;
    use proptest::prelude::*;
    use std::process::Command;

    fn git(dir: &Path, words: &[&str]) {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always"]);
        let done = git.arg("-C").arg(dir).args(words).env("HOME", dir).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    const FILES: &[&str] = &["a", "deps/b", "deps/sub-x", "zz"];
    const SUBS: &[&str] = &["deps/sub", "vendor/longer/name"];

    /// What git writes: the index and the configuration.
    fn index_of(format: &str, version: &str, files: &[&str], subs: &[&str]) -> (Vec<u8>, String) {
        let thread = std::thread::current().id();
        let name = format!("index-{format}-{version}-{}-{thread:?}", std::process::id());
        let dir = &std::env::temp_dir().join(name);
        std::fs::create_dir(dir).unwrap();
        git(dir, &["init", "-q", "--object-format", format, "."]);
        for name in files {
            std::fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.join(name), name).unwrap();
        }
        for name in subs {
            let sub = dir.join(name);
            std::fs::create_dir_all(&sub).unwrap();
            git(&sub, &["init", "-q", "--object-format", format, "."]);
            git(&sub, &["commit", "-q", "--allow-empty", "-m", "x"]);
        }
        git(dir, &["add", "."]);
        git(dir, &["update-index", "--index-version", version]);
        if version == "3" {
            // Only an entry with more flags makes it one.
            std::fs::write(dir.join("later"), "").unwrap();
            git(dir, &["add", "--intent-to-add", "later"]);
        }
        let text = std::fs::read(dir.join(".git/index")).unwrap();
        let config = std::fs::read_to_string(dir.join(".git/config")).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        (text, config)
    }

    #[test]
    fn what_git_writes_is_read() {
        for (files, subs) in [(FILES, SUBS), (&[], &SUBS[..1]), (&["x", "y"], &SUBS[1..])] {
            for (format, version) in
                ["sha1", "sha256"].iter().flat_map(|it| ["2", "3", "4"].map(|number| (it, number)))
            {
                let (text, config) = index_of(format, version, files, subs);
                let found = links(&text, 9, || is_sha256(&config));
                let wanted: Vec<_> = subs.iter().map(PathBuf::from).collect();
                assert_eq!(found, wanted, "{format} {version} {files:?}");
            }
        }
    }

    #[test]
    fn no_more_are_kept_than_can_be() {
        let entry = |length: usize| {
            let mut text = vec![0; MODE];
            text.extend(GITLINK.to_be_bytes());
            text.resize(HASH + HASHES[0] + 2, 0);
            text.resize(text.len() + length, b'a');
            text.resize((text.len() + 8) & !7, 0);
            text
        };
        let lengths = [1, 2, 3, LONGEST];
        let mut text = [b"DIRC".as_slice(), &2_u32.to_be_bytes(), &4_u32.to_be_bytes()].concat();
        text.extend(lengths.iter().flat_map(|length| entry(*length)));
        assert_eq!(links(&text, 9, || false).len(), 3);
        assert_eq!(links(&text, 2, || false).len(), 2);
    }

    #[test]
    fn what_is_cut_off_has_none() {
        let (whole, _) = index_of("sha1", "2", FILES, SUBS);
        assert_eq!(links(&whole[..whole.len() / 2], 9, || false), Vec::<PathBuf>::new());
        assert_eq!(links(b"", 9, || false), Vec::<PathBuf>::new());
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_survived(
            version in 0_u32..6,
            count in any::<u32>(),
            rest in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let mut text = b"DIRC".to_vec();
            text.extend(version.to_be_bytes());
            text.extend(count.to_be_bytes());
            text.extend(rest);
            for path in links(&text, 9, || version % 2 == 0) {
                prop_assert!(path.components().all(|it| matches!(it, Component::Normal(_))));
            }
        }
    }
}
