//! What git executes cannot be changed, wherever a repository keeps it.

use remount_tests::{Answer, Cmd, Inside, LIMIT, Sandbox, bin, wait_until};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Where git keeps something that belongs to the worktree at `cwd`.
#[track_caller]
fn git_path(sandbox: &Sandbox, cwd: &Path, name: &str) -> PathBuf {
    let words = ["rev-parse", "--path-format=absolute", "--git-path", name];
    PathBuf::from(sandbox.git_prints(cwd, &words).trim_end())
}

/// A submodule of the project whose name has a slash, with one commit.
fn with_submodule() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::git();
    let other = sandbox.dir("outside/other");
    sandbox.git_prints(&other, &["init", "-q", "-b", "main"]);
    sandbox.git_prints(&other, &["commit", "-q", "--allow-empty", "-m", "first"]);
    let project = sandbox.project();
    sandbox.git_prints(&project, &["submodule", "--quiet", "add", text(&other), "lib/deep/x"]);
    sandbox.git_prints(&project, &["commit", "-qm", "submodule"]);
    (sandbox, project.join("lib/deep/x"))
}

/// The worktrees of all kinds that a person may start an agent in.
fn worktrees() -> Vec<(&'static str, Sandbox, PathBuf)> {
    let plain = Sandbox::git();
    let project = plain.project();
    let mut all = vec![("a repository", plain, project)];
    let linked = Sandbox::git();
    let tree = linked.outside().join("tree");
    linked.git_prints(&linked.project(), &["worktree", "add", "-q", text(&tree)]);
    all.push(("a linked worktree", linked, tree));
    let (sandbox, submodule) = with_submodule();
    all.push(("a submodule", sandbox, submodule));
    for (name, place) in [("a link inside", "real"), ("a link outside", "../outside/real")] {
        let sandbox = Sandbox::git();
        let project = sandbox.project();
        std::fs::rename(project.join(".git"), project.join(place)).unwrap();
        symlink(place, project.join(".git")).unwrap();
        all.push((name, sandbox, project));
    }
    // As git reads pointers: through links, up again, whatever ends of lines they end in.
    for (name, pointer) in [
        ("a pointer through a link", "gitdir: dl/real\n"),
        ("a pointer that goes up again", "gitdir: other/../d/real\n"),
        ("a pointer that ends in CR LF", "gitdir: d/real\r\n"),
        ("a pointer that ends in two lines", "gitdir: d/real\n\n"),
    ] {
        let sandbox = Sandbox::git();
        let project = sandbox.project();
        for dir in ["d", "other"] {
            std::fs::create_dir(project.join(dir)).unwrap();
        }
        symlink("d", project.join("dl")).unwrap();
        std::fs::rename(project.join(".git"), project.join("d/real")).unwrap();
        std::fs::write(project.join(".git"), pointer).unwrap();
        all.push((name, sandbox, project));
    }
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    let objects = sandbox.dir("outside").join("objects");
    std::fs::rename(project.join(".git"), project.join("real")).unwrap();
    std::fs::rename(project.join("real/objects"), &objects).unwrap();
    symlink(objects, project.join("real/objects")).unwrap();
    symlink("real", project.join(".git")).unwrap();
    all.push(("objects elsewhere", sandbox, project));
    all
}

fn codex(sandbox: &Sandbox, cwd: &Path) -> Cmd {
    let run = sandbox.host(bin("remount-run")).separated().cwd(cwd);
    run.options(["--profile", "codex"])
}

/// Codex's own manual test of its sandbox: what it names fails with EROFS, and an ordinary
/// file can be written.
#[test]
fn the_manual_test_of_codex_passes() {
    for (name, sandbox, cwd) in worktrees() {
        println!("{name}");
        let config = git_path(&sandbox, &cwd, "config");
        let new = ["hooks/pre-commit", "index.lock"].map(|name| git_path(&sandbox, &cwd, name));
        let mut outside = sandbox.host_probe().cwd(&cwd).serve();
        let mut inside = codex(&sandbox, &cwd).serve();
        outside.act(["open-write", text(&config)]).ok();
        inside.act(["open-write", text(&config)]).errno("EROFS");
        for path in &new {
            outside.act(["create", text(path)]).ok();
            outside.act(["unlink", text(path)]).ok();
            inside.act(["create", text(path)]).errno("EROFS");
        }
        for act in ["create", "mkdir"] {
            inside.act([act, ".codex/config.toml"]).errno("EROFS");
        }
        inside.act(["rename", ".codex", "x"]).errno("EBUSY");
        inside.act(["rename", ".git", "x"]).errno("EBUSY");
        let removed = format!("{:?}", inside.act(["unlink", ".git"]));
        assert!(["EBUSY", "EISDIR"].iter().any(|errno| removed.contains(errno)), "{removed}");
        inside.act(["create", "ordinary"]).ok();
        inside.end().success();
        outside.end().success();
        assert!(!cwd.join(".codex").exists());
        // There: the same, and it stays.
        std::fs::create_dir(cwd.join(".codex")).unwrap();
        std::fs::write(cwd.join(".codex/config.toml"), "one").unwrap();
        let mut inside = codex(&sandbox, &cwd).serve();
        inside.act(["write", ".codex/config.toml", "two"]).errno("EROFS");
        inside.end().success();
        assert_eq!(std::fs::read(cwd.join(".codex/config.toml")).unwrap(), b"one");
    }
}

