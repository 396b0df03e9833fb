//! Acts on the ways to the broker: the abuse of the inherited connection, clients that
//! misbehave (kept by `probe serve`), and processes that have lost one of the ways.

use crate::{Answer, Args, checked, errno, usage};
use nix::errno::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

const SOCKET: &str = "/run/remount/socket";

pub(crate) fn act(name: &str, args: &Args) -> Option<Answer> {
    Some(match name {
        // What any process can do to the socketpair that all of them share.
        "channel-shutdown" => inherited().and_then(|shared| {
            rustix::net::shutdown(shared, rustix::net::Shutdown::Both).map_err(number_of)?;
            Ok(String::new())
        }),
        "channel-nonblocking" => inherited().and_then(|shared| {
            let flags = rustix::fs::fcntl_getfl(&shared).map_err(number_of)?;
            let flags = flags | rustix::fs::OFlags::NONBLOCK;
            rustix::fs::fcntl_setfl(&shared, flags).map_err(number_of)?;
            Ok(String::new())
        }),
        // `channel-garbage ROUNDS`: messages of all sizes, none with a descriptor.
        "channel-garbage" => flood(args, |shared, round| {
            let bytes = vec![u8::try_from(round % 251).unwrap_or(0); round % 3000];
            send(shared, &bytes, &[])
        }),
        // `channel-descriptors ROUNDS`: messages with up to 100 descriptors that are no
        // connections.
        "channel-descriptors" => flood(args, |shared, round| {
            let files = junk()?;
            let many: Vec<_> =
                files.iter().map(AsFd::as_fd).cycle().take(1 + round % MOST).collect();
            send(shared, b"c", &many)
        }),
        _ => return None,
    })
}

fn number_of(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

/// The inherited connection: a descriptor of our own for it.
fn inherited() -> Result<OwnedFd, Errno> {
    let number: RawFd = std::env::var("REMOUNT_CHANNEL")
        .ok()
        .and_then(|value| value.split(':').next()?.parse().ok())
        .unwrap_or_else(|| usage("REMOUNT_CHANNEL names no descriptor"));
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map_err(number_of)?;
    pidfd_getfd(own, number, PidfdGetfdFlags::empty()).map_err(number_of)
}

/// Sends many messages; answers how many were taken.
fn flood(args: &Args, each: impl Fn(BorrowedFd<'_>, usize) -> Result<(), Errno>) -> Answer {
    let rounds = usize::try_from(args.number(0)).unwrap_or_else(|_| usage("ROUNDS"));
    let shared = inherited()?;
    for round in 0..rounds {
        each(shared.as_fd(), round)?;
    }
    Ok(rounds.to_string())
}

/// A file, both ends of a pipe, a listening and a datagram socket, a dead connection.
fn junk() -> Result<Vec<OwnedFd>, Errno> {
    let (reader, writer) = std::io::pipe().map_err(errno)?;
    let (dead, end) = UnixStream::pair().map_err(errno)?;
    drop(end);
    let datagram = std::os::unix::net::UnixDatagram::unbound().map_err(errno)?;
    let file = File::open("/dev/null").map_err(errno)?;
    Ok(vec![file.into(), reader.into(), writer.into(), datagram.into(), dead.into()])
}

/// The most descriptors of one message.
const MOST: usize = 100;

/// One message with descriptors, waiting for room.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            usage("too many descriptors");
        }
        let parts = [IoSlice::new(bytes)];
        let sent = rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL);
        match sent.map_err(number_of) {
            Err(Errno::EINTR) => {}
            // Descriptors in flight are limited; the broker is taking them out.
            Err(Errno::ETOOMANYREFS | Errno::EAGAIN) => std::thread::yield_now(),
            result => return result.map(drop),
        }
    }
}

/// Connections to the broker that `probe serve` keeps, by number.
#[derive(Default)]
pub(crate) struct Clients {
    next: i64,
    streams: BTreeMap<i64, UnixStream>,
}

