//! Groups at rest: what they need, who wakes them, and that nothing is lost or read from the past meanwhile.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use harness::{Cluster, GROUP, eventually, eventually_so};
use proto::raft as wire;
use proto::raft::raft_server::{Raft, RaftServer};
use raft::NewGroup;
use storage::ids::{GroupId, NodeId, ReplicaId};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

const ALL: [u64; 3] = [1, 2, 3];
const SOON: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(5);

async fn three() -> Cluster {
    three_that_rest_after(SOON).await
}

async fn three_that_rest_after(rest_after: Duration) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.options.rest_after = rest_after;
    for node in ALL {
        cluster.start(node).await;
    }
    let members: BTreeMap<ReplicaId, NodeId> = ALL.map(|n| (ReplicaId(n), NodeId(n))).into();
    for node in ALL {
        let multi = cluster.multi(node);
        let (group, me, members) = (GROUP, ReplicaId(node), members.clone());
        multi.create_group(NewGroup { group, me, members, campaign: node == 1 }).await.expect("create");
    }
    cluster
}

/// … at rest, with a row, and the node that is its home.
async fn three_at_rest() -> (Cluster, u64) {
    let cluster = three().await;
    cluster.put("a", "1").await;
    cluster.at_rest(&ALL).await;
    let home = cluster.home(&ALL);
    (cluster, home)
}

/// As whoever has work for the leader does.
async fn put_at(cluster: &Cluster, node: u64, key: &str, value: &str) {
    let group = cluster.group(node);
    group.rouse(LIMIT).await;
    let term = group.leads().expect("it leads now");
    group.propose(term, format!("{key}={value}").into()).await.expect("propose");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_without_work_rests_and_wakes_for_work() {
    let (cluster, home) = three_at_rest().await;
    let term = cluster.group(home).status().term;
    for node in ALL {
        let status = cluster.group(node).status();
        assert!(status.rests && status.members.len() == 3, "{status:?}");
        assert_eq!(
            status.leader.map(|leader| leader.node),
            Some(NodeId(home)),
            "node {node} knows whom to ask"
        );
        assert_eq!(cluster.get(node, "a").as_deref(), Some("1"), "on node {node}");
    }
    assert!(cluster.group(home).lease(term).is_err(), "there is no lease without a leader");

    put_at(&cluster, home, "a", "2").await;
    assert!(cluster.group(home).status().term > term, "it was elected anew");
    cluster.converge(&ALL).await;
    assert!(ALL.iter().all(|node| cluster.get(*node, "a").as_deref() == Some("2")));
    cluster.at_rest(&ALL).await;
}

/// It was woken for something that is done. (A comparison of its replicas, once a day for each of ten thousand groups.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_needed_no_more_rests_before_its_time() {
    let cluster = three_that_rest_after(Duration::from_secs(3600)).await;
    cluster.put("a", "1").await;
    cluster.converge(&ALL).await;
    let (leader, _) = cluster.leader().await;
    cluster.group(leader).hurry_to_rest();
    cluster.at_rest(&ALL).await;
    assert_eq!(cluster.home(&ALL), leader);
}

