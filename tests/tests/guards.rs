//! Protected paths that do not exist: they cannot be created inside, and whatever is made
//! for that on the host is gone afterwards, whoever was killed.

use remount_tests::{
    Cmd, Inside, LIMIT, Running, Sandbox, Snapshot, as_root, bin, require, uid, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What the default profile protects and a fresh repository lacks, as the form that
/// stands in.
const DIRECTORIES: [&str; 6] =
    [".vscode", ".codex", ".github/hooks", ".github/mcp.json", ".mcp.json", ".git/modules"];
const FILES: [&str; 3] = [".git/commondir", ".git/config.worktree", ".git/info/attributes"];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn git(sandbox: &Sandbox) -> Cmd {
    sandbox.host(require("git"))
}

/// Where it is recorded what was made.
fn store(sandbox: &Sandbox) -> PathBuf {
    sandbox.state().join("remount/placeholders")
}

/// Empty directories are kept there as well, for the next start.
fn records(sandbox: &Sandbox) -> usize {
    let Ok(all) = std::fs::read_dir(store(sandbox)) else { return 0 };
    all.filter(|entry| entry.as_ref().unwrap().file_name() != "spare").count()
}

/// Kills a launcher without a word, and waits until all of its sandbox is gone.
fn kill(running: Running) {
    kill_process(Pid::from_raw(running.pid()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(running.wait().signal(), Some(9));
}

/// One that stays, killed when the test says so.
fn sleeping(command: Cmd) -> Running {
    let mut running = command.sh("echo ready; exec sleep 600").start();
    assert_eq!(running.line(), "ready");
    running
}

fn profile(sandbox: &Sandbox, text: &str) -> PathBuf {
    sandbox.file("home/.config/remount/profiles/test.toml", text)
}

fn with_profile(sandbox: &Sandbox) -> Cmd {
    sandbox.host(bin("remount-run")).options(["--profile", "test"]).separated()
}

#[test]
fn what_is_missing_cannot_be_created() {
    let sandbox = Sandbox::git();
    let before = Snapshot::of(sandbox.project());
    // Outside, each can be created.
    let mut outside = sandbox.host_probe().serve();
    for path in DIRECTORIES {
        if let Some((parent, _)) = path.split_once('/').filter(|_| path.starts_with(".github")) {
            outside.act(["mkdir", parent]);
        }
        outside.act(["mkdir", path]).ok();
    }
    for path in FILES {
        outside.act(["create", path]).ok();
        outside.act(["unlink", path]).ok();
    }
    outside.end().success();
    for path in DIRECTORIES {
        std::fs::remove_dir_all(sandbox.project().join(path)).unwrap();
    }
    std::fs::remove_dir(sandbox.project().join(".github")).unwrap();
    before.unchanged(sandbox.project());
    let mut inside = sandbox.remount().serve();
    inside.act(["mkdir", "other"]).ok();
    inside.act(["create", "file"]).ok();
    for path in DIRECTORIES {
        let new = &format!("{path}/new");
        for act in ["create", "mkdir", "mkfifo", "bind-unix"] {
            inside.act([act, new]).errno("EROFS");
        }
        for act in ["chmod", "utime", "setxattr"] {
            inside.act([act, path]).errno("EROFS");
        }
        inside.act(["write", path, "text"]).errno("EISDIR");
        inside.act(["rmdir", path]).errno("EBUSY");
        held(&mut inside, &["rename", path, "elsewhere"]);
        held(&mut inside, &["rename", "other", path]);
        held(&mut inside, &["rename-exchange", path, "other"]);
        held(&mut inside, &["rename", "file", path]);
        inside.act(["symlink", "other", path]).errno("EEXIST");
        assert_eq!(inside.act(["list", path]).ok(), "", "{path}");
    }
    for path in FILES {
        for act in ["append", "chmod", "truncate", "open-write"] {
            inside.act([act, path]).errno("EROFS");
        }
        inside.act(["write", path, "text"]).errno("EROFS");
        inside.act(["unlink", path]).errno("EBUSY");
        held(&mut inside, &["rename", "file", path]);
        held(&mut inside, &["link", "file", path]);
    }
    // Nor by way of the directories on the way, which are there for that only.
    inside.act(["rename", ".github", "elsewhere"]).errno("EBUSY");
    inside.act(["rename-exchange", ".github", "other"]).errno("EBUSY");
    // What is not listed is free.
    inside.act(["mkdir", ".github/workflows"]).ok();
    inside.act(["rmdir", ".github/workflows"]).ok();
    inside.act(["create", ".git/index.lock"]).ok();
    inside.act(["unlink", ".git/index.lock"]).ok();
    inside.act(["unlink", "file"]).ok();
    inside.act(["rmdir", "other"]).ok();
    inside.end().success();
    before.unchanged(sandbox.project());
    assert_eq!(records(&sandbox), 0);
}

/// Refused since there is a mount: EXDEV where a parent is one too.
#[track_caller]
fn held(inside: &mut Inside, act: &[&str]) {
    let answer = format!("{:?}", inside.act(act));
    let denied = ["EBUSY", "EXDEV", "EEXIST", "EISDIR"].iter().any(|errno| answer.contains(errno));
    assert!(denied, "{act:?}: {answer}");
}

/// Placeholders neither show in git, inside or outside, nor change what it does.
#[test]
fn git_does_not_notice() {
    let sandbox = Sandbox::git();
    let script = "git status --short && echo text >new && git add -A && git commit -qm second && \
                  git worktree add -q wt && git -C wt status --short && git worktree remove wt && \
                  git stash list && git gc -q && git fsck --no-progress && \
                  git log --format=%s --name-only -1";
    let outcome = sandbox.remount().sh(script).run();
    outcome.success();
    assert_eq!(outcome.stdout(), "second\n\nnew\n");
    assert_eq!(outcome.stderr(), "");
    let running = sleeping(sandbox.remount());
    assert!(sandbox.project().join(".git/commondir").exists());
    let outcome = git(&sandbox).command(["status", "--short"]).run();
    assert_eq!((outcome.stdout(), outcome.stderr()), (String::new(), String::new()));
    std::fs::write(sandbox.project().join("third"), "").unwrap();
    git(&sandbox).command(["add", "-A"]).run().success();
    git(&sandbox).command(["commit", "-qm", "third"]).run().success();
    let outcome = git(&sandbox).command(["show", "--format=", "--name-only"]).run();
    assert_eq!(outcome.stdout(), "third\n");
    git(&sandbox).command(["worktree", "add", "-q", "../linked"]).run().success();
    git(&sandbox).command(["-C", "../linked", "status"]).run().success();
    git(&sandbox).command(["config", "test.key", "value"]).run().success();
    kill(running);
}

#[test]
fn several_sandboxes_share_them_and_the_last_one_removes_them() {
    let sandbox = Sandbox::git();
    let before = Snapshot::of(sandbox.project());
    let mut first = sandbox.remount().serve();
    let mut second = sandbox.remount().serve();
    assert_eq!(records(&sandbox), 2);
    first.act(["create", ".vscode/x"]).errno("EROFS");
    first.end().success();
    assert!(sandbox.project().join(".vscode").is_dir());
    for path in DIRECTORIES {
        second.act(["create", &format!("{path}/x")]).errno("EROFS");
        second.act(["rmdir", path]).errno("EBUSY");
    }
    let mut third = sandbox.remount().serve();
    second.end().success();
    third.act(["create", ".vscode/x"]).errno("EROFS");
    third.act(["write", ".git/commondir", ".."]).errno("EROFS");
    third.end().success();
    before.unchanged(sandbox.project());
    assert_eq!(records(&sandbox), 0);
}

#[test]
fn what_a_killed_one_leaves_is_removed_by_the_next() {
    let sandbox = Sandbox::git();
    let before = Snapshot::of(sandbox.project());
    kill(sleeping(sandbox.remount()));
    assert!(sandbox.project().join(".vscode").is_dir());
    // The next one needs no placeholder itself, and is somewhere else.
    let elsewhere = sandbox.dir("outside/other");
    let elsewhere_before = Snapshot::of(&elsewhere);
    sandbox.remount().cwd(&elsewhere).command(["true"]).run().success();
    elsewhere_before.unchanged(&elsewhere);
    before.unchanged(sandbox.project());
    assert_eq!(records(&sandbox), 0);
    // One that lives keeps what a killed one has left.
    kill(sleeping(sandbox.remount()));
    let mut inside = sandbox.remount().serve();
    kill(sleeping(sandbox.remount()));
    sandbox.remount().cwd(&elsewhere).command(["true"]).run().success();
    inside.act(["create", ".vscode/x"]).errno("EROFS");
    inside.end().success();
    before.unchanged(sandbox.project());
}

#[test]
fn the_doctor_shows_and_removes_what_is_left() {
    let sandbox = Sandbox::git();
    let before = Snapshot::of(sandbox.project());
    // What others leave in /tmp is not this test's.
    let tmp = sandbox.dir("tmp");
    let doctor =
        |words: &[&str]| sandbox.ctl().env("TMPDIR", &tmp).option("doctor").options(words).run();
    let outcome = doctor(&[]);
    assert_eq!(outcome.success().stdout(), "nothing is left over\n");
    let running = sleeping(sandbox.remount());
    assert_eq!(doctor(&["--clean"]).success().stdout(), "nothing is left over\n");
    kill(running);
    let outcome = doctor(&[]);
    outcome.exits(1);
    let line = format!("left over: {}\n", sandbox.project().join(".vscode").display());
    assert!(outcome.stdout().contains(&line), "{outcome}");
    std::fs::write(sandbox.project().join(".vscode/mine"), "text").unwrap();
    let outcome = doctor(&["--clean"]);
    let stdout = outcome.success().stdout();
    let kept = format!("in use, now like any other: {}/.vscode", sandbox.project().display());
    assert!(stdout.contains("removed: ") && stdout.contains(&kept), "{outcome}");
    assert_eq!(doctor(&["--clean"]).success().stdout(), "nothing is left over\n");
    std::fs::remove_dir_all(sandbox.project().join(".vscode")).unwrap();
    before.unchanged(sandbox.project());
}

/// Killed before anything could be removed, and without what was recorded: as after a
/// power cut.
#[test]
fn one_that_no_record_knows_is_removed_by_the_next_that_needs_it() {
    let sandbox = Sandbox::git();
    let before = Snapshot::of(sandbox.project());
    kill(sleeping(sandbox.remount()));
    std::fs::remove_dir_all(store(&sandbox)).unwrap();
    sandbox.remount().command(["true"]).run().success();
    before.unchanged(sandbox.project());
}

#[test]
fn what_the_person_makes_of_one_meanwhile_is_kept() {
    let sandbox = Sandbox::git();
    let project = sandbox.project();
    let mut inside = sandbox.remount().serve();
    std::fs::write(project.join(".vscode/settings.json"), "{}").unwrap();
    std::fs::remove_dir(project.join(".mcp.json")).unwrap();
    std::fs::write(project.join(".mcp.json"), "{ }").unwrap();
    // It is seen inside, and protected like anything that exists.
    assert_eq!(inside.act(["read", ".vscode/settings.json"]).ok(), "{}");
    inside.act(["append", ".vscode/settings.json"]).errno("EROFS");
    inside.act(["mkdir", ".github/workflows"]).ok();
    inside.act(["create", ".github/workflows/ci.yml"]).ok();
    inside.end().success();
    let mode = |path: &str| std::fs::metadata(project.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(std::fs::read_to_string(project.join(".vscode/settings.json")).unwrap(), "{}");
    assert_eq!(std::fs::read_to_string(project.join(".mcp.json")).unwrap(), "{ }");
    let ordinary = mode(".github/workflows");
    assert_eq!((mode(".vscode"), mode(".github")), (ordinary, ordinary));
    assert!(!project.join(".github/hooks").exists());
    for path in DIRECTORIES.iter().skip(1).filter(|path| **path != ".mcp.json").chain(&FILES) {
        assert!(!project.join(path).exists(), "{path}");
    }
}

#[test]
fn a_profile_says_what_happens_when_it_is_missing() {
    let sandbox = Sandbox::new();
    let entry = |missing: &str| {
        profile(&sandbox, &format!("protect = [{{ path = \"a/b\", missing = \"{missing}\" }}]\n"));
    };
    let before = Snapshot::of(sandbox.project());
    entry("guard");
    let mut inside = with_profile(&sandbox).serve();
    inside.act(["create", "a/b/c"]).errno("EROFS");
    inside.act(["create", "a/c"]).ok();
    inside.act(["unlink", "a/c"]).ok();
    inside.end().success();
    before.unchanged(sandbox.project());
    entry("error");
    let outcome = sandbox.refused(125, with_profile(&sandbox).sh("true"));
    assert!(outcome.stderr().contains("a/b: no such file or directory"), "{outcome}");
    entry("skip");
    let mut inside = with_profile(&sandbox).serve();
    inside.act(["mkdir", "a"]).ok();
    inside.act(["create", "a/b"]).ok();
    inside.end().success();
}

/// Whatever the mode is: what is closed at the start may be opened later.
#[test]
fn a_target_that_is_opened_later_has_them_too() {
    let sandbox = Sandbox::new();
    profile(&sandbox, "extends = [\"default\"]\n[workspace]\nmode = \"ro\"\n");
    let mut inside = with_profile(&sandbox).serve();
    inside.act(["create", "file"]).errno("EROFS");
    inside.ctl("rw workspace", 0);
    inside.act(["create", "file"]).ok();
    inside.act(["create", ".vscode/file"]).errno("EROFS");
    inside.act(["rmdir", ".vscode"]).errno("EBUSY");
    inside.end().success();
}

/// Outside the project, where no git shows it, a file stands in for a file.
#[test]
fn an_agents_own_state_gets_files() {
    let sandbox = Sandbox::new();
    let before = Snapshot::of(sandbox.dir("home/.claude"));
    let options = ["--profile", "claude"];
    let mut inside = sandbox.host(bin("remount-run")).options(options).separated().serve();
    let settings = sandbox.home().join(".claude/settings.json");
    // One that can be read as what it is the place of.
    assert_eq!(inside.act(["read", text(&settings)]).ok(), "{}\n");
    inside.act(["write", text(&settings), "{}"]).errno("EROFS");
    inside.act(["create", text(&sandbox.home().join(".claude/history"))]).ok();
    inside.act(["unlink", text(&sandbox.home().join(".claude/history"))]).ok();
    inside.end().success();
    before.unchanged(sandbox.home().join(".claude"));
}

#[test]
fn where_nothing_can_be_made() {
    let sandbox = Sandbox::new();
    // The person's own directory, which the command inside could make writable.
    let dir = sandbox.dir("project/dir");
    profile(&sandbox, "protect = [\"dir/x\"]\n");
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o555)).unwrap();
    if as_root() {
        with_profile(&sandbox).sh("mkdir dir/x/y").run().exits(1);
    } else {
        let outcome = sandbox.refused(125, with_profile(&sandbox).sh("true"));
        assert!(outcome.stderr().contains("keep "), "{outcome}");
        // Somebody else's: nobody inside can create anything there either.
        profile(&sandbox, "protect = [\"/etc/x\"]\n[[bind]]\npath = \"/etc\"\nmode = \"rw\"\n");
        with_profile(&sandbox).probe(["create", "/etc/x"]).errno("EACCES");
    }
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn without_a_place_for_records_nothing_is_made() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("home/file", "");
    let run = sandbox.remount().env("XDG_STATE_HOME", file.join("state")).sh("true");
    let outcome = sandbox.refused(125, run);
    assert!(outcome.stderr().contains("hint: what is made for protected paths"), "{outcome}");
}

/// Who could lock the records could keep every sandbox of this user from starting.
#[test]
fn the_records_are_hidden_inside() {
    let sandbox = Sandbox::git();
    for _ in 0..2 {
        // With the directory there before, and without.
        let mut inside = sandbox.remount().serve();
        let state = sandbox.state().join("remount");
        assert_eq!(inside.act(["list", text(&state)]).ok(), "");
        assert_eq!(records(&sandbox), 1);
        inside.end().success();
    }
}

/// It does all that comes before, and then waits: it has the directory of records open.
fn comes_to_the_lock(running: &Running, sandbox: &Sandbox) {
    let (pid, dir) = (running.pid(), store(sandbox));
    wait_until("it has come to the lock", LIMIT, || {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.into_iter().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path == dir))
    });
}

