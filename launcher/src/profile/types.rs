//! The words and numbers of profiles, each checked as it is read.

use remount_broker::proto::OnBusy;
use serde::Deserialize;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Which network the sandbox has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The host's.
    #[default]
    Host,
    /// A network namespace with nothing but loopback in it.
    None,
}

/// What a kernel that lacks a layer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// An error.
    #[default]
    Required,
    /// A warning.
    Optional,
}

/// When there is a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserNamespace {
    /// When it is needed: root does not get one.
    #[default]
    Auto,
    /// For root too.
    Always,
}

/// Which processes `/proc` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proc {
    /// The sandbox's own.
    #[default]
    Own,
    /// All of the host's, by the host's numbers, to look at.
    Host,
}

/// How much of the workspace's git directory can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GitPolicy {
    /// All but hooks, configuration and whatever else git executes.
    #[default]
    Hooks,
    /// Nothing.
    Ro,
    /// All of it.
    Rw,
}

/// What happens when the source of a bind does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// The sandbox does not start.
    #[default]
    Error,
    /// There is no bind.
    Skip,
    /// The directory is made on the host, mode 0700.
    Create,
}

/// What happens when a path to protect does not exist. Ordered from the weakest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingProtect {
    /// It stays unprotected.
    Skip,
    /// It cannot be created either.
    #[default]
    Guard,
    /// The sandbox does not start.
    Error,
}

/// What of a program's socket outside is seen inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketAccess {
    /// Nothing: it is hidden wherever it would be seen.
    None,
    /// What reads, of Docker's API; a filter outside answers all else.
    Read,
}

/// A size in bytes, written as a number with an optional suffix K, M or G (of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (digits, unit) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 1 << 30),
            _ => (text.as_str(), 1),
        };
        let number =
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>());
        match number {
            Some(Ok(number)) if number > 0 => number.checked_mul(unit).map(Self),
            _ => None,
        }
        .ok_or_else(|| {
            format!("size {text:?}: must be bytes, such as \"65536\", \"64M\" or \"2G\"")
        })
    }
}

/// A length of time, such as `500ms`, `30s`, `2h` or `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        remount_broker::time::parse(&text).map(Self)
    }
}

/// What a request does that finds its target busy and does not say: `fail`, `kill`, or
/// `wait` and a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Busy(pub OnBusy);

impl Busy {
    /// `kill`, as a profile says it.
    pub const KILL: Self = Self(OnBusy::Kill { grace: Duration::from_secs(2), force: false });
}

impl TryFrom<String> for Busy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(' ') {
            None if text == "fail" => Ok(Self(OnBusy::Fail)),
            None if text == "kill" => Ok(Self::KILL),
            Some(("wait", time)) => {
                remount_broker::time::parse(time).map(|time| Self(OnBusy::Wait(time)))
            }
            _ => Err("must be \"fail\", \"kill\", or such as \"wait 10s\"".to_owned()),
        }
    }
}

/// Permissions, written as octal text. `0755` unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FileMode(pub u32);

impl Default for FileMode {
    fn default() -> Self {
        Self(0o755)
    }
}

impl TryFrom<String> for FileMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let octal = (1..=5).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if octal && mode <= 0o7777 => Ok(Self(mode)),
            _ => Err(format!("mode {text:?}: must be octal digits, such as \"0755\" or \"1777\"")),
        }
    }
}

/// A name that the kernel and resolvers take: 1 to 64 letters, digits, `-` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hostname(String);

impl Hostname {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Hostname {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text))
        } else {
            Err(format!("hostname {text:?}: must be 1 to 64 letters, digits, '-' and '.'"))
        }
    }
}

/// The name of an agent, or of a mode of one, as its hook says it: 1 to 64 letters, digits,
/// `-` and `_`, so that a table of them needs no quoting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct HookWord(String);

impl HookWord {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HookWord {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text))
        } else {
            Err(format!("name {text:?}: must be 1 to 64 letters, digits, '-' and '_'"))
        }
    }
}

/// The name of an environment variable: not empty, without `=` and NUL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct VariableName(String);

impl VariableName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VariableName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.contains(['=', '\0']) {
            return Err(format!(
                "variable {text:?}: a name is not empty and has no '=' and no NUL"
            ));
        }
        Ok(Self(text))
    }
}

/// The names of environment variables: one name, or all that begin alike (`DBUS_*`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct EnvironmentPattern(Cow<'static, str>);

impl EnvironmentPattern {
    /// A pattern that was checked when the program was built.
    pub(super) const fn trusted(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the variable `name` is meant.
    #[must_use]
    pub fn matches(&self, name: &OsStr) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => name.as_bytes().starts_with(prefix.as_bytes()),
            None => name.as_bytes() == self.0.as_bytes(),
        }
    }
}

impl TryFrom<String> for EnvironmentPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let stem = text.strip_suffix('*').unwrap_or(&text);
        if stem.is_empty() || stem.contains(['=', '\0', '*']) {
            return Err(format!(
                "variable {text:?}: must be a name, or the beginning of names and one '*'"
            ));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_modes_are_numbers_that_fit() {
        for (text, bytes) in [("1", 1), ("64M", 64 << 20), ("2g", 2 << 30), ("8K", 8192)] {
            assert_eq!(Size::try_from(text.to_owned()), Ok(Size(bytes)));
        }
        for text in ["", "M", "0", "-1", "+1", "1T", "1 M", "99999999999999999999", "17179869184G"]
        {
            assert!(Size::try_from(text.to_owned()).is_err(), "{text}");
        }
        for (text, mode) in [("0755", 0o755), ("1777", 0o1777), ("01777", 0o1777), ("0", 0)] {
            assert_eq!(FileMode::try_from(text.to_owned()), Ok(FileMode(mode)));
        }
        for text in ["", "8", "0o755", "+755", "17777", "-1", "000000"] {
            assert!(FileMode::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_what_the_kernel_takes() {
        for text in ["", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert!(Hostname::try_from(text.to_owned()).is_err(), "{text}");
        }
        for text in ["", "a b", "ä", "a\n", "a.b", &"x".repeat(65)] {
            assert!(HookWord::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert_eq!(HookWord::try_from("acceptEdits".to_owned()).unwrap().as_str(), "acceptEdits");
        for text in ["", "A=B", "A\0"] {
            assert!(VariableName::try_from(text.to_owned()).is_err(), "{text}");
        }
        for text in ["", "*", "A*B", "A**", "=", "A\0*"] {
            assert!(EnvironmentPattern::try_from(text.to_owned()).is_err(), "{text}");
        }
        let pattern = EnvironmentPattern::try_from("DBUS_*".to_owned()).unwrap();
        assert!(pattern.matches(OsStr::from_bytes(b"DBUS_\xff")));
        assert!(!pattern.matches(OsStr::new("DBUS")));
    }
}
