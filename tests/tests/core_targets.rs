//! Which mounts a target is, who may switch it, and what stands in the way.
//!
//! `core_*` tests need nothing but the project's binaries and a shell with the usual
//! small tools: they also run on an older kernel (`scripts/vm-test`).

use remount_tests::{Answer, Cmd, Inside, Sandbox, bin};
use std::path::Path;

/// What git takes for a repository, without git.
fn repository() -> Sandbox {
    let sandbox = Sandbox::new();
    for dir in ["objects", "refs/heads", "hooks"] {
        sandbox.dir(format!("project/.git/{dir}"));
    }
    sandbox.file("project/.git/HEAD", "ref: refs/heads/main\n");
    sandbox.file("project/.git/config", "[core]\n\tbare = false\n");
    sandbox.file("project/file", "");
    sandbox
}

fn writable(inside: &mut Inside, file: &str) {
    assert_eq!(inside.act(["append", file]), Answer::Ok(String::new()), "{file}");
}

fn read_only(inside: &mut Inside, file: &str) {
    assert_eq!(inside.act(["append", file]), Answer::Errno("EROFS".to_owned()), "{file}");
}

/// With a file that is to be a target of its own name `extra`.
fn with_extra(sandbox: &Sandbox, bind: &str) -> Cmd {
    let dir = sandbox.dir("outside/extra");
    sandbox.file("outside/extra/file", "");
    let dir = dir.to_str().unwrap();
    sandbox.remount().options([bind, dir, dir, "--toggle", "extra", dir])
}

#[test]
fn git_is_a_target_of_its_own() {
    let sandbox = repository();
    let mut inside = sandbox.remount().serve();
    for (command, workspace_is_ro, git_is_ro) in [
        ("ro workspace", true, false),
        ("ro git", true, true),
        ("rw workspace", false, true),
        ("rw git", false, false),
        ("ro --all", true, true),
        ("rw --all", false, false),
        ("ro git workspace", true, true),
        ("toggle --all", false, false),
    ] {
        inside.ctl(command, 0);
        let check = |is_ro| if is_ro { read_only } else { writable };
        check(workspace_is_ro)(&mut inside, "file");
        check(git_is_ro)(&mut inside, ".git/HEAD");
    }
    inside.end().success();
}

#[test]
fn what_is_protected_stays_read_only_through_every_toggle() {
    let sandbox = repository();
    sandbox.file("project/.vscode/tasks.json", "{}");
    sandbox.file("project/own/file", "");
    let own = sandbox.project().join("own");
    let mut inside = sandbox.remount().option("--protect").option(own).serve();
    for command in ["list", "ro --all", "rw --all", "ro workspace", "rw workspace", "rw git"] {
        inside.ctl(command, 0);
        for file in [".vscode/tasks.json", ".git/config", "own/file"] {
            read_only(&mut inside, file);
        }
        // Kept free for what is not there.
        inside.act(["create", ".git/hooks/pre-commit"]).errno("EROFS");
        if !command.starts_with("ro") {
            writable(&mut inside, "file");
            writable(&mut inside, ".git/HEAD");
        }
    }
    inside.end().success();
}

/// A sandbox started where two file systems are mounted below the project, the second
/// read-only: in a user and mount namespace, so that any user can, and no mount of the
/// machine's own is made.
fn with_submounts(sandbox: &Sandbox) -> Cmd {
    let (sub, ro) = (sandbox.dir("project/sub"), sandbox.dir("project/sub-ro"));
    let prefix = ["--userns".as_ref(), "--tmpfs".as_ref(), sub.as_os_str(), "--tmpfs".as_ref()];
    let rest = [ro.as_os_str(), "--read-only".as_ref(), ro.as_os_str(), "exec".as_ref()];
    sandbox
        .host(bin("probe"))
        .options(prefix.into_iter().chain(rest))
        .command([bin("remount-run").as_os_str(), "--".as_ref()])
}

