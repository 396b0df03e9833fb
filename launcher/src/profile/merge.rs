//! How files become one profile.
//!
//! Files are merged in order: each first takes back what it removes, then adds its own.
//! An entry replaces an earlier one for the same path, where paths are the same if they
//! are written the same but for `~`, doubled slashes and the like.

mod checked;
mod entries;
mod narrow;

use super::error::ProfileError;
use super::expand::PathText;
use super::model::{
    Bind, Cache, Environment, Overlay, Profile, Protect, Sandbox, Socket, Tmpfs, Workspace,
};
use super::schema::{self, File};
use super::shims::{Shim, ShimName};
use super::source::{Located, Origin, Source};
use super::types::HookWord;
use checked::{checked_bind, checked_shim, protect, socket};
use entries::{Keyed, Merging};
use remount_broker::name::{Mode, TargetName};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use toml::Spanned;

/// A profile in the making.
pub(super) struct Merge {
    description: Option<String>,
    sources: Vec<String>,
    arguments: BTreeMap<String, Located<Vec<String>>>,
    sandbox: Sandbox,
    workspace: Workspace,
    binds: Merging<Bind>,
    tmpfs: Merging<Tmpfs>,
    caches: Merging<Cache>,
    overlays: Merging<Overlay>,
    masks: Merging<PathText>,
    protects: Merging<Protect>,
    environment: Environment,
    hooks: BTreeMap<HookWord, BTreeMap<HookWord, Located<Mode>>>,
    shims: BTreeMap<ShimName, Located<Shim>>,
    sockets: BTreeMap<HookWord, Located<Socket>>,
    notes: Vec<Located<String>>,
}

impl From<Profile> for Merge {
    fn from(profile: Profile) -> Self {
        Self {
            description: profile.description,
            sources: profile.sources,
            arguments: profile.arguments,
            sandbox: profile.sandbox,
            workspace: profile.workspace,
            binds: Merging::new(profile.binds),
            tmpfs: Merging::new(profile.tmpfs),
            caches: Merging::new(profile.caches),
            overlays: Merging::new(profile.overlays),
            masks: Merging::new(profile.masks),
            protects: Merging::new(profile.protects),
            environment: profile.environment,
            hooks: profile.hooks,
            shims: profile.shims,
            sockets: profile.sockets,
            notes: profile.notes,
        }
    }
}

impl Merge {
    /// The profile of nobody: what holds if no file says anything.
    pub(super) fn new() -> Result<Self, ProfileError> {
        let name = "workspace";
        let name = name
            .parse()
            .map_err(|_| ProfileError::BadName { name: name.to_owned(), wanted_by: None })?;
        Ok(Profile::empty(name).into())
    }

    /// Merges a file that may say anything.
    pub(super) fn file(&mut self, file: File, source: &Arc<Source>) -> Result<(), ProfileError> {
        self.sources.push(source.name.to_string());
        self.description = file.description.or(self.description.take());
        self.remove(file.remove, source)?;
        self.scalars(file.sandbox, file.workspace, source)?;
        for bind in file.bind {
            let bind = checked_bind(bind, source)?;
            self.clear(&bind.value.key());
            self.binds.add(bind);
        }
        for entry in file.tmpfs {
            let origin = Origin::at(source, &entry.path.span());
            let tmpfs = Tmpfs { path: entry.path.into_inner(), size: entry.size, mode: entry.mode };
            self.clear(&tmpfs.key());
            self.tmpfs.add(Located::new(tmpfs, origin));
        }
        for entry in file.cache {
            let origin = Origin::at(source, &entry.path.span());
            let cache = Cache { path: entry.path.into_inner(), env: entry.env };
            self.clear(&cache.key());
            self.caches.add(Located::new(cache, origin));
        }
        for entry in file.overlay {
            let origin = Origin::at(source, &entry.path.span());
            let (path, changes) = (entry.path.into_inner(), Some(entry.changes));
            self.overlay(Located::new(Overlay { path, dest: entry.dest, changes }, origin));
        }
        for entry in file.tmp_overlay {
            let origin = Origin::at(source, &entry.path.span());
            let path = entry.path.into_inner();
            self.overlay(Located::new(Overlay { path, dest: entry.dest, changes: None }, origin));
        }
        for path in file.mask {
            self.masks.add(path.take(source)?);
        }
        for entry in file.protect {
            self.protects.add(protect(entry, source)?);
        }
        let arguments = file.arguments.into_iter();
        self.arguments.extend(arguments.map(|(command, words)| (command, located(words, source))));
        for (agent, modes) in file.hooks {
            let table = self.hooks.entry(agent).or_default();
            table.extend(modes.into_iter().map(|(mode, to)| (mode, located(to, source))));
        }
        self.shims(file.shims, source)?;
        for (name, entry) in file.sockets {
            let entry = socket(&name, entry, source)?;
            self.sockets.insert(name, entry);
        }
        self.environment(file.environment, source)
    }

