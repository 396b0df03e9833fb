//! Paths as profiles write them: `~` and `{variables}`, expanded to bytes.
//!
//! A profile is text, but the directories that variables stand for are whatever
//! bytes the host has, so expansion ends in a [`PathBuf`], never in a `String`.

use serde::Deserialize;
use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What the variables of profiles stand for, on this host and for this start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variables {
    /// `{cwd}`: the working directory of the caller.
    pub cwd: PathBuf,
    /// `{home}` and `~`.
    pub home: PathBuf,
    /// `{project}`: the git root, or else the working directory.
    pub project: PathBuf,
    /// `{git-root}`: the work tree around the working directory, if there is one.
    pub git_root: Option<PathBuf>,
    /// `{workspace}`: what `[workspace] path` expanded to.
    pub workspace: PathBuf,
    /// `{uid}`.
    pub uid: u32,
    /// `{xdg-config-home}`.
    pub xdg_config_home: PathBuf,
    /// `{xdg-cache-home}`.
    pub xdg_cache_home: PathBuf,
    /// `{xdg-data-home}`.
    pub xdg_data_home: PathBuf,
    /// `{xdg-state-home}`.
    pub xdg_state_home: PathBuf,
    /// `{xdg-runtime-dir}`.
    pub xdg_runtime_dir: PathBuf,
    /// `{ssh-auth-sock}`: the caller's agent for ssh keys, if there is one.
    pub ssh_auth_sock: Option<PathBuf>,
}

impl Variables {
    /// The variables of a caller whose environment is `environment`.
    ///
    /// An XDG variable that is unset, empty or relative counts as unset, as the XDG
    /// base directory specification demands; the runtime directory is then
    /// `/run/user/UID`. `{workspace}` begins as the project.
    pub fn new(
        cwd: PathBuf,
        home: PathBuf,
        git_root: Option<PathBuf>,
        uid: u32,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let directory = |name: &str, default: PathBuf| match environment(name).map(PathBuf::from) {
            Some(path) if path.is_absolute() => path,
            _ => default,
        };
        let project = git_root.clone().unwrap_or_else(|| cwd.clone());
        Self {
            xdg_config_home: directory("XDG_CONFIG_HOME", home.join(".config")),
            xdg_cache_home: directory("XDG_CACHE_HOME", home.join(".cache")),
            xdg_data_home: directory("XDG_DATA_HOME", home.join(".local/share")),
            xdg_state_home: directory("XDG_STATE_HOME", home.join(".local/state")),
            xdg_runtime_dir: directory("XDG_RUNTIME_DIR", format!("/run/user/{uid}").into()),
            ssh_auth_sock: environment("SSH_AUTH_SOCK").map(PathBuf::from),
            workspace: project.clone(),
            cwd,
            home,
            project,
            git_root,
            uid,
        }
    }

    fn append_value(&self, variable: Variable, to: &mut Vec<u8>) -> Result<(), ExpandError> {
        let path = match variable {
            Variable::Cwd => &self.cwd,
            Variable::Home => &self.home,
            Variable::Project => &self.project,
            Variable::GitRoot => self.git_root.as_ref().ok_or(ExpandError::NoGitRoot)?,
            Variable::Workspace => &self.workspace,
            Variable::Uid => {
                to.extend_from_slice(self.uid.to_string().as_bytes());
                return Ok(());
            }
            Variable::XdgConfigHome => &self.xdg_config_home,
            Variable::XdgCacheHome => &self.xdg_cache_home,
            Variable::XdgDataHome => &self.xdg_data_home,
            Variable::XdgStateHome => &self.xdg_state_home,
            Variable::XdgRuntimeDir => &self.xdg_runtime_dir,
            Variable::SshAuthSock => self.ssh_auth_sock.as_ref().ok_or(ExpandError::NoSshAgent)?,
        };
        to.extend_from_slice(path.as_os_str().as_bytes());
        Ok(())
    }
}

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// `{name}` is none of the variables.
    #[error("unknown variable {{{}}}: known are {}", .0.escape_debug(), known_variables())]
    UnknownVariable(String),
    /// A `{` without its `}`.
    #[error("'{{' without '}}': write '{{{{' for a literal brace")]
    OpenBrace,
    /// `{git-root}` outside a git work tree.
    #[error("{{git-root}} has no value: the working directory is not in a git work tree")]
    NoGitRoot,
    /// `{ssh-auth-sock}` where no agent for keys runs.
    #[error("{{ssh-auth-sock}} has no value: SSH_AUTH_SOCK is not set")]
    NoSshAgent,
    /// Neither `/…` nor `~/…` nor a variable at the beginning.
    #[error("not an absolute path: begin it with '/', '~/' or a variable such as {{project}}")]
    Relative,
    /// A `..` component, whose meaning depends on symlinks.
    #[error("'..' in a path: write the path it stands for")]
    ParentComponent,
    /// `~name`.
    #[error("'~' stands for your own home only: write another user's as an absolute path")]
    OtherHome,
    /// Nothing at all.
    #[error("the path is empty")]
    Empty,
    /// A NUL byte, which the kernel cannot take.
    #[error("there is a NUL byte in it")]
    Nul,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variable {
    Cwd,
    Home,
    Project,
    GitRoot,
    Workspace,
    Uid,
    XdgConfigHome,
    XdgCacheHome,
    XdgDataHome,
    XdgStateHome,
    XdgRuntimeDir,
    SshAuthSock,
}

