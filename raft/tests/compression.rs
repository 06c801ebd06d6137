//! Large commands are compressed in the logs of all replicas; commands are applied as they were proposed, or not at all.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use harness::{CLUSTER, Cluster, GROUP, eventually};
use proto::raft as wire;
use proto::raft::raft_client::RaftClient;
use raft::{NewGroup, Role};
use storage::ids::{NodeId, ReplicaId};

const NODES: [u64; 3] = [1, 2, 3];
const LEADER: u64 = 1;
const FOLLOWER: u64 = 2;
const TERM: u64 = 5;

fn new(node: u64, campaign: bool) -> NewGroup {
    let members: BTreeMap<_, _> = NODES.map(|n| (ReplicaId(n), NodeId(n))).into();
    NewGroup { group: GROUP, me: ReplicaId(node), members, campaign }
}

/// Writes the value; by how many bytes the log of each node grew.
async fn growth(cluster: &Cluster, key: &str, value: &str) -> [usize; 3] {
    let before = NODES.map(|node| cluster.log_bytes(node));
    cluster.put(key, value).await;
    cluster.converge(&NODES).await;
    let after = NODES.map(|node| cluster.log_bytes(node));
    std::array::from_fn(|n| after[n] - before[n])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_command_is_logged_compressed_and_applied_as_it_was() {
    let mut cluster = Cluster::new();
    for node in NODES {
        cluster.start(node).await;
    }
    for node in NODES {
        let multi = cluster.multi(node);
        multi.set_log_compression(true);
        multi.create_group(new(node, node == 1)).await.expect("create");
    }
    cluster.put("small", "1").await;
    cluster.converge(&NODES).await;

    let large: String = (0..4_000).map(|n| format!("row {n} has a name; ")).collect();
    let grown = growth(&cluster, "large", &large).await;
    assert!(grown.iter().all(|bytes| *bytes < large.len() / 2), "{grown:?} of {}", large.len());
    for node in NODES {
        cluster.multi(node).set_log_compression(false);
    }
    let grown = growth(&cluster, "plain", &large).await;
    assert!(grown.iter().all(|bytes| *bytes >= large.len()), "{grown:?} of {}", large.len());

    // What was not flushed is applied again, from the log: compressed or not, whatever the node is told.
    cluster.crash(2).await;
    cluster.start(2).await;
    cluster.put("later", "2").await;
    cluster.converge(&NODES).await;
    for node in NODES {
        for key in ["large", "plain"] {
            assert!(cluster.get(node, key).as_deref() == Some(large.as_str()), "{key} on node {node}");
        }
        assert_eq!(cluster.get(node, "later").as_deref(), Some("2"));
    }
}

/// The append of the first entry, by a leader that the test plays.
fn append(id: u64, data: Bytes, compression: i32, crc32: Option<u32>) -> wire::Request {
    let payload = Some(wire::entry::Payload::Command(data));
    let append = wire::Append {
        vote: Some(wire::Vote { term: TERM, replica: LEADER, committed: true }),
        previous: Some(wire::LogId { term: 0, index: 0 }),
        entries: vec![wire::Entry { term: TERM, index: 1, payload, compression, crc32 }],
        committed: Some(wire::LogId { term: TERM, index: 1 }),
    };
    wire::Request {
        id,
        group: GROUP.0,
        from_replica: LEADER,
        to_replica: FOLLOWER,
        body: Some(wire::request::Body::Append(append)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_compression_is_refused_and_a_damaged_command_stops_the_replica() {
    let mut cluster = Cluster::new();
    cluster.start(FOLLOWER).await;
    cluster.multi(FOLLOWER).create_group(new(FOLLOWER, false)).await.expect("create");

    // It claims 4096 bytes, and begins with a repetition of what is not there.
    let damaged = Bytes::from([&[0x07_u8, 0x00, 0x10, 0x00, 0x00][..], &[0x0f_u8; 32][..]].concat());
    let lz4 = wire::entry::Compression::Lz4 as i32;
    let requests = wire::Requests {
        cluster_id: CLUSTER.to_be_bytes().to_vec().into(),
        from_node: LEADER,
        to_node: FOLLOWER,
        requests: vec![append(1, Bytes::from_static(b"k=v"), 4_711, None), append(2, damaged, lz4, None)],
    };
    let endpoint = format!("http://{}", cluster.address(FOLLOWER));
    let mut client = RaftClient::connect(endpoint).await.expect("connect");
    let requests = futures::stream::iter([requests]).chain(futures::stream::pending());
    let mut answers = client.exchange(requests).await.expect("exchange").into_inner();
    let refused = loop {
        let batch = answers.message().await.expect("an answer").expect("more");
        if let Some(answer) = batch.answers.into_iter().find(|answer| answer.id == 1) {
            break answer;
        }
    };
    match &refused.body {
        Some(wire::answer::Body::Refusal(refusal)) => {
            assert_eq!(refusal.reason, wire::refusal::Reason::Malformed as i32);
            assert!(refusal.detail.contains("does not know"), "{refusal:?}");
        }
        other => panic!("{other:?}"),
    }

    let role = cluster.group(FOLLOWER).role();
    let says_why = |role: &Role| match role {
        Role::Stopped { reason } => reason.contains("malformed compressed command"),
        _ => false,
    };
    eventually("the replica stops", || says_why(&role.borrow())).await;
    assert_eq!(cluster.applied_commands(FOLLOWER), 0);
}

/// Compared nowhere, it would get a valid checksum in this replica's log, and its state would be another one than the others'.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_has_flipped_on_the_way_is_not_applied() {
    let mut cluster = Cluster::new();
    cluster.start(FOLLOWER).await;
    cluster.multi(FOLLOWER).create_group(new(FOLLOWER, false)).await.expect("create");

    let (proposed, arrived) = (b"k=v", Bytes::from_static(b"k=w"));
    let requests = wire::Requests {
        cluster_id: CLUSTER.to_be_bytes().to_vec().into(),
        from_node: LEADER,
        to_node: FOLLOWER,
        requests: vec![append(1, arrived, 0, Some(crc32fast::hash(proposed)))],
    };
    let endpoint = format!("http://{}", cluster.address(FOLLOWER));
    let mut client = RaftClient::connect(endpoint).await.expect("connect");
    let requests = futures::stream::iter([requests]).chain(futures::stream::pending());
    // (Held, for the stream ends with it.)
    let _answers = client.exchange(requests).await.expect("exchange").into_inner();

    let role = cluster.group(FOLLOWER).role();
    let says_why = |role: &Role| match role {
        Role::Stopped { reason } => reason.contains("not what was proposed"),
        _ => false,
    };
    eventually("the replica stops", || says_why(&role.borrow())).await;
    assert_eq!(cluster.applied_commands(FOLLOWER), 0);
    assert_eq!(cluster.get(FOLLOWER, "k"), None);
}
