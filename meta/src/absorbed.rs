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
//!
//! A **blank** replica, made for a group that was absorbed before it got anything, has no key to go by: it is gone if nobody has written to it for a minute and the
//! meta-group, asked, has no such shard.
//!
//! The map that this node has may be old, but what speaks against a replica never ends to do so, for epochs only grow, and it comes
//! with the next report. So the meta-group is asked only if the map here does already: to ask for each of ten thousand replicas
//! at rest, in turn, would be thirty requests a second of each node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raft::MultiRaft;
use storage::ids::{Epoch, GroupId};
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

/// A blank replica that nobody has written to for so long may be of a group that is gone; one that was just born is known to the meta-group by then.
const BLANK_MIN: Duration = Duration::from_secs(60);

/// Nobody writes to a replica at rest: one in so many of them is looked at in a round.
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
            () = seams.beat(LOOK_EVERY) => {}
        }
        round += 1;
        let awake = multi.awake().into_iter().filter_map(|group| shards.registry().get(group.id()));
        let resting = shards.registry().all().into_iter().filter(|shard| has_turn(shard.group(), round));
        let due: BTreeMap<GroupId, Arc<Shard>> =
            resting.chain(awake).map(|shard| (shard.group(), shard)).collect();
        for shard in due.into_values() {
            let Some(group) = multi.group(shard.group()) else { continue };
            // A frozen one may well have a leader still: of others that are frozen.
            if shard.frozen().is_none() && (group.leads().is_some() || group.unheard_for() < UNHEARD_MIN) {
                continue;
            }
            let gone = match shard.descriptor() {
                Some(_) => is_gone(&shard, &shards, &client).await,
                None => group.unheard_for() >= BLANK_MIN && is_unheard_of(shard.group(), &client).await,
            };
            if !gone {
                continue;
            }
            match multi.bury(shard.group(), group.replica()).await {
                Ok(()) => info!("{}: was absorbed elsewhere, and is removed from this node", shard.group()),
                Err(error) => debug!("{}: was absorbed elsewhere, and stays for now: {error}", shard.group()),
            }
        }
    }
}

fn has_turn(group: GroupId, round: u64) -> bool {
    (group.0 + round).is_multiple_of(RESTING_EVERY)
}

/// The meta-group knows no such shard. (A blank replica was made for a group that was absorbed before it got anything; its number is never
/// given to another.)
async fn is_unheard_of(group: GroupId, client: &MetaClient) -> bool {
    client.refresh().await.is_ok() && client.shard(group).is_none()
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
    let is_taken = |(group, epoch): (GroupId, Epoch)| group != shard.group() && epoch > descriptor.epoch;
    let start = &descriptor.range.start;
    if client.holder(start).is_some_and(|holder| !is_taken(holder)) {
        return false;
    }
    client.lookup(start).await.is_ok_and(|found| is_taken((found.group, found.epoch)))
}
