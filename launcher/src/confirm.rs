//! Asking a person: runs the profile's `confirm-command` outside when the broker says that
//! a request waits.
//!
//! The launcher does this, since the broker can execute nothing. The command learns of the
//! request from its environment and answers, if it does, with `remountctl approve` or
//! `deny`; how it exits means nothing, since many notifiers return at once.

use crate::plan::Policy;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use serde::Deserialize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Commands that may run at a time: requests are the agent's, and it can make many.
const MOST: usize = 4;

/// What is kept of what the broker says, in bytes, until a line is complete.
const LONGEST: usize = 64 << 10;

/// Listens to the broker, and runs the command.
pub struct Confirm<'a> {
    broker: OwnedFd,
    policy: &'a Policy,
    sandbox: String,
    input: Vec<u8>,
    running: Vec<Child>,
    open: bool,
}

/// A line that the broker writes (`Notice` in broker/src/server/approvals.rs).
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Notice {
    id: u64,
    targets: Vec<String>,
    pid: Option<i32>,
    command: String,
    timeout_ms: u64,
}

impl<'a> Confirm<'a> {
    /// `broker` is the connection whose other end the broker has: that it stays open is
    /// what keeps the broker alive.
    pub fn new(broker: OwnedFd, policy: &'a Policy, sandbox: String) -> Self {
        Self { broker, policy, sandbox, input: Vec::new(), running: Vec::new(), open: true }
    }

    /// What to wait for.
    pub fn interest(&self) -> Option<BorrowedFd<'_>> {
        self.open.then(|| self.broker.as_fd())
    }

    /// Reads what the broker said.
    pub fn hear(&mut self) {
        let mut chunk = [0; 4096];
        match rustix::net::recv(&self.broker, &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => self.open = false,
            Ok((_, received)) => self.input.extend_from_slice(&chunk[..received]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.open = false,
        }
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            if let Ok(notice) = serde_json::from_slice(&line) {
                self.ask(&notice);
            }
        }
        if self.input.len() > LONGEST {
            self.input.clear();
        }
    }

    /// Runs the command. One that cannot be run is said; the request waits all the same.
    fn ask(&mut self, notice: &Notice) {
        self.reap();
        let Some((program, arguments)) = self.policy.confirm_command.split_first() else { return };
        if self.running.len() >= MOST {
            return;
        }
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir("/")
            .env("REMOUNT_SANDBOX", &self.sandbox)
            .env("REMOUNT_REQUEST", notice.id.to_string())
            .env("REMOUNT_TARGETS", notice.targets.join(" "))
            .env("REMOUNT_PID", notice.pid.map(|pid| pid.to_string()).unwrap_or_default())
            .env("REMOUNT_COMMAND", &notice.command)
            .env("REMOUNT_DIRECTORY", &self.policy.cwd)
            .env("REMOUNT_TIMEOUT", (notice.timeout_ms / 1000).to_string())
            .stdin(Stdio::null())
            .process_group(0);
        match command.spawn() {
            Ok(child) => self.running.push(child),
            Err(error) => eprintln!("remount-run: run the confirm-command {program:?}: {error}"),
        }
    }

    /// Takes note of those that have ended.
    pub fn reap(&mut self) {
        self.running.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

impl Drop for Confirm<'_> {
    /// With the sandbox its questions end.
    fn drop(&mut self) {
        for child in &mut self.running {
            // What is not this user's to kill goes on without us.
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                eprintln!("remount-run: end the confirm-command: {error}");
            }
        }
    }
}
