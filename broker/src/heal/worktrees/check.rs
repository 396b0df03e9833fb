//! What git writes into the git directory of a worktree, and what is something else.

use crate::git::extensions_say;
use crate::sys::mount;
use rustix::fs::{AtFlags, CWD, FileType, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Says where the worktree's `.git` is (gitrepository-layout(5)).
pub(super) const GITDIR: &str = "gitdir";

/// Says where the repository is whose configuration holds.
const COMMONDIR: &str = "commondir";

/// Configuration of the worktree alone.
const CONFIG: &str = "config.worktree";

/// Files that are nobody else's: what is written to them decides where git goes, or goes
/// where they lead.
const FILES: [&str; 6] = [GITDIR, COMMONDIR, CONFIG, "HEAD", "ORIG_HEAD", "index"];

/// Directories of git's own.
const DIRECTORIES: [&str; 2] = ["logs", "refs"];

/// What no git directory has when it is made, and git executes: commands of a rebase, and git
/// directories of submodules.
const LATER: [&str; 3] = ["modules", "rebase-merge", "rebase-apply"];

/// No pointer is longer than a path (`PATH_MAX`) and a few words.
const LONGEST: usize = 4096 + 16;

/// As much is read of a repository's configuration.
const LARGEST: usize = 1 << 18;

/// That worktrees have configuration of their own (git-config(1), `extensions.worktreeConfig`).
const HAS_CONFIG: [&str; 5] = [
    "worktreeconfig",
    "worktreeconfig=true",
    "worktreeconfig=yes",
    "worktreeconfig=on",
    "worktreeconfig=1",
];

/// The first of what in a git directory in `worktrees` is not as git makes it; with `is_new` also
/// what git makes later only. What is missing may still come.
pub(super) fn changed(git_dir: &Path, worktrees: &Path, is_new: bool) -> Option<OsString> {
    let dir = mount::open_exact(CWD, git_dir).ok()?;
    let kind_of = |name: &str| {
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        // Another name may be one that can be written to.
        let is_linked = is_new && stat.st_nlink > 1;
        Some((FileType::from_raw_mode(stat.st_mode), is_linked))
    };
    let is_no_file =
        |name: &&&str| kind_of(name).is_some_and(|it| it != (FileType::RegularFile, false));
    let is_no_directory =
        |name: &&&str| kind_of(name).is_some_and(|(kind, _)| kind != FileType::Directory);
    let is_early = |name: &&&str| is_new && kind_of(name).is_some();
    let mut found = FILES.iter().find(is_no_file);
    found = found.or_else(|| DIRECTORIES.iter().find(is_no_directory));
    found = found.or_else(|| LATER.iter().find(is_early));
    let repository = worktrees.parent()?;
    let is_planted = || is_early(&&CONFIG) && !is_copied(git_dir, repository);
    let leads_elsewhere = || match read(CWD, &git_dir.join(COMMONDIR)) {
        Ok(text) => !text.is_empty() && named(&text, git_dir).as_deref() != Some(repository),
        Err(errno) => errno != Errno::NOENT,
    };
    let name = match found {
        Some(name) => name,
        None if is_planted() => CONFIG,
        None if leads_elsewhere() => COMMONDIR,
        None => return None,
    };
    Some(name.into())
}

/// Whether the worktree's own configuration is the repository's, which git copies where the
/// repository has such (git-worktree(1)): it may be what stands in for one, and empty.
fn is_copied(git_dir: &Path, repository: &Path) -> bool {
    let size = |dir: &Path| {
        let stat = rustix::fs::statat(CWD, dir.join(CONFIG), AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or(0, |stat| stat.st_size)
    };
    let has_such = || {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let config = read_with(CWD, &repository.join("config"), resolve, LARGEST);
        config.is_ok_and(|config| extensions_say(&String::from_utf8_lossy(&config), &HAS_CONFIG))
    };
    size(repository) > 0 || size(git_dir) == 0 && has_such()
}

/// What a file says that is no link, and on the way to which there is none.
///
/// # Errors
/// As `openat2(2)` and `read(2)`; `EINVAL` if it is no regular file, `EFBIG` if it is longer than
/// a pointer.
pub(super) fn read(dir: BorrowedFd<'_>, path: &Path) -> Result<Vec<u8>, Errno> {
    read_with(dir, path, ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS, LONGEST)
}

fn read_with(
    dir: BorrowedFd<'_>,
    path: &Path,
    resolve: ResolveFlags,
    most: usize,
) -> Result<Vec<u8>, Errno> {
    let file = mount::open_regular(dir, path, resolve)?;
    let mut text = vec![0; most + 1];
    let length = rustix::io::read(&file, &mut text)?;
    text.truncate(length);
    if length > most { Err(Errno::FBIG) } else { Ok(text) }
}

/// The path that a pointer in `git_dir` names: absolute, and nothing in it leads upwards.
pub(super) fn named(text: &[u8], git_dir: &Path) -> Option<PathBuf> {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    if line.is_empty() || line.iter().any(|byte| matches!(byte, b'\n' | 0)) {
        return None;
    }
    let mut path = PathBuf::new();
    for part in git_dir.join(OsStr::from_bytes(line)).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    Some(path)
}

/// Whether the file `pointer` below `place`, on the host, says that `git_dir` belongs to it. On
/// no other filesystem than that of the place: somebody inside chooses the path, and one may
/// take for ever to answer.
pub(super) fn leads_back(place: BorrowedFd<'_>, pointer: &Path, git_dir: &Path) -> bool {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let Ok(text) = read_with(place, pointer, resolve, LONGEST) else { return false };
    let own = text.strip_prefix(b"gitdir: ").and_then(|line| named(line, Path::new("/")));
    own.is_some_and(|own| own.file_name() == git_dir.file_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn pointers_are_paths_without_detours() {
        let named = |text: &[u8]| named(text, Path::new("/r/.git/worktrees/x"));
        assert_eq!(named(b"/w/.git\n"), Some("/w/.git".into()));
        assert_eq!(named(b"../..\n"), Some("/r/.git".into()));
        assert_eq!(named(b"../../../../../../w/./.git"), Some("/w/.git".into()));
        for none in [&b""[..], b"\n", b"/w\n\n", b"/w\0"] {
            assert_eq!(named(none), None);
        }
    }

    #[test]
    fn what_git_does_not_make_is_found() {
        let root = std::env::temp_dir().join(format!("remount-worktree.{}", std::process::id()));
        let (worktrees, own) = (root.join("worktrees"), root.join("worktrees/x"));
        std::fs::create_dir_all(own.join("logs")).unwrap();
        let changed = |is_new| changed(&own, &worktrees, is_new);
        assert_eq!(changed(true), None);
        std::fs::write(own.join("commondir"), "../..\n").unwrap();
        assert_eq!(changed(true), None);
        std::fs::write(own.join("commondir"), "../../..\n").unwrap();
        assert_eq!(changed(false), Some("commondir".into()));
        std::fs::write(own.join("commondir"), "../..").unwrap();
        for (name, is_always_said) in
            [("config.worktree", true), ("HEAD", true), ("modules", false)]
        {
            symlink(root.join("elsewhere"), own.join(name)).unwrap();
            assert_eq!(changed(true), Some(name.into()));
            assert_eq!(changed(false).is_some(), is_always_said, "{name}");
            std::fs::remove_file(own.join(name)).unwrap();
        }
        std::fs::write(own.join("config.worktree"), "").unwrap();
        std::fs::write(root.join("config.worktree"), "").unwrap();
        assert_eq!(changed(true), Some("config.worktree".into()));
        std::fs::write(root.join("config"), "[extensions]\n\tworktreeConfig = true\n").unwrap();
        assert_eq!(changed(true), None, "git copies what stands in for the repository's");
        std::fs::write(own.join("config.worktree"), "[core]").unwrap();
        assert_eq!((changed(true), changed(false)), (Some("config.worktree".into()), None));
        std::fs::write(root.join("config.worktree"), "[core]").unwrap();
        assert_eq!(changed(true), None);
        std::fs::hard_link(own.join("commondir"), root.join("other")).unwrap();
        assert_eq!((changed(true), changed(false)), (Some("commondir".into()), None));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let root = std::env::temp_dir().join(format!("remount-fifo.{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let (fifo, file) = (root.join("fifo"), root.join("file"));
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, 0o600.into(), 0).unwrap();
        std::fs::write(&file, "x").unwrap();
        let told = init(CreateFlags::NONBLOCK).unwrap();
        add_watch(&told, &root, WatchFlags::OPEN).unwrap();
        let is_told = || rustix::io::read(&told, &mut [0; 4096]).is_ok();
        assert_eq!(read(CWD, &fifo), Err(Errno::INVAL));
        assert!(!is_told());
        assert_eq!(read(CWD, &file).unwrap(), b"x");
        assert!(is_told());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_worktree_of_the_host_leads_back() {
        let root = std::env::temp_dir().join(format!("remount-leads.{}", std::process::id()));
        std::fs::create_dir_all(root.join("w")).unwrap();
        let place = mount::open_exact(CWD, &root).unwrap();
        let leads = |name: &str| {
            leads_back(place.as_fd(), Path::new("w/.git"), &Path::new("/r/worktrees").join(name))
        };
        assert!(!leads("x"));
        std::fs::write(root.join("w/.git"), "gitdir: /other/.git/worktrees/x\n").unwrap();
        assert!(leads("x") && !leads("y"));
        std::fs::remove_dir_all(root).unwrap();
    }
}
