//! A profile file as it is written: what serde reads, one struct a table.

use super::error::ProfileError;
use super::expand::{ExpandError, PathText, ValueText};
use super::shims::{Condition, Flag, ShimName, ShimRow};
use super::source::{Located, Origin, Source};
use super::types::{
    Busy, EnvironmentPattern, FileMode, GitPolicy, HookWord, Hostname, Missing, MissingProtect,
    Need, Network, Proc, Size, SocketAccess, Span, UserNamespace, VariableName,
};
use remount_broker::name::{Authority, Mode, TargetName};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use toml::Spanned;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    pub description: Option<String>,
    pub extends: Vec<Spanned<String>>,
    pub commands: Vec<Spanned<String>>,
    pub arguments: BTreeMap<String, Spanned<Vec<String>>>,
    pub sandbox: Sandbox,
    pub workspace: Workspace,
    pub bind: Vec<Bind>,
    pub tmpfs: Vec<Tmpfs>,
    pub cache: Vec<Cache>,
    pub overlay: Vec<Overlay>,
    pub tmp_overlay: Vec<TmpOverlay>,
    pub mask: Vec<Word<PathText>>,
    pub protect: Vec<Spanned<Protect>>,
    pub environment: Environment,
    pub hooks: BTreeMap<HookWord, BTreeMap<HookWord, Spanned<Mode>>>,
    pub shims: BTreeMap<ShimName, Spanned<Shim>>,
    pub sockets: BTreeMap<HookWord, Socket>,
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
    pub read_only: Option<Spanned<bool>>,
    pub proc: Option<Spanned<Proc>>,
    pub namespaces: Option<Spanned<Need>>,
    pub on_busy: Option<Spanned<Busy>>,
    pub max_lease: Option<Spanned<Span>>,
    pub confirm_command: Option<Spanned<Vec<String>>>,
    pub confirm_timeout: Option<Spanned<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Workspace {
    pub path: Option<Spanned<PathText>>,
    pub name: Option<Spanned<TargetName>>,
    pub mode: Option<Spanned<Mode>>,
    pub authority: Option<Spanned<Authority>>,
    pub git: Option<Spanned<GitPolicy>>,
    pub max_lease: Option<Spanned<Span>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Bind {
    pub path: Spanned<PathText>,
    pub dest: Option<PathText>,
    pub mode: Option<Mode>,
    #[serde(default)]
    pub devices: bool,
    pub follow: Option<bool>,
    pub chmod: Option<Spanned<bool>>,
    #[serde(default)]
    pub missing: Missing,
    pub toggle: Option<TargetName>,
    pub authority: Option<Spanned<Authority>>,
    pub max_lease: Option<Spanned<Span>>,
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Overlay {
    pub path: Spanned<PathText>,
    pub dest: Option<PathText>,
    pub changes: PathText,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct TmpOverlay {
    pub path: Spanned<PathText>,
    pub dest: Option<PathText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Environment {
    pub set: BTreeMap<VariableName, Spanned<ValueText>>,
    pub unset: Vec<Word<EnvironmentPattern>>,
    pub clear: Option<Spanned<bool>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Socket {
    pub access: Spanned<SocketAccess>,
    #[serde(default)]
    pub path: Vec<Word<PathText>>,
    pub upstream: Option<PathText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Shim {
    pub allow: Vec<Word<ShimRow>>,
    pub deny: Vec<Word<ShimRow>>,
    pub flags: Vec<Word<Flag>>,
    pub flags_with_value: Vec<Word<Flag>>,
    pub flags_anywhere: bool,
    pub deny_flags: Vec<Word<Flag>>,
    pub when: Option<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Remove {
    pub bind: Vec<Word<PathText>>,
    pub cache: Vec<Word<PathText>>,
    pub mask: Vec<Word<PathText>>,
    pub overlay: Vec<Word<PathText>>,
    pub protect: Vec<Word<AnyPath>>,
    pub shims: Vec<Word<ShimName>>,
    pub tmpfs: Vec<Word<PathText>>,
    pub unset: Vec<Word<EnvironmentPattern>>,
}

/// A string in a list, checked in a second step: the error of an element that serde
/// refuses would be placed at the beginning of the list.
#[derive(Debug)]
pub(super) struct Word<T> {
    span: Range<usize>,
    checked: Result<T, String>,
}

impl<T> Word<T> {
    pub(super) fn take(self, source: &Arc<Source>) -> Result<Located<T>, ProfileError> {
        match self.checked {
            Ok(value) => Ok(Located::new(value, Origin::at(source, &self.span))),
            Err(reason) => Err(ProfileError::invalid(source, &self.span, reason, None)),
        }
    }
}

impl<'de, T: TryFrom<String, Error: fmt::Display>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        let span = text.span();
        let checked = T::try_from(text.into_inner()).map_err(|error| error.to_string());
        Ok(Self { span, checked })
    }
}

/// A path that may be relative to the workspace.
#[derive(Debug)]
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
    pub path: ProtectPath,
    pub missing: MissingProtect,
}

/// The path of an entry: as the whole of it, or with a place of its own.
#[derive(Debug)]
pub(super) enum ProtectPath {
    Whole(String),
    Key(Word<AnyPath>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ProtectTable {
    path: Word<AnyPath>,
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
        let path = ProtectPath::Whole(text.to_owned());
        Ok(Protect { path, missing: MissingProtect::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Protect, A::Error> {
        let table = ProtectTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Protect { path: ProtectPath::Key(table.path), missing: table.missing })
    }
}
