//! A cluster in one process: real stores, real Raft, real streams between the nodes; only the meta-group is replaced by
//! a counter and a map.

#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "test support, shared by several test binaries"
)]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use raft::{AddressBook, MultiRaft, RaftOptions};
use storage::ids::{Epoch, GroupId, KeyRange, NodeId, ReplicaId, Timestamp, TxnId};
use storage::seam::{Connecting, Connection, Network, Seams};
use storage::{Store, StoreOptions};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use txn::api::{BeginOptions, Database, Expect, NodeInfo, Write};
use txn::shard::Leadership;
use txn::{
    Cluster, CoordinatorOptions, Directory, Edge, Error, Oracle, Registry, ShardDescriptor, ShardFactory,
    ShardServer, ShardService,
};

/// The shard that holds all keys at first.
pub const FIRST: GroupId = GroupId(2);

/// The counter and the map.
pub struct Meta {
    clock: AtomicU64,
    /// How often somebody has asked what time it is.
    pub asked: AtomicU64,
    /// Whoever asks waits as long as this is so.
    pub stopped: watch::Sender<bool>,
    /// Whoever looks a shard up waits as long as this is so.
    pub away: watch::Sender<bool>,
    /// What all have of the map without asking.
    pub at_hand: Mutex<Option<ShardDescriptor>>,
    groups: AtomicU64,
    shards: Mutex<BTreeMap<Bytes, ShardDescriptor>>,
    addresses: Mutex<HashMap<NodeId, String>>,
    /// The oldest snapshot that some node had open lately.
    pub held: Mutex<Option<Timestamp>>,
    /// What garbage collection is told.
    pub safe_point: AtomicU64,
    /// Whether commits may be asynchronous.
    pub asynchronous: AtomicBool,
    /// How far behind the present timestamps are closed, in timestamps. 0: not at all.
    pub closed_behind: AtomicU64,
    /// The timings of consensus.
    raft: RaftOptions,
}

impl Meta {
    fn new(raft: RaftOptions) -> Arc<Self> {
        Arc::new(Self {
            clock: AtomicU64::new(1 << 30),
            asked: AtomicU64::new(0),
            stopped: watch::Sender::new(false),
            away: watch::Sender::new(false),
            at_hand: Mutex::default(),
            groups: AtomicU64::new(100),
            shards: Mutex::default(),
            addresses: Mutex::default(),
            held: Mutex::default(),
            safe_point: AtomicU64::new(0),
            asynchronous: AtomicBool::new(false),
            closed_behind: AtomicU64::new(0),
            raft,
        })
    }

    fn update(&self, descriptor: &ShardDescriptor) {
        let mut shards = self.shards.lock();
        let known =
            shards.values().find(|d| d.group == descriptor.group).map(|d| (d.range.start.clone(), d.epoch));
        match known {
            Some((_, epoch)) if epoch >= descriptor.epoch => return,
            Some((start, _)) => {
                shards.remove(&start);
            }
            None => {}
        }
        shards.insert(descriptor.range.start.clone(), descriptor.clone());
    }
}

#[async_trait]
impl Oracle for Meta {
    async fn timestamp(&self) -> Result<Timestamp, Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut stopped = self.stopped.subscribe();
        // (The sender is this one.)
        let _ = stopped.wait_for(|stopped| !*stopped).await;
        Ok(Timestamp(self.clock.fetch_add(1, Ordering::SeqCst)))
    }
}

impl AddressBook for Meta {
    fn address(&self, node: NodeId) -> Option<String> {
        self.addresses.lock().get(&node).cloned()
    }
}

#[async_trait]
impl Directory for Meta {
    async fn lookup(&self, key: &[u8]) -> Result<ShardDescriptor, Error> {
        let mut away = self.away.subscribe();
        // (The sender is this one.)
        let _ = away.wait_for(|away| !*away).await;
        let found = self.shards.lock().values().find(|d| d.range.contains(key)).cloned();
        found.ok_or_else(|| Error::Unavailable("no such shard".into()))
    }

