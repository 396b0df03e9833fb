//! The harness does what it says: a harness that sees no failure hides them all.

use remount_tests::{Answer, LIMIT, Sandbox, Snapshot, Twin, bin, leftovers, mounts, require, uid};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// The message of the panic that `act` must end in.
fn panic_of(act: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(act)).expect_err("it should have panicked");
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast_ref::<&str>().copied().unwrap_or_default().to_owned(),
    }
}

/// Bubblewrap with the whole root read-only: a sandbox that is not ours.
fn read_only_root(sandbox: &Sandbox) -> remount_tests::Cmd {
    let mounts = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"];
    sandbox
        .host(require("bwrap"))
        .options(mounts)
        .options(["--unshare-pid", "--cap-drop", "ALL"])
        .separated()
}

#[test]
fn the_pass_runs_as_the_user_that_was_meant() {
    remount_tests::check_uid();
    println!("this pass runs as uid {}", uid());
}

#[test]
fn a_run_captures_code_and_output() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.host("/bin/sh").command(["-c", "echo out; echo err >&2; exit 7"]).run();
    outcome.exits(7).says("err");
    assert_eq!(outcome.stdout(), "out\n");
    let outcome = sandbox.host("/bin/sh").command(["-c", "kill -TERM $$"]).run();
    assert_eq!((outcome.code(), outcome.signal()), (None, Some(15)));
    let outcome = sandbox.host("/bin/cat").stdin("typed").run();
    assert_eq!(outcome.stdout(), "typed");
}

#[test]
fn the_environment_is_the_worlds_own() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.host("/usr/bin/env").env("EXTRA", "1").run();
    let names: Vec<String> = outcome
        .stdout()
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
        .collect();
    let expected = [
        "PATH",
        "LANG",
        "HOME",
        "XDG_STATE_HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "TERM",
        "EXTRA",
        "REMOUNT_TEST_ID",
    ];
    for name in &names {
        assert!(expected.contains(&name.as_str()), "{name} came from the caller");
    }
    assert_eq!(names.len(), expected.len());
}

#[test]
fn a_run_that_hangs_is_killed_and_fails() {
    let sandbox = Sandbox::new();
    // What it had printed is told, if it came as far in that time.
    for limit in [Duration::from_millis(300), LIMIT] {
        let hangs = sandbox.host("/bin/sh").command(["-c", "echo begun; exec sleep 600"]);
        let message = panic_of(|| drop(hangs.timeout(limit).run()));
        assert!(message.contains("the time is up"), "{message}");
        if message.contains("begun") {
            return;
        }
    }
    panic!("nothing was printed within {LIMIT:?}");
}

#[test]
fn a_process_left_behind_fails_the_run() {
    let sandbox = Sandbox::new();
    // One in the group, one out of it: found by group, and by environment.
    let command = "sleep 600 >/dev/null 2>&1 & setsid sleep 601 >/dev/null 2>&1 &";
    let running = sandbox.host("/bin/sh").command(["-c", command]).start();
    let group = running.pid();
    let message = panic_of(|| drop(running.wait_with(Duration::from_millis(100))));
    assert!(message.contains("left behind"), "{message}");
    let left: Vec<i32> =
        message.split(['"', ' ']).filter_map(|word| word.parse::<i32>().ok()).collect();
    assert_eq!(left.len(), 2, "{message}");
    for pid in left {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        // The one in the group was killed already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    assert!(leftovers::after(group, "none", LIMIT).is_empty());
}

#[test]
fn a_twin_wants_success_outside_and_the_very_errno_inside() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("outside/file", "");
    let twin = || Twin::new(sandbox.host_probe(), read_only_root(&sandbox));
    twin().act(["open-write"]).arg(&file).denied("EROFS");
    twin().act(["open-read"]).arg(&file).allowed();
    let new = sandbox.outside().join("new");
    twin().act(["create"]).arg(&new).prepare(|| drop(std::fs::remove_file(&new))).denied("EROFS");
    twin().act(["mount-tmpfs"]).arg(sandbox.outside()).with_user_namespace().denied("EPERM");
}

