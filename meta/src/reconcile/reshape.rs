//! Splits and merges, conducted: what the shards' leaders and nodes are asked, one after the other.
//!
//! A split is one request to the shard. A merge is several; `txn/src/command/merge.rs` says why they may be cut off anywhere.
//! Nothing is remembered here: whoever leads the meta-group and sees a frozen shard that it is not merging itself calls the
//! merge off ([`left_frozen`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::admin as rpc;
use proto::common::ShardDescriptor;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{GroupId, NodeId};
use storage::sabotage::{self, Sabotage};
use tracing::{debug, info};

use super::execute::{Executor, OPERATION_LIMIT};
use crate::Error;
use crate::rpc::{Channels, within};
use crate::server::{MetaServer, Soft};

/// How long a shard may take to answer.
const ASK_LIMIT: Duration = Duration::from_secs(6);
/// How long all nodes together may take to have a frozen state on disk: the shard serves nothing for so long.
const FROZEN_LIMIT: Duration = Duration::from_secs(2);

/// Where a shard is to be cut.
pub(crate) enum Cut {
    /// Where half of its bytes lie before.
    Bytes,
    /// Where half of the requests to it lie before.
    Load,
    /// Where half of the processor time that they take lies before.
    Cpu,
}

impl Executor<'_> {
    /// Puts a request to the shard's leader.
    async fn ask(&self, ask: Ask) -> Result<Answer, Error> {
        let timeout_ms = ASK_LIMIT.as_millis() as u32 - 500;
        let group = self.group.0;
        let request = pb::Request { group, timeout_ms, body: Some(ask), ..pb::Request::default() };
        let request = rpc::AskShardRequest { cluster_id: self.cluster_id.clone(), request: Some(request) };
        let mut to_leader = self.control(self.leader)?;
        let answer = within(&self.server.seams, ASK_LIMIT, to_leader.ask_shard(request)).await?.into_inner();
        let unavailable = |why: &str| Err(Error::Unavailable(format!("{}: {why}", self.group)));
        match answer.response.and_then(|response| response.body) {
            Some(Answer::Failure(failure)) => unavailable(&txn::server::error_of(failure).to_string()),
            Some(Answer::Blocked(_)) => unavailable("a schema change is about to be decided"),
            Some(answer) => Ok(answer),
            None => unavailable("an empty answer"),
        }
    }

    async fn ask_descriptors(&self, ask: Ask) -> Result<Vec<ShardDescriptor>, Error> {
        match self.ask(ask).await? {
            Answer::Descriptors(all) if !all.shards.is_empty() => Ok(all.shards),
            _ => Err(Error::Unavailable(format!("{}: an answer that makes no sense", self.group))),
        }
    }

    async fn ask_descriptor(&self, ask: Ask) -> Result<ShardDescriptor, Error> {
        Ok(self.ask_descriptors(ask).await?.swap_remove(0))
    }
}

/// The key at which a shard is best cut.
pub(crate) async fn choose(
    server: &Arc<MetaServer>,
    channels: &Channels,
    group: GroupId,
    cut: Cut,
) -> Result<Bytes, Error> {
    // (Whoever does not know of processor time halves the requests.)
    let (by_load, by_cpu) = (!matches!(cut, Cut::Bytes), matches!(cut, Cut::Cpu));
    match Executor::of(server, channels, group)?.ask(Ask::Halve(pb::Halve { by_load, by_cpu })).await? {
        Answer::Middle(pb::Middle { key: Some(key) }) => Ok(key),
        _ if by_load => Err(Error::Rejected(format!("no key halves the requests to {group}"))),
        _ => Err(Error::Rejected(format!("{group} has no two rows to be cut apart"))),
    }
}