const VARIABLES: [(&str, Variable); 12] = [
    ("cwd", Variable::Cwd),
    ("home", Variable::Home),
    ("project", Variable::Project),
    ("git-root", Variable::GitRoot),
    ("workspace", Variable::Workspace),
    ("uid", Variable::Uid),
    ("xdg-config-home", Variable::XdgConfigHome),
    ("xdg-cache-home", Variable::XdgCacheHome),
    ("xdg-data-home", Variable::XdgDataHome),
    ("xdg-state-home", Variable::XdgStateHome),
    ("xdg-runtime-dir", Variable::XdgRuntimeDir),
    ("ssh-auth-sock", Variable::SshAuthSock),
];

fn known_variables() -> String {
    VARIABLES.map(|(name, _)| format!("{{{name}}}")).join(" ")
}

enum Piece<'a> {
    Literal(&'a str),
    Variable(Variable),
}

/// Calls `sink` for each piece of `text`. `~` is not looked at.
fn pieces<'a>(
    mut text: &'a str,
    mut sink: impl FnMut(Piece<'a>) -> Result<(), ExpandError>,
) -> Result<(), ExpandError> {
    while let Some(brace) = text.find('{') {
        let (before, rest) = (&text[..brace], &text[brace + 1..]);
        if let Some(after) = rest.strip_prefix('{') {
            sink(Piece::Literal(&text[..=brace]))?;
            text = after;
            continue;
        }
        let end = rest.find('}').ok_or(ExpandError::OpenBrace)?;
        let name = &rest[..end];
        let known = VARIABLES.iter().find(|(known, _)| *known == name);
        let (_, variable) = known.ok_or_else(|| ExpandError::UnknownVariable(name.to_owned()))?;
        sink(Piece::Literal(before))?;
        sink(Piece::Variable(*variable))?;
        text = &rest[end + 1..];
    }
    sink(Piece::Literal(text))
}

/// Splits a leading `~` off: whether there was one, and what follows it.
fn split_home(text: &str) -> Result<(bool, &str), ExpandError> {
    match text.strip_prefix('~') {
        None => Ok((false, text)),
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Ok((true, rest)),
        Some(_) => Err(ExpandError::OtherHome),
    }
}

/// Expands `text` to an absolute path without `.`, `..` or doubled slashes.
pub fn expand(text: &str, variables: &Variables) -> Result<PathBuf, ExpandError> {
    let path = expand_raw(text, variables)?;
    if path.first() != Some(&b'/') {
        return Err(ExpandError::Relative);
    }
    clean(path)
}

/// As [`expand`], but a relative path is taken to lie below `base`.
pub fn expand_below(
    text: &str,
    base: &Path,
    variables: &Variables,
) -> Result<PathBuf, ExpandError> {
    let path = expand_raw(text, variables)?;
    if path.first() == Some(&b'/') {
        return clean(path);
    }
    let mut whole = base.as_os_str().as_bytes().to_vec();
    whole.push(b'/');
    whole.extend_from_slice(&path);
    clean(whole)
}

/// Expands the variables in a value that need not be a path, such as an
/// environment variable's. `~` stays as it is.
pub fn expand_value(text: &str, variables: &Variables) -> Result<OsString, ExpandError> {
    let mut value = Vec::with_capacity(text.len());
    append(text, variables, &mut value)?;
    if value.contains(&0) { Err(ExpandError::Nul) } else { Ok(OsString::from_vec(value)) }
}

fn append(text: &str, variables: &Variables, to: &mut Vec<u8>) -> Result<(), ExpandError> {
    pieces(text, |piece| {
        match piece {
            Piece::Literal(literal) => to.extend_from_slice(literal.as_bytes()),
            Piece::Variable(variable) => variables.append_value(variable, to)?,
        }
        Ok(())
    })
}

fn expand_raw(text: &str, variables: &Variables) -> Result<Vec<u8>, ExpandError> {
    if text.is_empty() {
        return Err(ExpandError::Empty);
    }
    let (home, rest) = split_home(text)?;
    let mut path = Vec::with_capacity(text.len() + 64);
    if home {
        path.extend_from_slice(variables.home.as_os_str().as_bytes());
    }
    append(rest, variables, &mut path)?;
    if path.contains(&0) { Err(ExpandError::Nul) } else { Ok(path) }
}

