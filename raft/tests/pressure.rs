//! More than a group can take, and groups that can take nothing: what comes too much is refused, and may come again.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::time::Duration;

use harness::{Cluster, GROUP, eventually_so};
use raft::{NewGroup, ProposeError, RaftOptions};
use storage::ids::{NodeId, ReplicaId};

const ALL: [u64; 3] = [1, 2, 3];

async fn three(set: impl FnOnce(&mut RaftOptions)) -> Cluster {
    let mut cluster = Cluster::new();
    set(&mut cluster.options);
    for node in ALL {
        cluster.start(node).await;
    }
    let members: BTreeMap<ReplicaId, NodeId> = ALL.map(|n| (ReplicaId(n), NodeId(n))).into();
    for node in ALL {
        let (group, me, members) = (GROUP, ReplicaId(node), members.clone());
        let new = NewGroup { group, me, members, campaign: node == 1 };
        cluster.multi(node).create_group(new).await.expect("create");
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_beyond_those_in_flight_are_refused_and_never_applied() {
    let cluster = three(|options| options.proposals_in_flight_max = 4).await;
    let (leader, term) = cluster.leader().await;
    let group = cluster.group(leader);
    let proposals = (0..100).map(|i| group.propose(term, format!("k{i}=1").into()));
    let results = futures::future::join_all(proposals).await;
    let done = results.iter().filter(|result| result.is_ok()).count();
    let refused = results.iter().filter(|result| matches!(result, Err(ProposeError::Overloaded))).count();
    assert_eq!(done + refused, 100, "{results:?}");
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
    // Try again.
    cluster.put("again", "1").await;
    cluster.converge(&ALL).await;
    assert!(ALL.iter().all(|node| cluster.applied_commands(*node) == done + 1));
}

/// openraft itself would go on taking them, and keep them in its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_no_majority_answers_takes_no_proposals() {
    let mut cluster = three(|options| options.propose_timeout = Duration::from_millis(500)).await;
    cluster.put("a", "1").await;
    let (leader, term) = cluster.leader().await;
    let others: Vec<u64> = ALL.into_iter().filter(|node| *node != leader).collect();
    for other in &others {
        cluster.kill(*other).await;
    }
    let group = cluster.group(leader);
    let refuses =
        || async { matches!(group.propose(term, "b=1".into()).await, Err(ProposeError::NotLeader(_))) };
    eventually_so("it takes nothing", refuses).await;
    let last = group.status().last;
    for _ in 0..100 {
        assert!(refuses().await);
    }
    assert_eq!(group.leads(), Some(term), "nobody has been elected");
    assert_eq!(group.status().last, last, "nothing has come into its log");

    drop(group);
    for other in others {
        cluster.start(other).await;
    }
    cluster.put("c", "1").await;
}

/// Its log goes on, and so does its lease: nobody else would notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_applies_nothing_hands_over_and_leads_again_when_it_does() {
    let cluster = three(|options| {
        options.apply_stall = Duration::from_millis(500);
        options.propose_timeout = Duration::from_secs(1);
    })
    .await;
    cluster.put("a", "1").await;
    let (leader, _) = cluster.leader().await;
    let hang = cluster.hang(leader);
    cluster.put("b", "2").await;
    assert_ne!(cluster.leader().await.0, leader);

    drop(hang);
    cluster.converge(&ALL).await;
    assert!(ALL.iter().all(|node| cluster.get(*node, "b").as_deref() == Some("2")));
    let leads_again = || async {
        let (other, _) = cluster.leader().await;
        other == leader || cluster.group(other).transfer_leader(ReplicaId(leader)).await.is_ok()
    };
    eventually_so("it may lead again", leads_again).await;
}
