//! The loop: calls that wait, processes that end, and looks at what runs.

use super::process::{Asked, Image, Lead, Process, shown};
use super::tools::{Decision, Tool};
use super::{Subject, Surroundings};
use remount_broker::sys::notify::{self, Notice};
use remount_broker::time::timestamp;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

/// After a call was let go on, what runs is looked at; if it is the old program still, again
/// after twice the time.
const FIRST_LOOK: Duration = Duration::from_micros(500);

/// As often, in all some two seconds: what has not been executed by then has failed.
const LOOKS: u32 = 12;

/// How long after the sandbox's end is waited for its last processes to be gone.
const LAST: Duration = Duration::from_secs(10);

const LISTENER: u64 = 0;
const LINK: u64 = 1;

/// One line. What is not known, or has no meaning for an event, is left out.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Line<'a> {
    time: String,
    event: &'a str,
    /// The number of the launcher's process: several may write to one file.
    sandbox: i32,
    /// Of the `exec` that this is about.
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    shim: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Option<i32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A process that has executed something, or tries to.
struct Command {
    /// The number of its last record.
    number: u64,
    process: Process,
    pidfd: OwnedFd,
    started: Instant,
    inside: i32,
    /// What it was, and when to look whether it is something else.
    before: Option<Image>,
    looks: u32,
    due: Option<Instant>,
    /// Of the arguments that it asked for, if they were read as a whole.
    arguments: Option<u64>,
    tool: Option<Tool>,
}

/// What a call that waits was found to be.
struct Seen {
    pid: i32,
    inside: i32,
    cwd: Option<Vec<u8>>,
    asked: Result<Asked, Errno>,
    lead: Lead,
}

/// The supervisor of one sandbox.
pub(super) struct Watch<'a> {
    listener: OwnedFd,
    file: &'a OwnedFd,
    subject: Subject,
    surroundings: Surroundings,
    /// By number outside.
    commands: BTreeMap<i32, Command>,
    records: u64,
}

impl<'a> Watch<'a> {
    pub fn new(
        listener: OwnedFd,
        file: &'a OwnedFd,
        subject: Subject,
        surroundings: Surroundings,
    ) -> Self {
        Self { listener, file, subject, surroundings, commands: BTreeMap::new(), records: 0 }
    }

