//! Commands that run, and how they ended.

use crate::{Answer, leftovers, wire};
use rustix::process::{Pid, Signal};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a closed pipe and the last processes may take after the command's end.
const GRACE: Duration = Duration::from_secs(30);

/// How a command ended, and what it printed.
#[derive(Debug, Clone)]
pub struct Outcome {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Outcome {
    /// The exit code; `None` if a signal ended the command.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended the command itself.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub fn stdout_bytes(&self) -> &[u8] {
        &self.stdout
    }

    /// Panics, showing all, unless the command ended with `code`.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Outcome {
        assert_eq!(self.code(), Some(code), "{self}");
        self
    }

    /// Panics, showing all, unless the command succeeded.
    #[track_caller]
    pub fn success(&self) -> &Outcome {
        self.exits(0)
    }

    /// Panics unless stderr has `text` in it.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Outcome {
        assert!(self.stderr().contains(text), "stderr lacks {text:?}: {self}");
        self
    }

    /// What the probe printed, as the last line of stdout.
    #[track_caller]
    pub fn answer(&self) -> Answer {
        let stdout = self.stdout();
        let line = stdout.lines().last();
        Answer::parse(line.unwrap_or_else(|| panic!("the probe said nothing: {self}")))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.status)?;
        writeln!(f, "--- stdout\n{}", self.stdout())?;
        write!(f, "--- stderr\n{}", self.stderr())
    }
}

/// A command that runs. Dropped, it is killed with its whole process group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    id: String,
    stdin: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    end: Instant,
    may_leave_processes: bool,
    ended: bool,
}

