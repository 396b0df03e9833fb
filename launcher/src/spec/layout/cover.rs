//! What is laid over what is shown: protections and masks.

use super::super::view::{Area, Place};
use super::super::{Asker, Entry, SpecError, What};
use super::{Layout, find_error, path_of, refuse_reserved, shape_of};
use crate::cli::Args;
use crate::host::Found;
use crate::plan::Shape;
use crate::profile::{MissingProtect, PathText, Profile, Variables};
use remount_broker::placeholder::{self, Kind, Wanted};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What to do where nothing is to protect.
pub(super) enum IfMissing {
    Skip,
    Guard(Kind),
    Error,
}

/// What stands in for a missing path of a profile. In the project that is always a
/// directory, since git shows, and adds, no empty directory; elsewhere a file
/// is what the readers of a file understand best, one of JSON with an object in it.
fn stand_in(path: &Path, text: &PathText, workspace: &Path) -> Kind {
    if text.as_str().ends_with('/') || path.starts_with(workspace) {
        return Kind::Directory;
    }
    match path.extension().and_then(OsStr::to_str) {
        Some("json" | "jsonc") => Kind::File(b"{}\n".to_vec()),
        _ => Kind::File(Vec::new()),
    }
}

impl Layout<'_> {
    pub(super) fn protect_all(
        &mut self,
        args: &Args,
        profile: &Profile,
        variables: &Variables,
    ) -> Result<(), SpecError> {
        let workspace = &variables.workspace;
        for entry in &profile.protects {
            let origin = Asker::Profile(entry.origin.clone());
            let protect = &entry.value;
            let path = path_of(&protect.path, variables, &origin)?;
            let missing = match protect.missing {
                MissingProtect::Error => IfMissing::Error,
                MissingProtect::Skip => IfMissing::Skip,
                MissingProtect::Guard => {
                    IfMissing::Guard(stand_in(&path, &protect.path, workspace))
                }
            };
            self.protect(&path, &origin, &missing)?;
        }
        for path in &args.protect {
            self.protect(Path::new(path), &Asker::Option("--protect"), &IfMissing::Error)?;
        }
        Ok(())
    }

    pub(super) fn protect(
        &mut self,
        path: &Path,
        origin: &Asker,
        missing: &IfMissing,
    ) -> Result<(), SpecError> {
        let (place, links) = self.locate_way(path, origin)?;
        self.protect_links(links, origin);
        if !self.moved.is_empty() {
            self.protect_moved(path, origin, missing)?;
        }
        match (self.existing(&place), missing) {
            (Some(found), _) => self.protect_found(&place, found, origin),
            (None, IfMissing::Skip) => Ok(()),
            (None, IfMissing::Guard(kind)) => {
                self.guard(place, What::Guard(kind.clone()), kind, origin)
            }
            (None, IfMissing::Error) => {
                refuse_reserved(&place.path, origin)?;
                Err(find_error(path, origin, Errno::NOENT))
            }
        }
    }

    /// Protects a file of the host at the other places to which binds bring it.
    fn protect_moved(
        &mut self,
        path: &Path,
        origin: &Asker,
        missing: &IfMissing,
    ) -> Result<(), SpecError> {
        let Ok(on_host) = self.sources.locate(path) else { return Ok(()) };
        for place in self.elsewhere(&on_host.path) {
            match (self.existing(&place), missing) {
                (Some(found), _) => self.protect_found(&place, found, origin)?,
                (None, IfMissing::Guard(kind)) => {
                    self.guard(place, What::Guard(kind.clone()), kind, origin)?;
                }
                (None, IfMissing::Skip | IfMissing::Error) => {}
            }
        }
        Ok(())
    }

    /// Keeps symlinks as they are: what a path leads to is protected for nothing if the path
    /// can be made to lead elsewhere.
    pub(super) fn protect_links(&mut self, links: Vec<Rc<Place>>, origin: &Asker) {
        for link in links.into_iter().filter(|link| link.is_writable()) {
            let is_taken = self.entries.iter().any(|entry| entry.dest == link.path);
            if let Some(found) = link.found().filter(|_| !is_taken) {
                let (dest, origin) = (link.path.clone(), origin.clone());
                self.put(Entry { dest, what: What::Protect(found), origin });
            }
        }
    }

    /// What is there, if it is not there for another sandbox only.
    pub(super) fn existing(&self, place: &Place) -> Option<Found> {
        place.found().filter(|found| !placeholder::is_one(&found.stat, self.host.uid))
    }

    pub(super) fn protect_found(
        &mut self,
        place: &Place,
        found: Found,
        origin: &Asker,
    ) -> Result<(), SpecError> {
        if !place.is_writable() {
            return Ok(());
        }
        refuse_reserved(&place.path, origin)?;
        if let Some(taken) = self.entries.iter().find(|entry| entry.dest == place.path) {
            if matches!(taken.what, What::Protect(_) | What::Guard(_)) {
                return Ok(());
            }
            let by = taken.origin.to_string();
            let path = place.path.clone();
            return Err(SpecError::ProtectTaken { path, by, origin: origin.to_string() });
        }
        let source = found.path.clone();
        self.view.cover(&place.path, Area::Host { source: source.clone(), writable: false });
        let dest = place.path.clone();
        self.put(Entry { dest, what: What::Protect(found), origin: origin.clone() });
        self.protect_aliases(&source, None, origin);
        Ok(())
    }

    /// Protects a file, or what stands in for it, wherever else the host shows it in a
    /// writable directory.
    fn protect_aliases(&mut self, path: &Path, stand_in: Option<&Kind>, origin: &Asker) {
        // Nearly always: then no path leads there but by a bind, of which there are no two.
        let mounts = &self.host.mounts;
        let shows_mounts = |entry: &Entry| match &entry.what {
            What::Bind { path, .. } => !mounts.below(path).is_empty(),
            _ => false,
        };
        if !self.shows_mounts && !self.entries.iter().any(shows_mounts) {
            return;
        }
        for alias in mounts.aliases(path) {
            let Ok(place) = self.view.locate(&alias) else { continue };
            let is_taken = self.entries.iter().any(|entry| entry.dest == place.path);
            let what = match (stand_in, place.found()) {
                (Some(kind), _) => What::Guard(kind.clone()),
                (None, Some(found)) => What::Protect(found),
                (None, None) => continue,
            };
            if place.is_writable() && !place.is_fresh() && !is_taken {
                let (dest, origin) = (place.path.clone(), origin.clone());
                self.put(Entry { dest, what, origin });
            }
        }
    }

    /// Keeps what does not exist from being created: a placeholder stands there, and, where
    /// the directories on the way are missing too, in their places. On it is mounted `what`.
    pub(super) fn guard(
        &mut self,
        place: Rc<Place>,
        what: What,
        kind: &Kind,
        origin: &Asker,
    ) -> Result<(), SpecError> {
        if self.read_only {
            // Not even that is made on the host.
            return Ok(());
        }
        let Some(path) = place.on_host().filter(|_| place.is_writable()) else { return Ok(()) };
        let path = path.into_owned();
        if self.entries.iter().any(|entry| entry.dest == place.path) {
            return Ok(());
        }
        let mut wanted = vec![Wanted { path: path.clone(), kind: kind.clone() }];
        let mut inside = place.path.as_path();
        while let Some(parent) = inside.parent() {
            let parent_place = self.locate(parent, origin)?;
            match self.existing(&parent_place) {
                Some(found) if found.stat.is_dir() => {
                    if !self.can_make_in(&found, &place, origin)? {
                        return Ok(());
                    }
                    break;
                }
                // What is in the way could be exchanged for a directory.
                Some(found) => return self.protect_found(&parent_place, found, origin),
                None => {}
            }
            // A bind whose directory the start makes.
            if self.entries.iter().any(|entry| entry.dest == parent) {
                break;
            }
            let Some(path) = parent_place.on_host() else { return Ok(()) };
            wanted.push(Wanted { path: path.into_owned(), kind: Kind::Directory });
            inside = parent;
        }
        let writable = matches!(what, What::Pin(_));
        let area = Area::Host { source: path.clone(), writable };
        for wanted in wanted.into_iter().rev() {
            if !self.placeholders.iter().any(|other| other.path == wanted.path) {
                self.placeholders.push(wanted);
            }
        }
        let dest = place.path.clone();
        self.view.cover(&dest, area);
        self.put(Entry { dest, what, origin: origin.clone() });
        if !writable {
            self.protect_aliases(&path, Some(kind), origin);
        }
        Ok(())
    }

    /// Whether something can be made in a directory. Where this user cannot, the agent
    /// cannot either, unless it can give itself the right to.
    fn can_make_in(&self, dir: &Found, place: &Place, origin: &Asker) -> Result<bool, SpecError> {
        match self.host.files.writable(&dir.path) {
            Ok(()) => Ok(true),
            Err(Errno::ACCESS) if dir.stat.uid == self.host.uid => Err(SpecError::Guard {
                path: place.path.clone(),
                parent: dir.path.clone(),
                origin: origin.to_string(),
            }),
            Err(_) => Ok(false),
        }
    }

    /// Hides what sandboxes of this user remember: whoever can open the records can lock
    /// them, and no other sandbox could start or end.
    pub(super) fn hide_state(&mut self) -> Result<(), SpecError> {
        let state = self.host.state_home().join("remount");
        let Ok(place) = self.view.locate(&state) else { return Ok(()) };
        if place.found().is_some() {
            return self.mask_everywhere(&place, &Asker::Sandbox);
        }
        if !self.placeholders.is_empty() && place.on_host().is_some() {
            // Made before anything is mounted.
            self.view.cover(&place.path, Area::Fresh);
            let what = What::Mask(Shape::Directory);
            self.put(Entry { dest: place.path.clone(), what, origin: Asker::Sandbox });
        }
        Ok(())
    }

    pub(super) fn mask_all(
        &mut self,
        args: &Args,
        profile: &Profile,
        variables: &Variables,
    ) -> Result<(), SpecError> {
        let of_profile = if args.no_mask { &[][..] } else { &profile.masks };
        for entry in of_profile {
            let origin = Asker::Profile(entry.origin.clone());
            let path = path_of(&entry.value, variables, &origin)?;
            // What this user cannot reach, the agent cannot reach either.
            match self.view.locate(&path) {
                Ok(place) if self.is_out_of_reach(&place) => {}
                Ok(place) => self.mask_everywhere(&place, &origin)?,
                Err(Errno::ACCESS | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => {
                    return Err(SpecError::Find { path, origin: origin.to_string(), errno });
                }
            }
            // What is hidden by something else in its own place may be seen at another.
            if !self.moved.is_empty()
                && let Some(found) = self.sources.locate(&path).ok().and_then(|it| it.found())
            {
                self.mask_elsewhere(&found.path, &origin)?;
            }
        }
        for path in &args.mask {
            let asker = Asker::Option("--mask");
            let place = self.locate(Path::new(path), &asker)?;
            refuse_reserved(&place.path, &asker)?;
            if place.found().is_none() {
                return Err(find_error(Path::new(path), &asker, Errno::NOENT));
            }
            self.mask_everywhere(&place, &Asker::Option("--mask"))?;
        }
        Ok(())
    }

    /// Masks a place, and the others at which the host's mounts show the same file.
    pub(super) fn mask_everywhere(
        &mut self,
        place: &Place,
        origin: &Asker,
    ) -> Result<(), SpecError> {
        let Some(found) = place.found() else { return Ok(()) };
        self.mask(place, origin.clone())?;
        self.mask_elsewhere(&found.path, origin)
    }

    /// Masks a file of the host at all places but its own.
    fn mask_elsewhere(&mut self, on_host: &Path, origin: &Asker) -> Result<(), SpecError> {
        for place in self.elsewhere(on_host) {
            self.mask(&place, origin.clone())?;
        }
        Ok(())
    }

    /// The other places at which a file of the host, or something below it, is seen: the
    /// host has the same file system mounted there too, or a bind shows it at another path.
    pub(super) fn elsewhere(&self, on_host: &Path) -> Vec<Rc<Place>> {
        let aliases = self.host.mounts.aliases(on_host);
        let mut seen: Vec<(PathBuf, &Path)> = Vec::new();
        for path in aliases.iter().map(PathBuf::as_path).chain([on_host]) {
            if path != on_host {
                seen.push((path.to_owned(), path));
            }
            for (source, dest) in &self.moved {
                // What is bound itself was meant to be seen.
                if let Ok(below) = path.strip_prefix(source).map(Path::as_os_str)
                    && !below.is_empty()
                {
                    seen.push((dest.join(below), path));
                }
            }
        }
        let locate = |(at, path): (PathBuf, &Path)| {
            let place = self.view.locate(&at).ok()?;
            let is_it = place.on_host().is_some_and(|shown| shown == path);
            is_it.then_some(place)
        };
        seen.into_iter().filter_map(locate).collect()
    }

    pub(super) fn mask(&mut self, place: &Place, origin: Asker) -> Result<(), SpecError> {
        let Some(found) = place.found() else { return Ok(()) };
        refuse_reserved(&place.path, &origin)?;
        if self.entries.iter().any(|entry| {
            entry.dest == place.path && matches!(entry.what, What::Bind { .. } | What::Socket(_))
        }) {
            // A bind at this very place is the more deliberate wish.
            return Ok(());
        }
        let below =
            |entry: &&Entry| entry.dest != place.path && entry.dest.starts_with(&place.path);
        if let Some(hidden) = self.entries.iter().find(below) {
            return Err(SpecError::MaskHides {
                mask: place.path.clone(),
                mask_origin: origin.to_string(),
                dest: hidden.dest.clone(),
                origin: hidden.origin.to_string(),
            });
        }
        self.view.cover(&place.path, Area::Fresh);
        let what = What::Mask(shape_of(&found));
        self.put(Entry { dest: place.path.clone(), what, origin });
        Ok(())
    }

    /// Hides directories of ours wherever they would be seen: in their place, and through
    /// each bind of a directory above.
    pub fn hide_outside(&mut self, places: &[PathBuf]) -> Result<(), SpecError> {
        for hidden in places {
            let mut seen_at = vec![hidden.clone()];
            for entry in &self.entries {
                let (What::Bind { path: source, .. }
                | What::Overlay { lower: Found { path: source, .. }, .. }) = &entry.what
                else {
                    continue;
                };
                if source.starts_with(hidden) {
                    let (path, origin) = (source.clone(), entry.origin.to_string());
                    return Err(SpecError::OutsideOnly { path, origin });
                }
                if let Ok(below) = hidden.strip_prefix(source) {
                    seen_at.push(entry.dest.join(below));
                }
            }
            for path in seen_at {
                // What cannot be found through the view is hidden already.
                let Ok(place) = self.view.locate(&path) else { continue };
                if place.path.starts_with(crate::plan::CONTROL_DIR) {
                    continue;
                }
                if place.found().is_some_and(|found| found.path == *hidden) {
                    self.mask_everywhere(&place, &Asker::Sandbox)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the agent could do nothing with what is there anyway: it has this
    /// user's rights and no capability. An owner can always give himself rights.
    pub(super) fn is_out_of_reach(&self, place: &Place) -> bool {
        place.found().is_some_and(|found| {
            self.host.uid != 0
                && found.stat.uid != self.host.uid
                && !self.host.files.reachable(&found.path)
        })
    }
}
