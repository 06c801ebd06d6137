//! A node without its ports, and without SQL: raft, the meta-group and transactions, put together.
//!
//! There is one assembly and two users: [`crate::server`], and the simulator, whose nodes differ in their seams only.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::Stream;
use meta::consistency::{Consistency, Periodic};
use meta::control::NodeControl;
use meta::reporter::{Local, Reporter};
use meta::server::MetaService;
use meta::{Leftovers, MetaClient, MetaReplica, MetaServer, absorbed, reconcile};
use prost::Message;
use proto::admin::node_control_server::NodeControlServer;
use proto::consistency::consistency_server::ConsistencyServer;
use proto::consistency::inspection_server::InspectionServer;
use proto::meta as pb;
use proto::meta::meta_server::MetaServer as MetaRpc;
use proto::raft::raft_server::RaftServer;
use proto::shard::shard_server::ShardServer as ShardRpc;
use raft::{Expected, Fatal, MultiRaft, RaftOptions, StateMachine, StateMachineFactory};
use storage::ids::{GroupId, META_GROUP, NodeId, ReplicaId};
use storage::seam::Seams;
use storage::{Cf, Engine, Store};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpIncoming};
use tracing::warn;
use txn::api::Database;
use txn::{Cluster, CoordinatorOptions, Registry, ShardDescriptor, ShardFactory, ShardServer, ShardService};

use crate::adopt::adopt_orphans;
use crate::bootstrap::{self, Place, Rooms};
use crate::exit::Failure;
use crate::local::LocalFiles;
use crate::rendezvous::Rendezvous;
use crate::service::admin::{Admin, InitWish, Membership};
use crate::service::inspection::Inspection;
use crate::service::late::Late;
use crate::service::readiness::Readiness;

/// How often a changed map is written to the store.
const REMEMBER_EVERY: Duration = Duration::from_millis(100);

/// What answers other nodes. It is served before there is anything behind it.
#[derive(Clone)]
pub struct Services {
    readiness: Arc<Readiness>,
    membership: Arc<OnceLock<Membership>>,
    raft: Late<RaftServer<raft::Endpoint>>,
    meta: Late<MetaRpc<MetaService>>,
    control: Late<NodeControlServer<NodeControl>>,
    consistency: Late<ConsistencyServer<Consistency>>,
    shards: Late<ShardRpc<ShardService>>,
    /// For whoever puts SQL on top.
    pub inspection: Late<InspectionServer<Inspection>>,
}

impl Services {
    /// With nothing behind them.
    pub fn new(readiness: Arc<Readiness>) -> Self {
        let membership = Arc::new(OnceLock::new());
        let (raft, meta, control, shards) = (Late::new(), Late::new(), Late::new(), Late::new());
        let (consistency, inspection) = (Late::new(), Late::new());
        Self { readiness, membership, raft, meta, control, consistency, shards, inspection }
    }

    /// Serves connections until `closing` is cancelled. `wish` takes requests to initialise.
    pub async fn serve<C>(
        self,
        incoming: impl Stream<Item = std::io::Result<C>>,
        wish: mpsc::Sender<InitWish>,
        closing: CancellationToken,
    ) -> Result<(), tonic::transport::Error>
    where
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        tonic::transport::Server::builder()
            .http2_adaptive_window(Some(true))
            .add_service(Admin::service(self.membership, self.readiness, wish))
            .add_service(self.raft)
            .add_service(self.meta)
            .add_service(self.control)
            .add_service(self.consistency)
            .add_service(self.shards)
            .add_service(self.inspection)
            .serve_with_incoming_shutdown(incoming, closing.cancelled_owned())
            .await
    }
}

/// The connections that arrive at a node's RPC port. Their small answers must not wait for the peer's acknowledgements of what
/// was sent before (Nagle's algorithm with delayed acknowledgements: 40 ms each time); the server's own setting for that
/// counts only for connections that it accepts itself.
pub fn connections(port: TcpListener) -> TcpIncoming {
    TcpIncoming::from(port).with_nodelay(Some(true))
}

/// What a node knows of itself, asked at each report.
pub type Facts = Arc<dyn Fn() -> pb::NodeFacts + Send + Sync>;

/// What a node is made from.
pub struct Parts {
    /// Its store, which has an identity.
    pub store: Arc<Store>,
    /// Its own files.
    pub files: LocalFiles,
    /// Whom it was told to join.
    pub join: Vec<String>,
    /// Where it is reached.
    pub addresses: pb::Addresses,
    /// Where it stands, and its disk.
    pub facts: Facts,
    /// What each shard is said to take on the disk; `None`: what it does take.
    pub shard_bytes: Option<u64>,
    /// What it answers others with.
    pub services: Services,
    /// How its groups behave.
    pub raft: RaftOptions,
    /// Ends what runs in the background.
    pub closing: CancellationToken,
    /// Time, tasks, randomness, the network.
    pub seams: Seams,
}

