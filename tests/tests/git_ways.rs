//! What git follows on its own: pointers, and what an index names. None of it can be made to
//! lead elsewhere, since git outside executes what it finds there.

use remount_tests::{Answer, Inside, LIMIT, Sandbox, bin, uid, wait_until};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Neither removed nor renamed: the name stays what it is.
#[track_caller]
fn stays(inside: &mut Inside, path: &str) {
    inside.act(["unlink", path]).errno("EBUSY");
    inside.act(["rename", path, "elsewhere"]).errno("EBUSY");
    inside.act(["rename", "ordinary", path]).errno("EBUSY");
}

#[test]
fn a_link_on_the_way_of_a_pointer_stays() {
    let prepare = |what: &str| {
        let sandbox = Sandbox::git();
        let project = sandbox.project();
        std::fs::create_dir(project.join("d")).unwrap();
        symlink("d", project.join("dl")).unwrap();
        symlink("d", project.join("other")).unwrap();
        std::fs::write(project.join("ordinary"), "").unwrap();
        std::fs::rename(project.join(".git"), project.join("d/real")).unwrap();
        if what == "gitdir" {
            std::fs::write(project.join(".git"), "gitdir: dl/real\n").unwrap();
        } else {
            std::fs::create_dir(project.join(".git")).unwrap();
            for name in ["HEAD", "index"] {
                std::fs::rename(project.join("d/real").join(name), project.join(".git").join(name))
                    .unwrap();
            }
            std::fs::write(project.join("d/real/HEAD"), "ref: refs/heads/main\n").unwrap();
            std::fs::write(project.join(".git/commondir"), "../dl/real\n\r\n").unwrap();
        }
        sandbox.git_prints(&project, &["status", "--short"]);
        sandbox
    };
    for what in ["gitdir", "commondir"] {
        println!("{what}");
        let sandbox = prepare(what);
        let mut inside = sandbox.remount().serve();
        stays(&mut inside, "dl");
        inside.act(["write", "d/real/config", "x"]).errno("EROFS");
        inside.act(["create", "d/real/hooks/post-checkout"]).errno("EROFS");
        for path in ["d", "d/real"] {
            inside.act(["rename", path, &format!("{path}-x")]).errno("EBUSY");
        }
        inside.act(["unlink", "other"]).ok();
        inside.end().success();
    }
}

/// A directory from which a way goes up again: a link in its place would lead it elsewhere.
#[test]
fn a_directory_on_the_way_of_a_pointer_stays() {
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    for dir in ["turn", "other"] {
        std::fs::create_dir(project.join(dir)).unwrap();
    }
    std::fs::rename(project.join(".git"), project.join("real")).unwrap();
    std::fs::write(project.join(".git"), "gitdir: turn/../real\n").unwrap();
    let mut inside = sandbox.remount().serve();
    inside.act(["create", "turn/file"]).ok();
    inside.act(["rename", "turn", "elsewhere"]).errno("EBUSY");
    inside.act(["rename", "other", "elsewhere"]).ok();
    assert_eq!(inside.run(["git", "commit", "-q", "--allow-empty", "-m", "x"]).0, 0);
    inside.end().success();
}

/// The worktree's pointer leads to the main repository by way of a link in the worktree.
#[test]
fn a_link_on_the_way_of_a_linked_worktree_stays() {
    let sandbox = Sandbox::git();
    let tree = sandbox.outside().join("tree");
    sandbox.git_prints(&sandbox.project(), &["worktree", "add", "-q", text(&tree)]);
    symlink(sandbox.project(), tree.join("up")).unwrap();
    std::fs::write(tree.join("ordinary"), "").unwrap();
    std::fs::write(tree.join(".git"), "gitdir: up/.git/worktrees/tree\n").unwrap();
    sandbox.git_prints(&tree, &["status", "--short"]);
    let mut inside = sandbox.remount().cwd(&tree).serve();
    stays(&mut inside, "up");
    assert_eq!(inside.run(["git", "commit", "-q", "--allow-empty", "-m", "x"]).0, 0);
    inside.end().success();
}

