//! Where a repository's own files are. Git is never run: its configuration could
//! make it execute anything, and the agent can write some of it.

mod index;
mod pointer;

pub(super) use pointer::Way;

use crate::host::Files;
use crate::paths::is_in;
use pointer::Trail;
use remount_broker::git::extensions_say;
use remount_broker::placeholder::Kind;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// One path of a git directory, and what is to become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// Where it is, or could be made.
    pub path: PathBuf,
    /// What holds for it.
    pub what: RuleKind,
}

/// What holds for a path of a git directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RuleKind {
    /// It makes git run something, or says where git looks for what it runs: it cannot be
    /// changed. With what can stand there without changing what git does, if it does not exist.
    Executed(Option<Kind>),
    /// A git directory in one of those: it is written to like the one around.
    Open,
    /// A directory in which git makes such: a link must not take its place.
    Pinned,
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
    // Remotes as they were written before git had them in its configuration: whoever pushes
    // to one in the project executes its hooks.
    ("remotes", StandIn::Directory),
    ("branches", StandIn::Directory),
    ("lazygit.yml", StandIn::Text("")),
];

/// Of those below `worktrees`: without the last two it is none. `git worktree remove` refuses
/// one that has a directory of submodules.
const EXECUTED_OF_WORKTREE: &[(&str, StandIn)] = &[
    ("config.worktree", StandIn::Text("")),
    ("modules", StandIn::Text("")),
    ("commondir", StandIn::None),
    ("gitdir", StandIn::None),
];

/// A larger index is not read.
const LARGEST_INDEX: usize = 256 << 20;

/// Nor a larger configuration.
const LARGEST_CONFIG: usize = 1 << 20;

/// As many directories are looked at below one `modules`: an agent may have made any number.
const MOST_MODULES: usize = 1000;

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
    /// What must not be changed, existing or not, and what in it may; parents first.
    pub rules: Vec<Rule>,
}

impl GitDir {
    /// What of it is to be a target of its own. Where anything in the worktree could have
    /// been named, it stays a part of that: else `ro workspace` would leave it writable.
    pub fn target(&self, root: &Path) -> Option<&Path> {
        let is_part = is_in(&self.common, root) && self.common != root.join(".git");
        (!is_part).then_some(&self.common)
    }
}

/// What is to be held at one worktree.
#[derive(Debug, Default)]
pub(super) struct Repository {
    /// Its git directory, if that can be trusted to be one.
    pub dir: Option<GitDir>,
    /// Paths that git follows from there: where they lead must not change.
    pub ways: Vec<Way>,
    /// Where its index says that other repositories are: git looks into each of them, and
    /// executes what its configuration says.
    pub links: Vec<PathBuf>,
    /// Directories that `dir` has rules for.
    ruled: Vec<PathBuf>,
}

impl Repository {
    /// Finds what belongs to the worktree at `root`.
    ///
    /// `.git` may be a file or a symlink that names a directory anywhere; the agent can
    /// write it, so what it names is believed only if that directory looks like git's and names
    /// this worktree in turn, or is in the worktree: there nothing is granted, only protected.
    pub fn find(root: &Path, files: &dyn Files) -> Self {
        let dot_git = root.join(".git");
        let trail = Trail::follow(root, files);
        let is_dir = trail.own.as_ref() == Some(&dot_git);
        let common = match &trail.own {
            Some(_) if is_dir => Some(dot_git),
            Some(_) => trail.believed(root, files),
            // Without a worktree.
            None => pointer::is_git_dir(root, files).then(|| root.to_owned()),
        };
        let links = trail
            .own
            .as_ref()
            .map_or_else(Vec::new, |own| links(root, own, common.as_deref().unwrap_or(own), files));
        let Some(common) = common else {
            return Self { ways: trail.ways, links, ..Self::default() };
        };
        let named = trail.common.filter(|named| *named != common && is_in(named, root));
        let ruled: Vec<PathBuf> = [common.clone()].into_iter().chain(named).collect();
        let mut rules = Rules { files, found: Vec::new() };
        for dir in &ruled {
            rules.git_dir(dir);
        }
        let dir = Some(GitDir { common, rules: rules.found });
        Self { dir, ways: trail.ways, links, ruled }
    }

