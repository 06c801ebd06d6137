//! A node's side: finds the meta-group's leader, and is the transaction layer's `Oracle` and `Directory`.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use proto::meta as pb;
use proto::meta::meta_client::MetaClient as Rpc;
use storage::ids::{Epoch, GroupId, KeyRange, NodeId, ReplicaId, Timestamp, TxnId};
use storage::seam::Seams;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;
use tracing::{info, warn};
use txn::api::{NodeInfo, OperationInfo, SettingInfo};
use txn::{Directory, Edge, Oracle, ShardDescriptor};

use crate::oracle::DRAW_MAX;
use crate::rpc::{Channels, within};
use crate::server::MetaServer;
use crate::settings::{self, Setting, Settings};
use crate::shard_map::ShardMap;
use crate::{Error, MESSAGE_BYTES_MAX};

/// How long a call may take in all, with its retries.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long one attempt may take before another member is asked.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(700);
/// Pauses between attempts, doubled from the first to the last.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(60);
/// At most this many callers wait for a timestamp.
const ORACLE_QUEUE_MAX: usize = 65_536;
/// Between two log lines while no member of a cluster answers.
const JOIN_LOG_EVERY: Duration = Duration::from_secs(5);
/// Between two rounds over the join targets.
const JOIN_PAUSE: Duration = Duration::from_millis(100);

type Waiter = oneshot::Sender<Result<Timestamp, txn::Error>>;

/// Whom an attempt asks.
pub(crate) enum Target {
    /// This node leads.
    Local(Arc<MetaServer>),
    Remote(Box<Rpc<Channel>>),
}

/// What is known of the cluster here. All of it may be stale.
#[derive(Default)]
struct Cache {
    version: u64,
    nodes: BTreeMap<NodeId, pb::MapNode>,
    members: Vec<NodeId>,
    shards: ShardMap,
    leaders: HashMap<GroupId, NodeId>,
    leaders_version: u64,
}

impl Cache {
    fn node_at(&self, address: &str) -> Option<NodeId> {
        let is = |node: &pb::MapNode| node.addresses.as_ref().is_some_and(|at| at.rpc == address);
        self.nodes.iter().find(|(_, node)| is(node)).map(|(id, _)| *id)
    }
}

/// What the meta-group's leader wants of this node's next report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// It should come soon: there is work.
    pub soon: bool,
    /// It should tell of the groups at rest.
    pub resting: bool,
}

/// See the module. Cheap to share; made once per node.
pub struct MetaClient {
    seams: Seams,
    channels: Channels,
    /// Addresses to begin with: of the join list, and of nodes known from an earlier run.
    seeds: Vec<String>,
    local: OnceLock<Arc<MetaServer>>,
    cache: RwLock<Cache>,
    /// The RPC address of the leader, as far as is known.
    leader: Mutex<Option<String>>,
    last_contact: Mutex<Option<Instant>>,
    /// The oldest snapshot that is open here; 0: none.
    oldest_snapshot: AtomicU64,
    safe_point: AtomicU64,
    async_commit: AtomicBool,
    closed_lag_ms: AtomicU64,
    /// The newest timestamp that was drawn here, and when it was asked for.
    recent: Mutex<Option<(Timestamp, Instant)>>,
    snapshot_rate: AtomicU64,
    quorum_reads: AtomicBool,
    log_compression: AtomicBool,
    refreshing: tokio::sync::Mutex<()>,
    refreshes_begun: AtomicU64,
    waiters: mpsc::Sender<Waiter>,
}

