//! What the sandbox will look like, before it exists: where a path inside leads.

use crate::host::{Files, Found};
use remount_broker::name::Mode;
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// The sandbox's file tree as far as it is decided.
///
/// Hundreds of paths are followed at each start, nearly all through the same few
/// directories: what was learnt of a path is remembered.
pub(super) struct View<'h> {
    files: &'h dyn Files,
    areas: Vec<(PathBuf, Area)>,
    known: RefCell<HashMap<PathBuf, Place>>,
}

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
    /// The file of the host that is seen there.
    pub found: Option<Found>,
    /// Whether it is in private memory, where anything can be created.
    pub fresh: bool,
}

impl<'h> View<'h> {
    /// The host as it is.
    pub fn of_host(files: &'h dyn Files) -> Self {
        let root = (PathBuf::from("/"), Area::Host { source: "/".into(), writable: false });
        Self { files, areas: vec![root], known: RefCell::default() }
    }

    /// The host, with what every sandbox has of its own.
    pub fn new(files: &'h dyn Files) -> Self {
        let mut view = Self::of_host(files);
        for own in ["/dev", "/proc", crate::plan::CONTROL_DIR] {
            view.cover(Path::new(own), Area::Fresh);
        }
        view
    }

    /// From now on `area` is seen at `dest` and below.
    pub fn cover(&mut self, dest: &Path, area: Area) {
        self.areas.retain(|(other, _)| other != dest);
        self.areas.push((dest.to_owned(), area));
        self.known
            .borrow_mut()
            .retain(|path, place| !path.starts_with(dest) && !place.path.starts_with(dest));
    }

    /// The deepest area that `path` is in, and where that begins.
    fn area(&self, path: &Path) -> (&Path, &Area) {
        let covering = self.areas.iter().filter(|(dest, _)| path.starts_with(dest));
        let deepest = covering.max_by_key(|(dest, _)| dest.components().count());
        deepest.map_or((Path::new("/"), &Area::Fresh), |(dest, area)| (dest, area))
    }

    /// The path on the host that is seen at `path`, which has no symlinks.
    fn on_host(&self, path: &Path) -> Option<PathBuf> {
        match self.area(path) {
            (dest, Area::Host { source, .. }) => {
                let below = path.strip_prefix(dest).unwrap_or(Path::new(""));
                Some(if below.as_os_str().is_empty() { source.clone() } else { source.join(below) })
            }
            (_, Area::Fresh) => None,
        }
    }

    /// Whether what is at `path` can be changed from inside, now or after a toggle.
    pub fn is_writable(&self, path: &Path) -> bool {
        match self.area(path) {
            (_, Area::Host { writable, .. }) => *writable,
            (_, Area::Fresh) => true,
        }
    }

    /// The mode that `path` has, as seen from inside at the start.
    pub fn mode(&self, path: &Path) -> Mode {
        if self.is_writable(path) { Mode::Rw } else { Mode::Ro }
    }

    /// Follows the absolute `path` as a process inside would.
    pub fn locate(&self, path: &Path) -> Result<Place, Errno> {
        self.follow(path, 0)
    }

    fn follow(&self, path: &Path, links: usize) -> Result<Place, Errno> {
        if let Some(place) = self.known.borrow().get(path) {
            return Ok(place.clone());
        }
        let place = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => self.step(self.follow(parent, links)?, name, links)?,
            _ => self.look("/".into())?,
        };
        self.known.borrow_mut().insert(path.to_owned(), place.clone());
        Ok(place)
    }

    /// One component further.
    fn step(&self, parent: Place, name: &OsStr, links: usize) -> Result<Place, Errno> {
        let path = parent.path.join(name);
        let is_area = self.areas.iter().any(|(dest, _)| *dest == path);
        if !parent.fresh && parent.found.is_none() && !is_area {
            return Ok(Place { path, found: None, fresh: false });
        }
        let place = self.look(path)?;
        match &place.found {
            Some(found) if found.stat.is_symlink() => {
                let target = self.files.readlink(&found.path)?;
                self.follow_link(parent.path, &target, links + 1)
            }
            _ => Ok(place),
        }
    }

    fn follow_link(&self, base: PathBuf, target: &Path, links: usize) -> Result<Place, Errno> {
        if links > 40 {
            return Err(Errno::LOOP);
        }
        let mut base = base;
        for component in target.components() {
            match component {
                Component::RootDir => base = "/".into(),
                Component::ParentDir => {
                    base.pop();
                }
                Component::Normal(name) => base = self.follow(&base.join(name), links)?.path,
                Component::CurDir | Component::Prefix(_) => {}
            }
        }
        self.follow(&base, links)
    }

    /// What is at `path`, of which all but the last component are no symlinks.
    fn look(&self, path: PathBuf) -> Result<Place, Errno> {
        let Some(on_host) = self.on_host(&path) else {
            return Ok(Place { path, found: None, fresh: true });
        };
        match self.files.lstat(&on_host) {
            Ok(stat) => {
                Ok(Place { path, found: Some(Found { path: on_host, stat }), fresh: false })
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Place { path, found: None, fresh: false }),
            Err(errno) => Err(errno),
        }
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
        assert_eq!((place.path.as_path(), place.fresh), (Path::new("/run/new/x"), true));
        assert_eq!(view.locate(Path::new("/home/u/ring/x")), Err(Errno::LOOP));
    }

    #[test]
    fn a_bind_shows_its_source() {
        let files = files();
        let mut view = View::new(&files);
        view.cover(Path::new("/mnt"), Area::Host { source: "/home/u/p".into(), writable: true });
        let place = view.locate(Path::new("/mnt/sub")).unwrap();
        assert_eq!(place.found.unwrap().path, Path::new("/home/u/p/sub"));
        assert!(view.is_writable(Path::new("/mnt/sub")));
        assert!(!view.is_writable(Path::new("/home/u/p/sub")));
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
