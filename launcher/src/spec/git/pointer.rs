//! From `.git` to a git directory, where `.git` is not one: what git believes without a
//! look (gitrepository-layout(5), git-config(1)), and what here has to be proved.

use crate::host::{Files, Found};
use crate::paths::is_in;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The git directory that belongs to the worktree at `root`, whose `.git` is a file or a
/// symlink.
pub(super) fn common_of_pointer(dot_git: &Path, root: &Path, files: &dyn Files) -> Option<PathBuf> {
    let found = files.find(dot_git).ok()?;
    if found.stat.is_dir() {
        return believed(found.path, root, files);
    }
    let named = pointer(&files.read(&found.path).ok()?, Some(b"gitdir: "), root)?;
    let own = files.find(&named).ok()?.path;
    common_of_worktree(&own, &found, files).or_else(|| believed(own, root, files))
}

/// The main git directory of a linked worktree, if that says that its pointer is this one.
fn common_of_worktree(own: &Path, dot_git: &Found, files: &dyn Files) -> Option<PathBuf> {
    let back = files.find(&pointer(&files.read(&own.join("gitdir")).ok()?, None, own)?).ok()?;
    let common = common_dir(own, files)?;
    let is_inside = back.path == dot_git.path && is_in(own, &common.join("worktrees"));
    (is_inside && is_git_dir(&common, files)).then_some(common)
}

/// The directory that `commondir` names.
pub(super) fn common_dir(own: &Path, files: &dyn Files) -> Option<PathBuf> {
    let text = files.read(&own.join("commondir")).ok()?;
    Some(files.find(&pointer(&text, None, own)?).ok()?.path)
}

/// A git directory that is in the worktree itself or, as a submodule's does, says that this
/// is its worktree.
fn believed(own: PathBuf, root: &Path, files: &dyn Files) -> Option<PathBuf> {
    let says_so = |name: &&str| {
        let text = files.read(&own.join(name)).ok()?;
        let worktree = own.join(OsStr::from_bytes(&core_worktree(&text)?));
        Some(files.find(&worktree).ok()?.path == root)
    };
    let is_own = || ["config.worktree", "config"].iter().any(|name| says_so(name) == Some(true));
    let is_inside = own != root && is_in(&own, root);
    (is_git_dir(&own, files) && (is_inside || is_own())).then_some(own)
}

fn is_git_dir(dir: &Path, files: &dyn Files) -> bool {
    let has = |name: &str, is_dir: bool| {
        files.lstat(&dir.join(name)).is_ok_and(|stat| stat.is_dir() == is_dir)
    };
    has("objects", true) && has("refs", true) && has("HEAD", false)
}

/// The path in a pointer file: one line, relative to `base`.
fn pointer(text: &[u8], prefix: Option<&[u8]>, base: &Path) -> Option<PathBuf> {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    let path = line.strip_prefix(prefix.unwrap_or_default())?;
    let plain = !path.is_empty() && !path.iter().any(|b| matches!(b, b'\n' | 0));
    plain.then(|| base.join(OsStr::from_bytes(path)))
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
