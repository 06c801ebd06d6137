//! The traps of openraft whose remedy shows inside this crate only; `tests/traps.rs` has the others. Each test fails without
//! the remedy that it names.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{TryStreamExt, stream};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::{EntryPayload, Membership, RaftLogReader, RaftSnapshotBuilder};
use storage::ids::{GroupId, LogIndex, NodeId, ReplicaId};
use storage::seam::Seams;
use storage::{Identity, Store, StoreOptions};
use tempfile::TempDir;

use crate::command::Command;
use crate::fault::Fault;
use crate::log_room::LogRoom;
use crate::log_store::{LogStore, durably, encode_ballot};
use crate::multi::MultiRaft;
use crate::options::RaftOptions;
use crate::state_machine::{Adapter, Position, Shared};
use crate::test_machine::{Nobody, Nothing, Nothings};
use crate::types::{Entry, Host, StoredMembership, Vote, encode_entry, encode_log_id, entry_bytes, log_id};

const GROUP: GroupId = GroupId(5);
const ME: ReplicaId = ReplicaId(1);
const COMMAND_BYTES: usize = 300;

fn store() -> (TempDir, Arc<Store>) {
    let dir = TempDir::new().expect("a directory");
    let store = Store::open(dir.path(), StoreOptions::default(), Seams::real()).expect("a store");
    store.set_identity(Identity { cluster_id: 1, node_id: NodeId(1) }).expect("identity");
    (dir, store)
}

fn log_store(store: &Store, append_bytes_max: usize, tail_bytes_max: usize) -> LogStore {
    let log =
        LogStore::open(store.log(), GROUP, ME, append_bytes_max, tail_bytes_max, LogRoom::new(64 << 20));
    log.expect("a log")
}

fn entry(index: u64) -> Entry {
    let command = Command::plain(vec![b'x'; COMMAND_BYTES].into());
    openraft::entry::RaftEntry::new(log_id(1, index), EntryPayload::Normal(command))
}

/// Guards the bound in `Tail::read` (where the entries are in memory) and in `LogStore::read` (where they are not):
/// openraft's own bound is of numbers.
#[tokio::test]
async fn what_is_read_for_an_append_is_bounded_in_bytes() {
    const BYTES_MAX: usize = 1000;
    for tail_bytes_max in [1 << 20, 0] {
        let (_dir, store) = store();
        let mut log = log_store(&store, BYTES_MAX, tail_bytes_max);
        log.blocking_append((1..=20).map(entry)).await.expect("append");
        let mut next = 1;
        while next <= 20 {
            let read = log.limited_get_log_entries(next, 21).await.expect("read");
            assert_eq!(read.first().map(|first| first.log_id.index), Some(next), "never nothing");
            assert!(read.len() * COMMAND_BYTES <= BYTES_MAX, "{} entries at {next}", read.len());
            assert!(read.len() > 1 || next == 20, "as many as fit");
            next += read.len() as u64;
        }
        // One that is larger than that goes alone.
        let mut narrow = log_store(&store, COMMAND_BYTES / 2, tail_bytes_max);
        assert_eq!(narrow.limited_get_log_entries(3, 21).await.expect("read").len(), 1);
        // Whoever applies gets all of it, in bites.
        let applying: Vec<Entry> = log.entries_stream(1..21).await.try_collect().await.expect("read");
        assert!(applying.iter().map(|entry| entry.log_id.index).eq(1..=20));
    }
}

/// Guards the bound in `Tail::push`: the last entries of ten thousand groups are in memory.
#[tokio::test]
async fn what_stays_in_memory_is_bounded_in_bytes() {
    let weight = entry_bytes(&entry(1));
    let (_dir, store) = store();
    let mut log = log_store(&store, 1 << 20, 3 * weight);
    for first in [1, 11] {
        log.blocking_append((first..first + 10).map(entry)).await.expect("append");
        assert_eq!(log.in_memory(), (3, 3 * weight));
    }
    log.truncate_after(Some(log_id(1, 19))).await.expect("truncate");
    assert_eq!(log.in_memory(), (2, 2 * weight));
    log.purge(log_id(1, 18)).await.expect("purge");
    assert_eq!(log.in_memory(), (1, weight));
    // A single one stays, however large.
    let mut narrow = log_store(&store, 1 << 20, weight / 2);
    narrow.blocking_append([entry(20)]).await.expect("append");
    assert_eq!(narrow.in_memory(), (1, weight));
}

/// Guards the filter in `LogStore::open`: what was committed is saved without a sync of its own, and entries may be gone that
/// it names. openraft would apply what is not there.
#[tokio::test]
async fn a_committed_position_beyond_the_end_of_the_log_says_nothing() {
    let (_dir, store) = store();
    let mut log = log_store(&store, 1 << 20, 1 << 20);
    log.blocking_append((1..=5).map(entry)).await.expect("append");
    for (committed, known) in [(4, Some(4)), (5, Some(5)), (6, None)] {
        log.save_committed(Some(log_id(1, committed))).await.expect("save");
        let mut reopened = log_store(&store, 1 << 20, 1 << 20);
        let read = reopened.read_committed().await.expect("read");
        assert_eq!(read.map(|id| id.index), known);
    }
}

