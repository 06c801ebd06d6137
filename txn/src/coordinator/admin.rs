//! Splitting, clearing, and looking around.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{GroupId, KeyRange, NodeId, TxnId};

use super::core::{Core, unexpected};
use crate::api::{Activity, Key, LockInfo};
use crate::descriptor::{ShardDescriptor, range_to_pb};
use crate::router::{Repeat, RouteError};
use crate::who::{SessionId, node_of};
use crate::wire::{activity_from_pb, parse_txn, txn_bytes};
use crate::{Error, LockMode};

/// Points at which one request cuts a shard, at most.
const POINTS_MAX: usize = 64;
/// A new shard may take so long to be served, on top of what any request may take.
const PER_POINT: Duration = Duration::from_millis(200);
/// How long a shard or a node may take to say what is known there.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Shards asked at once.
const LOOK_PARALLEL: usize = 32;

/// Makes each key the start of a shard.
pub async fn split(core: &Arc<Core>, keys: &[Key], spread: bool) -> Result<(), Error> {
    let mut keys = keys.to_vec();
    keys.sort();
    keys.dedup();
    let deadline = core.deadline() + PER_POINT * u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let mut pause = Duration::from_millis(5);
    let mut todo = &keys[..];
    while let Some(first) = todo.first() {
        let shard = core.router.route(first, deadline).await?;
        let here = todo.iter().take(POINTS_MAX).take_while(|key| shard.range.contains(key)).count();
        let points: Vec<Key> =
            todo[..here].iter().filter(|key| **key != shard.range.start).cloned().collect();
        if points.is_empty() {
            todo = &todo[here..];
            continue;
        }
        match cut(core, &shard, points, deadline).await? {
            true => todo = &todo[here..],
            false => core.router.pause_before(&mut pause, deadline).await?,
        }
    }
    let mut groups = Vec::with_capacity(keys.len());
    for key in &keys {
        groups.push(serving(core, key, deadline).await?);
    }
    if spread {
        core.directory.spread_leaders(&groups).await?;
    }
    Ok(())
}

/// Cuts one shard. False: it is not what it was any more, or something is in the way; look again.
async fn cut(
    core: &Arc<Core>,
    shard: &Arc<ShardDescriptor>,
    points: Vec<Key>,
    deadline: std::time::Instant,
) -> Result<bool, Error> {
    let groups = core.directory.allocate_groups(points.len()).await?;
    if groups.len() != points.len() {
        return Err(Error::Internal("the directory has allocated another number of groups".to_owned()));
    }
    let points =
        points.into_iter().zip(groups).map(|(key, group)| pb::SplitPoint { key, group: group.0 }).collect();
    // Not repeated blindly: if the answer is lost, looking at the shard tells whether it was cut.
    match core.router.ask(shard, Ask::Split(pb::Split { points }), Repeat::Never, deadline).await {
        Ok(Answer::Descriptors(all)) => {
            let all: Vec<_> =
                all.shards.into_iter().map(ShardDescriptor::try_from).collect::<Result<_, _>>()?;
            for descriptor in &all {
                core.router.learn(descriptor.clone());
            }
            core.directory.publish(&all).await?;
            Ok(true)
        }
        Ok(Answer::Blocked(blocked)) => {
            // A schema change that is about to be decided.
            let own = (storage::ids::Timestamp::MAX, storage::ids::TxnId(u128::MAX));
            let mut pause = Duration::from_millis(5);
            core.clear_the_way(own, blocked.intents, core.seams.clock.now(), &mut pause, deadline).await?;
            Ok(false)
        }
        Err(RouteError::Moved | RouteError::Failed(Error::Ambiguous(_))) => Ok(false),
        Err(RouteError::Failed(error)) => Err(error),
        Ok(_) | Err(RouteError::Pushed) => Err(unexpected()),
    }
}