    fn known(&self, key: &[u8]) -> Option<ShardDescriptor> {
        self.at_hand.lock().clone().filter(|shard| shard.range.contains(key))
    }

    async fn overlapping(&self, range: &KeyRange) -> Result<Vec<ShardDescriptor>, Error> {
        Ok(self.shards.lock().values().filter(|d| d.range.overlaps(range)).cloned().collect())
    }

    fn learn(&self, _: &ShardDescriptor) {}

    fn leader(&self, _: GroupId) -> Option<NodeId> {
        None
    }

    fn address(&self, node: NodeId) -> Option<String> {
        AddressBook::address(self, node)
    }

    async fn allocate_groups(&self, count: usize) -> Result<Vec<GroupId>, Error> {
        let first = self.groups.fetch_add(count as u64, Ordering::SeqCst);
        Ok((first..first + count as u64).map(GroupId).collect())
    }

    async fn publish(&self, descriptors: &[ShardDescriptor]) -> Result<(), Error> {
        descriptors.iter().for_each(|d| self.update(d));
        Ok(())
    }

    async fn spread_leaders(&self, _: &[GroupId]) -> Result<(), Error> {
        Ok(())
    }

    async fn report_waits(&self, _: &[Edge]) -> Result<Vec<TxnId>, Error> {
        Ok(Vec::new())
    }

    fn commits_asynchronously(&self) -> bool {
        self.asynchronous.load(Ordering::SeqCst)
    }

    fn closed_lag(&self) -> Duration {
        // (Rounded up: a millisecond is 2^18 timestamps.)
        Duration::from_nanos(self.closed_behind.load(Ordering::SeqCst) * 4)
    }

    fn hold(&self, oldest: Option<Timestamp>) {
        // Of all nodes, those that have something open.
        if oldest.is_some() {
            *self.held.lock() = oldest;
        }
    }

    fn safe_point(&self) -> Timestamp {
        Timestamp(self.safe_point.load(Ordering::SeqCst))
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        Ok(Vec::new())
    }
}

pub struct Node {
    pub id: NodeId,
    pub multi: Arc<MultiRaft>,
    pub server: Arc<ShardServer>,
    pub cluster: Cluster,
    pub store: Arc<Store>,
    dir: tempfile::TempDir,
}

impl Node {
    /// Its leadership of the first shard.
    pub fn leads(&self) -> Option<Arc<Leadership>> {
        self.server.registry().get(FIRST)?.leadership()
    }
}

pub struct TestCluster {
    pub meta: Arc<Meta>,
    pub nodes: Vec<Node>,
    pub seams: Seams,
}

impl TestCluster {
    /// `nodes` nodes with one shard that holds all keys.
    pub async fn start(nodes: u64) -> Self {
        Self::start_with(nodes, CoordinatorOptions::default()).await
    }

    pub async fn start_with(nodes: u64, options: CoordinatorOptions) -> Self {
        Self::start_resting(nodes, options, RaftOptions::default().rest_after).await
    }

    /// The same, with groups that go to rest after that time.
    pub async fn start_resting(nodes: u64, options: CoordinatorOptions, rest_after: Duration) -> Self {
        let raft = RaftOptions { rest_after, ..RaftOptions::default() };
        Self::start_over(nodes, options, raft, Seams::real()).await
    }

    /// The same, with timings and connections of the caller's choosing.
    pub async fn start_over(
        nodes: u64,
        options: CoordinatorOptions,
        raft: RaftOptions,
        seams: Seams,
    ) -> Self {
        let meta = Meta::new(raft);
        let replicas: BTreeMap<ReplicaId, NodeId> = (1..=nodes).map(|n| (ReplicaId(n), NodeId(n))).collect();
        let group = FIRST;
        let shard =
            ShardDescriptor { group, range: KeyRange::all(), epoch: Epoch(1), replicas: replicas.clone() };
        meta.update(&shard);
        let mut started = Vec::new();
        for n in 1..=nodes {
            started.push(start_node(NodeId(n), &meta, &seams, &options).await);
        }
        for node in &started {
            txn::shard::found(&node.store.engine(), &shard).unwrap();
            let me = ReplicaId(node.id.0);
            node.multi
                .create_group(raft::NewGroup {
                    group,
                    me,
                    members: replicas.clone(),
                    campaign: node.id.0 == 1,
                })
                .await
                .unwrap();
        }
        Self { meta, nodes: started, seams }
    }