#[test]
fn a_mount_below_the_target_goes_with_it_and_a_read_only_one_stays_so() {
    let sandbox = Sandbox::new();
    sandbox.file("project/file", "");
    let mut inside = with_submounts(&sandbox).serve();
    for command in ["list", "rw workspace", "toggle workspace", "rw --all"] {
        inside.ctl(command, 0);
        read_only(&mut inside, "sub-ro/file");
        if command.starts_with("toggle") {
            read_only(&mut inside, "sub/file");
            read_only(&mut inside, "file");
        } else {
            writable(&mut inside, "sub/file");
            writable(&mut inside, "file");
        }
    }
    inside.end().success();
}

#[test]
fn a_busy_member_leaves_all_as_they_were() {
    let sandbox = Sandbox::new();
    sandbox.file("project/file", "");
    let mut inside = with_submounts(&sandbox).serve();
    let held = inside.act(["hold", "write", "sub/file"]).ok();
    let said = inside.ctl("ro workspace", 3);
    assert!(said.contains("sub") && said.contains("hint:"), "{said}");
    writable(&mut inside, "file");
    writable(&mut inside, "sub/file");
    inside.act(["close", &held]).ok();
    inside.ctl("ro workspace", 0);
    read_only(&mut inside, "file");
    inside.end().success();
}

#[test]
fn a_busy_target_leaves_the_others_as_they_were() {
    let sandbox = repository();
    let mut inside = sandbox.remount().serve();
    let held = inside.act(["hold", "append", ".git/HEAD"]).ok();
    for command in ["ro --all", "ro workspace git", "ro git workspace", "toggle --all", "ro git"] {
        inside.ctl(command, 3);
        writable(&mut inside, "file");
        writable(&mut inside, ".git/HEAD");
    }
    inside.ctl("ro workspace", 0);
    // A mixed request: one is to be opened, one cannot be closed.
    inside.ctl("toggle --all", 3);
    read_only(&mut inside, "file");
    writable(&mut inside, ".git/HEAD");
    inside.act(["close", &held]).ok();
    inside.ctl("ro --all", 0);
    read_only(&mut inside, ".git/HEAD");
    inside.end().success();
}

#[test]
fn what_holds_a_file_for_writing_is_busy_and_what_reads_is_not() {
    let sandbox = Sandbox::new();
    sandbox.file("project/file", "contents");
    let mut inside = sandbox.remount().serve();
    for (hold, release) in [
        (vec!["hold", "write", "file"], "close"),
        (vec!["hold", "append", "file"], "close"),
        (vec!["map", "file"], "unmap"),
    ] {
        let number = inside.act(&hold).ok();
        inside.ctl("ro workspace", 3);
        writable(&mut inside, "file");
        inside.act([release, &number]).ok();
        inside.ctl("ro workspace", 0);
        inside.ctl("rw workspace", 0);
    }
    for kind in ["read", "dir", "path"] {
        let path = if kind == "dir" { "." } else { "file" };
        inside.act(["hold", kind, path]).ok();
    }
    inside.ctl("ro workspace", 0);
    inside.end().success();
}

/// Making a directory is writing too, and shorter than a request waits. A disk that is
/// slow at that very moment makes it longer: then it is busy, never half done.
#[test]
fn directories_that_come_and_go_are_waited_out() {
    let sandbox = Sandbox::new();
    sandbox.file("project/file", "");
    let mut inside = sandbox.remount().serve();
    let probe = bin("probe");
    inside.act(["spawn".as_ref(), probe.as_os_str(), "churn".as_ref(), ".".as_ref()]).ok();
    let mut closed = 0;
    for _ in 0..100 {
        match inside.run(["remountctl", "ro", "workspace"]) {
            (0, _) => {
                read_only(&mut inside, "file");
                closed += 1;
            }
            (3, _) => writable(&mut inside, "file"),
            other => panic!("{other:?}"),
        }
        inside.ctl("rw workspace", 0);
    }
    assert!(closed >= 50, "{closed} of 100 closed");
    inside.end().success();
}

