//! A host that exists only in a test.

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
        Ok(FileStat {
            id,
            mode,
            uid: 7,
            names: 1,
            mount_id: 1,
            is_mount_root: false,
            device: (0, 0),
        })
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

    fn read_whole(&self, path: &Path, most: usize) -> Result<Vec<u8>, Errno> {
        self.read(path).and_then(|it| if it.len() > most { Err(Errno::FBIG) } else { Ok(it) })
    }

    fn names(&self, path: &Path, _: usize, each: &mut dyn FnMut(&OsStr)) -> Result<(), Errno> {
        let dir = self.follow(path, 0)?;
        let children = self.nodes.keys().filter(|child| child.parent() == Some(&dir));
        children.filter_map(|child| child.file_name()).for_each(each);
        Ok(())
    }

    fn executable(&self, path: &Path) -> Result<(), Errno> {
        self.find(path).map(|_| ())
    }

    fn writable(&self, path: &Path) -> Result<(), Errno> {
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
        may_mount: true,
        seccomp: Ok(()),
        directory_on_stdio: None,
        terminal: None,
        program: "/bin/remount-run".into(),
        mounts: MountTable::default(),
        files: Box::new(files.file("/bin/remount-run", "").file("/bin/sh", "").dir("/home/u/p")),
    }
}
