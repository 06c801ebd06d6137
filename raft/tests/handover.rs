//! A node that shuts down hands over what it leads.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::time::Duration;

use harness::{Cluster, GROUP, eventually};
use raft::{NewGroup, Progress};
use storage::ids::{NodeId, ReplicaId};

/// Longer than the harness waits for anything: that nobody has led for so long elects nobody here.
const FOR_EVER: Duration = Duration::from_secs(90);

/// Three voters, of which node 1 leads: it began alone, and took in the others.
async fn led_by_the_first() -> Cluster {
    let mut cluster = Cluster::new();
    // Also how late an answer of one may be that is handed over to.
    cluster.options.election_max = FOR_EVER;
    cluster.options.election_min = FOR_EVER / 2;
    cluster.options.shutdown_transfer_timeout = Duration::from_secs(30);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    let members = BTreeMap::from([(ReplicaId(1), NodeId(1))]);
    let new = NewGroup { group: GROUP, me: ReplicaId(1), members, campaign: true };
    cluster.multi(1).create_group(new).await.expect("create");
    cluster.put("a", "1").await;
    let group = cluster.group(1);
    for node in [2, 3] {
        cluster.multi(node).create_replica(GROUP, ReplicaId(node)).await.expect("create");
        group.add_learner(ReplicaId(node), NodeId(node)).await.expect("add");
    }
    let caught_up = || {
        let progress = group.status().progress;
        let has_all = |p: &Progress| p.lag == 0 && p.matched.is_some() && p.silent_for.is_some();
        progress.len() == 2 && progress.values().all(has_all)
    };
    eventually("the others catch up", caught_up).await;
    group.change_voters([1, 2, 3].map(ReplicaId).into()).await.expect("change voters");
    eventually("they have that, too", caught_up).await;
    cluster
}

/// Guards the hand-over in `MultiRaft::shutdown`: without it the others have to miss the leader first, and its lease to end,
/// which takes for ever here. (That it says farewell does not shorten the lease.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_shuts_down_is_replaced_before_anybody_misses_it() {
    let mut cluster = led_by_the_first().await;
    let (leader, term) = cluster.leader().await;
    assert_eq!(leader, 1);
    cluster.stop(1).await;
    let (second, later) = cluster.leader().await;
    assert!(second != 1 && later > term);
    cluster.put("b", "2").await;
    cluster.converge(&[2, 3]).await;
    assert!([2, 3].iter().all(|node| cluster.get(*node, "b").as_deref() == Some("2")));
}
