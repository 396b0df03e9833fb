//! remountd's first version: its clients with our daemon, and our client with its daemon, of
//! which a stand-in here says only what its protocol has. Bytes are compared as they are.

use remount_tests::daemon::{Daemon, socket};
use remount_tests::{Sandbox, require};
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
        for line in [
            "rw w PID\\n",
            "ro w 1\\n",
            "rw w\\n",
            "ro w / PID\\n",
            "ro w /sub PID\\n",
            "rw w PID\\r\\n",
            "ro w / PID\\r\\n",
        ] {
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

/// The other daemon, in its two forms: in the later one, lines have a path always. What it does
/// not know it hangs up on. Prints each line that it hears, with a word for the client's pid.
const STAND_IN: &str = r#"
import re, socket, struct, sys
path, words = sys.argv[1], int(sys.argv[2])
listener = socket.socket(socket.AF_UNIX); listener.bind(path); listener.listen()
print("listens", flush=True)
def answer(line):
    if line == "list": return "w /somewhere\nv /else/where\n"
    tokens = line.split()
    if tokens[0] not in ("ro", "rw"): return ""
    if len(tokens) != words: return "ERROR: invalid command format.\n"
    if tokens[1] != "w": return "ERROR: unknown identifier.\n"
    return "OK\n" if tokens[-1] == str(pid) else "ERROR: that is no running process.\n"
while True:
    connection, _ = listener.accept()
    pid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    for line in connection.makefile("r"):
        line = line.rstrip("\n")
        print(re.sub(rf"\b{pid}\b", "PID", line), flush=True)
        reply = answer(line)
        if not reply:
            break
        connection.sendall(reply.encode())
    connection.close()
"#;

#[test]
fn our_client_works_with_the_first_versions_daemon() {
    for words in ["3", "4"] {
        let sandbox = Sandbox::new();
        let file = sandbox.file("outside/stand-in.py", STAND_IN);
        let command = sandbox.host(require("python3")).arg(file).arg(socket(&sandbox)).arg(words);
        let mut other = command.start();
        assert_eq!(other.line(), "listens");
        let ctl = |words: &[&str]| {
            sandbox.ctl().option("--socket").option(socket(&sandbox)).command(words).run()
        };
        let mut hears = |lines: &[&str]| {
            assert!(other.line().starts_with('{'), "our own words come first");
            for line in lines {
                assert_eq!((other.line().as_str(), other.line().as_str()), (*line, "quit"));
            }
        };
        for mode in ["ro", "rw"] {
            let outcome = ctl(&[mode, "w"]);
            assert_eq!(outcome.success().stdout(), format!("w: {mode}\n"));
            let (plain, path) = (&*format!("{mode} w PID"), &*format!("{mode} w / PID"));
            let both = [plain, path];
            hears(if words == "3" { &both[..1] } else { &both });
        }
        let outcome = ctl(&["ro", "w", "/some/path"]);
        hears(&["ro w /some/path PID"]);
        if words == "3" {
            outcome.exits(1).says("invalid command format");
        } else {
            assert_eq!(outcome.success().stdout(), "w: ro\n");
        }
        ctl(&["ro", "x"]).exits(1).says("unknown identifier");
        hears(if words == "3" { &["ro x PID"][..] } else { &["ro x PID", "ro x / PID"] });
        assert_eq!(ctl(&["--list"]).success().stdout(), "w /somewhere\nv /else/where\n");
        hears(&["list"]);
        // What it cannot do is not done by halves.
        let outcome = ctl(&["rw", "w", "--for", "1h"]);
        outcome.exits(1).says("or is of the first version");
        hears(&[]);
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
    // Empty is unset: the daemon is found where it is by itself.
    let run = sandbox.dir("outside/run");
    std::os::unix::fs::symlink(socket(&sandbox), run.join("remountd.sock")).unwrap();
    let script = "REMOUNT_SOCKET= REMOUNT_CHANNEL= XDG_RUNTIME_DIR=\"$0\" \"$CTL\" rw w";
    let outcome = daemon.sandboxed(&script.replace("$0", run.to_str().unwrap()));
    assert_eq!(outcome.stdout(), "w: rw\n", "{outcome}");
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
