//! Entries of a file that are more than their parts: what does not go together is refused.

use crate::profile::error::ProfileError;
use crate::profile::expand::PathText;
use crate::profile::model::{Bind, Protect, Socket, Toggle};
use crate::profile::schema::{self, ProtectPath};
use crate::profile::shims::Shim;
use crate::profile::source::{Located, Origin, Source};
use crate::profile::types::{HookWord, SocketAccess};
use remount_broker::name::Mode;
use std::sync::Arc;
use toml::Spanned;

pub(super) fn checked_bind(
    bind: schema::Bind,
    source: &Arc<Source>,
) -> Result<Located<Bind>, ProfileError> {
    let origin = Origin::at(source, &bind.path.span());
    let toggle = bind.toggle.is_some();
    let authority = of_target("authority", bind.authority, toggle, source)?;
    let max_lease = of_target("max-lease", bind.max_lease, toggle, source)?;
    let chmod = of_target("chmod", bind.chmod, toggle, source)?.unwrap_or(true);
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

/// What only a target can have.
fn of_target<T>(
    key: &str,
    said: Option<Spanned<T>>,
    toggle: bool,
    source: &Arc<Source>,
) -> Result<Option<T>, ProfileError> {
    match said {
        Some(said) if !toggle => {
            let reason = format!("`{key}` without `toggle`: it is said of a target");
            let hint = format!("add `toggle = \"name\"`, or leave `{key}` out");
            Err(ProfileError::invalid(source, &said.span(), reason, Some(hint)))
        }
        said => Ok(said.map(Spanned::into_inner)),
    }
}

pub(super) fn protect(
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

pub(super) fn checked_shim(shim: schema::Shim, source: &Arc<Source>) -> Result<Shim, ProfileError> {
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

pub(super) fn socket(
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