    /// Until all processes of the sandbox have ended.
    ///
    /// # Errors
    /// What the kernel refuses, or a record that cannot be written.
    pub fn run(mut self, link: BorrowedFd<'_>) -> Result<(), Errno> {
        let events = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&events, &self.listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        epoll::add(&events, link, EventData::new_u64(LINK), EventFlags::empty())?;
        let mut end: Option<Instant> = None;
        let mut ready = Vec::with_capacity(64);
        loop {
            if end.is_some_and(|end| self.commands.is_empty() || end <= Instant::now()) {
                return Ok(());
            }
            let due = self.commands.values().filter_map(|it| it.due).chain(end).min();
            let timeout = due.map(|due| timespec(due.saturating_duration_since(Instant::now())));
            ready.clear();
            let space = rustix::buffer::spare_capacity(&mut ready);
            match epoll::wait(&events, space, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            // Who has ended comes first: a number may be another's by now.
            let mut asks = false;
            for event in &ready {
                let (data, flags) = (event.data.u64(), event.flags);
                match data {
                    LISTENER if flags.contains(EventFlags::IN) => asks = true,
                    // Nobody is left whom it announces.
                    LISTENER => epoll::delete(&events, &self.listener)?,
                    LINK => {
                        epoll::delete(&events, link)?;
                        end = Some(Instant::now() + LAST);
                    }
                    key => self.end(pid_of(key))?,
                }
            }
            if asks {
                self.hear(events.as_fd())?;
            }
            self.look()?;
        }
    }

    /// Writes a call down and lets it be made; one that cannot be written down whole fails.
    fn hear(&mut self, events: BorrowedFd<'_>) -> Result<(), Errno> {
        let notice = match notify::receive(self.listener.as_fd()) {
            Ok(notice) => notice,
            Err(Errno::NOENT | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let seen = self.see(&notice);
        if !notify::waits(self.listener.as_fd(), notice.id) {
            // It was killed: what was read may be somebody else's.
            return Ok(());
        }
        self.records += 1;
        let written = self.write_down(seen, events);
        let answer = match &written {
            Ok(None) => notify::proceed(self.listener.as_fd(), notice.id),
            Ok(Some(errno)) => notify::refuse(self.listener.as_fd(), notice.id, *errno),
            Err(_) => notify::refuse(self.listener.as_fd(), notice.id, Errno::IO),
        };
        match (written, answer) {
            (Err(errno), _) => Err(errno),
            (Ok(_), Ok(()) | Err(Errno::NOENT)) => Ok(()),
            (Ok(_), Err(errno)) => Err(errno),
        }
    }

    fn proc(&self) -> BorrowedFd<'_> {
        self.surroundings.proc.as_fd()
    }

    fn see(&self, notice: &Notice) -> Result<Seen, Errno> {
        let thread = Process::open(self.proc(), notice.thread)?;
        let (pid, inside) = thread.numbers().ok_or(Errno::ACCESS)?;
        if self.records == 0 {
            let asked = Ok(self.subject.first.clone());
            let cwd = Some(self.subject.cwd.clone());
            return Ok(Seen { pid, inside, cwd, asked, lead: Lead::Unknown });
        }
        let cwd = thread.cwd();
        let asked = thread.asked(notice);
        let lead = match (&asked, &cwd) {
            (Ok(asked), _) if asked.path.starts_with(b"/") => thread.lead(self.proc(), &asked.path),
            // Its path may be another's by now: that there is nothing is not sure.
            (Ok(asked), Some(cwd)) if !asked.path.is_empty() => {
                match thread.lead(self.proc(), &[&cwd[..], b"/", &asked.path].concat()) {
                    Lead::Nowhere => Lead::Unknown,
                    lead => lead,
                }
            }
            _ => Lead::Unknown,
        };
        Ok(Seen { pid, inside, cwd, asked, lead })
    }

    /// The answer is the error with which the call is to fail.
    fn write_down(
        &mut self,
        seen: Result<Seen, Errno>,
        events: BorrowedFd<'_>,
    ) -> Result<Option<Errno>, Errno> {
        let mut line = Line { event: "exec", id: self.records, ..Line::default() };
        let Ok(seen) = seen else {
            line.error = Some("EACCES: the process cannot be looked at".to_owned());
            self.write(line)?;
            return Ok(Some(Errno::ACCESS));
        };
        let Seen { pid, inside, cwd, asked, lead } = seen;
        (line.pid, line.host_pid) = (Some(inside), Some(pid));
        line.cwd = cwd.map(|cwd| shown(&cwd));
        let asked = match asked {
            Ok(asked) => asked,
            Err(errno) => {
                let (errno, name) = match errno {
                    Errno::ACCESS | Errno::PERM => (Errno::ACCESS, "EACCES"),
                    _ => (Errno::FAULT, "EFAULT"),
                };
                line.error = Some(format!("{name}: path and arguments cannot be read"));
                self.write(line)?;
                return Ok(Some(errno));
            }
        };
        line.path = Some(shown(&asked.path));
        line.arguments = Some(asked.arguments.iter().map(|word| shown(word)).collect());
        line.truncated = asked.is_truncated;
        let file = match &lead {
            Lead::To(file) => Some(&file[..]),
            _ => None,
        };
        line.file = file.map(shown);
        if lead == Lead::Nowhere {
            line.error = Some("ENOENT".to_owned());
            self.write(line)?;
            return Ok(Some(Errno::NOENT));
        }
        if self.commands.get(&pid).map(|known| has_ended(&known.pidfd)).transpose()? == Some(true) {
            self.end(pid)?;
        }
        let before = self.commands.get(&pid).and_then(|known| known.tool.as_ref());
        let tool = self.subject.tools.look(&asked, file, before);
        line.shim = tool.as_ref().map(|tool| tool.name.as_str());
        line.decision = tool.as_ref().map(|tool| tool.decision.as_str());
        self.write(line)?;
        let arguments =
            (!asked.is_truncated).then(|| self.surroundings.hasher.hash_one(&asked.arguments));
        self.follow(pid, inside, (arguments, tool), events)?;
        Ok(None)
    }

    /// From now on it is known when this process ends.
    fn follow(
        &mut self,
        pid: i32,
        inside: i32,
        (arguments, tool): (Option<u64>, Option<Tool>),
        events: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let (number, started) = (self.records, Instant::now());
        let (looks, due) = (0, Some(started + FIRST_LOOK));
        if let Some(known) = self.commands.get_mut(&pid) {
            known.before = known.process.image();
            (known.number, known.started) = (number, started);
            (known.looks, known.due) = (looks, due);
            (known.arguments, known.tool) = (arguments, tool);
            return Ok(());
        }
        if self.commands.len() as u64 >= self.surroundings.most {
            let error = Some("not followed: too many at a time".to_owned());
            return self.write(Line { event: "exit", id: number, error, ..Line::default() });
        }
        let open = || -> Result<Command, Errno> {
            let pidfd = pidfd_open(Pid::from_raw(pid).ok_or(Errno::SRCH)?, PidfdFlags::empty())?;
            let process = Process::open(self.proc(), pid)?;
            let before = process.image();
            let (looks, due) = (looks, due);
            Ok(Command {
                number,
                process,
                pidfd,
                started,
                inside,
                before,
                looks,
                due,
                arguments,
                tool,
            })
        };
        match open() {
            Ok(command) => {
                let data = EventData::new_u64(key_of(pid));
                epoll::add(events, &command.pidfd, data, EventFlags::IN)?;
                self.commands.insert(pid, command);
                Ok(())
            }
            // It has been killed meanwhile.
            Err(Errno::SRCH | Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Looks at what runs now, where it is time to.
    fn look(&mut self) -> Result<(), Errno> {
        let now = Instant::now();
        let is_due = |command: &Command| command.due.is_some_and(|due| due <= now);
        let due: Vec<i32> =
            self.commands.iter().filter(|(_, it)| is_due(it)).map(|(pid, _)| *pid).collect();
        for pid in due {
            let Some(command) = self.commands.get_mut(&pid) else { continue };
            let image = command.process.image();
            let arguments = command.process.arguments();
            command.looks += 1;
            let is_last = command.looks == LOOKS;
            let is_new = image.is_some_and(|image| Some(image) != command.before);
            // Without arguments it is being made, or has ended.
            if !is_new || arguments.is_none() && !is_last {
                command.due = (!is_last).then(|| now + FIRST_LOOK * (1 << command.looks));
                continue;
            }
            command.due = None;
            let mut line = Line { event: "running", id: command.number, ..Line::default() };
            line.executable = command.process.executable().map(|path| shown(&path));
            // What it was asked for is not written twice.
            let is_same = arguments.as_ref().is_some_and(|is| {
                command.arguments == Some(self.surroundings.hasher.hash_one(&is.arguments))
            });
            if let Some(is) = arguments.filter(|_| !is_same) {
                line.arguments = Some(is.arguments.iter().map(|word| shown(word)).collect());
                line.truncated = is.is_truncated;
            }
            self.write(line)?;
        }
        Ok(())
    }

    /// A process has ended.
    fn end(&mut self, pid: i32) -> Result<(), Errno> {
        let Some(command) = self.commands.remove(&pid) else { return Ok(()) };
        let status = command.process.ended().or_else(|| notify::ended(command.pidfd.as_fd()));
        let mut line = Line { event: "exit", id: command.number, ..Line::default() };
        (line.pid, line.host_pid) = (Some(command.inside), Some(pid));
        line.seconds = Some(command.started.elapsed().as_secs_f64());
        match status {
            Some(status) if status & 0x7f != 0 => line.signal = Some(status & 0x7f),
            status => line.code = Some(status.map(|status| status >> 8 & 0xff)),
        }
        // A shim that asked, and then executed nothing.
        if let Some(tool) = command.tool.as_ref().filter(|it| it.decision == Decision::Asks) {
            line.shim = Some(&tool.name);
            line.decision = Some(Decision::Blocked.as_str());
        }
        self.write(line)
    }

    /// In one piece, since others may write to the file as well.
    fn write(&self, line: Line<'_>) -> Result<(), Errno> {
        let line =
            Line { time: timestamp(SystemTime::now()), sandbox: self.surroundings.sandbox, ..line };
        let mut line = serde_json::to_vec(&line).map_err(|_| Errno::INVAL)?;
        line.push(b'\n');
        let mut rest = &line[..];
        while !rest.is_empty() {
            match rustix::io::write(self.file, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

fn key_of(pid: i32) -> u64 {
    u64::from(pid.cast_unsigned()) + LINK
}

fn pid_of(key: u64) -> i32 {
    i32::try_from(key - LINK).unwrap_or(0)
}

fn has_ended(pidfd: &OwnedFd) -> Result<bool, Errno> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&at_once))? > 0)
}

fn timespec(left: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}
