//! How files become one profile.
//!
//! Files are merged in order: each first takes back what it removes, then adds its own.
//! An entry replaces an earlier one for the same path, where paths are the same if they
//! are written the same but for `~`, doubled slashes and the like.

use super::error::ProfileError;
use super::expand::PathText;
use super::model::{
    Bind, Cache, Environment, Overlay, Profile, Protect, Sandbox, Socket, Tmpfs, Toggle, Workspace,
};
use super::schema::{self, File, ProtectPath};
use super::shims::{Shim, ShimName};
use super::source::{Excerpt, Located, Origin, Source};
use super::types::{HookWord, MissingProtect, Network, SocketAccess};
use remount_broker::name::{Mode, TargetName};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use toml::Spanned;

/// A place that entries are told apart by.
trait Keyed {
    fn key(&self) -> String;
}

impl Keyed for PathText {
    fn key(&self) -> String {
        Self::key(self)
    }
}

impl Keyed for Bind {
    fn key(&self) -> String {
        self.destination().key()
    }
}

impl Keyed for Tmpfs {
    fn key(&self) -> String {
        self.path.key()
    }
}

impl Keyed for Cache {
    fn key(&self) -> String {
        self.path.key()
    }
}

impl Keyed for Overlay {
    fn key(&self) -> String {
        self.destination().key()
    }
}

impl Keyed for Protect {
    fn key(&self) -> String {
        self.path.key()
    }
}

/// A list in which an entry takes the place of an earlier one with the same key.
struct Merging<T> {
    entries: Vec<Option<Located<T>>>,
    places: HashMap<String, usize>,
}

impl<T: Keyed> Merging<T> {
    fn new(entries: Vec<Located<T>>) -> Self {
        let mut merging = Self { entries: Vec::new(), places: HashMap::new() };
        for entry in entries {
            merging.add(entry);
        }
        merging
    }

    /// Adds an entry at the end.
    fn add(&mut self, entry: Located<T>) {
        let key = entry.value.key();
        if let Some(place) = self.places.insert(key, self.entries.len()) {
            self.entries[place] = None;
        }
        self.entries.push(Some(entry));
    }

    fn remove(&mut self, key: &str) -> Option<Located<T>> {
        self.places.remove(key).and_then(|place| self.entries[place].take())
    }

    fn get_mut(&mut self, key: &str) -> Option<&mut Located<T>> {
        self.places.get(key).and_then(|place| self.entries[*place].as_mut())
    }

