//! Linked worktrees that somebody outside adds while the sandbox runs: what git outside
//! executes there is decided by files below `.git/worktrees`.

use remount_tests::{Answer, Inside, LIMIT, Sandbox, bin, require, uid, wait_until};
use std::path::{Path, PathBuf};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn rofs() -> Answer {
    Answer::Errno("EROFS".into())
}

/// Waits until the git directory of a worktree is read-only.
#[track_caller]
fn protected(inside: &mut Inside, git_dir: &Path) {
    let gitdir = git_dir.join("gitdir");
    wait_until(text(&gitdir), LIMIT, || inside.act(["open-write", text(&gitdir)]) == rofs());
}

fn log(sandbox: &Sandbox) -> String {
    sandbox.ctl().option("log").run().success().stdout()
}

/// A repository, and one of which the sandbox has a linked worktree, each with the
/// directory to start in.
fn worlds() -> Vec<(Sandbox, PathBuf)> {
    let plain = Sandbox::git();
    let project = plain.project();
    let linked = Sandbox::git();
    let tree = linked.outside().join("own");
    linked.git_prints(&linked.project(), &["worktree", "add", "-q", text(&tree)]);
    vec![(plain, project), (linked, tree)]
}

#[test]
fn what_is_added_outside_is_protected() {
    for (sandbox, cwd) in worlds() {
        let worktrees = sandbox.project().join(".git/worktrees");
        let (own, other) = (worktrees.join("inner"), worktrees.join("tree"));
        let tree = sandbox.outside().join("tree");
        let mut inside = sandbox.remount().cwd(&cwd).serve();
        // Its own ones can be added, changed and removed.
        let add = ["git", "worktree", "add", "-q", "inner"];
        let (code, printed) = inside.run(add);
        assert_eq!(code, 0, "{printed}");
        for round in 0..2 {
            sandbox.git_prints(
                &sandbox.project(),
                &["worktree", "add", "-q", "--detach", text(&tree)],
            );
            protected(&mut inside, &other);
            inside.act(["open-write", text(&other.join("commondir"))]).errno("EROFS");
            inside.act(["write", text(&other.join("config.worktree")), "x"]).errno("EROFS");
            inside.act(["mkdir", text(&other.join("modules"))]).errno("EROFS");
            inside.act(["rename", text(&other), text(&worktrees.join("x"))]).errno("EBUSY");
            for name in ["commondir", "gitdir"] {
                inside.act(["open-write", text(&own.join(name))]).ok();
            }
            // Outside all works, also to remove it.
            sandbox.git_prints(&tree, &["commit", "-q", "--allow-empty", "-m", "outside"]);
            let target = if cwd == sandbox.project() { "workspace" } else { "git" };
            inside.ctl(&format!("ro {target}"), 0);
            inside.ctl(&format!("rw {target}"), 0);
            inside.act(["open-write", text(&other.join("commondir"))]).errno("EROFS");
            sandbox.git_prints(&sandbox.project(), &["worktree", "remove", text(&tree)]);
            assert!(!other.exists(), "{round}");
            assert!(!inside.ctl("status", 0).contains("stale"));
        }
        let (code, printed) =
            inside.run(["git", "-C", "inner", "commit", "-q", "--allow-empty", "-m", "in"]);
        assert_eq!(code, 0, "{printed}");
        let (code, printed) = inside.run(["git", "worktree", "remove", "inner"]);
        assert_eq!(code, 0, "{printed}");
        let (code, printed) = inside.run(add);
        assert_eq!(code, 0, "{printed}");
        assert!(!inside.ctl("status", 0).contains("changed"));
        inside.end().success();
        let log = log(&sandbox);
        assert_eq!(log.matches("worktree-protected").count(), 2, "{log}");
        assert!(!log.contains("changed-before"), "{log}");
    }
}

/// `/tmp` is another one inside.
#[test]
fn a_private_directory_tells_whose_worktree_it_is() {
    let sandbox = Sandbox::git();
    let worktrees = sandbox.project().join(".git/worktrees");
    let tree = PathBuf::from(format!("/tmp/remount-worktree.{}.{}", uid(), std::process::id()));
    let mut inside = sandbox.remount().serve();
    let (code, printed) = inside.run(["git", "worktree", "add", "-q", "/tmp/inner"]);
    assert_eq!(code, 0, "{printed}");
    sandbox.git_prints(&sandbox.project(), &["worktree", "add", "-q", text(&tree)]);
    protected(&mut inside, &worktrees.join(tree.file_name().unwrap()));
    inside.act(["open-write", text(&worktrees.join("inner/commondir"))]).ok();
    sandbox.git_prints(&sandbox.project(), &["worktree", "remove", text(&tree)]);
    inside.end().success();
}

/// What git makes for a worktree, in its order, but for the files that `without` names.
fn make(git_dir: &Path, tree: &Path, without: &[&str]) {
    std::fs::create_dir_all(git_dir).unwrap();
    for (name, contents) in [
        ("locked", "initializing"),
        ("gitdir", &format!("{}\n", text(&tree.join(".git")))),
        ("HEAD", "ref: refs/heads/main\n"),
        ("commondir", "../..\n"),
    ] {
        if !without.contains(&name) {
            // Through a link too, as git writes, and whatever somebody has put there.
            let _ = std::fs::write(git_dir.join(name), contents);
        }
    }
}