impl Running {
    #[track_caller]
    pub(crate) fn start(
        mut command: Command,
        id: String,
        input: Option<Vec<u8>>,
        timeout: Duration,
        may_leave_processes: bool,
    ) -> Running {
        crate::check_uid();
        let mut child = command
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("start {:?}: {error}", command.get_program()));
        let mut stdin = child.stdin.take();
        if let Some(bytes) = input {
            let mut pipe = stdin.take().expect("stdin is a pipe");
            // A command need not read all; the thread ends with the pipe.
            std::thread::spawn(move || pipe.write_all(&bytes));
        }
        let (send_line, lines) = channel();
        let out = child.stdout.take().expect("stdout is a pipe");
        std::thread::spawn(move || {
            let mut reader = BufReader::new(out);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                if send_line.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        let (send_errors, stderr) = channel();
        let mut errors = child.stderr.take().expect("stderr is a pipe");
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = errors.read(&mut chunk) {
                if send_errors.send(chunk[..count].to_owned()).is_err() {
                    break;
                }
            }
        });
        let end = Instant::now() + timeout;
        let (seen, ended) = (Vec::new(), false);
        Running { child, id, stdin, lines, stderr, seen, end, may_leave_processes, ended }
    }

    /// The process id of the command itself (of `remount-run`, for a sandbox).
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Of a launcher's children, as far as they are there: init, which is in a PID namespace of
    /// its own, and the broker.
    pub fn init_and_broker(&self) -> (Option<i32>, Option<i32>) {
        let depth = |pid: i32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            ids.map_or(0, |ids| ids.split_whitespace().count())
        };
        let own = depth(self.pid());
        let (inner, outer): (Vec<_>, Vec<_>) =
            children(self.pid()).into_iter().partition(|pid| depth(*pid) > own);
        (inner.first().copied(), outer.first().copied())
    }

    /// The next line of stdout, without its newline. Panics at the end of output.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let left = self.end.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.seen.extend_from_slice(&line);
                String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned()
            }
            Err(RecvTimeoutError::Timeout) => {
                self.kill_group();
                panic!("no line in time; stderr: {}", self.stderr_until_end());
            }
            Err(RecvTimeoutError::Disconnected) => {
                panic!("no more lines; stderr: {}", self.stderr_until_end())
            }
        }
    }

    /// Reads lines up to one that has `text` in it, and answers that.
    #[track_caller]
    pub fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Writes to stdin. Panics if it is closed.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(bytes.as_ref()).expect("write to the command's stdin");
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal to the command itself.
    #[track_caller]
    pub fn kill(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid()).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("the command still runs");
    }

    /// Whether the command has not ended yet.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Waits for the end. Panics if the time is up or a process was left behind.
    #[track_caller]
    pub fn wait(self) -> Outcome {
        self.wait_with(GRACE)
    }

    /// As [`Self::wait`]; so long may a closed pipe and the last processes take.
    #[track_caller]
    pub fn wait_with(mut self, grace: Duration) -> Outcome {
        self.stdin = None;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for the command") {
                break status;
            }
            if Instant::now() >= self.end {
                self.kill_group();
                self.read_rest(GRACE);
                panic!(
                    "the time is up\n--- stdout\n{}\n--- stderr\n{}",
                    String::from_utf8_lossy(&self.seen),
                    self.stderr_until_end()
                );
            }
            std::thread::sleep(Duration::from_micros(500));
        };
        self.ended = true;
        let closed = self.read_rest(grace);
        let left = if self.may_leave_processes {
            Vec::new()
        } else {
            leftovers::after(self.pid(), &self.id, grace)
        };
        let stderr = if closed { self.stderr_until_end() } else { String::new() };
        if !left.is_empty() {
            self.kill_group();
            panic!("processes were left behind: {left:#?}\n{stderr}");
        }
        let stdout = std::mem::take(&mut self.seen);
        Outcome { status, stdout, stderr: stderr.into_bytes() }
    }

    /// Reads stdout to its end; false if something still held it open after `limit`.
    fn read_rest(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.extend_from_slice(&line),
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }

    fn stderr_until_end(&self) -> String {
        let mut bytes = Vec::new();
        while let Ok(chunk) = self.stderr.recv_timeout(GRACE) {
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn kill_group(&self) {
        if let Some(group) = Pid::from_raw(self.pid()) {
            // Nothing is left of it: just as well.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.kill_group();
            // It was killed: it ends.
            drop(self.child.wait());
        }
    }
}

/// The processes that the main thread of a process has made and that are there.
pub fn children(pid: i32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    list.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// A probe that serves: one process, asked one act after another.
#[derive(Debug)]
pub struct Inside(Running);

impl Inside {
    /// Waits until it serves.
    #[track_caller]
    pub fn new(running: Running) -> Inside {
        let mut inside = Inside(running);
        inside.act(["hello"]).ok();
        inside
    }

    /// Does one act. Those that keep something (`hold`, `map`, `cd`) keep it.
    #[track_caller]
    pub fn act<I: IntoIterator<Item: AsRef<OsStr>>>(&mut self, act: I) -> Answer {
        self.ask(act);
        self.answer()
    }

    /// Sends an act without waiting for its answer.
    #[track_caller]
    pub fn ask<I: IntoIterator<Item: AsRef<OsStr>>>(&mut self, act: I) {
        let words: Vec<_> =
            act.into_iter().map(|word| wire::escape(word.as_ref().as_bytes())).collect();
        self.0.send(format!("{}\n", words.join("\t")));
    }

    /// Runs a command to its end, inside. Answers its exit code and what it printed.
    #[track_caller]
    pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&mut self, command: I) -> (i32, String) {
        let words = command.into_iter().map(|word| word.as_ref().to_owned());
        let text = self.act(std::iter::once("run".into()).chain(words)).ok();
        let (code, printed) = text.split_once('\n').expect("a code and what was printed");
        (code.parse().expect("a code"), printed.to_owned())
    }

    /// Runs `remountctl`, inside. Panics unless it ends with `code`; answers what it
    /// printed.
    #[track_caller]
    pub fn ctl(&mut self, words: &str, code: i32) -> String {
        let (got, printed) = self.run(std::iter::once("remountctl").chain(words.split(' ')));
        assert_eq!(got, code, "remountctl {words}: {printed}");
        printed
    }

    /// The next answer.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        Answer::parse(&self.0.line())
    }

    /// The command underneath.
    pub fn running(&mut self) -> &mut Running {
        &mut self.0
    }

    /// Ends the probe and waits for all of it to be gone.
    #[track_caller]
    pub fn end(self) -> Outcome {
        self.0.wait()
    }
}