/// Waits until the shard that begins at `key` answers.
async fn serving(core: &Arc<Core>, key: &Key, deadline: std::time::Instant) -> Result<GroupId, Error> {
    let mut pause = Duration::from_millis(5);
    loop {
        let shard = core.router.route(key, deadline).await?;
        let ask = pb::Read { keys: vec![key.clone()], ..pb::Read::default() };
        match core.router.ask(&shard, Ask::Read(ask), Repeat::Harmless, deadline).await {
            Ok(_) => return Ok(shard.group),
            Err(RouteError::Failed(error)) => return Err(error),
            Err(_) => core.router.pause_before(&mut pause, deadline).await?,
        }
    }
}

/// Removes everything in a range.
pub async fn clear_range(core: &Arc<Core>, range: &KeyRange) -> Result<(), Error> {
    let deadline = core.deadline();
    let mut pause = Duration::from_millis(5);
    let mut left = vec![range.clone()];
    while !left.is_empty() && !range.is_empty() {
        let pieces = core.pieces(&left, deadline).await?;
        left = Vec::new();
        for piece in pieces {
            for part in piece.ranges {
                let ask = Ask::Clear(pb::Clear { range: Some(range_to_pb(&part)) });
                match core.router.ask(&piece.shard, ask, Repeat::Harmless, deadline).await {
                    Ok(_) => {}
                    Err(RouteError::Moved) => left.push(part),
                    Err(RouteError::Failed(error)) => return Err(error),
                    Err(RouteError::Pushed) => return Err(unexpected()),
                }
            }
        }
        if !left.is_empty() {
            core.router.pause_before(&mut pause, deadline).await?;
        }
    }
    Ok(())
}

/// The locks in all shards that overlap `range`. Shards that can't be asked now are left out: it is for looking.
pub async fn locks(core: &Arc<Core>, range: &KeyRange, rows_max: u32) -> Result<Vec<LockInfo>, Error> {
    let shards = core.router.route_all(range, core.deadline()).await?;
    let mut all = Vec::new();
    for some in shards.chunks(LOOK_PARALLEL) {
        let asks = some.iter().map(|shard| {
            let ask = Ask::ListLocks(pb::ListLocks { rows_max });
            core.router.ask(shard, ask, Repeat::Harmless, core.seams.clock.now() + LOOK_TIMEOUT)
        });
        for answer in join_all(asks).await {
            match answer {
                Ok(Answer::Locks(list)) => {
                    for lock in list.locks {
                        all.push(lock_info(lock)?);
                    }
                }
                Ok(_) => return Err(unexpected()),
                Err(error) => tracing::debug!(?error, "a shard does not tell its locks"),
            }
        }
    }
    Ok(all)
}

fn lock_info(lock: pb::ListedLock) -> Result<LockInfo, Error> {
    Ok(LockInfo {
        mode: LockMode::from_pb(lock.strength())?,
        owner: parse_txn(&lock.txn)?,
        session: parse_txn(&lock.session).ok().map(|id| SessionId(id.0)),
        key: lock.key,
        granted: lock.granted,
        age: Duration::from_millis(lock.age_ms),
    })
}

/// What the nodes know of their sessions and transactions, in the order of `ids`.
pub async fn describe(core: &Arc<Core>, ids: &[TxnId]) -> Vec<Option<Activity>> {
    let mut by_node: HashMap<NodeId, Vec<usize>> = HashMap::new();
    for (index, id) in ids.iter().enumerate() {
        by_node.entry(node_of(*id)).or_default().push(index);
    }
    let asks = by_node.iter().map(|(node, indexes)| async move {
        let ask = pb::Describe { ids: indexes.iter().map(|index| txn_bytes(ids[*index])).collect() };
        (indexes, core.router.ask_node(*node, Ask::Describe(ask), LOOK_TIMEOUT).await)
    });
    let mut known: Vec<Option<Activity>> = vec![None; ids.len()];
    for (indexes, answer) in join_all(asks).await {
        match answer {
            Ok(Answer::Descriptions(found)) => {
                for (index, description) in indexes.iter().zip(found.list) {
                    known[*index] = activity_from_pb(description);
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a node does not tell of its sessions"),
        }
    }
    known
}
