//! Waiting for several things at once.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::thread::sched_yield;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

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
    pub(crate) fn wait(mut self, time: Option<Duration>) -> Result<Vec<T>, Errno> {
        self.poll(time)?;
        Ok(self.happened())
    }

    /// As [`Self::wait`]; until `then` it does not sleep, so that nobody has to wake it.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub(crate) fn look_until(
        mut self,
        then: Instant,
        time: Option<Duration>,
    ) -> Result<Vec<T>, Errno> {
        while Instant::now() < then {
            if self.poll(Some(Duration::ZERO))? > 0 {
                return Ok(self.happened());
            }
            // What is looked for may be waiting for this processor.
            sched_yield();
        }
        self.wait(time)
    }

    /// How many things have happened.
    fn poll(&mut self, time: Option<Duration>) -> Result<usize, Errno> {
        let time = time.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        match poll(&mut self.fds, time.as_ref()) {
            Err(Errno::INTR) => Ok(0),
            other => other,
        }
    }

    fn happened(self) -> Vec<T> {
        let happened = |(token, fd): (T, PollFd<'_>)| (!fd.revents().is_empty()).then_some(token);
        self.tokens.into_iter().zip(self.fds).filter_map(happened).collect()
    }
}
