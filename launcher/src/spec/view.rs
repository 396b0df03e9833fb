//! What the sandbox will look like, before it exists: where a path inside leads.

mod names;
mod tree;

use crate::host::{Files, Found};
use crate::paths::is_in;
use names::NameFilter;
use remount_broker::sys::mount::FileStat;
use rustix::io::Errno;
use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use tree::{Node, NodeId, Tree};

/// The sandbox's file tree as far as it is decided.
///
/// Hundreds of paths are followed at each start, nearly all through the same few
/// directories: what was learnt of a path is remembered.
pub(super) struct View<'h> {
    files: &'h dyn Files,
    known: RefCell<Tree>,
    /// What was put somewhere in place of the host.
    areas: Vec<Rc<Root>>,
}

/// After so many questions about names in a directory it is read: most of what is
/// looked for does not exist, and reading costs less than asking for each.
const ASKED_BEFORE_READ: u32 = 24;

/// A directory with more names than this is not worth reading.
const MOST_NAMES: usize = 1000;

/// As many as the kernel follows in one path (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Where a path leads, and the symlinks that it passes through on its way.
pub(super) type Way = (Rc<Place>, Vec<Rc<Place>>);

/// What a part of the tree shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Area {
    /// The host's files below a path.
    Host {
        /// The path on the host.
        source: PathBuf,
        /// Whether they can be changed, now or after a toggle.
        writable: bool,
    },
    /// Nothing of the host.
    Fresh,
}

/// An area, and where it begins.
#[derive(Debug, PartialEq, Eq)]
struct Root {
    dest: PathBuf,
    area: Area,
}

/// Where a path inside leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The path inside, without symlinks.
    pub path: PathBuf,
    /// What part of the tree it is in.
    root: Rc<Root>,
    /// What is there.
    stat: Option<FileStat>,
}

impl Place {
    /// The file of the host that is seen there.
    pub fn found(&self) -> Option<Found> {
        let stat = self.stat?;
        Some(Found { path: self.root.on_host(&self.path)?.into_owned(), stat })
    }

    /// The path of the host that is seen there, existing or not.
    pub fn on_host(&self) -> Option<Cow<'_, Path>> {
        self.root.on_host(&self.path)
    }

    /// Whether it is in private memory, where anything can be created.
    pub fn is_fresh(&self) -> bool {
        self.root.area == Area::Fresh
    }

    /// Whether what is there can be changed from inside, now or after a toggle.
    pub fn is_writable(&self) -> bool {
        match self.root.area {
            Area::Host { writable, .. } => writable,
            Area::Fresh => true,
        }
    }
}

impl Root {
    /// Where on the host the file is that is seen at `path`, which is in this area.
    fn on_host<'p>(&'p self, path: &'p Path) -> Option<Cow<'p, Path>> {
        let Area::Host { source, .. } = &self.area else { return None };
        if *source == self.dest {
            return Some(path.into());
        }
        let below = path.strip_prefix(&self.dest).ok()?;
        // Joining nothing would end the path in a slash.
        let is_root = below.as_os_str().is_empty();
        Some(if is_root { source.into() } else { source.join(below).into() })
    }
}

impl<'h> View<'h> {
    /// The host as it is.
    pub fn of_host(files: &'h dyn Files) -> Self {
        let host = Area::Host { source: "/".into(), writable: false };
        let root = Rc::new(Root { dest: "/".into(), area: host });
        let stat = files.lstat(Path::new("/")).ok();
        let place = Place { path: "/".into(), root: Rc::clone(&root), stat };
        Self { files, known: RefCell::new(Tree::new(place)), areas: vec![root] }
    }

    /// The host, with what every sandbox has of its own. `run` is the host's `/run`, where
    /// that is seen instead of private memory.
    pub fn new(files: &'h dyn Files, run: Option<&Found>) -> Self {
        let mut view = Self::of_host(files);
        let run = run.map_or(Area::Fresh, |found| Area::Host {
            source: found.path.clone(),
            writable: false,
        });
        view.cover(Path::new("/run"), run);
        for own in ["/dev", "/proc", crate::plan::CONTROL_DIR] {
            view.cover(Path::new(own), Area::Fresh);
        }
        view
    }

    /// From now on `area` is seen at `dest`, a path without symlinks, and below, but for the
    /// areas that are below it already: parents are mounted first, whenever asked for.
    pub fn cover(&mut self, dest: &Path, area: Area) {
        let root = Rc::new(Root { dest: dest.to_owned(), area });
        if self.put(&root) {
            let below = |other: &&Rc<Root>| other.dest != dest && is_in(&other.dest, dest);
            let mut below: Vec<_> = self.areas.iter().filter(below).cloned().collect();
            // Stable: of two at one place the later one counts.
            below.sort_by_key(|other| other.dest.as_os_str().len());
            for other in below {
                self.put(&other);
            }
        }
        self.areas.push(root);
    }

