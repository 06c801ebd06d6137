//! More than a group can take, and groups that can take nothing: what comes too much is refused, and may come again.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::time::Duration;

use harness::puppet::{append, ask, exchange, is_success};
use harness::{Cluster, GROUP, eventually, eventually_so};
use prost::Message;
use proto::raft as wire;
use proto::raft::request::Body;
use raft::{NewGroup, ProposeError, RaftOptions};
use storage::ids::{LogIndex, NodeId, ReplicaId};

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

const LEADER: u64 = 1;
const FOLLOWER: u64 = 2;
const TERM: u64 = 5;

fn weight(append: &Body) -> usize {
    let Body::Append(append) = append else { panic!("no append: {append:?}") };
    append.encoded_len()
}

/// Sends appends to a node whose disk stalls, and a pulse behind them, by a stream that ends when the pulse is answered. The
/// answer is how many were not refused.
async fn taken_in(cluster: &Cluster, appends: &[Body]) -> usize {
    const PULSE: u64 = u64::MAX;
    let request = |id: u64, body: Body| wire::Request {
        id,
        group: GROUP.0,
        from_replica: LEADER,
        to_replica: FOLLOWER,
        body: Some(body),
    };
    let pulse = request(PULSE, Body::Pulse(wire::Pulse::default()));
    let requests = (0..).zip(appends.iter().cloned()).map(|(id, body)| request(id, body)).chain([pulse]);
    let (stream, mut answers) = exchange(cluster, LEADER, FOLLOWER, requests.collect()).await;

    let (mut refused, mut pulsed) = (0, false);
    while !pulsed {
        let batch = tokio::time::timeout(Duration::from_secs(30), answers.message()).await;
        let batch = batch.unwrap_or_else(|_| panic!("{refused} refused, and the pulse is not answered"));
        // What is refused is refused before the pulse is looked at.
        for answer in batch.expect("an answer").expect("more").answers {
            match answer.body {
                Some(wire::answer::Body::Refusal(refusal)) => {
                    assert_eq!(refusal.reason(), wire::refusal::Reason::Overloaded);
                    refused += 1;
                }
                Some(wire::answer::Body::Pulsed(_)) => pulsed = true,
                other => panic!("the disk stalls: {other:?}"),
            }
        }
    }
    drop(stream);
    // When it has ended here, the node has let go of it.
    let end = tokio::time::timeout(Duration::from_secs(30), answers.message()).await.expect("an end");
    assert_eq!(end.expect("an end"), None);
    appends.len() - refused
}

/// Entries that came by a stream that is gone are still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_takes_in_from_another_is_bounded_for_all_streams_together() {
    const BYTES_MAX: usize = 1000;
    let mut cluster = Cluster::new();
    cluster.options.received_bytes_max = BYTES_MAX;
    cluster.start(FOLLOWER).await;
    let members: BTreeMap<ReplicaId, NodeId> = ALL.map(|n| (ReplicaId(n), NodeId(n))).into();
    let new = NewGroup { group: GROUP, me: ReplicaId(FOLLOWER), members, campaign: false };
    cluster.multi(FOLLOWER).create_group(new).await.expect("create");
    // It is awake, and knows its leader.
    assert!(is_success(&ask(&cluster, LEADER, FOLLOWER, append(LEADER, TERM, 1)).await));
    let appends: Vec<Body> = (2..=100).map(|index| append(LEADER, TERM, index)).collect();

    let well = cluster.stall(FOLLOWER);
    let first = taken_in(&cluster, &appends).await;
    let mut bytes: usize = appends[..first].iter().map(weight).sum();
    assert!(bytes >= BYTES_MAX, "the room is used up: {bytes}");
    for _ in 0..3 {
        let again = taken_in(&cluster, &appends).await;
        bytes += appends[..again].iter().map(weight).sum::<usize>();
    }
    let largest = appends.iter().map(weight).max().expect("some");
    assert!(bytes < BYTES_MAX + largest, "{bytes} bytes were taken in");

    drop(well);
    let last = LogIndex(1 + first as u64);
    eventually("what was taken in is in the log", || cluster.group(FOLLOWER).status().last == Some(last))
        .await;
    let next = append(LEADER, TERM, last.0 + 1);
    let taken = || async { is_success(&ask(&cluster, LEADER, FOLLOWER, next.clone()).await) };
    eventually_so("there is room again", taken).await;
}
