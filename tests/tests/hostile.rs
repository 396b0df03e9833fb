//! What a client should not do to a broker, done to it through the control socket and from
//! inside: each gets one clear error or a closed connection, and nobody else notices.

use remount_tests::{Inside, LIMIT, Sandbox};
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

const CTL: &str = "/run/remount/bin/remountctl";

struct World {
    sandbox: Sandbox,
    inside: Inside,
    socket: PathBuf,
}

impl World {
    fn new() -> World {
        let sandbox = Sandbox::new();
        let inside = sandbox.remount().serve();
        let socket = sandbox.socket();
        World { sandbox, inside, socket }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// All that is answered until the broker closes the connection.
    fn answers(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // It may have heard enough before the end.
        stream.write_all(bytes).unwrap_or(());
        stream.shutdown(Shutdown::Write).unwrap_or(());
        let mut text = String::new();
        match stream.read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error}: {text}"),
        }
        text
    }

    /// The broker is as it was, on both sides.
    fn end(mut self) {
        self.sandbox.ctl().command(["ro", "workspace"]).run().success();
        self.inside.act(["create", "file"]).errno("EROFS");
        self.inside.act(["ask", CTL, "rw", "workspace"]).ok();
        self.inside.act(["create", "file"]).ok();
        self.inside.end().success();
    }
}

#[test]
fn bad_lines_get_one_error_each_and_the_door() {
    let world = World::new();
    let long = format!("{{\"op\":\"why\",\"path\":\"/{}\"}}\n", "x".repeat(5000));
    for (bytes, word) in [
        (long.as_bytes(), "long"),
        (b"{\"op\":\"list\0\"}\n", "text"),
        (b"{\"op\":\"\xff\"}\n", "UTF-8"),
        (b"{\"op\":\"set\",\"targets\":[\n", ""),
        (b"{\"op\":\"explode\"}\n", "explode"),
        (b"{\"op\":\"list\",\"colour\":1}\n", "colour"),
        (b"{\"op\":\"list\",\"id\":1}\n", "id"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""),
    ] {
        let answer = world.answers(&[bytes, b"list\nlist\n"].concat());
        assert_eq!(answer.lines().count(), 1, "{answer}");
        let refused = answer.contains("\"error\":\"bad-request\"") || answer.starts_with("ERROR: ");
        assert!(refused && answer.contains(word), "{word}: {answer}");
    }
    // Cut off before its end, it is no request at all.
    assert_eq!(world.answers(b"{\"op\":\"set\",\"all\":true,\"mode\":\"ro\"}"), "");
    // One that is done sending still gets what it asked for.
    assert!(world.answers(b"{\"op\":\"list\"}\n").contains("\"ok\":true"));
    world.end();
}

fn send_descriptors(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
        .unwrap();
}

#[test]
fn descriptors_that_nobody_asked_for_are_let_go() {
    let world = World::new();
    let (mine, theirs) = UnixStream::pair().unwrap();
    mine.set_read_timeout(Some(LIMIT)).unwrap();
    for _ in 0..50 {
        let stream = world.connect();
        send_descriptors(&stream, b"{\"op\":\"list\"}", &[theirs.as_fd(); 253]);
        send_descriptors(&stream, b"\n", &[theirs.as_fd(); 253]);
        let mut first = [0];
        (&stream).read_exact(&mut first).unwrap();
    }
    drop(theirs);
    // The last copy is gone: nobody has the other end any more.
    assert_eq!((&mine).read(&mut [0]).unwrap(), 0);
    world.end();
}

#[test]
fn ten_thousand_connections_come_and_go() {
    let world = World::new();
    for number in 0..10_000_u32 {
        // The queue of those who wait to be accepted may be full for a moment.
        let mut stream = world.connect();
        if number % 3 == 0 {
            stream.write_all(b"{\"op\":\"li").unwrap_or(());
        }
        if number % 1000 == 0 {
            stream.write_all(b"{\"op\":\"list\"}\n").unwrap_or(());
        }
    }
    world.end();
}

/// One request waits for a person; the others are refused, and none of it holds up anybody.
#[test]
fn a_flood_of_requests_for_approval_is_one_question() {
    let sandbox = Sandbox::new();
    let script = r#"
import socket
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect("/run/remount/socket")
    return s
s = connect()
s.sendall(b'{"op":"set","targets":["workspace"],"mode":"ro"}\n')
s.recv(4096)
asking = connect()
asking.sendall(b'{"op":"set","targets":["workspace"],"mode":"rw"}\n')
status = b''
while b'"pending":[{' not in status:
    s.sendall(b'{"op":"status"}\n')
    status = s.recv(4096)
refused = []
for number in range(299):
    s = connect()
    s.sendall(b'{"op":"set","targets":["workspace"],"mode":"rw"}\n')
    answer = s.recv(4096)
    assert b'not-authorised' in answer, answer
    refused.append(s)
asking.setblocking(False)
try:
    waiting = asking.recv(4096)
except BlockingIOError:
    waiting = 1
print(waiting, len(refused), flush=True)
input()
"#;
    let file = sandbox.file("project/flood.py", script);
    let python = remount_tests::require("python3");
    let mut agent = sandbox
        .remount()
        .options(["--authority", "confirm"])
        .arg(python)
        .arg(&file)
        .start_interactive();
    assert_eq!(agent.line().trim(), "1 299");
    let status = sandbox.ctl().command(["status", "--json"]).run().success().stdout();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["pending"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status["targets"][0]["mode"], "ro");
    agent.send("\n");
    agent.close_stdin();
    agent.wait().success();
}

/// What `--kill` stands on: a descriptor of a process's directory in `/proc` signals that
/// process or none, also when another one has its number.
#[test]
fn a_number_that_is_used_again_is_nobody_elses() {
    let sandbox = Sandbox::new();
    let script = r#"
import os, signal, time
def child():
    pid = os.fork()
    if pid == 0:
        time.sleep(100)
        os._exit(0)
    return pid
first = child()
directory = os.open(f"/proc/{first}", os.O_RDONLY | os.O_DIRECTORY)
signal.pidfd_send_signal(directory, 0)
os.kill(first, signal.SIGKILL)
os.waitpid(first, 0)
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(first - 1))
second = child()
assert second == first, (first, second)
try:
    signal.pidfd_send_signal(directory, signal.SIGKILL)
    print("signalled")
except ProcessLookupError:
    print("nobody")
time.sleep(0.1)
print("lives" if os.waitpid(second, os.WNOHANG) == (0, 0) else "dead")
os.kill(second, signal.SIGKILL)
"#;
    let file = sandbox.file("outside/reuse.py", script);
    let unshare = sandbox.host(remount_tests::require("unshare"));
    // In a PID namespace of its own, the next number can be chosen.
    let outcome = unshare
        .command(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"])
        .command([remount_tests::require("python3")])
        .command([&file])
        .run();
    assert_eq!(outcome.success().stdout(), "nobody\nlives\n");
}
