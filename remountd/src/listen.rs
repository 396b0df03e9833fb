//! The listening socket: systemd's, or one of our own.

use crate::accounts::{GROUP, by_name};
use anyhow::{Context, Result, bail, ensure};
use remount_broker::channel;
use remount_broker::escape::Escaped;
use remount_broker::reason::Reason;
use remount_broker::sys::process::adopt;
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Gid, Mode, flock, statat};
use rustix::io::Errno;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The group whose members may use the system's daemon.
const MEMBERS: &str = "remountd";

/// The first descriptor that systemd passes (`SD_LISTEN_FDS_START`, sd_listen_fds(3)).
const FIRST: i32 = 3;

/// The sockets that systemd has passed; none if it has passed nothing to this process.
pub(crate) fn passed() -> Result<Vec<OwnedFd>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = i32::try_from(number("LISTEN_FDS").unwrap_or(0)).unwrap_or(0).min(16);
    let mut sockets = Vec::new();
    for fd in FIRST..FIRST + count {
        let socket = adopt(fd).with_context(|| format!("take over descriptor {fd}"))?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        let fits = socket_domain(&socket) == Ok(AddressFamily::UNIX)
            && socket_acceptconn(&socket) == Ok(true);
        ensure!(fits, "take over descriptor {fd}: it is no listening unix socket");
        let flags = rustix::fs::fcntl_getfl(&socket)?;
        rustix::fs::fcntl_setfl(&socket, flags | rustix::fs::OFlags::NONBLOCK)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// A socket of our own. Its file is removed with it.
#[derive(Debug)]
pub(crate) struct Own {
    path: PathBuf,
    inode: u64,
}

/// Who can connect to a socket of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Its user.
    User,
    /// The members of the group, if there is one.
    Members,
}

/// Listens at `path`, where a socket may be of a daemon that is no more.
pub(crate) fn own(path: &Path, reach: Reach) -> Result<(OwnedFd, Own)> {
    let shown = Escaped::path(path).to_string();
    let tried = || format!("listen at {shown}");
    let parent = path.parent().with_context(tried)?;
    if reach == Reach::Members && !parent.exists() {
        std::fs::DirBuilder::new().mode(0o755).create(parent).with_context(tried)?;
    }
    // Two that start at once take turns.
    let dir = std::fs::File::open(parent).with_context(tried)?;
    flock(&dir, FlockOperation::LockExclusive).with_context(tried)?;
    make_way(path).with_context(tried)?;
    // Nobody can connect before the mode is the one that it is to have.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let socket = channel::listen(path);
    rustix::process::umask(before);
    let socket =
        socket.map_err(|errno| anyhow::anyhow!("{}", Reason::from(errno))).with_context(tried)?;
    if reach == Reach::Members
        && let Some(gid) = by_name(GROUP, MEMBERS)?
    {
        rustix::fs::chownat(CWD, path, None, Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
            .with_context(tried)?;
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(0o660), AtFlags::empty())
            .with_context(tried)?;
    }
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).with_context(tried)?;
    Ok((socket, Own { path: path.to_owned(), inode: stat.st_ino }))
}

/// Removes a socket where nobody listens any more, and nothing else.
fn make_way(path: &Path) -> Result<()> {
    let stat = match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        bail!(
            "there is a file that is no socket\nhint: remove it, or use --socket with another path"
        );
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => Ok(rustix::fs::unlink(path)?),
        // A full backlog is somebody, too.
        Ok(()) | Err(Errno::AGAIN) => {
            bail!(
                "another daemon already serves there\nhint: stop it first, or use --socket with another path"
            )
        }
        Err(errno) => bail!("{}", Reason::from(errno)),
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let stat = statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        if stat.is_ok_and(|stat| stat.st_ino == self.inode) {
            // Nothing is lost if it stays: the next daemon removes it.
            rustix::fs::unlink(&self.path).unwrap_or(());
        }
    }
}

/// Standard input, if it is a connection.
pub(crate) fn connection() -> Result<OwnedFd> {
    let stdin = std::io::stdin();
    let is_connection = socket_domain(stdin.as_fd()) == Ok(AddressFamily::UNIX)
        && socket_acceptconn(stdin.as_fd()) == Ok(false);
    ensure!(
        is_connection,
        "serve standard input: it is no unix socket\nhint: --inetd is for systemd (Accept=yes) or socat (EXEC:…,nofork)"
    );
    Ok(rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 3)?)
}