    pub fn database(&self, node: usize) -> Arc<dyn Database> {
        Arc::new(self.nodes[node].cluster.clone())
    }

    pub fn multis(&self) -> Vec<Arc<MultiRaft>> {
        self.nodes.iter().map(|node| node.multi.clone()).collect()
    }

    /// Waits until something is so.
    pub async fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..3_000 {
            if condition() {
                return;
            }
            self.seams.sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    pub async fn stop(self) {
        for node in &self.nodes {
            node.multi.shutdown().await;
        }
    }
}

/// A node without replicas, for now.
pub async fn start_node(id: NodeId, meta: &Arc<Meta>, seams: &Seams, options: &CoordinatorOptions) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default(), seams.clone()).unwrap();
    store.set_identity(storage::store::Identity { cluster_id: 7, node_id: id }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    meta.addresses.lock().insert(id, listener.local_addr().unwrap().to_string());
    let (registry, births) = Registry::new(id);
    let factory = Arc::new(ShardFactory::new(registry.clone(), seams.clone()));
    let raft_options = meta.raft.clone();
    let multi =
        MultiRaft::start(raft_options, store.clone(), factory, meta.clone(), seams.clone()).await.unwrap();
    let server = ShardServer::start(registry, births, multi.clone(), meta.clone(), seams.clone());
    let router = tonic::transport::Server::builder()
        .add_service(multi.service())
        .add_service(ShardService::new(server.clone()).into_service());
    seams.spawn("serve", async move {
        router.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))).await.unwrap();
    });
    let cluster = Cluster::new(server.clone(), meta.clone(), meta.clone(), seams.clone(), options.clone());
    Node { id, multi, server, cluster, store, dir }
}

pub fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

/// Writes one key, or removes it, in a transaction of its own.
pub async fn set(db: &dyn Database, key: &str, value: Option<&str>) -> Timestamp {
    let txn = db.begin(BeginOptions::default());
    let write = Write { key: bytes(key), value: value.map(bytes), expect: Expect::Any };
    txn.write(vec![write], &[]).await.unwrap();
    txn.commit().await.unwrap()
}

/// A request to the first shard as it is before any split.
pub fn request(ask: Ask) -> pb::Request {
    pb::Request { group: FIRST.0, epoch: 1, timeout_ms: 5_000, body: Some(ask), ..pb::Request::default() }
}

/// A prewrite of one key by a transaction whose coordinator is nobody.
pub fn orphan_prewrite(key: &str, value: &str, started: Timestamp) -> Ask {
    Ask::Prewrite(pb::Prewrite {
        txn: 77_u128.to_be_bytes().to_vec().into(),
        primary: bytes(key),
        started: started.0,
        writes: vec![pb::Write { key: bytes(key), value: Some(bytes(value)), ..pb::Write::default() }],
        round: 1,
        ..pb::Prewrite::default()
    })
}

/// TCP between all nodes, which can be cut: from then on nothing passes.
#[derive(Clone, Default)]
pub struct Cable(Arc<AtomicBool>);

impl Cable {
    pub fn set_cut(&self, cut: bool) {
        self.0.store(cut, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl Network for Cable {
    fn connect(&self, address: String) -> Connecting {
        let cable = self.clone();
        Box::pin(async move {
            cable.check()?;
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(Strand { stream, cable }) as Box<dyn Connection>)
        })
    }
}

/// One connection.
struct Strand {
    stream: TcpStream,
    cable: Cable,
}

impl AsyncRead for Strand {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        // Afterwards: what has come meanwhile has not passed.
        self.cable.check()?;
        read
    }
}

impl AsyncWrite for Strand {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.cable.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cable.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