impl MetaClient {
    /// A client that knows the addresses in `seeds`.
    pub fn new(seeds: Vec<String>, seams: Seams) -> Arc<Self> {
        let (waiters, queue) = mpsc::channel(ORACLE_QUEUE_MAX);
        let client = Arc::new(Self {
            seams: seams.clone(),
            channels: Channels::new(&seams),
            seeds,
            local: OnceLock::new(),
            cache: RwLock::default(),
            leader: Mutex::new(None),
            last_contact: Mutex::new(None),
            oldest_snapshot: AtomicU64::new(0),
            safe_point: AtomicU64::new(0),
            async_commit: AtomicBool::new(false),
            closed_lag_ms: AtomicU64::new(0),
            recent: Mutex::new(None),
            snapshot_rate: AtomicU64::new(Settings::default().snapshot_rate()),
            // Until the setting is known, no lease is relied upon.
            quorum_reads: AtomicBool::new(true),
            // … and nothing is compressed: there may be members that don't understand it.
            log_compression: AtomicBool::new(false),
            refreshing: tokio::sync::Mutex::new(()),
            refreshes_begun: AtomicU64::new(0),
            waiters,
        });
        let weak = Arc::downgrade(&client);
        seams.spawn("oracle client", async move { draw_for_all(weak, queue).await });
        client
    }

    /// From now on, what this node leads is asked without a message, and whoever asks here for what it doesn't lead is told what is
    /// known here of who does.
    pub fn attach(self: &Arc<Self>, local: Arc<MetaServer>) {
        local.meet(self);
        // A second server on one node would be a defect of the assembly; the first one stays.
        let _ = self.local.set(local);
    }

    /// Whom others are to ask, as far as is known here.
    pub(crate) fn redirect(&self) -> pb::Redirect {
        let leader = self.leader.lock().clone().unwrap_or_default();
        let cache = self.cache.read();
        let address = |node: &NodeId| Some(cache.nodes.get(node)?.addresses.as_ref()?.rpc.clone());
        pb::Redirect { leader, members: cache.members.iter().filter_map(address).collect() }
    }

    /// When the leader last answered.
    pub fn last_contact(&self) -> Option<Instant> {
        *self.last_contact.lock()
    }

    /// How many bytes of snapshots a node may send in a second.
    pub fn snapshot_rate(&self) -> u64 {
        self.snapshot_rate.load(Ordering::Relaxed)
    }

    /// Whether a majority confirms each read.
    pub fn quorum_reads(&self) -> bool {
        self.quorum_reads.load(Ordering::Relaxed)
    }

    /// Whether large commands are compressed in the log.
    pub fn log_compression(&self) -> bool {
        self.log_compression.load(Ordering::Relaxed)
    }

    /// The version of the map that is known here.
    pub fn map_version(&self) -> u64 {
        self.cache.read().version
    }

    /// Takes in what a member said of the cluster (or what was remembered from an earlier run).
    pub fn learn_map(&self, map: pb::ClusterMap) {
        let mut cache = self.cache.write();
        for shard in map.shards {
            match ShardDescriptor::try_from(shard) {
                Ok(shard) => {
                    cache.shards.learn(shard);
                }
                Err(error) => warn!("the meta-group sent a shard that makes no sense: {error}"),
            }
        }
        if map.version < cache.version {
            return;
        }
        cache.version = map.version;
        if let Some(settings) = map.settings {
            let settings = Settings::new(settings);
            self.async_commit.store(settings.async_commit(), Ordering::Relaxed);
            self.snapshot_rate.store(settings.snapshot_rate(), Ordering::Relaxed);
            self.quorum_reads.store(settings.quorum_reads(), Ordering::Relaxed);
            let lag = settings.closed_lag().as_millis().try_into().unwrap_or(u64::MAX);
            self.closed_lag_ms.store(lag, Ordering::Relaxed);
            self.log_compression.store(settings.log_compression(), Ordering::Relaxed);
        }
        cache.nodes = map.nodes.into_iter().map(|node| (NodeId(node.id), node)).collect();
        cache.members = map.meta_members.iter().map(|m| NodeId(m.node)).collect();
        if !map.same_leaders {
            cache.leaders = map.leaders.iter().map(|l| (GroupId(l.group), NodeId(l.node))).collect();
            cache.leaders_version = map.leaders_version;
        }
    }

    /// Takes in what another node said of itself and of others, while no leader is there to be asked. What was known
    /// of the others stays: they speak for themselves.
    pub fn learn_nodes(&self, itself: pb::MapNode, others: Vec<pb::MapNode>) {
        let mut cache = self.cache.write();
        cache.nodes.insert(NodeId(itself.id), itself);
        for node in others {
            cache.nodes.entry(NodeId(node.id)).or_insert(node);
        }
    }