/// What is made.
pub struct Assembled {
    /// The replicas.
    pub multi: Arc<MultiRaft>,
    /// The way to the meta-group.
    pub meta: Arc<MetaClient>,
    /// The cluster's rows.
    pub database: Arc<dyn Database>,
    /// The shards of this node.
    pub shards: Arc<ShardServer>,
}

/// Puts a node together and has it take part.
pub async fn assemble(place: Place, parts: Parts) -> Result<Assembled, Failure> {
    let Parts { store, files, join, addresses, facts, shard_bytes, services, raft, closing, seams } = parts;
    let identity = place.identity;

    // 1. raft, with the meta-group's and the shards' state machines.
    let meta_client = MetaClient::new(join.clone(), seams.clone());
    let map = place.map.or_else(|| remembered(&files));
    let can_do_without_meta = map.as_ref().is_some_and(|map| is_led_elsewhere(map, identity.node_id));
    if let Some(map) = map {
        meta_client.learn_map(map);
    }
    let meta_replica = MetaReplica::new();
    let (registry, births) = Registry::new(identity.node_id);
    let factory = Factory {
        meta: meta_replica.clone(),
        shards: ShardFactory::new(registry.clone(), seams.clone()),
        can_do_without_meta,
    };
    let book = meta_client.clone();
    let multi = MultiRaft::start(raft, store.clone(), Arc::new(factory), book, seams.clone());
    let multi = multi.await.map_err(Failure::other)?;
    services.raft.set(multi.service());

    // 2. The meta-group: service, client, placement, heartbeat.
    let meta_server = MetaServer::new(identity.node_id, meta_replica, multi.clone(), seams.clone());
    meta_client.attach(meta_server.clone());
    if let Some(founding) = place.founding {
        let rooms = Rooms {
            files: &files,
            addresses: &addresses,
            multi: &multi,
            meta: &meta_server,
            engine: &store.engine(),
            seams: &seams,
        };
        bootstrap::carry_out(founding, identity.cluster_id, rooms).await?;
    }
    services.meta.set(meta_server.service());
    let leftovers = Leftovers::new(identity.cluster_id, multi.clone(), meta_client.clone(), seams.clone());
    seams.spawn("leftovers", leftovers.clone().run(closing.clone()));
    let consistency =
        Consistency::service(identity.cluster_id, multi.clone(), meta_client.clone(), seams.clone());
    services.consistency.set(consistency);
    let periodic =
        Periodic::new(identity.cluster_id, meta_server.clone(), meta_client.clone(), seams.clone());
    seams.spawn("compare periodically", periodic.run(closing.clone()));
    let _ = services.membership.set(Membership {
        cluster_id: identity.cluster_id,
        node: identity.node_id,
        addresses: addresses.clone(),
        meta: meta_client.clone(),
    });
    seams.spawn("reconcile", reconcile::run(meta_server.clone(), closing.clone()));
    let meeting = Rendezvous {
        cluster_id: identity.cluster_id,
        node: identity.node_id,
        targets: join,
        client: meta_client.clone(),
        seams: seams.clone(),
    };
    seams.spawn("rendezvous", meeting.run(closing.clone()));
    let reporter = Reporter {
        cluster_id: identity.cluster_id,
        node: identity.node_id,
        addresses,
        multi: multi.clone(),
        local: Arc::new(Reported { registry: registry.clone(), facts, shard_bytes }),
        client: meta_client.clone(),
        seams: seams.clone(),
    };
    seams.spawn("reporter", reporter.run(closing.clone()));
    seams.spawn("remember map", remember(meta_client.clone(), files, seams.clone(), closing.clone()));

    // 3. Transactions over the shards of this node and of the others.
    let (oracle, directory) = (meta_client.clone(), meta_client.clone());
    let shards = ShardServer::start(registry, births, multi.clone(), oracle.clone(), seams.clone());
    services.shards.set(ShardService::new(shards.clone()).into_service());
    let (for_control, of_node) = (multi.clone(), meta_client.clone());
    let control = NodeControl::service(identity.cluster_id, for_control, leftovers, shards.clone(), of_node);
    services.control.set(control);
    let (for_shards, for_client) = (shards.clone(), meta_client.clone());
    seams.spawn(
        "absorbed",
        absorbed::run(for_shards, multi.clone(), for_client, seams.clone(), closing.clone()),
    );
    adopt_orphans(&multi, shards.registry().clone(), meta_client.clone(), seams.clone());
    let coordinator = CoordinatorOptions::default();
    let cluster = Cluster::new(shards.clone(), oracle, directory, seams, coordinator);
    Ok(Assembled { multi, meta: meta_client, database: Arc::new(cluster), shards })
}

