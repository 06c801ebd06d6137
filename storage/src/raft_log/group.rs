//! One group's log in memory: where it begins and ends, and its recent entries.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::ids::LogIndex;

/// What the log remembers of a group.
///
/// Invariants: `tail` holds the entries `tail_first ..= last` without a gap; every entry of `first .. tail_first`
/// that the log contains is in the database; entries at or above `written_end` may not be there yet, so
/// `tail_first <= written_end` while the tail is not empty.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<Bytes>,
    /// The index after the last purged one; for a log never purged, of its first entry.
    pub first: LogIndex,
    /// The last entry's index, if there is an entry.
    pub last: Option<LogIndex>,
    /// Recent entries: all that are not written yet, and as many older ones as the cache allows.
    pub tail: VecDeque<Bytes>,
    /// The bytes in `tail`.
    pub tail_bytes: usize,
    /// The index of `tail`'s first entry (of the next one, while it is empty).
    pub tail_first: LogIndex,
    /// All entries below are in the database.
    pub written_end: LogIndex,
    /// Raised by each truncation, so that a write that was queued before it does not count for what came after.
    pub incarnation: u64,
    /// The group was removed; whoever still holds it must not write.
    pub removed: bool,
}

impl Group {
    /// The index that the next entry must have; `None` if any will do (an empty log that was never purged).
    pub fn next(&self) -> Option<LogIndex> {
        match self.last {
            Some(last) => Some(LogIndex(last.0 + 1)),
            None => self.purged.as_ref().map(|_| self.first),
        }
    }

    /// Takes entries that continue the log.
    pub fn append(&mut self, entries: &[(LogIndex, Bytes)]) {
        let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else {
            return;
        };
        if self.last.is_none() {
            self.first = *first;
            self.written_end = *first;
        }
        if self.tail.is_empty() {
            self.tail_first = *first;
        }
        self.last = Some(*last);
        self.tail.extend(entries.iter().map(|(_, entry)| entry.clone()));
        self.tail_bytes += entries.iter().map(|(_, entry)| entry.len()).sum::<usize>();
        self.check();
    }

    /// Drops the entries after `last_kept`.
    pub fn truncate_after(&mut self, last_kept: Option<LogIndex>) {
        let end = last_kept.map_or(LogIndex(0), |kept| LogIndex(kept.0 + 1));
        let Some(last) = self.last.filter(|last| *last >= end) else {
            return;
        };
        self.incarnation += 1;
        for _ in end.0.max(self.tail_first.0)..=last.0 {
            self.tail_bytes -= self.tail.pop_back().map_or(0, |entry| entry.len());
        }
        self.last = last_kept.filter(|kept| *kept >= self.first);
        self.written_end = self.written_end.min(end);
        if self.tail.is_empty() {
            self.tail_first = end;
        }
        self.check();
    }

    /// Drops the entries up to `upto`. A purge to before an earlier one changes nothing.
    pub fn purge_to(&mut self, upto: LogIndex, purged: Bytes) {
        let first = LogIndex(upto.0 + 1);
        if self.purged.is_some() && first < self.first {
            return;
        }
        self.purged = Some(purged);
        self.first = self.first.max(first);
        while self.tail_first < self.first {
            let Some(entry) = self.tail.pop_front() else { break };
            self.tail_bytes -= entry.len();
            self.tail_first.0 += 1;
        }
        if self.last.is_some_and(|last| last < self.first) {
            self.last = None;
            self.incarnation += 1;
        }
        if self.tail.is_empty() {
            self.tail_first = self.tail_first.max(self.first);
        }
        self.written_end = self.written_end.max(self.first);
        self.check();
    }

    /// Notes that the entries below `end`, queued during `incarnation`, are in the database.
    pub fn wrote(&mut self, end: LogIndex, incarnation: u64) {
        if incarnation == self.incarnation {
            self.written_end = self.written_end.max(end);
        }
    }

    /// Forgets the oldest cached entry, if the database has it and it is not the last one.
    pub fn evict(&mut self) -> bool {
        if self.tail.len() < 2 || self.tail_first >= self.written_end {
            return false;
        }
        self.tail_first.0 += 1;
        self.tail_bytes -= self.tail.pop_front().map_or(0, |entry| entry.len());
        true
    }

    /// A cached entry.
    pub fn cached(&self, index: LogIndex) -> Option<&Bytes> {
        self.tail.get(usize::try_from(index.0.checked_sub(self.tail_first.0)?).ok()?)
    }

    fn check(&self) {
        debug_assert!(self.last.is_none_or(|last| last >= self.first), "{self:?}");
        debug_assert!(
            self.tail.is_empty()
                || self.last == Some(LogIndex(self.tail_first.0 + self.tail.len() as u64 - 1)),
            "{self:?}"
        );
        debug_assert!(self.tail.is_empty() || self.tail_first <= self.written_end, "{self:?}");
    }
}