    fn note(&self, timestamp: Timestamp, asked: Instant) -> Timestamp {
        let mut recent = self.recent.lock();
        if recent.is_none_or(|(known, _)| known < timestamp) {
            *recent = Some((timestamp, asked));
        }
        timestamp
    }

    /// The shard of a group, as far as is known here.
    pub fn shard(&self, group: GroupId) -> Option<ShardDescriptor> {
        self.cache.read().shards.get(group).cloned()
    }

    /// Whether a group has that replica, as far as is known here.
    pub(crate) fn has_replica(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.cache.read().shards.get(group).is_some_and(|shard| shard.replicas.contains_key(&replica))
    }

    /// Where the nodes that live serve others, as far as is known here.
    pub(crate) fn living(&self) -> HashMap<NodeId, String> {
        let cache = self.cache.read();
        let living = cache.nodes.iter().filter(|(_, node)| node.alive);
        living.filter_map(|(id, node)| Some((*id, node.addresses.as_ref()?.rpc.clone()))).collect()
    }

    /// What is wanted of a node, as far as is known here.
    pub fn duty(&self, node: NodeId) -> Option<pb::NodeDuty> {
        self.cache.read().nodes.get(&node).map(pb::MapNode::duty)
    }

    /// The group and the epoch of the shard that holds `key`, as far as is known here.
    pub(crate) fn holder(&self, key: &[u8]) -> Option<(GroupId, Epoch)> {
        self.cache.read().shards.lookup(key).map(|shard| (shard.group, shard.epoch))
    }

    /// Nodes and members, to be remembered for the next start.
    pub fn remembered_map(&self) -> pb::ClusterMap {
        let cache = self.cache.read();
        pb::ClusterMap {
            nodes: cache.nodes.values().cloned().collect(),
            meta_members: cache
                .members
                .iter()
                .map(|node| proto::common::Replica { node: node.0, ..Default::default() })
                .collect(),
            ..Default::default()
        }
    }

    /// Sends a report and takes in what comes back.
    pub async fn report(&self, mut request: pb::ReportRequest) -> Result<Wanted, Error> {
        (request.map_version, request.leaders_version) = self.versions();
        request.oldest_snapshot = self.oldest_snapshot.load(Ordering::SeqCst);
        let response = self
            .call(Duration::from_secs(2), move |target| {
                let request = request.clone();
                async move {
                    match target {
                        Target::Local(server) => server.report(request).await,
                        Target::Remote(mut rpc) => Ok(rpc.report(request).await?.into_inner()),
                    }
                }
                .boxed()
            })
            .await?;
        if let Some(map) = response.map {
            self.learn_map(map);
        }
        self.safe_point.fetch_max(response.safe_point, Ordering::SeqCst);
        Ok(Wanted { soon: response.busy, resting: response.send_resting })
    }

    /// Of the map, and of the list of leaders.
    fn versions(&self) -> (u64, u64) {
        let cache = self.cache.read();
        (cache.version, cache.leaders_version)
    }

    /// Sets something for the whole cluster; the empty value brings the default back.
    pub async fn change_setting(&self, name: &str, value: &str) -> Result<(), Error> {
        let request = pb::ChangeSettingsRequest { name: name.to_owned(), value: value.to_owned() };
        self.call(CALL_LIMIT, move |target| {
            let request = request.clone();
            async move {
                match target {
                    Target::Local(server) => server.change_setting(request).await,
                    Target::Remote(mut rpc) => {
                        rpc.change_settings(request).await.map(|_| ()).map_err(Error::from)
                    }
                }
            }
            .boxed()
        })
        .await
    }

    /// Everything an operator may want to see.
    pub async fn describe(&self) -> Result<pb::DescribeResponse, Error> {
        self.call(CALL_LIMIT, |target| {
            async move {
                match target {
                    Target::Local(server) => server.describe(),
                    Target::Remote(mut rpc) => Ok(rpc.describe(pb::DescribeRequest {}).await?.into_inner()),
                }
            }
            .boxed()
        })
        .await
    }