/// Who means what by a group's commands.
struct Factory {
    meta: Arc<MetaReplica>,
    shards: ShardFactory,
    /// The meta-group has other members.
    can_do_without_meta: bool,
}

impl StateMachineFactory for Factory {
    fn open(
        &self,
        group: GroupId,
        replica: ReplicaId,
        engine: Arc<Engine>,
    ) -> Result<Arc<dyn StateMachine>, Fatal> {
        match group {
            META_GROUP => self.meta.open(engine).map_err(Fatal::new),
            _ => self.shards.open(group, replica, engine),
        }
    }

    fn expected(&self, engine: &Arc<Engine>) -> Result<Vec<Expected>, Fatal> {
        self.shards.expected(engine)
    }

    /// The meta-group, where nobody else is known to have it: such a node would start, and wait for itself.
    fn is_vital(&self, group: GroupId) -> bool {
        group == META_GROUP && !self.can_do_without_meta
    }
}

/// What is reported to the meta-group.
struct Reported {
    registry: Arc<Registry>,
    facts: Facts,
    shard_bytes: Option<u64>,
}

impl Local for Reported {
    fn descriptor(&self, group: GroupId) -> Option<ShardDescriptor> {
        self.registry.get(group)?.descriptor().map(|descriptor| (*descriptor).clone())
    }

    fn bytes(&self, group: GroupId) -> Option<u64> {
        let shard = self.registry.get(group)?;
        let range = shard.descriptor()?.range.clone();
        if self.shard_bytes.is_some() {
            return self.shard_bytes;
        }
        let families = [Cf::Data, Cf::Intents];
        Some(families.map(|family| shard.engine().approximate_bytes(family, &range)).iter().sum())
    }

    fn frozen(&self, group: GroupId) -> Option<(GroupId, u64)> {
        let frozen = self.registry.get(group)?.frozen()?;
        Some((GroupId(frozen.into), frozen.into_epoch))
    }

    fn requests(&self, group: GroupId) -> (u64, u64) {
        self.registry.get(group).map_or((0, 0), |shard| shard.traffic().counted())
    }

    fn cpu(&self, group: GroupId) -> Duration {
        self.registry.get(group).map_or(Duration::ZERO, |shard| shard.traffic().cpu())
    }

    fn facts(&self) -> pb::NodeFacts {
        (self.facts)()
    }
}

/// Whether others than this node are members of the meta-group, by what is known of it: then this node can ask them, whatever is
/// wrong with its own replica, and whether or not it still has one.
fn is_led_elsewhere(map: &pb::ClusterMap, me: NodeId) -> bool {
    map.meta_members.iter().any(|member| member.node != me.0)
}

/// The other nodes, as of the last run. A file that doesn't read is as good as none: the join list is left.
fn remembered(files: &LocalFiles) -> Option<pb::ClusterMap> {
    let encoded = files.cluster_map().ok().flatten()?;
    pb::ClusterMap::decode(&encoded[..]).ok()
}

/// Keeps the file of [`remembered`] up to date.
async fn remember(client: Arc<MetaClient>, files: LocalFiles, seams: Seams, stop: CancellationToken) {
    let mut written = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = seams.beat(REMEMBER_EVERY) => {}
        }
        let mut map = client.remembered_map();
        // Who lives is not worth remembering.
        map.nodes.iter_mut().for_each(|node| node.alive = true);
        let encoded = map.encode_to_vec();
        if encoded != written && !map.nodes.is_empty() {
            let (files, bytes) = (files.clone(), encoded.clone());
            let remember = move || files.remember_cluster_map(&bytes);
            match seams.blocking("remember-map", remember).await {
                Ok(Ok(())) => written = encoded,
                Ok(Err(failure)) => warn!("{failure}"),
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use proto::common::Replica;

    use super::*;

    #[test]
    fn a_node_can_do_without_the_meta_group_where_others_have_it() {
        let known = |nodes: &[u64]| {
            let member = |node: &u64| Replica { node: *node, ..Default::default() };
            let map =
                pb::ClusterMap { meta_members: nodes.iter().map(member).collect(), ..Default::default() };
            is_led_elsewhere(&map, NodeId(2))
        };
        assert!(!known(&[]), "nobody has told it anything");
        assert!(!known(&[2]));
        assert!(known(&[1, 2, 3]));
        assert!(known(&[1]), "its own replica was removed, and it has yet to hear of it");
    }

    #[tokio::test]
    async fn small_answers_are_sent_at_once() {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = port.local_addr().unwrap();
        let (_near, far) = tokio::join!(tokio::net::TcpStream::connect(address), async {
            super::connections(port).next().await.unwrap().unwrap()
        });
        assert!(far.nodelay().unwrap(), "an accepted connection holds small answers back");
    }
}
