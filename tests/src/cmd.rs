//! Commands to run, inside a sandbox or outside.

use crate::running::Running;
use crate::{Answer, Inside, Outcome, PATH, Pty, bin};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A command being put together. Its environment is empty but for what a login
/// would set; it runs in a process group of its own.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: PathBuf,
    options: Vec<OsString>,
    separator: bool,
    command: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
    may_leave_processes: bool,
}

/// Tells the processes of one command from those of all others, by environment.
pub(crate) const ID: &str = "REMOUNT_TEST_ID";

impl Cmd {
    /// `program`, in `/`, in no sandbox's environment.
    pub fn plain(program: impl AsRef<Path>) -> Cmd {
        Cmd {
            program: program.as_ref().to_owned(),
            options: Vec::new(),
            separator: false,
            command: Vec::new(),
            env: vec![("PATH".into(), PATH.into()), ("LANG".into(), "C.UTF-8".into())],
            cwd: "/".into(),
            stdin: None,
            timeout: Duration::from_secs(120),
            may_leave_processes: false,
        }
    }

    /// Puts `--` between the options and the command.
    pub fn separated(mut self) -> Cmd {
        self.separator = true;
        self
    }

    /// Without the `--` between the options and the command.
    pub fn unseparated(mut self) -> Cmd {
        self.separator = false;
        self
    }

    pub fn option(mut self, option: impl AsRef<OsStr>) -> Cmd {
        self.options.push(option.as_ref().to_owned());
        self
    }

    /// Options of the program itself: they stand before the command.
    pub fn options<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, options: I) -> Cmd {
        self.options.extend(options.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Cmd {
        self.command.push(word.as_ref().to_owned());
        self
    }

    /// The command that the launcher is to run; for a plain program, its arguments.
    pub fn command<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, words: I) -> Cmd {
        self.command.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// A shell's one-liner, as the command.
    pub fn sh(self, script: &str) -> Cmd {
        self.command(["sh", "-c", script])
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Cmd {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn unset(mut self, name: impl AsRef<OsStr>) -> Cmd {
        self.env.retain(|(key, _)| key != name.as_ref());
        self
    }

    pub fn cwd(mut self, path: impl AsRef<Path>) -> Cmd {
        self.cwd = path.as_ref().to_owned();
        self
    }

    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Cmd {
        self.stdin = Some(bytes.as_ref().to_owned());
        self
    }

    /// How long until the command is killed and the test fails (two minutes, if not said).
    pub fn timeout(mut self, limit: Duration) -> Cmd {
        self.timeout = limit;
        self
    }

    /// Does without the check that no process is left after the end.
    pub fn may_leave_processes(mut self) -> Cmd {
        self.may_leave_processes = true;
        self
    }

    /// Runs to the end. Panics if the time is up or a process was left behind.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Runs the probe, once, as the command.
    #[track_caller]
    pub fn probe<I: IntoIterator<Item: AsRef<OsStr>>>(self, act: I) -> Answer {
        self.arg(bin("probe")).command(act).run().answer()
    }

    /// Starts the probe as the command, to be asked one act after another.
    #[track_caller]
    pub fn serve(self) -> Inside {
        Inside::new(self.start_serving())
    }

    /// The same without waiting until it serves: for [`Inside::new`].
    #[track_caller]
    pub fn start_serving(self) -> Running {
        self.arg(bin("probe")).arg("serve").start_with(Stdio::piped())
    }

    /// Starts, with an empty stdin if none was given; the caller reads lines, sends
    /// signals, waits.
    #[track_caller]
    pub fn start(self) -> Running {
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        self.start_with(stdin)
    }

    /// Starts with a stdin that stays open until [`Running::close_stdin`].
    #[track_caller]
    pub fn start_interactive(self) -> Running {
        self.start_with(Stdio::piped())
    }

    /// Starts as the session leader on a new terminal.
    #[track_caller]
    pub fn pty(self, columns: u16, rows: u16) -> Pty {
        let (command, id) = self.to_command();
        Pty::start(command, &id, columns, rows, self.timeout)
    }

    #[track_caller]
    fn start_with(self, stdin: Stdio) -> Running {
        let (mut command, id) = self.to_command();
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::start(command, id, self.stdin, self.timeout, self.may_leave_processes)
    }

    /// Runs this command as the arguments of another program.
    pub fn within(self, program: impl AsRef<Path>, options: &[&str]) -> Cmd {
        let command = self.words();
        let options = options.iter().map(OsString::from).collect();
        Cmd { program: program.as_ref().to_owned(), options, separator: true, command, ..self }
    }

    /// Another command, in the same surroundings.
    pub fn instead(self, program: impl AsRef<Path>, options: &[&str]) -> Cmd {
        let options = options.iter().map(OsString::from).collect();
        let program = program.as_ref().to_owned();
        Cmd { program, options, separator: false, command: Vec::new(), ..self }
    }

    /// The words that will be run, for a message or for `sh`.
    pub fn words(&self) -> Vec<OsString> {
        let mut words = vec![self.program.clone().into_os_string()];
        words.extend(self.options.iter().cloned());
        if self.separator {
            words.push("--".into());
        }
        words.extend(self.command.iter().cloned());
        words
    }

    fn to_command(&self) -> (Command, String) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("remount-test-{}-{number}", std::process::id());
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(self.env.iter().cloned());
        command.env(ID, &id).current_dir(&self.cwd);
        (command, id)
    }
}
