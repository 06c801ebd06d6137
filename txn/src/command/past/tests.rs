//! What one replica answers, entry by entry.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::shard::command::Effect;
use raft::{StateMachine, StateMachineFactory};
use storage::ids::{Epoch, GroupId, KeyRange, LogIndex, NodeId, ReplicaId, Term, TxnId};
use storage::seam::Seams;
use storage::{Store, StoreOptions};

use super::*;
use crate::shard::{Registry, ShardFactory, found};
use crate::wire::txn_bytes;

/// Two shards, cut at m, of one replica each.
struct Node {
    registry: Arc<Registry>,
    store: Arc<Store>,
    index: u64,
    _dir: tempfile::TempDir,
}

const LEFT: GroupId = GroupId(2);
const RIGHT: GroupId = GroupId(3);

fn descriptor(group: GroupId, start: &'static str, end: &'static str, epoch: u64) -> ShardDescriptor {
    let replicas = [(ReplicaId(1), NodeId(1))].into_iter().collect();
    ShardDescriptor { group, range: KeyRange::new(start, end), epoch: Epoch(epoch), replicas }
}

impl Node {
    fn new() -> Self {
        let (dir, seams) = (tempfile::tempdir().unwrap(), Seams::real());
        let store = Store::open(dir.path(), StoreOptions::default(), seams.clone()).unwrap();
        let (registry, _) = Registry::new(NodeId(1));
        let factory = ShardFactory::new(registry.clone(), seams);
        for shard in [descriptor(LEFT, "", "m", 1), descriptor(RIGHT, "m", "", 1)] {
            found(&store.engine(), &shard).unwrap();
            factory.open(shard.group, ReplicaId(1), store.engine()).unwrap();
        }
        Self { registry, store, index: 0, _dir: dir }
    }

    fn shard(&self, group: GroupId) -> Arc<Shard> {
        self.registry.get(group).unwrap()
    }

    fn apply(&mut self, group: GroupId, effect: Option<Effect>, closed: u64) {
        self.index += 1;
        let at = raft::Applied { term: Term(1), index: LogIndex(self.index) };
        let engine = self.store.engine();
        let mut batch = engine.batch();
        let command = pb::Command { effect, closed }.encode_to_vec();
        let shard = self.shard(group);
        shard.apply(&mut batch, at, &command).unwrap();
        engine.write(batch).unwrap();
        shard.applied(at);
    }

    fn put(&mut self, group: GroupId, key: &'static str, at: u64, value: &'static str, closed: u64) {
        let writes = vec![pb::Version { key: key.into(), value: Some(value.into()) }];
        let effect = pb::Versions { txn: txn_bytes(TxnId(1)), at, writes };
        self.apply(group, Some(Effect::Versions(effect)), closed);
    }

    fn read(&self, group: GroupId, key: &'static str, at: u64) -> String {
        shown(evaluate(&self.shard(group), Timestamp(at), &read(key, at)))
    }
}

fn read(key: &'static str, at: u64) -> Ask {
    Ask::Read(pb::Read { at, keys: vec![Bytes::from(key)], ..pb::Read::default() })
}

