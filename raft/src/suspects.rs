//! Replicas that can't go on, though their node can: a log entry or a row that could not be read, an install that failed, a quarantine.
//!
//! Such a replica takes part in nothing any more, and its group goes on without it as long as the others are a majority. It does not mend by
//! itself: the meta-group is told ([`MultiRaft::suspects`]), has the group's replicas compared at once, and replaces the one that failed if a
//! majority of the voters is well.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use storage::ids::GroupId;

use crate::api::Role;
use crate::group::Group;
use crate::multi::MultiRaft;

/// The meta-group is told of no more at a time.
const TOLD_MAX: usize = 1_000;

/// See the module. Shared by all groups of a node.
#[derive(Default)]
pub(crate) struct Suspects {
    /// Their replicas here have stopped, and are here still.
    stopped: Mutex<BTreeSet<GroupId>>,
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
    }
}

impl MultiRaft {
    /// Groups whose replicas are to be compared at once, for there is something wrong with the one here: those of which it has failed, or is in
    /// quarantine. (Some of them, if there are more than fit into a report.) None while the whole store fails: then the
    /// node goes, see [`MultiRaft::broken`].
    pub fn suspects(&self) -> Vec<GroupId> {
        if self.log.failure().is_some() || self.engine().failure().is_some() {
            return Vec::new();
        }
        self.doubts().stopped.lock().iter().take(TOLD_MAX).copied().collect()
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
