//! openraft's log storage over the node's shared log.
//!
//! Votes and entries go to [`LogEngine`], whose writer makes those of all groups durable with one fsync. What is
//! kept here, per group: the vote and the log's ends (asked for all the time), and the tail of the log, since a fresh
//! entry is read again at once by each follower's sender and by the state machine.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::{Stream, stream};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use prost::Message;
use proto::raft as wire;
use storage::ids::{GroupId, LogIndex, ReplicaId};
use storage::raft_log::LogEngine;

use crate::log_room::{ENTRY_OVERHEAD_BYTES, LogRoom};
use crate::types::{
    Entry, FIRST_VERSION, LogId, Malformed, TypeConfig, Vote, check_version, decode_entry, decode_log_id,
    encode_entry, encode_log_id, entry_bytes, vote_from_wire, vote_to_wire,
};

/// A replica's log. Clones share everything.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    group: GroupId,
    replica: ReplicaId,
    log: Arc<dyn LogEngine>,
    append_bytes_max: usize,
    room: Arc<LogRoom>,
    state: Mutex<State>,
}

/// What is known without asking the engine. Always agrees with what the engine answers.
#[derive(Default)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// No entry lies below this index.
    first: u64,
    /// The last entry, or the last purged one.
    last: Option<LogId>,
    tail: Tail,
    sizes: Sizes,
}

/// The last entries of the log, without gaps; empty or ending at the log's end.
#[derive(Default)]
struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    fn push(&mut self, entry: Entry) {
        debug_assert!(self.entries.back().is_none_or(|last| last.log_id.index + 1 == entry.log_id.index));
        self.bytes += entry_bytes(&entry);
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry_bytes(&entry);
        }
    }

    fn truncate_from(&mut self, first_removed: u64) {
        while self.entries.back().is_some_and(|e| e.log_id.index >= first_removed) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= entry_bytes(&entry);
            }
        }
    }

    fn purge_to(&mut self, upto: u64) {
        while self.entries.front().is_some_and(|e| e.log_id.index <= upto) {
            self.pop_front();
        }
    }

    /// The entries of a range, as many as fit but at least one; `None` if the first one isn't here.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.log_id.index;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        if skip >= self.entries.len() {
            return None;
        }
        let mut bytes = 0;
        let mut found = Vec::new();
        for entry in self.entries.range(skip..) {
            bytes += entry_bytes(entry);
            if entry.log_id.index >= to || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            found.push(entry.clone());
        }
        Some(found)
    }
}

/// How many bytes of log lie behind an index, sampled: enough to cut the log by size. Entries from before the
/// process started weigh nothing.
#[derive(Default)]
struct Sizes {
    /// (index, bytes appended up to and including it)
    samples: VecDeque<(u64, u64)>,
    total: u64,
}

impl Sizes {
    const EVERY: u64 = 64;
    const EVERY_BYTES: u64 = 256 << 10;

    fn add(&mut self, index: u64, bytes: u64) {
        self.total += bytes;
        let due = self
            .samples
            .back()
            .is_none_or(|&(i, b)| index >= i + Self::EVERY || self.total >= b + Self::EVERY_BYTES);
        if due {
            self.samples.push_back((index, self.total));
        }
    }

    fn truncate_from(&mut self, first_removed: u64) {
        while self.samples.back().is_some_and(|&(i, _)| i >= first_removed) {
            self.samples.pop_back();
        }
    }

    fn purge_to(&mut self, upto: u64) {
        while self.samples.front().is_some_and(|&(i, _)| i < upto) {
            self.samples.pop_front();
        }
    }

    /// About how many bytes were appended after an index.
    fn after(&self, index: u64) -> u64 {
        let after = self.samples.partition_point(|&(i, _)| i <= index);
        let known = self.samples.get(after.saturating_sub(1));
        known.map_or(0, |&(_, bytes)| self.total - bytes)
    }

    /// The greatest sampled index with at least `keep` bytes behind it.
    fn beyond(&self, keep: u64) -> Option<u64> {
        let at = self.samples.partition_point(|&(_, bytes)| bytes + keep <= self.total);
        self.samples.get(at.checked_sub(1)?).map(|&(index, _)| index)
    }
}

fn corrupt(group: GroupId, error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log of {group} is corrupt: {error}"))
}

