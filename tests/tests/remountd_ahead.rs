//! `remountctl` sends what it can before the C library starts: once, and as it would have later.

use remount_tests::daemon::{Daemon, socket};
use remount_tests::{LIMIT, Sandbox, require, wait_until};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};

/// The system calls that send and receive, and the library's first own.
const TRACED: &str = "trace=socket,connect,sendto,recvfrom,arch_prctl,set_tid_address";

#[test]
#[cfg(target_arch = "x86_64")]
fn the_request_is_sent_before_the_library_starts_and_not_again() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let strace = require("strace").display().to_string();
    for (mode, printed) in [("rw", "w: rw\n"), ("toggle", "w: ro\n"), ("ro", "w: ro\n")] {
        let target = daemon.target().display().to_string();
        let script = format!(
            "\"$CTL\" --socket \"$S\" ro w; \"$CTL\" --socket \"$S\" rw w; \
             '{strace}' -qq -e {TRACED} \"$CTL\" --socket \"$S\" {mode} w"
        );
        let outcome = daemon.bwrap(["--ro-bind", &target, &target]).sh(&script).run();
        outcome.success();
        assert_eq!(outcome.stdout(), format!("w: ro\nw: rw\n{printed}"), "{outcome}");
        let calls = outcome.stderr();
        let names: Vec<_> = calls.lines().filter_map(|line| line.split('(').next()).collect();
        let first = ["socket", "connect", "sendto"];
        assert!(names.starts_with(&first), "{mode}: {calls}");
        assert!(names[3..].contains(&"arch_prctl"), "{mode}: {calls}");
        let sent = names.iter().filter(|name| **name == "sendto").count();
        assert_eq!(sent, 1, "{mode}: {calls}");
    }
}

#[test]
fn what_cannot_be_sent_ahead_is_sent_later() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    // The number of a descriptor that was closed is not a connection's.
    for (closed, printed) in [("<&-", "w: rw\n"), ("<&- 2>&-", "w: rw\n"), (">&-", "")] {
        let script = format!("\"$CTL\" --socket \"$S\" rw w {closed} && echo x >\"$W/a\"");
        let outcome = daemon.sandboxed(&script);
        assert_eq!(outcome.success().stdout(), printed, "{closed}: {outcome}");
    }
    // Relative to where it runs, as any path.
    let near = daemon.sandboxed("cd \"${S%/*}\" && \"$CTL\" --socket s.sock rw w");
    assert_eq!(near.stdout(), "w: rw\n", "{near}");
    daemon.sandboxed("\"$CTL\" --socket \"$S\" rw v").exits(2).says("unknown target v");
    daemon.sandboxed("\"$CTL\" --socket \"$W\" rw w").exits(4).says("connection refused");
    daemon.sandboxed("\"$CTL\" --socket \"$W/none\" rw w").exits(4).says("no such file");
}

/// Once it is sent, what cannot be set is gone without: the answer says what has become of it.
#[test]
fn what_was_sent_is_answered_whatever_is_denied_then() {
    let sandbox = Sandbox::new();
    let daemon = Daemon::new(&sandbox, "");
    let strace = require("strace").display().to_string();
    let target = daemon.target().display().to_string();
    let script = format!(
        "'{strace}' -qq -o /dev/null -e inject=ioctl,setsockopt:error=EPERM \
         \"$CTL\" --socket \"$S\" rw w && echo x >\"$W/a\""
    );
    let outcome = daemon.bwrap(["--ro-bind", &target, &target]).sh(&script).run();
    assert_eq!(outcome.success().stdout(), "w: rw\n", "{outcome}");
}

/// What `/proc/PID/syscall` begins with while a process waits for a connection (x86-64; 203 on
/// aarch64).
const CONNECT: &str = if cfg!(target_arch = "x86_64") { "42 " } else { "203 " };

/// A listener that has no room for a connection more until one is taken.
fn full(sandbox: &Sandbox) -> (UnixListener, UnixStream) {
    let path = socket(sandbox);
    let flags = SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let fd = fd.unwrap();
    rustix::net::bind(&fd, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&fd, 0).unwrap();
    (fd.into(), UnixStream::connect(&path).unwrap())
}

#[test]
fn a_broker_that_is_behind_is_waited_for_and_asked_once() {
    let sandbox = Sandbox::new();
    sandbox.dir("outside");
    let (listener, _first) = full(&sandbox);
    let path = socket(&sandbox);
    let ctl = sandbox.ctl().option("--socket").option(&path).command(["ro", "w"]).start();
    let call = || std::fs::read_to_string(format!("/proc/{}/syscall", ctl.pid())).unwrap();
    wait_until("it waits to connect", LIMIT, || call().starts_with(CONNECT));
    drop(listener.accept().unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    let (mut lines, mut request) = (BufReader::new(stream.try_clone().unwrap()), String::new());
    lines.read_line(&mut request).unwrap();
    assert_eq!(request, "{\"op\":\"set\",\"targets\":[\"w\"],\"mode\":\"ro\"}\n");
    let report = r#"{"ok":true,"targets":[{"name":"w","path":"/w","mode":"ro","state":"ok","authority":"self"}]}"#;
    writeln!(stream, "{report}").unwrap();
    let outcome = ctl.wait();
    assert_eq!(outcome.stdout(), "w: ro\n", "{outcome}");
    // It has ended, so there is nothing to wait for.
    assert_eq!(lines.read_line(&mut request).unwrap(), 0, "{request}");
}
