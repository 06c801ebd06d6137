//! What the transaction layer asks of the meta-group.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use proto::meta as pb;
use storage::ids::{GroupId, KeyRange, NodeId, Timestamp, TxnId};
use txn::api::{NodeInfo, OperationInfo, SettingInfo};
use txn::order::{Observed, Order};
use txn::{Directory, Edge, ShardDescriptor};

use super::MetaClient;
use super::calls::{ATTEMPT_LIMIT, CALL_LIMIT, Target};
use crate::Error;
use crate::settings::{self, Setting, Settings};

#[async_trait]
impl Directory for MetaClient {
    async fn lookup(&self, key: &[u8]) -> Result<ShardDescriptor, txn::Error> {
        self.refresh().await?;
        let found = self.cache.read().shards.lookup(key).cloned();
        found.ok_or_else(|| {
            txn::Error::Unavailable(format!("no shard is known for key {}", key.escape_ascii()))
        })
    }

    fn known(&self, key: &[u8]) -> Option<ShardDescriptor> {
        self.cache.read().shards.lookup(key).cloned()
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

    async fn set_placement(
        &self,
        prefix: &[u8],
        replicas: u32,
        places: &str,
    ) -> Result<Vec<String>, txn::Error> {
        let family = prefix.first_chunk().map(|prefix| u64::from_be_bytes(*prefix));
        let family = family.ok_or_else(|| txn::Error::Internal("a table's prefix is too short".into()))?;
        let outcome = self.set_rule(pb::TableRule { family, replicas, placement: places.to_owned() }).await;
        outcome.map(|answer| answer.unmet).map_err(refused)
    }

    async fn vacate(&self, range: &KeyRange) -> Result<(), txn::Error> {
        self.give_up(range).await.map_err(refused)
    }

    async fn order(&self, order: Order) -> Result<String, txn::Error> {
        self.carry_out(order).await.map_err(refused)
    }

    async fn observed(&self) -> Result<Observed, txn::Error> {
        Ok(self.observe().await?)
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
        let known = self.describe_as(pb::DescribeRequest { without_plan: true }).await?;
        let info =
            |o: pb::Operation| OperationInfo { id: o.id, kind: o.kind, subject: o.subject, state: o.state };
        Ok(known.operations.into_iter().map(info).collect())
    }

    async fn settings(&self) -> Result<Vec<SettingInfo>, txn::Error> {
        self.refresh().await?;
        let known = Settings::new(self.cache.read().settings.clone());
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

/// What the meta-group refuses is the fault of what it was told.
fn refused(error: Error) -> txn::Error {
    match error {
        Error::Rejected(why) => txn::Error::Invalid(why),
        other => other.into(),
    }
}

impl raft::AddressBook for MetaClient {
    fn address(&self, node: NodeId) -> Option<String> {
        Directory::address(self, node)
    }
}
