//! Disks, databases and replicas that fail while their node runs: who says so, and what goes on without them.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::time::Duration;

use harness::{Cluster, GROUP};
use raft::NewGroup;
use storage::ids::{NodeId, ReplicaId};

/// How long a node may take to notice.
const PATIENCE: Duration = Duration::from_secs(60);

fn members(nodes: &[u64]) -> BTreeMap<ReplicaId, NodeId> {
    nodes.iter().map(|&n| (ReplicaId(n), NodeId(n))).collect()
}

/// The group on `node`.
fn new(node: u64, nodes: &[u64], campaign: bool) -> NewGroup {
    NewGroup { group: GROUP, me: ReplicaId(node), members: members(nodes), campaign }
}

/// The directory of the state's tables is gone, so that none can be made. The log, in a directory of its own, takes every write; a node that only
/// looks at its log would go on until the disk is full of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_flushed_breaks_the_store() {
    let mut cluster = Cluster::new();
    cluster.options.checkpoint_interval = Duration::from_millis(100);
    cluster.start(1).await;
    cluster.multi(1).create_group(new(1, &[1], false)).await.expect("create");
    cluster.put("a", "1").await;
    let multi = cluster.multi(1);
    let early = tokio::time::timeout(Duration::from_secs(2), multi.broken()).await;
    assert!(early.is_err(), "nothing is wrong yet: {early:?}");

    let (_, term) = cluster.leader().await;
    let state = cluster.dir(1).join("state");
    std::fs::rename(&state, state.with_extension("gone")).expect("rename");
    // There is something to flush. (If that was tried in between, it is refused.)
    let _ = cluster.group(1).propose(term, "b=2".into()).await;
    let reason = tokio::time::timeout(PATIENCE, multi.broken()).await.expect("the node says so");
    assert!(reason.to_string().contains(&*state.to_string_lossy()), "{reason}");
    // Whoever asks later is told, too.
    let again = tokio::time::timeout(PATIENCE, multi.broken()).await.expect("it stays broken");
    assert_eq!(again.to_string(), reason.to_string());
}
