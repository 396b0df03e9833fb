//! The only code that changes a mount after the sandbox has started.
//!
//! An [`Operation`] makes its changes one member at a time and all or nothing. The kernel
//! refuses `ro` with EBUSY while a file is open for writing, and for an instant during
//! every `mkdir` or `unlink` too; so an operation that meets it waits, up to
//! [`RETRY_FOR`], but never here: it says [`Progress::Parked`] and is advanced again.

use crate::held::Watch;
use crate::name::Mode;
use crate::proto::Fault;
use crate::reason::Reason;
use crate::sandbox::{Authorized, Index, Registry, Why};
use crate::sys::mount::{self, Attributes, Reach};
use crate::target::Member;
use rustix::io::{Errno, Result as KernelResult};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For how long EBUSY is taken for something that passes (DESIGN.md, fact 2).
pub const RETRY_FOR: Duration = Duration::from_millis(250);

/// The pause between two rounds of a parked operation.
pub const RETRY_EVERY: Duration = Duration::from_micros(200);

/// Tries in a row within a round: most writers are gone after one. Where several make
/// and remove names without pause, only many tries find the instant between them (three
/// on two processors: 5 of 60 requests with 4 tries, 23 with 64). They take some 0.1 ms.
pub(crate) const TRIES: usize = 64;

/// What an operation needs of the kernel. Tests put a model in its place.
pub(crate) trait Mounts: Debug + Send {
    /// The mount's mode now.
    fn mode(&self, member: &Member) -> KernelResult<Mode>;
    /// Changes the mount's mode, and nothing else of it or of what lies below.
    fn set(&self, member: &Member, mode: Mode) -> KernelResult<()>;
    /// Whether the mount is still the one at its path.
    fn in_place(&self, member: &Member) -> bool;
    /// What a person holds read-only, as paths of the host.
    fn held(&self) -> KernelResult<Vec<PathBuf>>;
    /// Whether what is at `below` in the mount is seen through it, and not through another
    /// mount on top.
    fn shows(&self, member: &Member, below: &Path) -> bool;
}

/// The real mounts.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Where it is written what is held.
    pub holds: Option<Arc<Watch>>,
}

impl Mounts for Kernel {
    fn mode(&self, member: &Member) -> KernelResult<Mode> {
        let read_only = mount::is_read_only(member.fd())?;
        Ok(if read_only { Mode::Ro } else { Mode::Rw })
    }

    fn set(&self, member: &Member, mode: Mode) -> KernelResult<()> {
        mount::set_attributes(member.fd(), Attributes::mode(mode), Reach::This)
    }

    fn in_place(&self, member: &Member) -> bool {
        // Absolute paths, so the directory does not matter: the root is the sandbox's.
        let found = mount::mount_id_at(rustix::fs::CWD, &member.path);
        // A path that cannot be looked up is no proof either.
        matches!((found, member.id()), (Ok(a), Ok(b)) if a == b)
    }

    fn held(&self) -> KernelResult<Vec<PathBuf>> {
        self.holds.as_ref().map_or(Ok(Vec::new()), |holds| holds.read().map(|held| held.paths))
    }

    fn shows(&self, member: &Member, below: &Path) -> bool {
        match mount::mount_id_at(rustix::fs::CWD, member.path.join(below)) {
            Ok(id) => member.id() == Ok(id),
            // Nothing is there that could be written to.
            Err(Errno::NOENT | Errno::NOTDIR) => false,
            Err(_) => true,
        }
    }
}

/// How far an operation is.
#[derive(Debug)]
pub enum Progress {
    /// A mount is busy: advance it again after [`RETRY_EVERY`].
    Parked,
    /// It is over. On failure nothing is changed, unless the fault says so.
    Done(Result<(), Fault>),
}

/// A change that is under way.
#[derive(Debug)]
pub struct Operation {
    steps: Vec<Step>,
    /// The first step that is not done.
    next: usize,
    deadline: Instant,
    /// A target that is stale, and still was made `ro` as far as that goes.
    stale: Option<Fault>,
    /// Set once the operation has failed: the reason, while the steps are taken back.
    failed: Option<Fault>,
}