/// What a pointer names and git would not take for its own cannot be made to look so.
#[test]
fn what_is_named_and_is_no_repository_does_not_become_one() {
    for is_there in [false, true] {
        let sandbox = Sandbox::new();
        let project = sandbox.project();
        std::fs::write(project.join(".git"), "gitdir: st\n").unwrap();
        if is_there {
            std::fs::create_dir_all(project.join("st/objects")).unwrap();
        }
        let mut inside = sandbox.remount().serve();
        inside.act(["create", "st/HEAD"]).errno("EROFS");
        inside.act(["rename", "st", "elsewhere"]).errno("EBUSY");
        inside.act(["create", "ordinary"]).ok();
        inside.end().success();
        assert_eq!(project.join("st").exists(), is_there);
    }
}

/// A repository without a worktree, as the project.
#[test]
fn a_bare_repository_is_held() {
    for profile in ["default", "codex"] {
        let sandbox = Sandbox::new();
        let project = sandbox.project();
        sandbox.git_prints(&project, &["init", "-q", "--bare", "."]);
        std::fs::write(project.join("object"), "text").unwrap();
        let run = sandbox.host(bin("remount-run")).separated().cwd(&project);
        let mut inside = run.options(["--profile", profile]).serve();
        for name in ["config", "config.worktree", "commondir", "info/attributes"] {
            inside.act(["write", name, "x"]).errno("EROFS");
        }
        inside.act(["create", "hooks/post-receive"]).errno("EROFS");
        let renamed = inside.act(["rename", "hooks", "x"]);
        assert_eq!(renamed, Answer::Errno("EBUSY".into()));
        let (code, printed) = inside.run(["git", "hash-object", "-w", "object"]);
        assert_eq!(code, 0, "{printed}");
        inside.end().success();
    }
}

/// Git prefers a `.git` in a repository without a worktree to the repository itself.
#[test]
fn no_repository_is_made_in_a_git_directory() {
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    let bare = sandbox.outside().join("p.git");
    let tree = sandbox.outside().join("tree");
    sandbox.git_prints(&project, &["clone", "-q", "--bare", ".", text(&bare)]);
    sandbox.git_prints(&bare, &["worktree", "add", "-q", "-b", "tree", text(&tree)]);
    for (cwd, git_dir) in [(&project, &project.join(".git")), (&tree, &bare), (&bare, &bare)] {
        let mut inside = sandbox.remount().cwd(cwd).serve();
        // A second one finds the directory that stands there for the first.
        let mut second = sandbox.remount().cwd(cwd).serve();
        for one in [&mut inside, &mut second] {
            one.act(["mkdir", text(&git_dir.join(".git/objects"))]).errno("EROFS");
            one.act(["rename", text(&git_dir.join(".git")), text(&git_dir.join("x"))])
                .errno("EBUSY");
            one.act(["write", text(&git_dir.join("config")), "x"]).errno("EROFS");
            one.act(["create", text(&git_dir.join("ordinary"))]).ok();
            one.act(["unlink", text(&git_dir.join("ordinary"))]).ok();
        }
        second.end().success();
        let dir = sandbox.git_prints(git_dir, &["rev-parse", "--absolute-git-dir"]);
        assert_eq!(dir.trim_end(), text(git_dir));
        let push = ["push", "-q", text(&bare), "HEAD:refs/heads/new"];
        sandbox.git_prints(&project, &push);
        let new = sandbox.outside().join("new");
        sandbox.git_prints(git_dir, &["worktree", "add", "-q", "--detach", text(&new)]);
        sandbox.git_prints(git_dir, &["worktree", "remove", text(&new)]);
        inside.end().success();
        assert!(!git_dir.join(".git").exists());
    }
}