    /// Brings the cached map up to what the leader knows at a moment after this call began. Concurrent calls share
    /// one request where that is allowed.
    pub async fn refresh(&self) -> Result<(), Error> {
        let begun_before = self.refreshes_begun.load(Ordering::SeqCst);
        let _one = self.refreshing.lock().await;
        if self.refreshes_begun.load(Ordering::SeqCst) > begun_before {
            return Ok(());
        }
        let (since, leaders_version) = self.versions();
        let fetched = self
            .call(CALL_LIMIT, move |target| {
                async move {
                    match target {
                        Target::Local(server) => server.map(since, leaders_version).map(Some),
                        Target::Remote(mut rpc) => {
                            let request = pb::MapRequest { since, leaders_version };
                            Ok(rpc.map(request).await?.into_inner().map)
                        }
                    }
                }
                .boxed()
            })
            .await?;
        // Counted only when it has succeeded, so that nobody rests on one that failed.
        self.refreshes_begun.fetch_add(1, Ordering::SeqCst);
        if let Some(map) = fetched {
            self.learn_map(map);
        }
        Ok(())
    }

    async fn timestamps(&self, count: u32) -> Result<Timestamp, Error> {
        self.call(CALL_LIMIT, move |target| {
            async move {
                match target {
                    Target::Local(server) => server.timestamps(count).await,
                    Target::Remote(mut rpc) => {
                        metrics::counter!("flotilla_node_requests_total", "to" => "oracle").increment(1);
                        let response = rpc.timestamps(pb::TimestampsRequest { count }).await?.into_inner();
                        if response.count < count {
                            return Err(Error::Unavailable("fewer timestamps than asked for".into()));
                        }
                        Ok(Timestamp(response.first))
                    }
                }
            }
            .boxed()
        })
        .await
    }

    /// Asks whoever leads, until there is an answer or the time is up.
    pub(crate) async fn call<T>(
        &self,
        limit: Duration,
        attempt: impl Fn(Target) -> BoxFuture<'static, Result<T, Error>>,
    ) -> Result<T, Error> {
        self.call_slow(limit, ATTEMPT_LIMIT, attempt).await
    }

