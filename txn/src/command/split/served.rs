//! How long a split keeps keys from being served, as the leader that carries it out sees it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use raft::MultiRaft;
use storage::ids::GroupId;
use storage::seam::Beat;

use crate::server::ShardServer;
use crate::shard::Registry;

/// What takes longer is counted as that much: then it is not the split that is slow, but nodes are gone.
const WATCHED_MAX: Duration = Duration::from_secs(10);

/// Records the time from `began`, since when requests wait for the split's latch, to the moment when all children have a leader.
/// The split's answer does not wait for that: those who asked are to learn of the children meanwhile.
pub fn measure(server: &ShardServer, began: Instant, children: Vec<GroupId>) {
    // Neither is to be kept by this when the node stops.
    let (registry, multi) = (Arc::downgrade(server.registry()), Arc::downgrade(server.multi()));
    let (seams, mut changes) = (server.seams().clone(), server.registry().watch());
    let own = seams.clone();
    seams.spawn("split-served", async move {
        loop {
            let Some(served) = are_served(&registry, &multi, &children) else { return };
            let away = own.clock.now().saturating_duration_since(began);
            if served || away >= WATCHED_MAX {
                metrics::histogram!("flotilla_split_seconds").record(away.as_secs_f64());
                return;
            }
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                // That another node leads a child is not told here.
                () = own.beat(Beat::EVERY) => {}
            }
        }
    });
}

/// Whether all of them have a leader, on this node or elsewhere; `None` when the node stops.
fn are_served(registry: &Weak<Registry>, multi: &Weak<MultiRaft>, children: &[GroupId]) -> Option<bool> {
    let (registry, multi) = (registry.upgrade()?, multi.upgrade()?);
    let is_led = |group: GroupId| registry.get(group).is_some_and(|shard| shard.leadership().is_some());
    let is_served = |group: GroupId| multi.group(group).is_some_and(|group| group.seems_served());
    Some(children.iter().all(|group| is_led(*group) || is_served(*group)))
}