    /// Makes a root what is seen at its place. Whether anything was known below that.
    fn put(&mut self, root: &Rc<Root>) -> bool {
        let path = &root.dest;
        // What cannot be looked at now is looked at when it is mounted.
        let stat = root.on_host(path).and_then(|source| self.files.lstat(&source).ok());
        let place = Place { path: path.clone(), root: Rc::clone(root), stat };
        let node = self.node_of(path);
        self.known.get_mut().replace(node, place)
    }

    /// The node of `dest`; what of the way to it cannot be looked at counts as missing.
    fn node_of(&self, dest: &Path) -> NodeId {
        let names = dest.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        names.fold(Tree::ROOT, |dir, name| {
            let known = self.known.borrow().child(dir, name);
            known.or_else(|| self.step(dir, name).ok()).unwrap_or_else(|| {
                let mut known = self.known.borrow_mut();
                let place = known.place(dir).below(name);
                known.add(dir, name, Node::new(place, None))
            })
        })
    }

    /// Follows the absolute `path` as a process inside would.
    pub fn locate(&self, path: &Path) -> Result<Rc<Place>, Errno> {
        Ok(self.locate_way(path)?.0)
    }

    /// As [`Self::locate`], and the symlinks on the way.
    pub fn locate_way(&self, path: &Path) -> Result<Way, Errno> {
        if !path.is_absolute() {
            return Err(Errno::INVAL);
        }
        let mut links = Vec::new();
        let node = self.follow(Tree::ROOT, path, &mut links)?;
        let known = self.known.borrow();
        let place = |node| Rc::clone(known.place(node));
        Ok((place(node), links.into_iter().map(place).collect()))
    }

    /// Follows `path` from `dir`; `links` are the symlinks on the way so far.
    fn follow(&self, dir: NodeId, path: &Path, links: &mut Vec<NodeId>) -> Result<NodeId, Errno> {
        let bytes = path.as_os_str().as_bytes();
        let mut at = if path.is_absolute() { Tree::ROOT } else { dir };
        for name in bytes.split(|byte| *byte == b'/') {
            at = match name {
                b"" | b"." => at,
                b".." => self.known.borrow().parent(at),
                name => self.follow_name(at, OsStr::from_bytes(name), links)?,
            };
        }
        Ok(at)
    }

    /// Where `name` in `dir` leads.
    fn follow_name(
        &self,
        dir: NodeId,
        name: &OsStr,
        links: &mut Vec<NodeId>,
    ) -> Result<NodeId, Errno> {
        let known = self.known.borrow().child(dir, name);
        let node = match known {
            Some(node) => node,
            None => self.step(dir, name)?,
        };
        let Some(target) = self.known.borrow().link(node) else { return Ok(node) };
        links.push(node);
        if links.len() > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        self.follow(dir, &target, links)
    }

    /// Looks at `name` in `dir`.
    fn step(&self, dir: NodeId, name: &OsStr) -> Result<NodeId, Errno> {
        let parent = Rc::clone(self.known.borrow().place(dir));
        let mut place = parent.below(name);
        let mut link = None;
        if parent.stat.is_some()
            && let Some(source) = place.root.on_host(&place.path)
            && self.may_exist(dir, &parent, name)
        {
            let stat = match self.files.lstat(&source) {
                Ok(stat) => Some(stat),
                Err(Errno::NOENT | Errno::NOTDIR) => None,
                Err(errno) => return Err(errno),
            };
            if stat.is_some_and(|stat| stat.is_symlink()) {
                link = Some(self.files.readlink(&source)?);
            }
            place.stat = stat;
        }
        Ok(self.known.borrow_mut().add(dir, name, Node::new(place, link)))
    }

    /// Whether `name` can be in the directory `dir`, which is at `place`.
    fn may_exist(&self, dir: NodeId, place: &Place, name: &OsStr) -> bool {
        let mut known = self.known.borrow_mut();
        let children = known.children_mut(dir);
        children.asked += 1;
        if children.asked == ASKED_BEFORE_READ
            && let Some(source) = place.root.on_host(&place.path)
        {
            let mut filter = NameFilter::default();
            let read = self.files.names(&source, MOST_NAMES, &mut |name| filter.add(name));
            // What cannot be read, or is too large, is asked for one by one as before.
            children.names = read.is_ok().then(|| Box::new(filter));
        }
        children.names.as_ref().is_none_or(|names| names.may_contain(name))
    }