/// Cuts a shard at a key; which one begins there. Repeated, it finds it so.
pub(crate) async fn split(
    server: &Arc<MetaServer>,
    channels: &Channels,
    group: GroupId,
    key: Bytes,
    automatic: bool,
) -> Result<GroupId, Error> {
    let executor = Executor::of(server, channels, group)?;
    let born = server.allocate(1, 0).await?.first_group;
    let points = vec![pb::SplitPoint { key: key.clone(), group: born }];
    let shards = executor.ask_descriptors(Ask::Split(pb::Split { points })).await?;
    let there = shards.iter().find(|shard| shard.start == key).map_or(group, |shard| GroupId(shard.group));
    let by_placement = (automatic && there.0 == born).then_some(there);
    let begun = server.seams.clock.now();
    server.with_soft(|soft, now| {
        let whole = soft.load_of(group, now).and_then(|load| load.bytes);
        soft.sizes.cut(whole, &shards, now);
        for shard in &shards {
            soft.reshaped.insert(GroupId(shard.group), begun);
        }
    })?;
    server.publish_split(shards, by_placement).await?;
    Ok(there)
}

/// Has `left` absorb `right`, which begins where it ends and lies on the same nodes.
pub(super) async fn merge(
    server: &Arc<MetaServer>,
    channels: &Channels,
    left: GroupId,
    right: GroupId,
) -> Result<(), Error> {
    let (to_left, to_right) = (Executor::of(server, channels, left)?, Executor::of(server, channels, right)?);
    let reported = |group: GroupId| {
        let known = server.with_soft(|soft, _| {
            let known = soft.groups.get(&group);
            known.and_then(|known| Some((known.report.descriptor.clone()?, nodes(&known.report.replicas))))
        })?;
        known.ok_or_else(|| Error::Unavailable(format!("{group} has not said what it is")))
    };
    let ((left_shard, left_nodes), (right_shard, right_nodes)) = (reported(left)?, reported(right)?);
    if left_shard.end != right_shard.start || left_nodes != right_nodes {
        return Err(Error::Unavailable(format!("{left} and {right} are not neighbours on the same nodes")));
    }
    // What has to be flushed while nobody is served shall be little.
    on_disk(server, &to_right, &right_nodes, 0).await?;
    let began = server.seams.clock.now();
    let freeze = pb::Freeze { into: left.0, into_epoch: left_shard.epoch };
    let frozen = to_right.ask_descriptor(Ask::Freeze(freeze)).await?;
    let absorbed = async {
        on_disk(server, &to_right, &right_nodes, frozen.epoch).await?;
        let absorb = pb::Absorb { right: Some(frozen.clone()), epoch: left_shard.epoch };
        to_left.ask_descriptor(Ask::Absorb(absorb)).await
    };
    let merged = match absorbed.await {
        Ok(merged) => merged,
        Err(error) => {
            // (Should this fail, too, the right shard's leader reports that it is frozen, and it is tried again.)
            let called_off = call_off(server, channels, &frozen, left, left_shard.epoch).await;
            if called_off.is_ok() {
                served_again(server, began);
            }
            return match called_off {
                Ok(true) => Ok(()),
                _ => Err(error),
            };
        }
    };
    let away = served_again(server, began);
    info!("{left} has absorbed {right}, which was away for {} ms", away.as_millis());
    done(server, left, right, merged).await
}

/// Records for how long the right shard's keys were not served: from the moment when it was asked to freeze to the one when the
/// left one has said that it holds them, or the right one that it serves again.
fn served_again(server: &MetaServer, began: Instant) -> Duration {
    let away = server.seams.clock.now().saturating_duration_since(began);
    metrics::histogram!("flotilla_merge_seconds").record(away.as_secs_f64());
    away
}

async fn done(
    server: &Arc<MetaServer>,
    left: GroupId,
    right: GroupId,
    merged: ShardDescriptor,
) -> Result<(), Error> {
    server.with_soft(|soft, now| {
        soft.reshaped.insert(left, now);
        soft.groups.remove(&right);
        soft.between_leaders.remove(&right);
    })?;
    server.publish(vec![merged]).await
}