#[test]
fn what_was_changed_before_is_said() {
    let sandbox = Sandbox::git();
    let worktrees = sandbox.project().join(".git/worktrees");
    let (early, held) = (worktrees.join("early"), worktrees.join("held"));
    let mut inside = sandbox.remount().serve();
    // Whose it is cannot be known yet.
    make(&early, &sandbox.outside().join("a"), &["gitdir", "commondir"]);
    inside.act(["write", text(&early.join("commondir")), "../../../elsewhere"]).ok();
    make(&held, &sandbox.outside().join("b"), &["gitdir"]);
    let number = inside.act(["hold", "write", text(&held.join("commondir"))]).ok();
    for git_dir in [&early, &held] {
        make(git_dir, &sandbox.outside().join("tree"), &["commondir"]);
        protected(&mut inside, git_dir);
    }
    wait_until("it is said", LIMIT, || inside.ctl("status", 0).contains("early/commondir"));
    assert!(!inside.ctl("status", 0).contains("held/commondir"));
    // What was opened before stays open.
    inside.act(["fd-write", &number, "../../../elsewhere"]).ok();
    wait_until("it is said", LIMIT, || inside.ctl("status", 0).contains("held/commondir"));
    assert_eq!(std::fs::read_to_string(early.join("commondir")).unwrap(), "../../../elsewhere");
    std::fs::remove_dir_all(&early).unwrap();
    wait_until("it is forgotten", LIMIT, || {
        let status = inside.ctl("status", 0);
        !status.contains("early") && status.contains("changed: ") && !status.contains("stale")
    });
    inside.end().success();
    let log = log(&sandbox);
    assert_eq!(log.matches("changed-before").count(), 2, "{log}");
}

/// Somebody inside may make any number of directories: here `REMOUNT_CROWD` of them.
#[test]
fn a_crowd_is_bounded() {
    let crowd: u32 =
        std::env::var("REMOUNT_CROWD").map_or(2000, |text| text.parse().expect("a number"));
    let sandbox = Sandbox::git();
    let worktrees = sandbox.project().join(".git/worktrees");
    let tree = sandbox.outside().join("tree");
    let mut inside = sandbox.remount().serve();
    inside.act(["mkdir", text(&worktrees.join("one"))]).ok();
    for number in 0..crowd {
        std::fs::create_dir(worktrees.join(format!("crowd{number}"))).unwrap();
    }
    wait_until("it is closed", LIMIT, || inside.act(["utime", text(&worktrees)]) == rofs());
    sandbox.git_prints(&sandbox.project(), &["worktree", "add", "-q", text(&tree)]);
    inside.act(["open-write", text(&worktrees.join("tree/commondir"))]).errno("EROFS");
    let all = "not all worktrees there can be protected";
    assert!(inside.ctl("status", 0).contains(all), "{}", inside.ctl("status", 0));
    let refused = inside.ctl("rw git", 6);
    assert!(refused.contains("make git writable: not all worktrees in"), "{refused}");
    for number in 0..crowd {
        std::fs::remove_dir(worktrees.join(format!("crowd{number}"))).unwrap();
    }
    wait_until("it is open", LIMIT, || {
        inside.act(["utime", text(&worktrees)]) == Answer::Ok(String::new())
    });
    protected(&mut inside, &worktrees.join("tree"));
    assert!(!inside.ctl("status", 0).contains("stale"));
    inside.end().success();
    let log = log(&sandbox);
    for event in ["worktrees-closed", "worktrees-opened"] {
        assert!(log.contains(event), "{log}");
    }
}

/// Whoever is faster than the broker is found out. Half of them are added by git itself, which
/// removes again what it cannot use.
#[test]
fn an_attacker_is_too_late_or_is_found() {
    let sandbox = Sandbox::git();
    let worktrees = sandbox.project().join(".git/worktrees");
    let evil = "../../../elsewhere";
    let mut inside = sandbox.remount().serve();
    let words = ["plant", text(&worktrees), "commondir", evil];
    let mut attacker = sandbox.remount().arg(bin("probe")).command(words).start();
    assert_eq!(attacker.line(), "planting");
    for number in 0..20 {
        let tree = sandbox.outside().join(format!("tree{number}"));
        if number % 2 == 0 {
            make(&worktrees.join(format!("tree{number}")), &tree, &[]);
        } else {
            let add = ["worktree", "add", "-q", "--detach", text(&tree)];
            sandbox.host(require("git")).command(add).run();
        }
    }
    std::fs::write(sandbox.project().join("stop"), "").unwrap();
    println!("{}", attacker.wait().success().stdout());
    let mut won = 0;
    for number in 0..20 {
        let git_dir = worktrees.join(format!("tree{number}"));
        if !git_dir.exists() {
            continue;
        }
        protected(&mut inside, &git_dir);
        inside.act(["open-write", text(&git_dir.join("commondir"))]).errno("EROFS");
        let said = std::fs::read_to_string(git_dir.join("commondir")).unwrap();
        if said != "../..\n" {
            won += 1;
            let path = format!("tree{number}/commondir\n");
            wait_until(&path, LIMIT, || inside.ctl("status", 0).contains(&path));
        }
    }
    println!("{won} races won, each of them said");
    inside.end().success();
}