fn clean(path: Vec<u8>) -> Result<PathBuf, ExpandError> {
    let is_clean = path.len() > 1 && path.split(|byte| *byte == b'/').skip(1).all(is_name);
    if is_clean {
        return Ok(OsString::from_vec(path).into());
    }
    let mut cleaned = Vec::with_capacity(path.len());
    for component in path.split(|byte| *byte == b'/') {
        if component == b".." {
            return Err(ExpandError::ParentComponent);
        }
        if is_name(component) {
            cleaned.push(b'/');
            cleaned.extend_from_slice(component);
        }
    }
    if cleaned.is_empty() {
        cleaned.push(b'/');
    }
    Ok(OsString::from_vec(cleaned).into())
}

fn is_name(component: &[u8]) -> bool {
    !matches!(component, b"" | b"." | b"..")
}

/// A path as a profile writes it, known to be well-formed: every variable in it
/// exists, and no component is `..`.
///
/// Expanding it can still fail when a variable has no value on this host.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PathText(Cow<'static, str>);

impl PathText {
    /// Checks a path that has to be absolute once expanded.
    pub fn absolute(text: impl Into<Cow<'static, str>>) -> Result<Self, ExpandError> {
        let text = Self::any(text)?;
        if text.is_relative() { Err(ExpandError::Relative) } else { Ok(text) }
    }

    /// Checks a path that may also be relative to the workspace.
    pub fn any(text: impl Into<Cow<'static, str>>) -> Result<Self, ExpandError> {
        let text = text.into();
        if text.is_empty() {
            return Err(ExpandError::Empty);
        }
        let (_, rest) = split_home(&text)?;
        check_value(rest)?;
        if rest.split('/').any(|component| component == "..") {
            return Err(ExpandError::ParentComponent);
        }
        Ok(Self(text))
    }

    /// A path that [`PathText::any`] took when the program was built.
    pub(super) const fn trusted(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// `{project}`.
    pub(super) const fn project() -> Self {
        Self::trusted("{project}")
    }

    /// The path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it was written with a slash at its end, as directories are.
    #[must_use]
    pub fn names_directory(&self) -> bool {
        self.0.ends_with('/')
    }

    /// Whether `variable`, given without its braces, occurs in the path.
    pub(super) fn mentions(&self, variable: &str) -> bool {
        let mut found = false;
        let walked = pieces(&self.0, |piece| {
            if let Piece::Variable(used) = piece {
                found |= VARIABLES.iter().any(|(name, known)| *name == variable && *known == used);
            }
            Ok(())
        });
        walked.is_ok() && found
    }

    fn is_relative(&self) -> bool {
        // `{uid}` is the one variable that is no absolute path.
        !self.0.starts_with(['/', '~', '{'])
            || self.0.starts_with("{{")
            || self.0.starts_with("{uid}")
    }

    /// The absolute path; a relative one lies below the workspace.
    pub fn expand(&self, variables: &Variables) -> Result<PathBuf, ExpandError> {
        expand_below(&self.0, &variables.workspace, variables)
    }

    /// One spelling for paths that differ in nothing that could matter: two texts with
    /// the same key are the same path, on any host.
    pub(super) fn key(&self) -> String {
        let mut key = String::with_capacity(self.0.len() + 12);
        let text: &str = match self.0.strip_prefix('~') {
            Some(rest) => {
                key.push_str("{home}");
                rest
            }
            None if self.is_relative() => {
                key.push_str("{workspace}/");
                &self.0
            }
            None => &self.0,
        };
        if text.starts_with('/') {
            key.push('/');
        }
        for component in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
            if !(key.is_empty() || key.ends_with('/')) {
                key.push('/');
            }
            key.push_str(component);
        }
        if key.len() > 1 && key.ends_with('/') {
            key.pop();
        }
        key
    }
}

impl TryFrom<String> for PathText {
    type Error = ExpandError;

    fn try_from(text: String) -> Result<Self, ExpandError> {
        Self::absolute(text)
    }
}

impl fmt::Display for PathText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", super::text::Escaped(&self.0))
    }
}

impl fmt::Debug for PathText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The value of an environment variable as a profile writes it: variables expand,
/// nothing else does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ValueText(Box<str>);

impl ValueText {
    /// The value as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value itself.
    pub fn expand(&self, variables: &Variables) -> Result<OsString, ExpandError> {
        expand_value(&self.0, variables)
    }
}

impl TryFrom<String> for ValueText {
    type Error = ExpandError;

    fn try_from(text: String) -> Result<Self, ExpandError> {
        check_value(&text)?;
        Ok(Self(text.into()))
    }
}

