//! The event loop from outside: real sockets, mounts that are a table.

use super::*;
use crate::apply::RETRY_FOR;
use crate::apply::tests::{FakeMounts, target};
use crate::channel::{Connection, listen, pair};
use crate::client::{Client, ClientError};
use crate::name::{Authority, Mode, TargetName};
use crate::proto::tests::Chance;
use crate::proto::{self, ErrorCode, Wish};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

const LIMIT: Duration = Duration::from_secs(10);

/// A broker in a thread, with a socket for each side and an inherited channel.
struct Broker {
    mounts: FakeMounts,
    inside: OwnedFd,
    socket: PathBuf,
    outside: PathBuf,
    life: Option<UnixStream>,
    init: Option<UnixStream>,
    thread: Option<JoinHandle<Result<Ending, ServerError>>>,
}

impl Broker {
    /// Targets `a` and `b` of two members each, `self`; `host` of one.
    fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("broker-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (socket, outside) = (dir.join("in"), dir.join("out"));
        let listeners = vec![
            (listen(&socket).unwrap(), Origin::Inside),
            (listen(&outside).unwrap(), Origin::Outside),
        ];
        let channel = pair().unwrap();
        let (life, their_life) = UnixStream::pair().unwrap();
        let (init, their_init) = UnixStream::pair().unwrap();
        let mounts = FakeMounts::default();
        let targets = vec![
            target("a", Authority::Inside, &["/a", "/a/x"]),
            target("b", Authority::Inside, &["/b", "/b/x"]),
            target("host", Authority::Host, &["/h"]),
        ];
        let registry = Registry::with_mounts(targets, Box::new(mounts.clone())).unwrap();
        let shared = Some(channel.broker);
        let context = Context::default();
        let server =
            Server::new(their_life.into(), their_init.into(), shared, listeners, registry, context)
                .unwrap();
        let thread = Some(std::thread::spawn(move || server.run()));
        let (life, init) = (Some(life), Some(init));
        Self { mounts, inside: channel.inside, socket, outside, life, init, thread }
    }

    fn inherited(&self) -> Client {
        Connection::open_through(self.inside.as_fd(), LIMIT).unwrap().into()
    }

    fn client(&self, path: &Path) -> Client {
        Connection::open_at(path, LIMIT).unwrap().into()
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn end(&mut self) -> Ending {
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.life.take());
        if let Some(thread) = self.thread.take() {
            assert!(matches!(thread.join(), Ok(Ok(Ending::LauncherGone))), "the broker lived");
        }
        std::fs::remove_dir_all(self.socket.parent().unwrap()).unwrap();
    }
}

fn name(text: &str) -> TargetName {
    text.parse().unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorCode {
    match result {
        Err(ClientError::Refused(refusal)) => refusal.error,
        other => panic!("{other:?}"),
    }
}

/// Everything the broker says until it closes.
fn all(mut stream: UnixStream) -> String {
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Ok(_) => {}
        // It closed with bytes of ours unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}: {text}"),
    }
    text
}

#[test]
fn both_ways_lead_to_it_and_the_side_decides() {
    let broker = Broker::start();
    let [a, host] = [name("a"), name("host")];
    for mut client in [broker.inherited(), broker.client(&broker.socket)] {
        assert_eq!(client.status().unwrap().origin, Origin::Inside);
        let answer = client.set(std::slice::from_ref(&a), Wish::Toggle).unwrap();
        assert_eq!(answer.len(), 1);
        assert_eq!(answer[0].mode, broker.mounts.mode_at("/a/x"));
        assert_eq!(
            code(client.set(&[a.clone(), host.clone()], Wish::Rw)),
            ErrorCode::NotAuthorised
        );
        assert_eq!(code(client.set(&[name("no")], Wish::Ro)), ErrorCode::UnknownTarget);
        assert_eq!(client.list().unwrap().len(), 3);
        client.set_all(Wish::Ro).unwrap();
    }
    let mut outside = broker.client(&broker.outside);
    assert_eq!(outside.status().unwrap().origin, Origin::Outside);
    outside.set_all(Wish::Rw).unwrap();
    assert_eq!(broker.mounts.mode_at("/h"), Mode::Rw);
    broker.inherited().set(&[host], Wish::Ro).unwrap();
    assert_eq!(broker.mounts.mode_at("/h"), Mode::Ro);
}

