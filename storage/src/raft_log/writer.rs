//! The writer thread: drains the queue of all groups into one batch, syncs once, and reports in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{WriteBatch, WriteOptions};

use super::Done;
use super::group::Group;
use super::record::{self, Kind};
use super::rocks::Shared;
use crate::Error;
use crate::fail_point::{self, FailPoint};
use crate::ids::{GroupId, LogIndex};
use crate::sabotage::{self, Sabotage};
use crate::wal_check::BATCH_TRAILER;

/// A batch is closed when it has this many bytes, so that a flood from one group delays the others' fsync little.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// One group may fill this part of the cache.
const GROUP_CACHE_SHARE: usize = 8;

/// What the writer is asked to make durable.
pub(super) enum Op {
    Append {
        group: GroupId,
        entries: Vec<(LogIndex, Bytes)>,
        handle: Arc<Mutex<Group>>,
        incarnation: u64,
        done: Done,
    },
    Vote {
        group: GroupId,
        vote: Bytes,
        done: Done,
    },
    Truncate {
        group: GroupId,
        last_kept: Option<LogIndex>,
        handle: Arc<Mutex<Group>>,
        incarnation: u64,
        done: Done,
    },
    Purge {
        group: GroupId,
        from: LogIndex,
        first: LogIndex,
        purged: Bytes,
        done: Done,
    },
    Remove {
        group: GroupId,
        done: Done,
    },
}

impl Op {
    /// The callback of an operation that will not be carried out.
    pub fn into_done(self) -> Option<Done> {
        match self {
            Op::Append { done, .. }
            | Op::Vote { done, .. }
            | Op::Truncate { done, .. }
            | Op::Purge { done, .. }
            | Op::Remove { done, .. } => Some(done),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Op::Append { entries, .. } => entries.iter().map(|(_, entry)| entry.len() + 32).sum(),
            Op::Vote { vote, .. } => vote.len(),
            Op::Truncate { .. } | Op::Purge { .. } | Op::Remove { .. } => 64,
        }
    }
}

/// Runs until the log is closed and the queue is empty.
pub(super) fn run(shared: Arc<Shared>) {
    let mut scratch = Vec::new();
    loop {
        let (ops, committed) = {
            let mut queue = shared.queue.lock();
            while queue.ops.is_empty() && !queue.closed {
                shared.arrived.wait(&mut queue);
            }
            if queue.ops.is_empty() && queue.committed.is_empty() {
                return;
            }
            let mut taken = 0;
            let mut ops = Vec::new();
            while taken < BATCH_BYTES_MAX {
                let Some(op) = queue.ops.pop_front() else { break };
                taken += op.bytes();
                ops.push(op);
            }
            // A committed position must not become durable before the entries that it speaks of, so it waits until
            // nothing is queued that may have come before it.
            let committed =
                if queue.ops.is_empty() { std::mem::take(&mut queue.committed) } else { HashMap::new() };
            (ops, committed)
        };

        let written = shared.check().and_then(|()| {
            let mut batch = WriteBatch::default();
            for (group, committed) in &committed {
                put(&mut batch, &record::key(*group, Kind::Committed), committed, &mut scratch);
            }
            for op in &ops {
                add(&mut batch, op, &mut scratch);
            }
            fail_point::pass(FailPoint::LogUnwritten);
            write(&shared, batch)
        });
        for op in ops {
            report(&shared, op, &written);
        }
        *shared.writing.lock() = None;
    }
}

