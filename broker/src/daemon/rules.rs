//! What a configuration allows.

use crate::name::{Authority, Mode, TargetName};
use crate::sys::socket::Peer;
use std::path::PathBuf;
use std::time::Duration;

/// The targets of a configuration.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// No two have one name.
    pub targets: Vec<Rule>,
}

/// The modes that may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modes {
    /// Both.
    All,
    /// This one.
    Only(Mode),
}

/// A target, and who may do what with it.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What requests call it.
    pub name: TargetName,
    /// Where it is in a sandbox, absolute.
    pub path: PathBuf,
    /// Which directory that has to be, by its path on the host.
    pub source: PathBuf,
    /// What may be asked for.
    pub modes: Modes,
    /// The users that may ask; none for any that can connect, if there are no groups.
    pub users: Option<Vec<u32>>,
    /// The groups whose members may ask.
    pub groups: Option<Vec<u32>>,
    /// Who may make it writable: a process in the sandbox, or only one of the host.
    pub authority: Authority,
    /// The longest that it stays writable at a time.
    pub max_lease: Option<Duration>,
    /// Whether it may be switched on the host itself.
    pub host_namespace: bool,
    /// Whether it may be switched in a namespace that another user has made.
    pub any_owner: bool,
}

/// Who asks, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who {
    pub peer: Peer,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Rule {
    /// Whether it lets this user ask at all.
    pub(super) fn admits(&self, who: &Who) -> bool {
        let is_listed = |list: &Option<Vec<u32>>, id| list.as_ref().is_some_and(|l| l.contains(id));
        if self.users.is_none() && self.groups.is_none() {
            return true;
        }
        let mut groups = who.groups.iter().chain([&who.peer.gid]);
        is_listed(&self.users, &who.peer.uid) || groups.any(|gid| is_listed(&self.groups, gid))
    }

    /// Whether this mode may be asked for.
    pub(super) fn allows(&self, mode: Mode) -> bool {
        self.modes == Modes::All || self.modes == Modes::Only(mode)
    }
}

impl Rules {
    /// The targets that this user may know of.
    pub(super) fn of<'a>(&'a self, who: &'a Who) -> impl Iterator<Item = &'a Rule> {
        self.targets.iter().filter(|rule| rule.admits(who))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_a_list_of_those_admitted() {
        let who = |uid, gid, groups: &[u32]| Who {
            peer: Peer { pid: None, uid, gid },
            groups: groups.to_vec(),
        };
        let mut rule = Rule {
            name: "a".parse().unwrap(),
            path: "/a".into(),
            source: "/a".into(),
            modes: Modes::Only(Mode::Ro),
            users: None,
            groups: None,
            authority: Authority::Inside,
            max_lease: None,
            host_namespace: false,
            any_owner: false,
        };
        assert!(rule.admits(&who(5, 5, &[])));
        rule.users = Some(vec![1000]);
        rule.groups = Some(vec![7]);
        for (who, admitted) in [
            (who(1000, 1, &[]), true),
            (who(1, 7, &[]), true),
            (who(1, 1, &[3, 7]), true),
            (who(1, 1, &[3]), false),
            // Root is not above the list.
            (who(0, 0, &[]), false),
        ] {
            assert_eq!(rule.admits(&who), admitted, "{who:?}");
        }
        rule.groups = Some(Vec::new());
        rule.users = None;
        assert!(!rule.admits(&who(7, 7, &[7])), "an empty list admits nobody");
        assert!(rule.allows(Mode::Ro) && !rule.allows(Mode::Rw));
    }
}
