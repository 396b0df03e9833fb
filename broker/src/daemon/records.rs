//! What clients are told, and what is written down of it.

use super::errand::Act;
use super::jobs::Job;
use super::serve::Daemon;
use crate::proto::{Dialect, ErrorCode, Origin, Refusal, Reply};
use crate::sandbox::Standing;
use crate::server::journal::Entry;
use crate::server::sessions::SessionId;

impl Daemon<'_> {
    pub(super) fn record_set(&mut self, job: &Job, refused: Option<&Refusal>) {
        let Act::Set { wish, standing } = job.task.act else { return };
        let targets: Vec<_> = job.task.spots.iter().map(|spot| spot.name.clone()).collect();
        let origin = if standing == Standing::Outside { Origin::Outside } else { Origin::Inside };
        let (pid, command) = self.identity(job.session);
        self.record(&Entry {
            event: if refused.is_some() { "refused" } else { "granted" },
            mode: Some(wish.word()),
            targets: &targets,
            origin: Some(origin),
            pid,
            uid: Some(job.who.peer.uid),
            command: &command,
            error: refused.map(|refused| refused.error.word()),
            message: refused.map(|refused| refused.message.as_str()),
            ..Entry::default()
        });
    }

    pub(super) fn record_refusal(&mut self, id: SessionId, refused: &Refusal) {
        let (pid, command) = self.identity(id);
        let client = self.clients.get(id);
        let (uid, is_host) = client.map_or((None, false), |it| (Some(it.who.peer.uid), it.is_host));
        self.record(&Entry {
            event: "refused",
            origin: Some(if is_host { Origin::Outside } else { Origin::Inside }),
            pid,
            uid,
            command: &command,
            error: Some(refused.error.word()),
            message: Some(&refused.message),
            ..Entry::default()
        });
    }

    pub(super) fn identity(&self, id: SessionId) -> (Option<i32>, String) {
        let pid = self.clients.get(id).and_then(|client| client.who.peer.pid);
        let command = self.command(id).unwrap_or_default().to_owned();
        (pid.map(|pid| pid.as_raw_nonzero().get()), command)
    }

    /// What the client's process calls itself, read once for each connection. Its command line
    /// is in its memory: who reads that waits for as long as a page fault there takes, and the
    /// file that it is about may be the client's own.
    pub(super) fn command(&self, id: SessionId) -> Option<&str> {
        let client = self.clients.get(id)?;
        let pid = client.who.peer.pid?;
        Some(client.session.command.get_or_init(|| self.inspector.name(pid)))
    }

    pub(super) fn answer(&mut self, id: SessionId, dialect: Dialect, reply: &Reply) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.session.reply(&reply.to_bytes(dialect));
        let is_last = match reply {
            Reply::Bye => true,
            Reply::Refused(refused) => refused.error == ErrorCode::BadRequest,
            _ => false,
        };
        if is_last {
            client.session.close();
        }
    }
}