/// One synced write. Its failure closes the log for good: after a failed fsync nobody knows what the disk holds, and
/// a second one may succeed without having written what the first one lost.
fn write(shared: &Shared, mut batch: WriteBatch) -> Result<(), Error> {
    batch.put_log_data(BATCH_TRAILER);
    metrics::histogram!("flotilla_log_batch_operations").record(batch.len() as f64);
    metrics::counter!("flotilla_log_bytes_total").increment(batch.size_in_bytes() as u64);
    let mut options = WriteOptions::default();
    options.set_sync(!sabotage::is(Sabotage::AnswerBeforeFsync));
    let before = shared.seams.clock.now();
    *shared.writing.lock() = Some(before);
    let written = shared.db.write_opt(batch, &options);
    let took = shared.seams.clock.now().saturating_duration_since(before);
    metrics::histogram!("flotilla_log_fsync_seconds").record(took.as_secs_f64());
    written.map_err(|e| {
        let error = Error::rocks("write to the log", shared.dir(), e);
        tracing::error!(%error, "the log is closed: a write to it failed");
        let _ = shared.failed.set(error.clone());
        error
    })
}

fn put(batch: &mut WriteBatch, key: &[u8], payload: &[u8], scratch: &mut Vec<u8>) {
    record::seal(key, payload, scratch);
    batch.put(key, &scratch[..]);
}

fn add(batch: &mut WriteBatch, op: &Op, scratch: &mut Vec<u8>) {
    match op {
        Op::Append { group, entries, .. } => {
            for (index, entry) in entries {
                put(batch, &record::entry_key(*group, *index), entry, scratch);
            }
        }
        Op::Vote { group, vote, .. } => put(batch, &record::key(*group, Kind::Vote), vote, scratch),
        Op::Truncate { group, last_kept, .. } => {
            let from = last_kept.map_or(LogIndex(0), |kept| LogIndex(kept.0 + 1));
            batch.delete_range(&record::entry_key(*group, from)[..], &record::entries_end(*group)[..]);
        }
        Op::Purge { group, from, first, purged, .. } => {
            // From the previous purge on, so that the tombstones of successive purges do not overlap.
            if from < first {
                batch.delete_range(record::entry_key(*group, *from), record::entry_key(*group, *first));
            }
            let mut stored = first.0.to_be_bytes().to_vec();
            stored.extend_from_slice(purged);
            put(batch, &record::key(*group, Kind::Purged), &stored, scratch);
        }
        Op::Remove { group, .. } => {
            let end = group.0.checked_add(1).map_or([0xff; 9].to_vec(), |next| next.to_be_bytes().to_vec());
            batch.delete_range(&group.0.to_be_bytes()[..], &end[..]);
        }
    }
}

/// Notes in the group that its entries are written, makes room in the cache, and calls back.
fn report(shared: &Shared, op: Op, written: &Result<(), Error>) {
    if written.is_ok() {
        match &op {
            Op::Append { entries, handle, incarnation, .. } => {
                fail_point::pass(FailPoint::LogWritten);
                metrics::histogram!("flotilla_log_append_entries").record(entries.len() as f64);
                if let Some((last, _)) = entries.last() {
                    settle(shared, &mut handle.lock(), LogIndex(last.0 + 1), *incarnation);
                }
            }
            Op::Truncate { last_kept, handle, incarnation, .. } => {
                let end = last_kept.map_or(LogIndex(0), |kept| LogIndex(kept.0 + 1));
                settle(shared, &mut handle.lock(), end, *incarnation);
            }
            Op::Vote { .. } => fail_point::pass(FailPoint::VoteSaved),
            Op::Purge { .. } => fail_point::pass(FailPoint::LogPurged),
            Op::Remove { .. } => {}
        }
    }
    if let Some(done) = op.into_done() {
        done(written.clone());
    }
}

fn settle(shared: &Shared, group: &mut Group, end: LogIndex, incarnation: u64) {
    group.wrote(end, incarnation);
    let before = group.tail_bytes;
    let others = shared.cached_bytes.load(Ordering::Relaxed).saturating_sub(before);
    while group.tail_bytes > shared.cache_bytes_max / GROUP_CACHE_SHARE
        || others + group.tail_bytes > shared.cache_bytes_max
    {
        if !group.evict() {
            break;
        }
    }
    shared.account(before, group.tail_bytes);
}
