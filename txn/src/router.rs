//! Finds the leader of the shard that holds a key, and talks to it until it answers or time is up.
//!
//! What the router knows may be stale at any time: shards split and leaders move. Nothing is lost by that: whoever is
//! asked wrongly says so (and brings its own descriptors along), does nothing, and the request is routed again.
//!
//! A request is sent again on its own only where that can't do harm: when it certainly was not worked on, or when it is
//! harmless to repeat ([`Repeat::Harmless`]). A one-shard commit that may have been proposed is never repeated.

mod map;
mod past;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{GroupId, KeyRange, NodeId};
use storage::seam::Seams;

use self::map::Map;
use crate::descriptor::ShardDescriptor;
use crate::server::{ShardServer, error_of};
use crate::transport::{CallError, Peers};
use crate::{Directory, Error};

/// The pause after the first failed attempt; doubled with each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(80);

/// How long one attempt of a request that may be repeated waits before the next replica is asked; doubled, too. A
/// leader that sleeps would otherwise hold the request until the end, while another one leads already.
const ATTEMPT_MIN: Duration = Duration::from_millis(600);
/// The same for requests that replicate something: to send those twice is costly, and never gets an overloaded shard
/// out of trouble. (A leader that is really gone is noticed by its stream.)
const ATTEMPT_MIN_WRITE: Duration = Duration::from_millis(2_500);
/// The same for what keeps a lease: it is answered at once, and worth something for a short time only.
const ATTEMPT_MIN_LEASE: Duration = Duration::from_millis(250);
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// What happens if a request reaches its shard twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The same as if once.
    Harmless,
    /// Something else.
    Never,
}

/// Why the shard has not answered.
#[derive(Debug)]
pub enum RouteError {
    /// The shard is another than the one the request was made for: route again. Nothing was done.
    Moved,
    /// The commit timestamp was too low.
    Pushed,
    /// Anything else.
    Failed(Error),
}

impl From<Error> for RouteError {
    fn from(error: Error) -> Self {
        RouteError::Failed(error)
    }
}

/// The way to all shards, from this node.
pub struct Router {
    server: Arc<ShardServer>,
    peers: Peers,
    reach: raft::Reach,
    directory: Arc<dyn Directory>,
    seams: Seams,
    map: RwLock<Map>,
    /// How often a request was sent on, since what was known of the way was old.
    redirects: AtomicU64,
}

impl Router {
    /// A router that knows nothing yet.
    pub fn new(server: Arc<ShardServer>, directory: Arc<dyn Directory>, seams: Seams) -> Self {
        let peers = Peers::new(directory.clone(), seams.clone());
        let reach = server.reach();
        let (map, redirects) = Default::default();
        Self { server, peers, reach, directory, seams, map, redirects }
    }

    /// How often whoever was asked has named somebody else.
    pub fn redirects(&self) -> u64 {
        self.redirects.load(Ordering::Relaxed)
    }

    fn redirected(&self, why: &'static str) {
        self.redirects.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("flotilla_redirects_total", "why" => why).increment(1);
    }

    /// The shards of this node.
    pub fn server(&self) -> &ShardServer {
        &self.server
    }

    /// The shard that holds `key`, if it is known here.
    pub fn known(&self, key: &[u8]) -> Option<Arc<ShardDescriptor>> {
        self.map.read().find(key)
    }

    /// The shard that holds `key`.
    pub async fn route(&self, key: &[u8], deadline: Instant) -> Result<Arc<ShardDescriptor>, Error> {
        if let Some(shard) = self.known(key) {
            return Ok(shard);
        }
        // The first time it is at hand, as a rule, and the meta-group need not be asked: whoever leads the shard says if it is old.
        let at_hand = self.directory.known(key).filter(|shard| self.map.read().is_plausible(shard));
        if let Some(shard) = at_hand {
            return Ok(self.learn(shard));
        }
        self.fetch(deadline, || self.directory.lookup(key)).await
    }

    /// The shard that holds the last keys before `end`.
    pub async fn route_before(&self, end: &Bytes, deadline: Instant) -> Result<Arc<ShardDescriptor>, Error> {
        if let Some(shard) = self.map.read().find_before(end) {
            return Ok(shard);
        }
        // A range that ends there and holds something: the last shard that overlaps is the one.
        let range = KeyRange { start: Bytes::new(), end: end.clone() };
        let last = || async {
            let last = self.directory.overlapping(&range).await?.pop();
            last.ok_or_else(|| Error::Unavailable("no shard is known yet".to_owned()))
        };
        self.fetch(deadline, || Box::pin(last())).await
    }

