//! Replicas that this node should have and doesn't.
//!
//! A shard that is born by a split is created by each replica of its parent when the split is applied. A node that was
//! away meanwhile may get its parent's state in a snapshot from after the split: then it never applies the split, and
//! the child's leader sends to a replica that isn't there. Such a message is the occasion to make it, if it is still missing
//! after a while (the children of a split that was applied a moment ago are being made, with their data; one made here is
//! blank, and needs a snapshot), under two conditions: the meta-group's map says that this node holds that replica, and no shard
//! of this node overlaps the range (else the snapshot is still on its way, and the child's data would be written over the parent's).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use meta::MetaClient;
use parking_lot::Mutex;
use raft::{MultiRaft, UnknownReplica};
use storage::ids::{GroupId, META_GROUP};
use storage::seam::Seams;
use tracing::{debug, info};
use txn::Registry;

/// A replica that is made otherwise is made within this time.
const GRACE: Duration = Duration::from_secs(3);

/// Installs the hook in `multi`.
pub fn adopt_orphans(multi: &Arc<MultiRaft>, registry: Arc<Registry>, client: Arc<MetaClient>, seams: Seams) {
    let weak = Arc::downgrade(multi);
    let underway: Arc<Mutex<HashSet<GroupId>>> = Arc::default();
    multi.on_unknown_replica(move |unknown| {
        // The meta-group's replicas are made by its leader's word alone.
        if unknown.group == META_GROUP || !underway.lock().insert(unknown.group) {
            return;
        }
        let (weak, registry, client, underway) =
            (weak.clone(), registry.clone(), client.clone(), underway.clone());
        let clock = seams.clone();
        seams.spawn("adopt", async move {
            clock.sleep(GRACE).await;
            let is_here = |group: Arc<raft::Group>| group.replica() == unknown.replica;
            let missing = |multi: &Arc<MultiRaft>| !multi.group(unknown.group).is_some_and(is_here);
            if let Some(multi) = weak.upgrade().filter(missing) {
                adopt(unknown, &multi, &registry, &client).await;
            }
            underway.lock().remove(&unknown.group);
        });
    });
}

async fn adopt(unknown: UnknownReplica, multi: &Arc<MultiRaft>, registry: &Registry, client: &MetaClient) {
    let UnknownReplica { group, replica, .. } = unknown;
    if let Err(error) = client.refresh().await {
        debug!("{group} writes to {replica}, which is not here: {error}");
        return;
    }
    let Some(shard) = client.shard(group) else { return };
    if shard.replicas.get(&replica) != Some(&registry.me()) || registry.overlaps(&shard.range) {
        return;
    }
    match multi.create_replica(group, replica).await {
        Ok(_) => info!("{group}: created {replica}, which was missing here"),
        Err(error) => debug!("{group}: cannot create {replica}: {error}"),
    }
}
