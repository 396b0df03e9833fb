//! Facts about the host, read once. Tests put others in their place.

use crate::confine::landlock::Unavailable;
use remount_broker::reason::Reason;
use remount_broker::sys::mount::{self, FileStat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What a start depends on besides arguments and profiles.
pub struct Host {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// `$HOME`, else what `/etc/passwd` says, else `/`.
    pub home: PathBuf,
    /// `$SHELL`, else what `/etc/passwd` says, else `/bin/sh`.
    pub shell: PathBuf,
    /// The working directory; `None` if it was removed or cannot be reached.
    pub cwd: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The Landlock ABI, or why there is none.
    pub landlock: Result<u32, Unavailable>,
    /// Whether system calls can be filtered, or why not.
    pub seccomp: Result<(), Errno>,
    /// The first of the standard descriptors that is a directory, if one is.
    pub directory_on_stdio: Option<i32>,
    /// The terminal on standard input, output or error, if there is one.
    pub terminal: Option<PathBuf>,
    /// This program's file.
    pub program: PathBuf,
    /// The host's mounts.
    pub mounts: MountTable,
    /// The host's files.
    pub files: Box<dyn Files>,
}

/// Questions about files. Nothing is changed by asking.
pub trait Files {
    /// The file at `path`, symlinks followed.
    ///
    /// # Errors
    /// As `open(2)` with `O_PATH`.
    fn find(&self, path: &Path) -> Result<Found, Errno>;
    /// The file at `path`, a last symlink not followed; only what it is.
    ///
    /// # Errors
    /// As `statx(2)`.
    fn lstat(&self, path: &Path) -> Result<FileStat, Errno>;
    /// Where the symlink at `path` points.
    ///
    /// # Errors
    /// As `readlink(2)`.
    fn readlink(&self, path: &Path) -> Result<PathBuf, Errno>;
    /// The first 64 KiB of a regular file.
    ///
    /// # Errors
    /// As `open(2)` and `read(2)`; `EINVAL` if it is not a regular file.
    fn read(&self, path: &Path) -> Result<Vec<u8>, Errno>;
    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// As `open(2)` and `getdents64(2)`; `EOVERFLOW` if there are more than `most`.
    fn names(&self, path: &Path, most: usize) -> Result<Vec<OsString>, Errno>;
    /// Whether this user may execute the file at `path`.
    ///
    /// # Errors
    /// As `access(2)`.
    fn executable(&self, path: &Path) -> Result<(), Errno>;
    /// Whether this user may read, enter or execute the file at `path`.
    fn reachable(&self, path: &Path) -> bool;
}

/// A file that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path without symlinks.
    pub path: PathBuf,
    /// What it is.
    pub stat: FileStat,
}

/// The files of the machine this runs on.
pub struct RealFiles;

impl Files for RealFiles {
    fn find(&self, path: &Path) -> Result<Found, Errno> {
        let fd = mount::open_following(path)?;
        let stat = mount::stat(fd.as_fd())?;
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let canonical = rustix::fs::readlink(link, Vec::new())?;
        let canonical = PathBuf::from(OsString::from_vec(canonical.into_bytes()));
        // The kernel prints "(deleted)" and "(unreachable)" into such links: what it
        // printed must be the file that was opened.
        if mount::lstat_at(rustix::fs::CWD, &canonical)?.id != stat.id {
            return Err(Errno::NOENT);
        }
        Ok(Found { path: canonical, stat })
    }

    fn lstat(&self, path: &Path) -> Result<FileStat, Errno> {
        mount::lstat_at(rustix::fs::CWD, path)
    }

    fn readlink(&self, path: &Path) -> Result<PathBuf, Errno> {
        let target = rustix::fs::readlink(path, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        if !mount::stat(fd.as_fd())?.is_file() {
            return Err(Errno::INVAL);
        }
        read_up_to(fd.as_fd(), 64 << 10)
    }

    fn names(&self, path: &Path, most: usize) -> Result<Vec<OsString>, Errno> {
        use rustix::fs::{Dir, Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::read_from(fd)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
            if names.len() > most {
                return Err(Errno::OVERFLOW);
            }
        }
        names.sort();
        Ok(names)
    }

    fn executable(&self, path: &Path) -> Result<(), Errno> {
        use rustix::fs::{Access, AtFlags, CWD};
        rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
    }

    fn reachable(&self, path: &Path) -> bool {
        use rustix::fs::{Access, AtFlags, CWD};
        rustix::fs::accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS).is_ok()
            || self.executable(path).is_ok()
    }
}

