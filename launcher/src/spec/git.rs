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
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
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
    // Whoever enters the directory, or pushes to it, is in that one instead. Not if it is empty.
    (".git", StandIn::Directory),
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

/// As many repositories in others are looked at: each is some mounts. Of one more it is said.
pub(super) const MOST_REPOSITORIES: usize = 1000;

/// A larger index is not read.
const LARGEST_INDEX: usize = 256 << 20;

/// Nor a larger configuration.
const LARGEST_CONFIG: usize = 1 << 20;

/// As many directories are looked at below one `modules`, and names in each of them: an agent
/// may have made any number.
const MOST_MODULES: usize = 1000;

/// As many linked worktrees are protected one by one: each is some mounts.
const MOST_WORKTREES: usize = 200;

/// More hooks than git has.
const MOST_HOOKS: usize = 1000;

/// Directories of git's own, in which it makes no git directory.
const NO_GIT_DIR_IN: &[&str] =
    &["objects", "refs", "logs", "hooks", "info", "modules", "worktrees", "branches", "remotes"];

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
        // An agent may have taken away what makes it one, to have it back at the next start.
        let bare = looks_bare(root, files).then(|| root.to_owned());
        let common = match &trail.own {
            // As git does: in an empty `.git` it looks no further.
            Some(own) if is_dir => match pointer::is_git_dir(own, files) {
                false if pointer::is_git_dir(root, files) => bare.clone(),
                _ => Some(dot_git),
            },
            Some(_) => trail.believed(root, files).or_else(|| bare.clone()),
            // Without a worktree.
            None => bare.clone(),
        };
        let links = trail
            .own
            .as_ref()
            .map_or_else(Vec::new, |own| links(root, own, common.as_deref().unwrap_or(own), files));
        let Some(common) = common else {
            return Self { ways: trail.ways, links, ..Self::default() };
        };
        let named = trail.common.filter(|named| *named != common && is_in(named, root));
        let ruled = [Some(common.clone()), named, bare.filter(|bare| *bare != common)];
        let mut ruled: Vec<PathBuf> = ruled.into_iter().flatten().collect();
        let mut rules = Rules { files, own: trail.own.as_deref(), found: Vec::new() };
        for dir in &ruled {
            rules.git_dir(dir);
        }
        if trail.own.is_some() && !(is_dir && common == root) {
            // What it leads to has rules of its own.
            rules.found.retain(|rule| rule.path != root.join(".git"));
        }
        // In a bare one anything may be, also what no rule is about.
        ruled.retain(|dir| dir != root);
        let dir = Some(GitDir { common, rules: rules.found });
        Self { dir, ways: trail.ways, links, ruled }
    }

    /// Whether there are rules for what is in this directory.
    pub fn rules(&self, dir: &Path) -> bool {
        self.ruled.iter().any(|ruled| is_in(dir, ruled))
    }
}

/// Whether a directory is a repository without a worktree, or could be made one again by whoever
/// took a part of it away: its configuration, which git has written, stays in its place.
fn looks_bare(root: &Path, files: &dyn Files) -> bool {
    let is_dir = |name| files.find(&root.join(name)).is_ok_and(|found| found.stat.is_dir());
    let has_head = files.lstat(&root.join("HEAD")).is_ok_and(|stat| !stat.is_dir());
    if usize::from(has_head) + usize::from(is_dir("objects")) + usize::from(is_dir("refs")) >= 2 {
        return true;
    }
    let config = files.read_whole(&root.join("config"), LARGEST_CONFIG).unwrap_or_default();
    String::from_utf8_lossy(&config).to_ascii_lowercase().contains("repositoryformatversion")
}

/// Where the index of the worktree at `root` says that there are other repositories; its git
/// directory is `own`, and the repository's `common`.
fn links(root: &Path, own: &Path, common: &Path, files: &dyn Files) -> Vec<PathBuf> {
    let Ok(text) = files.read_whole(&own.join("index"), LARGEST_INDEX) else { return Vec::new() };
    let is_sha256 = || {
        let config = files.read_whole(&common.join("config"), LARGEST_CONFIG).unwrap_or_default();
        is_sha256(&String::from_utf8_lossy(&config))
    };
    index::links(&text, MOST_REPOSITORIES + 1, is_sha256)
        .into_iter()
        .map(|path| root.join(path))
        .collect()
}

/// Whether a repository's objects are named by SHA-256 (git-config(1), `extensions.objectFormat`).
fn is_sha256(config: &str) -> bool {
    extensions_say(config, &["objectformat=sha256"])
}

/// Collects rules.
struct Rules<'f> {
    files: &'f dyn Files,
    /// The git directory of the worktree that is the project.
    own: Option<&'f Path>,
    found: Vec<Rule>,
}