/// Where the policy is that nobody changes anything of git's, nobody makes a repository.
#[test]
fn where_git_is_read_only_no_repository_can_be_made() {
    let sandbox = Sandbox::new();
    let mut inside = codex(&sandbox, &sandbox.project()).serve();
    for act in ["create", "mkdir"] {
        inside.act([act, ".git/config"]).errno("EROFS");
    }
    inside.act(["create", "ordinary"]).ok();
    inside.end().success();
    assert!(!sandbox.project().join(".git").exists());
}

#[track_caller]
fn executed_is_held(inside: &mut Inside, sandbox: &Sandbox, cwd: &Path) {
    for name in ["config", "config.worktree", "info/attributes", "commondir"] {
        inside.act(["write", text(&git_path(sandbox, cwd, name)), "text"]).errno("EROFS");
    }
    let hooks = git_path(sandbox, cwd, "hooks");
    inside.act(["create", text(&hooks.join("post-commit"))]).errno("EROFS");
    for name in ["remotes/origin", "branches/origin"] {
        let path = git_path(sandbox, cwd, name);
        // Where all is read-only, nothing stands in for the directory.
        inside.act(["mkdir", text(path.parent().unwrap())]);
        let answer = inside.act(["create", text(&path)]);
        assert!([Answer::Errno("EROFS".into()), Answer::Errno("ENOENT".into())].contains(&answer));
    }
    let renamed = format!("{:?}", inside.act(["rename", text(&hooks), text(&cwd.join("x"))]));
    assert!(["EBUSY", "EXDEV", "EROFS"].iter().any(|errno| renamed.contains(errno)), "{renamed}");
}

#[test]
fn commits_work_and_hooks_cannot_be_changed() {
    for (name, sandbox, cwd) in worktrees() {
        println!("{name}");
        let mut inside = sandbox.remount().cwd(&cwd).serve();
        executed_is_held(&mut inside, &sandbox, &cwd);
        inside.act(["rename", ".git", "x"]).errno("EBUSY");
        inside.act(["create", "ordinary"]).ok();
        let commit = ["sh", "-c", "git add ordinary && git commit -qm inside"];
        let (code, printed) = inside.run(commit);
        // A link that leads out of the project may lead anywhere: what it names is not opened.
        let is_open = !["a link outside", "objects elsewhere"].contains(&name);
        assert_eq!(code == 0, is_open, "{printed}");
        inside.end().success();
        let subject = sandbox.git_prints(&cwd, &["log", "-1", "--format=%s"]);
        assert_eq!(subject == "inside\n", is_open, "{subject}");
        assert_eq!(sandbox.git_prints(&cwd, &["status", "--short", "-uno"]), "");
    }
}

/// `git worktree add` outside makes a git directory in `.git/worktrees`, and enters it: were
/// that a link to another repository, what its configuration names would be executed.
#[test]
fn the_place_of_worktrees_stays_what_it_is() {
    for has_one in [false, true] {
        let sandbox = Sandbox::git();
        let project = sandbox.project();
        let worktrees = project.join(".git/worktrees");
        if has_one {
            let tree = sandbox.outside().join("tree");
            sandbox.git_prints(&project, &["worktree", "add", "-q", text(&tree)]);
        }
        let mut inside = sandbox.remount().serve();
        inside.act(["mkdir", ".git/build"]).ok();
        inside.act(["rename", ".git/worktrees", ".git/x"]).errno("EBUSY");
        inside.act(["rename", ".git/build", ".git/worktrees"]).errno("EBUSY");
        inside.act(["symlink", "../build", ".git/worktrees"]).errno("EEXIST");
        inside.act(["symlink", "../build", ".git/other"]).ok();
        // Another name that programs of the host look for.
        inside.act(["write", ".git/lazygit.yml", "x"]).errno("EROFS");
        inside.end().success();
        assert_eq!(worktrees.exists(), has_one);
    }
}

