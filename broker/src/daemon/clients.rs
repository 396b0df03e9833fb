//! All clients of the daemon. There are as many as descriptors allow; who has the most
//! makes room for the others.

use super::place::Home;
use super::rules::Who;
use crate::proto::Refusal;
use crate::server::session::Session;
use crate::server::sessions::SessionId;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    pub session: Session,
    pub who: Rc<Who>,
    /// Which process it is and where that was, or why nobody knows.
    pub home: Result<Rc<Home>, Refusal>,
    /// Whether it is on the host.
    pub is_host: bool,
    active: u64,
}

#[derive(Debug)]
pub(super) struct Clients {
    by_id: BTreeMap<SessionId, Client>,
    clock: u64,
    most: usize,
}

impl Clients {
    pub fn new(most: usize) -> Self {
        Self { by_id: BTreeMap::new(), clock: 0, most }
    }

    /// Takes in a client, and returns it. If that is one too many, the longest idle one of the
    /// user who has the most has to go: the second that is returned.
    pub fn admit(
        &mut self,
        session: Session,
        who: Rc<Who>,
        home: Result<Rc<Home>, Refusal>,
        is_host: bool,
    ) -> (SessionId, Option<SessionId>) {
        let evicted = if self.is_full() { self.evict() } else { None };
        self.clock += 1;
        let active = self.clock;
        self.by_id.insert(active, Client { session, who, home, is_host, active });
        (active, evicted)
    }

    fn evict(&mut self) -> Option<SessionId> {
        let mut crowds: BTreeMap<u32, usize> = BTreeMap::new();
        for client in self.by_id.values() {
            *crowds.entry(client.who.peer.uid).or_default() += 1;
        }
        let (&uid, _) = crowds.iter().max_by_key(|(_, count)| **count)?;
        let of_crowd = self.by_id.iter().filter(|(_, it)| it.who.peer.uid == uid);
        let idle = |it: &Client| (it.session.busy || it.session.holds, it.active);
        let (&id, _) = of_crowd.min_by_key(|(_, it)| idle(it))?;
        self.by_id.remove(&id);
        Some(id)
    }

    /// Whether one more makes one of them go.
    pub fn is_full(&self) -> bool {
        self.by_id.len() >= self.most
    }

    /// How many there can be.
    pub fn most(&self) -> usize {
        self.most
    }

    pub fn get(&self, id: SessionId) -> Option<&Client> {
        self.by_id.get(&id)
    }

    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Client> {
        self.by_id.get_mut(&id)
    }

    pub fn has(&self, id: SessionId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Client)> {
        self.by_id.iter().map(|(&id, client)| (id, client))
    }

    /// The clients whose turn it is; from now on not the longest idle.
    pub fn with_line(&mut self) -> Vec<SessionId> {
        let mut ids = Vec::new();
        for (&id, client) in &mut self.by_id {
            if client.session.has_line() {
                self.clock += 1;
                client.active = self.clock;
                ids.push(id);
            }
        }
        ids
    }

    pub fn tell_followers(&mut self, event: &[u8]) {
        let sessions = self.by_id.values_mut().map(|client| &mut client.session);
        sessions.filter(|session| session.follows).for_each(|session| session.tell(event));
    }

    /// Whether [`Self::reap`] has something to do.
    pub fn any_over(&self) -> bool {
        self.by_id.values().any(|client| client.session.is_over())
    }

    /// Closes the connections that are over.
    pub fn reap(&mut self) {
        self.by_id.retain(|_, client| !client.session.is_over());
    }
}