fn nodes(replicas: &[proto::meta::ReplicaProgress]) -> BTreeSet<NodeId> {
    replicas.iter().map(|replica| NodeId(replica.node)).collect()
}

/// Returns when all nodes have the shard's state on disk, frozen at `epoch` unless that is 0.
async fn on_disk(
    server: &Arc<MetaServer>,
    executor: &Executor<'_>,
    nodes: &BTreeSet<NodeId>,
    epoch: u64,
) -> Result<(), Error> {
    if sabotage::is(Sabotage::AbsorbUnseen) {
        return Ok(());
    }
    let asks = nodes.iter().map(|node| async move {
        let (cluster_id, group) = (executor.cluster_id.clone(), executor.group.0);
        let mut control = executor.control(*node)?;
        let request = rpc::AwaitFrozenRequest { cluster_id, group, epoch };
        let limit = if epoch == 0 { OPERATION_LIMIT } else { FROZEN_LIMIT };
        within(&server.seams, limit, control.await_frozen(request)).await.map(|_| ())
    });
    futures::future::try_join_all(asks).await.map(|_| ())
}

/// Ends a merge that did not come to its end: whether the shard was absorbed all the same. Otherwise it serves again.
pub(super) async fn call_off(
    server: &Arc<MetaServer>,
    channels: &Channels,
    frozen: &ShardDescriptor,
    left: GroupId,
    left_epoch: u64,
) -> Result<bool, Error> {
    let right = GroupId(frozen.group);
    // A left shard that is gone can't absorb any more. Had it done so, whoever has its keys now has those of the right one, too.
    let (exists, absorbed) =
        server.replica.read(|state| (state.shards().contains_key(&left), state.is_absorbed(frozen)));
    if absorbed {
        return Ok(true);
    }
    if exists {
        let to_left = Executor::of(server, channels, left)?;
        let now = to_left.ask_descriptor(Ask::Abandon(pb::Abandon { epoch: left_epoch })).await?;
        let holds = now.start <= frozen.start && (now.end.is_empty() || now.end > frozen.start);
        if holds {
            info!("{left} had absorbed {right}");
            return done(server, left, right, now).await.map(|()| true);
        }
        server.publish(vec![now]).await?;
    }
    let to_right = Executor::of(server, channels, right)?;
    let thawed = to_right.ask_descriptor(Ask::Thaw(pb::Thaw { epoch: frozen.epoch })).await?;
    info!("{right} serves again: it is not absorbed by {left}");
    server.with_soft(|soft, now| soft.reshaped.insert(right, now))?;
    server.publish(vec![thawed]).await?;
    Ok(false)
}

/// Shards that are frozen, and that nobody here is merging: with their left neighbours, and at which epochs of those.
pub(super) fn left_frozen(soft: &Soft) -> Vec<(ShardDescriptor, GroupId, u64)> {
    let reported = soft.groups.iter().filter(|(group, known)| {
        let into = GroupId(known.report.frozen_into);
        known.report.frozen_into != 0
            && !soft.operations.contains_key(group)
            && !soft.operations.contains_key(&into)
    });
    let found = reported.filter_map(|(_, known)| {
        let (into, epoch) = (GroupId(known.report.frozen_into), known.report.frozen_into_epoch);
        Some((known.report.descriptor.clone()?, into, epoch))
    });
    found.collect()
}

/// See [`left_frozen`]; says how it went.
pub(super) async fn clean_up(
    server: &Arc<MetaServer>,
    channels: &Channels,
    frozen: (ShardDescriptor, GroupId, u64),
) -> Result<(), Error> {
    let (frozen, left, epoch) = frozen;
    let outcome = call_off(server, channels, &frozen, left, epoch).await.map(|_| ());
    if let Err(error) = &outcome {
        debug!("g{} stays frozen for now: {error}", frozen.group);
    }
    outcome
}
