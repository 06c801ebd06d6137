//! What this crate needs of the meta-group: a clock that never goes back, and a map of the shards.
//!
//! The `meta` crate implements both; `txn` doesn't know how.

use std::time::Duration;

use async_trait::async_trait;
use storage::ids::{GroupId, KeyRange, NodeId, Timestamp, TxnId};

use crate::Error;
use crate::api::{NodeInfo, OperationInfo, SettingInfo};
use crate::descriptor::ShardDescriptor;
use crate::lock::Edge;
use crate::order::{Observed, Order};

/// Hands out timestamps.
///
/// The implementation's obligation: above every timestamp that was handed out
/// anywhere in the cluster before this call **began**, across failovers. (So an answer may not be served from a
/// batch that was asked for before the call began.)
#[async_trait]
pub trait Oracle: Send + Sync + 'static {
    /// A fresh timestamp.
    async fn timestamp(&self) -> Result<Timestamp, Error>;

    /// The newest timestamp that this node was given, and how long ago it asked for it. Must not block.
    fn recent(&self) -> Option<(Timestamp, Duration)> {
        None
    }
}

/// Knows where shards and nodes are.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// The shard that holds `key`, freshly asked for: the router has a cache of its own.
    async fn lookup(&self, key: &[u8]) -> Result<ShardDescriptor, Error>;

    /// The shard that holds `key`, as far as is known here without asking. Must not block.
    fn known(&self, _key: &[u8]) -> Option<ShardDescriptor> {
        None
    }

    /// The shards that overlap `range`, in key order and without gaps, freshly asked for.
    async fn overlapping(&self, range: &KeyRange) -> Result<Vec<ShardDescriptor>, Error>;

    /// A shard has told about itself or its siblings. Must not block; an older epoch than what is known is ignored.
    fn learn(&self, descriptor: &ShardDescriptor);

    /// The node that leads `group`, as far as is known here. Must not block.
    fn leader(&self, group: GroupId) -> Option<NodeId>;

    /// Where `node` serves other nodes (`host:port`). Must not block.
    fn address(&self, node: NodeId) -> Option<String>;

    /// Reserves `count` group ids that were never used.
    async fn allocate_groups(&self, count: usize) -> Result<Vec<GroupId>, Error>;

    /// Tells the meta-group of new descriptors right away (a split's parent and children), instead of with the next
    /// report. Returns when lookups find them.
    async fn publish(&self, descriptors: &[ShardDescriptor]) -> Result<(), Error>;

    /// Says what is wanted of the replicas of the shards that begin with a table's prefix of eight bytes: how many (0: as many as
    /// for all), and where. Returns what of it can't be had with the nodes there are.
    async fn set_placement(
        &self,
        _prefix: &[u8],
        _replicas: u32,
        _places: &str,
    ) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// Says that no key in `range` is ever used again: what was wanted of the replicas of tables in it is forgotten,
    /// and shards that begin in it may be merged.
    async fn vacate(&self, _range: &KeyRange) -> Result<(), Error> {
        Ok(())
    }

    /// Asks that the leaders of `groups` be spread over the nodes. Returns when the wish is noted, not when it is done.
    async fn spread_leaders(&self, groups: &[GroupId]) -> Result<(), Error>;

    /// Tells who waits for whom at this node, and has for a while; returns the victims of deadlocks among those who wait
    /// here. To be called again and again while there are such waits: what was told counts for a moment only.
    async fn report_waits(&self, waits: &[Edge]) -> Result<Vec<TxnId>, Error>;

    /// Whether commits over several shards may be answered after one round of replication, where that is possible: a setting.
    /// Must not block.
    fn commits_asynchronously(&self) -> bool;

    /// How far behind the present leaders close timestamps, so that any replica may answer reads below: a setting. Zero: not at all. Must not
    /// block.
    fn closed_lag(&self) -> Duration {
        Duration::ZERO
    }

    /// The oldest snapshot that is open at this node: garbage collection shall leave what it sees. To be called again and
    /// again; how long a snapshot can hold it back is a setting. Must not block.
    fn hold(&self, oldest: Option<Timestamp>);

    /// The cluster's safe point, as far as is known here: versions that only reads below it need may be collected. It
    /// never goes back. Must not block.
    fn safe_point(&self) -> Timestamp;

    /// The nodes of the cluster.
    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error>;

    /// What is under way in the cluster.
    async fn operations(&self) -> Result<Vec<OperationInfo>, Error> {
        Ok(Vec::new())
    }

    /// Has the cluster do what an operator wants; answers what was begun, or done. [`Error::Invalid`] says why it is refused.
    async fn order(&self, _order: Order) -> Result<String, Error> {
        Err(Error::Unsupported("there is no cluster to be operated".to_owned()))
    }

    /// What the cluster has told of itself lately.
    async fn observed(&self) -> Result<Observed, Error> {
        Ok(Observed::default())
    }

    /// What can be set for the whole cluster, and is.
    async fn settings(&self) -> Result<Vec<SettingInfo>, Error> {
        Ok(Vec::new())
    }
}
