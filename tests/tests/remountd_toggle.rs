//! remountd switches directories in sandboxes that Debian's bwrap made: as root the system's
//! daemon, as an ordinary user that user's own, without any privilege.

use remount_tests::daemon::Daemon;
use remount_tests::{Sandbox, as_root, mounts};

/// Read-only, writable, read-only again; what else is mounted stays as it is.
const THERE_AND_BACK: &str = r#"
others() { grep -vF " $W " /proc/self/mountinfo; }
set -e
before=$(others)
! (echo x >"$W/a") 2>/dev/null
"$CTL" --socket "$S" rw w
echo x >"$W/a"
others | cmp - <<END
$before
END
"$CTL" --socket "$S" list
"$CTL" --socket "$S" ro w
! (echo x >"$W/b") 2>/dev/null
grep -F " $W " /proc/self/mountinfo | grep -q nosuid,nodev
"#;

const KINDS: [&[&str]; 5] = [
    &[],
    &["--unshare-pid"],
    &["--unshare-user", "--uid", "0"],
    &["--unshare-user", "--disable-userns"],
    &["--unshare-all", "--new-session", "--die-with-parent"],
];

#[test]
fn a_directory_is_switched_from_inside_whatever_is_unshared() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let (target, host) = (daemon.target(), mounts());
    let word = target.to_str().unwrap();
    for kind in KINDS {
        for bind in [&["--ro-bind", word, word][..], &["--bind", word, word, "--remount-ro", word]]
        {
            let outcome = daemon.bwrap(kind.iter().chain(bind)).sh(THERE_AND_BACK).run();
            outcome.success();
            assert!(outcome.stdout().starts_with("w: rw\n"), "{outcome}");
            assert!(outcome.stdout().contains(word), "{outcome}");
            assert!(outcome.stdout().ends_with("w: ro\n"), "{outcome}");
        }
    }
    assert_eq!(mounts(), host);
    assert!(target.join("a").exists() && !target.join("b").exists());
}

/// The system's daemon serves users, with their rights and in their own sandboxes only.
#[test]
fn the_systems_daemon_serves_an_ordinary_user() {
    if !as_root() {
        // The other half of this: without the privilege there is no such daemon.
        let sandbox = Sandbox::new();
        let config = remount_tests::daemon::configure(&sandbox, "");
        let command = sandbox.host(remount_tests::bin("remountd")).option("--config");
        command.option(config).run().exits(1).says("only root can");
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    daemon.let_everybody_in();
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(sandbox.outside(), permissions).unwrap();
    };
    daemon.as_user("61299", THERE_AND_BACK).success();
    // It is that user who acts: what the user cannot reach is not switched.
    mode(0o700);
    let outcome = daemon.as_user("61299", "\"$CTL\" --socket \"$S\" rw w");
    assert_ne!(outcome.code(), Some(0), "{outcome}");
    mode(0o755);
}

#[test]
fn the_first_versions_clients_are_served() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let outcome = daemon.sandboxed(
        "for line in \"rw w\" \"ro w 1\" \"rw w $W 1\" list \"ro w\" \"ro x\" quit; do echo \"$line\"; done \
         | \"$SOCAT\" -t60 - UNIX-CONNECT:\"$S\"",
    );
    let word = daemon.target().display().to_string();
    let expected = format!("OK\nOK\nOK\nw rw {word}\nOK\nOK\nERROR: unknown target x\nOK\n");
    assert_eq!(outcome.stdout(), expected, "{outcome}");
}

#[test]
fn a_mount_below_the_target_is_named_by_its_path() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let below = sandbox.dir("outside/w/sub");
    let (word, sub) = (daemon.target(), below.to_str().unwrap());
    let word = word.to_str().unwrap();
    let script = r#"set -e
        "$CTL" --socket "$S" rw w "$W/sub"
        echo x >"$W/sub/a"
        ! (echo x >"$W/a") 2>/dev/null
        "$CTL" --socket "$S" ro w /sub
        ! (echo x >"$W/sub/b") 2>/dev/null
        "$CTL" --socket "$S" rw w "$W/../w/sub" && exit 9
        "$CTL" --socket "$S" rw w "$W/none" && exit 9
        exit 0"#;
    daemon.bwrap(["--ro-bind", word, word, "--ro-bind", sub, sub]).sh(script).run().success();
}

#[test]
fn busy_targets_name_their_holders_and_can_be_waited_for() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let outcome = daemon.sandboxed(
        r#""$CTL" --socket "$S" rw w; exec 9>"$W/held"
        "$CTL" --socket "$S" ro w; echo "code $?"
        (sleep 1; exec 9>&-) & exec 9>&-
        "$CTL" --socket "$S" ro w --wait 100s; echo "code $?""#,
    );
    assert_eq!(outcome.stdout(), "w: rw\ncode 3\nw: ro\ncode 0\n", "{outcome}");
    outcome.says("held");
}

#[test]
fn leases_end_by_themselves_and_with_their_holder() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "max-lease = \"1h\"\n");
    let outcome = daemon.sandboxed(
        r#""$CTL" --socket "$S" rw w --for 1h
        "$CTL" --socket "$S" status
        "$CTL" --socket "$S" rw w --for 300ms
        while echo x 2>/dev/null >"$W/a"; do sleep 0.05; done
        "$CTL" --socket "$S" rw w -- sh -c 'echo x >"$W/b"' && echo ran
        "$CTL" --socket "$S" list
        (echo x >"$W/c") 2>/dev/null || echo closed"#,
    );
    assert!(outcome.stdout().contains("LEFT"), "{outcome}");
    assert!(outcome.stdout().ends_with("closed\n"), "{outcome}");
    assert!(outcome.stdout().contains("ran\n"), "{outcome}");
}
