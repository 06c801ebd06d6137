//! Replicas of shards that were absorbed elsewhere, while this node did not see it.
//!
//! Where the absorption comes in the left shard's log, or in a snapshot of it, the right replica goes by itself
//! (`txn/src/shard/merge.rs`). It comes in neither where the left shard was cut again before this node got its snapshot, or has left
//! this node. Then the right replica stays, and stands in the way of whoever has its keys now: there is no leader whom
//! [`crate::Leftovers`] could ask.
//!
//! **What counts** is the map: another shard has the replica's first key, under a higher epoch. A shard keeps its first key for as
//! long as it exists, so this one is gone. And the left shard's replica on this node, if there is one, must be past the epoch at which it could
//! still absorb it: the absorption is then no entry that its log might still bring, and would find nothing.

use std::sync::Arc;
use std::time::Duration;

use raft::MultiRaft;
use storage::ids::GroupId;
use storage::seam::Seams;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use txn::shard::Shard;
use txn::{Directory, ShardServer};

use crate::MetaClient;

/// Between two rounds.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A replica that a leader has written to more lately is in order, or will be.
const UNHEARD_MIN: Duration = Duration::from_secs(10);

/// Of the replicas at rest, one in so many is looked at in a round.
const RESTING_EVERY: u64 = 60;

/// Looks for them until cancelled.
pub async fn run(
    shards: Arc<ShardServer>,
    multi: Arc<MultiRaft>,
    client: Arc<MetaClient>,
    seams: Seams,
    stop: CancellationToken,
) {
    let mut round = 0_u64;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = seams.sleep(LOOK_EVERY) => {}
        }
        round += 1;
        for shard in shards.registry().all() {
            let Some(group) = multi.group(shard.group()) else { continue };
            // A frozen one may well have a leader still: of others that are frozen.
            if shard.frozen().is_none() && (group.leads().is_some() || group.unheard_for() < UNHEARD_MIN) {
                continue;
            }
            // Nobody writes to one at rest: each has its turn.
            if group.rests() && !(shard.group().0 + round).is_multiple_of(RESTING_EVERY) {
                continue;
            }
            if !is_gone(&shard, &shards, &client).await {
                continue;
            }
            match multi.bury(shard.group(), group.replica()).await {
                Ok(()) => info!("{}: was absorbed elsewhere, and is removed from this node", shard.group()),
                Err(error) => debug!("{}: was absorbed elsewhere, and stays for now: {error}", shard.group()),
            }
        }
    }
}

async fn is_gone(shard: &Shard, shards: &ShardServer, client: &MetaClient) -> bool {
    let Some(descriptor) = shard.descriptor() else { return false };
    if let Some(frozen) = shard.frozen() {
        let left = shards.registry().get(GroupId(frozen.into));
        // (A blank one has yet to get its snapshot, which may overlap what is frozen into it.)
        let may_absorb = left.is_some_and(|left| {
            left.descriptor().is_none_or(|left| {
                left.epoch.0 <= frozen.into_epoch || left.range.contains(&descriptor.range.start)
            })
        });
        if may_absorb {
            return false;
        }
    }
    match client.lookup(&descriptor.range.start).await {
        Ok(found) => found.group != shard.group() && found.epoch > descriptor.epoch,
        Err(_) => false,
    }
}
