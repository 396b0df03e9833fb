//! Sockets of programs outside: hidden, or a filtered one in their place.

use super::super::{Asker, Entry, SpecError, What};
use super::{Layout, find_error, path_of, refuse_reserved};
use crate::paths::is_in;
use crate::plan::SocketPlan;
use crate::profile::{self, Profile, SocketAccess, Variables};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// The longest path that an address of a unix socket has room for (unix(7)).
const LONGEST: usize = 107;

impl Layout<'_> {
    /// Comes after the masks: what the profile says of a socket by name is the more
    /// deliberate wish.
    pub(super) fn place_sockets(
        &mut self,
        profile: &Profile,
        variables: &Variables,
    ) -> Result<(), SpecError> {
        for (name, entry) in &profile.sockets {
            let (socket, origin) = (&entry.value, Asker::Profile(entry.origin.clone()));
            let paths = socket.paths.iter().map(|path| path_of(path, variables, &origin));
            let paths = paths.collect::<Result<Vec<_>, _>>()?;
            let upstream = match socket.access {
                SocketAccess::None => None,
                SocketAccess::Read => self.upstream(socket, &paths, variables, &origin)?,
            };
            // Whatever is made below: not the program's own socket, at any path.
            for path in paths.iter().chain(&upstream) {
                self.hide_socket(path, &origin)?;
            }
            if let Some(upstream) = upstream {
                let name = name.as_str().to_owned();
                for path in &paths {
                    self.place_socket(path, &name, &origin)?;
                }
                self.sockets.push(SocketPlan { name, upstream });
            }
        }
        Ok(())
    }

    /// All of them, for a tree in which nothing is put in their places.
    pub(super) fn hide_sockets(
        &mut self,
        profile: &Profile,
        variables: &Variables,
    ) -> Result<(), SpecError> {
        for entry in profile.sockets.values() {
            let origin = Asker::Profile(entry.origin.clone());
            for text in entry.value.paths.iter().chain(&entry.value.upstream) {
                self.hide_socket(&path_of(text, variables, &origin)?, &origin)?;
            }
        }
        Ok(())
    }

    /// Where the program listens, without symlinks; `None` if it does not exist.
    fn upstream(
        &mut self,
        socket: &profile::Socket,
        paths: &[PathBuf],
        variables: &Variables,
        origin: &Asker,
    ) -> Result<Option<PathBuf>, SpecError> {
        let named = match &socket.upstream {
            Some(path) => vec![path_of(path, variables, origin)?],
            None => paths.to_vec(),
        };
        for path in named {
            let Ok(place) = self.sources.locate(&path) else { continue };
            let Some(found) = place.found().filter(|found| !found.stat.is_dir()) else { continue };
            let why = if self.view.can_change(&found.path) {
                "it is in a directory that is writable in the sandbox"
            } else if found.path.as_os_str().len() > LONGEST {
                "its path is longer than the address of a socket can be"
            } else {
                self.asked.push((path, origin.clone()));
                return Ok(Some(found.path));
            };
            return Err(SpecError::Upstream { path, why, origin: origin.to_string() });
        }
        Ok(None)
    }

    fn hide_socket(&mut self, path: &Path, origin: &Asker) -> Result<(), SpecError> {
        match self.view.locate(path) {
            Ok(place) if place.found().is_some_and(|found| !found.stat.is_dir()) => {
                self.mask_everywhere(&place, origin)
            }
            Ok(_) | Err(Errno::ACCESS | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => Err(find_error(path, origin, errno)),
        }
    }

    /// Puts the filter's socket where clients look, if there can be one.
    fn place_socket(&mut self, path: &Path, name: &str, origin: &Asker) -> Result<(), SpecError> {
        let Ok(place) = self.view.locate(path) else { return Ok(()) };
        let is_masked = |entry: &Entry| {
            matches!(entry.what, What::Mask(_))
                && entry.dest != place.path
                && is_in(&place.path, &entry.dest)
        };
        let is_hidden_here = self
            .entries
            .iter()
            .any(|entry| entry.dest == place.path && matches!(entry.what, What::Mask(_)));
        // The host's directories in there are not this user's to make something in.
        let is_in_run = self.run.is_some() && place.path.parent() == Some(Path::new("/run"));
        // In what is hidden, and where the host has nothing, nothing can be mounted.
        if self.entries.iter().any(is_masked) || !(is_hidden_here || is_in_run || place.is_fresh())
        {
            return Ok(());
        }
        refuse_reserved(&place.path, origin)?;
        let what = What::Socket(name.to_owned());
        self.put(Entry { dest: place.path.clone(), what, origin: origin.clone() });
        Ok(())
    }
}
