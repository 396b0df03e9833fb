//! Which binds of a command line are targets: those that `--toggle` names, and those that
//! a user's `bwrap.toml` does for callers that know nothing of it.

use super::error::{Die, OrDie, Result, bytes};
use super::request::{Access, Kind, Op, Request};
use crate::outside::Outside;
use crate::plan::{Policy, TargetPlan};
use crate::profile::Rule;
use remount_broker::host::Places;
use remount_broker::name::{Authority, Mode, TargetName};
use remount_broker::proto::OnBusy;
use remount_broker::server::PATIENCE;
use rustix::io::Errno;
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// A bind that `--toggle` names.
#[derive(Debug)]
pub(super) struct Toggle {
    name: TargetName,
    /// As typed.
    dest: OsString,
}

/// What can be switched.
#[derive(Debug)]
pub(super) struct Targets {
    pub(super) plans: Vec<TargetPlan>,
    pub(super) policy: Policy,
    /// Which steps make mounts of which target.
    members: Vec<(usize, usize)>,
    /// So many of the targets, from the first, were asked for by name.
    pub(super) named: usize,
    /// Its place outside.
    pub(super) outside: RefCell<Outside>,
}

impl Toggle {
    /// As `--toggle` has it.
    pub(super) fn new(name: &OsStr, dest: OsString) -> Result<Self> {
        let name = name.to_str().ok_or("it is no text".to_owned());
        let name = name.and_then(|name| name.parse().map_err(|error| format!("{error}")));
        let name = name.map_err(|reason| Die::new(format!("--toggle takes a name: {reason}")))?;
        Ok(Self { name, dest })
    }
}

/// Finds the targets of a command line. Nothing but a look for the rules is done if there
/// are none.
pub(super) fn settle(request: &mut Request, rules: &[Rule], places: Option<Places>) -> Result<()> {
    let narrowing = request.narrowing.as_ref();
    let authority = narrowing.map_or(Authority::Inside, |narrowing| narrowing.authority);
    let mut found = Found::default();
    for toggle in &request.toggles {
        let at = find(&request.ops, &toggle.dest).ok_or_else(|| {
            let dest = &toggle.dest;
            Die::new(bytes!("--toggle ", dest, ": no option binds anything there: add --bind"))
        })?;
        found.add(&toggle.name, authority, &request.ops, at)?;
    }
    let named = found.plans.len();
    for rule in rules {
        for at in 0..request.ops.len() {
            if is_under(&request.ops[at], &rule.under) && !found.has(at) {
                let authority = rule.authority.unwrap_or(authority);
                found.add(&rule.name, authority, &request.ops, at)?;
            }
        }
    }
    let Some(places) = places.filter(|_| !found.plans.is_empty()) else {
        return match named {
            0 => Ok(()),
            _ => Err(Die::new("--toggle: HOME is not set, so nothing outside could reach it")),
        };
    };
    let cwd = rustix::process::getcwd(Vec::new()).or_die(|| "getcwd()")?;
    let policy = narrowing.map_or_else(
        || Policy {
            profile: "bwrap".to_owned(),
            cwd: PathBuf::from(OsStr::new(&*cwd.to_string_lossy())),
            on_busy: OnBusy::Fail,
            confirm_command: Vec::new(),
            confirm_timeout: PATIENCE,
        },
        |narrowing| narrowing.policy.clone(),
    );
    let (mut plans, members) = (found.plans, found.members);
    let max_lease = narrowing.and_then(|narrowing| narrowing.max_lease);
    plans.iter_mut().for_each(|plan| plan.max_lease = max_lease);
    let outside = RefCell::new(outside(places));
    request.targets = Some(Targets { plans, policy, members, named, outside });
    Ok(())
}

/// The sandbox's place outside; what is missing of it is made.
fn outside(places: Places) -> Outside {
    let real = |dir: &PathBuf| std::fs::canonicalize(dir).ok();
    let mut outside = Outside::at(places.clone(), real);
    if outside.make() {
        outside = Outside::at(places, real);
    }
    outside
}

#[derive(Default)]
struct Found {
    plans: Vec<TargetPlan>,
    members: Vec<(usize, usize)>,
}

impl Found {
    fn has(&self, op: usize) -> bool {
        self.members.iter().any(|(member, _)| *member == op)
    }

