//! The sandbox's targets, and who may do what with them.
//!
//! A [`SetRequest`] is a claim. [`Registry::authorize`] is the only way to an
//! [`Authorized`], and that is the only thing [`crate::apply`] acts on.

use crate::apply::{Kernel, Mounts};
use crate::held::Watch;
use crate::name::{Authority, Mode, TargetName};
use crate::proto::{Fault, Origin, Selection, SetRequest, State, TargetReport};
use crate::sys::socket::Peer;
use crate::target::{Member, Target};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The side it is on: known from the channel. All rights follow from this.
    pub origin: Origin,
    /// The process, as the kernel names it; for the record only, since a socketpair
    /// names its creator and a process may pass its connection on.
    pub peer: Option<Peer>,
}

/// Targets that no registry can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTargets {
    /// Two targets of one name.
    #[error("two targets are named {0}")]
    Twice(TargetName),
    /// A target that could never be switched.
    #[error("target {0} has no mount")]
    Empty(TargetName),
}

/// The place of a target in its registry.
pub(crate) type Index = usize;

/// Every target of one sandbox.
#[derive(Debug)]
pub struct Registry {
    targets: Vec<Target>,
    /// The modes that were asked for last: what a mount that is put back gets.
    wanted: Vec<Cell<Mode>>,
    /// Targets in which something that is to be protected is not: they stay as they are.
    unprotected: Vec<Unprotected>,
    mounts: Box<dyn Mounts>,
}

/// Something in a target that is to be protected and is not.
#[derive(Debug)]
pub(crate) struct Unprotected {
    pub target: Index,
    pub path: PathBuf,
    pub why: Why,
}

/// Why it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is not in its place.
    Lost,
    /// There is more than can be protected.
    Crowded,
}

/// The right to change modes, and which: made by [`Registry::authorize`] only, and spent
/// by [`crate::apply::Operation::new`].
#[derive(Debug)]
pub struct Authorized {
    changes: Vec<(Index, Mode)>,
}

impl Authorized {
    /// The changes to make.
    pub(crate) fn into_changes(self) -> Vec<(Index, Mode)> {
        self.changes
    }
}

impl Registry {
    /// A registry of real mounts. What `holds` says is held is not made writable.
    ///
    /// # Errors
    /// Two targets share a name, or one has no member.
    pub fn new(targets: Vec<Target>, holds: Option<Arc<Watch>>) -> Result<Self, BadTargets> {
        Self::with_mounts(targets, Box::new(Kernel { holds }))
    }

    pub(crate) fn with_mounts(
        targets: Vec<Target>,
        mounts: Box<dyn Mounts>,
    ) -> Result<Self, BadTargets> {
        let mut names = BTreeSet::new();
        for target in &targets {
            if !names.insert(&target.name) {
                return Err(BadTargets::Twice(target.name.clone()));
            }
            if target.members.is_empty() {
                return Err(BadTargets::Empty(target.name.clone()));
            }
        }
        let (wanted, unprotected) = (Vec::new(), Vec::new());
        let mut registry = Self { targets, wanted, unprotected, mounts };
        registry.wanted = registry.all().map(|index| Cell::new(registry.mode(index))).collect();
        Ok(registry)
    }

    /// The mode that a target is to have: read-only while a person holds any of it.
    pub(crate) fn wanted(&self, index: Index) -> Mode {
        match self.wanted[index].get() {
            Mode::Rw if self.held(index).is_some() => Mode::Ro,
            mode => mode,
        }
    }

    /// Why a target must not become writable now: a person holds it or something in it
    /// that has no mount of its own, or nobody can tell.
    pub(crate) fn held(&self, index: Index) -> Option<Fault> {
        let target = self.target(index);
        let name = || target.name.clone();
        let paths = match self.mounts.held() {
            Ok(paths) => paths,
            Err(errno) => return Some(Fault::HeldUnknown { name: name(), errno }),
        };
        let is_held = |member: &Member, held: &Path| {
            let Some(source) = &member.source else { return false };
            source.starts_with(held)
                || held.strip_prefix(source).is_ok_and(|below| self.mounts.shows(member, below))
        };
        let mut held = paths.iter();
        held.find(|held| target.members.iter().any(|member| is_held(member, held)))
            .map(|path| Fault::Held { name: name(), path: path.clone() })
    }

