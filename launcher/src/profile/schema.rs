//! A profile file as it is written: what serde reads, one struct a table.

use super::expand::{ExpandError, PathText, ValueText};
use super::types::{
    EnvironmentPattern, FileMode, GitPolicy, Hostname, Missing, MissingProtect, Need, Network,
    Size, UserNamespace, VariableName,
};
use remount_broker::name::{Authority, Mode, TargetName};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    pub description: Option<String>,
    pub extends: Vec<Spanned<String>>,
    pub commands: Vec<Spanned<String>>,
    pub sandbox: Sandbox,
    pub workspace: Workspace,
    pub bind: Vec<Bind>,
    pub tmpfs: Vec<Tmpfs>,
    pub cache: Vec<Cache>,
    pub mask: Vec<Spanned<PathText>>,
    pub protect: Vec<Spanned<Protect>>,
    pub environment: Environment,
    pub remove: Remove,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Sandbox {
    pub network: Option<Spanned<Network>>,
    pub hostname: Option<Spanned<Hostname>>,
    pub authority: Option<Spanned<Authority>>,
    pub landlock: Option<Spanned<Need>>,
    pub seccomp: Option<Spanned<Need>>,
    pub new_session: Option<Spanned<bool>>,
    pub user_namespace: Option<Spanned<UserNamespace>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Workspace {
    pub path: Option<Spanned<PathText>>,
    pub name: Option<Spanned<TargetName>>,
    pub mode: Option<Spanned<Mode>>,
    pub authority: Option<Spanned<Authority>>,
    pub git: Option<Spanned<GitPolicy>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Bind {
    pub path: Spanned<PathText>,
    pub dest: Option<PathText>,
    pub mode: Option<Mode>,
    #[serde(default)]
    pub devices: bool,
    #[serde(default)]
    pub missing: Missing,
    pub toggle: Option<TargetName>,
    pub authority: Option<Spanned<Authority>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Tmpfs {
    pub path: Spanned<PathText>,
    pub size: Option<Size>,
    #[serde(default)]
    pub mode: FileMode,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Cache {
    pub path: Spanned<PathText>,
    pub env: Option<VariableName>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Environment {
    pub set: BTreeMap<VariableName, Spanned<ValueText>>,
    pub unset: Vec<Spanned<EnvironmentPattern>>,
    pub clear: Option<Spanned<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Remove {
    pub bind: Vec<Spanned<PathText>>,
    pub cache: Vec<Spanned<PathText>>,
    pub mask: Vec<Spanned<PathText>>,
    pub protect: Vec<Spanned<AnyPath>>,
    pub tmpfs: Vec<Spanned<PathText>>,
    pub unset: Vec<Spanned<EnvironmentPattern>>,
}

/// A path that may be relative to the workspace.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct AnyPath(pub PathText);

impl TryFrom<String> for AnyPath {
    type Error = ExpandError;

    fn try_from(text: String) -> Result<Self, ExpandError> {
        PathText::any(text).map(Self)
    }
}

/// A string, or a table with a `path`.
#[derive(Debug)]
pub(super) struct Protect {
    pub path: PathText,
    pub missing: MissingProtect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ProtectTable {
    path: AnyPath,
    #[serde(default)]
    missing: MissingProtect,
}

impl<'de> Deserialize<'de> for Protect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ProtectVisitor)
    }
}

/// By hand, since serde's untagged enums lose both the place and the reason of an error.
struct ProtectVisitor;

impl<'de> Visitor<'de> for ProtectVisitor {
    type Value = Protect;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path, or a table { path = \"…\", missing = \"guard\" }")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Protect, E> {
        let path = PathText::any(text).map_err(E::custom)?;
        Ok(Protect { path, missing: MissingProtect::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Protect, A::Error> {
        let table = ProtectTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Protect { path: table.path.0, missing: table.missing })
    }
}