    /// [`Self::call`], of something that takes its time.
    pub(crate) async fn call_slow<T>(
        &self,
        limit: Duration,
        attempt_limit: Duration,
        attempt: impl Fn(Target) -> BoxFuture<'static, Result<T, Error>>,
    ) -> Result<T, Error> {
        let deadline = self.seams.clock.now() + limit;
        let mut pause = PAUSE_MIN;
        let mut tries = 0usize;
        loop {
            let (target, address) = self.target(tries)?;
            let result = match target {
                Some(target) => tokio::select! {
                    biased;
                    result = within(&self.seams, attempt_limit, attempt(target)) => result,
                    () = self.lost(address.as_deref()) => Err(Error::Unavailable("its node does not answer".into())),
                },
                None => Err(Error::Unavailable("no member of the meta-group is known".into())),
            };
            tries += 1;
            let error = match result {
                Ok(answer) => {
                    *self.leader.lock() = address;
                    *self.last_contact.lock() = Some(self.seams.clock.now());
                    return Ok(answer);
                }
                Err(error) if !error.is_retriable() => return Err(error),
                Err(error) => error,
            };
            let hint = match &error {
                Error::NotLeader(redirect) if !redirect.leader.is_empty() => Some(redirect.leader.clone()),
                _ => None,
            };
            let now = self.seams.clock.now();
            if now >= deadline {
                return Err(Error::Unavailable(error.to_string()));
            }
            let fresh_hint = hint.is_some() && hint != address && tries <= 3;
            *self.leader.lock() = hint.filter(|_| fresh_hint);
            if !fresh_hint {
                // Half of it at random, so that callers that failed together do not return together.
                let jitter = self.seams.random_f64() / 2.0 + 0.5;
                self.seams.sleep(pause.mul_f64(jitter).min(deadline - now)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Completes when the node at an address doesn't answer: another one leads soon.
    async fn lost(&self, address: Option<&str>) {
        let node = address.and_then(|address| self.cache.read().node_at(address));
        match (self.local.get(), node) {
            (Some(local), Some(node)) => local.multi.reach().lost(node).await,
            _ => std::future::pending().await,
        }
    }

    /// Whether the node at an address is known not to answer.
    fn is_lost(&self, address: &str) -> bool {
        let node = self.cache.read().node_at(address);
        self.local.get().zip(node).is_some_and(|(local, node)| local.multi.reach().is_lost(node))
    }

    /// Whom to ask next: this node, the known leader, the one this node's replica follows, or the members in turn.
    fn target(&self, tries: usize) -> Result<(Option<Target>, Option<String>), Error> {
        let local = self.local.get();
        if let Some(server) = local.filter(|server| server.leads()) {
            return Ok((Some(Target::Local(server.clone())), None));
        }
        let mut address = self.leader.lock().clone().filter(|address| !self.is_lost(address));
        if address.is_none() && tries.is_multiple_of(2) {
            address = local.map(|server| server.leader_address());
            address = address.filter(|address| !address.is_empty() && !self.is_lost(address));
        }
        if address.is_none() {
            let own = local.map(|server| server.node);
            let cache = self.cache.read();
            let members = cache.members.iter().filter(|id| Some(**id) != own);
            let members =
                members.filter_map(|id| cache.nodes.get(id)?.addresses.as_ref().map(|a| a.rpc.clone()));
            let mut known: Vec<String> = members.chain(self.seeds.iter().cloned()).collect();
            drop(cache);
            // If nobody else is left, it may as well be asked.
            if known.iter().any(|address| !self.is_lost(address)) {
                known.retain(|address| !self.is_lost(address));
            }
            address = (!known.is_empty()).then(|| known[(tries / 2) % known.len()].clone());
        }
        let Some(address) = address else { return Ok((None, None)) };
        let rpc = rpc(&self.channels, &address)?;
        Ok((Some(Target::Remote(Box::new(rpc))), Some(address)))
    }
}

fn rpc(channels: &Channels, address: &str) -> Result<Rpc<Channel>, Error> {
    Ok(Rpc::new(channels.get(address)?)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

/// Asks the targets in turn to take this node in, until one does. Says so in the log while nobody answers. The caller
/// drops the future when the node is initialised otherwise.
pub async fn join(
    targets: &[String],
    request: &pb::JoinRequest,
    seams: &Seams,
) -> Result<pb::JoinResponse, Error> {
    let channels = Channels::new(seams);
    let mut logged: Option<Instant> = None;
    let mut queue: Vec<String> = Vec::new();
    loop {
        let mut failure = String::new();
        queue.extend(targets.iter().rev().cloned());
        let mut hops = 0;
        while let Some(target) = queue.pop() {
            let mut rpc = rpc(&channels, &target)?;
            match within(seams, ATTEMPT_LIMIT, rpc.join(request.clone())).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(Error::NotLeader(redirect)) if hops < 8 => {
                    hops += 1;
                    queue.extend(redirect.members);
                    queue.extend((!redirect.leader.is_empty()).then_some(redirect.leader));
                }
                Err(Error::Rejected(why)) => {
                    return Err(Error::Rejected(format!("{target} refuses this node: {why}")));
                }
                Err(error) => failure = format!("{target}: {error}"),
            }
        }
        let now = seams.clock.now();
        if logged.is_none_or(|at| now - at >= JOIN_LOG_EVERY) {
            info!("waiting for a cluster to join, or for `flotilla init` on this node ({failure})");
            logged = Some(now);
        }
        seams.sleep(JOIN_PAUSE).await;
    }
}

/// One request in flight; whoever asks meanwhile goes into the next one. So a waiter's timestamp is always drawn after
/// it began to wait.
async fn draw_for_all(client: std::sync::Weak<MetaClient>, mut queue: mpsc::Receiver<Waiter>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, DRAW_MAX as usize).await > 0 {
        let Some(client) = client.upgrade() else { return };
        // Those who have given up need none.
        batch.retain(|waiter| !waiter.is_closed());
        if batch.is_empty() {
            continue;
        }
        let drawn = client.timestamps(batch.len() as u32).await;
        for (i, waiter) in batch.drain(..).enumerate() {
            let answer = match &drawn {
                Ok(first) => Ok(Timestamp(first.0 + i as u64)),
                Err(error) => Err(error.clone().into()),
            };
            // Nobody waits any more: the timestamp is lost, which is harmless.
            let _ = waiter.send(answer);
        }
    }
}

#[async_trait]
impl Oracle for MetaClient {
    async fn timestamp(&self) -> Result<Timestamp, txn::Error> {
        let asked = self.seams.clock.now();
        if let Some(server) = self.local.get().filter(|server| server.leads())
            && let Ok(timestamp) = server.timestamps(1).await
        {
            return Ok(self.note(timestamp, asked));
        }
        let (waiter, answer) = oneshot::channel();
        let full = |_| txn::Error::Unavailable("too many wait for a timestamp".into());
        self.waiters.try_send(waiter).map_err(full)?;
        let stopping = |_| txn::Error::Unavailable("the node is shutting down".into());
        answer.await.map_err(stopping)?.map(|timestamp| self.note(timestamp, asked))
    }

    fn recent(&self) -> Option<(Timestamp, Duration)> {
        let (at, asked) = (*self.recent.lock())?;
        Some((at, self.seams.clock.now().saturating_duration_since(asked)))
    }
}

#[async_trait]
impl Directory for MetaClient {
    async fn lookup(&self, key: &[u8]) -> Result<ShardDescriptor, txn::Error> {
        self.refresh().await?;
        let found = self.cache.read().shards.lookup(key).cloned();
        found.ok_or_else(|| {
            txn::Error::Unavailable(format!("no shard is known for key {}", key.escape_ascii()))
        })
    }

    async fn overlapping(&self, range: &KeyRange) -> Result<Vec<ShardDescriptor>, txn::Error> {
        self.refresh().await?;
        let found = self.cache.read().shards.overlapping(range);
        found.ok_or_else(|| txn::Error::Unavailable(format!("not all shards of {range:?} are known")))
    }

    fn learn(&self, descriptor: &ShardDescriptor) {
        self.cache.write().shards.learn(descriptor.clone());
    }

    fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.cache.read().leaders.get(&group).copied()
    }

    fn address(&self, node: NodeId) -> Option<String> {
        self.cache.read().nodes.get(&node)?.addresses.as_ref().map(|a| a.rpc.clone())
    }

    async fn allocate_groups(&self, count: usize) -> Result<Vec<GroupId>, txn::Error> {
        let count = u32::try_from(count).map_err(|_| txn::Error::TooLarge("that many groups".into()))?;
        let first = self
            .call(CALL_LIMIT, move |target| {
                async move {
                    match target {
                        Target::Local(server) => server.allocate(count, 0).await,
                        Target::Remote(mut rpc) => {
                            let request = pb::AllocateRequest { groups: count, replicas: 0 };
                            Ok(rpc.allocate(request).await?.into_inner())
                        }
                    }
                }
                .boxed()
            })
            .await?
            .first_group;
        Ok((first..first + u64::from(count)).map(GroupId).collect())
    }

    async fn publish(&self, descriptors: &[ShardDescriptor]) -> Result<(), txn::Error> {
        let shards: Vec<proto::common::ShardDescriptor> = descriptors.iter().map(Into::into).collect();
        self.call(CALL_LIMIT, move |target| {
            let shards = shards.clone();
            async move {
                match target {
                    Target::Local(server) => server.publish(shards).await,
                    Target::Remote(mut rpc) => {
                        rpc.publish(pb::PublishRequest { shards }).await?;
                        Ok(())
                    }
                }
            }
            .boxed()
        })
        .await?;
        descriptors.iter().for_each(|descriptor| self.learn(descriptor));
        Ok(())
    }

    async fn set_placement(&self, prefix: &[u8], replicas: u32, places: &str) -> Result<(), txn::Error> {
        let family = prefix.first_chunk().map(|prefix| u64::from_be_bytes(*prefix));
        let family = family.ok_or_else(|| txn::Error::Internal("a table's prefix is too short".into()))?;
        let outcome = self.set_rule(pb::TableRule { family, replicas, placement: places.to_owned() }).await;
        outcome.map_err(|error| match error {
            Error::Rejected(why) => txn::Error::Invalid(why),
            other => other.into(),
        })
    }

    /// Nothing has to be noted: placement spreads the leaders of a table's shards anyway.
    async fn spread_leaders(&self, _: &[GroupId]) -> Result<(), txn::Error> {
        Ok(())
    }

    async fn report_waits(&self, waits: &[Edge]) -> Result<Vec<TxnId>, txn::Error> {
        let Some(node) = self.local.get().map(|server| server.node.0) else { return Ok(Vec::new()) };
        let id = |txn: TxnId| bytes::Bytes::copy_from_slice(&txn.0.to_be_bytes());
        let wait = |e: &Edge| pb::Wait { waiter: id(e.waiter), started: e.started.0, holder: id(e.holder) };
        let request = pb::WaitsRequest { node, waits: waits.iter().map(wait).collect() };
        // What is not known soon is not worth knowing.
        let response = self
            .call(ATTEMPT_LIMIT, move |target| {
                let request = request.clone();
                async move {
                    match target {
                        Target::Local(server) => server.waits(request),
                        Target::Remote(mut rpc) => Ok(rpc.waits(request).await?.into_inner()),
                    }
                }
                .boxed()
            })
            .await?;
        let victims = response.victims.iter().filter_map(|id| id[..].try_into().ok());
        Ok(victims.map(|id| TxnId(u128::from_be_bytes(id))).collect())
    }

    fn commits_asynchronously(&self) -> bool {
        self.async_commit.load(Ordering::Relaxed)
    }

    fn closed_lag(&self) -> Duration {
        Duration::from_millis(self.closed_lag_ms.load(Ordering::Relaxed))
    }

    fn hold(&self, oldest: Option<Timestamp>) {
        self.oldest_snapshot.store(oldest.map_or(0, |at| at.0), Ordering::SeqCst);
    }

    fn safe_point(&self) -> Timestamp {
        Timestamp(self.safe_point.load(Ordering::SeqCst))
    }

    async fn operations(&self) -> Result<Vec<OperationInfo>, txn::Error> {
        let known = self.describe().await?;
        let info =
            |o: pb::Operation| OperationInfo { id: o.id, kind: o.kind, subject: o.subject, state: o.state };
        Ok(known.operations.into_iter().map(info).collect())
    }

    async fn settings(&self) -> Result<Vec<SettingInfo>, txn::Error> {
        let known = Settings::new(self.describe().await?.settings.unwrap_or_default());
        let info = |setting: &Setting| SettingInfo {
            name: setting.name.to_owned(),
            value: known.value(setting),
            default: setting.default.to_owned(),
            description: setting.description.to_owned(),
        };
        Ok(settings::ALL.iter().map(info).collect())
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, txn::Error> {
        let cache = self.cache.read();
        let info = |(id, node): (&NodeId, &pb::MapNode)| {
            let addresses = node.addresses.clone().unwrap_or_default();
            NodeInfo {
                id: *id,
                sql_address: addresses.sql,
                rpc_address: addresses.rpc,
                alive: node.alive,
                duty: crate::operator::duty_name(node.duty()),
            }
        };
        Ok(cache.nodes.iter().map(info).collect())
    }
}

impl raft::AddressBook for MetaClient {
    fn address(&self, node: NodeId) -> Option<String> {
        Directory::address(self, node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_are_sent_to_the_members_that_are_known() {
        let client = MetaClient::new(Vec::new(), Seams::real());
        let node = |id: u64| {
            let addresses = pb::Addresses { rpc: format!("n{id}:1"), ..Default::default() };
            pb::MapNode { id, addresses: Some(addresses), ..Default::default() }
        };
        let member = |node: u64| proto::common::Replica { node, ..Default::default() };
        client.learn_map(pb::ClusterMap {
            version: 1,
            nodes: (1..=4).map(node).collect(),
            meta_members: [1, 3, 9].map(member).into(),
            ..Default::default()
        });
        let known = client.redirect();
        assert_eq!((&known.leader[..], known.members), ("", vec!["n1:1".to_owned(), "n3:1".to_owned()]));
        *client.leader.lock() = Some("n3:1".to_owned());
        assert_eq!(client.redirect().leader, "n3:1");
    }
}
