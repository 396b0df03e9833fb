//! The ways to a broker, both ends of each.
//!
//! There are two, because each is shut for somebody (DESIGN.md, fact 13):
//!
//! - the **inherited channel**, a socketpair whose one end every process of the sandbox
//!   inherits, for programs that may not `connect()`. A stream shared by many processes
//!   would mix up their replies, so it only carries connections: a client makes a
//!   socketpair of its own and sends one end of it, in a message of one byte;
//! - the **socket** at [`DEFAULT_SOCKET`], for programs whose parent closed every
//!   descriptor that it did not know.
//!
//! The broker never relies on a descriptor's `O_NONBLOCK`: whoever sent it holds the same
//! open file and can clear the flag at any time. Every call says `MSG_DONTWAIT`.

use crate::sys::process::duplicate;
use rustix::io::{Errno, IoSlice, IoSliceMut, Result};
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

/// The environment variable that names the inherited channel, as `FD:INODE`.
pub const CHANNEL_VARIABLE: &str = "REMOUNT_CHANNEL";
/// The environment variable that holds the path of the broker's socket.
pub const SOCKET_VARIABLE: &str = "REMOUNT_SOCKET";
/// Where the broker's socket is if nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/remount/socket";

/// Connections that may wait to be accepted; more are refused by the kernel at once.
const BACKLOG: i32 = 128;

/// The two ends of an inherited channel.
#[derive(Debug)]
pub struct Pair {
    /// For [`crate::server::Setup::shared`].
    pub broker: OwnedFd,
    /// For the sandbox's processes. Close-on-exec, until the launcher says otherwise.
    pub inside: OwnedFd,
}

/// Makes an inherited channel.
///
/// # Errors
/// As `socketpair(2)`.
pub fn pair() -> Result<Pair> {
    let (broker, inside) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    Ok(Pair { broker, inside })
}

/// The variable `name` of this process's environment; an empty one counts as unset.
#[must_use]
pub fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The value of [`CHANNEL_VARIABLE`] for a channel that processes inherit as `fd`.
///
/// # Errors
/// As `fstat(2)`.
pub fn channel_value(fd: BorrowedFd<'_>) -> Result<String> {
    Ok(format!("{}:{}", fd.as_raw_fd(), rustix::fs::fstat(fd)?.st_ino))
}

/// Makes a listening socket at `path`, for [`crate::server::Setup::listeners`]. Who may
/// connect is decided by the directory and the umask.
///
/// # Errors
/// As `bind(2)`; `EADDRINUSE` if there is something at `path`.
pub fn listen(path: &Path) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// What came through the inherited channel.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A connection.
    Connection(OwnedFd),
    /// A message that brought none; ignored.
    Nonsense,
    /// Nothing more for now.
    Empty,
    /// Nothing more for ever.
    Closed,
}

/// Takes one message from the broker's end of the inherited channel.
///
/// # Errors
/// As `recvmsg(2)`, for what may pass: the channel is to be left alone for a while.
pub(crate) fn receive(shared: BorrowedFd<'_>) -> Result<Arrival> {
    let mut byte = [0_u8; 1];
    // Room for one descriptor. The kernel closes what does not fit; alignment can leave
    // room for a second one, which is closed below.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = match rustix::net::recvmsg(
        shared,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        flags,
    ) {
        Ok(message) => message,
        Err(Errno::AGAIN) => return Ok(Arrival::Empty),
        Err(Errno::INTR) => return Ok(Arrival::Nonsense),
        Err(Errno::CONNRESET | Errno::NOTCONN) => return Ok(Arrival::Closed),
        Err(errno) => return Err(errno),
    };
    let mut first = None;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = ancillary {
            for descriptor in descriptors {
                first.get_or_insert(descriptor);
            }
        }
    }
    match first {
        Some(fd) if is_stream(fd.as_fd()) => Ok(Arrival::Connection(fd)),
        Some(_) => Ok(Arrival::Nonsense),
        // An empty message and the end look the same; only the end hangs up.
        None if message.bytes == 0 && hung_up(shared) => Ok(Arrival::Closed),
        None => Ok(Arrival::Nonsense),
    }
}

/// Whether `fd` is what a client should have sent: a connected unix stream socket. On
/// anything else (a terminal, a file, a device) even reading could do harm.
fn is_stream(fd: BorrowedFd<'_>) -> bool {
    sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(fd) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(fd) == Ok(false)
}

