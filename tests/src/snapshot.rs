//! A directory tree as it is, to compare with what it is later.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Every name below a directory, with kind, mode, owner, links and contents. Times
/// are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    contents: Vec<u8>,
}

impl Snapshot {
    /// Reads the whole tree below `root`, `root` itself included; follows no symlink.
    #[track_caller]
    pub fn of(root: impl AsRef<Path>) -> Snapshot {
        let root = root.as_ref();
        let mut entries = BTreeMap::new();
        let mut waiting = vec![root.to_owned()];
        while let Some(path) = waiting.pop() {
            let entry = Entry::read(&path)
                .unwrap_or_else(|error| panic!("snapshot {}: {error}", path.display()));
            if entry.kind == "directory" {
                let children = std::fs::read_dir(&path)
                    .and_then(|children| children.map(|child| Ok(child?.path())).collect());
                let children: Vec<PathBuf> =
                    children.unwrap_or_else(|error| panic!("snapshot {}: {error}", path.display()));
                waiting.extend(children);
            }
            let name = path.strip_prefix(root).unwrap_or(&path).to_owned();
            entries.insert(name, entry);
        }
        Snapshot(entries)
    }

    /// What differs, a line for each name.
    pub fn differences(&self, later: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, before) in &self.0 {
            match later.0.get(path) {
                None => lines.push(format!("{}: gone", path.display())),
                Some(after) if after != before => {
                    lines.push(format!("{}: was {before}, is {after}", path.display()));
                }
                Some(_) => {}
            }
        }
        for (path, entry) in &later.0 {
            if !self.0.contains_key(path) {
                lines.push(format!("{}: new, {entry}", path.display()));
            }
        }
        lines
    }

    /// Panics, naming each difference, unless the tree is still the same.
    #[track_caller]
    pub fn unchanged(&self, root: impl AsRef<Path>) {
        let differences = self.differences(&Snapshot::of(root));
        assert!(differences.is_empty(), "the tree changed: {differences:#?}");
    }
}

impl Entry {
    fn read(path: &Path) -> std::io::Result<Entry> {
        let meta = std::fs::symlink_metadata(path)?;
        let kind = meta.file_type();
        let (kind, contents) = if kind.is_file() {
            ("file", std::fs::read(path)?)
        } else if kind.is_symlink() {
            let target = std::fs::read_link(path)?;
            ("symlink", target.into_os_string().into_encoded_bytes())
        } else if kind.is_dir() {
            ("directory", Vec::new())
        } else if kind.is_fifo() {
            ("fifo", Vec::new())
        } else if kind.is_socket() {
            ("socket", Vec::new())
        } else {
            ("device", meta.rdev().to_string().into_bytes())
        };
        Ok(Entry {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            links: meta.nlink(),
            contents,
        })
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Entry { kind, mode, owner: (uid, gid), links, contents } = self;
        write!(f, "{kind} {mode:04o} {uid}:{gid} {links} link(s)")?;
        if !contents.is_empty() {
            let start = &contents[..contents.len().min(60)];
            write!(f, " {} bytes \"{}\"", contents.len(), start.escape_ascii())?;
        }
        Ok(())
    }
}
