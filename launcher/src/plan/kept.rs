//! Which mounts the host can take away, and what belongs there.

use super::{CONTROL_DIR, MountOp, MountPlan, OpKind, SOCKETS, Shape, Source};
use remount_broker::heal::{self, Kept, Kind};
use remount_broker::name::Mode;
use std::path::Path;

impl MountPlan {
    /// The file of the host that is shown at a place.
    pub fn source_of(&self, dest: &Path) -> Option<&Path> {
        self.ops.iter().find(|op| op.dest == dest).and_then(|op| match &op.kind {
            OpKind::Bind { source, .. } => Some(source.path.as_path()),
            _ => None,
        })
    }

    /// Writable directories that the host does not see.
    pub fn private(&self) -> impl Iterator<Item = &Path> {
        let is_private =
            |op: &&MountOp| matches!(op.kind, OpKind::Tmpfs { .. } | OpKind::Overlay { .. });
        self.ops.iter().filter(is_private).map(|op| op.dest.as_path())
    }

    /// What the broker keeps in its place: all that is mounted on a file of the host.
    pub fn kept(&self) -> Vec<Kept> {
        self.ops.iter().filter_map(kept).collect()
    }
}

fn kept(op: &MountOp) -> Option<Kept> {
    // Nobody outside reaches what the sandbox has of its own; a file that is shown there has
    // its place outside.
    let own = ["/proc", "/dev", "/run"];
    let is_own = own.iter().any(|own| op.dest.starts_with(own));
    let is_followed = matches!(op.kind, OpKind::Bind { follow: true, .. });
    if op.dest == Path::new("/") || is_own && !is_followed {
        return None;
    }
    let itself = |mode: Mode| match (op.member_of, mode) {
        (Some(target), _) => Kind::Member(target),
        (None, Mode::Rw) => Kind::Writable,
        (None, Mode::Ro) => Kind::Protected,
    };
    let stand_in = match &op.kind {
        OpKind::SelfBind { stand_in, .. } => stand_in.clone(),
        _ => None,
    };
    let shape = match &op.kind {
        OpKind::SelfBind { shape, .. } => *shape,
        OpKind::Bind { source: Source { shape: Shape::Directory, .. }, .. } => {
            heal::Shape::Directory
        }
        _ => heal::Shape::File,
    };
    let kind = match &op.kind {
        OpKind::SelfBind { mode, .. } => itself(*mode),
        OpKind::Bind { follow: true, .. } => Kind::Followed(op.member_of),
        OpKind::Bind { source, mode, devices: false, .. } if source.path == op.dest => {
            itself(*mode)
        }
        OpKind::Bind { mode, .. } if op.member_of.is_some() || *mode == Mode::Rw => {
            Kind::Other(op.member_of)
        }
        OpKind::Mask(_) => {
            let own = |name| Path::new(CONTROL_DIR).join(name);
            Kind::Masked { file: own("nothing"), directory: Some(own("empty")) }
        }
        OpKind::Shim => covered(Path::new("bin/remountctl")),
        OpKind::Socket(name) => covered(&Path::new(SOCKETS).join(name)),
        _ => return None,
    };
    Some(Kept { path: op.dest.clone(), kind, shape, stand_in })
}

/// A file of the sandbox's own over another.
fn covered(file: &Path) -> Kind {
    Kind::Masked { file: Path::new(CONTROL_DIR).join(file), directory: None }
}
