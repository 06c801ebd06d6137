//! Disks, databases and replicas that fail while their node runs: who says so, and what goes on without them.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use harness::{Cluster, GROUP, eventually, eventually_so};
use raft::NewGroup;
use storage::ids::{GroupId, NodeId, ReplicaId};
use storage::seam::Seams;
use storage::{Cf, Store, StoreOptions};

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

/// What a leader of the meta-group does about it, by hand: its node says which groups to look at, and the replica goes the way of one that differs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_cannot_apply_says_so_and_is_replaced() {
    const NEW: ReplicaId = ReplicaId(4);
    let mut cluster = Cluster::new();
    for node in 1..=3 {
        cluster.start(node).await;
    }
    for node in 1..=3 {
        cluster.multi(node).create_group(new(node, &[1, 2, 3], node == 1)).await.expect("create");
    }
    cluster.put("a", "1").await;
    cluster.converge(&[1, 2, 3]).await;
    let (leader, _) = cluster.leader().await;
    let victim = (1..=3).find(|node| *node != leader).expect("three nodes");
    assert!((1..=3).all(|node| cluster.group(node).failed().is_none()));

    cluster.put("fail", &victim.to_string()).await;
    eventually("the replica fails", || cluster.group(victim).failed().is_some()).await;
    let reason = cluster.group(victim).failed().expect("it has failed");
    assert!(reason.contains("it is told to fail"), "{reason}");
    for node in 1..=3 {
        let told = if node == victim { vec![GROUP] } else { vec![] };
        assert_eq!(cluster.multi(node).suspects(), told, "of node {node}");
        assert_eq!(cluster.group(node).failed().is_some(), node == victim);
    }
    cluster.put("b", "2").await;

    let multi = cluster.multi(victim);
    multi.quarantine(GROUP, ReplicaId(victim), &reason).await.expect("quarantine");
    assert_eq!(multi.suspects(), [GROUP], "it is here still");
    let others = &cluster;
    eventually_so("the others remove it", || async move {
        let (leader, _) = others.leader().await;
        others.group(leader).remove(ReplicaId(victim)).await.is_ok()
    })
    .await;
    multi.remove_replica(GROUP, ReplicaId(victim)).await.expect("removed from its node");
    assert!(multi.suspects().is_empty());
    multi.create_replica(GROUP, NEW).await.expect("create");
    let (leader, _) = cluster.leader().await;
    cluster.group(leader).add_learner(NEW, NodeId(victim)).await.expect("add");
    eventually("the new one has all rows", || cluster.get(victim, "b").as_deref() == Some("2")).await;
    assert!(cluster.group(victim).failed().is_none());
}

/// What the engine says of how far the group is.
fn spoil_position(dir: &Path) {
    let store = Store::open(dir, StoreOptions::default(), Seams::real()).expect("open");
    let mut batch = store.engine().batch();
    batch.put(Cf::Group, &[&GROUP.0.to_be_bytes()[..], &[0]].concat(), &[0xff; 5]);
    store.engine().write(batch).expect("write");
    store.close().expect("close");
}

/// A snapshot that was accepted, and is none.
fn spoil_install(dir: &Path) {
    let incoming = dir.join("incoming");
    std::fs::create_dir_all(&incoming).expect("a directory");
    std::fs::write(incoming.join(format!("{}.install", GROUP.0)), "no snapshot").expect("write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_cannot_be_opened_fails_alone() {
    const OTHER: GroupId = GroupId(8);
    type Spoil = fn(&Path);
    let ways: [(Spoil, &str); 2] = [(spoil_position, "is corrupt"), (spoil_install, "cannot install")];
    for (spoil, why) in ways {
        let mut cluster = Cluster::new();
        cluster.start(1).await;
        let other = NewGroup { group: OTHER, ..new(1, &[1], false) };
        for group in [new(1, &[1], false), other] {
            cluster.multi(1).create_group(group).await.expect("create");
        }
        cluster.put("a", "1").await;
        cluster.stop(1).await;
        spoil(cluster.dir(1));

        // Twice: what has failed has not changed.
        for round in 0..2 {
            cluster.start(1).await;
            let multi = cluster.multi(1);
            let reason = cluster.group(1).failed().expect("it has failed");
            assert!(reason.contains(why), "{reason}");
            assert_eq!(multi.suspects(), [GROUP]);
            let other = multi.group(OTHER).expect("the other one");
            other.rouse(PATIENCE).await;
            eventually("the other one leads", || other.leads().is_some()).await;
            let term = other.leads().expect("it leads");
            other.propose(term, format!("b={round}").into()).await.expect("and serves");
            // Whoever asks for the one that has failed does not wake it.
            cluster.group(1).rouse(PATIENCE).await;
            assert!(cluster.group(1).leads().is_none() && cluster.group(1).failed().is_some());
            drop((multi, other));
            cluster.stop(1).await;
        }
        // It goes as any other does, with all that it has left.
        cluster.start(1).await;
        cluster.multi(1).remove_replica(GROUP, ReplicaId(1)).await.expect("remove");
        assert!(cluster.multi(1).group(GROUP).is_none() && cluster.multi(1).suspects().is_empty());
        assert_eq!(cluster.get(1, "a"), None);
        cluster.stop(1).await;
        cluster.start(1).await;
        assert!(cluster.multi(1).group(GROUP).is_none());
        cluster.multi(1).create_replica(GROUP, ReplicaId(2)).await.expect("a new one may come");
    }
}
