//! A sandbox to look around in: what a profile would make writable is not.

use super::super::Toggle;
use super::{Layout, Wish, WishKind};
use crate::host::Mount;
use crate::profile::{Missing, Profile, Variables};
use remount_broker::name::{Authority, Mode};
use std::path::Path;

/// What is left of a profile's wishes: binds are read-only, and those that are targets wait for
/// somebody with this authority; nothing is made on the host, and nothing written to
/// is thrown away later, as a cache's is. What is not bound is seen, and read-only, anyway.
pub(super) fn wishes(wishes: Vec<Wish>, authority: Authority) -> Vec<Wish> {
    wishes.into_iter().filter_map(|wish| read_only(wish, authority)).collect()
}

fn read_only(wish: Wish, authority: Authority) -> Option<Wish> {
    let what = match wish.what {
        WishKind::Bind { source, follow, missing, target, .. } => {
            let missing = if missing == Missing::Create { Missing::Skip } else { missing };
            let target = target.map(|target| Toggle { authority, ..target });
            WishKind::Bind { source, mode: Mode::Ro, devices: false, follow, missing, target }
        }
        WishKind::Overlay { source, .. } if source == wish.dest => return None,
        WishKind::Overlay { source, .. } => WishKind::Bind {
            source,
            mode: Mode::Ro,
            devices: false,
            follow: false,
            missing: Missing::Error,
            target: None,
        },
        WishKind::Cache { .. } => return None,
        WishKind::Tmpfs { size, permissions } => WishKind::Tmpfs { size, permissions },
    };
    Some(Wish { what, ..wish })
}

impl Layout<'_> {
    /// Whether the project can be a target. In such a sandbox one may stand anywhere, in the
    /// home directory or in `/`; what could not be a project elsewhere is none here.
    pub(super) fn can_be_opened(
        &self,
        root: &Path,
        profile: &Profile,
        variables: &Variables,
    ) -> bool {
        let mounts = &self.host.mounts;
        let is_read_only = mounts.of(root).is_some_and(|mount| mount.read_only)
            && mounts.below(root).iter().all(|mount: &&Mount| mount.read_only);
        let configuration = [variables.xdg_config_home.join("remount"), "/etc/remount".into()];
        let is_configuration = configuration.iter().any(|dir| root.starts_with(dir));
        !self.host.home.starts_with(root)
            && !root.starts_with("/run")
            && !is_read_only
            && !is_configuration
            && self.refuse_unsuitable(root, profile, variables).is_ok()
    }
}