/// The others do not take the lead from a home that lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_asked_elsewhere_names_the_home() {
    let (cluster, home) = three_at_rest().await;
    let other = ALL.into_iter().find(|node| *node != home).expect("another");
    cluster.group(other).rouse(LIMIT).await;
    assert!(cluster.group(other).leads().is_none());
    put_at(&cluster, home, "a", "2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rested_on_a_dead_node_has_another_home() {
    let (mut cluster, home) = three_at_rest().await;
    let others: Vec<u64> = ALL.into_iter().filter(|node| *node != home).collect();
    let term = cluster.group(home).status().term;
    cluster.kill(home).await;
    let dead = BTreeSet::from([NodeId(home)]);
    let status = |node: u64| cluster.group(node).status_at_rest(&dead).expect("it rests on");
    let homes: Vec<u64> =
        others.iter().copied().filter(|node| status(*node).serves() == Some(term)).collect();
    assert_eq!(homes.len(), 1, "the others agree");
    // Of nobody's death neither knows otherwise.
    let lives = BTreeSet::new();
    assert!(
        others
            .iter()
            .all(|node| cluster.group(*node).status_at_rest(&lives).is_some_and(|s| s.serves().is_none()))
    );
    // (Until it is missed it is the one to be asked.)
    let instead = cluster.group(homes[0]);
    let leads = || async { instead.rouse(LIMIT).await && instead.leads().is_some() };
    eventually_so("whoever stands in leads when it is asked", leads).await;
    drop(instead);
    put_at(&cluster, homes[0], "a", "2").await;
    // It rests, though one of its members is away; and who was away gets what it lacks when it is back.
    cluster.at_rest(&others).await;
    cluster.start(home).await;
    eventually("it has caught up", || cluster.get(home, "a").as_deref() == Some("2")).await;
    cluster.at_rest(&ALL).await;
}

/// Nobody has told it who lacks entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_a_group_whose_home_is_dead_is_led() {
    let (mut cluster, home) = three_at_rest().await;
    let others: Vec<u64> = ALL.into_iter().filter(|node| *node != home).collect();
    let term = cluster.group(home).status().term;
    cluster.kill(home).await;
    cluster.stop(others[0]).await;
    cluster.start(others[0]).await;
    assert!(
        cluster
            .group(others[0])
            .status_at_rest(&BTreeSet::from([NodeId(home)]))
            .is_none_or(|s| s.serves().is_none())
    );
    eventually("it is led without being asked", || {
        others.iter().any(|node| cluster.group(*node).status().term > term)
    })
    .await;
    cluster.at_rest(&others).await;
    cluster.home(&others);
}

/// What a member lacks only the home knows, unless it tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_in_sees_to_members_that_lack_entries() {
    let (mut cluster, first) = three_at_rest().await;
    let others: Vec<u64> = ALL.into_iter().filter(|node| *node != first).collect();
    cluster.stop(others[0]).await;
    put_at(&cluster, first, "a", "2").await;
    let left = [first, others[1]];
    cluster.at_rest(&left).await;
    assert!(cluster.group(others[1]).owes().contains(&NodeId(others[0])));
    // The one who knew goes, and the one who lacks an entry comes back.
    let home = cluster.home(&left);
    let instead = left.into_iter().find(|node| *node != home).expect("another");
    cluster.kill(home).await;
    cluster.start(others[0]).await;
    eventually("it has caught up", || cluster.get(others[0], "a").as_deref() == Some("2")).await;
    cluster.at_rest(&[others[0], instead]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rested_before_a_power_cut_is_there_after_it() {
    let mut cluster = three().await;
    for n in 0..40 {
        cluster.put("a", &n.to_string()).await;
    }
    cluster.at_rest(&ALL).await;
    for node in ALL {
        cluster.crash(node).await;
    }
    for node in ALL {
        cluster.start(node).await;
    }
    cluster.put("b", "1").await;
    cluster.converge(&ALL).await;
    for node in ALL {
        assert_eq!(cluster.get(node, "a").as_deref(), Some("39"), "on node {node}");
    }
}

/// A process that ends in order starts with its groups at rest: nothing is to be applied again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_wakes_nothing_that_has_no_work() {
    let (mut cluster, home) = three_at_rest().await;
    let other = ALL.into_iter().find(|node| *node != home).expect("another");
    cluster.stop(other).await;
    cluster.start(other).await;
    assert!(cluster.group(other).rests());
    let status = cluster.group(other).status();
    assert_eq!(status.leader.map(|leader| leader.node), Some(NodeId(home)));
    put_at(&cluster, home, "a", "2").await;
    cluster.converge(&ALL).await;
    assert_eq!(cluster.get(other, "a").as_deref(), Some("2"));
}

