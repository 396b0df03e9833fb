//! The configuration: TOML, or the YAML that remountd's first version had.

use crate::accounts::{Account, GROUP, USER, ids};
use anyhow::{Context, Result, bail, ensure};
use remount_broker::daemon::{Modes, Rule, Rules};
use remount_broker::escape::Escaped;
use remount_broker::name::{Authority, Mode, TargetName};
use remount_broker::reason::IoReason;
use rustix::fs::OFlags;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, FileType};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file as it is written. What remountd's first version called `allow` is `targets`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Text {
    #[serde(default)]
    socket: Option<PathBuf>,
    #[serde(default, alias = "allow")]
    targets: BTreeMap<TargetName, Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    path: PathBuf,
    #[serde(default)]
    source: Option<PathBuf>,
    #[serde(default)]
    modes: Option<Vec<Mode>>,
    #[serde(default)]
    users: Option<Vec<Account>>,
    #[serde(default)]
    groups: Option<Vec<Account>>,
    #[serde(default)]
    authority: Option<Authority>,
    #[serde(default)]
    max_lease: Option<String>,
    #[serde(default)]
    host_namespace: bool,
    #[serde(default)]
    any_owner: bool,
}

/// A configuration that has been checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub socket: Option<PathBuf>,
    pub rules: Rules,
}

