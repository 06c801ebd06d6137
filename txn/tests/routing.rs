//! The way to a shard: what it costs when the map is old, and when nobody can be asked for a newer one.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod common;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Cable, TestCluster, bytes};
use futures::{FutureExt, Stream};
use proto::shard as pb;
use proto::shard::response::Body as Answer;
use proto::shard::shard_server::{Shard, ShardServer};
use raft::RaftOptions;
use storage::ids::NodeId;
use storage::seam::{Connecting, Connection, Network, Seams};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use txn::api::Value;
use txn::transport::{CallError, Peers};
use txn::{CoordinatorOptions, Directory, Error};

/// Reads a key, in a time in which any request has ended.
async fn read(cluster: &TestCluster, node: usize, key: &str) -> Result<Vec<Option<Value>>, Error> {
    let db = cluster.database(node);
    let keys = [bytes(key)];
    tokio::select! {
        answer = db.get_latest(&keys, &[]) => answer,
        () = cluster.seams.sleep(Duration::from_secs(30)) => panic!("a request has outlived its deadline"),
    }
}

/// A node that leads the first shard, once there is one.
async fn leader(cluster: &TestCluster) -> usize {
    for _ in 0..3_000 {
        if let Some(at) = cluster.nodes.iter().position(|node| node.leads().is_some()) {
            return at;
        }
        cluster.seams.sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody leads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_end_at_their_deadline_while_the_map_cannot_be_asked_for() {
    let cable = Cable::default();
    let seams = Seams::real().over(Arc::new(cable.clone()));
    let options =
        CoordinatorOptions { request_timeout: Duration::from_secs(3), ..CoordinatorOptions::default() };
    let cluster = TestCluster::start_over(3, options, RaftOptions::default(), seams).await;
    let follower = (leader(&cluster).await + 1) % 3;
    cluster.meta.away.send_replace(true);
    // It has not been to any shard yet, and can't learn where one is.
    assert!(read(&cluster, follower, "a").await.is_err());
    cluster.meta.away.send_replace(false);
    assert!(read(&cluster, follower, "a").await.is_ok());
    // Nobody who can be reached leads, and the map that might tell of somebody else can't be had.
    let follower = (leader(&cluster).await + 1) % 3;
    cable.set_cut(true);
    cluster.meta.away.send_replace(true);
    assert!(read(&cluster, follower, "a").await.is_err());
    cluster.stop().await;
}

/// Nodes without shards join: they are `cluster.nodes[1..]`.
async fn with_gateways(count: u64) -> TestCluster {
    let options =
        CoordinatorOptions { request_timeout: Duration::from_secs(3), ..CoordinatorOptions::default() };
    let mut cluster = TestCluster::start_with(1, options.clone()).await;
    for n in 2..2 + count {
        let node = common::start_node(NodeId(n), &cluster.meta, &cluster.seams, &options).await;
        cluster.nodes.push(node);
    }
    leader(&cluster).await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_request_goes_by_the_map_at_hand() {
    let cluster = with_gateways(2).await;
    let old = cluster.meta.lookup(b"a").await.unwrap();
    *cluster.meta.at_hand.lock() = Some(old.clone());
    cluster.meta.away.send_replace(true);
    assert_eq!(read(&cluster, 1, "a").await.unwrap(), [None::<Value>]);
    cluster.meta.away.send_replace(false);
    // What is at hand may be old.
    cluster.database(0).split(&[bytes("m")], false).await.unwrap();
    assert_ne!(cluster.meta.lookup(b"a").await.unwrap(), old);
    for key in ["z", "a"] {
        assert_eq!(read(&cluster, 2, key).await.unwrap(), [None::<Value>]);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_map_costs_one_redirect() {
    let cluster = with_gateways(1).await;
    let redirects = || cluster.nodes[1].cluster.redirects();
    assert_eq!(read(&cluster, 1, "z").await.unwrap(), [None::<Value>]);
    assert_eq!(redirects(), 0);
    cluster.database(0).split(&[bytes("m")], false).await.unwrap();
    for key in ["z", "a", "z"] {
        assert_eq!(read(&cluster, 1, key).await.unwrap(), [None::<Value>]);
        assert_eq!(redirects(), 1, "after {key}");
    }
    cluster.stop().await;
}

/// A network in which whoever wants to connect is refused, or not even answered; counts them.
struct Silence {
    refuses: bool,
    asked: AtomicU64,
}

impl Silence {
    fn new(refuses: bool) -> Arc<Self> {
        Arc::new(Self { refuses, asked: AtomicU64::new(0) })
    }
}

impl Network for Silence {
    fn connect(&self, _: String) -> Connecting {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.refuses {
            true => Box::pin(async { Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)) }),
            false => Box::pin(std::future::pending()),
        }
    }
}

/// The way from outside to a cluster of one node, over a network.
async fn peers(network: Arc<Silence>) -> (TestCluster, Peers) {
    let cluster = TestCluster::start(1).await;
    let peers = Peers::new(cluster.meta.clone(), cluster.seams.clone().over(network));
    (cluster, peers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_for_a_connection_share_its_failure() {
    let network = Silence::new(false);
    let (cluster, peers) = peers(network.clone()).await;
    let answers = futures::future::join_all((0..20).map(|_| peers.call(NodeId(1), Default::default()))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(CallError::NotSent))), "{answers:?}");
    assert_eq!(network.asked.load(Ordering::SeqCst), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_cannot_be_reached_are_left_alone_for_a_while() {
    let network = Silence::new(true);
    let (cluster, peers) = peers(network.clone()).await;
    for _ in 0..1_000 {
        let answer = peers.call(NodeId(1), Default::default()).await;
        assert!(matches!(answer, Err(CallError::NotSent)), "{answer:?}");
    }
    // (In twenty seconds it may be tried fifty times.)
    let asked = network.asked.load(Ordering::SeqCst);
    assert!((1..100).contains(&asked), "{asked} times");
    cluster.stop().await;
}

/// A node that takes connections, streams and requests. Whether it answers them is up to the test.
#[derive(Default)]
struct Mute {
    is_mute: AtomicBool,
    asked: AtomicU64,
}

struct Listening(Arc<Mute>);

#[tonic::async_trait]
impl Shard for Listening {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<pb::Responses, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::Requests>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let node = self.0.clone();
        let answers = futures::stream::unfold(request.into_inner(), move |mut incoming| {
            let node = node.clone();
            async move {
                loop {
                    let requests = incoming.message().await.ok()??.requests;
                    node.asked.fetch_add(requests.len() as u64, Ordering::SeqCst);
                    if node.is_mute.load(Ordering::SeqCst) {
                        continue;
                    }
                    let answer =
                        |request: pb::Request| pb::Response { id: request.id, body: Some(Answer::Done(0)) };
                    let responses = requests.into_iter().map(answer).collect();
                    return Some((Ok::<_, Status>(pb::Responses { responses }), incoming));
                }
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Whoever is called, this one answers.
struct Always(String);

impl Network for Always {
    fn connect(&self, _: String) -> Connecting {
        let address = self.0.clone();
        Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Connection>) })
    }
}

async fn listening() -> (Arc<Mute>, Arc<Always>) {
    let node = Arc::new(Mute::default());
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let way = Arc::new(Always(port.local_addr().unwrap().to_string()));
    let service = ShardServer::new(Listening(node.clone()));
    Seams::real().spawn("a mute node", async move {
        let router = tonic::transport::Server::builder().add_service(service);
        router.serve_with_incoming(TcpIncoming::from(port)).await.unwrap();
    });
    (node, way)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_takes_requests_and_answers_none_is_left_alone_until_it_does() {
    let cluster = TestCluster::start(1).await;
    let (node, way) = listening().await;
    let peers = Peers::new(cluster.meta.clone(), cluster.seams.clone().over(way));
    let call = || peers.call(NodeId(1), Default::default());
    // (Whoever connects, or asks whether it is there, may find a busy machine too slow.)
    let answered = async || {
        for _ in 0..6_000 {
            match call().await {
                Ok(_) => return,
                Err(CallError::NotSent) => cluster.seams.sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
        panic!("it answers, and is not asked");
    };
    answered().await;
    // It answers, if not these: their shard may stand still.
    for _ in 0..20 {
        (0..3).for_each(|_| peers.gave_up(NodeId(1)));
        answered().await;
    }
    node.is_mute.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let asked = node.asked.load(Ordering::SeqCst);
        let mut lost = std::pin::pin!(call());
        while node.asked.load(Ordering::SeqCst) == asked {
            assert!(lost.as_mut().now_or_never().is_none());
            cluster.seams.sleep(Duration::from_millis(1)).await;
        }
        peers.gave_up(NodeId(1));
    }
    // One asks whether it is there, and the others don't wait for each other.
    let asked = node.asked.load(Ordering::SeqCst);
    for _ in 0..1_000 {
        let answer = call().await;
        assert!(matches!(answer, Err(CallError::NotSent)), "{answer:?}");
    }
    // (In twenty seconds it may be asked fifty times.)
    let tries = node.asked.load(Ordering::SeqCst) - asked;
    assert!((1..100).contains(&tries), "{tries} times");
    node.is_mute.store(false, Ordering::SeqCst);
    let answers = async {
        while call().await.is_err() {
            cluster.seams.sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = answers => {}
        () = cluster.seams.sleep(Duration::from_secs(30)) => panic!("it answers, and is not asked"),
    }
    cluster.stop().await;
}
