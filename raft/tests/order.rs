//! A node takes appends in the order in which another one sent them.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use futures::StreamExt;
use harness::puppet::exchange;
use harness::{CLUSTER, Cluster, GROUP, eventually};
use prost::Message;
use proto::raft as wire;
use proto::raft::raft_client::RaftClient;
use raft::NewGroup;
use storage::ids::{NodeId, ReplicaId};

const LEADER: u64 = 1;
const FOLLOWER: u64 = 2;
const TERM: u64 = 5;

/// A replica whose leader is this test.
async fn follower() -> Cluster {
    follower_of(Cluster::new()).await
}

async fn follower_of(mut cluster: Cluster) -> Cluster {
    cluster.start(FOLLOWER).await;
    let members: BTreeMap<ReplicaId, NodeId> = [1, 2, 3].map(|n| (ReplicaId(n), NodeId(n))).into();
    let new = NewGroup { group: GROUP, me: ReplicaId(FOLLOWER), members, campaign: false };
    cluster.multi(FOLLOWER).create_group(new).await.expect("create");
    cluster
}

/// The append of the entry at `index`.
fn append(index: u64) -> wire::Request {
    let term = |index| if index == 0 { 0 } else { TERM };
    let command = wire::entry::Payload::Command(format!("k={index}").into());
    let entry = wire::Entry { term: TERM, index, payload: Some(command), compression: 0, crc32: None };
    let append = wire::Append {
        vote: Some(wire::Vote { term: TERM, replica: LEADER, committed: true }),
        previous: Some(wire::LogId { term: term(index - 1), index: index - 1 }),
        entries: vec![entry],
        committed: Some(wire::LogId { term: TERM, index }),
    };
    wire::Request {
        id: index,
        group: GROUP.0,
        from_replica: LEADER,
        to_replica: FOLLOWER,
        body: Some(wire::request::Body::Append(append)),
    }
}

/// Sends the appends of these entries in messages of `each`, waiting for nothing, and asserts that all succeed.
async fn all_succeed(cluster: &Cluster, indexes: RangeInclusive<u64>, each: usize) {
    let indexes: Vec<u64> = indexes.collect();
    let message = |indexes: &[u64]| wire::Requests {
        cluster_id: CLUSTER.to_be_bytes().to_vec().into(),
        from_node: LEADER,
        to_node: FOLLOWER,
        requests: indexes.iter().copied().map(append).collect(),
    };
    let messages: Vec<_> = indexes.chunks(each).map(message).collect();
    let endpoint = format!("http://{}", cluster.address(FOLLOWER));
    let mut client = RaftClient::connect(endpoint).await.expect("connect");
    let requests = futures::stream::iter(messages).chain(futures::stream::pending());
    let mut answers = client.exchange(requests).await.expect("exchange").into_inner();
    let mut answered = 0;
    while answered < indexes.len() {
        let Ok(batch) = tokio::time::timeout(std::time::Duration::from_secs(5), answers.message()).await
        else {
            panic!("{answered} answered; {:?}", cluster.group(FOLLOWER).status());
        };
        let batch = batch.expect("an answer").expect("more");
        for answer in batch.answers {
            let Some(wire::answer::Body::Appended(appended)) = answer.body else { panic!("{answer:?}") };
            let success = wire::appended::Result::Success(true);
            assert_eq!(appended.result, Some(success), "append {}", answer.id);
            answered += 1;
        }
    }
}

/// More of them than tokio gives a task permits for in one go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_arrive_together_are_taken_in_their_order() {
    let cluster = follower().await;
    all_succeed(&cluster, 1..=2_000, 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_wake_a_group_are_taken_in_their_order() {
    for _ in 0..10 {
        let mut cluster = follower().await;
        all_succeed(&cluster, 1..=1, 1).await;
        eventually("it is applied", || cluster.applied_commands(FOLLOWER) == 1).await;
        // A group that has nothing to apply again rests when its node starts.
        cluster.stop(FOLLOWER).await;
        cluster.start(FOLLOWER).await;
        assert!(cluster.group(FOLLOWER).rests());
        all_succeed(&cluster, 2..=200, 1).await;
    }
}

/// What is refused is not lost: its sender comes again. And who waits behind it, a sign of life above all, does not wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_beyond_what_a_node_takes_are_refused_and_keep_nobody_waiting() {
    const APPENDS: u64 = 100;
    const PULSE: u64 = 1000;
    let mut cluster = Cluster::new();
    cluster.options.received_bytes_max = 1000;
    let cluster = follower_of(cluster).await;
    let well = cluster.stall(FOLLOWER);
    let pulse = wire::Request {
        id: PULSE,
        body: Some(wire::request::Body::Pulse(wire::Pulse::default())),
        ..wire::Request::default()
    };
    let requests = (1..=APPENDS).map(append).chain([pulse]).collect();
    let (_stream, mut answers) = exchange(&cluster, LEADER, FOLLOWER, requests).await;

    let (mut refused, mut taken, mut pulsed) = (0, 0, false);
    let mut well = Some(well);
    while refused + taken < APPENDS || !pulsed {
        let batch = tokio::time::timeout(std::time::Duration::from_secs(5), answers.message()).await;
        let batch = batch.unwrap_or_else(|_| panic!("{refused} refused, {taken} taken, pulsed: {pulsed}"));
        for answer in batch.expect("an answer").expect("more").answers {
            match answer.body {
                Some(wire::answer::Body::Refusal(refusal)) => {
                    assert_eq!(refusal.reason(), wire::refusal::Reason::Overloaded);
                    refused += 1;
                }
                Some(wire::answer::Body::Pulsed(_)) => pulsed = true,
                Some(wire::answer::Body::Appended(appended)) => {
                    assert!(well.is_none(), "the disk stalls");
                    assert_eq!(appended.result, Some(wire::appended::Result::Success(true)));
                    taken += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        if pulsed && refused > 0 {
            // Only now: neither has waited for the disk.
            well = None;
        }
    }
    assert!(taken > 0, "some fit");
}

/// One that had to fit would be refused again and again, as long as smaller ones keep coming.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_is_taken_if_there_is_any_room_for_it() {
    let Some(wire::request::Body::Append(first)) = append(1).body else { panic!("it is an append") };
    let mut cluster = Cluster::new();
    cluster.options.received_bytes_max = first.encoded_len() + 1;
    let cluster = follower_of(cluster).await;
    // Both in one message: the first is under way when the second comes.
    all_succeed(&cluster, 1..=2, 2).await;
}