#[test]
fn classic_clients_are_served() {
    let broker = Broker::start();
    let mut stream = broker.raw();
    stream.write_all(b"rw a /a 1\nro a 99999\r\nro a /elsewhere\nlist\nrw host\nquit\n").unwrap();
    let text = all(stream);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["OK", "OK"]);
    assert!(lines[2].starts_with("ERROR: target a is at /a"), "{text}");
    assert_eq!(lines[3..7], ["a ro /a", "b ro /b", "host ro /h", "OK"]);
    assert!(lines[7].starts_with("ERROR: make host writable: "), "{text}");
    assert_eq!(lines[8..], ["OK"]);
}

#[test]
fn a_half_closed_client_gets_its_answer_and_a_gone_one_its_way() {
    let broker = Broker::start();
    let mut stream = broker.raw();
    stream.write_all(b"rw a\nlist\nro").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all(stream), "OK\na rw /a\nb ro /b\nhost ro /h\nOK\n", "half a line is no request");
    let mut stream = broker.raw();
    stream.write_all(b"rw b\nro a\n").unwrap();
    drop(stream);
    let mut client = broker.inherited();
    let done = |broker: &Broker| {
        (broker.mounts.mode_at("/a"), broker.mounts.mode_at("/b")) == (Mode::Ro, Mode::Rw)
    };
    for _ in 0..1000 {
        client.list().unwrap();
        if done(&broker) {
            break;
        }
    }
    assert!(done(&broker));
}

#[test]
fn garbage_gets_one_error() {
    let broker = Broker::start();
    let long = [b'x'; 3 * proto::MAX_LINE];
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"{\"op\":\"set\"\n{\"op\":\"list\"}\n",
        b"\xff\xfe\nlist\n",
        b"ro a\0\nlist\n",
        b"\n\n",
        &long,
    ] {
        let mut stream = broker.raw();
        // It may hang up before it has read all.
        drop(stream.write_all(garbage));
        let text = all(stream);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.starts_with("ERROR: bad request") || text.contains("\"bad-request\""),
            "{text}"
        );
    }
    broker.inherited().list().unwrap();
}

#[test]
fn random_bytes_do_no_harm() {
    let broker = Broker::start();
    let mut chance = Chance(7);
    for _ in 0..300 {
        let bytes: Vec<u8> = (0..chance.below(6000)).map(|_| chance.below(256) as u8).collect();
        drop(broker.raw().write_all(&bytes));
    }
    broker.inherited().list().unwrap();
}