fn read_up_to(fd: impl AsFd, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while bytes.len() < limit {
        match rustix::io::read(&fd, &mut chunk)? {
            0 => break,
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
    bytes.truncate(limit);
    Ok(bytes)
}

impl Host {
    /// Reads the facts of this machine and this process.
    ///
    /// # Errors
    /// If `/proc` is not mounted: nothing works without it.
    pub fn read() -> Result<Self, HostError> {
        let environment: Vec<_> = std::env::vars_os().collect();
        let uid = rustix::process::geteuid().as_raw();
        let account = Account::needed(&environment, uid);
        let program = RealFiles.readlink(Path::new("/proc/self/exe")).map_err(HostError::Proc)?;
        let table = read_mountinfo().map_err(HostError::Proc)?;
        Ok(Self {
            uid,
            gid: rustix::process::getegid().as_raw(),
            home: absolute(&environment, "HOME").unwrap_or(account.home),
            shell: absolute(&environment, "SHELL").unwrap_or(account.shell),
            cwd: std::env::current_dir().ok(),
            landlock: crate::confine::landlock::detect(),
            seccomp: remount_broker::sys::seccomp::available(),
            directory_on_stdio: directory_on_stdio(),
            terminal: terminal(),
            program,
            mounts: MountTable::parse(&table),
            files: Box::new(RealFiles),
            environment,
        })
    }

    /// The value of an environment variable.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// The value of an environment variable that is an absolute path.
    pub fn path_variable(&self, name: &str) -> Option<PathBuf> {
        absolute(&self.environment, name)
    }
}

/// The host could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// `/proc` is missing or hidden.
    #[error("read /proc/self: {}", Reason::from(*.0))]
    Proc(Errno),
}

fn absolute(environment: &[(OsString, OsString)], name: &str) -> Option<PathBuf> {
    let value = environment.iter().find(|(key, _)| key == name)?;
    let path = PathBuf::from(&value.1);
    path.is_absolute().then_some(path)
}

fn read_mountinfo() -> Result<Vec<u8>, Errno> {
    use rustix::fs::{Mode, OFlags};
    let fd =
        rustix::fs::open("/proc/self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    read_up_to(fd, 64 << 20)
}

fn directory_on_stdio() -> Option<i32> {
    let stdio = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let is_directory = |fd: &BorrowedFd<'_>| mount::stat(*fd).is_ok_and(|stat| stat.is_dir());
    stdio.into_iter().find(is_directory).map(|fd| fd.as_raw_fd())
}

fn terminal() -> Option<PathBuf> {
    let name = |fd| rustix::termios::ttyname(fd, Vec::new()).ok();
    let stdio = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let path = stdio.into_iter().find_map(name)?;
    Some(PathBuf::from(OsString::from_vec(path.into_bytes())))
}

/// What `/etc/passwd` says of a user. The name service is not asked: it would load
/// libraries and talk to daemons.
struct Account {
    home: PathBuf,
    shell: PathBuf,
}

impl Account {
    fn needed(environment: &[(OsString, OsString)], uid: u32) -> Self {
        let known = ["HOME", "SHELL"].iter().all(|name| absolute(environment, name).is_some());
        let text =
            if known { Vec::new() } else { std::fs::read("/etc/passwd").unwrap_or_default() };
        Self::parse(&text, uid)
    }

    fn parse(passwd: &[u8], uid: u32) -> Self {
        let uid = uid.to_string();
        let fields = passwd
            .split(|b| *b == b'\n')
            .map(|line| line.split(|b| *b == b':').collect::<Vec<_>>())
            .find(|fields| fields.len() >= 7 && fields[2] == uid.as_bytes());
        let field = |i: usize, default: &str| {
            let text = fields.as_ref().map(|f| f[i]).filter(|text| text.starts_with(b"/"));
            PathBuf::from(OsStr::from_bytes(text.unwrap_or(default.as_bytes())))
        };
        Self { home: field(5, "/"), shell: field(6, "/bin/sh") }
    }
}

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
            if mount.point != dir && mount.point.starts_with(dir) && !self.is_hidden(mount) {
                found.retain(|other| other.point != mount.point);
                found.push(mount);
            }
        }
        found
    }

    /// Whether another mount lies over the directory that `mount` is in: no path leads there.
    fn is_hidden(&self, mount: &Mount) -> bool {
        let over = |other: &Mount| {
            other.parent == mount.parent
                && other.id != mount.id
                && mount.point.starts_with(&other.point)
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
            .filter(|mount| path.starts_with(&mount.point))
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
    let has_ro = |options: &[u8]| options.split(|b| *b == b',').any(|option| option == b"ro");
    Some(Mount {
        id,
        parent,
        dev,
        root,
        point,
        read_only: has_ro(options) || has_ro(super_options),
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

    #[test]
    fn an_account_is_found_by_number() {
        let passwd = b"root:x:0:0:root:/root:/bin/bash\nu:x:7:7:,,,:/home/u:/bin/zsh\nbad:x:8\n";
        assert_eq!(Account::parse(passwd, 7).home, Path::new("/home/u"));
        assert_eq!(Account::parse(passwd, 8).shell, Path::new("/bin/sh"));
    }
}

/// A host that exists only in a test.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;
    use remount_broker::sys::mount::FileId;
    use std::collections::BTreeMap;

    /// Files by path; a file's inode is its place in the order of paths.
    #[derive(Default, Clone)]
    pub(crate) struct FakeFiles {
        nodes: BTreeMap<PathBuf, Node>,
    }

    #[derive(Clone)]
    enum Node {
        Dir,
        File(Vec<u8>),
        Link(PathBuf),
    }

    impl FakeFiles {
        pub fn new() -> Self {
            Self::default().dir("/")
        }

        fn with(mut self, path: &str, node: Node) -> Self {
            for parent in Path::new(path).ancestors().skip(1) {
                self.nodes.entry(parent.to_owned()).or_insert(Node::Dir);
            }
            self.nodes.insert(path.into(), node);
            self
        }

        pub fn dir(self, path: &str) -> Self {
            self.with(path, Node::Dir)
        }

        pub fn file(self, path: &str, text: &str) -> Self {
            self.with(path, Node::File(text.into()))
        }

        pub fn link(self, path: &str, to: &str) -> Self {
            self.with(path, Node::Link(to.into()))
        }

        fn follow(&self, path: &Path, depth: usize) -> Result<PathBuf, Errno> {
            if depth > 40 {
                return Err(Errno::LOOP);
            }
            let mut done = PathBuf::from("/");
            let mut components = path.components();
            components.next();
            while let Some(component) = components.next() {
                match component {
                    std::path::Component::ParentDir => {
                        done.pop();
                        continue;
                    }
                    other => done.push(other),
                }
                match self.nodes.get(&done).ok_or(Errno::NOENT)? {
                    Node::Link(to) => {
                        let base = done.parent().unwrap_or(Path::new("/")).join(to);
                        return self.follow(&base.join(components.as_path()), depth + 1);
                    }
                    Node::File(_) if components.clone().next().is_some() => {
                        return Err(Errno::NOTDIR);
                    }
                    _ => {}
                }
            }
            Ok(done)
        }

        fn stat(&self, path: &Path) -> Result<FileStat, Errno> {
            let ino = self.nodes.range(..path.to_owned()).count() as u64;
            let mode = match self.nodes.get(path).ok_or(Errno::NOENT)? {
                Node::Dir => 0o040755,
                Node::File(_) => 0o100644,
                Node::Link(_) => 0o120777,
            };
            let id = FileId { dev: (8, 1), ino };
            Ok(FileStat { id, mode, uid: 7, mount_id: 1, is_mount_root: false, device: (0, 0) })
        }

        fn parent_followed(&self, path: &Path) -> Result<PathBuf, Errno> {
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Ok(self.follow(parent, 0)?.join(name)),
                _ => Ok("/".into()),
            }
        }
    }

    impl Files for FakeFiles {
        fn find(&self, path: &Path) -> Result<Found, Errno> {
            let path = self.follow(path, 0)?;
            let stat = self.stat(&path)?;
            Ok(Found { path, stat })
        }

        fn lstat(&self, path: &Path) -> Result<FileStat, Errno> {
            self.stat(&self.parent_followed(path)?)
        }

        fn readlink(&self, path: &Path) -> Result<PathBuf, Errno> {
            match self.nodes.get(&self.parent_followed(path)?) {
                Some(Node::Link(to)) => Ok(to.clone()),
                _ => Err(Errno::INVAL),
            }
        }

        fn read(&self, path: &Path) -> Result<Vec<u8>, Errno> {
            match self.nodes.get(&self.follow(path, 0)?) {
                Some(Node::File(bytes)) => Ok(bytes.clone()),
                _ => Err(Errno::INVAL),
            }
        }

        fn names(&self, path: &Path, _: usize) -> Result<Vec<OsString>, Errno> {
            let dir = self.follow(path, 0)?;
            let children = self.nodes.keys().filter(|child| child.parent() == Some(&dir));
            Ok(children.filter_map(|child| child.file_name()).map(OsStr::to_owned).collect())
        }

        fn executable(&self, path: &Path) -> Result<(), Errno> {
            self.find(path).map(|_| ())
        }

        fn reachable(&self, path: &Path) -> bool {
            self.find(path).is_ok()
        }
    }

    /// An ordinary user in `/home/u/p`.
    pub(crate) fn host(files: FakeFiles) -> Host {
        Host {
            uid: 7,
            gid: 7,
            home: "/home/u".into(),
            shell: "/bin/sh".into(),
            cwd: Some("/home/u/p".into()),
            environment: vec![("PATH".into(), "/bin".into()), ("HOME".into(), "/home/u".into())],
            landlock: Ok(7),
            seccomp: Ok(()),
            directory_on_stdio: None,
            terminal: None,
            program: "/bin/remount-run".into(),
            mounts: MountTable::default(),
            files: Box::new(
                files.file("/bin/remount-run", "").file("/bin/sh", "").dir("/home/u/p"),
            ),
        }
    }
}