/// The first of these files that there is.
pub(crate) fn choose(files: &[PathBuf]) -> Result<PathBuf> {
    // One that cannot be looked at is there, and will be complained of.
    let is_missing = |file: &Path| {
        let found = file.symlink_metadata();
        found.is_err_and(|it| matches!(it.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
    };
    files.iter().find(|file| !is_missing(file)).cloned().with_context(|| {
        let shown: Vec<_> = files.iter().map(|file| Escaped::path(file).to_string()).collect();
        format!(
            "find a configuration: there is no {}\nhint: write one, as 'man remountd' says, or name one with --config",
            shown.join(", and no ")
        )
    })
}

/// Reads a configuration that nobody can write but root and this user.
pub(crate) fn load(file: &Path) -> Result<Config> {
    let shown = Escaped::path(file);
    let read = || format!("read the configuration {shown}");
    let tried = |error: std::io::Error| anyhow::anyhow!("{}: {}", read(), IoReason(&error));
    // Nobody who writes to a FIFO is waited for.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let open = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(file);
    let open = open.map_err(tried)?;
    let meta = open.metadata().map_err(tried)?;
    if !meta.is_file() {
        let what = kind(meta.file_type());
        bail!("{}: it is {what}\nhint: name a regular file", read());
    }
    let me = rustix::process::geteuid().as_raw();
    ensure!(
        [0, me].contains(&meta.uid()) && meta.mode() & 0o022 == 0,
        "{}: others can change it\nhint: chown it to root or the user that runs remountd, and chmod go-w",
        read()
    );
    let text = std::io::read_to_string(open).map_err(tried)?;
    parse(&text, file.extension()).with_context(read)
}

/// What stands where a regular file should; a socket cannot be opened.
fn kind(found: FileType) -> &'static str {
    match found {
        _ if found.is_dir() => "a directory",
        _ if found.is_fifo() => "a FIFO",
        _ => "a device",
    }
}

fn parse(text: &str, extension: Option<&OsStr>) -> Result<Config> {
    let is_yaml = extension.is_some_and(|it| it == "yaml" || it == "yml");
    let file: Text = if is_yaml {
        serde_saphyr::from_str(text).map_err(|error| clean(&error.to_string()))?
    } else {
        toml::from_str(text).map_err(|error| clean(&error.to_string()))?
    };
    if let Some(socket) = &file.socket {
        absolute(socket).context("socket")?;
    }
    let rule = |(name, entry): (TargetName, Entry)| {
        let context = format!("target {name}");
        rule(name, entry).context(context)
    };
    let targets = file.targets.into_iter().map(rule).collect::<Result<Vec<_>>>()?;
    refuse_two_authorities(&targets)?;
    Ok(Config { socket: file.socket, rules: Rules { targets } })
}

/// One of two names for a directory must not undo what the other one keeps.
fn refuse_two_authorities(targets: &[Rule]) -> Result<()> {
    for (number, one) in targets.iter().enumerate() {
        let same = |other: &&Rule| other.path == one.path && other.authority != one.authority;
        if let Some(other) = targets[..number].iter().find(same) {
            bail!(
                "targets {} and {} have the same path and different authorities\nhint: give them the same one",
                other.name,
                one.name
            );
        }
    }
    Ok(())
}

/// A parser's message quotes the file: its lines stay, what commands a terminal does not.
fn clean(message: &str) -> anyhow::Error {
    let lines = message.trim_end().lines().map(|line| Escaped::text(line).to_string());
    anyhow::anyhow!("{}", lines.collect::<Vec<_>>().join("\n"))
}

fn rule(name: TargetName, entry: Entry) -> Result<Rule> {
    let path = plain(&entry.path).context("path")?;
    let source = entry.source.as_deref().map_or(Ok(path.clone()), plain).context("source")?;
    // Symbolic links in what the owner of this file has written are followed once, now:
    // never in a request.
    let source = std::fs::canonicalize(&source).unwrap_or(source);
    let modes = match entry.modes.as_deref() {
        None | Some([Mode::Ro, Mode::Rw] | [Mode::Rw, Mode::Ro]) => Modes::All,
        Some([mode]) => Modes::Only(*mode),
        Some(_) => bail!("modes: expected \"ro\", \"rw\" or both"),
    };
    let authority = entry.authority.unwrap_or(Authority::Inside);
    ensure!(
        authority != Authority::Confirm,
        "authority: only \"self\" or \"host\" here\nhint: remount-run can ask a person"
    );
    let lease = entry.max_lease.as_deref().map(remount_broker::time::parse).transpose();
    Ok(Rule {
        name,
        path,
        source,
        modes,
        users: entry.users.map(|list| ids(USER, &list)).transpose()?,
        groups: entry.groups.map(|list| ids(GROUP, &list)).transpose()?,
        authority,
        max_lease: lease.map_err(|why| anyhow::anyhow!("max-lease: {why}"))?,
        host_namespace: entry.host_namespace,
        any_owner: entry.any_owner,
    })
}

/// An absolute path without `.` and doubled slashes; `..` has no place in it.
fn plain(path: &Path) -> Result<PathBuf> {
    use std::path::Component;
    absolute(path)?;
    ensure!(!path.components().any(|it| it == Component::ParentDir), "must not have '..' in it");
    Ok(path.components().collect())
}

/// Both languages can write a NUL byte into a string, which no path can have.
fn absolute(path: &Path) -> Result<()> {
    ensure!(path.is_absolute(), "must be an absolute path");
    ensure!(!path.as_os_str().as_bytes().contains(&0), "must not have a NUL byte in it");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Result<Config> {
        parse(text, Some(OsStr::new("yaml")))
    }

    fn toml(text: &str) -> Result<Config> {
        parse(text, Some(OsStr::new("toml")))
    }

    #[test]
    fn the_first_versions_file_is_read_unchanged() {
        let config = yaml(
            "# /etc/remountd/config.yaml\nsocket: /run/remountd/remountd.sock\n\nallow:\n  codex:\n\
             \x20   path: /opt/x/codex/workspace/   # The workspace.\n",
        );
        let config = config.unwrap();
        assert_eq!(config.socket, Some("/run/remountd/remountd.sock".into()));
        let [rule] = &config.rules.targets[..] else { panic!("{config:?}") };
        assert_eq!(
            (rule.name.as_str(), rule.path.to_str()),
            ("codex", Some("/opt/x/codex/workspace"))
        );
        assert_eq!((rule.authority, rule.modes), (Authority::Inside, Modes::All));
        assert!(!rule.host_namespace && !rule.any_owner && rule.users.is_none());
    }

    #[test]
    fn both_languages_say_the_same() {
        let a = toml(
            "socket = \"/s\"\n[targets.a]\npath = \"/p\"\nsource = \"/h\"\nmodes = [\"ro\"]\n\
             users = [1000, \"root\"]\ngroups = []\nauthority = \"host\"\nmax-lease = \"30m\"\n\
             host-namespace = true\nany-owner = true\n",
        );
        let b = yaml(
            "socket: /s\ntargets:\n  a:\n    path: /p\n    source: /h\n    modes: [ro]\n\
             \x20   users: [1000, root]\n    groups: []\n    authority: host\n    max-lease: 30m\n\
             \x20   host-namespace: true\n    any-owner: true\n",
        );
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(format!("{a:?}"), format!("{b:?}"));
        assert_eq!(a.rules.targets[0].users, Some(vec![1000, 0]));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, said) in [
            ("[targets.a]\npath = \"x\"\n", "absolute"),
            ("[targets.a]\npath = \"/x/../y\"\n", "'..'"),
            ("[targets.a]\npath = \"/x\\u0000y\"\n", "path: must not have a NUL byte"),
            (
                "[targets.a]\npath = \"/x\"\nsource = \"/x\\u0000y\"\n",
                "source: must not have a NUL byte",
            ),
            ("socket = \"/x\\u0000y\"\n", "socket: must not have a NUL byte"),
            ("[targets.a]\npath = \"/x\"\nfoo = 1\n", "foo"),
            ("[targets.A]\npath = \"/x\"\n", "target name"),
            ("[targets.a]\npath = \"/x\"\nauthority = \"confirm\"\n", "authority"),
            ("[targets.a]\npath = \"/x\"\nmodes = []\n", "modes"),
            ("[targets.a]\npath = \"/x\"\nmax-lease = \"x\"\n", "max-lease"),
            ("[targets.a]\npath = \"/x\"\nusers = [\"no such user\"]\n", "no such user"),
            (
                "[targets.a]\npath = \"/x\"\n[targets.b]\npath = \"/x/\"\nauthority = \"host\"\n",
                "different authorities",
            ),
            ("socket = \"s\"\n", "socket"),
            ("targets = 1\n", "targets"),
        ] {
            let error = format!("{:#}", toml(text).unwrap_err());
            assert!(error.contains(said), "{text}: {error}");
        }
        for text in [
            "allow:\n  a: {}\n",
            "allow:\n  a:\n    path: \"/x\\0y\"\n",
            "allow: [",
            "\u{1b}[2J: 1\n",
            "allow:\n  a:\n   path: 1\n  a:\n   path: 2\n",
        ] {
            let error = format!("{:#}", yaml(text).unwrap_err());
            assert!(!error.replace('\n', "").contains(char::is_control), "{error:?}");
        }
    }
}