impl LogStore {
    pub fn open(
        log: Arc<dyn LogEngine>,
        group: GroupId,
        replica: ReplicaId,
        append_bytes_max: usize,
        tail_bytes_max: usize,
        room: Arc<LogRoom>,
    ) -> io::Result<Self> {
        let stored = log.state(group).map_err(io::Error::other)?;
        let bad = |e| corrupt(group, e);
        let vote = match &stored.vote {
            Some(bytes) => decode_ballot(bytes).map_err(bad)?.1,
            None => None,
        };
        let purged = stored.purged.as_deref().map(decode_log_id).transpose().map_err(bad)?;
        let last = match stored.last {
            Some((_, bytes)) => Some(decode_entry(bytes).map_err(bad)?.log_id),
            None => purged,
        };
        // A committed position beyond the log's end says that the end is missing: then it says nothing about what
        // is left, and the leader will tell.
        let committed = stored.committed.as_deref().map(decode_log_id).transpose().map_err(bad)?;
        let committed = committed.filter(|c| last.is_some_and(|l| c.index <= l.index));
        let tail = Tail { bytes_max: tail_bytes_max, ..Tail::default() };
        let first = purged.map_or(0, |id| id.index + 1);
        let state = State { vote, committed, purged, first, last, tail, sizes: Sizes::default() };
        Ok(Self {
            shared: Arc::new(Shared {
                group,
                replica,
                log,
                append_bytes_max,
                room,
                state: Mutex::new(state),
            }),
        })
    }

    /// The vote.
    pub fn vote(&self) -> Option<Vote> {
        self.shared.state.lock().vote
    }

    /// The last entry, or the last purged one.
    pub fn last(&self) -> Option<LogId> {
        self.shared.state.lock().last
    }

    /// The index up to which the log may go if only `keep` bytes shall stay.
    pub fn purgeable_by_size(&self, keep: u64) -> Option<u64> {
        self.shared.state.lock().sizes.beyond(keep)
    }

    /// About how many bytes of entries there are after an index; those from before this process count for nothing.
    pub fn bytes_after(&self, index: u64) -> u64 {
        self.shared.state.lock().sizes.after(index)
    }

