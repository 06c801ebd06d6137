//! Replicas that can't go on, though their node can: a log entry or a row that could not be read, an install that failed, a quarantine.
//!
//! And those that may not be as they should, for somebody has met damage in their rows ([`MultiRaft::suspect`]): a read answers an error, and
//! the replica, if it leads, leads on.
//!
//! A replica that has failed takes part in nothing any more, and its group goes on without it as long as the others are a majority. It does not mend by
//! itself: the meta-group is told ([`MultiRaft::suspects`]), has the group's replicas compared at once, and replaces the one that failed if a
//! majority of the voters is well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use storage::ids::GroupId;

use crate::api::Role;
use crate::group::Group;
use crate::multi::MultiRaft;

/// The meta-group is told of no more at a time.
const TOLD_MAX: usize = 1_000;

/// Whoever has met damage is believed for so long: the meta-group hears of it within a second, unless it has no leader.
const DOUBTED_FOR: Duration = Duration::from_secs(30);

/// See the module. Shared by all groups of a node.
#[derive(Default)]
pub(crate) struct Suspects {
    /// Their replicas here have stopped, and are here still.
    stopped: Mutex<BTreeSet<GroupId>>,
    /// Damage was met in their rows here, and when.
    damaged: Mutex<BTreeMap<GroupId, Instant>>,
}

impl Suspects {
    /// This node's replica has stopped, and not because the node does.
    pub fn stopped(&self, group: GroupId) {
        self.stopped.lock().insert(group);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.stopped.lock().len()
    }

    /// It is not here any more.
    pub fn gone(&self, group: GroupId) {
        self.stopped.lock().remove(&group);
        self.damaged.lock().remove(&group);
    }

    fn all(&self, now: Instant) -> BTreeSet<GroupId> {
        let mut all = self.stopped.lock().clone();
        let mut damaged = self.damaged.lock();
        damaged.retain(|_, met| now.saturating_duration_since(*met) < DOUBTED_FOR);
        all.extend(damaged.keys());
        all
    }
}

impl MultiRaft {
    /// Groups whose replicas are to be compared at once, for there is something wrong with the one here: those of which it has failed, is in
    /// quarantine, or has met damage lately. (Some of them, if there are more than fit into a report.) None while the whole store fails: then the
    /// node goes, see [`MultiRaft::broken`].
    pub fn suspects(&self) -> Vec<GroupId> {
        if self.fails_all() {
            return Vec::new();
        }
        self.doubts().all(self.seams().clock.now()).into_iter().take(TOLD_MAX).collect()
    }

    /// Somebody has met damage in what this node holds of a group: its replicas are to be compared. Costs nothing to repeat.
    pub fn suspect(&self, group: GroupId) {
        let met = self.doubts().damaged.lock().insert(group, self.seams().clock.now());
        if met.is_none() {
            metrics::counter!("flotilla_raft_damage_met_total").increment(1);
            tracing::error!(%group, "DAMAGE WAS MET in this replica's rows: the replicas of the group are to be compared");
        }
    }
}

impl Group {
    /// Why this replica has failed, if it has: it has stopped by itself, for good, and the others have to do without it. One that stops because
    /// its node's whole store fails is as good as its node, which goes: see [`MultiRaft::broken`].
    pub fn failed(&self) -> Option<Arc<str>> {
        if self.is_stopping()
            || self.nursery.log.failure().is_some()
            || self.shared.engine.failure().is_some()
        {
            return None;
        }
        match &*self.role().borrow() {
            Role::Stopped { reason } => Some(reason.clone()),
            _ => None,
        }
    }
}
