//! remountd's first version: its clients with our daemon, and our client with its daemon, of
//! which a stand-in here says only what its protocol has. Bytes are compared as they are.

use remount_tests::daemon::{Daemon, socket};
use remount_tests::{Running, Sandbox, require};
use std::path::{Path, PathBuf};

/// Sends bytes, in as many pieces as there are words, and prints what comes until the end of
/// an answer; then closes as the first argument says: `half` is before the answer.
const CLIENT: &str = r#"
import os, socket, sys
how, *pieces = sys.argv[1:]
s = socket.socket(socket.AF_UNIX); s.settimeout(60); s.connect(os.environ["S"])
for piece in pieces:
    s.sendall(piece.encode().decode("unicode_escape").encode().replace(b"PID", str(os.getpid()).encode()))
if how == "half":
    s.shutdown(socket.SHUT_WR)
answer = b""
while not (answer.endswith(b"\n") and answer.splitlines()[-1].split(b":")[0] in (b"OK", b"ERROR")):
    part = s.recv(4096)
    if not part: break
    answer += part
print(answer.decode(), end="")
"#;

#[test]
fn the_first_versions_clients_are_served_in_both_forms() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let client = sandbox.file("outside/client.py", CLIENT);
    let below = sandbox.dir("outside/w/sub");
    let word = daemon.target().display().to_string();
    let run = |how: &str, pieces: &[&str]| {
        let target = daemon.target();
        let options = [
            Path::new("--ro-bind"),
            &target,
            &target,
            Path::new("--ro-bind"),
            &below,
            &below,
            Path::new("--unshare-pid"),
        ];
        let command = daemon.bwrap(options).arg("/usr/bin/python3").arg(&client).arg(how);
        command.command(pieces).run().success().stdout()
    };
    for how in ["open", "half"] {
        // A name and the client's pid; with a path of the mount between them.
        for line in ["rw w PID\\n", "ro w 1\\n", "rw w\\n", "ro w /sub PID\\n"] {
            assert_eq!(run(how, &[line]), "OK\n", "{how} {line}");
        }
        assert_eq!(run(how, &[&format!("rw w {word}/sub PID\\n")]), "OK\n");
        assert_eq!(run(how, &["r", "w w 4", "2\\n"]), "OK\n");
        assert_eq!(run(how, &["list\\n"]), format!("w ro {word}\nOK\n"));
        assert_eq!(run(how, &["quit\\n"]), "OK\n");
        assert_eq!(run(how, &["rw x PID\\n"]), "ERROR: unknown target x\n");
        let refused = run(how, &["ro w /none PID\\n"]);
        assert!(
            refused.starts_with("ERROR: find w on the host: ") && refused.ends_with('\n'),
            "{refused}"
        );
        let refused = run(how, &["rw w /../../etc PID\\n"]);
        assert!(refused.starts_with("ERROR: ") && refused.ends_with('\n'), "{refused}");
        let refused = run(how, &["explode w PID\\n"]);
        assert!(refused.starts_with("ERROR: ") && refused.ends_with('\n'), "{refused}");
    }
}

/// The other daemon: what it does not know is an error, and what it is told it believes. Prints
/// each line that it hears, with a word for the client's own pid.
const STAND_IN: &str = r#"
import os, re, socket, struct, sys
path, keeps = sys.argv[1], sys.argv[2] == "keeps"
listener = socket.socket(socket.AF_UNIX); listener.bind(path); listener.listen()
print("listens", flush=True)
def answer(line):
    if line == "list": return "w /somewhere\nv /else/where\nOK\n"
    if line == "quit": return "OK\n"
    match = re.fullmatch(r"(ro|rw) ([a-z]+)( /\S+)? ([0-9]+)", line)
    if not match: return "ERROR: invalid request\n"
    return "OK\n" if match[2] == "w" else "ERROR: unknown identifier\n"
while True:
    connection, _ = listener.accept()
    pid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    for line in connection.makefile("r"):
        print(re.sub(rf"\b{pid}\b", "PID", line.rstrip("\n")), flush=True)
        reply = answer(line.rstrip("\n"))
        connection.sendall(reply.encode())
        if not keeps and reply.startswith("ERROR"):
            break
    connection.close()
"#;

fn stand_in(sandbox: &Sandbox, how: &str) -> Running {
    let file = sandbox.file("outside/stand-in.py", STAND_IN);
    let command = sandbox.host(require("python3")).arg(file).arg(socket(sandbox)).arg(how);
    let mut running = command.start();
    assert_eq!(running.line(), "listens");
    running
}

