//! A transaction's writes before they are sent.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::Error;
use crate::api::{Expect, Key, Value, Write};

/// One buffered write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffered {
    /// The new value; `None` deletes.
    pub value: Option<Value>,
    /// No row may stand under the key, at the latest.
    pub absent: bool,
}

/// Writes by key.
pub type Writes = BTreeMap<Key, Buffered>;

#[derive(Debug)]
enum Undo {
    Write(Key, Option<Buffered>),
    Fence(Key, Option<Option<u64>>),
}

/// What was written and not yet sent, and how to undo it.
///
/// Invariant: `bytes` is the sum of [`cost`] over `writes`.
#[derive(Debug, Default)]
pub struct Buffer {
    writes: Writes,
    fences: BTreeMap<Key, Option<u64>>,
    bytes: usize,
    /// Recorded from the first savepoint on.
    undo: Vec<Undo>,
    recording: bool,
    /// The mark that the start of `undo` stands for; what lies before it has been sent and can't be undone.
    base: u64,
}

/// What a write costs in memory, about.
fn cost(key: &Bytes, write: &Buffered) -> usize {
    // The node in the tree, and the headers of two `Bytes`.
    96 + key.len() + write.value.as_ref().map_or(0, Bytes::len)
}

impl Buffer {
    /// Adds a write. It replaces an earlier one; what that expected is still expected, and a row that the transaction
    /// itself has put there counts as there.
    pub fn put(&mut self, write: Write) -> Result<(), Error> {
        let expects = write.expect == Expect::Absent;
        let old = self.writes.get(&write.key);
        let absent = match old {
            Some(old) if expects && old.value.is_some() => {
                return Err(Error::AlreadyExists { key: write.key });
            }
            Some(old) => old.absent,
            None => expects,
        };
        self.set(write.key, Some(Buffered { value: write.value, absent }));
        Ok(())
    }

    /// Sets a fence.
    pub fn put_fence(&mut self, prefix: Key, version: Option<u64>) {
        let old = self.fences.insert(prefix.clone(), version);
        if self.recording {
            self.undo.push(Undo::Fence(prefix, old));
        }
    }

    fn set(&mut self, key: Key, write: Option<Buffered>) {
        let old = self.replace(key.clone(), write);
        if self.recording {
            self.undo.push(Undo::Write(key, old));
        }
    }

    fn replace(&mut self, key: Key, write: Option<Buffered>) -> Option<Buffered> {
        if let Some(write) = &write {
            self.bytes += cost(&key, write);
        }
        let old = match write {
            Some(write) => self.writes.insert(key.clone(), write),
            None => self.writes.remove(&key),
        };
        if let Some(old) = &old {
            self.bytes -= cost(&key, old);
        }
        old
    }

    /// A mark to roll back to.
    pub fn savepoint(&mut self) -> u64 {
        self.recording = true;
        self.base + self.undo.len() as u64
    }

    /// Undoes what was put since the mark.
    pub fn rollback_to(&mut self, mark: u64) -> Result<(), Error> {
        let Some(keep) = mark.checked_sub(self.base) else {
            return Err(Error::Unsupported(
                "rolling back to a savepoint after so much was written that a part was sent".to_owned(),
            ));
        };
        while self.undo.len() as u64 > keep {
            match self.undo.pop() {
                Some(Undo::Write(key, old)) => {
                    self.replace(key, old);
                }
                Some(Undo::Fence(prefix, Some(old))) => {
                    self.fences.insert(prefix, old);
                }
                Some(Undo::Fence(prefix, None)) => {
                    self.fences.remove(&prefix);
                }
                None => break,
            }
        }
        Ok(())
    }

    /// Takes the writes out, to send them. They can't be undone after this.
    pub fn take(&mut self) -> Writes {
        self.base += self.undo.len() as u64;
        self.undo.clear();
        self.bytes = 0;
        std::mem::take(&mut self.writes)
    }

    /// The writes.
    pub fn writes(&self) -> &Writes {
        &self.writes
    }

    /// The fences that are to be set.
    pub fn fences(&self) -> &BTreeMap<Key, Option<u64>> {
        &self.fences
    }

    /// How much memory the writes take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A part of a layer, in the order of the scan.
fn layer<'w>(
    part: Option<std::collections::btree_map::Range<'w, Key, Buffered>>,
    reverse: bool,
) -> Box<dyn Iterator<Item = (&'w Key, &'w Buffered)> + 'w> {
    match (part, reverse) {
        (None, _) => Box::new(std::iter::empty()),
        (Some(part), false) => Box::new(part),
        (Some(part), true) => Box::new(part.rev()),
    }
}

