//! What is counted of elections and leaders. (One test: what is counted is of the whole process.)

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::puppet::{append, ask, is_success};
use harness::{Cluster, GROUP, eventually};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use raft::{NewGroup, Role};
use storage::ids::{NodeId, ReplicaId};

const ME: u64 = 1;

/// Counters by their names, whatever their labels.
#[derive(Clone, Default)]
struct Counters(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Counters {
    fn get(&self, name: &str) -> u64 {
        self.0.lock().expect("lock").get(name).map_or(0, |counter| counter.load(Ordering::SeqCst))
    }

    fn leader_changes(&self) -> u64 {
        self.get("flotilla_raft_leader_changes_total")
    }

    fn elections(&self) -> u64 {
        self.get("flotilla_raft_elections_total")
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = self.0.lock().expect("lock");
        Counter::from_arc(counters.entry(key.name().to_owned()).or_default().clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
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
    let counters = Counters::default();
    assert!(metrics::set_global_recorder(counters.clone()).is_ok(), "the only recorder");

    let mut cluster = Cluster::new();
    cluster.start(ME).await;
    create(&cluster, &[1, 2, 3]).await;
    assert!(is_success(&ask(&cluster, 2, ME, append(2, 5, 1)).await));
    let group = cluster.group(ME);
    let follows =
        || matches!(&*group.role().borrow(), Role::Follower { leader: Some(l) } if l.node == NodeId(2));
    eventually("it follows", follows).await;
    assert_eq!((counters.leader_changes(), counters.elections()), (0, 0));
    drop(group);
    cluster.kill(ME).await;

    let mut cluster = Cluster::new();
    cluster.options.rest_after = Duration::from_millis(500);
    cluster.start(ME).await;
    create(&cluster, &[ME]).await;
    cluster.leader().await;
    assert_eq!(counters.leader_changes(), 1);
    let elections = counters.elections();
    assert!(elections > 0);
    cluster.at_rest(&[ME]).await;
    cluster.group(ME).rouse(Duration::from_secs(30)).await;
    cluster.leader().await;
    assert_eq!(counters.leader_changes(), 1, "it leads again");
    assert!(counters.elections() > elections, "after another election");
}