impl Clients {
    /// `None` if the act is not one of these.
    pub(crate) fn act(&mut self, name: &[u8], args: &Args) -> Option<Answer> {
        Some(match name {
            // `dial socket|channel [COUNT]`: answers the number of the last.
            b"dial" => self.dial(args),
            // `client-send N TEXT`: just these bytes.
            b"client-send" => self.with(args, |mut stream| {
                stream.write_all(args.text(1).as_bytes()).map(|()| String::new())
            }),
            // `client-hear N`: a line, or `END`.
            b"client-hear" => self.with(args, hear),
            // Says that nothing more will come, and still listens.
            b"client-half-close" => {
                self.with(args, |stream| stream.shutdown(Shutdown::Write).map(|()| String::new()))
            }
            b"hang-up-all" => {
                self.streams.clear();
                Ok(String::new())
            }
            _ => return None,
        })
    }

    fn dial(&mut self, args: &Args) -> Answer {
        for _ in 0..args.get(1).map_or(1, crate::parse_number) {
            let stream = match args.text(0) {
                "socket" => UnixStream::connect(SOCKET).map_err(errno)?,
                "channel" => {
                    let (mine, theirs) = UnixStream::pair().map_err(errno)?;
                    send(inherited()?.as_fd(), b"c", &[theirs.as_fd()])?;
                    mine
                }
                _ => usage("dial socket|channel"),
            };
            let limit = Some(remount_tests::LIMIT);
            stream.set_read_timeout(limit).map_err(errno)?;
            self.next += 1;
            self.streams.insert(self.next, stream);
        }
        Ok(self.next.to_string())
    }

    fn with(
        &self,
        args: &Args,
        then: impl FnOnce(&UnixStream) -> std::io::Result<String>,
    ) -> Answer {
        let stream = self.streams.get(&args.number(0)).ok_or(Errno::EBADF)?;
        then(stream).map_err(errno)
    }
}

fn hear(mut stream: &UnixStream) -> std::io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte)? == 1 {
        if byte == *b"\n" {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        line.extend_from_slice(&byte);
    }
    Ok("END".to_owned())
}

/// Closes every descriptor but the standard three, as many runtimes do.
pub(crate) fn close_descriptors() {
    // SAFETY: nothing of this process uses one of them: it has opened none.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
}

/// Forbids `connect()` to this process and all that it starts, as some agents do to
/// their commands.
pub(crate) fn forbid_connect() -> Result<(), Errno> {
    // What is compared then is a descriptor, which has none of these bits.
    forbid(libc::SYS_connect, (0, !0xffff), 0, Errno::EPERM)
}

/// Takes `SO_PEERPIDFD` from this process and all that it starts: a kernel before Linux
/// 6.5, as far as one can see.
pub(crate) fn forget_peer_pidfd() -> Result<(), Errno> {
    const SO_PEERPIDFD: u32 = 77; // include/uapi/asm-generic/socket.h
    forbid(libc::SYS_getsockopt, (2, u32::MAX), SO_PEERPIDFD, Errno::ENOPROTOOPT)
}

/// From now on the system call fails if the bits of `mask` of an argument are `value`.
fn forbid(
    call: libc::c_long,
    (argument, mask): (u32, u32),
    value: u32,
    errno: Errno,
) -> Result<(), Errno> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let call = u32::try_from(call).unwrap_or(u32::MAX);
    let refusal = libc::SECCOMP_RET_ERRNO | (errno as i32).cast_unsigned();
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // `struct seccomp_data`: the number is its first word, the arguments' low halves begin
    // at 16; every program here has the machine's own table.
    let program = [
        step(LOAD, 0, 0, 0),
        step(EQUAL, 0, 4, call),
        step(LOAD, 0, 0, 16 + 8 * argument),
        step(AND, 0, 0, mask),
        step(EQUAL, 0, 1, value),
        step(RETURN, 0, 0, refusal),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 7, filter: program.as_ptr().cast_mut() };
    // SAFETY: the first call touches no memory; `filter` and the instructions behind it
    // outlive the second, which only reads them.
    unsafe {
        checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        checked(libc::syscall(libc::SYS_seccomp, mode, 0, &raw const filter)).map(drop)
    }
}
