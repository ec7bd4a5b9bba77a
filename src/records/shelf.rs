//! Which records wait, which is sent next, and which go when there are too many: pure.

use std::collections::BTreeMap;
use std::ops::Bound;

/// A record that waits, told from others by when its call ended and what that was called: older ones come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// When the call ended, in milliseconds since 1970.
    pub(super) ended_ms: u64,
    pub(super) call_id: String,
}

impl Key {
    /// The name of its file.
    pub(super) fn file_name(&self) -> String {
        format!("{:015}-{}.json", self.ended_ms, self.call_id)
    }

    /// The key of a file of that name; none of others'.
    pub(super) fn of_file(name: &str) -> Option<Self> {
        let (ended, call_id) = name.strip_suffix(".json")?.split_once('-')?;
        Some(Self {
            ended_ms: ended.parse().ok()?,
            call_id: call_id.to_owned(),
        })
    }
}

/// The records that wait.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// With their lengths, and whether they are under way.
    entries: BTreeMap<Key, Entry>,
    bytes: u64,
    /// What failed last: those after it are tried before it is again, so that one that always fails holds up none.
    failed: Option<Key>,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    is_under_way: bool,
}

impl Shelf {
    pub(super) fn put(&mut self, key: Key, bytes: u64) {
        self.take(&key);
        self.bytes += bytes;
        let entry = Entry {
            bytes,
            is_under_way: false,
        };
        self.entries.insert(key, entry);
    }

    /// Forgets a record.
    pub(super) fn take(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }

    /// The oldest that go until there is no more than that, those that are under way last.
    pub(super) fn overflow(&self, max_records: usize, max_bytes: u64) -> Vec<Key> {
        let (mut n, mut bytes) = (self.entries.len(), self.bytes);
        let (idle, busy): (Vec<_>, Vec<_>) =
            self.entries.iter().partition(|(_, it)| !it.is_under_way);
        let mut gone = Vec::new();
        for (key, entry) in idle.into_iter().chain(busy) {
            if n <= max_records && bytes <= max_bytes {
                break;
            }
            n -= 1;
            bytes -= entry.bytes;
            gone.push(key.clone());
        }
        gone
    }

    /// The next to be sent, which is under way from now on.
    pub(super) fn next(&mut self) -> Option<Key> {
        let after = match &self.failed {
            Some(key) => Bound::Excluded(key.clone()),
            None => Bound::Unbounded,
        };
        let is_free = |(_, entry): &(&Key, &Entry)| !entry.is_under_way;
        let later = self.entries.range((after, Bound::Unbounded)).find(is_free);
        let next = later.or_else(|| self.entries.iter().find(is_free));
        let key = next.map(|(key, _)| key.clone())?;
        self.entries.get_mut(&key)?.is_under_way = true;
        Some(key)
    }

    /// It was sent in vain, and waits again.
    pub(super) fn failed(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.is_under_way = false;
        }
        self.failed = Some(key);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// When the call of the oldest ended.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        let (key, _) = self.entries.first_key_value()?;
        Some(key.ended_ms)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether any could be sent that is not under way.
    pub(super) fn has_waiting(&self) -> bool {
        self.entries.values().any(|entry| !entry.is_under_way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ended_ms: u64) -> Key {
        Key {
            ended_ms,
            call_id: format!("call-{ended_ms}"),
        }
    }

    fn shelf(ages: &[u64]) -> Shelf {
        let mut shelf = Shelf::default();
        for age in ages {
            shelf.put(key(*age), 10);
        }
        shelf
    }

    #[test]
    fn a_key_is_the_name_of_its_file() {
        let name = key(1_700_000_000_123).file_name();
        assert_eq!(name, "001700000000123-call-1700000000123.json");
        assert_eq!(Key::of_file(&name), Some(key(1_700_000_000_123)));
        for other in ["001-call-1.tmp", "readme.json", "x-call-1.json", ""] {
            assert_eq!(Key::of_file(other), None, "{other}");
        }
    }

    #[test]
    fn the_oldest_goes_first_and_one_that_fails_holds_up_none() {
        let mut shelf = shelf(&[3, 1, 2]);
        assert_eq!(shelf.next(), Some(key(1)));
        shelf.failed(key(1));
        assert_eq!(shelf.next(), Some(key(2)));
        shelf.take(&key(2));
        assert_eq!(shelf.next(), Some(key(3)));
        assert_eq!(shelf.next(), Some(key(1)), "from the beginning again");
        assert_eq!(shelf.next(), None);
        assert!(!shelf.has_waiting());
        shelf.failed(key(3));
        assert!(shelf.has_waiting());
    }

    #[test]
    fn the_oldest_are_dropped_those_under_way_last() {
        let mut shelf = shelf(&[1, 2, 3, 4]);
        assert_eq!(shelf.overflow(4, 40), []);
        assert_eq!(shelf.overflow(3, 40), [key(1)]);
        assert_eq!(shelf.overflow(4, 15), [key(1), key(2), key(3)]);
        assert_eq!(shelf.next(), Some(key(1)));
        assert_eq!(shelf.overflow(3, 40), [key(2)]);
        shelf.take(&key(2));
        assert_eq!((shelf.len(), shelf.bytes()), (3, 30));
        shelf.put(key(3), 5);
        assert_eq!((shelf.len(), shelf.bytes()), (3, 25));
        assert_eq!(
            (shelf.oldest_ms(), Shelf::default().oldest_ms()),
            (Some(1), None)
        );
    }
}
