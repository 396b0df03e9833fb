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
        r#"head -c 100000 /dev/urandom | "$SOCAT" -t60 - UNIX-CONNECT:"$S" >/dev/null 2>&1
        head -c 5000 /dev/zero | tr '\0' x | "$SOCAT" -t60 - UNIX-CONNECT:"$S" 2>/dev/null | head -c 25
        printf 'rw w' | "$SOCAT" -t60 - UNIX-CONNECT:"$S"
        "$CTL" --socket "$S" rw w"#,
    );
    assert_eq!(outcome.stdout(), "ERROR: bad request: line w: rw\n", "{outcome}");
}

/// Mounts a FUSE file system that nobody serves over a directory, in a mount namespace of its
/// own, and asks the daemon to switch it.
const HUNG: &str = r#"
import ctypes, os, subprocess, sys
target, words = sys.argv[1], sys.argv[2:]
fuse = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"hung", target.encode(), b"fuse", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
sys.exit(subprocess.run(words).returncode)
"#;

#[test]
fn a_file_system_that_never_answers_holds_up_nobody_else() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let target = daemon.target();
    let target = target.to_str().unwrap();
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        // Then this user cannot make one either: root's pass does.
        assert!(!remount_tests::as_root(), "{error}");
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        return;
    }
    let ctl = daemon.ctl().command(["ro", "w"]).words();
    let hang = || {
        let command = sandbox.host(remount_tests::require("unshare"));
        let command = command.options(["--user", "--map-root-user", "--mount", "--"]);
        command.command(["/usr/bin/python3", "-c", HUNG, target]).command(&ctl).start()
    };
    let hung: Vec<_> = (0..3).map(|_| hang()).collect();
    for _ in 0..5 {
        assert_eq!(daemon.sandboxed(TRY).stdout(), "w: rw\ncode 0\nWROTE\n");
    }
    for client in hung {
        let outcome = client.wait();
        outcome.exits(1).says("does not answer");
    }
    assert_eq!(daemon.sandboxed(TRY).stdout(), "w: rw\ncode 0\nWROTE\n");
}

/// The namespace that a client connected from is where its requests act, or nowhere.
#[test]
fn a_client_that_is_gone_or_elsewhere_is_not_served() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let target = daemon.target();
    // Connects, leaves the connection to a child, and ends: nobody is left whose it is.
    let gone = r#"
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent: time.sleep(0.01)
    s.sendall(b"rw w\n"); print(s.recv(999).decode().strip(), flush=True)
    os._exit(0)
os._exit(0)
"#;
    let changed = r#"
import ctypes, os, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"rw w\n"); first = s.recv(999)
s.sendall(b"ro w\n"); s.recv(999)
if ctypes.CDLL(None).unshare(0x10020000): sys.exit("unshare")
s.sendall(b"rw w\n"); print(first.decode().strip(), s.recv(999).decode().strip())
"#;
    for (script, expected) in [
        (gone, "ERROR: find the caller: it has ended"),
        (
            changed,
            "OK ERROR: find the caller: it has changed its mount namespace since it connected",
        ),
    ] {
        let command = daemon.bwrap(words(&[&"--ro-bind", &target, &target]));
        let script = format!(
            "said=$(/usr/bin/python3 -c '{script}' \"$S\"); echo \"$said\"; (echo x >\"$W/mark\") 2>/dev/null && echo WROTE; true"
        );
        let outcome = command.sh(&script).run();
        assert_eq!(outcome.stdout().trim(), expected, "{outcome}");
    }
}
