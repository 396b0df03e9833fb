//! Where a repository's own files are. Git is never run: its configuration could
//! make it execute anything, and the agent can write some of it.

use crate::host::Files;
use remount_broker::placeholder::Kind;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What makes git run something, or says where it looks for what it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Executed {
    /// Where it is, or could be made.
    pub path: PathBuf,
    /// What can stand there without changing what git does, if it does not exist.
    pub stand_in: Option<Kind>,
}

/// The files of that kind in a git directory, each with its stand-in
/// (gitrepository-layout(5), githooks(5), gitattributes(5)). Of `commondir`, that is a
/// file that names the directory which it is in: git refuses an empty one.
const EXECUTED: &[(&str, StandIn)] = &[
    ("config", StandIn::Text("")),
    ("config.worktree", StandIn::Text("")),
    ("hooks", StandIn::Directory),
    ("info/attributes", StandIn::Text("")),
    ("commondir", StandIn::Text(".\n")),
];

/// Of those below `worktrees`: without the other two it is none.
const EXECUTED_OF_WORKTREE: &[(&str, StandIn)] = &[
    ("config.worktree", StandIn::Text("")),
    ("commondir", StandIn::None),
    ("gitdir", StandIn::None),
];

#[derive(Clone, Copy)]
enum StandIn {
    None,
    Directory,
    Text(&'static str),
}

impl StandIn {
    fn kind(self) -> Option<Kind> {
        match self {
            Self::None => None,
            Self::Directory => Some(Kind::Directory),
            Self::Text(text) => Some(Kind::File(text.into())),
        }
    }
}

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
    pub executed: Vec<Executed>,
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
    let mut executed = Vec::new();
    let mut add = |dir: &Path, names: &[(&str, StandIn)]| {
        let path = |name: &str| dir.join(name);
        executed.extend(
            names.iter().map(|(name, kind)| Executed { path: path(name), stand_in: kind.kind() }),
        );
    };
    add(&common, EXECUTED);
    let mut has_modules = false;
    for (inner, names) in [("modules", EXECUTED), ("worktrees", EXECUTED_OF_WORKTREE)] {
        let dir = common.join(inner);
        let mut found = Vec::new();
        let mut keep = |name: &OsStr| found.push(name.to_owned());
        // Without the directory there is nothing in it to protect.
        files.names(&dir, usize::MAX, &mut keep).unwrap_or_default();
        found.sort();
        has_modules |= inner == "modules" && !found.is_empty();
        for name in found {
            add(&dir.join(name), names);
        }
    }
    if !has_modules {
        // `git fetch` outside enters what it finds there.
        add(&common, &[("modules", StandIn::Directory)]);
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

    fn has(found: &GitDir, path: &str) -> bool {
        found.executed.iter().any(|executed| executed.path == Path::new(path))
    }

    #[test]
    fn a_linked_worktree_leads_to_the_main_repository() {
        let found = git_dir(Path::new("/w"), &worktree("/w/.git\n")).unwrap();
        assert_eq!(found.common, Path::new("/m/.git"));
        assert!(has(&found, "/m/.git/hooks"));
        assert!(has(&found, "/m/.git/worktrees/w/commondir"));
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
        assert!(has(&found, "/p/.git/modules/sub/hooks"));
        assert!(!has(&found, "/p/.git/modules"));
    }
}