/// The host removes the directory with the last worktree; what is made inside stays.
#[test]
fn worktrees_can_be_added_on_both_sides() {
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    let worktrees = project.join(".git/worktrees");
    let mut inside = sandbox.remount().serve();
    let outer = sandbox.outside().join("outer");
    sandbox.git_prints(&project, &["worktree", "add", "-q", text(&outer)]);
    sandbox.git_prints(&project, &["worktree", "remove", text(&outer)]);
    wait_until("it is back", LIMIT, || worktrees.exists());
    wait_until("it can be used", LIMIT, || {
        inside.run(["git", "worktree", "add", "-q", "inner"]).0 == 0
    });
    inside.act(["rename", ".git/worktrees", ".git/x"]).errno("EBUSY");
    inside.end().success();
    let list = sandbox.git_prints(&project, &["worktree", "list"]);
    assert_eq!(list.lines().count(), 2, "{list}");
    assert_eq!(std::fs::metadata(&worktrees).unwrap().mode() & 0o7000, 0);
}

/// `git fetch` outside enters the git directories of submodules that a commit names: a new
/// one in `.git/modules` would be executed.
#[test]
fn a_submodule_can_be_worked_in_and_none_can_be_made() {
    let (sandbox, submodule) = with_submodule();
    let modules = sandbox.project().join(".git/modules");
    let own = modules.join("lib/deep/x");
    assert!(own.join("HEAD").exists());
    let mut inside = sandbox.remount().serve();
    executed_is_held(&mut inside, &sandbox, &submodule);
    let (code, printed) = inside.run([
        "sh",
        "-c",
        "cd lib/deep/x && touch new && git add new && git commit -qm inside",
    ]);
    assert_eq!(code, 0, "{printed}");
    for new in ["new", "lib/new", "lib/deep/new", "lib/deep/x/modules/new"] {
        inside.act(["mkdir", text(&modules.join(new))]).errno("EROFS");
    }
    for (from, to) in [("lib", "x"), ("lib/deep", "x"), ("lib/deep/x", "y")] {
        let answer = inside.act(["rename", text(&modules.join(from)), text(&modules.join(to))]);
        let answer = format!("{answer:?}");
        assert!(["EBUSY", "EROFS"].iter().any(|errno| answer.contains(errno)), "{from}: {answer}");
    }
    // It follows the target around it.
    inside.ctl("ro git", 0);
    inside.act(["create", text(&own.join("index.lock"))]).errno("EROFS");
    inside.ctl("rw git", 0);
    inside.act(["create", text(&own.join("index.lock"))]).ok();
    inside.act(["unlink", text(&own.join("index.lock"))]).ok();
    inside.act(["mkdir", text(&modules.join("new"))]).errno("EROFS");
    inside.end().success();
    let subject = sandbox.git_prints(&submodule, &["log", "-1", "--format=%s"]);
    assert_eq!(subject, "inside\n");
}

/// A submodule's own git directory is opened because its configuration names the worktree.
#[test]
fn a_git_directory_that_names_another_worktree_is_not_opened() {
    let (sandbox, submodule) = with_submodule();
    let pointer = std::fs::read(submodule.join(".git")).unwrap();
    let own = sandbox.project().join(".git/modules/lib/deep/x");
    let other = sandbox.dir("outside/agent");
    let line = format!("gitdir: {}\n", text(&own));
    std::fs::write(other.join(".git"), &line).unwrap();
    let mut inside = sandbox.remount().cwd(&other).serve();
    inside.act(["create", text(&own.join("index.lock"))]).errno("EROFS");
    inside.act(["create", "ordinary"]).ok();
    inside.act(["write", ".git", "gitdir: x"]).errno("EROFS");
    inside.end().success();
    assert_ne!(pointer, line.as_bytes());
    let mut inside = sandbox.remount().cwd(&submodule).serve();
    assert_eq!(inside.act(["create", text(&own.join("index.lock"))]), Answer::Ok(String::new()));
    inside.end().success();
}

/// A linked worktree's is opened because it names the pointer that names it.
#[test]
fn a_git_directory_of_another_linked_worktree_is_not_opened() {
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    let tree = sandbox.outside().join("tree");
    sandbox.git_prints(&project, &["worktree", "add", "-q", text(&tree)]);
    let new = project.join(".git/objects/new");
    let other = sandbox.dir("outside/agent");
    std::fs::copy(tree.join(".git"), other.join(".git")).unwrap();
    let mut inside = sandbox.remount().cwd(&other).serve();
    inside.act(["create", text(&new)]).errno("EROFS");
    inside.act(["create", "ordinary"]).ok();
    inside.end().success();
    let mut inside = sandbox.remount().cwd(&tree).serve();
    inside.act(["create", text(&new)]).ok();
    inside.end().success();
}
