//! `bwrap.toml`: what a user wants of sandboxes that are started under the name `bwrap`.

use super::error::ProfileError;
use super::expand::{PathText, Variables};
use super::source::{self, Source, SourceName};
use remount_broker::name::{Authority, TargetName};
use rustix::io::Errno;
use serde::Deserialize;
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
    /// Who may make them writable.
    pub authority: Authority,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct File {
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
#[derive(Debug)]
pub struct BwrapRules;

impl BwrapRules {
    /// Reads the rules of the user that runs this process; none without a file.
    ///
    /// # Errors
    /// The file belongs to somebody else, others can write to it, or it is not what it
    /// should be.
    pub fn read(uid: u32) -> Result<Vec<Rule>, ProfileError> {
        let variable = |name: &str| std::env::var_os(name);
        let Some(home) = variable("HOME").map(PathBuf::from).filter(|home| home.is_absolute())
        else {
            return Ok(Vec::new());
        };
        let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|it| it.is_absolute());
        let path = config.unwrap_or_else(|| home.join(".config")).join("remount/bwrap.toml");
        // Most have none.
        if let Err(Errno::NOENT | Errno::NOTDIR) = rustix::fs::stat(&path) {
            return Ok(Vec::new());
        }
        let (text, _) = source::read(&path, uid)?;
        let source = Arc::new(Source { name: SourceName::File(path), text: text.into() });
        let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
        parse(&source, &Variables::new(cwd, home, None, uid, variable))
    }
}

fn parse(source: &Arc<Source>, variables: &Variables) -> Result<Vec<Rule>, ProfileError> {
    let file: File =
        toml::from_str(&source.text).map_err(|error| ProfileError::parse(source, &error))?;
    let mut rules = Vec::new();
    for Toggle { name, under, authority } in file.toggle {
        let path = under.get_ref().expand(variables).map_err(|error| {
            ProfileError::invalid(source, &under.span(), error.to_string(), None)
        })?;
        let authority = authority.unwrap_or(Authority::Inside);
        // Callers name their binds by either.
        let real = std::fs::canonicalize(&path).ok().filter(|real| *real != path);
        let paths = [Some(path), real].into_iter().flatten();
        rules.extend(paths.map(|under| Rule { name: name.clone(), under, authority }));
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<Vec<Rule>, ProfileError> {
        let name = SourceName::File("/c/bwrap.toml".into());
        let source = Arc::new(Source { name, text: text.into() });
        parse(&source, &Variables::new("/w".into(), "/h".into(), None, 7, |_| None))
    }

    #[test]
    fn rules_are_read() {
        let rules = read(
            "[[toggle]]\nname = \"repo\"\nunder = \"~/src\"\n\n\
             [[toggle]]\nname = \"other\"\nunder = \"/o\"\nauthority = \"host\"\n",
        )
        .unwrap();
        let shown: Vec<_> = rules
            .iter()
            .map(|rule| (rule.name.to_string(), rule.under.to_str().unwrap()))
            .collect();
        assert_eq!(shown, [("repo".to_owned(), "/h/src"), ("other".to_owned(), "/o")]);
        assert_eq!(rules[0].authority, Authority::Inside);
        assert_eq!(rules[1].authority, Authority::Host);
        assert!(read("").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, said) in [
            ("[[toggle]]\nname = \"repo\"\n", "under"),
            ("[[toggle]]\nname = \"a b\"\nunder = \"/x\"\n", "bwrap.toml:2"),
            ("[[toggle]]\nname = \"a\"\nunder = \"x\"\n", "bwrap.toml:3"),
            ("[[toggles]]\n", "toggles"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