/// Guards `Builder::build_snapshot` and `Adapter::get_current_snapshot` at start: openraft cuts the log up to what these say.
/// What is applied is in memory only.
#[tokio::test]
async fn only_what_is_flushed_counts_as_in_a_snapshot() {
    let (_dir, store) = store();
    let position = Position::load(&store.engine(), GROUP).expect("position");
    let machine = Arc::new(Nothing);
    let shared = Shared::new(GROUP, ME, store.engine(), machine, Seams::real(), Fault::new(), position);
    let mut adapter = Adapter::new(shared.clone());
    let mut applied = Vec::new();
    for index in 1..=4 {
        adapter.apply(stream::iter([Ok((entry(index), None))])).await.expect("apply");
        applied.push(shared.applied());
    }
    for flushed in [None, Some(2_u64), Some(3)] {
        if let Some(index) = flushed {
            shared.set_flushed(applied[index as usize - 1].clone());
        }
        let mut builder = adapter.get_snapshot_builder().await;
        let built = builder.build_snapshot().await.expect("build");
        assert_eq!(built.meta.last_log_id.map(|id| id.index), flushed);
        let current = adapter.get_current_snapshot().await.expect("current");
        assert_eq!(current.and_then(|current| current.meta.last_log_id).map(|id| id.index), flushed);
    }
    // What was flushed once stays so.
    shared.set_flushed(applied[0].clone());
    assert_eq!(shared.flushed_index(), Some(3));
}

/// Guards `Shared::check_next`: a replica that left an entry out, or applied one twice, would not be what the others are.
#[tokio::test]
async fn an_entry_out_of_turn_is_not_applied_and_fails_the_replica() {
    for (index, in_turn) in [(1, false), (2, false), (3, true), (4, false)] {
        let (_dir, store) = store();
        let machine = Arc::new(Nothing);
        let position = Position::default();
        let shared = Shared::new(GROUP, ME, store.engine(), machine, Seams::real(), Fault::new(), position);
        let mut adapter = Adapter::new(shared.clone());
        adapter.apply(stream::iter([1, 2].map(|index| Ok((entry(index), None))))).await.expect("apply");
        let applied = adapter.apply(stream::iter([Ok((entry(index), None))])).await;
        assert_eq!(applied.is_ok(), in_turn, "entry {index}");
        assert_eq!(shared.applied_index(), Some(if in_turn { 3 } else { 2 }), "entry {index}");
        let reason = shared.fault.get();
        assert_eq!(reason.is_none(), in_turn, "entry {index}: {reason:?}");
        assert!(reason.is_none_or(|reason| reason.contains("is not the one after")), "entry {index}");
    }
}

/// A store whose log begins after entry 3, and whose state ends at `applied`.
async fn store_with(applied: u64) -> (TempDir, Arc<Store>) {
    let (dir, store) = store();
    let members = BTreeMap::from([(ME.0, Host(1))]);
    let membership = Membership::new(vec![[ME.0].into()], members).expect("a membership");
    let membership = StoredMembership::new(Some(log_id(0, 0)), membership);
    let position = Position { last: Some(log_id(1, applied)), membership };
    let engine = store.engine();
    let mut batch = engine.batch();
    position.store(GROUP, &mut batch);
    engine.write(batch).expect("write");
    engine.flush().expect("flush");
    let log = store.log();
    let ballot = encode_ballot(ME, Some(&Vote::new_committed(1, 2)), false);
    durably(|done| log.save_vote(GROUP, ballot, done)).await.expect("save the ballot");
    let entries: Vec<(LogIndex, Bytes)> =
        (1..=5).map(|index| (LogIndex(index), encode_entry(&entry(index)))).collect();
    durably(|done| log.append(GROUP, entries, done)).await.expect("append");
    let purged = encode_log_id(&log_id(1, 3));
    durably(|done| log.purge_to(GROUP, LogIndex(3), purged, done)).await.expect("purge");
    (dir, store)
}

/// Guards the refusal in `MultiRaft::try_open`: openraft would go on with entries missing between the state and the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_between_the_state_and_the_log_is_refused() {
    for (applied, whole) in [(2, false), (3, true), (4, true)] {
        let (_dir, store) = store_with(applied).await;
        let (machines, book) = (Arc::new(Nothings), Arc::new(Nobody));
        let multi = MultiRaft::start(RaftOptions::default(), store, machines, book, Seams::real()).await;
        let multi = multi.expect("the node starts, whatever is wrong with one replica");
        let failed = multi.group(GROUP).expect("the replica").failed();
        assert_eq!(failed.is_none(), whole, "a state that ends at {applied}: {failed:?}");
        if let Some(reason) = failed {
            assert!(reason.contains("begins after the end of the state"), "{reason}");
        }
        multi.abandon().await;
    }
}
