//! Acts on sockets.

use crate::{Answer, Args, checked, errno, usage};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

pub(crate) fn act(name: &str, args: &Args) -> Option<Answer> {
    let done = |result: std::io::Result<()>| result.map(|()| String::new()).map_err(errno);
    Some(match name {
        "connect-unix" => done(UnixStream::connect(args.at(0)).map(drop)),
        "connect-abstract" => {
            done(abstract_name(args).and_then(|name| UnixStream::connect_addr(&name)).map(drop))
        }
        "send-unix" => done(
            UnixDatagram::unbound().and_then(|socket| socket.send_to(b"x", args.at(0))).map(drop),
        ),
        "send-abstract" => done(
            UnixDatagram::unbound()
                .and_then(|socket| socket.send_to_addr(b"x", &abstract_name(args)?))
                .map(drop),
        ),
        "bind-unix" => done(UnixListener::bind(args.at(0)).map(drop)),
        "bind-abstract" => {
            done(abstract_name(args).and_then(|name| UnixListener::bind_addr(&name)).map(drop))
        }
        "connect-tcp" => done(connect_tcp(args.text(0))),
        // `socket FAMILY [TYPE]`, by name or number
        "socket" => {
            let (family, kind) = (family(args.text(0)), kind(args.get(1)));
            // SAFETY: the call touches no memory of this process.
            checked(unsafe { libc::syscall(libc::SYS_socket, family, kind, 0) })
                .map(|_| String::new())
        }
        "socketpair" => {
            let (family, kind) = (family(args.text(0)), kind(args.get(1)));
            let mut pair = [0i32; 2];
            // SAFETY: `pair` has room for the two numbers that the call writes.
            checked(unsafe {
                libc::syscall(libc::SYS_socketpair, family, kind, 0, pair.as_mut_ptr())
            })
            .map(|_| String::new())
        }
        _ => return None,
    })
}

fn abstract_name(args: &Args) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(args.at(0).as_bytes())
}

fn connect_tcp(address: &str) -> std::io::Result<()> {
    let address = address.to_socket_addrs()?.next();
    let address = address.unwrap_or_else(|| usage("connect-tcp ADDRESS:PORT"));
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(drop)
}

fn family(name: &str) -> i64 {
    i64::from(match name {
        "unix" => libc::AF_UNIX,
        "inet" => libc::AF_INET,
        "inet6" => libc::AF_INET6,
        "netlink" => libc::AF_NETLINK,
        "packet" => libc::AF_PACKET,
        "vsock" => libc::AF_VSOCK,
        "alg" => libc::AF_ALG,
        "bluetooth" => libc::AF_BLUETOOTH,
        "xdp" => libc::AF_XDP,
        "tipc" => libc::AF_TIPC,
        "rxrpc" => libc::AF_RXRPC,
        other => return crate::parse_number(other),
    })
}

fn kind(name: Option<&str>) -> i64 {
    i64::from(match name {
        None | Some("stream") => libc::SOCK_STREAM,
        Some("dgram") => libc::SOCK_DGRAM,
        Some("raw") => libc::SOCK_RAW,
        Some("seqpacket") => libc::SOCK_SEQPACKET,
        Some(other) => return crate::parse_number(other),
    })
}
