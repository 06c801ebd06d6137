//! What the leader knows without having replicated it: from the nodes' reports, and of what it has begun itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use proto::meta as pb;
use storage::ids::{GroupId, NodeId, ReplicaId, Term};

use crate::consistency::suspects::Suspects;
use crate::deadlock::Waits;
use crate::loads::Loads;
use crate::safe_point::SafePoint;
use crate::sizes::Sizes;

/// A node that has been silent for so long counts as dead.
pub const DEAD_AFTER: Duration = Duration::from_millis(2_500);

/// What the leader of a term knows without having replicated it.
pub(crate) struct Soft {
    pub(crate) term: Term,
    /// When this node began to lead: until [`DEAD_AFTER`] later, everybody counts as alive.
    pub(crate) since: Instant,
    pub(crate) last_seen: HashMap<NodeId, Instant>,
    /// What nodes last said of themselves.
    pub(crate) facts: HashMap<NodeId, pb::NodeFacts>,
    pub(crate) groups: BTreeMap<GroupId, Reported>,
    /// What the reports of the groups at rest on a node come to that are in `groups`.
    pub(crate) resting: HashMap<NodeId, u64>,
    /// When a node last said that what rests there is what is in `groups`.
    pub(crate) confirmed: HashMap<NodeId, Instant>,
    /// The groups that a node led by its last report, but for those at rest.
    pub(crate) awake: HashMap<NodeId, Vec<GroupId>>,
    /// Changes with who leads what. Not with the term: a group at rest that wakes where it has its home is led where it was.
    pub(crate) leaders_version: u64,
    /// Groups whose leader stopped leading, and whose next one has not reported yet: since when.
    pub(crate) between_leaders: HashMap<GroupId, Instant>,
    /// Operations under way, or done and not yet seen in a report.
    pub(crate) operations: HashMap<GroupId, crate::reconcile::Underway>,
    /// Shards whose range has changed, or could not be changed, and since when: what is known of their bytes and load is not of what
    /// they are now.
    pub(crate) reshaped: HashMap<GroupId, Instant>,
    /// What shards are asked.
    pub(crate) loads: Loads,
    /// How large those are that have just been cut.
    pub(crate) sizes: Sizes,
    /// Which replica of a group the learner that was added last is to replace.
    pub(crate) replacing: HashMap<GroupId, ReplicaId>,
    /// The ends of what has ended are being replicated.
    pub(crate) ending: bool,
    /// Nodes that are down and that an operator does not want awaited.
    pub(crate) given_up: HashSet<NodeId>,
    /// Groups whose replicas nodes want compared.
    pub(crate) suspects: Suspects,
    /// Who waits for row locks.
    pub(super) waits: Waits,
    pub(super) safe_point: SafePoint,
}

/// A group's last report.
pub(crate) struct Reported {
    pub(crate) by: NodeId,
    /// Since when it leads in this term, as far as was reported.
    pub(crate) since: Instant,
    /// When this report came. See [`Reported::said_at`].
    pub(crate) at: Instant,
    pub(crate) report: pb::GroupReport,
    /// Since when its leader has not heard of these replicas.
    pub(crate) silent_since: HashMap<ReplicaId, Instant>,
}

impl Soft {
    pub(crate) fn new(term: Term, since: Instant, leaders_version: u64) -> Self {
        let (resting, confirmed, awake, suspects) = Default::default();
        let (last_seen, facts, groups, between_leaders, operations) = Default::default();
        let (reshaped, loads, sizes, replacing, ending, given_up, waits, safe_point) = Default::default();
        Self {
            term,
            since,
            resting,
            confirmed,
            awake,
            leaders_version,
            last_seen,
            facts,
            groups,
            between_leaders,
            operations,
            reshaped,
            loads,
            sizes,
            replacing,
            ending,
            given_up,
            suspects,
            waits,
            safe_point,
        }
    }

    pub(crate) fn alive(&self, node: NodeId, now: Instant) -> bool {
        self.last_seen.get(&node).map_or(now - self.since, |seen| now - *seen) < DEAD_AFTER
    }

    /// What a group is asked and how large it is, as far as is known; `None`: nothing is.
    pub(crate) fn load_of(&self, group: GroupId, now: Instant) -> Option<pb::GroupLoad> {
        let known = self.groups.get(&group);
        let bytes = self.sizes.of(group, known.map(|known| &known.report));
        let told = known.and_then(|known| Some((known.report.load?, known.since)));
        match told {
            Some((load, since)) => Some(pb::GroupLoad { bytes, ..self.loads.of(group, load, since, now) }),
            None => bytes.map(|bytes| pb::GroupLoad { bytes: Some(bytes), ..pb::GroupLoad::default() }),
        }
    }
}