    /// Whether there are rules for what is in this directory.
    pub fn rules(&self, dir: &Path) -> bool {
        self.ruled.iter().any(|ruled| is_in(dir, ruled))
    }
}

/// Where the index of the worktree at `root` says that there are other repositories; its git
/// directory is `own`, and the repository's `common`.
fn links(root: &Path, own: &Path, common: &Path, files: &dyn Files) -> Vec<PathBuf> {
    let Ok(text) = files.read_whole(&own.join("index"), LARGEST_INDEX) else { return Vec::new() };
    let is_sha256 = || {
        let config = files.read_whole(&common.join("config"), LARGEST_CONFIG).unwrap_or_default();
        is_sha256(&String::from_utf8_lossy(&config))
    };
    index::links(&text, is_sha256).into_iter().map(|path| root.join(path)).collect()
}

/// Whether a repository's objects are named by SHA-256 (git-config(1), `extensions.objectFormat`).
fn is_sha256(config: &str) -> bool {
    extensions_say(config, &["objectformat=sha256"])
}

/// Collects rules.
struct Rules<'f> {
    files: &'f dyn Files,
    found: Vec<Rule>,
}

impl Rules<'_> {
    fn git_dir(&mut self, dir: &Path) {
        self.add(dir, EXECUTED);
        self.add(dir, &[("modules", StandIn::Directory)]);
        self.modules(dir);
        let worktrees = dir.join("worktrees");
        self.found.push(Rule { path: worktrees.clone(), what: RuleKind::Pinned });
        for name in self.names(&worktrees) {
            let worktree = worktrees.join(name);
            self.add(&worktree, EXECUTED_OF_WORKTREE);
            self.modules(&worktree);
        }
    }

    fn add(&mut self, dir: &Path, names: &[(&str, StandIn)]) {
        let rule = |&(name, stand_in): &(&str, StandIn)| {
            let what = RuleKind::Executed(stand_in.kind());
            Rule { path: dir.join(name), what }
        };
        self.found.extend(names.iter().map(rule));
    }

    /// Git directories of submodules. `git fetch` outside enters those that a commit names,
    /// so that a new one would be executed: only what is there is written to.
    fn modules(&mut self, dir: &Path) {
        let modules = dir.join("modules");
        let mut found = Vec::new();
        if !self.git_dirs(&modules, &mut 0, &mut found) {
            return;
        }
        for dir in found {
            self.found.push(Rule { path: dir.clone(), what: RuleKind::Open });
            self.git_dir(&dir);
        }
    }

    /// The git directories below one; a submodule's name may have slashes. False if there
    /// is too much to look at.
    fn git_dirs(&self, dir: &Path, looked_at: &mut usize, found: &mut Vec<PathBuf>) -> bool {
        for name in self.names(dir) {
            *looked_at += 1;
            if *looked_at > MOST_MODULES {
                return false;
            }
            let path = dir.join(name);
            // A symlink leads somewhere else, where no rule would reach: it stays read-only.
            if !self.files.lstat(&path).is_ok_and(|stat| stat.is_dir()) {
                continue;
            }
            if self.files.lstat(&path.join("HEAD")).is_ok() {
                found.push(path);
            } else if !self.git_dirs(&path, looked_at, found) {
                return false;
            }
        }
        true
    }

    /// The names in a directory, in order.
    fn names(&self, dir: &Path) -> Vec<OsString> {
        let mut found = Vec::new();
        let mut keep = |name: &OsStr| found.push(name.to_owned());
        // Without the directory there is nothing in it to protect.
        self.files.names(dir, usize::MAX, &mut keep).unwrap_or_default();
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests;
