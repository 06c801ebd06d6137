//! Splits, entry by entry.

use std::sync::Arc;

use raft::{StateMachine, StateMachineFactory};
use storage::ids::{Epoch, GroupId, LogIndex, NodeId, ReplicaId, Term};
use storage::seam::Seams;
use storage::{Engine, Store, StoreOptions};

use super::*;
use crate::shard::{Registry, ShardFactory, found};

const PARENT: GroupId = GroupId(2);
const OTHER: GroupId = GroupId(3);
const CHILD: GroupId = GroupId(9);

fn descriptor(group: GroupId, start: &'static str, end: &'static str, epoch: u64) -> ShardDescriptor {
    let replicas = [(ReplicaId(1), NodeId(1))].into_iter().collect();
    ShardDescriptor { group, range: KeyRange::new(start, end), epoch: Epoch(epoch), replicas }
}

/// A replica of the parent, whose process has just started.
fn opened(engine: &Arc<Engine>) -> Arc<Shard> {
    let (registry, _) = Registry::new(NodeId(1));
    let factory = ShardFactory::new(registry.clone(), Seams::real());
    factory.open(PARENT, ReplicaId(1), engine.clone()).expect("it opens");
    registry.get(PARENT).expect("the parent")
}

/// Cuts the parent at `h`.
fn cut(engine: &Arc<Engine>, born: GroupId) -> Result<(), Fatal> {
    let (parent, child) = (descriptor(PARENT, "", "h", 2), descriptor(born, "h", "m", 2));
    let split = pb::SplitShard {
        parent: Some((&parent).into()),
        children: vec![(&child).into()],
        fences: Vec::new(),
    };
    let command = pb::Command { effect: Some(Effect::Split(split)), closed: 0 }.encode_to_vec();
    let at = raft::Applied { term: Term(1), index: LogIndex(7) };
    let mut batch = engine.batch();
    opened(engine).apply(&mut batch, at, &command)?;
    engine.write(batch).map_err(Fatal::new)
}

#[test]
fn a_split_writes_over_no_other_shard() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path(), StoreOptions::default(), Seams::real()).expect("a store");
    let engine = store.engine();
    let other = descriptor(OTHER, "m", "", 5);
    for shard in [&descriptor(PARENT, "", "m", 1), &other] {
        found(&engine, shard).expect("written");
    }
    // Its id was given out twice.
    let refused = cut(&engine, OTHER).expect_err("it would be written over");
    assert!(refused.to_string().contains("S1"), "{refused}");
    assert_eq!(load_descriptor(&engine, OTHER).expect("read"), Some(other));
    // One that was absorbed has a replica here until that is buried.
    let mut batch = engine.batch();
    batch.put(Cf::Group, &keys::absorbed(GroupId(4)), &PARENT.0.to_be_bytes());
    engine.write(batch).expect("written");
    cut(&engine, GroupId(4)).expect_err("its log is still here");
    // Nobody has this one. And the same entry again finds what it wrote itself.
    for _ in 0..2 {
        cut(&engine, CHILD).expect("a new shard");
        assert_eq!(load_descriptor(&engine, CHILD).expect("read"), Some(descriptor(CHILD, "h", "m", 2)));
    }
}
