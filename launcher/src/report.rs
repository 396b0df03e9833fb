//! What the processes of a starting sandbox tell the launcher: failures, the agent's
//! process, its stops and its end.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The longest message, in bytes: a path and some words around it.
const LONGEST: usize = 8 << 10;

/// One end of a connection that keeps messages apart and can carry a descriptor with
/// each: between processes of this project only.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Both ends.
    ///
    /// # Errors
    /// As `socketpair(2)`.
    pub fn pair() -> Result<(Self, Self), Errno> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Sends one message, with a descriptor if there is one.
    ///
    /// # Errors
    /// As `sendmsg(2)`.
    pub fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fd.into_iter().collect();
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::NOBUFS);
        }
        let bytes = &bytes[..bytes.len().min(LONGEST)];
        rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives one message; empty when the other end is closed.
    ///
    /// # Errors
    /// As `recvmsg(2)`.
    pub fn receive(&self) -> Result<(Vec<u8>, Option<OwnedFd>), Errno> {
        let mut bytes = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                flags,
            ) {
                Err(Errno::INTR) => {}
                result => break result?,
            }
        };
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Errno::MFILE);
        }
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        bytes.truncate(received.bytes);
        Ok((bytes, fd))
    }

    /// Ends the connection, whoever else has this end of it.
    ///
    /// # Errors
    /// As `shutdown(2)`.
    pub fn hang_up(&self) -> Result<(), Errno> {
        rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both)
    }

    /// The socket itself.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// In [`Failure::code`], within this program: the host does not permit what a sandbox is made
/// of. No process ends with it.
pub const UNPERMITTED: u8 = 0;

/// Why there is no sandbox, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code of `remount-run`.
    pub code: u8,
    /// What was tried on what, and why it failed.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// What is told.
#[derive(Debug)]
pub enum Message {
    /// The sandbox could not be made; nothing was executed.
    Failed(Failure),
    /// The agent is about to be executed; its pidfd.
    Started(OwnedFd),
    /// The agent was stopped by a signal.
    Stopped,
    /// The agent ended; the exit code for `remount-run`.
    Exited(u8),
}

/// The sending end, in the sandbox's processes.
#[derive(Debug)]
pub struct Reporter(Link);

/// The receiving end, in the launcher.
#[derive(Debug)]
pub struct Reports(Link);

/// Both ends.
///
/// # Errors
/// As `socketpair(2)`.
pub fn channel() -> Result<(Reporter, Reports), Errno> {
    let (a, b) = Link::pair()?;
    Ok((Reporter(a), Reports(b)))
}

impl Reporter {
    /// Waits until the launcher lets this process go on.
    ///
    /// # Errors
    /// As `recvmsg(2)`; `EPROTO` if the launcher is gone.
    pub fn wait(&self) -> Result<(), Errno> {
        let (bytes, _) = self.0.receive()?;
        if bytes == b"go" { Ok(()) } else { Err(Errno::PROTO) }
    }

    /// Tells the launcher.
    ///
    /// # Errors
    /// As `sendmsg(2)`: the launcher is gone, and everything will follow it.
    pub fn tell(&self, message: &Message) -> Result<(), Errno> {
        match message {
            Message::Failed(failure) => {
                let hint = failure.hint.as_deref().unwrap_or("");
                let head = [b'F', failure.code];
                let parts = [&head[..], failure.message.as_bytes(), b"\0", hint.as_bytes()];
                self.0.send(&parts.concat(), None)
            }
            Message::Started(pidfd) => self.0.send(b"S", Some(pidfd.as_fd())),
            Message::Stopped => self.0.send(b"T", None),
            Message::Exited(code) => self.0.send(&[b'X', *code], None),
        }
    }
}

impl Reports {
    /// Lets a process that [waits](Reporter::wait) go on.
    ///
    /// # Errors
    /// As `sendmsg(2)`.
    pub fn allow(&self) -> Result<(), Errno> {
        self.0.send(b"go", None)
    }

    /// The next message; `None` when no process is left that could send one.
    ///
    /// # Errors
    /// As `recvmsg(2)`; `EPROTO` for a message that is none of ours.
    pub fn next(&self) -> Result<Option<Message>, Errno> {
        let (bytes, fd) = match self.0.receive() {
            // Said once, if they ended without having read that they may go on: what they
            // told before is still there.
            Err(Errno::CONNRESET) => self.0.receive()?,
            result => result?,
        };
        match (bytes.as_slice(), fd) {
            ([], None) => Ok(None),
            ([b'F', code, text @ ..], None) => Ok(Some(Message::Failed(failure(*code, text)))),
            ([b'S'], Some(pidfd)) => Ok(Some(Message::Started(pidfd))),
            ([b'T'], None) => Ok(Some(Message::Stopped)),
            ([b'X', code], None) => Ok(Some(Message::Exited(*code))),
            _ => Err(Errno::PROTO),
        }
    }
}

fn failure(code: u8, text: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(text);
    let (message, hint) = text.split_once('\0').unwrap_or((&text, ""));
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    Failure { code, message: message.to_owned(), hint }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Reports {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard() {
        let (reporter, reports) = channel().unwrap();
        let failure = Failure { code: 126, message: "x: y".into(), hint: Some("z".into()) };
        reporter.tell(&Message::Failed(failure.clone())).unwrap();
        reporter.tell(&Message::Exited(7)).unwrap();
        reporter.tell(&Message::Stopped).unwrap();
        assert!(matches!(reports.next(), Ok(Some(Message::Failed(heard))) if heard == failure));
        assert!(matches!(reports.next(), Ok(Some(Message::Exited(7)))));
        assert!(matches!(reports.next(), Ok(Some(Message::Stopped))));
        drop(reporter);
        assert!(matches!(reports.next(), Ok(None)));
        let (reporter, reports) = channel().unwrap();
        reports.allow().unwrap();
        reporter.tell(&Message::Exited(7)).unwrap();
        drop(reporter);
        assert!(matches!(reports.next(), Ok(Some(Message::Exited(7)))));
        assert!(matches!(reports.next(), Ok(None)));
    }

    #[test]
    fn descriptors_travel() {
        let (a, b) = Link::pair().unwrap();
        let (c, d) = Link::pair().unwrap();
        a.send(b"here", Some(c.as_fd())).unwrap();
        let (bytes, fd) = b.receive().unwrap();
        assert_eq!(bytes, b"here");
        Link(fd.unwrap()).send(b"back", None).unwrap();
        assert_eq!(d.receive().unwrap().0, b"back");
    }
}
