//! Descriptors that the command line names by number.
//!
//! All are taken when they are first named, before this program opens anything of its
//! own: a number that is not open then can never come to mean a descriptor of ours.

use remount_broker::sys::process;
use rustix::io::{Errno, FdFlags};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// The descriptors that were named. Naming one twice names the same descriptor, and
/// what one option used up is closed for the next.
#[derive(Debug, Default)]
pub(super) struct Registry(BTreeMap<i32, Named>);

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Named {
    number: i32,
    open: Rc<RefCell<Option<OwnedFd>>>,
}

impl Registry {
    /// The descriptor of that number.
    pub(super) fn name(&mut self, number: i32) -> Named {
        let open = || Rc::new(RefCell::new(process::adopt_named(number).ok()));
        self.0.entry(number).or_insert_with(|| Named { number, open: open() }).clone()
    }
}

impl Named {
    /// Its number on the command line.
    pub(super) fn number(&self) -> i32 {
        self.number
    }

    /// Uses it.
    ///
    /// # Errors
    /// `EBADF` if it was not open, or is used up; whatever `act` fails with.
    pub(super) fn with<T>(
        &self,
        act: impl FnOnce(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match &*self.open.borrow() {
            Some(fd) => act(fd.as_fd()),
            None => Err(Errno::BADF),
        }
    }

    /// Closes it in this process.
    ///
    /// A standard descriptor stays until the command is executed: its number would be
    /// given to the next file that is opened here, and messages go to number 2.
    pub(super) fn close(&self) {
        if let Some(fd) = self.open.borrow_mut().take()
            && self.number <= 2
        {
            // It fails only on a closed descriptor.
            rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).unwrap_or(());
            std::mem::forget(fd);
        }
    }

    /// All that can be read from it, to the end.
    ///
    /// # Errors
    /// As `read(2)`; `EBADF` as [`Self::with`].
    pub(super) fn read_to_end(&self) -> Result<Vec<u8>, Errno> {
        self.with(|fd| {
            let mut data = Vec::new();
            let mut buffer = [0; 8192];
            loop {
                match rustix::io::read(fd, &mut buffer) {
                    Ok(0) => return Ok(data),
                    Ok(n) => data.extend_from_slice(&buffer[..n]),
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
        })
    }

    /// Waits until there is something to read, or the other end is closed.
    pub(super) fn wait(&self) {
        let mut byte = [0];
        let read = self.with(|fd| {
            loop {
                match rustix::io::read(fd, &mut byte) {
                    Err(Errno::INTR) => {}
                    result => return result.map(drop),
                }
            }
        });
        // Whatever came of it, the wait is over: bubblewrap goes on as well.
        read.unwrap_or(());
    }
}

/// Closes every descriptor above the standard ones but `own` and `named`, in a process
/// that uses nothing else until it ends.
///
/// # Errors
/// As `close_range(2)`.
pub(super) fn close_all_but(own: &[BorrowedFd<'_>], named: Option<&Named>) -> Result<(), Errno> {
    let open = named.map(|named| named.open.borrow());
    let named = open.as_ref().and_then(|open| open.as_ref());
    let keep: Vec<_> = own.iter().copied().chain(named.map(AsFd::as_fd)).collect();
    process::close_all_but(&keep)
}

/// Writes all of `bytes`.
///
/// # Errors
/// As `write(2)`; `ENOSPC` if nothing more is taken.
pub(super) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The number a descriptor has in this process, for `/proc/self/fd`.
pub(super) fn link(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