    /// The shards that overlap `range`, in key order.
    pub async fn route_all(
        &self,
        range: &KeyRange,
        deadline: Instant,
    ) -> Result<Vec<Arc<ShardDescriptor>>, Error> {
        let mut shards = Vec::new();
        let mut at = range.start.clone();
        loop {
            let shard = self.route(&at, deadline).await?;
            let end = shard.range.end.clone();
            shards.push(shard);
            if end.is_empty() || (!range.end.is_empty() && end >= range.end) {
                return Ok(shards);
            }
            at = end;
        }
    }

    async fn fetch<'f>(
        &self,
        deadline: Instant,
        lookup: impl Fn() -> BoxFuture<'f, Result<ShardDescriptor, Error>>,
    ) -> Result<Arc<ShardDescriptor>, Error> {
        let mut pause = BACKOFF_MIN;
        loop {
            match self.in_time(deadline, lookup()).await {
                Ok(shard) => return Ok(self.learn(shard)),
                Err(error) if self.seams.clock.now() + pause >= deadline => return Err(error),
                Err(Error::Unavailable(_)) => self.pause(&mut pause).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// What the directory answers before the deadline: without its leader it may take longer than whoever asks has.
    async fn in_time(
        &self,
        deadline: Instant,
        answer: impl Future<Output = Result<ShardDescriptor, Error>>,
    ) -> Result<ShardDescriptor, Error> {
        let left = deadline.saturating_duration_since(self.seams.clock.now());
        tokio::select! {
            biased;
            answer = answer => answer,
            () = self.seams.sleep(left) => {
                Err(Error::Unavailable("where the shard is was not known in time".to_owned()))
            }
        }
    }

    /// Takes a descriptor in. Returns it, or what is known to be newer.
    pub fn learn(&self, descriptor: ShardDescriptor) -> Arc<ShardDescriptor> {
        let descriptor = Arc::new(descriptor);
        let mut map = self.map.write();
        if map.learn(&descriptor) {
            self.directory.learn(&descriptor);
            return descriptor;
        }
        map.find(&descriptor.range.start).unwrap_or(descriptor)
    }

    /// The node that is believed to lead `group`.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leads_here = self.server.registry().get(group).is_some_and(|shard| shard.leadership().is_some());
        if leads_here {
            return Some(self.server.me());
        }
        let known = self.map.read().leaders.get(&group).copied();
        known.or_else(|| self.directory.leader(group))
    }

    /// The node that leads `group` as the meta-group has heard it: for whom asks out of curiosity. (The router's own
    /// belief is as old as its last request to that shard.)
    pub fn reported_leader(&self, group: GroupId) -> Option<NodeId> {
        let reported = self.directory.leader(group);
        reported.or_else(|| self.leader(group))
    }

    /// Asks the leader of the shard that holds `key`, wherever that shard moves meanwhile.
    pub async fn ask_key(
        &self,
        key: &[u8],
        ask: Ask,
        repeat: Repeat,
        deadline: Instant,
    ) -> Result<Answer, RouteError> {
        self.ask_key_noting(key, ask, repeat, deadline, &mut false).await
    }

    /// The same, noting whether a copy of the request is `lost`: it may be evaluated even after this has returned.
    pub async fn ask_key_noting(
        &self,
        key: &[u8],
        ask: Ask,
        repeat: Repeat,
        deadline: Instant,
        lost: &mut bool,
    ) -> Result<Answer, RouteError> {
        let mut pause = BACKOFF_MIN;
        loop {
            let shard = self.route(key, deadline).await?;
            match self.ask_noting(&shard, ask.clone(), repeat, deadline, lost).await {
                Err(RouteError::Moved) => self.pause_before(&mut pause, deadline).await?,
                result => return result,
            }
        }
    }

    /// Asks a node, whatever it leads.
    pub async fn ask_node(&self, node: NodeId, ask: Ask, time: Duration) -> Result<Answer, Error> {
        let timeout_ms = time.as_millis().try_into().unwrap_or(u32::MAX);
        let request = pb::Request { timeout_ms, body: Some(ask), ..pb::Request::default() };
        match self.attempt(node, request, time).await {
            Ok(Answer::Failure(failure)) => Err(error_of(failure)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(Error::Unavailable(format!("{node} has not answered"))),
        }
    }

    /// Asks the leader of `shard`.
    pub async fn ask(
        &self,
        shard: &Arc<ShardDescriptor>,
        ask: Ask,
        repeat: Repeat,
        deadline: Instant,
    ) -> Result<Answer, RouteError> {
        self.ask_noting(shard, ask, repeat, deadline, &mut false).await
    }

    /// The same, noting whether a copy of the request is `lost`: it may be evaluated even after this has returned.
    pub async fn ask_noting(
        &self,
        shard: &Arc<ShardDescriptor>,
        ask: Ask,
        repeat: Repeat,
        deadline: Instant,
        lost: &mut bool,
    ) -> Result<Answer, RouteError> {
        let mut pause = BACKOFF_MIN;
        let mut patience = match ask {
            Ask::Read(_) | Ask::Scan(_) | Ask::Validate(_) | Ask::Push(_) | Ask::Outcome(_) => ATTEMPT_MIN,
            Ask::LockAdvisory(_) => ATTEMPT_MIN,
            Ask::KeepAdvisory(_) | Ask::AssertAdvisory(_) => ATTEMPT_MIN_LEASE,
            _ => ATTEMPT_MIN_WRITE,
        };
        let mut candidates = Candidates::new(self, shard);
        loop {
            let left = deadline.saturating_duration_since(self.seams.clock.now());
            if left.is_zero() {
                let nodes: Vec<String> = shard.nodes().map(|node| node.to_string()).collect();
                let why = format!("no leader of {} ({}) has answered in time", shard.group, nodes.join(", "));
                return Err(Error::Unavailable(why).into());
            }
            let node = candidates.next();
            let attempt = if repeat == Repeat::Harmless { patience.min(left) } else { left };
            let request = pb::Request {
                id: 0,
                group: shard.group.0,
                epoch: shard.epoch.0,
                timeout_ms: attempt.as_millis().try_into().unwrap_or(u32::MAX),
                past: false,
                body: Some(ask.clone()),
            };
            match self.attempt(node, request, attempt).await {
                Ok(Answer::Failure(failure)) => match failure.kind() {
                    pb::FailureKind::FailureNotLeader => {
                        self.forget_leader(shard.group, node);
                        let leader = (failure.leader != 0).then_some(NodeId(failure.leader));
                        if candidates.hint(leader, node) {
                            self.redirected("leader");
                            continue;
                        }
                    }
                    pb::FailureKind::FailureWrongShard => {
                        self.redirected("shard");
                        self.map.write().refute(shard);
                        for descriptor in failure.shards {
                            self.learn(ShardDescriptor::try_from(descriptor)?);
                        }
                        return Err(RouteError::Moved);
                    }
                    pb::FailureKind::FailurePushed => return Err(RouteError::Pushed),
                    pb::FailureKind::FailureUnavailable => {}
                    pb::FailureKind::FailureAmbiguous if repeat == Repeat::Harmless => {}
                    _ => return Err(error_of(failure).into()),
                },
                Ok(answer) => {
                    self.found_leader(shard.group, node);
                    return Ok(answer);
                }
                Err(CallError::NotSent) => {
                    self.forget_leader(shard.group, node);
                    candidates.failed(node);
                }
                Err(CallError::Lost) if repeat == Repeat::Harmless => {
                    *lost = true;
                    self.forget_leader(shard.group, node);
                    candidates.failed(node);
                    patience = (patience * 2).min(ATTEMPT_MAX);
                }
                Err(CallError::Lost) => {
                    self.forget_leader(shard.group, node);
                    return Err(Error::Ambiguous(format!("{node} has not answered")).into());
                }
            }
            if candidates.went_round() {
                // Nobody leads, or everybody has moved: is the shard still what it was?
                self.refresh(shard, deadline).await?;
            }
            self.pause(&mut pause).await;
        }
    }

    async fn attempt(&self, node: NodeId, request: pb::Request, time: Duration) -> Result<Answer, CallError> {
        let call: BoxFuture<'_, Result<pb::Response, CallError>> = match node == self.server.me() {
            true => Box::pin(async { Ok(self.server.handle(request).await) }),
            // One that doesn't answer anybody: somebody else leads soon.
            false if self.reach.is_lost(node) => return Err(CallError::NotSent),
            false => Box::pin(self.peers.call(node, request)),
        };
        let lost = async {
            match node == self.server.me() {
                true => std::future::pending().await,
                false => self.reach.lost(node).await,
            }
        };
        let response = tokio::select! {
            biased;
            response = call => response?,
            () = lost => return Err(CallError::Lost),
            () = self.seams.sleep(time) => {
                self.peers.gave_up(node);
                return Err(CallError::Lost);
            }
        };
        response.body.ok_or(CallError::Lost)
    }

    /// Asks the directory again. `Moved` if it knows something newer.
    async fn refresh(&self, shard: &Arc<ShardDescriptor>, deadline: Instant) -> Result<(), RouteError> {
        // A directory that is unavailable itself changes nothing: the replicas are asked again.
        let fresh = self.in_time(deadline, self.directory.lookup(&shard.range.start)).await;
        if let Ok(fresh) = fresh {
            // (The replicas may differ at the same epoch: the meta-group hears of them from raft.)
            let differs = fresh != **shard;
            self.learn(fresh);
            if differs && self.map.read().find(&shard.range.start).is_some_and(|known| known != *shard) {
                return Err(RouteError::Moved);
            }
        }
        Ok(())
    }

    fn found_leader(&self, group: GroupId, node: NodeId) {
        if self.map.read().leaders.get(&group) != Some(&node) {
            self.map.write().leaders.insert(group, node);
        }
    }

    fn forget_leader(&self, group: GroupId, node: NodeId) {
        let mut map = self.map.write();
        if map.leaders.get(&group) == Some(&node) {
            map.leaders.remove(&group);
        }
    }

    /// Sleeps, and fails if that would be past the deadline.
    pub async fn pause_before(&self, pause: &mut Duration, deadline: Instant) -> Result<(), Error> {
        if self.seams.clock.now() + *pause >= deadline {
            return Err(Error::Unavailable("the request has run out of time".to_owned()));
        }
        self.pause(pause).await;
        Ok(())
    }

    async fn pause(&self, pause: &mut Duration) {
        // Half of it at random, so that those who failed together don't come back together.
        let jitter = pause.mul_f64(self.seams.random_f64() / 2.0);
        self.seams.sleep(*pause / 2 + jitter).await;
        *pause = (*pause * 2).min(BACKOFF_MAX);
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Router({} shards known)", self.map.read().shards.len())
    }
}

/// In which order the replicas of a shard are asked: where the leader is believed to be, then round.
struct Candidates {
    nodes: Vec<NodeId>,
    next: usize,
    asked: usize,
    hinted: Option<NodeId>,
    /// Hints followed without a pause in between.
    hops: usize,
    dead: Option<NodeId>,
}

impl Candidates {
    fn new(router: &Router, shard: &ShardDescriptor) -> Self {
        let mut nodes: Vec<NodeId> = shard.nodes().collect();
        // A replica of one's own is asked first when nothing is known: it is near, and knows who leads.
        if let Some(at) = nodes.iter().position(|node| *node == router.server.me()) {
            nodes.swap(0, at);
        }
        Self { nodes, next: 0, asked: 0, hinted: router.leader(shard.group), hops: 0, dead: None }
    }

    fn next(&mut self) -> NodeId {
        self.asked += 1;
        if let Some(node) = self.hinted.take() {
            return node;
        }
        let Some(node) = self.nodes.get(self.next % self.nodes.len().max(1)) else {
            return NodeId::default();
        };
        self.next += 1;
        *node
    }

    /// A replica names the leader. Whether to ask it right away.
    fn hint(&mut self, leader: Option<NodeId>, from: NodeId) -> bool {
        let Some(leader) = leader.filter(|leader| *leader != from && self.dead != Some(*leader)) else {
            self.hops = 0;
            return false;
        };
        self.hinted = Some(leader);
        self.hops += 1;
        if self.hops > 2 {
            self.hops = 0;
            return false;
        }
        true
    }

    /// A node could not be reached: others who still believe in it are not believed.
    fn failed(&mut self, node: NodeId) {
        self.dead = Some(node);
    }

    fn went_round(&mut self) -> bool {
        if self.asked < self.nodes.len().max(1) + 1 {
            return false;
        }
        self.asked = 0;
        self.dead = None;
        true
    }
}