/// Where the launcher waits for its turn the plan has been made, and nothing of the project is
/// mounted: what is there afterwards has to be what was found.
#[test]
fn a_source_that_is_exchanged_after_the_plan_is_not_mounted() {
    let sandbox = Sandbox::git();
    let (one, two) = (sandbox.dir("outside/one"), sandbox.dir("outside/two"));
    let mnt = sandbox.dir("project/mnt");
    sandbox.file("outside/one/right", "");
    sandbox.file("outside/two/wrong", "");
    let list = || {
        let run = sandbox.remount().options(["--ro-bind", text(&one), text(&mnt)]);
        run.command(["ls", text(&mnt)])
    };
    assert_eq!(list().run().success().stdout(), "right\n");
    let lock = std::fs::File::open(store(&sandbox)).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let running = list().start();
    comes_to_the_lock(&running, &sandbox);
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, &two, exchange).unwrap();
    drop(lock);
    let outcome = running.wait();
    outcome.exits(125).says("recognise").says("start it again");
    assert_eq!(outcome.stdout(), "");
}

/// Another start that was stopped in the middle is waited for, not for ever.
#[test]
fn starts_take_turns() {
    let sandbox = Sandbox::git();
    sandbox.remount().command(["true"]).run().success();
    let lock = std::fs::File::open(store(&sandbox)).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut running = sandbox.remount().command(["true"]).start();
    comes_to_the_lock(&running, &sandbox);
    assert!(running.runs() && records(&sandbox) == 0);
    drop(lock);
    running.wait().success();
    let before = Snapshot::of(sandbox.project());
    let mut running: Vec<_> = (0..8)
        .map(|_| sandbox.remount().sh("test -d .vscode && ! rmdir .vscode").start())
        .collect();
    for running in running.drain(..) {
        running.wait().success();
    }
    before.unchanged(sandbox.project());
    wait_until("no record is left", LIMIT, || records(&sandbox) == 0);
    assert_eq!(std::fs::metadata(store(&sandbox)).unwrap().uid(), uid());
}
