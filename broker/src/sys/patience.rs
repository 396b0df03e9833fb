//! An end to waits that cannot be asked not to wait.

use super::mount::last_errno;
use rustix::io::Result;
use std::marker::PhantomData;

/// How long the first wait may last: no less than from one tick of the clock to the next
/// (`CONFIG_HZ`, 100 at least), which is why the hardware's timer is not set for this one.
/// That takes a virtual machine several microseconds, twice for each request.
const FIRST_NS: libc::c_long = 10_000_000;

/// How long each one after it may last.
const NEXT_NS: libc::c_long = 1_000_000;

/// Ends waits of the thread that made it: while a [`Limited`] of it lives, a signal
/// interrupts the thread after 10 ms, and then every millisecond.
///
/// `close(2)` has no `MSG_DONTWAIT`: a TCP socket with `SO_LINGER` makes the process that
/// closes it last wait for as long as the owner chose (`inet_release`, net/ipv4/af_inet.c;
/// `sk_stream_wait_close`, net/core/stream.c), and a descriptor that a peer sends with
/// `SCM_RIGHTS` is closed by whoever receives it, even where there is no room for it.
#[derive(Debug)]
pub struct Patience {
    timer: libc::timer_t,
    /// The signal goes to one thread: the value stays with it.
    _not_send: PhantomData<*const ()>,
}

/// Waits are limited until this is dropped.
#[derive(Debug)]
pub struct Limited<'a>(&'a Patience);

/// Being run is all that it is for: the interrupted call returns.
extern "C" fn nothing(_: libc::c_int) {}

impl Patience {
    /// Prepares it for the calling thread; SIGALRM then does nothing but interrupt.
    ///
    /// # Errors
    /// As `timer_create(2)`.
    pub fn new() -> Result<Self> {
        // SAFETY: all zeroes is a valid `sigaction` and a valid `sigset_t`.
        let (mut action, mut set): (libc::sigaction, libc::sigset_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        // SAFETY: the handler touches nothing at all, so it may run at any time; the
        // structures outlive the calls, which write to `set` only.
        let result = unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGALRM);
            match libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) {
                0 => libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()),
                failed => failed,
            }
        };
        if result != 0 {
            return Err(last_errno());
        }
        // SAFETY: as above.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGALRM;
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut timer = std::ptr::null_mut();
        // SAFETY: both outlive the call, which writes the timer's id.
        let result =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        if result != 0 {
            return Err(last_errno());
        }
        Ok(Self { timer, _not_send: PhantomData })
    }

    /// From here on, until the value is dropped, no wait lasts. Around nothing but what
    /// has to do with peers: an interrupted look at a mount would be taken for an answer.
    pub fn limit(&self) -> Limited<'_> {
        self.set(FIRST_NS, NEXT_NS);
        Limited(self)
    }

    fn set(&self, first: libc::c_long, next: libc::c_long) {
        let time = |ns| libc::timespec { tv_sec: 0, tv_nsec: ns };
        let value = libc::itimerspec { it_interval: time(next), it_value: time(first) };
        // SAFETY: the timer is this value's, and `value` outlives the call. It fails only
        // for a timer or a value that is none.
        unsafe { libc::timer_settime(self.timer, 0, &raw const value, std::ptr::null_mut()) };
    }
}

impl Drop for Limited<'_> {
    fn drop(&mut self) {
        self.0.set(0, 0);
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's, and nothing uses it afterwards.
        unsafe { libc::timer_delete(self.timer) };
    }
}
