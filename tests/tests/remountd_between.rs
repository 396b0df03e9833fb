//! What a client may do between its request and the daemon's looking at it: the daemon is
//! stopped meanwhile, so that what comes first is certain.

use remount_tests::daemon::{Daemon, configure, remountd, socket};
use remount_tests::{LIMIT, Running, Sandbox, bin, require, wait_until};
use rustix::process::Signal;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Connects and is known to the daemon; on a word makes its request and goes on as `THEN`
/// says. `tell` reads the answer. Whoever stays behind in the sandbox says what it can write.
const CLIENT: &str = r#"
import ctypes, os, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(os.environ["S"])
s.sendall(b"list\n")
while not s.recv(999).endswith(b"OK\n"): pass
def tell():
    print("answer:", s.recv(999).decode().strip(), flush=True)
def mark(who):
    try:
        open(os.environ["W"] + "/mark", "w").close()
        print(who, "wrote", flush=True)
    except OSError as error:
        print(who, error.errno, flush=True)
print("known", flush=True)
input()
s.sendall(b"rw w\n")
"#;

const STAYS: &str =
    "; echo done; read line; (: >\"$W/mark\") 2>/dev/null && echo stays wrote; echo end";

struct World<'a> {
    daemon: Daemon<'a>,
    inside: Running,
}

impl<'a> World<'a> {
    /// The client's request has been made, and it has done what it does then.
    fn new(sandbox: &'a Sandbox, daemon: Daemon<'a>, then: &str) -> Self {
        let client = sandbox.file("outside/client.py", format!("{CLIENT}{then}"));
        let target = daemon.target();
        let script = format!("/usr/bin/python3 {}{STAYS}", client.display());
        let command = daemon.bwrap([Path::new("--ro-bind"), &target, &target]).sh(&script);
        let mut inside = command.start_interactive();
        assert_eq!(inside.line(), "known");
        stop(&daemon.running);
        inside.send("\n");
        World { daemon, inside }
    }

    fn go_on(&self) {
        self.daemon.running.kill(Signal::CONT);
    }

    /// What the one who stays says, and that the daemon serves others.
    fn end(mut self) -> String {
        self.inside.send("\n");
        let mut text = String::new();
        loop {
            let line = self.inside.line();
            if line == "end" {
                break;
            }
            text.push_str(&line);
            text.push('\n');
        }
        self.inside.close_stdin();
        self.inside.wait().success();
        let other = self.daemon.sandboxed("\"$CTL\" --socket \"$S\" rw w");
        assert_eq!(other.stdout(), "w: rw\n", "{other}");
        text
    }
}

fn stop(running: &Running) {
    running.kill(Signal::STOP);
    wait_until("it has stopped", LIMIT, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid())).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('T')
    });
}

/// The daemon on this kernel, and as it is on one before 6.5.
fn both(each: impl Fn(&Sandbox, Daemon<'_>)) {
    let sandbox = Sandbox::new();
    each(&sandbox, Daemon::new(&sandbox, ""));
    let sandbox = Sandbox::new();
    each(&sandbox, older(&sandbox));
}

fn older(sandbox: &Sandbox) -> Daemon<'_> {
    let config = configure(sandbox, "");
    let words = remountd(sandbox).option("--config").option(config).words();
    let probe = sandbox.host(bin("probe")).options(["--no-peer-pidfd", "exec"]);
    let running = probe.command(words).start();
    let path = socket(sandbox);
    wait_until("the daemon listens", LIMIT, || UnixStream::connect(&path).is_ok());
    Daemon { sandbox, running }
}

#[test]
fn one_that_stays_as_it_is_is_served() {
    both(|sandbox, daemon| {
        let mut world = World::new(sandbox, daemon, "tell(); mark('it')\n");
        world.go_on();
        assert_eq!(world.inside.line(), "answer: OK");
        assert_eq!(world.inside.line(), "it wrote");
        assert_eq!(world.end(), "done\nstays wrote\n");
    });
}

#[test]
fn one_that_ends_has_asked_for_nothing() {
    both(|sandbox, daemon| {
        let mut world = World::new(sandbox, daemon, "os._exit(0)\n");
        // It has been reaped: its shell goes on.
        assert_eq!(world.inside.line(), "done");
        world.go_on();
        let target = world.daemon.target();
        let daemon = &world.daemon;
        // The request has been looked at when a later one is answered.
        daemon
            .bwrap([Path::new("--ro-bind"), &target, &target])
            .sh("\"$CTL\" --socket \"$S\" list")
            .run()
            .success();
        assert_eq!(world.end(), "");
        assert!(!target.join("mark").exists());
    });
}

