//! What a person holds read-only (`remountctl ro --path`): no sandbox shows it writable.

use super::error::{Die, OrDie, Result, bytes};
use remount_broker::held::{self, Version};
use remount_broker::host::Places;
use remount_broker::sys::mount::{self, Attributes, Reach};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// What is held, as it was when this program started.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// Where that is written, and the version that was read.
    file: Option<(PathBuf, Version)>,
    paths: Vec<PathBuf>,
}

/// Whether a directory of the host may be shown writable.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Writable,
    /// All of it is held.
    ReadOnly,
    /// These are held, relative to it.
    Except(Vec<PathBuf>),
}

fn unreadable(state: &Path, errno: Errno) -> Die {
    let file = state.join(held::FILE);
    let text = bytes!("Can't read which directories are held read-only, ", &file);
    Die::errno(text, errno)
}

impl Hold {
    /// Reads it. Who has no home directory holds nothing.
    pub(super) fn read() -> Result<Self> {
        let Some(places) = Places::here() else { return Ok(Self::default()) };
        let state = places.state;
        let tried = |errno| unreadable(&state, errno);
        let version = held::version(&state).map_err(tried)?;
        let mut paths = Vec::new();
        if version.is_some() {
            paths = held::read(&state).map_err(tried)?.paths;
            if !paths.is_empty() {
                // Nor may a sandbox change what is held.
                let real = std::fs::canonicalize(&state);
                paths.push(real.unwrap_or_else(|_| state.clone()));
            }
        }
        Ok(Self { file: Some((state, version)), paths })
    }

    /// Ends the start if something else is held by now: whoever changed it looked for
    /// running sandboxes afterwards, and may have seen this one too early.
    pub(super) fn check(&self) -> Result<()> {
        let Some((state, version)) = &self.file else { return Ok(()) };
        if held::version(state).map_err(|errno| unreadable(state, errno))? == *version {
            return Ok(());
        }
        Err(Die::new("What is held read-only was changed while the sandbox started: try again"))
    }

    /// Whether anything is held at all.
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// How a directory of the host, given without symlinks, may be shown.
    pub(super) fn shown(&self, path: &Path) -> Shown {
        if self.paths.iter().any(|held| path.starts_with(held)) {
            return Shown::ReadOnly;
        }
        let below = |held: &PathBuf| held.strip_prefix(path).ok().map(Path::to_owned);
        let below: Vec<_> = self.paths.iter().filter_map(below).collect();
        if below.is_empty() { Shown::Writable } else { Shown::Except(below) }
    }
}

/// Covers `path` in an attached mount by itself, read-only; what is not there need not be.
pub(super) fn cover(tree: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let place = match mount::open_exact(tree, path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        result => result.or_die(|| bytes!("Can't hold read-only ", path))?,
    };
    let cover = || {
        let cover = mount::clone_tree(place.as_fd())?;
        mount::set_attributes(cover.as_fd(), Attributes::READ_ONLY, Reach::Tree)?;
        mount::attach(cover.as_fd(), place.as_fd())
    };
    cover().or_die_mounting(|| bytes!("Can't hold read-only ", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_not_shown_writable() {
        let hold = Hold { file: None, paths: vec!["/home/u/src/repo".into(), "/srv".into()] };
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
