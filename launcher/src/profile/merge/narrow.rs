//! What a project's file may say: less of everything.

use super::checked::{checked_shim, protect};
use super::entries::Keyed;
use super::{Merge, set};
use crate::profile::error::ProfileError;
use crate::profile::model::Bind;
use crate::profile::schema::{self, File};
use crate::profile::shims::{Shim, ShimName};
use crate::profile::source::{Excerpt, Located, Origin, Source};
use crate::profile::types::{MissingProtect, Network};
use remount_broker::name::Mode;
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::Spanned;

impl Merge {
    /// Merges a project's file, of which only the narrowing keys are looked at.
    ///
    /// Nothing that it takes away uncovers what lay beneath: a bind or a cache that it
    /// removes stays mounted, without its rights. Were it unmounted, a read-only bind or
    /// a throw-away cache inside a writable one would become writable for good.
    pub(in crate::profile) fn narrow(
        &mut self,
        file: File,
        source: &Arc<Source>,
    ) -> Result<(), ProfileError> {
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
}
