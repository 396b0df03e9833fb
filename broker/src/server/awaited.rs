//! Waiting for several things at once.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What is waited for, each thing known by a `T`.
pub(crate) struct Awaited<'a, T> {
    tokens: Vec<T>,
    fds: Vec<PollFd<'a>>,
}

impl<T> Default for Awaited<'_, T> {
    fn default() -> Self {
        Self { tokens: Vec::new(), fds: Vec::new() }
    }
}

impl<'a, T> Awaited<'a, T> {
    /// Waits for `flags` of `fd` too, and for its end.
    pub(crate) fn add(&mut self, token: T, fd: BorrowedFd<'a>, flags: PollFlags) {
        self.tokens.push(token);
        self.fds.push(PollFd::from_borrowed_fd(fd, flags));
    }

    /// Waits until something happens, for `time` at most, or without an end. What has
    /// happened, in the order of adding: nothing when the time is over or a signal came.
    ///
    /// # Errors
    /// As `ppoll(2)`, but not `EINTR`.
    pub(crate) fn wait(self, time: Option<Duration>) -> Result<Vec<T>, Errno> {
        let Self { tokens, mut fds } = self;
        let time = time.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        match poll(&mut fds, time.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
        let happened = |(token, fd): (T, PollFd<'_>)| (!fd.revents().is_empty()).then_some(token);
        Ok(tokens.into_iter().zip(fds).filter_map(happened).collect())
    }
}
