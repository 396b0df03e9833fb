//! A command on a terminal of its own.

use crate::{LIMIT, leftovers};
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A command that leads a session on a terminal whose other end the test holds.
/// Dropped, its session's processes are killed.
#[derive(Debug)]
pub struct Pty {
    child: Child,
    id: String,
    terminal: File,
    output: Receiver<Vec<u8>>,
    seen: String,
    /// How much of `seen` an `expect` has passed.
    passed: usize,
    end: Instant,
    ended: bool,
}

impl Pty {
    #[track_caller]
    pub(crate) fn start(
        mut command: Command,
        id: &str,
        columns: u16,
        rows: u16,
        timeout: Duration,
    ) -> Pty {
        crate::check_uid();
        let size = nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = nix::pty::openpty(Some(&size), None).expect("make a terminal");
        let end = |fd: &OwnedFd| fd.try_clone().expect("copy a descriptor");
        command.stdin(end(&pair.slave)).stdout(end(&pair.slave)).stderr(pair.slave);
        let session_on_stdin = || {
            // SAFETY: called between fork and exec: both calls are async-signal-safe and
            // touch no memory.
            let failed = unsafe { libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 };
            if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        };
        // SAFETY: the closure is async-signal-safe, as it says.
        unsafe { command.pre_exec(session_on_stdin) };
        let child = command.spawn().expect("start the command on a terminal");
        // Closes this process's copies of the terminal's other end.
        drop(command);
        let terminal = File::from(pair.master);
        let mut reader = terminal.try_clone().expect("copy a descriptor");
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // EIO: the last process has closed the terminal.
            while let Ok(count @ 1..) = reader.read(&mut chunk) {
                if send.send(chunk[..count].to_owned()).is_err() {
                    break;
                }
            }
        });
        let end = Instant::now() + timeout;
        let (id, seen) = (id.to_owned(), String::new());
        Pty { child, id, terminal, output, seen, passed: 0, end, ended: false }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Types.
    #[track_caller]
    pub fn send(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).expect("write to the terminal");
    }

    /// Waits until the terminal shows `text` after what earlier calls waited for.
    /// Answers what stood before it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        loop {
            let fresh = &self.seen[self.passed..];
            if let Some(at) = fresh.find(text) {
                let before = fresh[..at].to_owned();
                self.passed += at + text.len();
                return before;
            }
            let left = self.end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{error}, and no {text:?} in {:?}", self.seen),
            }
        }
    }

    /// Gives the terminal another size; the foreground gets SIGWINCH.
    #[track_caller]
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: `size` outlives the call, which reads it; the descriptor is open.
        let result =
            unsafe { libc::ioctl(self.terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(result, 0, "TIOCSWINSZ: {}", std::io::Error::last_os_error());
    }

    /// The terminal's settings, to be compared before and after.
    #[track_caller]
    pub fn settings(&self) -> String {
        format!("{:?}", rustix::termios::tcgetattr(&self.terminal).expect("tcgetattr"))
    }

    /// Waits for the end. Panics if the time is up or a process was left behind.
    /// Answers how it ended, and all that the terminal showed.
    #[track_caller]
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for the command") {
                break status;
            }
            assert!(Instant::now() < self.end, "the time is up: {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(1));
        };
        self.ended = true;
        let left = leftovers::after(self.pid(), &self.id, LIMIT);
        assert!(left.is_empty(), "processes were left behind: {left:#?}");
        while let Ok(bytes) = self.output.recv_timeout(LIMIT) {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        (status, std::mem::take(&mut self.seen))
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if !self.ended {
            if let Some(group) = Pid::from_raw(self.pid()) {
                // Nothing is left of it: just as well.
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
            }
            // It was killed: it ends.
            drop(self.child.wait());
        }
    }
}