    /// Takes a file for shims alone: what else it says was looked for before.
    pub(super) fn shims_of(
        &mut self,
        file: File,
        source: &Arc<Source>,
    ) -> Result<(), ProfileError> {
        self.sources.push(source.name.to_string());
        self.remove(file.remove, source)?;
        self.shims(file.shims, source)
    }

    fn shims(
        &mut self,
        shims: BTreeMap<ShimName, Spanned<schema::Shim>>,
        source: &Arc<Source>,
    ) -> Result<(), ProfileError> {
        for (name, shim) in shims {
            let origin = Origin::at(source, &shim.span());
            let shim = checked_shim(shim.into_inner(), source)?;
            match self.shims.get_mut(&name) {
                Some(known) => {
                    known.value.add(shim);
                    known.origin = origin;
                }
                None => drop(self.shims.insert(name, Located::new(shim, origin))),
            }
        }
        Ok(())
    }

    fn overlay(&mut self, overlay: Located<Overlay>) {
        self.clear(&overlay.value.key());
        self.overlays.add(overlay);
    }

    /// Takes away what is mounted at a destination.
    fn clear(&mut self, key: &str) {
        self.binds.remove(key);
        self.tmpfs.remove(key);
        self.caches.remove(key);
        self.overlays.remove(key);
    }

    fn remove(&mut self, remove: schema::Remove, source: &Arc<Source>) -> Result<(), ProfileError> {
        for path in remove.bind {
            let path = path.take(source)?;
            let removed = !self.take_binds(&path.value.key()).is_empty();
            self.note_unless(removed, "bind", path.value.as_str(), path.origin);
        }
        for path in remove.tmpfs {
            let path = path.take(source)?;
            let removed = self.tmpfs.remove(&path.value.key()).is_some();
            self.note_unless(removed, "tmpfs", path.value.as_str(), path.origin);
        }
        for path in remove.cache {
            let path = path.take(source)?;
            let removed = self.caches.remove(&path.value.key()).is_some();
            self.note_unless(removed, "cache", path.value.as_str(), path.origin);
        }
        for path in remove.overlay {
            let path = path.take(source)?;
            let removed = self.overlays.remove(&path.value.key()).is_some();
            self.note_unless(removed, "overlay", path.value.as_str(), path.origin);
        }
        for path in remove.mask {
            let path = path.take(source)?;
            let removed = self.masks.remove(&path.value.key()).is_some();
            self.note_unless(removed, "mask", path.value.as_str(), path.origin);
        }
        for path in remove.protect {
            let path = path.take(source)?.map(|path| path.0);
            let removed = self.protects.remove(&path.value.key()).is_some();
            self.note_unless(removed, "protect", path.value.as_str(), path.origin);
        }
        for name in remove.shims {
            let name = name.take(source)?;
            let removed = self.shims.remove(&name.value).is_some();
            self.note_unless(removed, "shims", name.value.as_str(), name.origin);
        }
        for pattern in remove.unset {
            let pattern = pattern.take(source)?;
            let before = self.environment.unset.len();
            self.environment.unset.retain(|known| known.value != pattern.value);
            let removed = self.environment.unset.len() < before;
            self.note_unless(removed, "unset", pattern.value.as_str(), pattern.origin);
        }
        Ok(())
    }

    /// Takes the binds out whose source or destination has this key.
    fn take_binds(&mut self, key: &str) -> Vec<Located<Bind>> {
        let matching =
            self.binds.iter().filter(|bind| bind.value.path.key() == key).map(|b| b.value.key());
        let keys: Vec<String> = matching.chain([key.to_owned()]).collect();
        keys.iter().filter_map(|key| self.binds.remove(key)).collect()
    }

    /// A person's `remove` that hits nothing is worth a word: a misspelled one would leave
    /// a grant standing. The program's own say nothing, as a person's `default` may have
    /// replaced the one that they were written for.
    fn note_unless(&mut self, removed: bool, list: &str, text: &str, origin: Origin) {
        if !removed && !origin.is_built_in() {
            let shown = super::text::Escaped(text);
            let note = format!("remove {list} {shown}: nothing inherited is written this way");
            self.notes.push(Located::new(note, origin));
        }
    }