#[derive(Debug)]
struct Step {
    target: Index,
    member: usize,
    mode: Mode,
    changed: bool,
}

impl Step {
    fn member<'a>(&self, registry: &'a Registry) -> &'a Member {
        &registry.target(self.target).members[self.member]
    }

    fn failed(&self, registry: &Registry, reason: impl ToString) -> Fault {
        Fault::Failed {
            name: registry.target(self.target).name.clone(),
            mode: self.mode,
            path: self.member(registry).path.clone(),
            reason: reason.to_string(),
        }
    }
}

/// Why a target must not become writable, or stay so. Asked after the change again: whoever
/// begins to hold it then looks at the mounts after writing that down, so one of the two
/// sees the other.
fn refused(registry: &Registry, target: Index) -> Option<Fault> {
    let name = || registry.target(target).name.clone();
    let lost = |path: &Path| Fault::Lost { name: name(), path: path.to_owned() };
    let crowded = |path: &Path| Fault::Crowded { name: name(), path: path.to_owned() };
    let unprotected = |why| registry.unprotected(target, why);
    let lost = unprotected(Why::Lost).map(lost);
    lost.or_else(|| unprotected(Why::Crowded).map(crowded)).or_else(|| registry.held(target))
}

/// Why an attempt did not get to its end.
enum Obstacle {
    /// EBUSY: may pass.
    Busy,
    /// Will not pass.
    Fault(Fault),
}

impl Operation {
    /// Begins what was authorised; nothing happens before the first [`Self::advance`].
    /// Until `deadline` it puts up with EBUSY.
    pub fn new(authorized: Authorized, registry: &Registry, deadline: Instant) -> Self {
        let mut steps = Vec::new();
        for (target, mode) in authorized.into_changes() {
            let members = 0..registry.target(target).members.len();
            steps.extend(members.map(|member| Step { target, member, mode, changed: false }));
        }
        Self { steps, next: 0, deadline, stale: None, failed: None }
    }

    /// Gives up: what was changed is taken back by the next calls of [`Self::advance`].
    pub fn abandon(&mut self, now: Instant) {
        if self.failed.is_none() {
            self.roll_back(Fault::Dropped, now);
        }
    }

    /// Does what can be done now, without ever waiting for anyone.
    pub fn advance(&mut self, registry: &Registry, now: Instant) -> Progress {
        let tries = if now < self.deadline { TRIES } else { 1 };
        for turn in 0..tries {
            if turn > 0 {
                std::thread::yield_now();
            }
            if self.failed.is_none() {
                match self.attempt(registry) {
                    Ok(()) => return Progress::Done(self.stale.take().map_or(Ok(()), Err)),
                    Err(Obstacle::Busy) => continue,
                    Err(Obstacle::Fault(fault)) => self.roll_back(fault, now),
                }
            }
            if let Some(fault) = self.take_back(registry) {
                return Progress::Done(Err(fault));
            }
        }
        if now < self.deadline { Progress::Parked } else { self.out_of_time(registry, now) }
    }

    fn roll_back(&mut self, fault: Fault, now: Instant) {
        self.failed = Some(fault);
        // Taking back an `rw` is an `ro`, which may be busy in its turn.
        self.deadline = now + RETRY_FOR;
    }

    fn out_of_time(&mut self, registry: &Registry, now: Instant) -> Progress {
        if self.failed.is_none() {
            let Some(step) = self.steps.get(self.next) else {
                return Progress::Parked;
            };
            let name = registry.target(step.target).name.clone();
            let path = step.member(registry).path.clone();
            self.roll_back(Fault::Busy { name, path }, now);
            return match self.take_back(registry) {
                Some(fault) => Progress::Done(Err(fault)),
                None => Progress::Parked,
            };
        }
        let reason = "the change failed and could not be taken back: a file is open";
        let left = self.steps.iter().find(|step| step.changed);
        let fault = left.map(|step| step.failed(registry, reason)).or(self.failed.take());
        Progress::Done(Err(fault.unwrap_or(Fault::Dropped)))
    }

