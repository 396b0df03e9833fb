//! Asking a person: runs the profile's `confirm-command` outside when the broker says that
//! a request waits.
//!
//! The launcher does this, since the broker can execute nothing. The command learns of the
//! request from its environment and answers, if it does, with `remountctl approve` or
//! `deny`; how it exits means nothing, since many notifiers return at once.

use crate::front::say;
use crate::plan::Policy;
use crate::report::Link;
use remount_broker::escape::Escaped;
use remount_broker::reason::IoReason;
use serde::Deserialize;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Commands that may run at a time: requests are the agent's, and it can make many.
const MOST: usize = 4;

/// Listens to the broker, and runs the command.
pub struct Confirm<'a> {
    /// None once the sandbox is to end, or has.
    broker: Option<Link>,
    policy: &'a Policy,
    sandbox: String,
    running: Vec<Child>,
}

/// What the broker writes (`Notice` in broker/src/server/approvals.rs).
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
    pub fn new(broker: Link, policy: &'a Policy, sandbox: String) -> Self {
        Self { broker: Some(broker), policy, sandbox, running: Vec::new() }
    }

    /// What to wait for.
    pub fn interest(&self) -> Option<BorrowedFd<'_>> {
        self.broker.as_ref().map(AsFd::as_fd)
    }

    /// Closes the connection: the broker ends.
    pub fn close(&mut self) {
        self.broker = None;
    }

    /// Hears what the broker says; to be called when there is something. `false` if the
    /// broker is gone.
    pub fn hear(&mut self) -> bool {
        let Some(broker) = &self.broker else { return false };
        match broker.receive() {
            Ok((message, None)) if !message.is_empty() => {
                if let Ok(notice) = serde_json::from_slice(&message) {
                    self.ask(&notice);
                }
                true
            }
            _ => {
                self.broker = None;
                false
            }
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
            Err(error) => say(&format!(
                "remount-run: run the confirm-command {}: {}",
                Escaped::text(program),
                IoReason(&error)
            )),
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
                say(&format!("remount-run: end the confirm-command: {}", IoReason(&error)));
            }
        }
    }
}