    fn scalars(
        &mut self,
        sandbox: schema::Sandbox,
        workspace: schema::Workspace,
        source: &Arc<Source>,
    ) -> Result<(), ProfileError> {
        let mine = &mut self.sandbox;
        set(&mut mine.network, sandbox.network, source);
        set(&mut mine.authority, sandbox.authority, source);
        set(&mut mine.landlock, sandbox.landlock, source);
        set(&mut mine.seccomp, sandbox.seccomp, source);
        set(&mut mine.new_session, sandbox.new_session, source);
        set(&mut mine.user_namespace, sandbox.user_namespace, source);
        set(&mut mine.read_only, sandbox.read_only, source);
        set(&mut mine.proc, sandbox.proc, source);
        set(&mut mine.namespaces, sandbox.namespaces, source);
        set_some(&mut mine.hostname, sandbox.hostname, source);
        set(&mut mine.on_busy, sandbox.on_busy, source);
        set_some(&mut mine.max_lease, sandbox.max_lease, source);
        set(&mut mine.confirm_command, sandbox.confirm_command, source);
        set(&mut mine.confirm_timeout, sandbox.confirm_timeout, source);
        let mine = &mut self.workspace;
        if let Some(path) = &workspace.path
            && path.get_ref().mentions("workspace")
        {
            let reason = "{workspace} stands for this path, so it cannot be part of it";
            return Err(ProfileError::invalid(source, &path.span(), reason, None));
        }
        set(&mut mine.path, workspace.path, source);
        set(&mut mine.name, workspace.name, source);
        set(&mut mine.mode, workspace.mode, source);
        set(&mut mine.git, workspace.git, source);
        set_some(&mut mine.authority, workspace.authority, source);
        set_some(&mut mine.max_lease, workspace.max_lease, source);
        Ok(())
    }

    fn environment(
        &mut self,
        environment: schema::Environment,
        source: &Arc<Source>,
    ) -> Result<(), ProfileError> {
        let mine = &mut self.environment;
        set(&mut mine.clear, environment.clear, source);
        for pattern in environment.unset {
            let pattern = pattern.take(source)?;
            mine.set.retain(|name, _| !pattern.value.matches(name.as_str().as_ref()));
            mine.unset.retain(|known| known.value != pattern.value);
            mine.unset.push(pattern);
        }
        for (name, value) in environment.set {
            mine.set.insert(name, located(value, source));
        }
        Ok(())
    }

    /// The finished profile, in which no two targets have one name.
    pub(super) fn finish(self) -> Result<Profile, ProfileError> {
        let profile = Profile {
            description: self.description,
            sources: self.sources,
            arguments: self.arguments,
            sandbox: self.sandbox,
            workspace: self.workspace,
            binds: self.binds.finish(),
            tmpfs: self.tmpfs.finish(),
            caches: self.caches.finish(),
            overlays: self.overlays.finish(),
            masks: self.masks.finish(),
            protects: self.protects.finish(),
            environment: self.environment,
            hooks: self.hooks,
            shims: self.shims,
            sockets: self.sockets,
            notes: self.notes,
        };
        let mut names: HashMap<&TargetName, &Origin> = HashMap::new();
        names.insert(&profile.workspace.name.value, &profile.workspace.name.origin);
        for bind in &profile.binds {
            let Some(toggle) = &bind.value.toggle else { continue };
            if let Some(first) = names.insert(&toggle.name, &bind.origin) {
                return Err(ProfileError::DuplicateTarget {
                    name: toggle.name.to_string(),
                    first: first.clone(),
                    second: bind.origin.clone(),
                });
            }
        }
        Ok(profile)
    }
}

fn located<T>(spanned: Spanned<T>, source: &Arc<Source>) -> Located<T> {
    let origin = Origin::at(source, &spanned.span());
    Located::new(spanned.into_inner(), origin)
}

fn set<T>(to: &mut Located<T>, from: Option<Spanned<T>>, source: &Arc<Source>) {
    if let Some(from) = from {
        *to = located(from, source);
    }
}

fn set_some<T>(to: &mut Option<Located<T>>, from: Option<Spanned<T>>, source: &Arc<Source>) {
    if let Some(from) = from {
        *to = Some(located(from, source));
    }
}