#[test]
fn nobody_waits_for_a_busy_target_but_those_who_want_it() {
    let broker = Broker::start();
    let mut client = broker.inherited();
    client.set_all(Wish::Ro).unwrap();
    client.set(&[name("a")], Wish::Rw).unwrap();
    broker.mounts.with("/a/x", |mount| mount.busy = u32::MAX);
    let hour = r#"{"op":"set","targets":["a"],"mode":"ro","busy":"wait","wait-ms":3600000}"#;
    let mut busy = broker.raw();
    busy.write_all(format!("{hour}\nlist\n").as_bytes()).unwrap();
    // In the queue behind it, and in that order.
    let mut behind = broker.raw();
    behind.write_all(format!("{hour}\n").as_bytes()).unwrap();
    let mut slow = broker.raw();
    for byte in b"lis" {
        slow.write_all(&[*byte]).unwrap();
        for _ in 0..20 {
            client.set(&[name("b")], Wish::Toggle).unwrap();
        }
    }
    broker.mounts.with("/a/x", |mount| mount.busy = 0);
    for waiting in [busy, behind] {
        let mut line = String::new();
        BufReader::new(waiting).read_line(&mut line).unwrap();
        assert!(line.starts_with(r#"{"ok":true"#), "{line}");
    }
    assert_eq!(broker.mounts.mode_at("/a"), Mode::Ro);
}

#[test]
fn what_stays_busy_is_given_up_and_as_before() {
    let broker = Broker::start();
    let mut client = broker.inherited();
    client.set_all(Wish::Ro).unwrap();
    client.set(&[name("a")], Wish::Rw).unwrap();
    broker.mounts.with("/a/x", |mount| mount.busy = u32::MAX);
    let started = Instant::now();
    let mut streams = [broker.raw(), broker.raw()];
    for stream in &mut streams {
        stream.write_all(b"ro a\n").unwrap();
    }
    for stream in streams {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains("a file on /a/x is open for writing"), "{line}");
    }
    assert!(started.elapsed() >= RETRY_FOR, "{:?}", started.elapsed());
    assert_eq!(broker.mounts.mode_at("/a"), Mode::Rw, "as before");
}

#[test]
fn a_crowd_of_silent_clients_starves_nobody() {
    let broker = Broker::start();
    let mut outside = broker.client(&broker.outside);
    outside.list().unwrap();
    let crowd: Vec<_> = (0..1000).map(|_| broker.raw()).collect();
    broker.client(&broker.socket).list().unwrap();
    broker.inherited().list().unwrap();
    outside.list().unwrap();
    let gone = crowd.iter().filter(|stream| {
        stream.set_nonblocking(true).unwrap();
        matches!((&mut &**stream).read(&mut [0]), Ok(0))
    });
    assert!(gone.count() >= 1000 - sessions::MAX_CLIENTS);
}

#[test]
fn a_client_that_does_not_read_holds_up_itself_only() {
    let broker = Broker::start();
    let mut deaf = broker.raw();
    deaf.set_nonblocking(true).unwrap();
    let mut written = 0;
    for _ in 0..200_000 {
        match deaf.write(b"{\"op\":\"status\"}\n") {
            Ok(n) => written += n,
            Err(_) => std::thread::yield_now(),
        }
    }
    assert!(written < 4 << 20, "the broker swallowed {written} bytes");
    broker.inherited().list().unwrap();
}

fn send(fd: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let iov = [rustix::io::IoSlice::new(bytes)];
    rustix::net::sendmsg(fd, &iov, &mut control, SendFlags::NOSIGNAL).unwrap();
}

fn descriptors_open() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn the_shared_channel_survives_nonsense() {
    let broker = Broker::start();
    let shared = broker.inside.as_fd();
    let null = std::fs::File::open("/dev/null").unwrap();
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let (datagram, _other) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::empty(), None)
            .unwrap();
    for _ in 0..20 {
        send(shared, b"", &[]);
        send(shared, b"xyz", &[]);
        send(shared, b"", &[null.as_fd()]);
        send(shared, b"c", &[datagram.as_fd()]);
        send(shared, b"c", &[listener.as_fd()]);
        send(shared, b"c", &[null.as_fd(); 253]);
    }
    broker.inherited().list().unwrap();
    // Ours is one end; the broker's is another open file and does not turn non-blocking.
    rustix::io::ioctl_fionbio(shared, true).unwrap();
    broker.inherited().list().unwrap();
    rustix::net::shutdown(shared, rustix::net::Shutdown::Both).unwrap();
    assert!(Connection::open_through(shared, LIMIT).is_err());
    broker.client(&broker.socket).list().unwrap();
}

/// A client that clears O_NONBLOCK of the socket it sent, and then does not read.
#[test]
fn a_blocking_descriptor_does_not_block_the_broker() {
    let broker = Broker::start();
    let (mine, theirs) = UnixStream::pair().unwrap();
    send(broker.inside.as_fd(), b"c", &[theirs.as_fd()]);
    let mut writer = mine.try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        writer.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        while writer.write_all(b"{\"op\":\"status\"}\n").is_ok() {}
    });
    for _ in 0..100 {
        theirs.set_nonblocking(false).unwrap();
        broker.inherited().list().unwrap();
    }
    flood.join().unwrap();
    broker.inherited().list().unwrap();
    drop(mine);
}

/// A TCP socket whose last owner waits an hour in `close`, and its peer.
fn lingering() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 1 << 16]).is_ok() {}
    let hour = Some(Duration::from_secs(3600));
    rustix::net::sockopt::set_socket_linger(&socket, hour).unwrap();
    (socket, peer)
}

