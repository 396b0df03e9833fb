//! The loop: calls that wait, processes that end, and looks at what runs.

use super::first;
use super::process::{Asked, Image, Process};
use crate::plan::Exec;
use remount_broker::sys::notify;
use remount_broker::time::timestamp;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
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
}

/// The supervisor of one sandbox.
pub(super) struct Watch<'a> {
    listener: OwnedFd,
    proc: OwnedFd,
    file: &'a OwnedFd,
    exec: &'a Exec,
    /// By number outside.
    commands: BTreeMap<i32, Command>,
    records: u64,
}

impl<'a> Watch<'a> {
    pub fn new(listener: OwnedFd, proc: OwnedFd, file: &'a OwnedFd, exec: &'a Exec) -> Self {
        Self { listener, proc, file, exec, commands: BTreeMap::new(), records: 0 }
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
            let due = self.commands.values().filter_map(|it| it.due).chain(end).min();
            if end.is_some_and(|end| self.commands.is_empty() || end <= Instant::now()) {
                return Ok(());
            }
            let timeout = due.map(|due| timespec(due.saturating_duration_since(Instant::now())));
            ready.clear();
            match epoll::wait(&events, rustix::buffer::spare_capacity(&mut ready), timeout.as_ref())
            {
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
                    pid => self.end(i32::try_from(pid >> 2).unwrap_or(0))?,
                }
            }
            if asks {
                self.hear(events.as_fd())?;
            }
            self.look()?;
        }
    }

    /// Writes a call down and lets it be made.
    fn hear(&mut self, events: BorrowedFd<'_>) -> Result<(), Errno> {
        let notice = match notify::receive(self.listener.as_fd()) {
            Ok(notice) => notice,
            Err(Errno::NOENT | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let thread = Process::open(self.proc.as_fd(), notice.thread);
        let asked = thread.as_ref().map_err(|errno| *errno).and_then(|it| it.asked(&notice));
        let asked = if self.records == 0 { Ok(first(self.exec)) } else { asked };
        let thread = thread.ok();
        let numbers = thread.as_ref().and_then(Process::numbers);
        let cwd = thread.as_ref().and_then(Process::cwd);
        if !notify::waits(self.listener.as_fd(), notice.id) {
            // It was killed: what was read may be somebody else's.
            return Ok(());
        }
        let (pid, inside) = numbers.unwrap_or((notice.thread, 0));
        let number = self.write_asked(pid, inside, cwd, asked);
        let number = match number {
            Ok(number) => number,
            Err(errno) => {
                notify::refuse(self.listener.as_fd(), notice.id, Errno::IO).unwrap_or(());
                return Err(errno);
            }
        };
        self.follow(pid, inside, number, events)?;
        match notify::proceed(self.listener.as_fd(), notice.id) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn write_asked(
        &mut self,
        pid: i32,
        inside: i32,
        cwd: Option<String>,
        asked: Result<Asked, Errno>,
    ) -> Result<u64, Errno> {
        self.records += 1;
        let number = self.records;
        let mut record = json!({
            "event": "exec", "id": number, "pid": inside, "host-pid": pid, "cwd": cwd,
        });
        match asked {
            Ok(asked) => {
                record["path"] = asked.path.into();
                record["arguments"] = asked.arguments.into();
                if asked.is_truncated {
                    record["truncated"] = true.into();
                }
            }
            Err(errno) => {
                record["path"] = Value::Null;
                record["arguments"] = Value::Null;
                record["error"] = format!("not readable: {errno}").into();
            }
        }
        self.write(record)?;
        Ok(number)
    }

    /// From now on it is known when this process ends.
    fn follow(
        &mut self,
        pid: i32,
        inside: i32,
        number: u64,
        events: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let now = Instant::now();
        let (started, looks, due) = (now, 0, Some(now + FIRST_LOOK));
        if let Some(known) = self.commands.get_mut(&pid) {
            if !has_ended(&known.pidfd)? {
                known.before = known.process.image();
                (known.number, known.started) = (number, started);
                (known.looks, known.due) = (looks, due);
                return Ok(());
            }
            self.end(pid)?;
        }
        let open = || -> Result<Command, Errno> {
            let pidfd = pidfd_open(Pid::from_raw(pid).ok_or(Errno::SRCH)?, PidfdFlags::empty())?;
            let process = Process::open(self.proc.as_fd(), pid)?;
            let before = process.image();
            Ok(Command { number, process, pidfd, started, inside, before, looks, due })
        };
        match open() {
            Ok(command) => {
                let data = EventData::new_u64((u64::from(pid.cast_unsigned()) << 2) | 2);
                epoll::add(events, &command.pidfd, data, EventFlags::IN)?;
                self.commands.insert(pid, command);
                Ok(())
            }
            Err(Errno::SRCH | Errno::NOENT) => Ok(()),
            // Too many at a time: how this one ends is not known.
            Err(Errno::MFILE | Errno::NFILE) => {
                self.write(json!({ "event": "exit", "id": number, "error": "not followed" }))
            }
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
            if image.is_some() && image != command.before {
                command.due = None;
                let record = json!({
                    "event": "running", "id": command.number,
                    "executable": command.process.executable(),
                    "arguments": command.process.arguments(),
                });
                self.write(record)?;
                continue;
            }
            command.looks += 1;
            command.due = (command.looks < LOOKS).then(|| now + FIRST_LOOK * (1 << command.looks));
        }
        Ok(())
    }

    /// A process has ended.
    fn end(&mut self, pid: i32) -> Result<(), Errno> {
        let Some(command) = self.commands.remove(&pid) else { return Ok(()) };
        let status = command.process.ended().or_else(|| notify::ended(command.pidfd.as_fd()));
        let mut record = json!({
            "event": "exit", "id": command.number, "pid": command.inside, "host-pid": pid,
            "seconds": command.started.elapsed().as_secs_f64(),
        });
        match status {
            Some(status) if status & 0x7f != 0 => record["signal"] = (status & 0x7f).into(),
            Some(status) => record["code"] = (status >> 8 & 0xff).into(),
            None => record["code"] = Value::Null,
        }
        self.write(record)
    }

    /// One line, with the time first.
    fn write(&self, record: Value) -> Result<(), Errno> {
        let mut line = Map::new();
        line.insert("time".to_owned(), timestamp(SystemTime::now()).into());
        if let Value::Object(fields) = record {
            line.extend(fields);
        }
        let line = format!("{}\n", Value::Object(line));
        let mut rest = line.as_bytes();
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
