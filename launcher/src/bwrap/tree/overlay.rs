//! Overlays, and a place in memory for what they and others keep.

use super::{At, Tree, attach, tmpfs};
use crate::bwrap::error::{Die, OrDie, Result, bytes};
use crate::bwrap::request::{Access, Store};
use crate::bwrap::source::{host_path, real_path};
use crate::hold::Shown;
use crate::mount::files;
use crate::spec::{Cover, Covering};
use remount_broker::sys::mount;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

impl Tree<'_> {
    pub(super) fn overlay(&mut self, at: At<'_>, store: &Store, found: &[OwnedFd]) -> Result<()> {
        let place = self.directory(at, 0o755)?;
        let memory;
        let (store, layers) = match (store, found) {
            (Store::Host { .. }, [upper, work, layers @ ..]) => {
                self.refuse_held(upper)?;
                (Some((upper, work)), layers)
            }
            (Store::Memory, layers) => {
                memory = self.memory_store()?;
                (Some((&memory.0, &memory.1)), layers)
            }
            (_, layers) => (None, layers),
        };
        let lower: Vec<_> = layers.iter().map(AsFd::as_fd).collect();
        let fds = store.map(|(upper, work)| (upper.as_fd(), work.as_fd()));
        let source = [("source", "overlay")];
        let mounted = files::overlay_of(&lower, fds, &source, MountAttrFlags::empty())
            .and_then(|tree| attach(tree.as_fd(), &place).map(|()| tree));
        let tree = mounted.map_err(|errno| {
            let text = overlay_text(at, layers, store);
            if errno == Errno::LOOP {
                let text = OsStr::from_bytes(&text);
                return Die::new(bytes!(text, ": Overlay directories may not overlap"));
            }
            Die::mount(text, errno)
        })?;
        // What is written does not reach the layers.
        found.iter().try_for_each(|layer| self.narrow(&tree, layer, Access::ReadOnly))
    }

    /// An overlay writes below its mount, where no flag holds it back.
    fn refuse_held(&self, upper: &OwnedFd) -> Result<()> {
        let path = real_path(upper.as_fd()).or_die(|| "Can't make overlay mount")?;
        let touches = |cover: &&Cover| {
            let is_part = cover.path.starts_with(&path) || path.starts_with(&cover.path);
            is_part && cover.kind != Covering::Open
        };
        if let Some(cover) = self.around.covers.iter().find(touches) {
            let of = &cover.path;
            return Err(Die::new(bytes!("Can't write to ", &path, ": the profile protects ", of)));
        }
        match self.around.hold.map_or(Shown::Writable, |hold| hold.shown(&path)) {
            Shown::Writable => Ok(()),
            _ => Err(Die::new(bytes!("Can't write to ", &path, ": it is held read-only"))),
        }
    }

    /// A name for something new outside of the new root.
    pub(super) fn unique(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}{}", self.made)
    }

    /// A place in memory outside of the new root, from which files can be mounted.
    pub(super) fn spare(&mut self) -> std::result::Result<OwnedFd, Errno> {
        if self.spare.is_none() {
            let spare = tmpfs(None, None, self.around)?;
            rustix::fs::mkdirat(&self.base.0, c"spare", Mode::RWXU)?;
            let place = mount::open_exact(self.base.0.as_fd(), c"spare")?;
            mount::attach(spare.as_fd(), place.as_fd())?;
            self.spare = Some(spare);
        }
        let spare = self.spare.as_ref().ok_or(Errno::NOENT)?;
        rustix::io::fcntl_dupfd_cloexec(spare, 3)
    }

    /// Where an overlay keeps what is written and will be thrown away.
    fn memory_store(&mut self) -> Result<(OwnedFd, OwnedFd)> {
        let mut make = |kind: &str| {
            let name = self.unique(kind);
            let made = self.spare().and_then(|spare| {
                rustix::fs::mkdirat(&spare, &*name, Mode::from_raw_mode(0o755))?;
                mount::open_exact(spare.as_fd(), &*name)
            });
            made.or_die(|| format!("Creating --tmp-overlay {kind}dir failed"))
        };
        Ok((make("upper")?, make("work")?))
    }
}

fn overlay_text(at: At<'_>, layers: &[OwnedFd], store: Option<(&OwnedFd, &OwnedFd)>) -> Vec<u8> {
    let full = at.full();
    let mut options = Vec::new();
    if let Some((upper, work)) = store {
        let (upper, work) = (host_path(upper.as_fd()), host_path(work.as_fd()));
        options.extend(bytes!("upperdir=", &upper, ",workdir=", &work, ","));
    }
    let layers: Vec<_> = layers.iter().map(|layer| host_path(layer.as_fd())).collect();
    options.extend(bytes!("lowerdir=", &layers.join(OsStr::new(":")), ",userxattr"));
    let (full, options) = (OsStr::from_bytes(&full), OsStr::from_bytes(&options));
    bytes!("Can't make overlay mount on ", full, " with options ", options)
}
