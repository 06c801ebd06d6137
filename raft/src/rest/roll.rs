//! The roll of a node's groups: who is awake, who owes entries, and the look over all of them that lays them to rest and wakes
//! them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use storage::ids::{GroupId, NodeId};
use storage::seam::Seams;

use super::Rested;
use crate::crowd::{Crowd, Place};
use crate::group::Group;
use crate::multi::MultiRaft;

/// How often groups without work are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Groups laid to rest, and woken for what they owe, in one look.
const LAID_MAX: usize = 256;
const WOKEN_MAX: usize = 16;

/// Who is awake, of all groups of a node: what is done for each of them is not to be done for ten thousand that rest.
#[derive(Default)]
pub(crate) struct Roll {
    awake: Mutex<BTreeMap<GroupId, Weak<Group>>>,
    /// At rest, with members that may lack entries.
    owing: Mutex<BTreeSet<GroupId>>,
    /// At rest since the start of the process, at home elsewhere: who lacks entries is not known here.
    unsure: Mutex<BTreeSet<GroupId>>,
    crowd: Crowd,
    /// Changes with who rests, and where.
    version: AtomicU64,
    /// Groups of which that has changed since somebody took them.
    changed: Mutex<BTreeSet<GroupId>>,
}

impl Roll {
    pub(super) fn woke(&self, group: &Arc<Group>) {
        self.owing.lock().remove(&group.id());
        self.unsure.lock().remove(&group.id());
        self.awake.lock().insert(group.id(), Arc::downgrade(group));
        self.moved(group.id());
    }

    /// It rests since the start of the process.
    pub fn found_at_rest(&self, group: GroupId, rested: &Rested) {
        self.rests(group, rested.owes());
        if rested.is_unsure() {
            self.unsure.lock().insert(group);
        }
    }

    pub fn rests(&self, group: GroupId, owes: bool) {
        self.awake.lock().remove(&group);
        self.unsure.lock().remove(&group);
        match owes {
            true => self.owing.lock().insert(group),
            false => self.owing.lock().remove(&group),
        };
        self.moved(group);
    }