/// Sends a descriptor whose last owner waits, with `others` before it, and lets go of it.
/// The waiting is the broker's, nearly always: the message is under way at that moment.
fn send_stuck(fd: BorrowedFd<'_>, bytes: &[u8], others: &[BorrowedFd<'_>]) -> std::net::TcpStream {
    let (socket, peer) = lingering();
    let descriptors: Vec<_> = others.iter().copied().chain([socket.as_fd()]).collect();
    send(fd, bytes, &descriptors);
    close_impatiently(socket);
    peer
}

/// Closes what this test may be the last to close, without waiting for it.
fn close_impatiently(fd: impl Into<OwnedFd>) {
    let patience = Patience::new().unwrap();
    let _limited = patience.limit();
    drop(fd.into());
}

/// Whoever closes a descriptor last waits for it: a client must not make that the broker.
#[test]
fn what_a_peer_sends_cannot_make_the_broker_wait() {
    let mut broker = Broker::start();
    let shared = broker.inside.as_fd();
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut peers = Vec::new();
    for _ in 0..5 {
        // Instead of a connection, beyond what there is room for, along with a request,
        // and in what a connection holds when it is closed.
        peers.push(send_stuck(shared, b"c", &[]));
        broker.inherited().list().unwrap();
        peers.push(send_stuck(shared, b"c", &[null.as_fd(); 5]));
        broker.inherited().list().unwrap();
        peers.push(send_stuck(broker.raw().as_fd(), b"list\n", &[]));
        broker.inherited().list().unwrap();
        let (mine, theirs) = UnixStream::pair().unwrap();
        send(mine.as_fd(), &[b'x'; proto::MAX_LINE], &[]);
        peers.push(send_stuck(mine.as_fd(), b"x", &[]));
        send(shared, b"c", &[theirs.as_fd()]);
        close_impatiently(theirs);
        broker.inherited().list().unwrap();
    }
    broker.init.take().unwrap().write_all(b"x").unwrap();
    assert_eq!(broker.end(), Ending::InitExited);
}

#[test]
fn it_ends_with_init_and_with_the_launcher() {
    let mut broker = Broker::start();
    broker.init.take().unwrap().write_all(b"x").unwrap();
    assert_eq!(broker.end(), Ending::InitExited);
    let mut broker = Broker::start();
    broker.life.as_mut().unwrap().write_all(b"not gone").unwrap();
    broker.inherited().list().unwrap();
    drop(broker.life.take());
    assert_eq!(broker.end(), Ending::LauncherGone);
}

/// Many clients, random wishes, writers that come and go: what is answered is so.
#[test]
fn answers_agree_with_the_mounts_under_load() {
    let broker = Broker::start();
    let before = descriptors_open();
    std::thread::scope(|scope| {
        for seed in 1..=8_u64 {
            let broker = &broker;
            scope.spawn(move || {
                let mut chance = Chance(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
                let mut client = broker.inherited();
                for _ in 0..200 {
                    let target = name(["a", "b"][chance.below(2) as usize]);
                    let wish = [Wish::Ro, Wish::Rw, Wish::Toggle][chance.below(3) as usize];
                    broker.mounts.with(format!("/{target}/x"), |mount| {
                        mount.busy = chance.below(12) as u32;
                    });
                    let answer = client.set(&[target], wish).unwrap();
                    match wish {
                        Wish::Ro => assert_eq!(answer[0].mode, Mode::Ro),
                        Wish::Rw => assert_eq!(answer[0].mode, Mode::Rw),
                        Wish::Toggle => {}
                    }
                    if chance.below(10) == 0 {
                        let mut dying = broker.raw();
                        dying.write_all(b"ro a\nrw").unwrap();
                        client = broker.inherited();
                    }
                }
            });
        }
    });
    for target in ["a", "b"] {
        let members = ["", "/x"].map(|sub| broker.mounts.mode_at(format!("/{target}{sub}")));
        assert_eq!(members[0], members[1], "{target}");
    }
    // Other tests open descriptors in this process too: a leak would be hundreds.
    assert!(descriptors_open() < before + 100);
}
