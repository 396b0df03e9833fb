//! Lists whose entries replace one another.

use crate::profile::expand::PathText;
use crate::profile::model::{Bind, Cache, Overlay, Protect, Tmpfs};
use crate::profile::source::Located;
use std::collections::HashMap;

/// A place that entries are told apart by.
pub(super) trait Keyed {
    fn key(&self) -> String;
}

impl Keyed for PathText {
    fn key(&self) -> String {
        Self::key(self)
    }
}

impl Keyed for Bind {
    fn key(&self) -> String {
        self.destination().key()
    }
}

impl Keyed for Tmpfs {
    fn key(&self) -> String {
        self.path.key()
    }
}

impl Keyed for Cache {
    fn key(&self) -> String {
        self.path.key()
    }
}

impl Keyed for Overlay {
    fn key(&self) -> String {
        self.destination().key()
    }
}

impl Keyed for Protect {
    fn key(&self) -> String {
        self.path.key()
    }
}

/// A list in which an entry takes the place of an earlier one with the same key.
pub(super) struct Merging<T> {
    entries: Vec<Option<Located<T>>>,
    places: HashMap<String, usize>,
}

impl<T: Keyed> Merging<T> {
    pub(super) fn new(entries: Vec<Located<T>>) -> Self {
        let mut merging = Self { entries: Vec::new(), places: HashMap::new() };
        for entry in entries {
            merging.add(entry);
        }
        merging
    }

    /// Adds an entry at the end.
    pub(super) fn add(&mut self, entry: Located<T>) {
        let key = entry.value.key();
        if let Some(place) = self.places.insert(key, self.entries.len()) {
            self.entries[place] = None;
        }
        self.entries.push(Some(entry));
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Located<T>> {
        self.places.remove(key).and_then(|place| self.entries[place].take())
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Located<T>> {
        self.places.get(key).and_then(|place| self.entries[*place].as_mut())
    }

    /// Those that are left, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Located<T>> {
        self.entries.iter().flatten()
    }

    pub(super) fn finish(self) -> Vec<Located<T>> {
        self.entries.into_iter().flatten().collect()
    }
}