    /// It rests, or has its home, elsewhere than before.
    fn moved(&self, group: GroupId) {
        self.changed.lock().insert(group);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    pub fn gone(&self, group: GroupId) {
        self.rests(group, false);
    }

    /// A place among those awake, for one that is to wake, if fewer than `limit` are.
    pub(super) fn enter(&self, limit: usize) -> Option<Place> {
        let awake = self.awake.lock();
        self.crowd.enter(awake.len(), limit)
    }

    pub fn awake(&self) -> Vec<Arc<Group>> {
        self.awake.lock().values().filter_map(Weak::upgrade).collect()
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    pub fn take_changed(&self) -> BTreeSet<GroupId> {
        std::mem::take(&mut *self.changed.lock())
    }
}

/// Lays to rest what has no work, and wakes who owes entries to nodes that answer again; until the node stops.
pub(crate) async fn run(multi: Weak<MultiRaft>, seams: Seams) {
    loop {
        seams.beat(LOOK_EVERY).await;
        let Some(multi) = multi.upgrade() else { return };
        if multi.is_stopping() {
            return;
        }
        look(&multi).await;
    }
}

async fn look(multi: &Arc<MultiRaft>) {
    let (options, roll) = (multi.options(), multi.roll());
    let awake = roll.awake();
    metrics::gauge!("flotilla_raft_groups_awake").set(awake.len() as f64);
    let patience = if awake.len() > options.awake_max { options.rest_after / 8 } else { options.rest_after };
    let patience = (patience.as_secs_f64() / LOOK_EVERY.as_secs_f64()).ceil() as u32;
    let too_many = awake.len().saturating_sub(options.awake_limit / 2);
    let idle: Vec<Idle<Arc<Group>>> = awake
        .into_iter()
        .map(|group| Idle { looks: group.rest.look(), refused: group.rest.refused(), group })
        .filter(|idle| idle.looks > 0 && idle.group.leads().is_some())
        .collect();
    for group in to_be_laid(idle, patience, too_many) {
        // Beside the others: telling them takes a moment.
        group.seams.clone().spawn("raft-rest", async move {
            if !group.lay_to_rest().await {
                group.rest.defer(too_many > 0);
            }
        });
    }
    let mut owing: Vec<GroupId> = roll.owing.lock().iter().copied().collect();
    if multi.hub().liveness.misses_anyone() {
        owing.extend(&*roll.unsure.lock());
    }
    let due = owing.into_iter().filter_map(|id| multi.group(id)).filter(|group| group.is_to_settle());
    for group in due.take(WOKEN_MAX) {
        // Beside the others: one may be slow to wake.
        group.seams.clone().spawn("raft-settle", async move { group.campaign().await });
    }
}

/// A group that is awake, and that nobody uses.
struct Idle<T> {
    /// For so many looks.
    looks: u32,
    /// It could not be laid to rest so often meanwhile.
    refused: u32,
    group: T,
}

/// Those that nobody has used for long, and if there are `too_many` so many in any case. Those first that were not tried before: what
/// can't rest, for a member lacks entries, may be as many as fit into a look, and is not to keep all others awake.
fn to_be_laid<T>(mut idle: Vec<Idle<T>>, patience: u32, too_many: usize) -> impl Iterator<Item = T> {
    idle.sort_by_key(|idle| Reverse(idle.looks));
    let due = idle.into_iter().enumerate().filter(|(n, idle)| idle.looks >= patience || *n < too_many);
    let mut due: Vec<Idle<T>> = due.map(|(_, idle)| idle).collect();
    // Stable: of those that were tried as often, the one that nobody has used for longest.
    due.sort_by_key(|idle| idle.refused);
    due.into_iter().take(LAID_MAX).map(|idle| idle.group)
}

impl Group {
    /// It rests at home here, and somebody who lacks entries, or may, answers again; or its home is missed, and nobody stands in.
    fn is_to_settle(&self) -> bool {
        let is_busy = self.rest.turn.try_lock().is_err();
        if self.is_gated() || self.is_stopping() || is_busy {
            return false;
        }
        let me = self.nursery.hub.me;
        let is_back = |node: &NodeId| *node != me && self.nursery.hub.liveness.is_heard(*node);
        (self.owes().iter().any(is_back) && self.rests_at_home()) || (self.rests() && self.is_in_doubt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: u32 = 20;

    #[test]
    fn what_cannot_rest_keeps_no_other_awake() {
        // Each look: all have been idle for one look more, and those below the limit can't be laid to rest.
        const STUCK: usize = LAID_MAX + 10;
        const ALL: usize = STUCK + 5;
        let mut refused = [0; ALL];
        let mut laid = BTreeSet::new();
        for look in 0..3 {
            let awake = (0..ALL).filter(|group| !laid.contains(group));
            // What is stuck has been idle for longer.
            let looks = |group: usize| if group < STUCK { 1000 + look } else { PATIENCE + look };
            let idle = awake.map(|group| Idle { looks: looks(group), refused: refused[group], group });
            let tried: Vec<usize> = to_be_laid(idle.collect(), PATIENCE, 0).collect();
            assert!(tried.len() <= LAID_MAX);
            for group in tried {
                if group < STUCK {
                    refused[group] += 1;
                } else {
                    laid.insert(group);
                }
            }
        }
        assert_eq!(laid, (STUCK..ALL).collect::<BTreeSet<_>>());
        assert!(refused[..STUCK].iter().all(|tries| *tries > 0), "nor is any of them given up");
    }

    #[test]
    fn who_is_in_use_is_not_laid_to_rest_unless_there_are_too_many() {
        let idle = || Vec::from([3, 50, 7].map(|looks| Idle { looks, refused: 0, group: looks }));
        assert!(to_be_laid(idle(), PATIENCE, 0).eq([50]));
        assert!(to_be_laid(idle(), PATIENCE, 2).eq([50, 7]));
    }
}
