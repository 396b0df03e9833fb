//! Clients of remountd that want more than they may have. None of them changes anything,
//! none holds up the daemon, each is told why.

use remount_tests::daemon::{Daemon, socket};
use remount_tests::{LIMIT, Sandbox, bin, children, mounts, require, wait_until};
use rustix::process::Signal;
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
    // Before anybody tries, who looks is told.
    let status = "\"$CTL\" --socket \"$S\" status";
    let without = daemon.bwrap(words(&[&"--dev", &"/dev"])).sh(status).run();
    assert!(without.success().stdout().contains("\nunmounted: no mount of its own"), "{without}");
    let with = daemon.bwrap(words(&[&"--bind", &target, &target])).sh(status).run();
    assert!(!with.success().stdout().contains("unmounted"), "{with}");
    assert_eq!(mounts(), host);
    assert!(!target.join("mark").exists() && !other.join("mark").exists());
}

/// Who has all capabilities in the sandbox may move its mounts; what is switched is still the
/// directory that is meant, at the path that is meant, or nothing.
#[test]
fn a_mount_that_was_moved_is_not_switched() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let (target, other) = (daemon.target(), sandbox.dir("outside/other"));
    let elsewhere = sandbox.dir("outside/elsewhere");
    let script = format!(
        r#"exec 2>&1
        "$0" bind-mount "$W" "$W"; "$0" mount-setattr "$W" ro
        "$0" move-mount "$W" "$1"; {TRY}
        "$0" bind-mount "$2" "$W"; "$0" mount-setattr "$W" ro; {TRY}
        "$0" umount "$W"; "$0" move-mount "$1" "$W"; {TRY}"#
    );
    let command = sandbox.host(require("unshare"));
    let command = command.options(["--user", "--map-root-user", "--mount", "--"]).sh(&script);
    let command = daemon.with_variables(command).arg(bin("probe")).arg(&elsewhere).arg(&other);
    let outcome = command.run();
    let said = outcome.stdout();
    let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("hint:")).collect();
    let path = target.display();
    let no_mount = format!("remountctl: switch w: {path} is no mount of its own");
    let another = format!("remountctl: find w: {path}: in the sandbox that is another file");
    let expected = [
        "ok", "ok", "ok", &no_mount, "code 6", "ok", "ok", &another, "code 6", "ok", "ok", "w: rw",
        "code 0", "WROTE",
    ];
    assert!(lines.iter().filter(|line| **line != "WROTE").eq(expected[..13].iter()), "{outcome}");
    // In the middle there was no mount in the way of writing, and nothing was made one.
    assert!(lines.ends_with(&["code 0", "WROTE"]), "{outcome}");
    assert!(!other.join("mark").exists());
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

/// Connects, and then mounts a FUSE file system that hears every question and answers none but
/// the first over a directory, in a mount namespace of its own; asks the daemon, and says what
/// it answered. The server goes on until its input ends.
const HUNG: &str = r#"
import ctypes, os, socket, struct, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"hung", sys.argv[2].encode(), b"fuse", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
# FUSE_INIT, include/uapi/linux/fuse.h: a header of 40 bytes, the request's number at 8.
number = os.read(fuse, 1 << 17)[8:16]
about = struct.pack("<IIIIHHIIHH32x", 7, 31, 4096, 0, 8, 8, 4096, 1, 1, 0)
os.write(fuse, struct.pack("<Ii", 16 + len(about), 0) + number + about)
server = os.fork()
if server == 0:
    while True: os.read(fuse, 1 << 17)
os.close(fuse)
s.sendall(b"ro w\n")
print(s.recv(999).decode().strip(), flush=True)
sys.stdin.read()
os.kill(server, 9); os.waitpid(server, 0)
"#;

/// A file system stands at the target, or on the way to it. The daemon's helpers wait for it
/// beyond the reach of SIGKILL; they are few, and nobody else waits.
#[test]
fn a_file_system_that_never_answers_holds_up_nobody_else() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let target = daemon.target();
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        // Then this user cannot make one either: root's pass does.
        assert!(!remount_tests::as_root(), "{error}");
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        return;
    }
    let hang = |at: &Path| {
        let command = sandbox.host(require("unshare"));
        let command = command.options(["--user", "--map-root-user", "--mount", "--"]);
        let command = command.command(["/usr/bin/python3", "-c", HUNG]).arg(socket(&sandbox));
        command.arg(at).start_interactive()
    };
    let places = [target.as_path(), target.parent().unwrap()];
    // Asked for before that, and to end while it lasts.
    let lent = "\"$CTL\" --socket \"$S\" rw w -- sh -c 'echo lent; cat'
        while echo x 2>/dev/null >\"$W/lent\"; do sleep 0.05; done; echo closed";
    let lent = daemon.bwrap(words(&[&"--ro-bind", &target, &target])).sh(lent);
    let mut lent = lent.start_interactive();
    assert_eq!(lent.line(), "lent");
    // As many as one user may have.
    let mut hung: Vec<_> = (0..12).map(|number| hang(places[number % 2])).collect();
    for client in &mut hung {
        let line = client.line();
        assert!(
            line.starts_with("ERROR: ")
                && line.contains("did not answer within 2s: stuck in a file system of the sandbox"),
            "{line}"
        );
    }
    let refused = daemon.sandboxed(TRY);
    assert_eq!(refused.stdout(), "code 1\n", "{refused}");
    refused.says("earlier ones are stuck in a file system");
    // No request of anybody's is in the way of what ends a lease, the same user's neither.
    lent.close_stdin();
    assert_eq!(lent.line(), "closed");
    lent.wait().success();
    daemon.let_everybody_in();
    let other = daemon.as_user("61299", TRY);
    assert_eq!(other.stdout(), "w: rw\ncode 0\nWROTE\n", "{other}");
    for client in hung {
        client.wait();
    }
    wait_until("helpers are there again", LIMIT, || {
        daemon.sandboxed(TRY).stdout() == "w: rw\ncode 0\nWROTE\n"
    });
}

