//! `bwrap.toml`: what a user wants of sandboxes that are started under the name `bwrap`.

use super::error::ProfileError;
use super::expand::{PathText, Variables};
use super::source::{self, Source, SourceName};
use remount_broker::name::{Authority, TargetName};
use rustix::io::Errno;
use serde::Deserialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use toml::Spanned;

/// Which binds are targets.
#[derive(Debug)]
pub struct Rule {
    /// The target's name.
    pub name: TargetName,
    /// The directory that their destinations are in, as the user writes it and without
    /// symlinks.
    pub under: PathBuf,
    /// Who may make them writable, if it says.
    pub authority: Option<Authority>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    profile: Option<Spanned<String>>,
    toggle: Vec<Toggle>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Toggle {
    name: TargetName,
    under: Spanned<PathText>,
    authority: Option<Authority>,
}

/// The file as a whole.
#[derive(Debug, Default)]
pub struct BwrapPolicy {
    /// The profile of those that name none: a name, or an absolute path.
    pub profile: Option<OsString>,
    /// `[[toggle]]`, in order.
    pub toggles: Vec<Rule>,
}

impl BwrapPolicy {
    /// Reads that of the user that runs this process; without a file there is nothing in it.
    ///
    /// # Errors
    /// The file belongs to somebody else, others can write to it, or it is not what it
    /// should be.
    pub fn read(uid: u32) -> Result<Self, ProfileError> {
        let variable = |name: &str| std::env::var_os(name);
        let Some(home) = variable("HOME").map(PathBuf::from).filter(|home| home.is_absolute())
        else {
            return Ok(Self::default());
        };
        let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|it| it.is_absolute());
        let path = config.unwrap_or_else(|| home.join(".config")).join("remount/bwrap.toml");
        // Most have none.
        if let Err(Errno::NOENT | Errno::NOTDIR) = rustix::fs::stat(&path) {
            return Ok(Self::default());
        }
        let (text, _) = source::read(&path, uid)?;
        let source = Arc::new(Source { name: SourceName::File(path), text: text.into() });
        let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
        parse(&source, &Variables::new(cwd, home, None, uid, variable))
    }
}

fn parse(source: &Arc<Source>, variables: &Variables) -> Result<BwrapPolicy, ProfileError> {
    let file: File =
        toml::from_str(&source.text).map_err(|error| ProfileError::parse(source, &error))?;
    let profile = file.profile.map(|name| profile_name(source, name)).transpose()?;
    let mut toggles = Vec::new();
    for Toggle { name, under, authority } in file.toggle {
        let path = under.get_ref().expand(variables).map_err(|error| {
            ProfileError::invalid(source, &under.span(), error.to_string(), None)
        })?;
        // Callers name their binds by either.
        let real = std::fs::canonicalize(&path).ok().filter(|real| *real != path);
        let paths = [Some(path), real].into_iter().flatten();
        toggles.extend(paths.map(|under| Rule { name: name.clone(), under, authority }));
    }
    Ok(BwrapPolicy { profile, toggles })
}

/// What a relative path means would be for whoever chooses the working directory to say.
fn profile_name(source: &Arc<Source>, name: Spanned<String>) -> Result<OsString, ProfileError> {
    let is_path = name.get_ref().contains('/') || name.get_ref().ends_with(".toml");
    if is_path && !name.get_ref().starts_with('/') {
        let text = "not a profile's name, nor an absolute path".to_owned();
        return Err(ProfileError::invalid(source, &name.span(), text, None));
    }
    Ok(name.into_inner().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<BwrapPolicy, ProfileError> {
        let name = SourceName::File("/c/bwrap.toml".into());
        let source = Arc::new(Source { name, text: text.into() });
        parse(&source, &Variables::new("/w".into(), "/h".into(), None, 7, |_| None))
    }

    #[test]
    fn rules_are_read() {
        let policy = read(
            "profile = \"mine\"\n[[toggle]]\nname = \"repo\"\nunder = \"~/src\"\n\n\
             [[toggle]]\nname = \"other\"\nunder = \"/o\"\nauthority = \"host\"\n",
        )
        .unwrap();
        assert_eq!(policy.profile, Some("mine".into()));
        let rules = policy.toggles;
        let shown: Vec<_> = rules
            .iter()
            .map(|rule| (rule.name.to_string(), rule.under.to_str().unwrap()))
            .collect();
        assert_eq!(shown, [("repo".to_owned(), "/h/src"), ("other".to_owned(), "/o")]);
        assert_eq!(rules[0].authority, None);
        assert_eq!(rules[1].authority, Some(Authority::Host));
        let empty = read("").unwrap();
        assert!(empty.toggles.is_empty() && empty.profile.is_none());
        let path = read("profile = '/etc/x.toml'\n").unwrap();
        assert_eq!(path.profile, Some("/etc/x.toml".into()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, said) in [
            ("[[toggle]]\nname = \"repo\"\n", "under"),
            ("[[toggle]]\nname = \"a b\"\nunder = \"/x\"\n", "bwrap.toml:2"),
            ("[[toggle]]\nname = \"a\"\nunder = \"x\"\n", "bwrap.toml:3"),
            ("[[toggles]]\n", "toggles"),
            ("profile = './x.toml'\n", "bwrap.toml:1"),
            ("profile = 'x.toml'\n", "bwrap.toml:1"),
            ("profile = 'a/b'\n", "bwrap.toml:1"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
