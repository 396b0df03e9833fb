//! What a person holds read-only (`remountctl ro --path`): no sandbox that starts shows it
//! writable.

use remount_broker::held::{self, Version};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// What is held, as it was when this program started.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) since: Since,
    paths: Vec<PathBuf>,
}

/// Where it is written what is held, and which state of that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// The directory that the file is in.
    pub state: PathBuf,
    /// The file, when it was read.
    pub version: Version,
}

/// Whether a directory of the host may be shown writable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Writable,
    /// All of it is held.
    ReadOnly,
    /// These are held, relative to it.
    Except(Vec<PathBuf>),
}

impl Hold {
    /// Reads it from the directory `state`.
    ///
    /// # Errors
    /// As [`held::read`]: who cannot read it starts nothing.
    pub(crate) fn read(state: &Path) -> Result<Self, Errno> {
        let version = held::version(state)?;
        let mut paths = Vec::new();
        if version.is_some() {
            paths = held::read(state)?.paths;
            if !paths.is_empty() {
                // Nor may a sandbox change what is held.
                let real = std::fs::canonicalize(state);
                paths.push(real.unwrap_or_else(|_| state.to_owned()));
            }
        }
        Ok(Self { since: Since { state: state.to_owned(), version }, paths })
    }

    /// Whether anything is held at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// How a directory of the host, given without symlinks, may be shown.
    pub(crate) fn shown(&self, path: &Path) -> Shown {
        if self.paths.iter().any(|held| path.starts_with(held)) {
            return Shown::ReadOnly;
        }
        let below = |held: &PathBuf| held.strip_prefix(path).ok().map(Path::to_owned);
        let below: Vec<_> = self.paths.iter().filter_map(below).collect();
        if below.is_empty() { Shown::Writable } else { Shown::Except(below) }
    }
}

impl Since {
    /// Whether something else is held by now: whoever changed it looked for running
    /// sandboxes afterwards, and may have seen this one too early.
    ///
    /// # Errors
    /// As [`held::version`].
    pub(crate) fn is_over(&self) -> Result<bool, Errno> {
        Ok(held::version(&self.state)? != self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_not_shown_writable() {
        let since =
            Since { state: "/s".into(), version: held::version("/no/such".as_ref()).unwrap() };
        let hold = Hold { since, paths: vec!["/home/u/src/repo".into(), "/srv".into()] };
        for (path, shown) in [
            ("/home/u/src/repo", Shown::ReadOnly),
            ("/home/u/src/repo/sub", Shown::ReadOnly),
            ("/home/u/src/repository", Shown::Writable),
            ("/home/u/other", Shown::Writable),
            ("/home/u", Shown::Except(vec!["src/repo".into()])),
            ("/", Shown::Except(vec!["home/u/src/repo".into(), "srv".into()])),
        ] {
            assert_eq!(hold.shown(path.as_ref()), shown, "{path}");
        }
    }
}