#[test]
fn one_that_hands_its_connection_on_and_ends_gets_an_error() {
    both(|sandbox, daemon| {
        // The other one waits until its parent has been reaped.
        let then = "parent = os.getpid()\nif os.fork() == 0:\n    while os.path.exists(f'/proc/{parent}'): pass\n    print('alone', flush=True); tell(); mark('it')\nos._exit(0)\n";
        let mut world = World::new(sandbox, daemon, then);
        world.inside.line_with("alone");
        world.go_on();
        world.inside.line_with("answer: ERROR: find the caller: it has ended");
        assert_eq!(world.inside.line(), "it 30");
        let said = world.end();
        assert!(!said.contains("wrote"), "{said}");
    });
}

#[test]
fn one_that_executes_another_program_is_the_same_process_still() {
    both(|sandbox, daemon| {
        let then = "os.set_inheritable(s.fileno(), True)\nprogram = 'import socket, sys; print(\"answer:\", socket.socket(fileno=int(sys.argv[1])).recv(99).decode().strip())'\nprint('executes', flush=True)\nos.execv('/usr/bin/python3', ['python3', '-c', program, str(s.fileno())])\n";
        let mut world = World::new(sandbox, daemon, then);
        assert_eq!(world.inside.line(), "executes");
        world.go_on();
        assert_eq!(world.inside.line(), "answer: OK");
        assert_eq!(world.end(), "done\nstays wrote\n");
    });
}

#[test]
fn one_that_goes_elsewhere_changes_nothing_here_or_there() {
    both(|sandbox, daemon| {
        let then = "assert ctypes.CDLL(None).unshare(0x10020000) == 0\nprint('elsewhere', flush=True); tell(); mark('it')\n";
        let mut world = World::new(sandbox, daemon, then);
        assert_eq!(world.inside.line(), "elsewhere");
        world.go_on();
        let answer =
            "answer: ERROR: find the caller: it has changed its mount namespace since it connected";
        assert_eq!(world.inside.line(), answer);
        assert_eq!(world.inside.line(), "it 30");
        assert_eq!(world.end(), "done\n");
    });
}

/// A number that has gone to another process does not name it, also where the kernel names
/// peers by number only. In a PID namespace of its own, the next number can be chosen.
#[test]
fn a_number_that_is_used_again_is_nobody_elses() {
    let sandbox = Sandbox::new();
    let config = configure(&sandbox, "host-namespace = true\n");
    let script = r#"
import os, signal, socket, subprocess, sys, time
probe, path, *daemon = sys.argv[1:]
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    return s
def ask(s):
    s.sendall(b"list\n")
    return s.recv(999).decode().splitlines()[-1]
for older in (["exec"], ["--no-peer-pidfd", "exec"]):
    server = subprocess.Popen([probe, *older, *daemon])
    while True:
        try:
            connect().close()
            break
        except OSError:
            time.sleep(0.01)
    mine, theirs = socket.socketpair()
    first = os.fork()
    if first == 0:
        s = connect()
        print(ask(s), end=" / ", flush=True)
        socket.send_fds(theirs, [b"x"], [s.fileno()])
        os._exit(0)
    _, fds, _, _ = socket.recv_fds(mine, 1, 1)
    s = socket.socket(fileno=fds[0])
    os.waitpid(first, 0)
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(first - 1))
    second = os.fork()
    if second == 0:
        signal.pause()
    assert second == first, (first, second)
    print(ask(s), "/", ask(connect()), flush=True)
    os.kill(second, signal.SIGKILL)
    os.waitpid(second, 0)
    server.terminate()
    server.wait()
"#;
    let file = sandbox.file("outside/reuse.py", script);
    let words = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--"];
    let daemon: [PathBuf; 4] = [bin("remountd"), "--user".into(), "--config".into(), config];
    let outcome = sandbox
        .host(require("unshare"))
        .options(words)
        .command([require("python3"), file, bin("probe"), socket(&sandbox)])
        .command(daemon)
        .run();
    let line = "OK / ERROR: find the caller: it has ended / OK\n";
    assert_eq!(outcome.success().stdout(), line.repeat(2), "{outcome}");
}