    /// Whether a process inside can replace the file at `path` of the host.
    pub fn can_change(&self, path: &Path) -> bool {
        self.areas.iter().any(|root| root.area.can_change(path))
    }

    /// The first symlink on the way to `path` on the host that lies in a directory
    /// which a sandbox made from this view can change.
    pub fn planted_link(&self, path: &Path) -> Option<PathBuf> {
        let mut done = PathBuf::from("/");
        for component in path.components() {
            let next = match component {
                Component::Normal(name) => done.join(name),
                Component::ParentDir => {
                    done.pop();
                    continue;
                }
                _ => continue,
            };
            if self.files.lstat(&next).ok()?.is_symlink() {
                if self.can_change(&next) {
                    return Some(next);
                }
                done = self.files.find(&next).ok()?.path;
            } else {
                done = next;
            }
        }
        None
    }
}

impl Place {
    /// The place of `name` in the directory at this one; nothing is known to be there.
    fn below(&self, name: &OsStr) -> Self {
        let mut path = PathBuf::with_capacity(self.path.as_os_str().len() + 1 + name.len());
        path.push(&self.path);
        path.push(name);
        Self { path, root: Rc::clone(&self.root), stat: None }
    }
}

impl Area {
    /// Whether a process inside can replace the file at `path` of the host.
    fn can_change(&self, path: &Path) -> bool {
        match self {
            Self::Host { source, writable } => *writable && path != source && is_in(path, source),
            Self::Fresh => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeFiles;

    fn files() -> FakeFiles {
        FakeFiles::new()
            .dir("/run")
            .dir("/run/user")
            .link("/var/run", "/run")
            .dir("/home/u/p/sub")
            .link("/home/u/p/evil", "/home/u/.ssh")
            .dir("/home/u/.ssh")
            .link("/home/u/ring", "ring")
    }

    #[test]
    fn a_symlink_on_the_host_leads_where_it_would_inside() {
        let files = files();
        let mut view = View::new(&files, None);
        assert_eq!(view.locate(Path::new("/var/run/user")).unwrap().path, Path::new("/run/user"));
        view.cover(Path::new("/run"), Area::Fresh);
        let place = view.locate(Path::new("/var/run/new/x")).unwrap();
        assert_eq!((place.path.as_path(), place.is_fresh()), (Path::new("/run/new/x"), true));
        assert_eq!(view.locate(Path::new("/home/u/ring/x")), Err(Errno::LOOP));
    }

    #[test]
    fn symlinks_that_multiply_are_given_up_as_the_kernel_does() {
        let mut files = FakeFiles::new().dir("/w/39");
        for n in 0..39 {
            files = files.link(&format!("/w/{n}"), &format!("{0}/../{0}", n + 1));
        }
        let view = View::of_host(&files);
        assert_eq!(view.locate(Path::new("/w/0")), Err(Errno::LOOP));
        assert_eq!(view.locate(Path::new("/w/38")).unwrap().path, Path::new("/w/39"));
    }

    #[test]
    fn a_bind_shows_its_source() {
        let files = files();
        let mut view = View::new(&files, None);
        view.cover(Path::new("/mnt"), Area::Host { source: "/home/u/p".into(), writable: true });
        let place = view.locate(Path::new("/mnt/sub")).unwrap();
        assert_eq!(place.found().unwrap().path, Path::new("/home/u/p/sub"));
        assert!(view.locate(Path::new("/mnt/sub")).unwrap().is_writable());
        assert!(!view.locate(Path::new("/home/u/p/sub")).unwrap().is_writable());
    }

    #[test]
    fn what_lies_below_stays_when_something_above_is_covered_later() {
        let files = files();
        let mut view = View::new(&files, None);
        let area = |source: &str, writable| Area::Host { source: source.into(), writable };
        view.cover(Path::new("/home/u/p/sub"), area("/home/u/p/sub", true));
        view.cover(Path::new("/home/u/p"), area("/home/u/p", false));
        let is_writable = |path: &str| view.locate(Path::new(path)).unwrap().is_writable();
        assert!(is_writable("/home/u/p/sub/x") && !is_writable("/home/u/p/x"));
    }

    #[test]
    fn links_that_an_agent_could_have_made_are_found() {
        let files = files();
        let mut view = View::new(&files, None);
        assert_eq!(view.planted_link(Path::new("/home/u/p/evil/id")), None);
        view.cover(
            Path::new("/home/u/p"),
            Area::Host { source: "/home/u/p".into(), writable: true },
        );
        let link = view.planted_link(Path::new("/home/u/p/evil/id"));
        assert_eq!(link.unwrap(), Path::new("/home/u/p/evil"));
        assert_eq!(view.planted_link(Path::new("/var/run/user")), None);
    }
}
