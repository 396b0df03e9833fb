use super::*;
use rustix::net::{bind, listen, socketpair};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);
const GET: &[u8] = b"GET /info HTTP/1.1\r\nHost: a\r\n\r\n";

/// A relay in a thread, between a socket and one of a program outside that the test plays.
struct World {
    dir: PathBuf,
    outside: Option<UnixListener>,
    relay: Option<Relay>,
    /// What ends it, and its thread.
    running: Option<(OwnedFd, JoinHandle<Result<(), Errno>>)>,
}

impl World {
    /// One that does not serve yet.
    fn waiting(limits: Limits) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "remount-relay.{}.{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(dir.join("in")).unwrap()).unwrap();
        listen(&listener, 128).unwrap();
        let service = Service { listener, upstream: dir.join("out") };
        let outside = Some(UnixListener::bind(dir.join("out")).unwrap());
        let relay = Some(Relay::new(vec![service], limits));
        Self { dir, outside, relay, running: None }
    }

    /// One that serves.
    fn new(limits: Limits) -> Self {
        let mut world = Self::waiting(limits);
        world.start();
        world
    }

    fn start(&mut self) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        let relay = self.relay.take().unwrap();
        self.running = Some((ours, std::thread::spawn(move || relay.run(theirs.as_fd()))));
    }

    fn connect(&self) -> UnixStream {
        open(&self.dir.join("in"))
    }

    /// A client that has sent these bytes.
    fn client(&self, bytes: &[u8]) -> UnixStream {
        let mut client = self.connect();
        client.write_all(bytes).unwrap();
        client
    }

    /// The next request that the program outside sees, and the connection.
    fn asked(&self) -> (String, UnixStream) {
        let (mut stream, _) = self.outside.as_ref().unwrap().accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        (String::from_utf8(head).unwrap(), stream)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let ended = self.running.take().map(|(end, relay)| {
            drop(end);
            relay.join()
        });
        std::fs::remove_dir_all(&self.dir).unwrap();
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(Ok(())))), "{ended:?}");
        }
    }
}

fn open(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// All that comes until the end; that may be said by a reset.
fn rest(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn an_answer_comes_as_it_is_made_and_ends_with_its_connection() {
    let world = World::new(Limits::ORDINARY);
    let mut client = world.client(GET);
    let (head, mut outside) = world.asked();
    assert!(head.starts_with("GET /info HTTP/1.1\r\nHost: localhost\r\n"), "{head}");
    for part in ["HTTP/1.1 200 OK\r\n\r\n", "one", "two"] {
        outside.write_all(part.as_bytes()).unwrap();
        let mut buffer = vec![0; part.len()];
        client.read_exact(&mut buffer).unwrap();
        assert_eq!(buffer, part.as_bytes());
        // What is sent meanwhile is read by nobody.
        client.write_all(b"POST /containers/create HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    outside.set_nonblocking(true).unwrap();
    let error = outside.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    drop(outside);
    assert_eq!(rest(&mut client), "");
}

#[test]
fn whoever_does_not_read_holds_up_nobody_and_misses_nothing() {
    let world = World::new(Limits::ORDINARY);
    let mut slow = world.client(GET);
    let (_, mut outside) = world.asked();
    // More than there is room for anywhere on the way.
    let size = 8 << 20;
    let writer = std::thread::spawn(move || outside.write_all(&vec![b'x'; size]).unwrap());
    for _ in 0..3 {
        let mut quick = world.client(GET);
        let (_, mut outside) = world.asked();
        outside.write_all(b"quick").unwrap();
        drop(outside);
        assert_eq!(rest(&mut quick), "quick");
    }
    assert!(!writer.is_finished());
    assert_eq!(rest(&mut slow).len(), size);
    writer.join().unwrap();
}

#[test]
fn a_client_that_goes_ends_what_it_asked_for() {
    let world = World::new(Limits::ORDINARY);
    let client = world.client(GET);
    let (_, mut outside) = world.asked();
    drop(client);
    assert_eq!(outside.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_silent_crowd_keeps_nobody_out() {
    let world = World::new(Limits { connections: 4, ..Limits::ORDINARY });
    let mut silent: Vec<_> = (0..4).map(|_| world.client(b"GET ")).collect();
    let mut client = world.client(GET);
    drop(world.asked());
    assert_eq!(rest(&mut client), "");
    // The oldest had to go.
    assert_eq!(rest(&mut silent[0]), "");
    // The others are as they were.
    silent[1].write_all(&GET[4..]).unwrap();
    drop(world.asked());
    assert_eq!(rest(&mut silent[1]), "");
}

#[test]
fn more_answers_at_a_time_than_there_may_be_are_refused() {
    let world = World::new(Limits { connections: 2, ..Limits::ORDINARY });
    let clients: Vec<_> = (0..2).map(|_| (world.client(GET), world.asked())).collect();
    let mut late = world.connect();
    // It may have been sent away before it could ask.
    late.write_all(GET).unwrap_or(());
    assert!(rest(&mut late).starts_with("HTTP/1.1 503 "));
    drop(clients);
}

#[test]
fn a_request_that_does_not_come_is_not_waited_for() {
    let patience = Duration::from_millis(50);
    let world = World::new(Limits { patience, ..Limits::ORDINARY });
    let mut client = world.client(b"GET /info HTTP/1.1\r\n");
    assert!(rest(&mut client).starts_with("HTTP/1.1 408 "));
}

#[test]
fn an_answer_that_does_not_come_is_waited_for() {
    let patience = Duration::from_millis(50);
    let mut world = World::waiting(Limits { patience, ..Limits::ORDINARY });
    // All of the request is there when its time begins.
    let mut client = world.client(GET);
    world.start();
    let (_, mut outside) = world.asked();
    std::thread::sleep(4 * patience);
    outside.write_all(b"late").unwrap();
    drop(outside);
    assert_eq!(rest(&mut client), "late");
}

#[test]
fn who_is_refused_while_it_still_writes_can_read_why() {
    let world = World::new(Limits::ORDINARY);
    let mut client =
        world.client(b"POST /build HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.write_all(&vec![b'x'; 4 << 20]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = rest(&mut client);
    assert!(answer.contains("POST /build is blocked (read-only sandbox)"), "{answer}");
}

#[test]
fn the_program_is_looked_for_each_time() {
    let mut world = World::new(Limits::ORDINARY);
    let path = world.dir.join("out");
    world.outside = None;
    std::fs::remove_file(&path).unwrap();
    let answer = rest(&mut world.client(GET));
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("no such file"), "{answer}");
    world.outside = Some(UnixListener::bind(&path).unwrap());
    let mut client = world.client(GET);
    drop(world.asked());
    assert_eq!(rest(&mut client), "");
}