    /// A target has been given a mode.
    pub(crate) fn want(&self, index: Index, mode: Mode) {
        self.wanted[index].set(mode);
    }

    /// The mount of a target that belongs at `path`.
    pub(crate) fn member(&self, index: Index, path: &Path) -> Option<BorrowedFd<'_>> {
        let member = self.targets[index].members.iter().find(|member| member.path == path);
        member.map(Member::fd)
    }

    /// From now on the target's mount at `path` is this one.
    pub(crate) fn replace_member(&mut self, index: Index, path: &Path, fd: OwnedFd) {
        let mut members = self.targets[index].members.iter_mut();
        if let Some(member) = members.find(|member| member.path == path) {
            *member = Member::new(fd, path.to_owned());
        }
    }

    /// Sets what in which targets is not protected that is to be.
    pub(crate) fn set_unprotected(&mut self, unprotected: Vec<Unprotected>) {
        self.unprotected = unprotected;
    }

    /// What in a target is to be protected and is not, for this reason.
    pub(crate) fn unprotected(&self, index: Index, why: Why) -> Option<&Path> {
        let mut all = self.unprotected.iter();
        all.find(|it| (it.target, it.why) == (index, why)).map(|it| it.path.as_path())
    }

    pub(crate) fn mounts(&self) -> &dyn Mounts {
        &*self.mounts
    }

    pub(crate) fn target(&self, index: Index) -> &Target {
        &self.targets[index]
    }

    /// Every target there is.
    pub(crate) fn all(&self) -> impl Iterator<Item = Index> + use<> {
        0..self.targets.len()
    }

    /// The target of this name.
    pub(crate) fn by_name(&self, name: &TargetName) -> Option<Index> {
        self.all().find(|&index| self.target(index).name == *name)
    }

    /// The targets that are named, each once, in the order of naming.
    ///
    /// # Errors
    /// A name that is no target's.
    pub(crate) fn find(&self, selection: &Selection) -> Result<Vec<Index>, Fault> {
        let names = match selection {
            Selection::All => return Ok(self.all().collect()),
            Selection::Named(names) => names,
        };
        let mut found = Vec::new();
        for name in names {
            let index = self.by_name(name).ok_or_else(|| Fault::UnknownTarget(name.clone()))?;
            if !found.contains(&index) {
                found.push(index);
            }
        }
        Ok(found)
    }

    /// The targets that a request names, each once, in the request's order.
    ///
    /// # Errors
    /// A name that is no target's, or a path that is not the target's.
    pub(crate) fn select(&self, request: &SetRequest) -> Result<Vec<Index>, Fault> {
        let selected = self.find(&request.targets)?;
        for target in selected.iter().map(|&index| self.target(index)) {
            if request.path.as_ref().is_some_and(|claim| !claim.names(&target.path)) {
                let (name, path) = (target.name.clone(), target.path.clone());
                return Err(Fault::OtherPath { name, path });
            }
        }
        Ok(selected)
    }

    /// Decides whether a request may be carried out. A toggle is judged by what it would
    /// do now, so nothing may change the targets between this and the operation's start.
    ///
    /// # Errors
    /// An unknown target, or one that a peer of this standing may not make writable.
    pub fn authorize(
        &self,
        request: &SetRequest,
        standing: impl Into<Standing>,
    ) -> Result<Authorized, Fault> {
        let standing = standing.into();
        let mut changes = Vec::new();
        for index in self.select(request)? {
            let mode = request.wish.from(|| self.mode(index));
            let target = self.target(index);
            if !permitted(target.authority, standing, mode) {
                let (name, authority) = (target.name.clone(), target.authority);
                return Err(Fault::NotAuthorised { name, authority });
            }
            changes.push((index, mode));
        }
        Ok(Authorized { changes })
    }

    /// Whether a person's word is what a request lacks, and all that it lacks.
    pub(crate) fn needs_person(&self, request: &SetRequest, origin: Origin) -> bool {
        self.authorize(request, origin).is_err()
            && self.authorize(request, Standing::Approved).is_ok()
    }

    /// `Rw` if anything can be written through any mount of the target, or if the kernel
    /// does not say.
    pub(crate) fn mode(&self, index: Index) -> Mode {
        let is_ro = |member: &Member| matches!(self.mounts.mode(member), Ok(Mode::Ro));
        if self.target(index).members.iter().all(is_ro) { Mode::Ro } else { Mode::Rw }
    }

    /// The mode of the mount of a target that `path` is on; of all of them, if it is on none.
    pub(crate) fn mode_at(&self, index: Index, path: &Path) -> Mode {
        let on = self.target(index).members.iter().filter(|member| path.starts_with(&member.path));
        match on.max_by_key(|member| member.path.components().count()) {
            Some(member) => self.mounts.mode(member).unwrap_or(Mode::Rw),
            None => self.mode(index),
        }
    }

    fn state(&self, index: Index) -> State {
        let in_place = |member: &Member| self.mounts.in_place(member);
        let is_whole = self.target(index).members.iter().all(in_place);
        if is_whole { State::Ok } else { State::Stale }
    }

    /// What there is to say of some targets, read from the kernel now.
    pub(crate) fn report(&self, which: impl IntoIterator<Item = Index>) -> Vec<TargetReport> {
        let report = |index| self.describe(index, self.mode(index), self.state(index));
        which.into_iter().map(report).collect()
    }

    /// What there is to say of targets whose mode has been changed just now: the kernel was
    /// asked after the change ([`crate::apply`]), and is not asked again.
    pub(crate) fn report_changed(&self, which: &[Index]) -> Vec<TargetReport> {
        let report = |&index: &Index| self.describe(index, self.wanted[index].get(), State::Ok);
        which.iter().map(report).collect()
    }

    fn describe(&self, index: Index, mode: Mode, state: State) -> TargetReport {
        let target = self.target(index);
        let unprotected = |why| self.unprotected(index, why).map(Path::to_owned);
        let (lost, crowded) = (unprotected(Why::Lost), unprotected(Why::Crowded));
        let is_protected = lost.is_none() && crowded.is_none();
        TargetReport {
            name: target.name.clone(),
            path: target.path.clone(),
            mode,
            state: if is_protected { state } else { State::Stale },
            lost,
            crowded,
            authority: target.authority,
            lease: None,
        }
    }
}

/// What gives a request its rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Standing {
    /// It came from inside.
    Inside,
    /// It came from inside, and a person outside has approved it.
    Approved,
    /// It came from outside.
    Outside,
    /// It is the broker's own: the end of a lease.
    Broker,
}

impl From<Origin> for Standing {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Inside => Self::Inside,
            Origin::Outside => Self::Outside,
        }
    }
}

/// Who may set which mode: anyone may close, and what opens a target is the whole table.
fn permitted(authority: Authority, standing: Standing, mode: Mode) -> bool {
    match (mode, standing, authority) {
        (Mode::Ro, _, _) | (Mode::Rw, Standing::Outside, _) => true,
        (Mode::Rw, Standing::Inside, Authority::Inside) => true,
        (Mode::Rw, Standing::Approved, Authority::Inside | Authority::Confirm) => true,
        (Mode::Rw, Standing::Inside, Authority::Confirm | Authority::Host) => false,
        (Mode::Rw, Standing::Approved, Authority::Host) | (Mode::Rw, Standing::Broker, _) => false,
    }
}

#[cfg(test)]
mod tests;
