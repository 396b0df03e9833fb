//! What the sandbox will look like, before it exists: where a path inside leads.

use crate::host::{Files, Found};
use remount_broker::name::Mode;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// The sandbox's file tree as far as it is decided.
pub(super) struct View<'h> {
    files: &'h dyn Files,
    areas: Vec<(PathBuf, Area)>,
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
    /// The read-only host, with what every sandbox has of its own.
    pub fn new(files: &'h dyn Files) -> Self {
        let root = (PathBuf::from("/"), Area::Host { source: "/".into(), writable: false });
        let own = ["/dev", "/proc", crate::plan::CONTROL_DIR];
        let own = own.into_iter().map(|path| (PathBuf::from(path), Area::Fresh));
        Self { files, areas: std::iter::once(root).chain(own).collect() }
    }

    /// From now on `area` is seen at `dest` and below.
    pub fn cover(&mut self, dest: &Path, area: Area) {
        self.areas.retain(|(other, _)| other != dest);
        self.areas.push((dest.to_owned(), area));
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

    /// Follows `path` as a process inside would.
    pub fn locate(&self, path: &Path) -> Result<Place, Errno> {
        // Nearly always there is no symlink on the way, and one look settles it.
        if let Some(on_host) = self.on_host(path) {
            if let Ok(found) = self.files.find(&on_host) {
                if found.path == on_host {
                    return Ok(Place { path: path.to_owned(), found: Some(found), fresh: false });
                }
            }
        }
        let path = self.without_symlinks(path)?;
        let Some(on_host) = self.on_host(&path) else {
            return Ok(Place { path, found: None, fresh: true });
        };
        match self.files.find(&on_host) {
            Ok(found) => Ok(Place { path, found: Some(found), fresh: false }),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Place { path, found: None, fresh: false }),
            Err(errno) => Err(errno),
        }
    }

    fn without_symlinks(&self, path: &Path) -> Result<PathBuf, Errno> {
        let mut done = PathBuf::from("/");
        let mut left = names(path);
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                done.pop();
                continue;
            }
            let next = done.join(name);
            let target = match self.on_host(&next) {
                Some(on_host) if is_symlink(self.files, &on_host)? => {
                    self.files.readlink(&on_host)?
                }
                _ => {
                    done = next;
                    continue;
                }
            };
            links += 1;
            if links > 40 {
                return Err(Errno::LOOP);
            }
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            for name in names(&target).into_iter().rev() {
                left.push_front(name);
            }
        }
        Ok(done)
    }

    /// The first symlink on the way to `path` on the host that lies in a directory
    /// which a sandbox made from this view can change.
    pub fn planted_link(&self, path: &Path) -> Option<PathBuf> {
        let mut done = PathBuf::from("/");
        for name in names(path) {
            let next = done.join(name);
            if self.files.lstat(&next).ok()?.is_symlink() {
                let changeable = self.areas.iter().any(|(_, area)| match area {
                    Area::Host { source, writable } => {
                        *writable && next.starts_with(source) && next != *source
                    }
                    Area::Fresh => false,
                });
                if changeable {
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

fn is_symlink(files: &dyn Files, path: &Path) -> Result<bool, Errno> {
    match files.lstat(path) {
        Ok(stat) => Ok(stat.is_symlink()),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
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
