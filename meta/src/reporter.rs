//! Each node's heartbeat to the meta-group's leader: once a second, and at once when what the node leads has changed.
//!
//! What it has to say of its groups at rest is kept (`at_rest.rs`), since there may be thousands of which nothing changes. It is made
//! anew for a group that has woken or was laid to rest, and for all when other nodes answer than before; beyond that nothing about a
//! group at rest can change, for whatever changes it is applied by a group that is awake.

mod at_rest;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::meta as pb;
use raft::{GroupStatus, MultiRaft};
use storage::ids::{GroupId, NodeId};
use storage::seam::Seams;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};
use txn::ShardDescriptor;

use self::at_rest::AtRest;
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
        let mut resting = AtRest::default();
        // What rests and is known to the leader.
        let mut known_digest = None;
        loop {
            self.multi.set_snapshot_rate(self.client.snapshot_rate());
            self.multi.set_quorum_reads(self.client.quorum_reads());
            self.multi.set_log_compression(self.client.log_compression());
            let mut groups = self.led();
            let shape = shape(&groups);
            let now = self.seams.clock.now();
            let due = last_sent.is_none_or(|at| now - at >= REPORT_EVERY);
            if due || shape != last_shape {
                self.follow_rest(&mut resting, now);
                meter.measure(&*self.local, now, &mut groups);
                let with_resting = known_digest != Some(resting.digest());
                if with_resting {
                    resting.measure(&*self.local, now);
                    groups.extend(resting.reports().cloned());
                }
                let request = pb::ReportRequest {
                    cluster_id: self.cluster_id.to_be_bytes().to_vec().into(),
                    node: self.node.0,
                    addresses: Some(self.addresses.clone()),
                    groups,
                    facts: Some(self.local.facts()),
                    resting_digest: resting.digest(),
                    with_resting,
                    suspects: self.multi.suspects().into_iter().map(|group| group.0).collect(),
                    // The client fills in what it knows itself.
                    ..Default::default()
                };
                let outcome = tokio::select! {
                    () = stop.cancelled() => return,
                    outcome = self.client.report(request) => outcome,
                };
                match outcome {
                    // While there is work, every look is a report.
                    Ok(wanted) => {
                        known_digest = (!wanted.resting).then_some(resting.digest());
                        last_sent = (!wanted.soon && !wanted.resting).then_some(now);
                        last_shape = shape;
                    }
                    Err(Error::Rejected(why)) => {
                        error!("the cluster refuses this node: {why}");
                        last_sent = Some(now);
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
        let statuses = self.multi.awake().into_iter().map(|group| group.status());
        statuses.filter_map(|status| self.group_report(&status, &BTreeSet::new())).collect()
    }

    /// Brings up to date what is to be said of the groups that rest at home on this node.
    fn follow_rest(&self, resting: &mut AtRest, now: Instant) {
        // Before the groups are looked at: one that changes meanwhile is looked at again.
        let changed = self.multi.take_rest_changes();
        let lost = self.multi.reach().lost_nodes();
        let groups: BTreeSet<GroupId> = match resting.is_stale(&lost, now) {
            true => {
                let here = self.multi.groups().into_iter().map(|group| group.id());
                let groups = here.chain(resting.groups()).collect();
                resting.made_with(lost, now);
                groups
            }
            false => changed,
        };
        for group in groups {
            resting.set(group, self.at_rest(group));
        }
    }

    /// What is to be said of a group, if it rests at home on this node.
    fn at_rest(&self, group: GroupId) -> Option<pb::GroupReport> {
        let group = self.multi.group(group).filter(|group| group.rests())?;
        let status = group.status();
        self.group_report(&status, &group.owes()).filter(|_| status.rests)
    }

    /// `owed`: nodes that may lack entries of it, if it rests.
    fn group_report(&self, status: &GroupStatus, owed: &BTreeSet<NodeId>) -> Option<pb::GroupReport> {
        let term = status.serves()?;
        let reach = self.multi.reach();
        let progress = |replica, node: &NodeId, learner| {
            let own = replica == status.replica;
            let progress = status.progress.get(&replica);
            let matched = progress.and_then(|p| p.matched).is_some();
            let lag = match status.rests {
                true if owed.contains(node) => u64::MAX,
                true => 0,
                false => progress.filter(|_| matched).map_or(u64::MAX, |p| p.lag),
            };
            let reachable = match status.rests {
                true => !reach.is_lost(*node),
                false => progress.and_then(|p| p.silent_for).is_some_and(|silent| silent < SILENT_MAX),
            };
            pb::ReplicaProgress {
                replica: replica.0,
                node: node.0,
                learner,
                lag: if own { 0 } else { lag },
                reachable: own || reachable,
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
            rests: status.rests,
        })
    }
}

/// What of a report is worth another one at once. (Lag is not: it changes all the time.)
fn shape(groups: &[pb::GroupReport]) -> Vec<(u64, u64, u64, usize, usize)> {
    let voters = |g: &pb::GroupReport| g.replicas.iter().filter(|r| !r.learner).count();
    let epoch = |g: &pb::GroupReport| g.descriptor.as_ref().map_or(0, |d| d.epoch);
    groups.iter().map(|g| (g.group, g.term, epoch(g), g.replicas.len(), voters(g))).collect()
}
