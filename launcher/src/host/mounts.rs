//! The host's mount table.

use crate::paths::is_in;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mounts of the host, in the order they were made (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, Default)]
pub struct MountTable {
    mounts: Vec<Mount>,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    id: u32,
    /// The mount that it is mounted on.
    parent: u32,
    /// The filesystem's device, major and minor.
    pub dev: (u32, u32),
    /// What of the filesystem is mounted.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Whether the mount or its filesystem is read-only.
    pub read_only: bool,
    /// Whether device files work.
    pub devices: bool,
    /// The filesystem's type.
    pub kind: String,
}

impl Mount {
    /// Whether its files are switches and views of the kernel, and no one's data.
    pub fn is_kernels(&self) -> bool {
        const KINDS: &[&str] = &[
            "binfmt_misc",
            "bpf",
            "cgroup",
            "cgroup2",
            "configfs",
            "debugfs",
            "devpts",
            "devtmpfs",
            "efivarfs",
            "mqueue",
            "nfsd",
            "proc",
            "pstore",
            "resctrl",
            "rpc_pipefs",
            "securityfs",
            "selinuxfs",
            "smackfs",
            "sysfs",
            "tracefs",
        ];
        KINDS.contains(&self.kind.as_str())
    }
}

impl MountTable {
    /// Reads the text of `/proc/self/mountinfo`; lines it does not understand are left out.
    pub fn parse(text: &[u8]) -> Self {
        let mounts = text.split(|b| *b == b'\n').filter_map(parse_line).collect();
        Self { mounts }
    }

    /// The mounts strictly below `dir` that can be seen, each mount point once (the topmost mount there).
    pub fn below<'a>(&'a self, dir: &Path) -> Vec<&'a Mount> {
        let mut found: Vec<&Mount> = Vec::new();
        for mount in &self.mounts {
            if mount.point != dir && is_in(&mount.point, dir) && !self.is_hidden(mount) {
                found.retain(|other| other.point != mount.point);
                found.push(mount);
            }
        }
        found
    }

    /// The mounts below the mount of this id, at whatever depth, as paths from its root.
    pub fn descendants(&self, id: u64) -> Vec<(u64, PathBuf)> {
        let is = |mount: &Mount, id| u64::from(mount.id) == id;
        let Some(top) = self.mounts.iter().find(|mount| is(mount, id)) else { return Vec::new() };
        let mut ids = vec![top.id];
        let mut found = Vec::new();
        // A mount stands after the one that it is mounted on.
        for mount in &self.mounts {
            if ids.contains(&mount.parent) && mount.id != top.id {
                ids.push(mount.id);
                let below = mount.point.strip_prefix(&top.point);
                found.extend(below.map(|below| (u64::from(mount.id), below.to_owned())));
            }
        }
        found
    }

    /// Whether another mount lies over the directory that `mount` is in: no path leads there.
    fn is_hidden(&self, mount: &Mount) -> bool {
        let over = |other: &Mount| {
            other.parent == mount.parent
                && other.id != mount.id
                && is_in(&mount.point, &other.point)
        };
        let parent = self.mounts.iter().find(|other| other.id == mount.parent);
        self.mounts.iter().any(over)
            || parent.is_some_and(|parent| parent.id != parent.parent && self.is_hidden(parent))
    }

    /// The mount that the file at `path` is on.
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        // Of several at one point the last one, which is on top.
        self.mounts
            .iter()
            .filter(|mount| is_in(path, &mount.point))
            .max_by_key(|mount| mount.point.as_os_str().len())
    }

    /// Which filesystem the file at `path` is on, and its path there: equal for equal
    /// files, however they are reached (hard links apart).
    pub fn on_filesystem(&self, path: &Path) -> Option<((u32, u32), PathBuf)> {
        let mount = self.of(path)?;
        Some((mount.dev, join(&mount.root, path.strip_prefix(&mount.point).ok()?)))
    }

    /// The other paths at which the file at `path`, or something below it, is seen:
    /// the host has the same filesystem mounted there too, or a part of it bound.
    pub fn aliases(&self, path: &Path) -> Vec<PathBuf> {
        let Some((dev, on_filesystem)) = self.on_filesystem(path) else { return Vec::new() };
        let alias = |mount: &Mount| {
            let alias = match on_filesystem.strip_prefix(&mount.root) {
                Ok(below) => join(&mount.point, below),
                Err(_) if mount.root.starts_with(&on_filesystem) => mount.point.clone(),
                Err(_) => return None,
            };
            // Seen there only if no other mount lies on top.
            let is_seen = self.of(&alias).is_some_and(|seen| std::ptr::eq(seen, mount));
            (is_seen && !alias.starts_with(path)).then_some(alias)
        };
        self.mounts.iter().filter(|mount| mount.dev == dev).filter_map(alias).collect()
    }
}

