//! From `.git` to a git directory, where `.git` is not one: what git believes without a
//! look (gitrepository-layout(5), git-config(1)), and what here has to be proved.

use crate::host::{Files, Found};
use crate::paths::is_in;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// A path that a file of git's names, which git follows without a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::spec) struct Way {
    /// As it is written, from `base` on.
    pub named: PathBuf,
    /// Where it begins.
    pub base: PathBuf,
    /// Where that leads, if there is a directory.
    pub leads_to: Option<PathBuf>,
}

impl Way {
    /// The directories from which it goes up again.
    pub fn turns(&self) -> Vec<PathBuf> {
        let mut way = PathBuf::new();
        let mut turns = Vec::new();
        for component in self.named.components() {
            if component == Component::ParentDir {
                turns.push(way.clone());
            }
            way.push(component);
        }
        turns
    }
}

/// Where the `.git` of a worktree leads.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// `.git` itself, if it is there: without symlinks.
    dot_git: Option<Found>,
    /// The worktree's own git directory, in which its index is.
    pub own: Option<PathBuf>,
    /// What that says the common one is.
    pub common: Option<PathBuf>,
    /// What was followed.
    pub ways: Vec<Way>,
}

impl Trail {
    /// Follows the `.git` of the worktree at `root`.
    pub fn follow(root: &Path, files: &dyn Files) -> Self {
        let dot_git = root.join(".git");
        let mut trail = Self::default();
        let found = match files.lstat(&dot_git) {
            Ok(stat) if stat.is_dir() => Some(Found { path: dot_git, stat }),
            Ok(_) => files.find(&dot_git).ok(),
            Err(_) => return trail,
        };
        let Some(found) = found else { return trail };
        trail.own = match found.stat.is_dir() {
            true => Some(found.path.clone()),
            false => trail.step(&found.path, Some(b"gitdir: "), root, files),
        };
        trail.dot_git = Some(found);
        if let Some(own) = trail.own.clone() {
            trail.common = trail.step(&own.join("commondir"), None, &own, files);
        }
        trail
    }

    /// Where the pointer in `file` leads.
    fn step(
        &mut self,
        file: &Path,
        prefix: Option<&[u8]>,
        base: &Path,
        files: &dyn Files,
    ) -> Option<PathBuf> {
        let named = pointer(&files.read(file).ok()?, prefix, base)?;
        let found = files.find(&named).ok().filter(|found| found.stat.is_dir());
        let leads_to = found.map(|found| found.path);
        self.ways.push(Way { named, base: base.to_owned(), leads_to: leads_to.clone() });
        leads_to
    }

    /// The git directory that belongs to the worktree at `root`, whose `.git` is a file or a
    /// symlink.
    pub fn believed(&self, root: &Path, files: &dyn Files) -> Option<PathBuf> {
        let (own, dot_git) = (self.own.as_ref()?, self.dot_git.as_ref()?);
        if dot_git.stat.is_dir() {
            return believed(own, root, files);
        }
        self.common_of_worktree(own, dot_git, files).or_else(|| believed(own, root, files))
    }

    /// The main git directory of a linked worktree, if that says that its pointer is this one.
    fn common_of_worktree(
        &self,
        own: &Path,
        dot_git: &Found,
        files: &dyn Files,
    ) -> Option<PathBuf> {
        let text = files.read(&own.join("gitdir")).ok()?;
        let back = files.find(&pointer(&text, None, own)?).ok()?;
        let common = self.common.clone()?;
        let is_inside = back.path == dot_git.path && is_in(own, &common.join("worktrees"));
        (is_inside && is_git_dir(&common, files)).then_some(common)
    }
}

/// A git directory that is in the worktree itself or, as a submodule's does, says that this
/// is its worktree.
fn believed(own: &Path, root: &Path, files: &dyn Files) -> Option<PathBuf> {
    let says_so = |name: &&str| {
        let text = files.read(&own.join(name)).ok()?;
        let worktree = own.join(OsStr::from_bytes(&core_worktree(&text)?));
        Some(files.find(&worktree).ok()?.path == root)
    };
    let is_own = || ["config.worktree", "config"].iter().any(|name| says_so(name) == Some(true));
    let is_inside = own != root && is_in(own, root);
    (is_git_dir(own, files) && (is_inside || is_own())).then(|| own.to_owned())
}

/// What git takes for one of its directories (`is_git_directory`, setup.c): symlinks are as good.
pub(super) fn is_git_dir(dir: &Path, files: &dyn Files) -> bool {
    let is_dir = |name: &str| files.find(&dir.join(name)).is_ok_and(|it| it.stat.is_dir());
    // A symbolic reference may be a link to a branch that is not there yet.
    let has_head = files.lstat(&dir.join("HEAD")).is_ok_and(|stat| !stat.is_dir());
    has_head && is_dir("objects") && is_dir("refs")
}

/// The path in a pointer file, relative to `base`, as git reads it (`read_gitfile_gently` and
/// `get_common_dir_noenv`, setup.c): up to a zero byte, without the ends of lines at its end.
fn pointer(text: &[u8], prefix: Option<&[u8]>, base: &Path) -> Option<PathBuf> {
    let end = text.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r'))?;
    let path = text[..=end].strip_prefix(prefix.unwrap_or_default())?;
    let path = path.split(|byte| *byte == 0).next().filter(|path| !path.is_empty())?;
    Some(base.join(OsStr::from_bytes(path)))
}

/// `core.worktree` of a configuration: the last one that it has. What is written in a way
/// that git itself never writes is not understood, and then nothing is believed.
pub(super) fn core_worktree(text: &[u8]) -> Option<Vec<u8>> {
    let mut is_core = false;
    let mut worktree = None;
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if let Some(section) = line.strip_prefix(b"[") {
            is_core = section.eq_ignore_ascii_case(b"core]");
            continue;
        }
        let mut parts = line.splitn(2, |byte| *byte == b'=');
        let (Some(key), Some(value)) = (parts.next(), parts.next()) else { continue };
        if is_core && key.trim_ascii_end().eq_ignore_ascii_case(b"worktree") {
            worktree = value_of(value.trim_ascii_start());
        }
    }
    worktree.filter(|path| !path.is_empty() && !path.contains(&0))
}

/// A value without its quotes and escapes; `None` if it is not in order.
fn value_of(text: &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    let mut is_quoted = false;
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\\' => value.push(match bytes.next()? {
                b'n' => b'\n',
                b't' => b'\t',
                b'b' => 8,
                other @ (b'"' | b'\\') => other,
                _ => return None,
            }),
            b'#' | b';' if !is_quoted => return None,
            other => value.push(other),
        }
    }
    (!is_quoted).then_some(value)
}
