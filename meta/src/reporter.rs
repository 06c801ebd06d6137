//! Each node's heartbeat to the meta-group's leader: once a second, and at once when what the node leads has changed, when a node that lets
//! no sessions in has lost some, and when the leader wants one, for it wants something else of the node than before.
//!
//! What it has to say of its groups at rest is kept (`at_rest.rs`), since there may be thousands of which nothing changes. It is made
//! anew for a group that has woken or was laid to rest, and for all when other nodes answer, or are dead, than before; beyond that nothing
//! about a group at rest can change, for whatever changes it is applied by a group that is awake. A report holds what has changed since the
//! last one, or everything if the leader, which may be another, does not know what came before.

mod at_rest;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::meta as pb;
use raft::{GroupStatus, MultiRaft, Reach};
use storage::ids::{GroupId, NodeId};
use storage::seam::Seams;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};
use txn::ShardDescriptor;

use self::at_rest::{AtRest, Away, Say};
use crate::meter::Meter;
use crate::{Error, MetaClient};

/// How often changes are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// All that rests here is told at most so often.
const ALL_AGAIN: Duration = Duration::from_secs(2);
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
    /// The processor time that these have taken.
    fn cpu(&self, group: GroupId) -> Duration;
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
        let mut last_shape = Shape::default();
        let mut meter = Meter::default();
        let mut resting = AtRest::default();
        // What what rests came to when the leader heard of it last.
        let mut known = None;
        let mut told_all: Option<Instant> = None;
        // The nodes that are dead, by what the leader said last.
        let mut dead = Arc::default();
        loop {
            self.multi.set_snapshot_rate(self.client.snapshot_rate());
            self.multi.set_quorum_reads(self.client.quorum_reads());
            self.multi.set_log_compression(self.client.log_compression());
            let mut groups = self.led();
            let facts = self.local.facts();
            let away = Away { lost: self.multi.reach().lost_nodes(), dead: Arc::clone(&dead) };
            let shape = Shape::of(&groups, &facts, &dead);
            let now = self.seams.clock.now();
            let due = last_sent.is_none_or(|at| now - at >= REPORT_EVERY);
            if due || shape != last_shape {
                self.follow_rest(&mut resting, away, now);
                meter.measure(&*self.local, now, &mut groups);
                // Nobody is told all of it again and again, whatever keeps him from believing it.
                let again = known.is_none() && told_all.is_some_and(|at| now - at < ALL_AGAIN);
                let say = match again {
                    true => Say::Nothing,
                    false => resting.say(known, &*self.local, now),
                };
                let with_resting = matches!(say, Say::All(_));
                told_all = if with_resting { Some(now) } else { told_all };
                let (resting_since, at_rest, resting_gone) = match say {
                    Say::Nothing => (None, Vec::new(), Vec::new()),
                    Say::Changes { since, reports, gone } => (Some(since), reports, gone),
                    Say::All(reports) => (None, reports, Vec::new()),
                };
                groups.extend(at_rest);
                let request = pb::ReportRequest {
                    cluster_id: self.cluster_id.to_be_bytes().to_vec().into(),
                    node: self.node.0,
                    addresses: Some(self.addresses.clone()),
                    groups,
                    facts: Some(facts),
                    resting_digest: resting.digest(),
                    with_resting,
                    resting_since,
                    resting_gone,
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
                        known = (!wanted.resting).then_some(resting.digest());
                        if known.is_some() {
                            resting.said();
                        }
                        last_sent = (!wanted.soon && !wanted.resting).then_some(now);
                        last_shape = shape;
                        dead = wanted.dead.map_or(dead, Arc::new);
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
                () = self.seams.beat(LOOK_EVERY) => {}
                () = self.client.hurried() => last_sent = None,
            }
        }
    }

    /// The groups this node leads.
    fn led(&self) -> Vec<pb::GroupReport> {
        let lost = self.multi.reach().lost_nodes();
        let statuses = self.multi.awake().into_iter().map(|group| group.status());
        statuses.filter_map(|status| self.group_report(&status, &BTreeSet::new(), &lost)).collect()
    }

    /// Brings up to date what is to be said of the groups that rest at home on this node.
    fn follow_rest(&self, resting: &mut AtRest, away: Away, now: Instant) {
        // Before the groups are looked at: one that changes meanwhile is looked at again.
        let changed = self.multi.take_rest_changes();
        let reach = self.multi.reach();
        let here = || -> Vec<GroupId> { self.multi.groups().iter().map(|group| group.id()).collect() };
        let tell = |group, away: &Away| self.at_rest(group, &reach, away);
        resting.follow(away, now, changed, here, tell);
    }

    /// What is to be said of a group, if it rests at home on this node, while these nodes are away.
    fn at_rest(&self, group: GroupId, reach: &Reach, away: &Away) -> Option<pb::GroupReport> {
        let group = self.multi.group(group)?;
        let status = group.status_at_rest(&away.dead)?;
        let report = self.group_report(&status, &group.owes(), &away.lost)?;
        status.members.values().chain(status.learners.values()).for_each(|node| reach.watch(*node));
        Some(report)
    }

    /// `owed`: nodes that may lack entries of it, if it rests. `lost`: nodes that don't answer.
    fn group_report(
        &self,
        status: &GroupStatus,
        owed: &BTreeSet<NodeId>,
        lost: &BTreeSet<NodeId>,
    ) -> Option<pb::GroupReport> {
        let term = status.serves()?;
        let frozen = self.local.frozen(status.group);
        Some(pb::GroupReport {
            group: status.group.0,
            term: term.0,
            descriptor: self.local.descriptor(status.group).map(|d| (&d).into()),
            replicas: members(status, owed, lost),
            load: None,
            joint: status.joint,
            frozen_into: frozen.map_or(0, |(into, _)| into.0),
            frozen_into_epoch: frozen.map_or(0, |(_, epoch)| epoch),
            rests: status.rests,
        })
    }
}

