//! What the sandbox will look like, before it exists: where a path inside leads.

use crate::host::{Files, Found};
use remount_broker::sys::mount::FileStat;
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// The sandbox's file tree as far as it is decided.
///
/// Hundreds of paths are followed at each start, nearly all through the same few
/// directories: what was learnt of a path is remembered.
pub(super) struct View<'h> {
    files: &'h dyn Files,
    /// What is at a path, by the path as it was asked for. Keys are bytes: comparing
    /// and hashing paths by component is slow.
    known: RefCell<HashMap<OsString, Rc<Place>>>,
    /// Directories below which something is known.
    known_below: RefCell<HashMap<OsString, Children>>,
    /// What was put somewhere in place of the host.
    areas: Vec<(PathBuf, Area)>,
}

/// What is known of the names in a directory.
#[derive(Debug, Default)]
struct Children {
    /// How many were looked for, one by one.
    asked: usize,
    /// All of them, once several were looked for: most do not exist, and reading the
    /// directory costs less than asking for each.
    names: Option<HashSet<OsString>>,
}

/// After so many questions a directory is read.
const ASKED_BEFORE_READ: usize = 10;

/// In bytes (NAME_MAX, limits.h).
const LONGEST_NAME: usize = 255;

/// A directory with more names than this is not worth reading.
const MOST_NAMES: usize = 1000;

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

/// Where a path inside leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The path inside, without symlinks.
    pub path: PathBuf,
    /// What part of the tree it is in; `source` is this very place on the host.
    area: Area,
    /// What is there.
    stat: Option<FileStat>,
}

impl Place {
    /// The file of the host that is seen there.
    pub fn found(&self) -> Option<Found> {
        match (&self.area, self.stat) {
            (Area::Host { source, .. }, Some(stat)) => Some(Found { path: source.clone(), stat }),
            _ => None,
        }
    }

    /// The path of the host that is seen there, existing or not.
    pub fn on_host(&self) -> Option<&Path> {
        match &self.area {
            Area::Host { source, .. } => Some(source),
            Area::Fresh => None,
        }
    }

    /// Whether it is in private memory, where anything can be created.
    pub fn is_fresh(&self) -> bool {
        self.area == Area::Fresh
    }

    /// Whether what is there can be changed from inside, now or after a toggle.
    pub fn is_writable(&self) -> bool {
        match self.area {
            Area::Host { writable, .. } => writable,
            Area::Fresh => true,
        }
    }
}

impl<'h> View<'h> {
    /// The host as it is.
    pub fn of_host(files: &'h dyn Files) -> Self {
        let mut view = Self {
            files,
            known: RefCell::new(HashMap::with_capacity(512)),
            known_below: RefCell::default(),
            areas: Vec::new(),
        };
        view.cover(Path::new("/"), Area::Host { source: "/".into(), writable: false });
        view
    }

    /// The host, with what every sandbox has of its own.
    pub fn new(files: &'h dyn Files) -> Self {
        let mut view = Self::of_host(files);
        for own in ["/dev", "/proc", "/run", crate::plan::CONTROL_DIR] {
            view.cover(Path::new(own), Area::Fresh);
        }
        view
    }

    /// From now on `area` is seen at `dest` and below.
    pub fn cover(&mut self, dest: &Path, area: Area) {
        let known = self.known.get_mut();
        if self.known_below.get_mut().remove(dest.as_os_str()).is_some() {
            known.retain(|path, place| {
                !Path::new(path).starts_with(dest) && !place.path.starts_with(dest)
            });
        } else {
            known.retain(|_, place| place.path.as_os_str() != dest.as_os_str());
        }
        // What cannot be looked at now is looked at when it is mounted.
        let stat = match &area {
            Area::Host { source, .. } => self.files.lstat(source).ok(),
            Area::Fresh => None,
        };
        let place = Place { path: dest.to_owned(), area: area.clone(), stat };
        known.insert(dest.into(), Rc::new(place));
        self.areas.push((dest.to_owned(), area));
    }

    /// Follows the absolute `path` as a process inside would.
    pub fn locate(&self, path: &Path) -> Result<Rc<Place>, Errno> {
        self.follow(path, 0)
    }

