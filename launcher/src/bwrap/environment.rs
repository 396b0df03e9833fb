//! The environment of the command, changed as the C library changes it: what is set
//! anew takes its old place, what is new comes last.

use super::error::{Die, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Variables, in order.
#[derive(Debug, Default)]
pub(super) struct Environment {
    all: Vec<(OsString, OsString)>,
    /// The names of those that an option has set.
    chosen: Vec<OsString>,
}

impl Environment {
    /// That of this process.
    pub(super) fn inherited() -> Self {
        Self { all: std::env::vars_os().collect(), chosen: Vec::new() }
    }

    /// A variable's value.
    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.all.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// Their names.
    pub(super) fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.all.iter().map(|(name, _)| name.as_os_str())
    }

    /// Sets one.
    pub(super) fn set(&mut self, name: &OsStr, value: &OsStr) -> Result<()> {
        check(name, "setenv failed")?;
        match self.all.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.all.push((name.to_owned(), value.to_owned())),
        }
        self.chosen.push(name.to_owned());
        Ok(())
    }

    /// Takes away what no option has set.
    pub(super) fn drop_inherited(&mut self) {
        self.all.retain(|(name, _)| self.chosen.contains(name));
    }

    /// Takes one away.
    pub(super) fn unset(&mut self, name: &OsStr) -> Result<()> {
        check(name, "unsetenv failed")?;
        self.all.retain(|(key, _)| key != name);
        Ok(())
    }

    /// Takes all away.
    pub(super) fn clear(&mut self) {
        self.all.clear();
    }

    /// All of them, as `NAME=value`, with the working directory as `PWD`.
    pub(super) fn entries(&self, cwd: &OsStr) -> Vec<OsString> {
        let there = self.all.iter().any(|(name, _)| name == "PWD");
        let missing = (!there).then_some((OsStr::new("PWD"), cwd));
        let set = self.all.iter().map(|(name, value)| {
            (name.as_os_str(), if name == "PWD" { cwd } else { value.as_os_str() })
        });
        set.chain(missing).map(|(name, value)| [name, value].join(OsStr::new("="))).collect()
    }
}

/// A variable's name is not empty and has no `=` (setenv(3)).
fn check(name: &OsStr, failure: &str) -> Result<()> {
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return Err(Die::new(failure));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept() {
        let mut environment = Environment::default();
        for (name, value) in [("A", "1"), ("B", "2"), ("A", "3")] {
            environment.set(name.as_ref(), value.as_ref()).unwrap();
        }
        assert_eq!(environment.entries("/".as_ref()), ["A=3", "B=2", "PWD=/"]);
        environment.set("PWD".as_ref(), "/old".as_ref()).unwrap();
        environment.set("C".as_ref(), "".as_ref()).unwrap();
        assert_eq!(environment.entries("/new".as_ref())[2..], ["PWD=/new", "C="]);
        environment.unset("A".as_ref()).unwrap();
        assert_eq!(environment.get("A"), None);
        assert_eq!(environment.get("B"), Some("2".as_ref()));
        assert!(environment.set("A=B".as_ref(), "x".as_ref()).is_err());
        assert!(environment.unset("".as_ref()).is_err());
        environment.clear();
        assert_eq!(environment.entries("/".as_ref()), ["PWD=/"]);
    }

    #[test]
    fn what_options_set_is_told_apart() {
        let mut environment = Environment::inherited();
        environment.set("PATH".as_ref(), "/chosen".as_ref()).unwrap();
        environment.drop_inherited();
        assert_eq!(environment.entries("/".as_ref()), ["PATH=/chosen", "PWD=/"]);
    }
}