    /// The entries that are kept in memory, and what they weigh.
    #[cfg(test)]
    pub fn in_memory(&self) -> (usize, usize) {
        let state = self.shared.state.lock();
        (state.tail.entries.len(), state.tail.bytes)
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let read = loop {
            let from = {
                let state = self.shared.state.lock();
                let from = from.max(state.first);
                let to = state.last.map_or(0, |last| to.min(last.index + 1));
                if from >= to {
                    return Ok(entries);
                }
                if let Some(found) = state.tail.read(from, to, bytes_max) {
                    return Ok(found);
                }
                from
            };
            match self.shared.log.read(self.shared.group, LogIndex(from), LogIndex(to), bytes_max) {
                Ok(read) => break read,
                // Purged between the look at the state and the read.
                Err(_) if self.shared.state.lock().first > from => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        };
        for (index, bytes) in read {
            let entry = decode_entry(bytes).map_err(|e| corrupt(self.shared.group, e))?;
            if entry.log_id.index != index.0 {
                return Err(corrupt(self.shared.group, Malformed { what: "index of a log entry" }));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&i) => i,
        Bound::Excluded(&i) => i + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(&i) => i.saturating_add(1),
        Bound::Excluded(&i) => i,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        self.read(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.state.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, self.shared.append_bytes_max)
    }

    /// For applying: in bites, since a replica that was away may have gigabytes to apply.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let bites = stream::try_unfold((self.clone(), from), move |(store, from)| async move {
            if from >= to {
                return Ok(None);
            }
            let entries = store.read(from, to, store.shared.append_bytes_max)?;
            let next = entries.last().map_or(to, |e| e.log_id.index + 1);
            Ok::<_, io::Error>(Some((stream::iter(entries.into_iter().map(Ok)), (store, next))))
        });
        futures::TryStreamExt::try_flatten(bites)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.shared.state.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if !vote.is_committed() && vote.leader_id().voted_for == self.shared.replica.0 {
            // For itself: the others are asked as soon as this is durable.
            metrics::counter!("flotilla_raft_elections_total").increment(1);
        }
        let ballot = encode_ballot(self.shared.replica, Some(vote), false);
        durably(|done| self.shared.log.save_vote(self.shared.group, ballot, done)).await?;
        self.shared.state.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.shared.log.save_committed(self.shared.group, encode_log_id(&committed));
            self.shared.state.lock().committed = Some(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.state.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<(Entry, Bytes)> = entries
            .into_iter()
            .map(|entry| {
                let data = encode_entry(&entry);
                (entry, data)
            })
            .collect();
        let bytes: usize = entries.iter().map(|(_, data)| data.len()).sum();
        // Before anything is locked: the disk may stall.
        let room = self.shared.room.take(bytes + entries.len() * ENTRY_OVERHEAD_BYTES).await;
        let mut encoded = Vec::with_capacity(entries.len());
        {
            let mut state = self.shared.state.lock();
            for (entry, data) in entries {
                if state.last.is_none() {
                    state.first = entry.log_id.index;
                }
                state.sizes.add(entry.log_id.index, data.len() as u64);
                encoded.push((LogIndex(entry.log_id.index), data));
                state.last = Some(entry.log_id);
                state.tail.push(entry);
            }
            // Within the lock: a reader that finds the new end must find the entries, in the tail or in the engine.
            self.shared.log.append(
                self.shared.group,
                encoded,
                Box::new(move |result| {
                    drop(room);
                    callback.io_completed(result.map_err(io::Error::other));
                }),
            );
        }
        self.shared.room.appended.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn truncate_after(&mut self, last_kept: Option<LogId>) -> io::Result<()> {
        let first_removed = last_kept.map_or(0, |id| id.index + 1);
        let done = {
            let mut state = self.shared.state.lock();
            if state.last.map(|id| id.index) <= last_kept.map(|id| id.index) {
                return Ok(());
            }
            state.tail.truncate_from(first_removed);
            state.sizes.truncate_from(first_removed);
            state.last = last_kept.or(state.purged);
            let kept = last_kept.map(|id| LogIndex(id.index));
            durably(|done| self.shared.log.truncate_after(self.shared.group, kept, done))
        };
        done.await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.tail.purge_to(upto.index);
        state.sizes.purge_to(upto.index);
        state.purged = Some(upto);
        state.first = upto.index + 1;
        if state.last.is_none_or(|last| last.index < upto.index) {
            state.last = Some(upto);
        }
        let group = self.shared.group;
        // Nobody waits for the disk: entries that come back after a crash do no harm. A failure closes the log.
        self.shared.log.purge_to(
            group,
            LogIndex(upto.index),
            encode_log_id(&upto),
            Box::new(move |result| {
                if let Err(error) = result {
                    tracing::error!(%group, %error, "cannot purge the log");
                }
            }),
        );
        Ok(())
    }
}

/// Starts an operation of the log; completes when it is durable.
pub(crate) fn durably(
    start: impl FnOnce(storage::raft_log::Done),
) -> impl Future<Output = io::Result<()>> + Send + 'static {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    start(Box::new(move |result| {
        let _ = sender.send(result);
    }));
    async move {
        match receiver.await {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the log has closed")),
        }
    }
}

pub(crate) fn encode_ballot(replica: ReplicaId, vote: Option<&Vote>, removed: bool) -> Bytes {
    let ballot =
        wire::Ballot { replica: replica.0, vote: vote.map(vote_to_wire), removed, version: FIRST_VERSION };
    ballot.encode_to_vec().into()
}

/// The replica, its vote, and whether it is being removed.
pub(crate) fn decode_ballot(bytes: &[u8]) -> Result<(ReplicaId, Option<Vote>, bool), Malformed> {
    let ballot = wire::Ballot::decode(bytes).map_err(|_| Malformed { what: "vote" })?;
    check_version(ballot.version, "vote: this version does not know its form")?;
    let vote = match ballot.vote {
        Some(vote) => Some(vote_from_wire(Some(vote))?),
        None => None,
    };
    Ok((ReplicaId(ballot.replica), vote, ballot.removed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_after_an_entry_are_known_to_a_sample() {
        const ENTRY: u64 = 64 << 10;
        let mut sizes = Sizes::default();
        assert_eq!(sizes.after(3), 0, "nothing is known");
        (11..=1000).for_each(|index| sizes.add(index, ENTRY));
        for index in [11, 12, 500, 990, 1000] {
            let (found, is) = (sizes.after(index), (1000 - index) * ENTRY);
            assert!((is..=is + Sizes::EVERY_BYTES).contains(&found), "{found} after {index}");
        }
        assert_eq!(sizes.after(3), 989 * ENTRY, "all that is known, but the first");
        sizes.purge_to(600);
        assert!(
            (396 * ENTRY..=400 * ENTRY).contains(&sizes.after(3)),
            "of what was cut off nothing is known"
        );
    }
}
