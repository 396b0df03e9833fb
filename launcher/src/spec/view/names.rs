//! Which names a directory cannot have.

use rustc_hash::FxHasher;
use std::ffi::OsStr;
use std::hash::Hasher;
use std::os::unix::ffi::OsStrExt;

/// A set of names that may say yes to a name that is not in it (a Bloom filter with
/// one hash): for hundreds of names it needs no memory of their own.
#[derive(Default)]
pub(super) struct NameFilter([u64; 32]);

impl NameFilter {
    pub fn add(&mut self, name: &OsStr) {
        let (word, bit) = Self::position(name);
        self.0[word] |= bit;
    }

    /// False only if `name` was not added.
    pub fn may_contain(&self, name: &OsStr) -> bool {
        let (word, bit) = Self::position(name);
        self.0[word] & bit != 0
    }

    fn position(name: &OsStr) -> (usize, u64) {
        let hash = name_hash(name);
        ((hash >> 6) as usize % 32, 1 << (hash % 64))
    }
}

/// A number that equal names share, and few others do.
pub(super) fn name_hash(name: &OsStr) -> u32 {
    let mut hasher = FxHasher::default();
    hasher.write(name.as_bytes());
    let hash = hasher.finish();
    (hash >> 32) as u32 ^ hash as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_there_and_most_else_is_not() {
        let mut filter = NameFilter::default();
        let name = |n: u32| format!("name-{n}");
        (0..200).for_each(|n| filter.add(name(n).as_ref()));
        assert!((0..200).all(|n| filter.may_contain(name(n).as_ref())));
        let wrong = (200..1200).filter(|n| filter.may_contain(name(*n).as_ref())).count();
        assert!(wrong < 200, "{wrong} of 1000");
    }
}
