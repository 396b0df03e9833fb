//! Where a repository's own files are. Git is never run: its configuration could
//! make it execute anything, and the agent can write some of it.

use crate::host::Files;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The files in a git directory that make git run something, or say where it looks
/// for what it runs (gitrepository-layout(5), githooks(5), gitattributes(5)).
const EXECUTED: &[&str] = &["config", "config.worktree", "hooks", "info/attributes"];

/// The git work tree around `cwd`: the nearest directory at or above it with a `.git`.
pub(super) fn work_tree(cwd: &Path, files: &dyn Files) -> Option<PathBuf> {
    let has_git = |dir: &&Path| files.lstat(&dir.join(".git")).is_ok();
    cwd.ancestors().find(has_git).map(Path::to_owned)
}

/// The git directory of a worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GitDir {
    /// What holds objects and references: a linked worktree's is the main one's.
    pub common: PathBuf,
    /// What must not be changed, existing or not.
    pub executed: Vec<PathBuf>,
}

/// Finds the git directory of the worktree at `root`, if it has one that can be
/// trusted to be one.
///
/// `.git` may be a file that names a directory anywhere; the agent can write it, so
/// what it names is believed only if that directory looks like git's and names this
/// worktree in turn.
pub(super) fn git_dir(root: &Path, files: &dyn Files) -> Option<GitDir> {
    let dot_git = root.join(".git");
    let stat = files.lstat(&dot_git).ok()?;
    let common = if stat.is_dir() {
        dot_git
    } else if stat.is_file() {
        common_of_worktree(&dot_git, root, files)?
    } else {
        return None;
    };
    let mut executed: Vec<PathBuf> = EXECUTED.iter().map(|name| common.join(name)).collect();
    for (inner, names) in
        [("modules", EXECUTED), ("worktrees", &["config.worktree", "commondir", "gitdir"])]
    {
        let mut found = Vec::new();
        let mut keep = |name: &OsStr| found.push(name.to_owned());
        // Without the directory there is nothing in it to protect.
        files.names(&common.join(inner), usize::MAX, &mut keep).unwrap_or_default();
        found.sort();
        for name in found {
            executed.extend(names.iter().map(|file| common.join(inner).join(&name).join(file)));
        }
    }
    Some(GitDir { common, executed })
}

/// The main git directory of a linked worktree, by its pointer file.
fn common_of_worktree(dot_git: &Path, root: &Path, files: &dyn Files) -> Option<PathBuf> {
    let own = files.find(&pointer(&files.read(dot_git).ok()?, Some(b"gitdir: "), root)?).ok()?.path;
    let back = files.find(&pointer(&files.read(&own.join("gitdir")).ok()?, None, &own)?).ok()?.path;
    if back != dot_git {
        return None;
    }
    let common = pointer(&files.read(&own.join("commondir")).ok()?, None, &own)?;
    let common = files.find(&common).ok()?.path;
    let is_inside = own.starts_with(common.join("worktrees"));
    let has = |name: &str, dir: bool| {
        files.lstat(&common.join(name)).is_ok_and(|stat| stat.is_dir() == dir)
    };
    (is_inside && has("objects", true) && has("refs", true) && has("HEAD", false)).then_some(common)
}

/// The path in a pointer file: one line, relative to `base`.
fn pointer(text: &[u8], prefix: Option<&[u8]>, base: &Path) -> Option<PathBuf> {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    let path = line.strip_prefix(prefix.unwrap_or_default())?;
    let plain = !path.is_empty() && !path.iter().any(|b| matches!(b, b'\n' | 0));
    plain.then(|| base.join(OsStr::from_bytes(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeFiles;

    fn worktree(back: &str) -> FakeFiles {
        FakeFiles::new()
            .file("/w/.git", "gitdir: /m/.git/worktrees/w\n")
            .file("/m/.git/worktrees/w/gitdir", back)
            .file("/m/.git/worktrees/w/commondir", "../..\n")
            .file("/m/.git/HEAD", "ref: x")
            .dir("/m/.git/objects")
            .dir("/m/.git/refs")
    }

    #[test]
    fn a_linked_worktree_leads_to_the_main_repository() {
        let found = git_dir(Path::new("/w"), &worktree("/w/.git\n")).unwrap();
        assert_eq!(found.common, Path::new("/m/.git"));
        assert!(found.executed.contains(&"/m/.git/hooks".into()));
        assert!(found.executed.contains(&"/m/.git/worktrees/w/commondir".into()));
    }

    #[test]
    fn a_pointer_to_what_does_not_point_back_is_not_believed() {
        assert_eq!(git_dir(Path::new("/w"), &worktree("/elsewhere/.git\n")), None);
        let forged = FakeFiles::new().file("/w/.git", "gitdir: /home/u/.ssh\n").dir("/home/u/.ssh");
        assert_eq!(git_dir(Path::new("/w"), &forged), None);
    }

    #[test]
    fn a_plain_repository_has_its_directory() {
        let files = FakeFiles::new().dir("/p/.git/modules/sub");
        let found = git_dir(Path::new("/p"), &files).unwrap();
        assert_eq!(found.common, Path::new("/p/.git"));
        assert!(found.executed.contains(&"/p/.git/modules/sub/hooks".into()));
    }
}