fn shown(found: Found) -> String {
    match found {
        Found::Outcome(Ok(Answer::Values(found))) => match &found.values[0].value {
            Some(value) => String::from_utf8_lossy(value).into_owned(),
            None => "nothing".to_owned(),
        },
        Found::Outcome(Err(Refusal::Failed(Error::SnapshotTooOld { .. }))) => "too old".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_replica_answers_what_the_log_has_closed() {
    let mut node = Node::new();
    node.put(LEFT, "a", 10, "1", 0);
    assert_eq!(node.read(LEFT, "a", 10), "Open", "nothing was said");
    node.put(LEFT, "a", 20, "2", 15);
    assert_eq!((node.read(LEFT, "a", 15), node.read(LEFT, "a", 16)), ("1".into(), "Open".into()));
    // A word of its own; and one from a leader that knew less.
    node.apply(LEFT, None, 25);
    node.apply(LEFT, None, 18);
    assert_eq!((node.read(LEFT, "a", 25), node.read(LEFT, "b", 19)), ("2".into(), "nothing".into()));
    assert_eq!(node.read(LEFT, "z", 19), "Elsewhere");
    assert_eq!(node.read(RIGHT, "z", 19), "Open", "each shard for itself");
    // It is kept with the state: another process finds it.
    let (registry, _) = Registry::new(NodeId(1));
    let factory = ShardFactory::new(registry.clone(), Seams::real());
    factory.open(LEFT, ReplicaId(1), node.store.engine()).unwrap();
    let again = registry.get(LEFT).unwrap();
    assert_eq!(
        (again.closed(), shown(evaluate(&again, Timestamp(25), &read("a", 25)))),
        (Timestamp(25), "2".into())
    );
}

#[test]
fn intents_are_passed_over_by_their_own_word_only() {
    let mut node = Node::new();
    node.put(LEFT, "a", 10, "1", 0);
    node.apply(LEFT, None, 40);
    let lay = |node: &mut Node, key: &'static str, started, at_least| {
        let effect = pb::PutIntents {
            txn: txn_bytes(TxnId(7)),
            primary: key.into(),
            started,
            writes: vec![pb::Version { key: key.into(), value: Some("2".into()) }],
            round: 1,
            at_least,
            ..pb::PutIntents::default()
        };
        node.apply(LEFT, Some(Effect::PutIntents(effect)), 0);
    };
    lay(&mut node, "a", 20, 0);
    // It commits above 20. Whether below 30, who knows.
    let seen = [19, 20, 30].map(|at| node.read(LEFT, "a", at));
    assert_eq!(seen, ["1", "Undecided", "Undecided"]);
    // An asynchronous commit at 60 or above: closed up to 55 it is no rival.
    lay(&mut node, "b", 20, 60);
    node.apply(LEFT, None, 65);
    let seen = [19, 59, 60].map(|at| node.read(LEFT, "b", at));
    assert_eq!(seen, ["nothing", "nothing", "Undecided"]);
    // Settled, the version counts where it is.
    let settle = pb::Settle {
        txn: txn_bytes(TxnId(7)),
        committed_at: 30,
        keys: vec!["a".into()],
        ..pb::Settle::default()
    };
    node.apply(LEFT, Some(Effect::Settle(settle)), 0);
    assert_eq!([29, 30].map(|at| node.read(LEFT, "a", at)), ["1", "2"]);
}

#[test]
fn a_scan_is_answered_like_reads() {
    let mut node = Node::new();
    node.put(LEFT, "a", 10, "1", 0);
    node.put(LEFT, "b", 20, "2", 0);
    node.apply(LEFT, None, 20);
    let scan = |at| {
        let range = Some(crate::descriptor::range_to_pb(&KeyRange::new("", "m")));
        Ask::Scan(pb::Scan { at, range, rows_max: 10, bytes_max: 1 << 20, ..pb::Scan::default() })
    };
    for (at, rows) in [(9, 0), (10, 1), (20, 2)] {
        match evaluate(&node.shard(LEFT), Timestamp(at), &scan(at)) {
            Found::Outcome(Ok(Answer::Page(page))) => assert_eq!(page.rows.len(), rows, "at {at}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(evaluate(&node.shard(LEFT), Timestamp(21), &scan(21)), Found::Open));
}

#[test]
fn nothing_is_said_while_the_state_is_replaced() {
    let mut node = Node::new();
    node.put(LEFT, "a", 10, "1", 0);
    node.apply(LEFT, None, 10);
    let shard = node.shard(LEFT);
    shard.restoring();
    assert_eq!(node.read(LEFT, "a", 10), "Elsewhere");
    shard.restored().unwrap();
    assert_eq!(node.read(LEFT, "a", 10), "1");
}

#[test]
fn below_the_safe_point_a_replica_refuses_as_leaders_do() {
    let mut node = Node::new();
    node.put(LEFT, "a", 10, "1", 0);
    node.apply(LEFT, None, 30);
    let collect = pb::Collect { safe_point: 20, versions_max: 100, ..pb::Collect::default() };
    node.apply(LEFT, Some(Effect::Collect(collect)), 0);
    assert_eq!([19, 20].map(|at| node.read(LEFT, "a", at)), ["too old", "1"]);
}

#[test]
fn what_was_vouched_for_counts_until_the_shard_is_another() {
    let mut node = Node::new();
    node.put(LEFT, "a", 10, "1", 0);
    node.shard(LEFT).vouched().note(Epoch(1), Timestamp(50));
    assert_eq!([50, 51].map(|at| node.read(LEFT, "a", at)), ["1", "Open"]);
    let grown = descriptor(LEFT, "", "m", 2);
    node.apply(LEFT, Some(Effect::Descriptor((&grown).into())), 0);
    assert_eq!(node.read(LEFT, "a", 50), "Open");
}

#[test]
fn a_child_inherits_and_a_merged_shard_has_the_lower_one() {
    let mut node = Node::new();
    node.put(LEFT, "a", 10, "1", 0);
    node.put(RIGHT, "z", 12, "2", 0);
    node.apply(LEFT, None, 40);
    node.apply(RIGHT, None, 30);

    let frozen = descriptor(RIGHT, "m", "", 2);
    let freeze = pb::FreezeShard {
        descriptor: Some((&frozen).into()),
        frozen: Some(pb::Frozen { into: LEFT.0, into_epoch: 1 }),
    };
    node.apply(RIGHT, Some(Effect::Freeze(freeze)), 35);
    assert_eq!(node.read(RIGHT, "z", 30), "Elsewhere", "it answers for nothing any more");
    // Not latched, so it may come after: nothing changes any more.
    node.apply(RIGHT, None, 90);
    assert_eq!(node.shard(RIGHT).closed(), Timestamp(35));

    let grown = descriptor(LEFT, "", "", 3);
    let absorb = pb::AbsorbShard { left: Some((&grown).into()), right: Some((&frozen).into()) };
    node.apply(LEFT, Some(Effect::Absorb(absorb)), 0);
    assert_eq!(node.shard(LEFT).closed(), Timestamp(35));
    let seen = ["a", "z"].map(|key| (node.read(LEFT, key, 35), node.read(LEFT, key, 36)));
    assert_eq!(seen, ["1", "2"].map(|value| (value.to_owned(), "Open".to_owned())));
    assert_eq!(node.read(RIGHT, "z", 30), "Elsewhere");

    let (parent, child) = (descriptor(LEFT, "", "m", 4), descriptor(GroupId(9), "m", "", 4));
    let split = pb::SplitShard {
        parent: Some((&parent).into()),
        children: vec![(&child).into()],
        fences: Vec::new(),
    };
    node.apply(LEFT, Some(Effect::Split(split)), 50);
    let factory = ShardFactory::new(node.registry.clone(), Seams::real());
    factory.open(child.group, ReplicaId(1), node.store.engine()).unwrap();
    assert_eq!([50, 51].map(|at| node.read(child.group, "z", at)), ["2", "Open"]);
    assert_eq!(node.read(LEFT, "z", 50), "Elsewhere");
}
