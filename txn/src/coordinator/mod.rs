//! The gateway's side: [`Cluster`] implements [`Database`](crate::api::Database), and [`Txn`](txn::Txn) one
//! [`Transaction`](crate::api::Transaction).
//!
//! ```text
//!   UPDATE, DELETE gateway ──LockRows──▶ leader: queue, read           rivals wait here instead of failing at their commit
//!
//!   one shard      gateway ──Commit──▶ leader: latch, check, draw, replicate ──▶ done
//!
//!   several        gateway ──Prewrite──▶ all shards, in parallel        intents: nobody else writes these keys
//!   shards                 ──timestamp──▶ oracle                        T: above whatever was read without the intents
//!                          ──Validate──▶ shards that were read          what was read is still so at T
//!                          ──CommitPrimary(T)──▶ the primary's shard    the transaction is committed, or not
//!                  the client is answered; then, in the background
//!                          ──Resolve──▶ all shards                      intents become versions at T
//!                          ──Forget──▶ the primary's shard              the record is gone
//! ```
//!
//! Where everything that was read is written, too, several shards take one round as well: `async_commit.rs`.
//!
//! A transaction is in `txn.rs`, what it does until its commit in `snapshot.rs` and `locks.rs`, the commit in `commit.rs` and
//! `lay.rs`. What all of them share is [`Core`], with the requests to shards in `fetch.rs`, `fates.rs`, `settle.rs` and
//! `validate.rs`.

mod admin;
mod advisory;
mod async_commit;
mod buffer;
mod closer;
mod collect;
mod commit;
mod core;
mod demand;
mod fates;
mod fetch;
mod flush;
mod lay;
mod locks;
mod past;
mod reading;
mod settle;
mod snapshot;
mod strays;
mod sweep;
mod table_lock;
mod txn;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use storage::ids::{KeyRange, Timestamp, TxnId};
use storage::seam::Seams;

use crate::api::{
    Activity, BeginOptions, Database, Fence, Key, LockInfo, NodeInfo, OperationInfo, SessionLocks,
    SettingInfo, ShardInfo, Transaction, Value, Witness,
};
use crate::order::{Observed, Order};
use crate::router::Router;
use crate::server::ShardServer;
use crate::{Directory, Error, Oracle, SessionId};

use self::core::Core;
use self::txn::Txn;

/// Bounds and times of transactions.
#[derive(Clone, Debug)]
pub struct CoordinatorOptions {
    /// How long a request may take before it fails.
    pub request_timeout: Duration,
    /// A transaction whose buffered writes take more than this sends them as intents. Twice as much may be in memory:
    /// what is being sent, and what is written meanwhile.
    pub flush_bytes: usize,
    /// How long a commit waits for an undecided transaction that has written the same key, before it fails.
    pub conflict_wait: Duration,
    /// How often a transaction that has laid intents says that it lives.
    pub heartbeat: Duration,
    /// How long an asynchronous commit goes by what shards have answered. Less than records stay (`sweep.rs`).
    pub answers_hold: Duration,
}

impl Default for CoordinatorOptions {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(10),
            flush_bytes: 8 << 20,
            conflict_wait: Duration::from_secs(2),
            heartbeat: Duration::from_millis(400),
            answers_hold: Duration::from_secs(30),
        }
    }
}

/// The cluster, seen from this node.
#[derive(Clone)]
pub struct Cluster {
    core: Arc<Core>,
}

impl Cluster {
    /// The cluster as `directory` describes it, with the shards of this node at hand in `server`.
    pub fn new(
        server: Arc<ShardServer>,
        oracle: Arc<dyn Oracle>,
        directory: Arc<dyn Directory>,
        seams: Seams,
        options: CoordinatorOptions,
    ) -> Self {
        let router = Router::new(server.clone(), directory.clone(), seams.clone());
        let core = Core::new(router, oracle, directory, seams, options);
        core.seams.spawn("sweep", sweep::run(Arc::downgrade(&core), server.clone()));
        core.seams.spawn("hold back", collect::hold_back(Arc::downgrade(&core)));
        core.seams.spawn("close", closer::close(Arc::downgrade(&core), server.clone()));
        core.seams.spawn("collect", collect::run(Arc::downgrade(&core), server));
        core.seams.spawn("keep locks", locks::keep_locks(Arc::downgrade(&core)));
        core.seams.spawn("keep sessions", advisory::keep_sessions(Arc::downgrade(&core)));
        core.seams.spawn("watch waits", locks::watch_waits(Arc::downgrade(&core)));
        Self { core }
    }

