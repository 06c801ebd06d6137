//! A transaction's writes before they are sent.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use storage::ids::Timestamp;

use crate::Error;
use crate::api::{Expect, Key, Value, Write};

/// What is remembered of writes that were sent early, to undo them, takes at most about this.
const UNDO_BYTES_MAX: usize = 64 << 20;
/// Keys remembered of what was sent early.
const FLUSHED_KEYS_MAX: usize = 250_000;

/// One buffered write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffered {
    /// The new value; `None` deletes.
    pub value: Option<Value>,
    /// No row may stand under the key, at the latest.
    pub absent: bool,
    /// No version may be newer than this; zero: whatever stands there.
    pub since: Timestamp,
}

impl Buffered {
    /// A write whose conditions were checked before.
    fn settled(value: Option<Value>) -> Self {
        Self { value, absent: false, since: Timestamp::ZERO }
    }
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
    /// So many entries at the start of `undo` are of writes that were sent. They are kept only where [`Buffer::keep`] says so.
    sent: usize,
    sent_bytes: usize,
    keep: Option<u64>,
    /// What was sent.
    flushed: HashSet<Key>,
    /// … and that is not all of it.
    flushed_more: bool,
}

/// What is left to do after writes that were sent have been undone.
#[derive(Debug, Default)]
pub struct Undone {
    /// Keys with an intent, under which the transaction had written nothing: to be written as they stand below it.
    pub restore: Vec<Key>,
}

/// What a write costs in memory, about.
fn cost(key: &Bytes, write: &Buffered) -> usize {
    // The node in the tree, and the headers of two `Bytes`.
    96 + key.len() + write.value.as_ref().map_or(0, Bytes::len)
}

