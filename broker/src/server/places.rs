//! Mounts that leave their places: they are put back, or their targets are stale.

use super::journal::Entry;
use super::{Server, Token};
use crate::escape::Escaped;
use crate::heal::Scope;
use crate::proto::{State, TargetReport};
use std::time::Instant;

impl Server<'_> {
    /// Puts mounts back when the kernel tells of a change or it is time to look.
    pub(super) fn heal(&mut self, tokens: &[Token]) {
        let Some(healer) = &mut self.context.healer else { return };
        let now = Instant::now();
        let has = |wanted: fn(&Token) -> bool| tokens.iter().any(wanted);
        let heard = if has(|token| matches!(token, Token::Names)) { healer.heard() } else { None };
        if has(|token| matches!(token, Token::Mounts)) || healer.due() <= now {
            self.look(&Scope::All, now);
        } else if let Some(scope) = heard {
            self.look(&scope, now);
        }
    }

    /// What the host did before somebody asks is known when he is answered.
    pub(super) fn heal_before_requests(&mut self) {
        let Some(healer) = &mut self.context.healer else { return };
        if self.sessions.any_line() && healer.has_news() {
            self.look(&Scope::All, Instant::now());
        }
    }

    fn look(&mut self, scope: &Scope, now: Instant) {
        let Some(healer) = &mut self.context.healer else { return };
        let inspector = self.context.inspector.as_ref();
        let events = healer.look(scope, &mut self.registry, inspector, now);
        // Before anybody reads of it and moves it again.
        let reports = self.registry.report(self.registry.all());
        for event in events {
            let text = format!("{}{}", Escaped::path(&event.path), event.what.advice());
            let (event, message) = (event.what.name(), Some(text.as_str()));
            self.record(&Entry { event, message, ..Entry::default() });
        }
        self.note_stale(&reports);
    }

    /// Writes down which targets have become stale, each time that one does.
    pub(super) fn note_stale(&mut self, reports: &[TargetReport]) {
        for report in reports {
            if report.state == State::Ok {
                self.known_stale.remove(&report.name);
            } else if self.known_stale.insert(report.name.clone()) {
                let targets = [report.name.clone()];
                self.record(&Entry { event: "stale", targets: &targets, ..Entry::default() });
            }
        }
    }
}