#[test]
fn a_twin_that_cannot_be_done_outside_either_fails() {
    let sandbox = Sandbox::new();
    let twin = || Twin::new(sandbox.host_probe(), read_only_root(&sandbox));
    let missing = sandbox.outside().join("missing");
    let message = panic_of(|| twin().act(["open-write"]).arg(&missing).denied("ENOENT"));
    assert!(message.contains("outside"), "{message}");
    let file = sandbox.file("outside/file", "");
    let message = panic_of(|| twin().act(["open-write"]).arg(&file).denied("EACCES"));
    assert!(message.contains("EROFS"), "{message}");
    panic_of(|| twin().act(["open-read"]).arg(&file).denied("EROFS"));
}

#[test]
fn a_served_probe_answers_from_inside_a_sandbox() {
    let sandbox = Sandbox::new();
    let mut inside = read_only_root(&sandbox).serve();
    let mut outside = sandbox.host_probe().serve();
    for act in [["create", "one"], ["mkdir", "two"]] {
        outside.act(act).ok();
        inside.act([act[0], &format!("{}-inside", act[1])]).errno("EROFS");
    }
    assert_ne!(inside.act(["namespace", "mnt"]), outside.act(["namespace", "mnt"]));
    inside.end().success();
    outside.end().success();
}

#[test]
fn a_snapshot_names_each_difference() {
    let sandbox = Sandbox::new();
    let same = sandbox.file("outside/same", "same");
    let changed = sandbox.file("outside/changed", "before");
    let gone = sandbox.file("outside/gone", "");
    let before = Snapshot::of(sandbox.outside());
    before.unchanged(sandbox.outside());
    std::fs::write(&changed, "after").unwrap();
    std::fs::remove_file(&gone).unwrap();
    std::fs::hard_link(&same, sandbox.outside().join("new")).unwrap();
    let differences = before.differences(&Snapshot::of(sandbox.outside()));
    let names: Vec<_> =
        differences.iter().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    assert_eq!(names, ["changed", "gone", "same", "new"]);
    assert!(panic_of(|| before.unchanged(sandbox.outside())).contains("changed"));
}

#[test]
fn a_terminal_is_typed_on_and_read() {
    let sandbox = Sandbox::new();
    let mut pty = sandbox.host("/bin/sh").env("PS1", "ready> ").pty(80, 24);
    pty.expect("ready> ");
    pty.send("stty size\n");
    pty.expect("24 80");
    pty.resize(100, 40);
    pty.send("stty size\n");
    pty.expect("40 100");
    // The quotes tell what it prints from the echo of what was typed; `exec`, since a
    // dash that is just starting a child loses the signal.
    pty.send("sh -c 'echo be\"\"gun; exec sleep 60'\n");
    pty.expect("begun");
    pty.send("\x03");
    pty.expect("ready> ");
    pty.send("exit 3\n");
    let (status, _) = pty.wait();
    assert_eq!(status.code(), Some(3));
}

#[test]
fn the_terminal_probe_types_where_it_may() {
    let sandbox = Sandbox::new();
    let answer = sandbox.host(bin("probe")).command(["tiocsti"]).run().answer();
    assert_eq!(answer, Answer::Errno("ENOTTY".to_owned()));
    for act in ["tiocsti", "tiocsti high"] {
        let pty = sandbox.host(bin("probe")).command(act.split(' ')).pty(80, 24);
        let (_, shown) = pty.wait();
        // EIO: the host's own dev.tty.legacy_tiocsti=0.
        assert!(shown.contains("ok") || shown.contains("errno EIO"), "{act}: {shown}");
    }
}

#[test]
fn a_git_world_has_one_commit() {
    let sandbox = Sandbox::git();
    let log = sandbox.host(require("git")).command(["log", "--oneline"]).run();
    assert_eq!(log.success().stdout().lines().count(), 1);
}

#[test]
fn a_missing_tool_fails_the_test() {
    let message = panic_of(|| drop(require("no-such-tool-at-all")));
    assert!(message.contains("is missing"), "{message}");
}

#[test]
fn a_world_is_gone_after_its_test() {
    let before = mounts();
    let sandbox = Sandbox::git();
    let root = sandbox.root().to_owned();
    read_only_root(&sandbox).command(["true"]).run().success();
    drop(sandbox);
    assert!(!root.exists());
    assert_eq!(mounts(), before);
}