/// `base` without a trailing slash if `below` is empty.
fn join(base: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { base.to_owned() } else { base.join(below) }
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let parent = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (major, minor) = str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let dev = (major.parse().ok()?, minor.parse().ok()?);
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let options = fields.next()?;
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(rest.next()?).into_owned();
    let super_options = rest.nth(1)?;
    let has =
        |options: &[u8], name: &[u8]| options.split(|b| *b == b',').any(|option| option == name);
    Some(Mount {
        id,
        parent,
        dev,
        root,
        point,
        read_only: has(options, b"ro") || has(super_options, b"ro"),
        devices: !has(options, b"nodev"),
        kind,
    })
}

/// Undoes the kernel's escapes of blanks and backslashes (`\040`, seq_path(9)).
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|digits| first == b'\\' && digits.iter().all(u8::is_ascii_digit));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0u32, |n, d| n * 8 + u32::from(d - b'0'));
                bytes.push(value as u8);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:25 / /home/u/p/a\\040b rw,nosuid shared:1 master:2 - tmpfs tmpfs ro
29 27 0:26 / /home/u/p/c ro - tmpfs tmpfs rw
30 29 0:26 / /home/u/p/c rw - tmpfs tmpfs rw
nonsense
";

    #[test]
    fn the_table_tells_submounts_and_modes() {
        let table = MountTable::parse(TABLE);
        let below: Vec<_> = table
            .below(Path::new("/home/u/p"))
            .iter()
            .map(|m| (m.point.clone(), m.read_only))
            .collect();
        assert_eq!(below, [("/home/u/p/a b".into(), true), ("/home/u/p/c".into(), false)]);
        assert_eq!(table.of(Path::new("/proc/1")).unwrap().kind, "proc");
        assert_eq!(table.of(Path::new("/home")).unwrap().point, Path::new("/"));
    }

    #[test]
    fn what_lies_under_another_mount_is_not_seen() {
        let table = MountTable::parse(
            b"\
27 1 254:0 / / rw - ext4 /dev/vda rw
28 27 0:5 / /p/a rw - tmpfs tmpfs rw
29 28 0:6 / /p/a/hidden rw - tmpfs tmpfs rw
30 29 0:6 / /p/a/hidden/x rw - tmpfs tmpfs rw
31 28 0:7 / /p/a rw - tmpfs tmpfs rw
32 31 0:8 / /p/a/seen rw - tmpfs tmpfs rw
",
        );
        let below: Vec<_> = table.below(Path::new("/p")).iter().map(|m| m.id).collect();
        assert_eq!(below, [31, 32]);
    }

    #[test]
    fn the_same_file_is_found_at_other_paths() {
        let table = MountTable::parse(
            b"\
27 1 254:0 / / rw - ext4 /dev/vda rw
28 27 254:0 /home/u /mnt/u rw - ext4 /dev/vda rw
29 27 254:0 /home/u/.ssh/keys /keys rw - ext4 /dev/vda rw
30 27 254:1 /home/u /other rw - ext4 /dev/vdb rw
31 27 254:0 /home /covered rw - ext4 /dev/vda rw
32 31 0:5 / /covered rw - tmpfs tmpfs rw
",
        );
        let aliases = |path: &str| table.aliases(Path::new(path));
        assert_eq!(aliases("/home/u/.ssh"), [Path::new("/mnt/u/.ssh"), Path::new("/keys")]);
        assert_eq!(aliases("/mnt/u"), [Path::new("/home/u"), Path::new("/keys")]);
        assert_eq!(aliases("/etc"), Vec::<PathBuf>::new());
        let there = table.on_filesystem(Path::new("/mnt/u/x")).unwrap();
        assert_eq!(there, ((254, 0), "/home/u/x".into()));
        assert_eq!(table.on_filesystem(Path::new("/mnt/u")), Some(((254, 0), "/home/u".into())));
    }
}