/// Requests meet each phase of going to rest and waking: none is lost, none is applied twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_comes_while_a_group_goes_to_rest_is_done() {
    let cluster = three().await;
    cluster.put("a", "0").await;
    for round in 1..=30_u64 {
        // About the moment at which it is laid to rest.
        tokio::time::sleep(SOON + Duration::from_millis(round * 37 % 600)).await;
        let mut done = false;
        for _ in 0..200 {
            let serves = |node: &u64| cluster.group(*node).status().serves().is_some();
            eventually("somebody is to be asked", || ALL.iter().any(serves)).await;
            let Some(node) = ALL.into_iter().find(serves) else { continue };
            let group = cluster.group(node);
            group.rouse(LIMIT).await;
            let Some(term) = group.leads() else { continue };
            if group.propose(term, format!("a={round}").into()).await.is_ok() {
                done = true;
                break;
            }
        }
        assert!(done, "round {round}");
        assert!(ALL.iter().any(|node| cluster.get(*node, "a") == Some(round.to_string())));
    }
    cluster.converge(&ALL).await;
    assert!(ALL.iter().all(|node| cluster.get(*node, "a").as_deref() == Some("30")));
}

/// What a process has promised before it was restarted it has forgotten: it elects nobody, itself neither, until a lease that
/// was granted then is over, however urgently it is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_at_rest_honours_what_was_promised_before_a_restart() {
    let (mut cluster, home) = three_at_rest().await;
    let other = ALL.into_iter().find(|node| *node != home).expect("another");
    cluster.kill(other).await;
    cluster.kill(home).await;
    // The third one would give it its vote at once, and needs it for a majority.
    let started = tokio::time::Instant::now();
    cluster.start(other).await;
    cluster.group(other).rouse(LIMIT).await;
    cluster.leader().await;
    let lease = raft::RaftOptions::default().election_max;
    assert!(started.elapsed() >= lease, "a leader after {:?}", started.elapsed());
}

/// A majority at rest knows that nobody has led since; it needs neither the home, nor to wake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_at_rest_know_that_nobody_has_been_elected() {
    let (mut cluster, home) = three_at_rest().await;
    for node in ALL {
        assert!(cluster.group(node).is_unled().await, "node {node}");
        assert!(cluster.group(node).rests(), "node {node} was woken");
    }
    // One has been led since; asked right after, or when they rest again and know it.
    put_at(&cluster, home, "a", "2").await;
    assert!(!cluster.group(home).is_unled().await, "it leads");
    cluster.at_rest(&ALL).await;
    let others: Vec<u64> = ALL.into_iter().filter(|node| *node != home).collect();
    // (It counts as at rest a moment before all of its instance has ended.)
    let asked = cluster.group(others[0]);
    eventually_so("it knows that nobody has led since", || asked.is_unled()).await;
    drop(asked);

    // Without the home, whose death wakes nobody.
    cluster.kill(home).await;
    assert!(cluster.group(others[0]).is_unled().await, "two of three are a majority");
    assert!(others.iter().all(|node| cluster.group(*node).rests()));
    // Without anybody else there is none.
    cluster.kill(others[1]).await;
    assert!(!cluster.group(others[0]).is_unled().await);
}

/// Whoever only wants to know whether it would serve needn't ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_group_would_serve_is_known_without_waking_it() {
    let (mut cluster, home) = three_at_rest().await;
    for node in ALL {
        eventually("it would serve", || cluster.group(node).seems_served()).await;
        assert!(cluster.group(node).rests(), "node {node} was woken");
    }
    put_at(&cluster, home, "a", "2").await;
    eventually("it serves", || ALL.iter().all(|node| cluster.group(*node).seems_served())).await;
    let others: Vec<u64> = ALL.into_iter().filter(|node| *node != home).collect();
    for node in others {
        cluster.kill(node).await;
    }
    eventually("one of three is no majority", || !cluster.group(home).seems_served()).await;
}