#[test]
fn a_target_may_begin_read_only() {
    let sandbox = Sandbox::new();
    let file = "../outside/extra/file";
    let mut inside = with_extra(&sandbox, "--ro-bind").serve();
    read_only(&mut inside, file);
    assert!(inside.ctl("list", 0).contains("extra      ro"));
    inside.ctl("rw extra", 0);
    writable(&mut inside, file);
    inside.ctl("ro extra", 0);
    read_only(&mut inside, file);
    inside.end().success();
    let mut inside = with_extra(&sandbox, "--bind").serve();
    writable(&mut inside, file);
    inside.ctl("ro extra", 0);
    read_only(&mut inside, file);
    writable_elsewhere(&mut inside, &sandbox.project());
    inside.end().success();
}

fn writable_elsewhere(inside: &mut Inside, dir: &Path) {
    inside.act(["write".as_ref(), dir.join("new").as_os_str(), "text".as_ref()]).ok();
}

#[test]
fn a_single_file_is_a_target_too() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/file", "");
    let path = file.to_str().unwrap();
    let command = sandbox.remount().options(["--bind", path, path, "--toggle", "one", path]);
    let mut inside = command.serve();
    writable(&mut inside, path);
    inside.ctl("ro one", 0);
    read_only(&mut inside, path);
    inside.ctl("rw one", 0);
    writable(&mut inside, path);
    inside.end().success();
}

#[test]
fn from_inside_only_ro_is_free_where_the_authority_is_outside() {
    // `confirm` asks a person instead of refusing: see authority.rs.
    let sandbox = Sandbox::new();
    sandbox.file("project/file", "");
    let mut inside = sandbox.remount().options(["--authority", "host"]).serve();
    writable(&mut inside, "file");
    // Already so, and still not the asker's to say.
    inside.ctl("rw workspace", 5);
    inside.ctl("ro workspace", 0);
    inside.ctl("ro workspace", 0);
    for command in ["rw workspace", "rw --all", "toggle workspace"] {
        let said = inside.ctl(command, 5);
        assert!(said.contains("hint:"), "{said}");
        read_only(&mut inside, "file");
    }
    inside.end().success();
}

#[test]
fn unknown_targets_and_wrong_usage_are_told_apart_from_failure() {
    let sandbox = repository();
    let mut inside = sandbox.remount().serve();
    for wrong in
        ["ro nothing", "rw nothing", "ro workspace nothing", "ro", "bake workspace", "ro A"]
    {
        inside.ctl(wrong, 2);
        writable(&mut inside, "file");
    }
    inside.end().success();
}

#[test]
fn outside_there_is_no_broker() {
    let sandbox = Sandbox::new();
    for words in ["ro workspace", "list", "status"] {
        sandbox.ctl().command(words.split(' ')).run().exits(4).says("hint:");
    }
    // Nor after the environment of a sandbox has leaked.
    sandbox.ctl().env("REMOUNT_CHANNEL", "2:5").arg("list").run().exits(4);
}

#[test]
fn a_directory_renamed_outside_fails_closed() {
    let sandbox = Sandbox::new();
    let file = "../outside/extra/file";
    for start in ["--bind", "--ro-bind"] {
        let mut inside = with_extra(&sandbox, start).serve();
        let held = inside.act(["hold", "dir", "../outside/extra"]).ok();
        inside.ctl(if start == "--bind" { "rw extra" } else { "ro extra" }, 0);
        let (from, to) = (sandbox.outside().join("extra"), sandbox.outside().join("moved"));
        std::fs::rename(&from, &to).unwrap();
        std::fs::create_dir(&from).unwrap();
        std::fs::write(from.join("file"), "").unwrap();
        let said = inside.ctl("rw extra", 6);
        assert!(said.contains("hint:"), "{said}");
        // Closed as far as that goes, but not with a plain yes.
        inside.ctl("ro extra", 6);
        inside.act(["dirfd-make", &held, "new"]).errno("EROFS");
        read_only(&mut inside, file);
        assert!(inside.ctl("status", 0).contains("stale"));
        // Others are not held up by it.
        inside.ctl("ro workspace", 0);
        inside.ctl("rw workspace", 0);
        inside.end().success();
        std::fs::remove_dir_all(&to).unwrap();
    }
}