    fn follow(&self, path: &Path, links: usize) -> Result<Rc<Place>, Errno> {
        if let Some(place) = self.known.borrow().get(path.as_os_str()) {
            return Ok(Rc::clone(place));
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL);
        };
        let parent = self.follow(parent, links)?;
        let inside = parent.path.join(name);
        let already = self.known.borrow().get(inside.as_os_str()).cloned();
        let place = match already {
            Some(place) => place,
            None => self.step(&parent, inside, name, links)?,
        };
        self.known.borrow_mut().insert(path.into(), Rc::clone(&place));
        Ok(place)
    }

    /// One component further: to `path`, which is `name` in `parent`, and of which all
    /// but this last component are no symlinks.
    fn step(
        &self,
        parent: &Place,
        path: PathBuf,
        name: &OsStr,
        links: usize,
    ) -> Result<Rc<Place>, Errno> {
        let Area::Host { source, writable } = &parent.area else {
            return Ok(Rc::new(Place { path, area: Area::Fresh, stat: None }));
        };
        let exists = parent.stat.is_some() && self.may_exist(parent, source, name);
        let source = source.join(name);
        let stat = match exists {
            false => None,
            true => match self.files.lstat(&source) {
                Ok(stat) if stat.is_symlink() => {
                    let target = self.files.readlink(&source)?;
                    return self.follow_link(parent.path.clone(), &target, links + 1);
                }
                Ok(stat) => Some(stat),
                Err(Errno::NOENT | Errno::NOTDIR) => None,
                Err(errno) => return Err(errno),
            },
        };
        Ok(Rc::new(Place { path, area: Area::Host { source, writable: *writable }, stat }))
    }

    /// Whether `name` can be in `dir`, which is `source` on the host.
    fn may_exist(&self, dir: &Place, source: &Path, name: &OsStr) -> bool {
        let mut known_below = self.known_below.borrow_mut();
        let children = match known_below.get_mut(dir.path.as_os_str()) {
            Some(children) => children,
            None => known_below.entry(dir.path.clone().into_os_string()).or_default(),
        };
        children.asked += 1;
        if children.asked == ASKED_BEFORE_READ {
            // What cannot be read, or is too large, is asked for one by one as before.
            let names = self.files.names(source, MOST_NAMES);
            children.names = names.ok().map(|names| names.into_iter().collect());
        }
        // A name that no directory can hold is for the kernel to refuse.
        let is_name = name.len() <= LONGEST_NAME;
        !is_name || children.names.as_ref().is_none_or(|names| names.contains(name))
    }

    fn follow_link(
        &self,
        mut base: PathBuf,
        target: &Path,
        links: usize,
    ) -> Result<Rc<Place>, Errno> {
        if links > 40 {
            return Err(Errno::LOOP);
        }
        for component in target.components() {
            match component {
                Component::RootDir => base = "/".into(),
                Component::ParentDir => {
                    base.pop();
                }
                Component::Normal(name) => {
                    base = self.follow(&base.join(name), links)?.path.clone()
                }
                Component::CurDir | Component::Prefix(_) => {}
            }
        }
        self.follow(&base, links)
    }

    /// The first symlink on the way to `path` on the host that lies in a directory
    /// which a sandbox made from this view can change.
    pub fn planted_link(&self, path: &Path) -> Option<PathBuf> {
        let mut done = PathBuf::from("/");
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            let next = done.join(name);
            if self.files.lstat(&next).ok()?.is_symlink() {
                if self.areas.iter().any(|(_, area)| area.can_change(&next)) {
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

impl Area {
    /// Whether a process inside can replace the file at `path` of the host.
    fn can_change(&self, path: &Path) -> bool {
        match self {
            Self::Host { source, writable } => {
                *writable && path != source && path.starts_with(source)
            }
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
        let mut view = View::new(&files);
        assert_eq!(view.locate(Path::new("/var/run/user")).unwrap().path, Path::new("/run/user"));
        view.cover(Path::new("/run"), Area::Fresh);
        let place = view.locate(Path::new("/var/run/new/x")).unwrap();
        assert_eq!((place.path.as_path(), place.is_fresh()), (Path::new("/run/new/x"), true));
        assert_eq!(view.locate(Path::new("/home/u/ring/x")), Err(Errno::LOOP));
    }

    #[test]
    fn a_bind_shows_its_source() {
        let files = files();
        let mut view = View::new(&files);
        view.cover(Path::new("/mnt"), Area::Host { source: "/home/u/p".into(), writable: true });
        let place = view.locate(Path::new("/mnt/sub")).unwrap();
        assert_eq!(place.found().unwrap().path, Path::new("/home/u/p/sub"));
        assert!(view.locate(Path::new("/mnt/sub")).unwrap().is_writable());
        assert!(!view.locate(Path::new("/home/u/p/sub")).unwrap().is_writable());
    }

    #[test]
    fn links_that_an_agent_could_have_made_are_found() {
        let files = files();
        let mut view = View::new(&files);
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