fn hung_up(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok()
        && fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP)
}

/// Accepts a connection from a non-blocking listener; `None` if there is none for now.
///
/// # Errors
/// As `accept4(2)`: the listener is to be left alone for a while.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(stream) => Ok(Some(stream)),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A client's end of a connection to a broker, and how it came about.
#[derive(Debug)]
pub struct Connection {
    stream: OwnedFd,
}

/// No broker can be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("connect to {}: {}", crate::escape::Escaped::os(.socket), crate::reason::Reason::from(*.errno))]
pub struct NoBroker {
    /// The socket that was tried last.
    pub socket: std::ffi::OsString,
    /// Why it failed.
    pub errno: Errno,
}

impl Connection {
    /// Connects to the broker of the sandbox that this process is in: through the
    /// inherited channel that the environment names, else through the socket that it
    /// names, else through [`DEFAULT_SOCKET`]. No call on the connection will take longer
    /// than `timeout`, this one included.
    ///
    /// # Errors
    /// None of them leads to a broker.
    pub fn open(timeout: Duration) -> std::result::Result<Self, NoBroker> {
        if let Some(value) = variable(CHANNEL_VARIABLE)
            && let Some(stream) = through_channel(&value, timeout)
        {
            return Ok(Self { stream });
        }
        let socket = variable(SOCKET_VARIABLE).unwrap_or_else(|| DEFAULT_SOCKET.into());
        match through_socket(Path::new(&socket), timeout) {
            Ok(stream) => Ok(Self { stream }),
            Err(errno) => Err(NoBroker { socket, errno }),
        }
    }

    /// Connects to the broker that listens at `path`.
    ///
    /// # Errors
    /// There is none.
    pub fn open_at(path: &Path, timeout: Duration) -> std::result::Result<Self, NoBroker> {
        match through_socket(path, timeout) {
            Ok(stream) => Ok(Self { stream }),
            Err(errno) => Err(NoBroker { socket: path.into(), errno }),
        }
    }

    /// Connects through the inherited channel `shared`.
    ///
    /// # Errors
    /// As `sendmsg(2)`: `EPIPE` when the broker does not listen there any more, `EAGAIN`
    /// when it is behind.
    pub fn open_through(shared: BorrowedFd<'_>, timeout: Duration) -> Result<Self> {
        Ok(Self { stream: hand_over(shared, timeout)? })
    }

    /// One that was made in another way, and on which calls wait.
    pub fn of_stream(stream: OwnedFd) -> Self {
        Self { stream }
    }

    /// The connection's stream socket.
    pub fn into_fd(self) -> OwnedFd {
        self.stream
    }
}

fn through_channel(value: &OsStr, timeout: Duration) -> Option<OwnedFd> {
    let (number, inode) = value.to_str()?.split_once(':')?;
    let (number, inode) = (number.parse::<RawFd>().ok()?, inode.parse::<u64>().ok()?);
    // The number may by now be anything: a parent closed it, and another file took its
    // place. Only a socket of the right inode is written to.
    let shared = duplicate(number).ok()?;
    let stat = rustix::fs::fstat(&shared).ok()?;
    let file_type = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if file_type != rustix::fs::FileType::Socket || stat.st_ino != inode {
        return None;
    }
    hand_over(shared.as_fd(), timeout).ok()
}

/// Makes a connection and sends its other end through the inherited channel.
fn hand_over(shared: BorrowedFd<'_>, timeout: Duration) -> Result<OwnedFd> {
    let (mine, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    limit(mine.as_fd(), timeout)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [theirs.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(shared, &[IoSlice::new(b"c")], &mut control, flags)?;
    Ok(mine)
}

fn through_socket(path: &Path, timeout: Duration) -> Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before connecting: a full backlog makes connect() wait as long as a send.
    limit(fd.as_fd(), timeout)?;
    rustix::net::connect(&fd, &address)?;
    Ok(fd)
}

pub(crate) fn limit(fd: BorrowedFd<'_>, timeout: Duration) -> Result<()> {
    // The kernel takes 0 for no limit at all.
    let timeout = Some(timeout.max(Duration::from_millis(1)));
    sockopt::set_socket_timeout(fd, sockopt::Timeout::Send, timeout)?;
    sockopt::set_socket_timeout(fd, sockopt::Timeout::Recv, timeout)
}