/// How far a group's members are, and which of them answer. See [`Reporter::group_report`].
fn members(
    status: &GroupStatus,
    owed: &BTreeSet<NodeId>,
    lost: &BTreeSet<NodeId>,
) -> Vec<pb::ReplicaProgress> {
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
            true => !lost.contains(node),
            false => progress.and_then(|p| p.silent_for).is_some_and(|silent| silent < SILENT_MAX),
        };
        pb::ReplicaProgress {
            replica: replica.0,
            node: node.0,
            learner,
            lag: if own { 0 } else { lag },
            reachable: own || reachable,
            behind: progress.is_some_and(|p| p.behind),
        }
    };
    let voters = status.members.iter().map(|(replica, node)| progress(*replica, node, false));
    let learners = status.learners.iter().map(|(replica, node)| progress(*replica, node, true));
    voters.chain(learners).collect()
}

/// What of a report is worth another one at once. (Lag is not: it changes all the time. Sessions come and go, too, where they are let in.)
#[derive(Debug, Default, PartialEq, Eq)]
struct Shape {
    /// Group, term, epoch, members and voters.
    groups: Vec<(u64, u64, u64, usize, usize)>,
    /// How many sessions are left, where none are let in: somebody waits for the last one.
    left: Option<u64>,
    /// Which nodes are dead: this one may stand in for what rested at home there.
    dead: Arc<BTreeSet<NodeId>>,
}

impl Shape {
    fn of(groups: &[pb::GroupReport], facts: &pb::NodeFacts, dead: &Arc<BTreeSet<NodeId>>) -> Self {
        let voters = |g: &pb::GroupReport| g.replicas.iter().filter(|r| !r.learner).count();
        let epoch = |g: &pb::GroupReport| g.descriptor.as_ref().map_or(0, |d| d.epoch);
        let groups =
            groups.iter().map(|g| (g.group, g.term, epoch(g), g.replicas.len(), voters(g))).collect();
        Self { groups, left: facts.closed.then_some(facts.sessions), dead: Arc::clone(dead) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_a_node_that_is_drained_has_left_is_told_at_once() {
        let shape = |closed, sessions| {
            let facts = pb::NodeFacts { closed, sessions, ..pb::NodeFacts::default() };
            Shape::of(&[], &facts, &Arc::default())
        };
        assert_eq!(shape(false, 1), shape(false, 2), "they come and go");
        assert_ne!(shape(false, 0), shape(true, 0), "it is closed");
        assert_ne!(shape(true, 1), shape(true, 0), "the last one has gone");
        assert_eq!(shape(true, 1), shape(true, 1));
    }
}
