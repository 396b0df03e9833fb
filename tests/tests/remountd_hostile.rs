//! Clients of remountd that want more than they may have. None of them changes anything,
//! none holds up the daemon, each is told why.

use remount_tests::daemon::{Daemon, socket};
use remount_tests::{Sandbox, mounts};
use std::path::{Path, PathBuf};

/// Asks for `rw` and says the exit code; then that the directory is as it was.
const TRY: &str = r#""$CTL" --socket "$S" rw w; echo "code $?"; (echo x >"$W/mark") 2>/dev/null && echo WROTE; true"#;

fn words(words: &[&dyn AsRef<Path>]) -> Vec<PathBuf> {
    words.iter().map(|word| word.as_ref().to_owned()).collect()
}

#[test]
fn only_the_directory_that_is_meant_is_switched() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let (target, other, host) = (daemon.target(), sandbox.dir("outside/other"), mounts());
    // What is right works: all that follows fails for its own reason.
    let right = daemon.bwrap(words(&[&"--ro-bind", &target, &target])).sh(TRY).run();
    assert_eq!(right.stdout(), "w: rw\ncode 0\nWROTE\n", "{right}");
    std::fs::remove_file(target.join("mark")).unwrap();
    let above = target.parent().unwrap();
    for (options, reason) in [
        (words(&[&"--ro-bind", &other, &target]), "another file"),
        (
            words(&[
                &"--tmpfs",
                &above,
                &"--ro-bind",
                &socket(&sandbox),
                &socket(&sandbox),
                &"--symlink",
                &"other",
                &target,
                &"--ro-bind",
                &other,
                &other,
            ]),
            "symbolic link",
        ),
        (words(&[&"--dev", &"/dev"]), "no mount of its own"),
        (words(&[&"--ro-bind", &"/etc", &target]), "another file"),
    ] {
        let outcome = daemon.bwrap(options).sh(TRY).run();
        assert_eq!(outcome.stdout(), "code 6\n", "{outcome}");
        outcome.says(reason);
    }
    assert_eq!(mounts(), host);
    assert!(!target.join("mark").exists() && !other.join("mark").exists());
}

#[test]
fn nothing_of_the_sandbox_is_executed() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let planted = sandbox.file("outside/planted", "#!/bin/sh\ntouch \"$W/planted\"\n");
    let target = daemon.target();
    let outcome = daemon
        .bwrap(words(&[&"--ro-bind", &target, &target, &"--ro-bind", &planted, &"/usr/bin/mount"]))
        .sh(TRY)
        .run();
    assert_eq!(outcome.stdout(), "w: rw\ncode 0\nWROTE\n", "{outcome}");
    assert!(!target.join("planted").exists());
}

#[test]
fn the_host_is_not_switched_and_names_only_its_own_sandboxes() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "authority = \"host\"\n");
    let (target, host) = (daemon.target(), mounts());
    daemon.ctl().command(["ro", "w"]).run().exits(5).says("from the host");
    daemon.ctl().command(["rw", "w", "--pid", "1"]).run().exits(5);
    let mut inside = daemon
        .bwrap(words(&[&"--ro-bind", &target, &target]))
        .sh("echo $$; cat")
        .start_interactive();
    let pid = inside.line();
    // From inside the authority is missing; the host has it, and says which sandbox.
    let refused = daemon.sandboxed(TRY);
    assert_eq!(refused.stdout(), "code 5\n", "{refused}");
    let outcome = daemon.ctl().command(["rw", "w", "--pid", pid.trim()]).run();
    assert_eq!(outcome.stdout(), "w: rw\n", "{outcome}");
    let outcome = daemon.sandboxed("\"$CTL\" --socket \"$S\" --pid $$ ro w");
    outcome.exits(5).says("only from outside");
    inside.close_stdin();
    assert_eq!(mounts(), host);
}

#[test]
fn users_and_modes_are_as_configured() {
    for (more, code, reason) in [
        ("users = [4242]\n", "code 2\n", "unknown target"),
        ("groups = []\n", "code 2\n", "unknown target"),
        ("modes = [\"ro\"]\n", "code 5\n", "does not allow"),
    ] {
        let sandbox = Sandbox::new();
        let daemon = Daemon::new(&sandbox, more);
        let outcome = daemon.sandboxed(TRY);
        assert_eq!(outcome.stdout(), code, "{outcome}");
        outcome.says(reason);
    }
}

#[test]
fn bytes_that_are_no_requests_harm_nobody() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let outcome = daemon.sandboxed(
        r#"head -c 100000 /dev/urandom | "$SOCAT" -t1 - UNIX-CONNECT:"$S" >/dev/null 2>&1
        head -c 5000 /dev/zero | tr '\0' x | "$SOCAT" -t1 - UNIX-CONNECT:"$S" 2>/dev/null | head -c 25
        printf 'rw w' | "$SOCAT" -t1 - UNIX-CONNECT:"$S"
        "$CTL" --socket "$S" rw w"#,
    );
    assert_eq!(outcome.stdout(), "ERROR: bad request: line w: rw\n", "{outcome}");
}
