//! One client: its bytes in, its bytes out. Nothing here waits, and nothing grows with
//! what the peer sends or fails to read.

use crate::proto::MAX_LINE;
use crate::sandbox::Caller;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A connected client.
#[derive(Debug)]
pub(crate) struct Session {
    stream: OwnedFd,
    /// Who it is.
    pub(crate) caller: Caller,
    /// Bytes that came and are not answered yet, at most [`MAX_LINE`].
    input: Vec<u8>,
    /// The rest of one reply. The next request waits until it is gone, so a peer that
    /// does not read holds up itself only.
    output: Vec<u8>,
    /// Whether a request of this client is being carried out.
    pub(crate) busy: bool,
    /// Whether that will take a while, so that the client's end has to be looked for.
    pub(crate) parked: bool,
    /// Whether a lease lasts as long as this connection.
    pub(crate) holds: bool,
    /// Whether it is told what happens.
    pub(crate) follows: bool,
    /// The peer's command line, once it was asked for.
    pub(crate) command: OnceCell<String>,
    /// Nothing more comes in.
    ended: bool,
    /// Nobody reads our replies; requests that came all the same are carried out.
    deaf: bool,
    /// Nothing more is to be said or heard.
    closing: bool,
}

impl Session {
    pub(crate) fn new(stream: OwnedFd, caller: Caller) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        Self {
            stream,
            caller,
            input,
            output,
            busy: false,
            parked: false,
            holds: false,
            follows: false,
            command: OnceCell::new(),
            ended: false,
            deaf: false,
            closing: false,
        }
    }

    /// What to wait for; `None` for nothing, not even a hang-up, which would be reported
    /// again and again until the request under way is finished.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let flags = if !self.output.is_empty() {
            PollFlags::OUT
        } else if self.parked {
            // No flag but the hang-up, which is always reported.
            PollFlags::empty()
        } else if self.busy || self.ended || self.has_line() {
            return None;
        } else {
            PollFlags::IN
        };
        Some((self.stream.as_fd(), flags))
    }

    /// Reads or writes, whichever it waited for. `false` if the client is gone, and what
    /// it waits for is not worth going on with.
    pub(crate) fn ready(&mut self) -> bool {
        if !self.output.is_empty() {
            self.flush();
        } else if self.parked {
            (self.ended, self.deaf, self.closing) = (true, true, true);
            (self.busy, self.parked) = (false, false);
            return false;
        } else {
            self.read();
        }
        true
    }

    /// Says what happened, unless the client is behind: then it is sent away.
    pub(crate) fn tell(&mut self, event: &[u8]) {
        if self.output.is_empty() {
            self.reply(event);
        } else {
            self.closing = true;
        }
    }

    fn read(&mut self) {
        let mut chunk = [0_u8; MAX_LINE];
        // Never beyond one line: what else there is stays in the socket, where it is the
        // peer's own memory.
        let room = MAX_LINE.saturating_sub(self.input.len());
        // Descriptors sent along are closed by the kernel, there being no room for them.
        match rustix::net::recv(&self.stream, &mut chunk[..room], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => self.ended = true,
            Ok((_, received)) => self.input.extend_from_slice(&chunk[..received]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.ended = true,
        }
    }

    /// Whether [`Self::next_line`] has something to say.
    pub(crate) fn has_line(&self) -> bool {
        let whole = self.input.contains(&b'\n') || self.input.len() >= MAX_LINE;
        whole && !self.busy && !self.closing && self.output.is_empty()
    }

    /// The next request, without its newline, if it is this client's turn; also what has
    /// got too long to be one. Bytes at the end of the stream that no newline follows are
    /// no request: a client that died while it wrote did not mean what it had written.
    pub(crate) fn next_line(&mut self) -> Option<Vec<u8>> {
        if !self.has_line() {
            return None;
        }
        let Some(end) = self.input.iter().position(|&b| b == b'\n') else {
            return Some(std::mem::take(&mut self.input));
        };
        let mut line: Vec<u8> = self.input.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    /// Answers a request.
    pub(crate) fn reply(&mut self, bytes: &[u8]) {
        if !self.deaf {
            self.output.extend_from_slice(bytes);
            self.flush();
        }
    }

    /// Ends the connection; what is not sent by now never will be.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    fn flush(&mut self) {
        while !self.output.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, &self.output, flags) {
                Ok(sent) => {
                    self.output.drain(..sent);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.deaf = true;
                    self.output = Vec::new();
                }
            }
        }
    }

    /// Whether the connection can be closed.
    pub(crate) fn is_over(&self) -> bool {
        let idle = !self.busy && self.output.is_empty() && !self.has_line();
        (self.closing && !self.busy) || (self.ended && idle)
    }
}
