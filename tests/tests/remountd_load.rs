//! Many clients of remountd, and much of them. The counts are small by default;
//! `REMOUNT_REQUESTS=1000000` and `REMOUNT_SANDBOXES=1000` are what is promised.

use remount_tests::daemon::{Daemon, configure, remountd, socket};
use remount_tests::{Inside, LIMIT, Sandbox, bin, require, wait_until};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

fn count(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Of the daemon: kilobytes of its own, and how many descriptors it has.
fn size(pid: i32) -> (i64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    (line.trim().split(' ').next().unwrap().parse().unwrap(), descriptors)
}

fn helpers(pid: i32) -> usize {
    let path = format!("/proc/{pid}/task/{pid}/children");
    std::fs::read_to_string(path).unwrap().split_whitespace().count()
}

/// As [`size`], with no client connected: the daemon's sockets are its listener and, once it has
/// been asked for something, that of the helper that waits, which also has a pidfd.
fn alone(pid: i32) -> (i64, usize) {
    let is_socket = |entry: std::io::Result<std::fs::DirEntry>| {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap_or_default();
        target.to_string_lossy().starts_with("socket:")
    };
    let sockets = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(is_socket);
    let mut waiting = 0;
    wait_until("no client is connected", LIMIT, || {
        waiting = helpers(pid);
        waiting <= 1 && sockets().filter(|is| *is).count() == 1 + waiting
    });
    size(pid)
}

/// Whether the daemon has no more than `before` descriptors, as [`alone`] counts them.
fn is_at_rest(pid: i32, before: usize) -> bool {
    helpers(pid) <= 1 && size(pid).1 <= before + 2
}

/// A sandbox whose process does what the probe can do.
fn inside(daemon: &Daemon<'_>) -> Inside {
    let target = daemon.target();
    let command = daemon.bwrap([Path::new("--ro-bind"), &target, &target]);
    command.timeout(Duration::from_secs(900)).serve()
}

#[test]
fn memory_stays_flat_however_much_is_asked() {
    let requests = count("REMOUNT_REQUESTS", 30_000);
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let listens = socket(&sandbox);
    let (pid, mut clients) = (daemon.running.pid(), inside(&daemon));
    let none = alone(pid).1;
    let mut ask = |requests: u32| {
        let words = ["64".to_owned(), requests.to_string(), "ro w".into(), "rw w".into()];
        let words = ["crowd".into(), listens.display().to_string()].into_iter().chain(words);
        let took = clients.act(words).ok();
        wait_until("helpers and connections have ended", LIMIT, || is_at_rest(pid, none));
        took.parse::<f64>().unwrap() / 1e6
    };
    // So many that all buffers have their size.
    ask(5000);
    let before = size(pid).0;
    let took = ask(requests);
    let after = size(pid).0;
    let rate = f64::from(requests) / took;
    println!("{requests} requests in {took:.1} s, {rate:.0} a second; kB: {before}, {after}");
    assert!(after <= before + 256, "{before} {after}");
    clients.end().success();
    assert_eq!(daemon.sandboxed("\"$CTL\" --socket \"$S\" rw w").stdout(), "w: rw\n");
}

#[test]
fn many_sandboxes_are_connected_at_once() {
    let number = count("REMOUNT_SANDBOXES", 60);
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let (target, listens) = (daemon.target(), socket(&sandbox));
    let pid = daemon.running.pid();
    let alone = alone(pid);
    let attend = || {
        let command = daemon.bwrap([Path::new("--ro-bind"), &target, &target]).arg(bin("probe"));
        let command = command.arg("attend").arg(&listens).command(["rw w", "ro w"]);
        command.timeout(Duration::from_secs(600)).start_interactive()
    };
    let mut all: Vec<_> = (0..number).map(|_| attend()).collect();
    for mode in ["rw", "ro"] {
        for one in &mut all {
            one.send("\n");
        }
        for one in &mut all {
            assert_eq!(one.line(), "OK", "{mode}");
        }
    }
    let crowd = size(pid);
    println!("{number} sandboxes: kB and descriptors alone {alone:?}, with all {crowd:?}");
    assert!(crowd.1 >= alone.1 + number as usize, "all are connected: {alone:?} {crowd:?}");
    // One more is served like the first.
    assert_eq!(daemon.sandboxed("\"$CTL\" --socket \"$S\" rw w").stdout(), "w: rw\n");
    for mut one in all {
        one.close_stdin();
        one.wait().success();
    }
    wait_until("nothing is kept", LIMIT, || is_at_rest(pid, alone.1));
}

/// Each look at who connects may take longer than the daemon lets a peer hold it up: that must
/// not be taken for the peer's end. Being traced makes every call as slow as on a busy machine.
#[test]
fn a_slow_daemon_still_knows_its_clients() {
    let sandbox = Sandbox::new();
    let config = configure(&sandbox, "");
    let words = remountd(&sandbox).option("--config").option(config).words();
    let tracer = sandbox.host(require("strace")).options(["-f", "-qq", "-o", "/dev/null", "--"]);
    let running = tracer.command(words).start();
    let listens = socket(&sandbox);
    wait_until("the daemon listens", LIMIT, || UnixStream::connect(&listens).is_ok());
    let daemon = Daemon { sandbox: &sandbox, running };
    let mut clients = inside(&daemon);
    for _ in 0..3 {
        let words = ["crowd", listens.to_str().unwrap(), "64", "192", "ro w", "rw w"];
        clients.act(words).ok();
    }
    clients.end().success();
}

const LEASES: &str = r#"
import ctypes, json, os, socket, sys
libc = ctypes.CDLL(None)
def lease():
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        target = sys.argv[2].encode()
        assert libc.unshare(0x10020000) == 0 and libc.mount(target, target, None, 4096, None) == 0
        s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
        s.sendall(b'{"op":"set","targets":["w"],"mode":"rw","for-ms":3600000}\n')
        theirs.sendall(s.recv(4096)); os._exit(0)
    os.wait()
    return json.loads(ours.recv(4096))
granted = 0
while True:
    answer = lease()
    if not answer["ok"]: break
    granted += 1
print(granted, "granted, then:", answer["message"].split(": ")[1].replace(" in other sandboxes", ""))
"#;

/// A lease keeps a namespace, also when nobody is left in it: one user has only so many.
#[test]
fn leases_of_sandboxes_that_are_gone_are_bounded() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let outcome = sandbox.host(require("python3")).option("-c").option(LEASES);
    let outcome = outcome.arg(socket(&sandbox)).arg(daemon.target()).run();
    assert_eq!(outcome.success().stdout(), "64 granted, then: too many are on lease\n");
    // Without one nothing is kept.
    assert_eq!(daemon.sandboxed("\"$CTL\" --socket \"$S\" rw w").stdout(), "w: rw\n");
}