    /// How many requests of this node were sent on, since shards or leaders were elsewhere than it believed.
    pub fn redirects(&self) -> u64 {
        self.core.router.redirects()
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

#[async_trait]
impl Database for Cluster {
    fn begin(&self, options: BeginOptions) -> Arc<dyn Transaction> {
        Txn::begin(self.core.clone(), options)
    }

    async fn get_latest(&self, keys: &[Key], fences: &[Fence]) -> Result<Vec<Option<Value>>, Error> {
        if let Some(values) = self.core.read_latest(keys, fences).await? {
            return Ok(values);
        }
        let at = self.core.oracle.timestamp().await?;
        self.core.read(None, at, false, keys, fences).await
    }

    fn seems_served(&self, key: &Key) -> bool {
        let router = &self.core.router;
        router.known(key).is_some_and(|shard| router.server().seems_served(shard.group))
    }

    async fn shards(&self, range: &KeyRange) -> Result<Vec<ShardInfo>, Error> {
        // What requests go by may be old for as long as nobody has asked for the keys.
        if let Ok(shards) = self.core.directory.overlapping(range).await {
            shards.into_iter().for_each(|shard| drop(self.core.router.learn(shard)));
        }
        let shards = self.core.router.route_all(range, self.core.deadline()).await?;
        let info = |shard: &Arc<crate::ShardDescriptor>| ShardInfo {
            group: shard.group,
            range: shard.range.clone(),
            epoch: shard.epoch,
            replicas: shard.nodes().collect(),
            leader: self.core.router.reported_leader(shard.group),
            closed: self.core.router.server().registry().get(shard.group).and_then(|own| own.known_closed()),
        };
        Ok(shards.iter().map(info).collect())
    }

    async fn split(&self, keys: &[Key], spread: bool) -> Result<(), Error> {
        admin::split(&self.core, keys, spread).await
    }

    async fn set_placement(&self, prefix: &Key, replicas: u32, places: &str) -> Result<Vec<String>, Error> {
        self.core.directory.set_placement(prefix, replicas, places).await
    }

    async fn clear_range(&self, range: &KeyRange) -> Result<(), Error> {
        admin::clear_range(&self.core, range).await
    }

    async fn vacate(&self, range: &KeyRange) -> Result<(), Error> {
        self.core.directory.vacate(range).await
    }

    async fn timestamp(&self) -> Result<Timestamp, Error> {
        self.core.oracle.timestamp().await
    }

    fn recent(&self) -> Option<(Timestamp, Duration)> {
        self.core.oracle.recent()
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        self.core.directory.nodes().await
    }

    async fn operations(&self) -> Result<Vec<OperationInfo>, Error> {
        self.core.directory.operations().await
    }

    async fn settings(&self) -> Result<Vec<SettingInfo>, Error> {
        self.core.directory.settings().await
    }

    async fn order(&self, order: Order) -> Result<String, Error> {
        self.core.directory.order(order).await
    }

    async fn observed(&self) -> Result<Observed, Error> {
        self.core.directory.observed().await
    }

    fn session(&self, pid: i32) -> SessionId {
        SessionId::new(self.core.router.server().me(), pid, &self.core.seams)
    }

    fn session_locks(&self, session: SessionId) -> Arc<dyn SessionLocks> {
        advisory::Session::new(self.core.clone(), session)
    }

    async fn locks(&self, range: &KeyRange, rows_max: u32) -> Result<Vec<LockInfo>, Error> {
        admin::locks(&self.core, range, rows_max).await
    }

    async fn describe(&self, ids: &[TxnId]) -> Vec<Option<Activity>> {
        admin::describe(&self.core, ids).await
    }

    fn set_witness(&self, witness: Arc<dyn Witness>) {
        self.core.router.server().set_witness(witness);
    }

    fn request_timeout(&self) -> Duration {
        self.core.options.request_timeout
    }
}