/// What an earlier sandbox could still change does not hide that there is a repository.
#[test]
fn a_bare_repository_is_one_without_some_of_it() {
    for (profile, taken) in
        [("default", &["HEAD", "refs"][..]), ("codex", &["HEAD"]), ("codex", &[])]
    {
        let sandbox = Sandbox::new();
        let project = sandbox.project();
        sandbox.git_prints(&project, &["init", "-q", "--bare", "."]);
        for name in taken {
            std::fs::rename(project.join(name), project.join(format!("{name}-x"))).unwrap();
        }
        if taken.is_empty() {
            std::fs::create_dir(project.join(".git")).unwrap();
        }
        let run = sandbox.host(bin("remount-run")).separated().cwd(&project);
        let mut inside = run.options(["--profile", profile]).serve();
        inside.act(["write", "config", "x"]).errno("EROFS");
        inside.act(["create", "hooks/post-receive"]).errno("EROFS");
        inside.act(["create", ".git/HEAD"]).errno("EROFS");
        inside.act(["create", "objects/ordinary"]).ok();
        inside.end().success();
    }
    // A worktree is none for having a file of that name.
    let sandbox = Sandbox::git();
    std::fs::write(sandbox.project().join("config"), "x = 1").unwrap();
    std::fs::create_dir(sandbox.project().join("objects")).unwrap();
    let mut inside = sandbox.remount().serve();
    inside.act(["write", "config", "x"]).ok();
    inside.act(["mkdir", "hooks"]).ok();
    inside.end().success();
}

/// The common git directory is in the project, and not in `.git`.
#[test]
fn where_git_is_read_only_what_is_common_is_held() {
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    std::fs::rename(project.join(".git"), project.join("real")).unwrap();
    std::fs::create_dir(project.join(".git")).unwrap();
    std::fs::copy(project.join("real/HEAD"), project.join(".git/HEAD")).unwrap();
    std::fs::write(project.join(".git/commondir"), "../real\n").unwrap();
    sandbox.git_prints(&project, &["status", "--short"]);
    let run = sandbox.host(bin("remount-run")).separated().cwd(&project);
    let mut inside = run.options(["--profile", "codex"]).serve();
    for name in [".git/HEAD", "real/config", "real/hooks/post-commit"] {
        inside.act(["write", name, "x"]).errno("EROFS");
    }
    inside.act(["create", "ordinary"]).ok();
    inside.end().success();
}

/// A hook may be a link to a script of the project: that is what git executes.
#[test]
fn what_a_hook_leads_to_is_held() {
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    std::fs::create_dir(project.join("scripts")).unwrap();
    for name in ["scripts/hook", "scripts/other"] {
        std::fs::write(project.join(name), "").unwrap();
    }
    std::fs::create_dir_all(project.join(".git/hooks")).unwrap();
    for (name, end) in [
        ("pre-commit", "../../scripts/hook"),
        ("pre-push", "../../scripts/missing"),
        ("post-commit", "/dev/null"),
        ("lib", "../../scripts"),
        ("circle", "circle"),
    ] {
        symlink(end, project.join(".git/hooks").join(name)).unwrap();
    }
    let mut inside = sandbox.remount().serve();
    for name in ["scripts/hook", "scripts/missing"] {
        inside.act(["write", name, "x"]).errno("EROFS");
        inside.act(["rename", "scripts/other", name]).errno("EBUSY");
    }
    inside.act(["rename", "scripts", "x"]).errno("EBUSY");
    inside.act(["write", "scripts/other", "x"]).ok();
    inside.end().success();
    assert!(!project.join("scripts/missing").exists());
}

