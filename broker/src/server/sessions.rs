//! All clients: a bounded number, so that a crowd of silent ones starves nobody.

use super::session::Session;
use crate::proto::Origin;
use std::collections::BTreeMap;

/// Clients of one origin at a time. The origins do not compete: a crowd inside the
/// sandbox cannot keep a person outside from closing a target.
pub(super) const MAX_CLIENTS: usize = 64;

/// Names a session; never given twice.
pub(crate) type SessionId = u64;

#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: BTreeMap<SessionId, Entry>,
    /// Counts what happens: its order is all that "longest idle" needs.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    /// The clock at the last complete request: single bytes do not count as a life sign.
    active: u64,
}

impl Sessions {
    /// Takes in a client. If that is one too many, the longest idle of its origin has to
    /// go: one without a request under way or a lease, unless all have one. Returns it if
    /// it had a request, for that to be given up.
    pub(super) fn admit(&mut self, session: Session) -> Option<SessionId> {
        let origin = session.caller.origin;
        let evicted = self.room_for(origin);
        self.clock += 1;
        self.by_id.insert(self.clock, Entry { session, active: self.clock });
        evicted
    }

    fn room_for(&mut self, origin: Origin) -> Option<SessionId> {
        let of_origin = || self.by_id.iter().filter(|(_, e)| e.session.caller.origin == origin);
        if of_origin().count() < MAX_CLIENTS {
            return None;
        }
        let (&id, _) =
            of_origin().min_by_key(|(_, e)| (e.session.busy || e.session.holds, e.active))?;
        let entry = self.by_id.remove(&id)?;
        entry.session.busy.then_some(id)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.by_id.get_mut(&id).map(|entry| &mut entry.session)
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id).map(|entry| &entry.session)
    }

    pub(super) fn has(&self, id: SessionId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Tells an event to those who follow.
    pub(super) fn tell_followers(&mut self, event: &[u8]) {
        let sessions = self.by_id.values_mut().map(|entry| &mut entry.session);
        for session in sessions.filter(|session| session.follows) {
            session.tell(event);
        }
    }

    /// Notes that the client made a request.
    pub(super) fn touch(&mut self, id: SessionId) {
        self.clock += 1;
        if let Some(entry) = self.by_id.get_mut(&id) {
            entry.active = self.clock;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.by_id.iter().map(|(&id, entry)| (id, &entry.session))
    }

    /// The clients whose turn it is.
    pub(super) fn with_line(&self) -> Vec<SessionId> {
        self.iter().filter(|(_, session)| session.has_line()).map(|(id, _)| id).collect()
    }

    /// Whether a client has a turn to take.
    pub(super) fn any_line(&self) -> bool {
        self.by_id.values().any(|entry| entry.session.has_line())
    }

    /// Whether [`Self::reap`] has something to do.
    pub(super) fn any_over(&self) -> bool {
        self.by_id.values().any(|entry| entry.session.is_over())
    }

    /// Closes the connections that are over.
    pub(super) fn reap(&mut self) {
        self.by_id.retain(|_, entry| !entry.session.is_over());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Caller;

    fn session(origin: Origin, busy: bool) -> Session {
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut session = Session::new(null.into(), Caller { origin, peer: None });
        session.busy = busy;
        session
    }

    fn ids(sessions: &Sessions) -> Vec<SessionId> {
        sessions.iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn the_longest_idle_goes_first() {
        let mut sessions = Sessions::default();
        sessions.admit(session(Origin::Outside, false));
        sessions.admit(session(Origin::Inside, true));
        for _ in 1..MAX_CLIENTS {
            assert_eq!(sessions.admit(session(Origin::Inside, false)), None);
        }
        sessions.touch(3);
        assert_eq!(sessions.admit(session(Origin::Inside, false)), None);
        let left = ids(&sessions);
        assert!(left.contains(&1), "another origin's");
        assert!(left.contains(&2), "it has a request under way");
        assert!(left.contains(&3), "it was active since");
        assert!(!left.contains(&4));
        assert_eq!(left.len(), MAX_CLIENTS + 1);
    }

    #[test]
    fn a_busy_one_goes_only_when_all_are() {
        let mut sessions = Sessions::default();
        for _ in 0..MAX_CLIENTS {
            sessions.admit(session(Origin::Inside, true));
        }
        assert_eq!(sessions.admit(session(Origin::Inside, false)), Some(1));
        assert_eq!(sessions.admit(session(Origin::Inside, false)), None, "the idle newcomer went");
    }
}
