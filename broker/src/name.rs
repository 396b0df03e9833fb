//! The words a target is described with: its name, its mode, and who may open it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A target's name matches `[a-z0-9_-]{1,64}`: it needs no quoting anywhere,
/// cannot be an option, and cannot carry terminal escapes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetName(String);

/// A word that is not a target's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "target name {0:?}: must be 1 to 64 characters of a-z, 0-9, '_' and '-', and not begin with '-'"
)]
pub struct BadName(pub String);

impl TargetName {
    /// The longest name, in bytes.
    pub const MAX: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TargetName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let byte_fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        let fits = (1..=Self::MAX).contains(&text.len())
            && text.bytes().all(byte_fits)
            && !text.starts_with('-');
        if fits { Ok(Self(text.to_owned())) } else { Err(BadName(text.to_owned())) }
    }
}

impl TryFrom<String> for TargetName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<TargetName> for String {
    fn from(name: TargetName) -> Self {
        name.0
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether files can be changed through a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Read-only.
    Ro,
    /// Read-write.
    Rw,
}

impl Mode {
    /// The other mode.
    #[must_use]
    pub fn flipped(self) -> Self {
        match self {
            Self::Ro => Self::Rw,
            Self::Rw => Self::Ro,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ro => "ro",
            Self::Rw => "rw",
        })
    }
}

/// Who may ask for `rw` on a target. Anyone may always ask for `ro`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authority {
    /// Processes inside the sandbox: a guard against accidents, not a boundary.
    #[serde(rename = "self")]
    Inside,
    /// A person outside approves each request from inside.
    Confirm,
    /// Only requests from outside.
    Host,
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inside => "self",
            Self::Confirm => "confirm",
            Self::Host => "host",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_need_no_quoting() {
        for good in ["a", "workspace", "a-b_9", &"x".repeat(64)] {
            assert_eq!(good.parse::<TargetName>().unwrap().as_str(), good);
        }
        for bad in ["", "-x", "A", "a b", "a\n", "a/b", "\u{1b}[2J", "é", &"x".repeat(65)] {
            assert_eq!(bad.parse::<TargetName>(), Err(BadName(bad.to_owned())));
        }
    }

    #[test]
    fn authority_is_spelled_as_in_profiles() {
        for (text, authority) in [
            ("self", Authority::Inside),
            ("confirm", Authority::Confirm),
            ("host", Authority::Host),
        ] {
            assert_eq!(serde_json::from_str::<Authority>(&format!("{text:?}")).unwrap(), authority);
            assert_eq!(authority.to_string(), text);
        }
    }
}