/// Makes requests, and stops each helper as soon as it has answered: over a process in its user
/// namespace this one has every right. Looking into one is refused all the same. Says what the
/// answers were; what it has stopped stays so.
const STOPS: &str = r#"
import ctypes, os, signal, socket, sys
listens, target, daemon = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(target.encode(), target.encode(), None, 0x1000, None):
    sys.exit(os.strerror(ctypes.get_errno()))
s = socket.socket(socket.AF_UNIX); s.connect(listens)
stopped, answers = set(), set()
for number in range(600):
    s.sendall(b"ro w\n" if number % 2 else b"rw w\n")
    answers.add(s.recv(999).decode().strip())
    for pid in open(f"/proc/{daemon}/task/{daemon}/children").read().split():
        try:
            # One without an errand: of the same user's, it could be stopped, too.
            if "CapEff:\t0000000000000000" in open(f"/proc/{pid}/status").read(): continue
            if pid not in stopped: os.kill(int(pid), signal.SIGSTOP)
        except OSError: continue
        stopped.add(pid)
        if libc.ptrace(0x4206, int(pid), None, None) == 0: sys.exit("traced") # PTRACE_SEIZE
    if len(stopped) > 60: break
print(*answers, flush=True)
sys.stdin.read()
"#;

/// Who has all rights in a sandbox may stop the helpers there. That is in nobody's way.
#[test]
fn a_helper_that_is_stopped_holds_up_nobody() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    daemon.let_everybody_in();
    let pid = daemon.running.pid();
    let words = ["--user", "--map-root-user", "--mount", "--", "/usr/bin/python3", "-c", STOPS];
    let command = sandbox.host(require("unshare")).options(words);
    let command = command.arg(socket(&sandbox)).arg(daemon.target()).arg(pid.to_string());
    let command = match remount_tests::as_root() {
        false => command,
        true => sandbox
            .host(require("setpriv"))
            .options(["--reuid", "61298", "--regid", "61298", "--clear-groups", "--"])
            .command(command.words()),
    };
    let mut hostile = command.start_interactive();
    assert_eq!(hostile.line(), "OK");
    wait_until("what was stopped is gone", LIMIT, || children(pid).len() <= 1);
    // As root another user's, else the same user's other sandbox.
    let other = |script: &str| match remount_tests::as_root() {
        true => daemon.as_user("61299", script).stdout(),
        false => daemon.sandboxed(script).stdout(),
    };
    assert_eq!(other(TRY), "w: rw\ncode 0\nWROTE\n");
    let lease = r#""$CTL" --socket "$S" rw w --for 1s; echo x >"$W/first" && echo WROTE
        while echo x 2>/dev/null >"$W/a"; do sleep 0.05; done; echo closed"#;
    assert_eq!(other(lease), "w: rw\nWROTE\nclosed\n");
    hostile.close_stdin();
    hostile.wait().success();
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

/// What another rule keeps is that rule's, also where the first one's path leads to it.
#[test]
fn a_path_of_one_target_does_not_reach_another() {
    let sandbox = Sandbox::new();
    let (git, sub) = (sandbox.dir("outside/w/.git"), sandbox.dir("outside/w/sub"));
    let kept = format!("[targets.git]\npath = {git:?}\nauthority = \"host\"\n");
    let daemon = Daemon::new(&sandbox, &kept);
    let target = daemon.target();
    let options = [&target, &git, &sub].map(|dir| [Path::new("--ro-bind"), dir, dir]);
    let script = r#""$CTL" --socket "$S" rw w /sub && echo x >"$W/sub/a" || exit 9
        for path in /.git "$W/.git" /.git/hooks; do
            "$CTL" --socket "$S" rw w "$path"; echo "code $?"
        done
        (echo x >"$W/.git/a") 2>&1 | grep -o 'Read-only file system'"#;
    let outcome = daemon.bwrap(options.into_iter().flatten()).sh(script).run();
    let refused = "code 5\n".repeat(3);
    assert_eq!(outcome.stdout(), format!("w: rw\n{refused}Read-only file system\n"), "{outcome}");
    outcome.says("belongs to another target");
}

/// A command line is in its process's memory, and whoever reads it waits for that.
#[test]
fn the_log_names_who_asks_without_a_look_into_its_memory() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    daemon.sandboxed("\"$CTL\" --socket \"$S\" rw w; \"$CTL\" --socket \"$S\" rw v");
    daemon.running.kill(Signal::TERM);
    let log = daemon.running.wait();
    for event in ["granted", "refused"] {
        let stderr = log.stderr();
        let line = stderr.lines().find(|line| line.contains(event));
        let line = line.unwrap_or_else(|| panic!("no {event}: {log}"));
        assert!(line.contains(r#""command":"remountctl""#), "{line}");
    }
}