#[test]
fn our_client_works_with_the_first_versions_daemon() {
    for how in ["keeps", "closes"] {
        let sandbox = Sandbox::new();
        let mut other = stand_in(&sandbox, how);
        let ctl = |words: &[&str]| {
            sandbox.ctl().option("--socket").option(socket(&sandbox)).command(words).run()
        };
        let mut hears = |line: &str| {
            assert!(other.line().starts_with('{'), "our own words come first");
            assert_eq!(other.line(), line);
        };
        assert_eq!(ctl(&["ro", "w"]).success().stdout(), "w: ro\n");
        hears("ro w PID");
        assert_eq!(ctl(&["rw", "w"]).success().stdout(), "w: rw\n");
        hears("rw w PID");
        assert_eq!(ctl(&["ro", "w", "/some/path"]).success().stdout(), "w: ro\n");
        hears("ro w /some/path PID");
        ctl(&["ro", "x"]).exits(1).says("unknown identifier");
        hears("ro x PID");
        assert_eq!(ctl(&["--list"]).success().stdout(), "w /somewhere\nv /else/where\n");
        hears("list");
        // What it cannot do is not done by halves.
        ctl(&["rw", "w", "--for", "1h"]).exits(1).says("this remountd is of the first version");
        assert!(other.line().starts_with('{'));
    }
}

/// The configuration names the socket; a directory of the sandbox, or a descriptor, is the way
/// to it.
#[test]
fn the_socket_is_found_by_configuration_environment_and_descriptor() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let yaml = format!("socket: {}\nallow:\n  w:\n    path: /x\n", socket(&sandbox).display());
    let yaml = sandbox.file("outside/config.yaml", yaml);
    let outcome = daemon.sandboxed(&format!("\"$CTL\" --config {} rw w", yaml.display()));
    assert_eq!(outcome.stdout(), "w: rw\n", "{outcome}");
    let outcome = daemon.sandboxed("REMOUNT_SOCKET=\"$S\" \"$CTL\" rw w");
    assert_eq!(outcome.stdout(), "w: rw\n", "{outcome}");
    let outcome = daemon.sandboxed("REMOUNT_SOCKET=\"$S.none\" \"$CTL\" rw w");
    outcome.exits(4).says("s.sock.none");
    // Nothing of the directory is to be seen inside but the target.
    let script = r#"
import os, subprocess, sys
fd = os.open(os.environ["S"], os.O_PATH)
os.environ["REMOUNT_SOCKET"] = f"/proc/self/fd/{fd}"
sys.exit(subprocess.run(sys.argv[1:], pass_fds=[fd]).returncode)
"#;
    let (target, root) = (daemon.target(), sandbox.root().display().to_string());
    let options = ["--tmpfs", &root, "--ro-bind"].map(PathBuf::from);
    let (ctl, inside) = (remount_tests::bin("remountctl"), sandbox.root().join("ctl"));
    let command = daemon
        .bwrap(options)
        .option(&target)
        .option(&target)
        .options(["--ro-bind".as_ref(), ctl.as_os_str(), inside.as_os_str()])
        .options(["--dir".as_ref(), sandbox.project().as_os_str()])
        .sh("test ! -e \"$S\" && ../ctl rw w && : >\"$W/a\"");
    let words = command.words();
    let python = sandbox.host(require("python3")).option("-c").option(script);
    let outcome = daemon.with_variables(python).command(words).run();
    assert_eq!(outcome.stdout(), "w: rw\n", "{outcome}");
    outcome.success();
}

/// Without a word of where: the sandbox's own broker, then the user's daemon, then the system's.
#[test]
fn the_right_broker_is_found() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let (target, run) = (daemon.target(), sandbox.dir("outside/run"));
    let listens = socket(&sandbox);
    for (place, variable) in
        [("/run/user/7/remountd.sock", "/run/user/7"), ("/run/remountd/remountd.sock", "/none")]
    {
        let outcome = daemon
            .bwrap([
                "--tmpfs".as_ref(),
                "/run".as_ref(),
                "--ro-bind".as_ref(),
                listens.as_os_str(),
                place.as_ref(),
            ])
            .options(["--ro-bind".as_ref(), target.as_os_str(), target.as_os_str()])
            .sh("\"$CTL\" rw w")
            .env("XDG_RUNTIME_DIR", variable)
            .run();
        assert_eq!(outcome.stdout(), "w: rw\n", "{outcome}");
    }
    // In a sandbox of remount-run its own broker is asked, whatever else listens.
    std::os::unix::fs::symlink(&listens, run.join("remountd.sock")).unwrap();
    let embedded = sandbox.remount().env("XDG_RUNTIME_DIR", &run).sh("remountctl list").run();
    assert!(embedded.success().stdout().contains("workspace"), "{embedded}");
}