    fn finish(self) -> Vec<Located<T>> {
        self.entries.into_iter().flatten().collect()
    }
}

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
        let entries = self.binds.entries.iter().flatten();
        let matching = entries.filter(|bind| bind.value.path.key() == key).map(|b| b.value.key());
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

    /// Merges a project's file, of which only the narrowing keys are looked at.
    ///
    /// Nothing that it takes away uncovers what lay beneath: a bind or a cache that it
    /// removes stays mounted, without its rights. Were it unmounted, a read-only bind or
    /// a throw-away cache inside a writable one would become writable for good.
    pub(super) fn narrow(&mut self, file: File, source: &Arc<Source>) -> Result<(), ProfileError> {
        self.sources.push(source.name.to_string());
        for path in file.remove.bind {
            let path = path.take(source)?;
            let taken = self.take_binds(&path.value.key());
            self.note_unless(!taken.is_empty(), "bind", path.value.as_str(), path.origin.clone());
            for bind in taken {
                self.disarm(bind.value, path.origin.clone());
            }
        }
        for path in file.remove.cache {
            let path = path.take(source)?;
            let taken = self.caches.remove(&path.value.key());
            self.note_unless(taken.is_some(), "cache", path.value.as_str(), path.origin.clone());
            if let Some(cache) = taken {
                self.binds.add(Located::new(Bind::read_only(cache.value.path), path.origin));
            }
        }
        if let Some(mode) = file.workspace.mode.filter(|mode| *mode.get_ref() == Mode::Ro) {
            set(&mut self.workspace.mode, Some(mode), source);
        }
        if let Some(none) = file.sandbox.network.filter(|it| *it.get_ref() == Network::None) {
            set(&mut self.sandbox.network, Some(none), source);
        }
        for path in file.mask {
            let path = path.take(source)?;
            if self.masks.get_mut(&path.value.key()).is_none() {
                self.masks.add(path);
            }
        }
        for entry in file.protect {
            let entry = protect(entry, source)?;
            match self.protects.get_mut(&entry.value.key()) {
                // An inherited entry may become stricter, never laxer.
                Some(known) if known.value.missing == MissingProtect::Skip => {
                    known.value.missing = entry.value.missing;
                }
                Some(_) => {}
                None => self.protects.add(entry),
            }
        }
        self.narrow_shims(file.shims, source)
    }

    /// Another tool has a shim, or one that has allows less.
    fn narrow_shims(
        &mut self,
        shims: BTreeMap<ShimName, Spanned<schema::Shim>>,
        source: &Arc<Source>,
    ) -> Result<(), ProfileError> {
        for (name, shim) in shims {
            let span = shim.span();
            let shim = checked_shim(shim.into_inner(), source)?;
            let Some(known) = self.shims.get_mut(&name) else {
                self.shims.insert(name, Located::new(shim, Origin::at(source, &span)));
                continue;
            };
            let only = Shim {
                deny: shim.deny.clone(),
                deny_flags: shim.deny_flags.clone(),
                ..Shim::default()
            };
            if shim != only {
                let excerpt = Box::new(Excerpt::new(source, &span));
                let key = format!("shims.{}", name.as_str());
                let why =
                    "of a tool that has a shim this file may only say `deny` and `deny-flags`";
                return Err(ProfileError::Widens { excerpt, key, why });
            }
            known.value.narrow(shim.deny, shim.deny_flags);
        }
        Ok(())
    }

    /// Takes a bind's rights away: a writable one becomes read-only, a read-only one hidden.
    fn disarm(&mut self, bind: Bind, origin: Origin) {
        let grants = bind.mode == Mode::Rw || bind.devices || bind.toggle.is_some();
        if !grants {
            self.masks.add(Located::new(bind.destination().clone(), origin.clone()));
        }
        let bind = Bind { mode: Mode::Ro, devices: false, toggle: None, ..bind };
        self.binds.add(Located::new(bind, origin));
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

fn checked_bind(bind: schema::Bind, source: &Arc<Source>) -> Result<Located<Bind>, ProfileError> {
    let origin = Origin::at(source, &bind.path.span());
    let authority = match (&bind.toggle, bind.authority) {
        (None, Some(authority)) => {
            let hint = "add `toggle = \"name\"`, or leave `authority` out".to_owned();
            let reason = "`authority` without `toggle`: only a target can be opened";
            return Err(ProfileError::invalid(source, &authority.span(), reason, Some(hint)));
        }
        (_, authority) => authority.map(Spanned::into_inner),
    };
    let max_lease = match (&bind.toggle, bind.max_lease) {
        (None, Some(lease)) => {
            let hint = "add `toggle = \"name\"`, or leave `max-lease` out".to_owned();
            let reason = "`max-lease` without `toggle`: only a target can be opened";
            return Err(ProfileError::invalid(source, &lease.span(), reason, Some(hint)));
        }
        (_, lease) => lease.map(Spanned::into_inner),
    };
    let chmod = match (&bind.toggle, bind.chmod) {
        (None, Some(chmod)) => {
            let hint = "add `toggle = \"name\"`, or leave `chmod` out".to_owned();
            let reason = "`chmod` without `toggle`: it is said of a target";
            return Err(ProfileError::invalid(source, &chmod.span(), reason, Some(hint)));
        }
        (_, chmod) => chmod.is_none_or(Spanned::into_inner),
    };
    let bind = Bind {
        path: bind.path.into_inner(),
        dest: bind.dest,
        mode: bind.mode.unwrap_or(Mode::Ro),
        devices: bind.devices,
        follow: bind.follow.unwrap_or(true),
        chmod,
        missing: bind.missing,
        toggle: bind.toggle.map(|name| Toggle { name, authority, max_lease }),
    };
    Ok(Located::new(bind, origin))
}

fn protect(
    entry: Spanned<schema::Protect>,
    source: &Arc<Source>,
) -> Result<Located<Protect>, ProfileError> {
    let span = entry.span();
    let entry = entry.into_inner();
    let path = match entry.path {
        ProtectPath::Key(word) => word.take(source)?.map(|path| path.0),
        ProtectPath::Whole(text) => match PathText::any(text) {
            Ok(path) => Located::new(path, Origin::at(source, &span)),
            Err(error) => {
                return Err(ProfileError::invalid(source, &span, error.to_string(), None));
            }
        },
    };
    Ok(path.map(|path| Protect { path, missing: entry.missing }))
}

fn checked_shim(shim: schema::Shim, source: &Arc<Source>) -> Result<Shim, ProfileError> {
    Ok(Shim {
        allow: taken(shim.allow, source)?,
        deny: taken(shim.deny, source)?,
        flags: taken(shim.flags, source)?,
        flags_with_value: taken(shim.flags_with_value, source)?,
        flags_anywhere: shim.flags_anywhere,
        deny_flags: taken(shim.deny_flags, source)?,
        when: shim.when,
    })
}

fn taken<T>(words: Vec<schema::Word<T>>, source: &Arc<Source>) -> Result<Vec<T>, ProfileError> {
    words.into_iter().map(|word| Ok(word.take(source)?.value)).collect()
}

fn socket(
    name: &HookWord,
    entry: schema::Socket,
    source: &Arc<Source>,
) -> Result<Located<Socket>, ProfileError> {
    let span = entry.access.span();
    let access = entry.access.into_inner();
    let invalid =
        |reason: &str, hint: Option<String>| ProfileError::invalid(source, &span, reason, hint);
    if name.as_str() == "containerd" && access == SocketAccess::Read {
        let reason = "containerd does not speak Docker's API, of which `read` lets a part through";
        return Err(invalid(reason, Some("write access = \"none\"".to_owned())));
    }
    let mut paths = Vec::with_capacity(entry.path.len());
    for path in entry.path {
        paths.push(path.take(source)?.value);
    }
    if paths.is_empty() {
        let hint = || Some("add `path = [\"/run/name.sock\"]`".to_owned());
        let reason = "where this socket is is only known of docker, podman and containerd";
        paths = Socket::places(name.as_str()).ok_or_else(|| invalid(reason, hint()))?;
    }
    let socket = Socket { access, paths, upstream: entry.upstream };
    Ok(Located::new(socket, Origin::at(source, &span)))
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