/// A replica that a restart has made forget who laid it to rest vouches for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_nothing_is_known_of_who_has_led() {
    let (mut cluster, home) = three_at_rest().await;
    for node in ALL {
        cluster.stop(node).await;
    }
    for node in ALL {
        cluster.start(node).await;
    }
    assert!(!cluster.group(home).is_unled().await);
}

/// However long each of them may stay awake by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_groups_are_awake_than_may_be_and_all_get_their_turn() {
    const LIMIT_AWAKE: usize = 4;
    let mut cluster = Cluster::new();
    cluster.options.awake_limit = LIMIT_AWAKE;
    cluster.start(1).await;
    let multi = cluster.multi(1);
    let me = ReplicaId(1);
    let mut groups = Vec::new();
    for id in 1..=8 {
        let members = BTreeMap::from([(me, NodeId(1))]);
        let new = NewGroup { group: GroupId(id), me, members, campaign: false };
        groups.push(multi.create_group(new).await.expect("create"));
    }
    eventually("those that nobody uses rest", || multi.awake().len() <= LIMIT_AWAKE / 2).await;

    let roused = futures::future::join_all(groups.iter().map(|group| group.rouse(LIMIT))).await;
    assert!(roused.iter().filter(|roused| !**roused).count() >= groups.len() - LIMIT_AWAKE, "{roused:?}");
    assert!(roused.contains(&true) && multi.awake().len() <= LIMIT_AWAKE);
    for group in &groups {
        let served = || async { group.rouse(LIMIT).await && group.leads().is_some() };
        eventually_so("whoever comes again is served", served).await;
        assert!(multi.awake().len() <= LIMIT_AWAKE);
    }
}

/// A node that takes every request, answers none, and says which groups it is told to lay to rest.
struct Mute {
    told: mpsc::UnboundedSender<u64>,
}

#[tonic::async_trait]
impl Raft for Mute {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<wire::Answers, Status>> + Send>>;

    async fn exchange(
        &self,
        requests: Request<Streaming<wire::Requests>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (told, mut requests) = (self.told.clone(), requests.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(message)) = requests.next().await {
                for request in message.requests {
                    if matches!(request.body, Some(wire::request::Body::Rest(_))) {
                        let _ = told.send(request.group);
                    }
                }
            }
        });
        Ok(Response::new(futures::stream::pending().boxed()))
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<wire::SnapshotPiece>>,
    ) -> Result<Response<wire::SnapshotAnswer>, Status> {
        Err(Status::unavailable("it takes none"))
    }

    async fn resume_snapshot(
        &self,
        _: Request<wire::SnapshotHeader>,
    ) -> Result<Response<wire::SnapshotAnswer>, Status> {
        Err(Status::unavailable("it has none"))
    }
}

/// The group is at rest, and may be asked or woken, while its members are still being told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_there_for_others_while_a_member_is_slow_to_hear_that_it_rests() {
    let (told, mut telling) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let serve = tonic::transport::Server::builder()
        .add_service(RaftServer::new(Mute { told }))
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(async {
        let _ = serve.await;
    });

    let mut cluster = Cluster::new();
    cluster.options.rest_after = SOON;
    cluster.start(1).await;
    cluster.introduce(9, address);
    let members = BTreeMap::from([(ReplicaId(1), NodeId(1))]);
    let new = NewGroup { group: GROUP, me: ReplicaId(1), members, campaign: false };
    let group = cluster.multi(1).create_group(new).await.expect("create");
    cluster.put("a", "1").await;
    group.add_learner(ReplicaId(9), NodeId(9)).await.expect("add");

    let heard = tokio::time::timeout(LIMIT * 4, telling.recv()).await;
    assert_eq!(heard.expect("it is laid to rest"), Some(GROUP.0));
    // The answer to that is never to come.
    assert!(group.is_unled().await, "nobody else has it in his hands");
    put_at(&cluster, 1, "a", "2").await;
}
