//! Each node's heartbeat to the meta-group's leader: once a second, and at once when what the node leads has changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::meta as pb;
use raft::{GroupStatus, MultiRaft};
use storage::ids::{GroupId, NodeId};
use storage::seam::Seams;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};
use txn::ShardDescriptor;

use crate::meter::Meter;
use crate::{Error, MetaClient};

/// How often changes are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A report goes out at least so often.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// A replica that its leader hasn't heard of for so long counts as unreachable.
const SILENT_MAX: Duration = Duration::from_millis(1_000);

/// Who knows the shards on this node, and the node.
pub trait Local: Send + Sync + 'static {
    /// The descriptor of a shard that has a replica here.
    fn descriptor(&self, group: GroupId) -> Option<ShardDescriptor>;
    /// About how much of the disk a shard takes. May block on the disk for a moment.
    fn bytes(&self, group: GroupId) -> Option<u64>;
    /// Into which shard this one is frozen, and at which epoch of it; `None`: it serves.
    fn frozen(&self, group: GroupId) -> Option<(GroupId, u64)>;
    /// How many requests the shard's leader has served here since it was opened: those that only read, and those that
    /// write.
    fn requests(&self, group: GroupId) -> (u64, u64);
    /// Where the node stands, and its disk.
    fn facts(&self) -> pb::NodeFacts;
}

/// What a report is made of.
pub struct Reporter {
    /// The cluster this node belongs to.
    pub cluster_id: u128,
    /// This node.
    pub node: NodeId,
    /// Where it is reached.
    pub addresses: pb::Addresses,
    /// Its groups.
    pub multi: Arc<MultiRaft>,
    /// Its shards.
    pub local: Arc<dyn Local>,
    /// The way to the leader.
    pub client: Arc<MetaClient>,
    /// The clock.
    pub seams: Seams,
}

impl Reporter {
    /// Runs until cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut last_sent: Option<Instant> = None;
        let mut last_shape = Vec::new();
        let mut meter = Meter::default();
        loop {
            self.multi.set_snapshot_rate(self.client.snapshot_rate());
            let mut groups = self.led();
            let shape = shape(&groups);
            let due = last_sent.is_none_or(|at| self.seams.clock.now() - at >= REPORT_EVERY);
            if due || shape != last_shape {
                meter.measure(&*self.local, self.seams.clock.now(), &mut groups);
                let request = pb::ReportRequest {
                    cluster_id: self.cluster_id.to_be_bytes().to_vec().into(),
                    node: self.node.0,
                    addresses: Some(self.addresses.clone()),
                    groups,
                    facts: Some(self.local.facts()),
                    // The client fills in what it knows itself.
                    ..Default::default()
                };
                let begun = self.seams.clock.now();
                let outcome = tokio::select! {
                    () = stop.cancelled() => return,
                    outcome = self.client.report(request) => outcome,
                };
                match outcome {
                    // While there is work, every look is a report.
                    Ok(busy) => {
                        last_sent = (!busy).then_some(begun);
                        last_shape = shape;
                    }
                    Err(Error::Rejected(why)) => {
                        error!("the cluster refuses this node: {why}");
                        last_sent = Some(begun);
                        last_shape = shape;
                    }
                    Err(error) => debug!("the meta-group did not take this node's report: {error}"),
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.seams.sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The groups this node leads.
    fn led(&self) -> Vec<pb::GroupReport> {
        let statuses = self.multi.groups().into_iter().map(|group| group.status());
        statuses.filter_map(|status| self.group_report(&status)).collect()
    }

    fn group_report(&self, status: &GroupStatus) -> Option<pb::GroupReport> {
        let term = status.role.leads()?;
        let progress = |replica, node: &NodeId, learner| {
            let own = replica == status.replica;
            let progress = status.progress.get(&replica);
            let matched = progress.and_then(|p| p.matched).is_some();
            pb::ReplicaProgress {
                replica: replica.0,
                node: node.0,
                learner,
                lag: if own { 0 } else { progress.filter(|_| matched).map_or(u64::MAX, |p| p.lag) },
                reachable: own
                    || progress.and_then(|p| p.silent_for).is_some_and(|silent| silent < SILENT_MAX),
            }
        };
        let voters = status.members.iter().map(|(replica, node)| progress(*replica, node, false));
        let frozen = self.local.frozen(status.group);
        let learners = status.learners.iter().map(|(replica, node)| progress(*replica, node, true));
        Some(pb::GroupReport {
            group: status.group.0,
            term: term.0,
            descriptor: self.local.descriptor(status.group).map(|d| (&d).into()),
            replicas: voters.chain(learners).collect(),
            load: None,
            joint: status.joint,
            frozen_into: frozen.map_or(0, |(into, _)| into.0),
            frozen_into_epoch: frozen.map_or(0, |(_, epoch)| epoch),
        })
    }
}

/// What of a report is worth another one at once. (Lag is not: it changes all the time.)
fn shape(groups: &[pb::GroupReport]) -> Vec<(u64, u64, u64, usize, usize)> {
    let voters = |g: &pb::GroupReport| g.replicas.iter().filter(|r| !r.learner).count();
    let epoch = |g: &pb::GroupReport| g.descriptor.as_ref().map_or(0, |d| d.epoch);
    groups.iter().map(|g| (g.group, g.term, epoch(g), g.replicas.len(), voters(g))).collect()
}