fn check_value(text: &str) -> Result<(), ExpandError> {
    if text.as_bytes().contains(&0) {
        return Err(ExpandError::Nul);
    }
    pieces(text, |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn variables() -> Variables {
        let home = OsStr::from_bytes(b"/home/\xffu").into();
        Variables::new("/w/p/sub".into(), home, Some("/w/p".into()), 7, |name| match name {
            "XDG_DATA_HOME" => Some("/data".into()),
            "XDG_STATE_HOME" => Some("relative".into()),
            _ => None,
        })
    }

    fn bytes(text: &str) -> Vec<u8> {
        expand(text, &variables()).unwrap().into_os_string().into_vec()
    }

    #[test]
    fn variables_and_home_become_bytes() {
        for (text, path) in [
            ("~", &b"/home/\xffu"[..]),
            ("~/", b"/home/\xffu"),
            ("~/.x y", b"/home/\xffu/.x y"),
            ("{home}/a//b/./c/", b"/home/\xffu/a/b/c"),
            ("{cwd}", b"/w/p/sub"),
            ("{project}/x", b"/w/p/x"),
            ("{git-root}", b"/w/p"),
            ("{workspace}", b"/w/p"),
            ("/run/user/{uid}/x", b"/run/user/7/x"),
            ("{xdg-config-home}", b"/home/\xffu/.config"),
            ("{xdg-cache-home}", b"/home/\xffu/.cache"),
            ("{xdg-data-home}", b"/data"),
            ("{xdg-state-home}", b"/home/\xffu/.local/state"),
            ("{xdg-runtime-dir}", b"/run/user/7"),
            ("/a{{b}/~", b"/a{b}/~"),
            ("/", b"/"),
            ("//..x/...", b"/..x/..."),
        ] {
            assert_eq!(bytes(text), path, "{text}");
            PathText::absolute(text).unwrap();
        }
    }

    #[test]
    fn what_is_no_path_is_refused_before_and_during_expansion() {
        for (text, error) in [
            ("", ExpandError::Empty),
            ("a/b", ExpandError::Relative),
            ("./a", ExpandError::Relative),
            ("{uid}/a", ExpandError::Relative),
            ("{{home}", ExpandError::Relative),
            ("~root/x", ExpandError::OtherHome),
            ("/a/../b", ExpandError::ParentComponent),
            ("~/..", ExpandError::ParentComponent),
            ("/{home", ExpandError::OpenBrace),
            ("/{nope}", ExpandError::UnknownVariable("nope".into())),
            ("/{}", ExpandError::UnknownVariable(String::new())),
            ("/a\0b", ExpandError::Nul),
        ] {
            assert_eq!(expand(text, &variables()), Err(error.clone()), "{text}");
            assert_eq!(PathText::absolute(text), Err(error), "{text}");
        }
        let mut outside = variables();
        outside.git_root = None;
        assert_eq!(expand("{git-root}/x", &outside), Err(ExpandError::NoGitRoot));
        let mut odd = variables();
        odd.home = "/home/../etc".into();
        assert_eq!(expand("~/x", &odd), Err(ExpandError::ParentComponent));
        let unknown = ExpandError::UnknownVariable("x\u{1b}".into()).to_string();
        assert!(unknown.contains("{git-root}") && !unknown.contains('\u{1b}'), "{unknown}");
    }

    #[test]
    fn a_relative_path_lies_below_its_base() {
        let below = |text| expand_below(text, Path::new("/base"), &variables());
        assert_eq!(below("./a//b/"), Ok("/base/a/b".into()));
        assert_eq!(below("/a"), Ok("/a".into()));
        assert_eq!(below("a/../b"), Err(ExpandError::ParentComponent));
        assert_eq!(PathText::any(".x/").unwrap().expand(&variables()), Ok("/w/p/.x".into()));
    }

    #[test]
    fn values_keep_what_is_not_a_variable() {
        let value = |text| expand_value(text, &variables());
        assert_eq!(value("~/x:../y"), Ok("~/x:../y".into()));
        assert_eq!(value(""), Ok("".into()));
        assert_eq!(value("{{a} {uid}"), Ok("{a} 7".into()));
        assert_eq!(value("\0"), Err(ExpandError::Nul));
    }

    #[test]
    fn a_key_is_one_spelling() {
        for (text, key) in [
            ("~/.a/", "{home}/.a"),
            ("{home}//.a", "{home}/.a"),
            ("~", "{home}"),
            ("/", "/"),
            ("//a/./b", "/a/b"),
            (".x/", "{workspace}/.x"),
            ("{workspace}/.x", "{workspace}/.x"),
            ("{{x", "{workspace}/{{x"),
        ] {
            assert_eq!(PathText::any(text).unwrap().key(), key, "{text}");
        }
    }
}