impl Rules<'_> {
    fn git_dir(&mut self, dir: &Path) {
        self.add(dir, EXECUTED);
        self.hooks(&dir.join("hooks"));
        self.add(dir, &[("modules", StandIn::Directory)]);
        self.modules(dir);
        self.worktrees(dir);
    }

    fn add(&mut self, dir: &Path, names: &[(&str, StandIn)]) {
        let rule = |&(name, stand_in): &(&str, StandIn)| {
            let what = RuleKind::Executed(stand_in.kind());
            Rule { path: dir.join(name), what }
        };
        self.found.extend(names.iter().map(rule));
    }

    /// Hooks that are symlinks: git executes what is at the end.
    fn hooks(&mut self, hooks: &Path) {
        for name in self.names(hooks, MOST_HOOKS).unwrap_or_default() {
            let path = hooks.join(&name);
            let is_link = || self.files.lstat(&path).is_ok_and(|stat| stat.is_symlink());
            if name.as_bytes().ends_with(b".sample") || !is_link() {
                continue;
            }
            // What is missing must not be made; what cannot be looked at must not be passed over.
            let is_script = match self.files.find(&path) {
                Ok(found) => found.stat.is_file(),
                Err(errno) => errno != Errno::LOOP,
            };
            if is_script {
                let what = RuleKind::Executed(StandIn::Text("").kind());
                self.found.push(Rule { path, what });
            }
        }
    }

    /// Git directories of linked worktrees: where there are too many, or not to be seen, the
    /// place of them is read-only as a whole.
    fn worktrees(&mut self, dir: &Path) {
        let worktrees = dir.join("worktrees");
        let Some(names) = self.names(&worktrees, MOST_WORKTREES) else {
            self.add(dir, &[("worktrees", StandIn::Directory)]);
            if let Some(own) = self.own.filter(|own| own.parent() == Some(&worktrees)) {
                self.found.push(Rule { path: own.to_owned(), what: RuleKind::Open });
                self.worktree(own);
            }
            return;
        };
        self.found.push(Rule { path: worktrees.clone(), what: RuleKind::Pinned });
        for name in names {
            self.worktree(&worktrees.join(name));
        }
    }

    fn worktree(&mut self, worktree: &Path) {
        self.add(worktree, EXECUTED_OF_WORKTREE);
        self.modules(worktree);
    }

    /// Git directories of submodules. `git fetch` outside enters those that a commit names,
    /// so that a new one would be executed: only what is there is written to.
    fn modules(&mut self, dir: &Path) {
        let modules = dir.join("modules");
        let mut found = Vec::new();
        if !self.git_dirs(&modules, &[], &mut 0, &mut found) {
            return;
        }
        for dir in found {
            self.found.push(Rule { path: dir.clone(), what: RuleKind::Open });
            self.git_dir(&dir);
        }
    }

    /// The git directories below one; a submodule's name may have slashes, and may lead into
    /// another's. False if there is too much to look at, or something cannot be seen.
    fn git_dirs(
        &self,
        dir: &Path,
        except: &[&str],
        looked_at: &mut usize,
        found: &mut Vec<PathBuf>,
    ) -> bool {
        let Some(names) = self.names(dir, MOST_MODULES) else { return false };
        for name in names {
            let path = dir.join(&name);
            // A symlink leads somewhere else, where no rule would reach: it stays read-only.
            let is_dir = self.files.lstat(&path).is_ok_and(|stat| stat.is_dir());
            if !is_dir || except.iter().any(|it| name == *it) {
                continue;
            }
            *looked_at += 1;
            if *looked_at > MOST_MODULES {
                return false;
            }
            let has = |name| self.files.lstat(&path.join(name)).is_ok_and(|stat| !stat.is_dir());
            let is_git_dir = has("HEAD") || has("config");
            if is_git_dir {
                found.push(path.clone());
            }
            let except = if is_git_dir { NO_GIT_DIR_IN } else { &[] };
            if !self.git_dirs(&path, except, looked_at, found) {
                return false;
            }
        }
        true
    }

    /// The names in a directory, in order; none if it does not exist. `None` if there are more
    /// than `most`, or it cannot be read: an agent may have taken the right to that away, for
    /// as long as a start takes.
    fn names(&self, dir: &Path, most: usize) -> Option<Vec<OsString>> {
        let mut found = Vec::new();
        let mut keep = |name: &OsStr| found.push(name.to_owned());
        match self.files.names(dir, most, &mut keep) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(_) => return None,
        }
        found.sort();
        Some(found)
    }
}

#[cfg(test)]
mod tests;