/// Whoever can write a pointer can make it long, or lead to itself.
#[test]
fn an_odd_pointer_is_no_obstacle() {
    for pointer in [format!("gitdir: {}\n", "a/".repeat(2000)), "gitdir: .git\n".to_owned()] {
        let sandbox = Sandbox::new();
        let project = sandbox.project();
        std::fs::write(project.join(".git"), &pointer).unwrap();
        let mut inside = sandbox.remount().serve();
        if pointer.contains('/') {
            inside.act(["mkdir", "a/a"]).errno("EROFS");
            inside.act(["rename", "a", "b"]).errno("EBUSY");
        }
        inside.act(["write", ".git", "x"]).errno("EROFS");
        inside.act(["create", "ordinary"]).ok();
        inside.end().success();
        assert!(!project.join("a").exists());
    }
}

/// What cannot be protected one by one is read-only as a whole, but for the project's own.
#[test]
fn worktrees_that_cannot_be_told_are_read_only() {
    for is_crowd in [false, true] {
        let sandbox = Sandbox::git();
        let worktrees = sandbox.project().join(".git/worktrees");
        let tree = sandbox.outside().join("tree");
        sandbox.git_prints(&sandbox.project(), &["worktree", "add", "-q", text(&tree)]);
        if is_crowd {
            for number in 0..200 {
                std::fs::create_dir(worktrees.join(format!("crowd{number}"))).unwrap();
            }
        } else {
            let mode = std::fs::Permissions::from_mode(0o311);
            std::fs::set_permissions(&worktrees, mode).unwrap();
        }
        let mut inside = sandbox.remount().serve();
        inside.act(["write", ".git/worktrees/tree/commondir", "x"]).errno("EROFS");
        inside.act(["write", ".git/worktrees/tree/config.worktree", "x"]).errno("EROFS");
        // Root reads what nobody may read.
        if is_crowd || uid() != 0 {
            inside.act(["chmod", ".git/worktrees", "755"]).errno("EROFS");
        }
        assert_eq!(inside.run(["git", "commit", "-q", "--allow-empty", "-m", "x"]).0, 0);
        inside.end().success();
        let mut inside = sandbox.remount().cwd(&tree).serve();
        let own = worktrees.join("tree");
        inside.act(["write", text(&own.join("commondir")), "x"]).errno("EROFS");
        let (code, printed) = inside.run(["git", "commit", "-q", "--allow-empty", "-m", "x"]);
        assert_eq!(code, 0, "{printed}");
        inside.end().success();
        std::fs::set_permissions(&worktrees, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// A git directory in that of a submodule, for a submodule whose name says so.
#[test]
fn a_submodule_in_a_submodule_is_held() {
    let sandbox = with_submodules();
    let nested = sandbox.project().join(".git/modules/deps/one/x/y");
    sandbox.git_prints(&sandbox.project(), &["init", "-q", "--bare", text(&nested)]);
    let mut inside = sandbox.remount().serve();
    inside.act(["write", text(&nested.join("config")), "x"]).errno("EROFS");
    inside.act(["create", text(&nested.join("hooks/post-checkout"))]).errno("EROFS");
    inside.act(["rename", text(&nested), text(&nested.with_file_name("z"))]).errno("EBUSY");
    inside.act(["create", text(&nested.join("objects/ordinary"))]).ok();
    inside.end().success();
}

/// The project, with a submodule that is there and one that is not.
fn with_submodules() -> Sandbox {
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    for name in ["one", "two"] {
        let other = sandbox.dir(format!("outside/{name}"));
        sandbox.git_prints(&other, &["init", "-q", "-b", "main"]);
        sandbox.git_prints(&other, &["commit", "-q", "--allow-empty", "-m", "first"]);
        let place = format!("deps/{name}");
        sandbox.git_prints(&project, &["submodule", "--quiet", "add", text(&other), &place]);
    }
    sandbox.git_prints(&project, &["commit", "-qm", "submodules"]);
    sandbox.git_prints(&project, &["submodule", "--quiet", "deinit", "-f", "deps/two"]);
    sandbox
}

/// `git status` outside, in the project itself, enters each of them and executes what its
/// configuration says.
#[test]
fn the_pointer_of_a_submodule_stays() {
    for profile in ["default", "codex"] {
        let sandbox = with_submodules();
        let run = sandbox.host(bin("remount-run")).separated().cwd(sandbox.project());
        let mut inside = run.options(["--profile", profile]).serve();
        inside.act(["write", "deps/one/.git", "gitdir: ../../x\n"]).errno("EROFS");
        for path in ["deps/one/.git", "deps/one", "deps"] {
            inside.act(["rename", path, &format!("{path}-x")]).errno("EBUSY");
        }
        inside.act(["create", "deps/one/ordinary"]).ok();
        inside.end().success();
        let status = sandbox.git_prints(&sandbox.project(), &["status", "--short", "-uno"]);
        assert_eq!(status, "", "{profile}");
    }
}

#[test]
fn where_git_is_read_only_no_submodule_comes_to_life() {
    let sandbox = with_submodules();
    let project = sandbox.project();
    let mut inside = sandbox.remount().serve();
    inside.act(["mkdir", "deps/two/.git"]).ok();
    inside.end().success();
    std::fs::remove_dir(project.join("deps/two/.git")).unwrap();
    let run = sandbox.host(bin("remount-run")).separated().cwd(&project);
    let mut inside = run.options(["--profile", "codex"]).serve();
    inside.act(["mkdir", "deps/two/.git"]).errno("EROFS");
    inside.act(["rename", "deps/two", "deps/x"]).errno("EBUSY");
    assert_ne!(inside.run(["git", "init", "-q", "deps/two"]).0, 0);
    let (code, printed) = inside.run(["git", "init", "-q", "deps/three"]);
    assert_eq!(code, 0, "{printed}");
    assert_eq!(sandbox.git_prints(&project, &["status", "--short", "-uno"]), "");
    inside.end().success();
    assert!(!project.join("deps/two/.git").exists());
}

/// Placeholders are not in the way of git outside.
#[test]
fn a_worktree_can_be_removed_and_moved_outside() {
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    let (one, two) = (sandbox.outside().join("one"), sandbox.outside().join("two"));
    for tree in [&one, &two] {
        sandbox.git_prints(&project, &["worktree", "add", "-q", text(tree)]);
    }
    let mut inside = sandbox.remount().serve();
    inside.act(["mkdir", ".git/worktrees/one/modules"]).errno("EEXIST");
    inside.act(["write", ".git/worktrees/one/modules", "x"]).errno("EROFS");
    let new = sandbox.outside().join("new");
    sandbox.git_prints(&project, &["worktree", "move", text(&one), text(&new)]);
    sandbox.git_prints(&project, &["worktree", "remove", text(&two)]);
    wait_until("the project can be written to", LIMIT, || {
        inside.act(["write", "ordinary", "x"]) == Answer::Ok(String::new())
    });
    inside.end().success();
}

/// More repositories than can be protected: what says that nothing of git's is written to does not
/// begin.
#[test]
fn where_git_is_read_only_there_are_not_too_many() {
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    for (count, is_too_many) in [(3, false), (1001, true)] {
        let mut list = String::new();
        for number in 0..count {
            let object = "1".repeat(40);
            list.push_str(&format!("160000 {object}\tmany/{number}\n"));
        }
        std::fs::write(sandbox.outside().join("list"), list).unwrap();
        let add =
            format!("git update-index --index-info < {}", text(&sandbox.outside().join("list")));
        let added = sandbox.host("sh").cwd(&project).options(["-c", &add]).run();
        added.success();
        let run = sandbox.host(bin("remount-run")).separated().cwd(&project);
        let run = run.options(["--profile", "codex"]);
        if is_too_many {
            let failed = run.options(["--", "true"]).run();
            assert!(
                failed.stderr().contains("more than 1000 other repositories"),
                "{}",
                failed.stderr()
            );
        } else {
            let mut inside = run.serve();
            inside.act(["mkdir", "many/0"]).errno("EROFS");
            inside.end().success();
        }
    }
}
