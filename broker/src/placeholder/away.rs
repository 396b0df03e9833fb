//! Placeholders whose directory is not where it was when they were made: it was moved or
//! removed, or its file system is not mounted. It may come back with them, so they stay
//! recorded: for [`KEPT_FOR`], in the [`MOST`] records that are the newest.

use super::record::Entry;
use super::{Locked, PlaceholderError, failed, step};
use crate::sys::mount::FileId;
use rustix::fs::AtFlags;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// For how long after the start of the sandbox that made them they stay recorded.
pub const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How many records stay: each costs every start some system calls.
const MOST: usize = 32;

/// Placeholders that cannot be looked for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// The directory that they are below, at whose path it is not.
    pub base: PathBuf,
    /// How many there are at most.
    pub count: usize,
}

/// Which of the directories of a record are at their paths.
#[derive(Debug, Default)]
pub(super) struct Bases(BTreeMap<PathBuf, (usize, bool)>);

impl Bases {
    /// Takes note of an entry: which directory is at its path now, and whether a placeholder
    /// was found in that.
    pub fn note(&mut self, entry: &Entry, now: Option<FileId>, is_found: bool) {
        let (count, is_there) = self.0.entry(entry.base.clone()).or_default();
        *count += 1;
        *is_there |= now.is_some_and(|now| {
            // The number of a device may be another after the next boot.
            now == entry.base_id || now.dev != entry.base_id.dev && is_found
        });
    }

    /// Those that are not.
    pub fn away(self) -> Vec<Away> {
        let away = self.0.into_iter().filter(|(_, (_, is_there))| !is_there);
        merge(away.map(|(base, (count, _))| Away { base, count }).collect(), |a, b| a + b)
    }
}

/// One for each directory that is in no other one.
fn merge(mut all: Vec<Away>, add: fn(usize, usize) -> usize) -> Vec<Away> {
    all.sort_by(|a, b| a.base.cmp(&b.base));
    let mut merged: Vec<Away> = Vec::new();
    for Away { base, count } in all {
        match merged.iter_mut().find(|it| base.starts_with(&it.base)) {
            Some(around) => around.count = add(around.count, count),
            None => merged.push(Away { base, count }),
        }
    }
    merged
}

/// What several records say: of the same placeholders, mostly.
pub(super) fn of_all(all: Vec<Away>) -> Vec<Away> {
    merge(all, usize::max)
}

impl Locked<'_> {
    /// Forgets the records that are too old or too many, and answers what the others say.
    pub(super) fn keep(
        &self,
        away: Vec<(OsString, Vec<Away>)>,
    ) -> Result<Vec<Away>, PlaceholderError> {
        let mut dated = Vec::new();
        for (name, away) in away {
            let stat = rustix::fs::statat(&self.0.dir, &*name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed(step::STORE, &self.0.path))?;
            let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
            dated.push((UNIX_EPOCH + Duration::from_secs(seconds), name, away));
        }
        dated.sort_by_key(|(made, ..)| Reverse(*made));
        let (now, mut kept) = (SystemTime::now(), Vec::new());
        for (place, (made, name, away)) in dated.into_iter().enumerate() {
            if place >= MOST || now.duration_since(made).is_ok_and(|age| age > KEPT_FOR) {
                self.forget(&name)?;
            } else {
                kept.extend(away);
            }
        }
        Ok(of_all(kept))
    }
}
