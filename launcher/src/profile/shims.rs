//! `[shims.NAME]`: which subcommands of a tool are allowed, as a profile says it.
//!
//! What the words mean is `crate::shim`'s to decide; here they are checked for their form.

use remount_broker::name::TargetName;
use serde::Deserialize;
use std::borrow::Cow;

/// The name of a tool, as it is in `PATH`: 1 to 64 letters, digits, `.`, `_`, `+` and `-`, no
/// name that this program itself has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct ShimName(Cow<'static, str>);

impl TryFrom<String> for ShimName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'-');
        if !(1..=64).contains(&text.len())
            || !text.bytes().all(fits)
            || text.starts_with(['.', '-'])
        {
            return Err(format!(
                "tool {text:?}: must be 1 to 64 letters, digits, '.', '_', '+' and '-'"
            ));
        }
        if ["remount-run", "remountctl", "bwrap"].contains(&text.as_str()) {
            return Err(format!("tool {text:?}: under this name the shim is another program"));
        }
        Ok(Self(text.into()))
    }
}

/// Words of a command line: those that it begins with, and flags that it must not have.
///
/// Words are separated by single spaces; `|` separates alternatives, `*` stands for any
/// characters of a word. After them may come `$` (and no further word), then flags with `!`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimRow(Cow<'static, str>);

impl TryFrom<String> for ShimRow {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("row {text:?}: {why}"));
        if text.is_empty() || text.split(' ').any(str::is_empty) {
            return wrong("must be words with one space between them, or \"$\"");
        }
        if !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
            return wrong("must be printable ASCII");
        }
        let mut words = text.split(' ').skip_while(|word| *word != "$" && !word.starts_with('!'));
        let mut flags = words.clone().skip_while(|word| *word == "$");
        if words.by_ref().filter(|word| *word == "$").count() > 1 {
            return wrong("\"$\" is said once, after the last word");
        }
        if !flags.all(|word| word.strip_prefix('!').is_some_and(is_flag)) {
            return wrong("after \"$\", or a flag with '!', come flags with '!' only");
        }
        if text.starts_with('!') {
            return wrong("flags with '!' come after words");
        }
        if text.split(' ').any(|word| word.split('|').any(str::is_empty)) {
            return wrong("an alternative is empty");
        }
        Ok(Self(text.into()))
    }
}

/// A flag: `-x`, `--name` or `-name`, without a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag(Cow<'static, str>);

fn is_flag(text: &str) -> bool {
    let name = text.trim_start_matches('-');
    let dashes = text.len() - name.len();
    let fits = |b: u8| b.is_ascii_graphic() && b != b'=';
    (1..=2).contains(&dashes) && !name.is_empty() && text.bytes().all(fits)
}

impl TryFrom<String> for Flag {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if is_flag(&text) {
            Ok(Self(text.into()))
        } else {
            Err(format!("flag {text:?}: must be such as \"-x\" or \"--name\", without a value"))
        }
    }
}

/// When a shim is in force: `ro:NAME` is while the target is read-only.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Condition(TargetName);

impl Condition {
    pub(super) fn from_target(target: TargetName) -> Self {
        Self(target)
    }

    /// The target that must be read-only.
    #[must_use]
    pub fn target(&self) -> &TargetName {
        &self.0
    }
}

impl TryFrom<String> for Condition {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let target = text.strip_prefix("ro:").map(str::parse);
        match target {
            Some(Ok(target)) => Ok(Self(target)),
            Some(Err(error)) => Err(format!("condition {text:?}: {error}")),
            None => Err(format!("condition {text:?}: must be such as \"ro:workspace\"")),
        }
    }
}

macro_rules! texts {
    ($($type:ident),*) => {$(
        impl $type {
            /// What was checked when the program was built.
            pub(super) const fn trusted(text: &'static str) -> Self {
                Self(Cow::Borrowed(text))
            }

            /// As it was written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    )*};
}

texts!(ShimName, ShimRow, Flag);

/// One tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shim {
    /// What is allowed; everything else is not.
    pub allow: Vec<ShimRow>,
    /// What of that is not.
    pub deny: Vec<ShimRow>,
    /// Flags without a value that may stand before the subcommand.
    pub flags: Vec<Flag>,
    /// Flags with a value that may.
    pub flags_with_value: Vec<Flag>,
    /// Whether both may also stand after it.
    pub flags_anywhere: bool,
    /// Flags that nothing is allowed with.
    pub deny_flags: Vec<Flag>,
    /// When it is in force; always, if not said.
    pub when: Option<Condition>,
}

impl Shim {
    /// Adds what another file says of the same tool.
    pub(super) fn add(&mut self, other: Self) {
        unite(&mut self.allow, other.allow);
        unite(&mut self.flags, other.flags);
        unite(&mut self.flags_with_value, other.flags_with_value);
        self.flags_anywhere |= other.flags_anywhere;
        self.when = other.when.or(self.when.take());
        self.narrow(other.deny, other.deny_flags);
    }

    /// Takes rights away.
    pub(super) fn narrow(&mut self, deny: Vec<ShimRow>, deny_flags: Vec<Flag>) {
        unite(&mut self.deny, deny);
        unite(&mut self.deny_flags, deny_flags);
    }
}

fn unite<T: PartialEq>(to: &mut Vec<T>, from: Vec<T>) {
    for entry in from {
        if !to.contains(&entry) {
            to.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_rows_flags_and_conditions_have_one_form() {
        let name = |text: &str| ShimName::try_from(text.to_owned());
        for text in ["docker", "redis-cli", "g++", "pip3.11", "_x"] {
            assert_eq!(name(text).unwrap().as_str(), text);
        }
        for text in ["", ".x", "-x", "a/b", "a b", "ä", "bwrap", "remountctl", "remount-run"] {
            assert!(name(text).is_err(), "{text}");
        }
        let row = |text: &str| ShimRow::try_from(text.to_owned());
        for text in ["$", "ps", "network ls|list", "* describe-*", "a $", "a !-x", "a $ !--y !-z"] {
            assert_eq!(row(text).unwrap().as_str(), text);
        }
        for text in [
            "", " ", "a  b", " a", "a\n", "ä", "a|", "|a", "a $ b", "a $ $", "a !x", "!-x",
            "a !-x b",
        ] {
            assert!(row(text).is_err(), "{text}");
        }
        let flag = |text: &str| Flag::try_from(text.to_owned());
        for text in ["-x", "--name", "-chdir", "-?", "-2"] {
            assert_eq!(flag(text).unwrap().as_str(), text);
        }
        for text in ["", "-", "--", "x", "---x", "--a=b", "-a b", "-ä"] {
            assert!(flag(text).is_err(), "{text}");
        }
        let condition = Condition::try_from("ro:workspace".to_owned()).unwrap();
        assert_eq!(condition.target().as_str(), "workspace");
        for text in ["", "ro", "ro:", "rw:workspace", "ro:A b", "workspace"] {
            assert!(Condition::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn files_unite_and_a_later_condition_wins() {
        let row = |text: &'static str| ShimRow::trusted(text);
        let condition = |name: &str| Some(Condition(name.parse().unwrap()));
        let mut shim = Shim { allow: vec![row("a")], when: condition("x"), ..Shim::default() };
        shim.add(Shim { allow: vec![row("a"), row("b")], flags_anywhere: true, ..Shim::default() });
        assert_eq!((shim.allow.len(), shim.flags_anywhere), (2, true));
        assert_eq!(shim.when, condition("x"));
        shim.add(Shim { when: condition("y"), ..Shim::default() });
        assert_eq!(shim.when, condition("y"));
    }
}