    /// Makes the changes that are still to be made, from where the last attempt stopped.
    fn attempt(&mut self, registry: &Registry) -> Result<(), Obstacle> {
        self.check_places(registry)?;
        while let Some(step) = self.steps.get_mut(self.next) {
            let member = step.member(registry);
            if registry.mounts().mode(member) != Ok(step.mode) {
                match registry.mounts().set(member, step.mode) {
                    Ok(()) => step.changed = true,
                    Err(Errno::BUSY) => return Err(Obstacle::Busy),
                    // Taken out of the tree: all else is closed still, and then this said.
                    Err(Errno::INVAL) if step.mode == Mode::Ro && self.stale.is_some() => {
                        let name = registry.target(step.target).name.clone();
                        self.stale = Some(Fault::Detached { name, path: member.path.clone() });
                    }
                    Err(errno) => return Err(Obstacle::Fault(step.failed(registry, errno))),
                }
            }
            self.next += 1;
        }
        // Once more: a mount moved away meanwhile must not have become writable.
        self.check_places(registry)?;
        self.verify(registry).map_err(Obstacle::Fault)?;
        for step in &self.steps {
            registry.want(step.target, step.mode);
        }
        Ok(())
    }

    /// A mount that is not at its path any more is never made writable. Made read-only it
    /// is, since processes may still be in it; but the answer must not be plain success.
    fn check_places(&mut self, registry: &Registry) -> Result<(), Obstacle> {
        for step in &self.steps {
            let member = step.member(registry);
            // All of a target's steps stand together: what is known of the target is asked once.
            if let (Mode::Rw, 0) = (step.mode, step.member)
                && let Some(fault) = refused(registry, step.target)
            {
                return Err(Obstacle::Fault(fault));
            }
            if registry.mounts().in_place(member) {
                continue;
            }
            let name = registry.target(step.target).name.clone();
            let fault = Fault::Stale { name, path: member.path.clone(), mode: step.mode };
            match step.mode {
                Mode::Rw => return Err(Obstacle::Fault(fault)),
                Mode::Ro => self.stale = Some(self.stale.take().unwrap_or(fault)),
            }
        }
        Ok(())
    }

    /// Success is what the kernel says, not what was asked of it.
    fn verify(&self, registry: &Registry) -> Result<(), Fault> {
        for step in &self.steps {
            let member = step.member(registry);
            match registry.mounts().mode(member) {
                Ok(mode) if mode == step.mode => {}
                Ok(_) if self.stale.is_some() && !registry.mounts().in_place(member) => {}
                Ok(Mode::Ro) => {
                    return Err(step.failed(registry, "the filesystem itself is read-only"));
                }
                Ok(Mode::Rw) => return Err(step.failed(registry, "it is still writable")),
                Err(errno) => return Err(step.failed(registry, errno)),
            }
        }
        Ok(())
    }

    /// Takes back what was changed, last first. The reason for it, once all is as before;
    /// `None` while a mount is busy.
    fn take_back(&mut self, registry: &Registry) -> Option<Fault> {
        for step in self.steps.iter_mut().rev().filter(|step| step.changed) {
            let before = step.mode.flipped();
            let member = step.member(registry);
            // What left its place in the meantime, or is held by now, stays closed.
            let stays = !registry.mounts().in_place(member) || registry.held(step.target).is_some();
            if before == Mode::Rw && stays {
                step.changed = false;
                continue;
            }
            match registry.mounts().set(member, before) {
                Ok(()) => step.changed = false,
                Err(Errno::BUSY) => return None,
                // The others are taken back all the same, and the worst is what is said.
                Err(errno) => {
                    let reason = format!(
                        "the change failed and could not be taken back: {:#}",
                        Reason::from(errno)
                    );
                    self.failed = Some(step.failed(registry, reason));
                    step.changed = false;
                }
            }
        }
        self.failed.take()
    }
}

#[cfg(test)]
pub(crate) mod tests;