/// Lays two layers of own writes (`upper` over `lower`) over one page of rows that covers `covered`.
///
/// Returns at most `rows_max` rows with about `bytes_max` bytes, and the last key if it had to stop before the end of
/// what is covered.
pub fn overlay<'w>(
    rows: Vec<(Key, Value)>,
    covered: &storage::ids::KeyRange,
    layers: [&'w Writes; 2],
    reverse: bool,
    rows_max: usize,
    bytes_max: usize,
) -> (Vec<(Key, Value)>, Option<Key>) {
    use std::ops::Bound;
    let start = Bound::Included(covered.start.clone());
    let end = if covered.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(covered.end.clone()) };
    let (upper, lower) = if covered.is_empty() {
        (layer(None, reverse), layer(None, reverse))
    } else {
        let part = |writes: &'w Writes| writes.range((start.clone(), end.clone()));
        (layer(Some(part(layers[0])), reverse), layer(Some(part(layers[1])), reverse))
    };
    let (mut upper, mut lower) = (upper.peekable(), lower.peekable());
    if upper.peek().is_none() && lower.peek().is_none() {
        return (rows, None);
    }
    let before = |a: &Key, b: &Key| if reverse { a > b } else { a < b };
    let mut rows = rows.into_iter().peekable();
    let mut merged: Vec<(Key, Value)> = Vec::new();
    let mut bytes = 0;
    loop {
        let heads =
            [upper.peek().map(|(k, _)| *k), lower.peek().map(|(k, _)| *k), rows.peek().map(|(k, _)| k)];
        let mut next: Option<&Key> = None;
        for head in heads.into_iter().flatten() {
            if next.is_none_or(|key| before(head, key)) {
                next = Some(head);
            }
        }
        let Some(key) = next.cloned() else {
            return (merged, None);
        };
        if merged.len() >= rows_max || bytes >= bytes_max {
            let last = merged.last().map(|(key, _)| key.clone());
            return (merged, last);
        }
        let from_upper = upper.next_if(|(k, _)| **k == key).map(|(_, write)| write.value.clone());
        let from_lower = lower.next_if(|(k, _)| **k == key).map(|(_, write)| write.value.clone());
        let from_rows = rows.next_if(|(k, _)| *k == key).map(|(_, v)| Some(v));
        if let Some(Some(value)) = from_upper.or(from_lower).or(from_rows) {
            bytes += key.len() + value.len();
            merged.push((key, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use storage::ids::KeyRange;

    use super::*;

    fn write(key: &'static str, value: Option<&'static str>, expect: Expect) -> Write {
        Write { key: Bytes::from(key), value: value.map(Bytes::from), expect }
    }

    #[test]
    fn later_write_keeps_what_the_earlier_one_expected() {
        let mut buffer = Buffer::default();
        buffer.put(write("a", Some("1"), Expect::Absent)).unwrap();
        buffer.put(write("a", Some("2"), Expect::Any)).unwrap();
        assert!(buffer.writes()[&Bytes::from("a")].absent);
        assert!(matches!(
            buffer.put(write("a", Some("3"), Expect::Absent)),
            Err(Error::AlreadyExists { .. })
        ));
        // Deleted by the transaction itself, then inserted: what stood there before doesn't matter.
        buffer.put(write("b", None, Expect::Any)).unwrap();
        buffer.put(write("b", Some("1"), Expect::Absent)).unwrap();
        assert!(!buffer.writes()[&Bytes::from("b")].absent);
    }

    #[test]
    fn rollback_restores_what_stood_at_the_savepoint() {
        let mut buffer = Buffer::default();
        buffer.put(write("a", Some("1"), Expect::Any)).unwrap();
        buffer.put_fence(Bytes::from("t"), Some(1));
        let (before, bytes, mark) = (buffer.writes().clone(), buffer.bytes(), buffer.savepoint());
        buffer.put(write("a", Some("22"), Expect::Any)).unwrap();
        buffer.put(write("b", None, Expect::Any)).unwrap();
        buffer.put_fence(Bytes::from("t"), Some(2));
        buffer.rollback_to(mark).unwrap();
        assert_eq!((buffer.writes(), buffer.bytes()), (&before, bytes));
        assert_eq!(buffer.fences()[&Bytes::from("t")], Some(1));
        buffer.put(write("c", None, Expect::Any)).unwrap();
        buffer.take();
        assert!(matches!(buffer.rollback_to(mark), Err(Error::Unsupported(_))));
        let mark = buffer.savepoint();
        buffer.rollback_to(mark).unwrap();
    }

    fn layer() -> impl Strategy<Value = BTreeMap<u8, Option<u8>>> {
        proptest::collection::btree_map(0u8..20, proptest::option::of(any::<u8>()), 0..12)
    }

    proptest! {
        #[test]
        fn overlaid_pages_together_are_the_merged_map(
            rows in proptest::collection::btree_map(0u8..20, any::<u8>(), 0..12),
            upper in layer(),
            lower in layer(),
            reverse: bool,
            rows_max in 1usize..5,
        ) {
            let key = |k: u8| Bytes::copy_from_slice(&[k]);
            let writes = |layer: &BTreeMap<u8, Option<u8>>| -> Writes {
                let buffered = |v: &Option<u8>| Buffered { value: v.map(key), absent: false };
                layer.iter().map(|(k, v)| (key(*k), buffered(v))).collect()
            };
            let mut model: BTreeMap<u8, Option<u8>> = rows.iter().map(|(k, v)| (*k, Some(*v))).collect();
            model.extend(lower.iter().map(|(k, v)| (*k, *v)));
            model.extend(upper.iter().map(|(k, v)| (*k, *v)));
            let mut expected: Vec<_> = model.into_iter().filter_map(|(k, v)| v.map(|v| (key(k), key(v)))).collect();
            if reverse {
                expected.reverse();
            }
            let (upper, lower) = (writes(&upper), writes(&lower));
            let mut found = Vec::new();
            let mut covered = KeyRange::all();
            loop {
                let mut page: Vec<_> = rows.iter().map(|(k, v)| (key(*k), key(*v))).filter(|(k, _)| covered.contains(k)).collect();
                if reverse {
                    page.reverse();
                }
                let (part, stopped) = overlay(page, &covered, [&upper, &lower], reverse, rows_max, usize::MAX);
                prop_assert!(part.len() <= rows_max || stopped.is_none());
                found.extend(part);
                let Some(last) = stopped else { break };
                match reverse {
                    false => covered.start = KeyRange::point(&last).end,
                    true => covered.end = last,
                }
                if covered.is_empty() { break }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
