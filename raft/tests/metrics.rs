//! What is counted of elections and leaders. (One test: what is counted is of the whole process.)

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::time::Duration;

use harness::counters::Counters;
use harness::puppet::{append, ask, is_success};
use harness::{Cluster, GROUP, eventually};
use raft::{NewGroup, Role};
use storage::ids::{NodeId, ReplicaId};

const ME: u64 = 1;

fn leader_changes(counters: &Counters) -> u64 {
    counters.get("flotilla_raft_leader_changes_total")
}

fn elections(counters: &Counters) -> u64 {
    counters.get("flotilla_raft_elections_total")
}

async fn create(cluster: &Cluster, nodes: &[u64]) {
    let members: BTreeMap<_, _> = nodes.iter().map(|n| (ReplicaId(*n), NodeId(*n))).collect();
    let new = NewGroup { group: GROUP, me: ReplicaId(ME), members, campaign: false };
    cluster.multi(ME).create_group(new).await.expect("create");
}

/// An operator who sees leaders change looks for what is wrong: followers that hear of a leader, and groups that wake where
/// they were laid to rest, are nothing of the kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_is_counted_once_where_it_leads_and_an_election_where_it_begins() {
    let counters = Counters::install();

    let mut cluster = Cluster::new();
    cluster.start(ME).await;
    create(&cluster, &[1, 2, 3]).await;
    assert!(is_success(&ask(&cluster, 2, ME, append(2, 5, 1)).await));
    let group = cluster.group(ME);
    let follows =
        || matches!(&*group.role().borrow(), Role::Follower { leader: Some(l) } if l.node == NodeId(2));
    eventually("it follows", follows).await;
    assert_eq!((leader_changes(&counters), elections(&counters)), (0, 0));
    drop(group);
    cluster.kill(ME).await;

    let mut cluster = Cluster::new();
    cluster.options.rest_after = Duration::from_millis(500);
    cluster.start(ME).await;
    create(&cluster, &[ME]).await;
    cluster.leader().await;
    assert_eq!(leader_changes(&counters), 1);
    let before = elections(&counters);
    assert!(before > 0);
    cluster.at_rest(&[ME]).await;
    cluster.group(ME).rouse(Duration::from_secs(30)).await;
    cluster.leader().await;
    assert_eq!(leader_changes(&counters), 1, "it leads again");
    assert!(elections(&counters) > before, "after another election");
}