    /// Makes a step a member of the target of this name.
    fn add(&mut self, name: &TargetName, who: Authority, ops: &[Op], at: usize) -> Result<()> {
        if self.has(at) {
            return Err(Die::new(bytes!("--toggle ", &ops[at].dest, ": it has a name already")));
        }
        let Kind::Bind { access, .. } = ops[at].kind else { return Ok(()) };
        let mode = if access == Access::ReadOnly { Mode::Ro } else { Mode::Rw };
        let same = self.plans.iter().position(|plan| plan.name == *name);
        let target = same.unwrap_or(self.plans.len());
        if same.is_none() {
            let dest = plain(&ops[at].dest).unwrap_or_default();
            let (name, authority) = (name.clone(), who);
            self.plans.push(TargetPlan { name, dest, mode, authority, max_lease: None });
        } else if self.plans[target].mode != mode {
            let text = format!("--toggle {name}: of its binds, one is read-only and one is not");
            return Err(Die::new(text));
        }
        self.members.push((at, target));
        Ok(())
    }
}

impl Targets {
    /// What nobody inside may see: its place outside.
    pub(super) fn hidden(&self) -> Vec<PathBuf> {
        self.outside.borrow().hidden.clone()
    }

    /// The target that a step makes mounts of.
    pub(super) fn of(&self, op: usize) -> Option<usize> {
        self.members.iter().find(|(member, _)| *member == op).map(|(_, target)| *target)
    }
}

/// The last bind at `dest`.
fn find(ops: &[Op], dest: &OsStr) -> Option<usize> {
    let dest = plain(dest)?;
    let is_there =
        |op: &Op| matches!(op.kind, Kind::Bind { .. }) && plain(&op.dest).as_ref() == Some(&dest);
    ops.iter().rposition(is_there)
}

/// Whether a bind shows something writable in a directory. What the caller wants
/// read-only never becomes a target that processes inside could open.
fn is_under(op: &Op, under: &Path) -> bool {
    let Kind::Bind { access, .. } = op.kind else { return false };
    access != Access::ReadOnly && plain(&op.dest).is_some_and(|dest| dest.starts_with(under))
}

/// A destination from the root, its names only; `None` with `..` in it.
fn plain(dest: &OsStr) -> Option<PathBuf> {
    let mut plain = PathBuf::from("/");
    for component in Path::new(dest).components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => return None,
            _ => {}
        }
    }
    Some(plain)
}

/// For whoever asks for a target of which nothing can be written.
pub(super) fn nothing_writable(plan: &TargetPlan) -> Die {
    let dest = plan.dest.as_os_str();
    Die::errno(bytes!("Can't make ", dest, " a target: it is read-only on the host"), Errno::ROFS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bwrap::request::Source;

    fn bind(dest: &str, access: Access) -> Op {
        let source = Source::Path("/s".into());
        Op { dest: dest.into(), kind: Kind::Bind { source, access, optional: false } }
    }

    #[test]
    fn binds_are_found_by_destination() {
        let ops = [
            bind("/a", Access::Write),
            bind("a//b/", Access::ReadOnly),
            bind("/a", Access::ReadOnly),
            Op { dest: "/a/c".into(), kind: Kind::Proc },
        ];
        for (dest, at) in [("/a/", Some(2)), ("/a/b", Some(1)), ("/a/c", None), ("/a/..", None)] {
            assert_eq!(find(&ops, dest.as_ref()), at, "{dest}");
        }
        let under = |dest: &str, access| is_under(&bind(dest, access), "/home/u/src".as_ref());
        assert!(under("/home/u/src/x", Access::Write) && under("/home/u/src", Access::Devices));
        assert!(!under("/home/u/src/x", Access::ReadOnly) && !under("/home/u", Access::Write));
        assert!(!under("/home/u/src/../y", Access::Write));
    }

    #[test]
    fn one_name_is_one_target() {
        let ops =
            [bind("/a", Access::Write), bind("/b", Access::Write), bind("/c", Access::ReadOnly)];
        let name: TargetName = "repo".parse().unwrap();
        let mut found = Found::default();
        found.add(&name, Authority::Inside, &ops, 0).unwrap();
        found.add(&name, Authority::Inside, &ops, 1).unwrap();
        assert!(found.add(&name, Authority::Inside, &ops, 1).is_err());
        assert!(found.add(&name, Authority::Inside, &ops, 2).is_err());
        assert_eq!((found.plans.len(), found.members), (1, vec![(0, 0), (1, 0)]));
    }
}