impl Buffer {
    /// Adds a write. It replaces an earlier one; what that expected is still expected, and a row that the transaction
    /// itself has put there counts as there.
    pub fn put(&mut self, write: Write, since: Timestamp) -> Result<(), Error> {
        let expects = write.expect == Expect::Absent;
        let old = self.writes.get(&write.key);
        let (absent, since) = match old {
            Some(old) if expects && old.value.is_some() => {
                return Err(Error::AlreadyExists { key: write.key });
            }
            Some(old) => (old.absent, old.since),
            None => (expects, since),
        };
        self.set(write.key, Some(Buffered { value: write.value, absent, since }));
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

    /// Marks from this one on stay good when writes are sent; `None`: none does.
    pub fn keep(&mut self, since: Option<u64>) {
        self.keep = since;
    }

    /// Undoes what was put since the mark.
    pub fn rollback_to(&mut self, mark: u64) -> Result<Undone, Error> {
        let Some(keep) = mark.checked_sub(self.base) else {
            return Err(Error::Unsupported(
                "rolling back to a savepoint after so much was written that a part was sent".to_owned(),
            ));
        };
        // The oldest entry of a key is the one that counts; it is met last.
        let mut sent: BTreeMap<Key, Option<Buffered>> = BTreeMap::new();
        while self.undo.len() as u64 > keep {
            let was_sent = self.undo.len() <= self.sent;
            match self.undo.pop() {
                Some(Undo::Write(key, old)) if was_sent => {
                    sent.insert(key, old);
                }
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
        self.sent = self.sent.min(self.undo.len());
        let mut undone = Undone::default();
        for (key, old) in sent {
            match old {
                Some(old) => {
                    self.replace(key, Some(Buffered::settled(old.value)));
                }
                None => undone.restore.push(key),
            }
        }
        Ok(undone)
    }

    /// After a rollback: what stands under an intent is what the intent is to say.
    pub fn restore(&mut self, key: Key, value: Option<Value>) {
        self.replace(key, Some(Buffered::settled(value)));
    }

    /// Takes the writes out, to send them. They can't be undone after this, unless their marks are to be kept.
    pub fn take(&mut self) -> Writes {
        let kept = self.keep.filter(|mark| *mark >= self.base);
        match kept {
            Some(mark) => {
                let before = ((mark - self.base) as usize).min(self.undo.len());
                self.undo.drain(..before);
                self.base += before as u64;
                let added = self.undo.iter().skip(self.sent.saturating_sub(before));
                let bytes = |undo: &Undo| match undo {
                    Undo::Write(key, old) => key.len() + 64 + old.as_ref().map_or(0, |old| cost(key, old)),
                    Undo::Fence(..) => 64,
                };
                self.sent_bytes += added.map(bytes).sum::<usize>();
                self.sent = self.undo.len();
            }
            None => self.forget(),
        }
        if self.sent_bytes > UNDO_BYTES_MAX {
            self.forget();
        }
        for key in self.writes.keys() {
            if self.flushed.len() >= FLUSHED_KEYS_MAX {
                self.flushed_more = true;
                break;
            }
            self.flushed.insert(key.clone());
        }
        self.bytes = 0;
        std::mem::take(&mut self.writes)
    }

    fn forget(&mut self) {
        self.base += self.undo.len() as u64;
        self.undo.clear();
        (self.sent, self.sent_bytes) = (0, 0);
    }

    /// To be called before [`Buffer::take`]: keys that are to be sent a second time, and whose first value somebody may go
    /// back to: with the marks of their entries, for [`Buffer::remember`]. `None`: it is not known which those are.
    pub fn overwritten(&self) -> Option<Vec<(u64, Key)>> {
        let Some(keep) = self.keep else { return Some(Vec::new()) };
        let entries = self.undo.iter().enumerate().skip(self.sent);
        let mut found = Vec::new();
        for (index, undo) in entries {
            let mark = self.base + index as u64;
            if let Undo::Write(key, None) = undo
                && mark >= keep
            {
                if self.flushed.contains(key) {
                    found.push((mark, key.clone()));
                } else if self.flushed_more {
                    return None;
                }
            }
        }
        Some(found)
    }

    /// The marks so far can't be gone back to any more.
    pub fn give_up_marks(&mut self) {
        self.keep = None;
    }

    /// What the transaction had written under a key before the entry at `mark`.
    pub fn remember(&mut self, mark: u64, value: Option<Value>) {
        let entry = mark.checked_sub(self.base).and_then(|index| self.undo.get_mut(index as usize));
        if let Some(Undo::Write(_, old @ None)) = entry {
            *old = Some(Buffered::settled(value));
        }
    }

    /// The writes.
    pub fn writes(&self) -> &Writes {
        &self.writes
    }

    /// Whether the transaction has written this key and not taken it back. (False for some of the keys that were sent, if there are
    /// too many of them.)
    pub fn has_written(&self, key: &Key) -> bool {
        self.writes.contains_key(key) || self.flushed.contains(key)
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

    fn put(buffer: &mut Buffer, key: &'static str, value: Option<&'static str>, expect: Expect) {
        buffer.put(write(key, value, expect), Timestamp::ZERO).unwrap();
    }

    #[test]
    fn later_write_keeps_what_the_earlier_one_expected() {
        let mut buffer = Buffer::default();
        buffer.put(write("a", Some("1"), Expect::Absent), Timestamp(7)).unwrap();
        buffer.put(write("a", Some("2"), Expect::Any), Timestamp(9)).unwrap();
        let a = &buffer.writes()[&Bytes::from("a")];
        assert_eq!((a.absent, a.since), (true, Timestamp(7)));
        assert!(matches!(
            buffer.put(write("a", Some("3"), Expect::Absent), Timestamp::ZERO),
            Err(Error::AlreadyExists { .. })
        ));
        // Deleted by the transaction itself, then inserted: what stood there before doesn't matter.
        put(&mut buffer, "b", None, Expect::Any);
        put(&mut buffer, "b", Some("1"), Expect::Absent);
        assert!(!buffer.writes()[&Bytes::from("b")].absent);
    }

    #[test]
    fn rollback_restores_what_stood_at_the_savepoint() {
        let mut buffer = Buffer::default();
        put(&mut buffer, "a", Some("1"), Expect::Any);
        buffer.put_fence(Bytes::from("t"), Some(1));
        let (before, bytes, mark) = (buffer.writes().clone(), buffer.bytes(), buffer.savepoint());
        put(&mut buffer, "a", Some("22"), Expect::Any);
        put(&mut buffer, "b", None, Expect::Any);
        buffer.put_fence(Bytes::from("t"), Some(2));
        assert!(buffer.rollback_to(mark).unwrap().restore.is_empty());
        assert_eq!((buffer.writes(), buffer.bytes()), (&before, bytes));
        assert_eq!(buffer.fences()[&Bytes::from("t")], Some(1));
        put(&mut buffer, "c", None, Expect::Any);
        buffer.take();
        assert!(matches!(buffer.rollback_to(mark), Err(Error::Unsupported(_))));
        let mark = buffer.savepoint();
        buffer.rollback_to(mark).unwrap();
    }

    #[test]
    fn rollback_past_a_flush_says_what_to_send_again() {
        let mut buffer = Buffer::default();
        put(&mut buffer, "a", Some("0"), Expect::Any);
        buffer.take();
        let outer = buffer.savepoint();
        buffer.keep(Some(outer));
        put(&mut buffer, "a", Some("1"), Expect::Any);
        put(&mut buffer, "b", Some("1"), Expect::Absent);
        // `a` was sent before: what the first intent says must be read before it is replaced.
        assert_eq!(buffer.overwritten(), Some(vec![(outer, Bytes::from("a"))]));
        buffer.take();
        buffer.remember(outer, Some(Bytes::from("0")));
        let inner = buffer.savepoint();
        put(&mut buffer, "b", Some("2"), Expect::Any);
        put(&mut buffer, "c", Some("2"), Expect::Absent);
        let again: Vec<_> = buffer.overwritten().unwrap().into_iter().map(|(_, key)| key).collect();
        assert_eq!(again, [Bytes::from("b")]);
        buffer.take();
        buffer.remember(inner, Some(Bytes::from("1")));
        put(&mut buffer, "d", Some("3"), Expect::Any);
        let undone = buffer.rollback_to(inner).unwrap();
        assert_eq!(undone.restore, [Bytes::from("c")]);
        buffer.restore(Bytes::from("c"), None);
        let now = |buffer: &Buffer| -> Vec<(Key, Option<Value>)> {
            buffer.writes().iter().map(|(key, write)| (key.clone(), write.value.clone())).collect()
        };
        let (b, c) = (Bytes::from("b"), Bytes::from("c"));
        assert_eq!(now(&buffer), [(b.clone(), Some(Bytes::from("1"))), (c.clone(), None)]);
        let undone = buffer.rollback_to(outer).unwrap();
        assert_eq!(undone.restore, std::slice::from_ref(&b));
        buffer.restore(b.clone(), None);
        let a = (Bytes::from("a"), Some(Bytes::from("0")));
        assert_eq!(now(&buffer), [a, (b, None), (c, None)]);
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
                let buffered = |v: &Option<u8>| Buffered::settled(v.map(key));
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
