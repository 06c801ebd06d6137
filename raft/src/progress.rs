//! A replica whose state makes no progress: it should not lead.
//!
//! Entries that are committed are applied one after the other. If that hangs, because the state database has stopped
//! writes or through a defect, nothing else shows it: the log goes on, and with it the leader's lease, while nobody gets an
//! answer. So a replica that has committed entries to apply, and has applied none of them for
//! [`RaftOptions::apply_stall`](crate::RaftOptions),
//!
//! - says so: an error in its log, `flotilla_raft_apply_stalled_total`, the gauge `flotilla_raft_apply_stalled`, and its node's pulses;
//! - stands for no election and takes no leadership;
//! - hands its own over; one that was elected without being able to serve falls silent, so that the others elect;
//! - is taken for well as soon as it has applied something.
//!
//! If there is nobody better, because no other voter's node is heard, or answers, that says of itself that all is well (a database that stops writes
//! does so on all nodes alike), it does nothing but say so: a group without a leader serves nobody, either, and does not
//! come back by itself.
//!
//! A snapshot that is being installed is progress. A replica that has failed is none of this: it has stopped, and has said so.
//!
//! A node whose replicas make progress, but have far to go, since it was away, is *behind*: as long as a voter there lacks much of what
//! is committed, and comes closer, its pulses say so, and nobody hands it a leadership, of other groups either
//! ([`Group::transfer_leader`]), if there is somebody better. It would have to apply first what it has not, while clients wait, with its
//! disk and the way to it busy. It stands for election all the same.
//! (After a start a node is behind as long as its gates are closed: it would refuse a leadership, and has not heard yet what it lacks.)

mod behind;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use storage::ids::{GroupId, NodeId, ReplicaId};
use storage::seam::Seams;

use crate::core::Core;
use crate::group::Group;
use crate::multi::MultiRaft;
use crate::stall::give_away;
use behind::Behind;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A look that comes so much too late: this process has slept, and applied nothing meanwhile.
const SLEPT: Duration = Duration::from_millis(500);
/// Before a leadership that nobody took is offered again.
const AGAIN: Duration = Duration::from_secs(2);

/// Where a replica stands that has something to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    applied: Option<u64>,
    since: Instant,
    /// Somebody was told that it stands.
    reported: bool,
    offered: Option<Instant>,
}

impl Standing {
    fn at(applied: Option<u64>, now: Instant) -> Self {
        Self { applied, since: now, reported: false, offered: None }
    }

    /// For so long nothing was applied.
    fn stands_for(&mut self, applied: Option<u64>, now: Instant) -> Duration {
        if self.applied != applied {
            *self = Self::at(applied, now);
        }
        now.saturating_duration_since(self.since)
    }

    /// Whether to offer the leadership now.
    fn is_due(&mut self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < AGAIN;
        if self.offered.is_some_and(recent) {
            return false;
        }
        self.offered = Some(now);
        true
    }
}

/// Looks at what the replicas apply until the node's consensus layer is gone.
pub(crate) async fn watch(multi: Weak<MultiRaft>, seams: Seams) {
    let mut standing: HashMap<GroupId, Standing> = HashMap::new();
    let mut lagging = Behind::default();
    let mut looked = seams.clock.now();
    let mut starting = multi.upgrade().is_some_and(|multi| is_gated(&multi));
    if let Some(multi) = multi.upgrade() {
        multi.hub().liveness.set_behind(multi.hub().me, starting);
    }
    loop {
        seams.sleep(LOOK_EVERY).await;
        let Some(multi) = multi.upgrade() else { return };
        if multi.is_stopping() {
            return;
        }
        let now = seams.clock.now();
        if now.saturating_duration_since(looked) > LOOK_EVERY + SLEPT {
            standing.values_mut().for_each(|standing| standing.since = now);
            lagging.slept(now);
        }
        looked = now;
        let mut stuck = 0_u32;
        starting = starting && is_gated(&multi);
        let mut waiting = HashMap::new();
        for group in multi.roll().awake() {
            let Some(core) = group.core() else { continue };
            if group.shared().fault.get().is_some() {
                continue;
            }
            let applied = group.shared().applied_index();
            lagging.see(&multi, &group, &core, applied, now);
            if applied >= due(&core) || group.shared().is_installing() {
                well(&group);
                continue;
            }
            let mut at = standing.remove(&group.id()).unwrap_or_else(|| Standing::at(applied, now));
            if at.stands_for(applied, now) < multi.options().apply_stall {
                well(&group);
            } else {
                stuck += 1;
                report(&group, &mut at);
                match somebody_is_well(&group) {
                    true => stand_back(&group, &core, &mut at, now),
                    false => stand_by(&group, &core),
                }
            }
            waiting.insert(group.id(), at);
        }
        standing = waiting;
        metrics::gauge!("flotilla_raft_apply_stalled").set(f64::from(stuck));
        // The truth, whether or not somebody stands back for it: those who said so only as long as others are better would change their
        // minds together, again and again.
        let hub = multi.hub();
        hub.liveness.set_stuck(hub.me, stuck > 0);
        // (The look ends also while the node starts.)
        let behind = lagging.end_look() || starting;
        metrics::gauge!("flotilla_raft_behind").set(f64::from(u8::from(behind)));
        if hub.liveness.set_behind(hub.me, behind) {
            match behind {
                true => tracing::info!(
                    "a replica here lacks much: this node takes no leadership until it has caught up"
                ),
                false => tracing::info!("the replicas here have caught up"),
            }
        }
    }
}

/// The last entry that is here, and committed.
pub(crate) fn due(core: &Core) -> Option<u64> {
    let metrics = core.metrics.borrow_watched();
    metrics.cluster_committed.map(|id| id.index).min(metrics.last_log_index)
}

/// Whether a replica here may not vote yet. (One that has failed never may.)
fn is_gated(multi: &MultiRaft) -> bool {
    multi.groups().iter().any(|group| group.is_gated() && group.shared().fault.get().is_none())
}

/// Whether another voter is there whose node says that all is well, or has not said otherwise and answers this leader. (What hangs here
/// may be the thread on which the others would be heard.)
fn somebody_is_well(group: &Group) -> bool {
    let liveness = &group.nursery.hub.liveness;
    let successor = group.successor();
    let is_well = |(replica, node): (ReplicaId, NodeId)| {
        let answers = successor == Some(replica) && !liveness.is_stalled(node) && !liveness.is_stuck(node);
        replica != group.replica() && (answers || liveness.is_well(node))
    };
    group.voters().into_iter().any(is_well)
}

fn well(group: &Arc<Group>) {
    if group.set_stuck(false) {
        tracing::info!(group = %group.id(), "entries are applied again: this replica may lead again");
        may_lead(group);
    }
}

fn may_lead(group: &Group) {
    if !group.is_gated() {
        group.stand_for_election();
    }
}

/// Says once what is wrong.
fn report(group: &Group, at: &mut Standing) {
    if std::mem::replace(&mut at.reported, true) {
        return;
    }
    metrics::counter!("flotilla_raft_apply_stalled_total").increment(1);
    tracing::error!(
        group = %group.id(), replica = %group.replica(), applied = ?at.applied,
        "committed entries are not applied: this replica makes no progress, and should not lead"
    );
}

/// Nobody is better.
fn stand_by(group: &Group, core: &Core) {
    if !group.set_stuck(false) {
        return;
    }
    tracing::warn!(group = %group.id(), "no other voter is known to be well: this replica may lead all the same");
    if group.leads().is_none() {
        // It may have been elected, and have fallen silent for others to be.
        core.raft.runtime_config().heartbeat(true);
    }
    may_lead(group);
}

fn stand_back(group: &Arc<Group>, core: &Core, at: &mut Standing, now: Instant) {
    if group.set_stuck(true) {
        group.keep_from_election();
    }
    if group.is_handing_over() || !at.is_due(now) {
        return;
    }
    let leads = core.metrics.borrow_watched().state == ServerState::Leader;
    match group.leads() {
        Some(_) => {
            group.seams.spawn("raft-hand-over", give_away(group.clone(), "its state makes no progress"))
        }
        // Until its role changes.
        None if leads => core.raft.runtime_config().heartbeat(false),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_is_progress_however_slow() {
        let start = Seams::real().clock.now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut at = Standing::at(Some(4), start);
        assert_eq!(at.stands_for(Some(4), after(900)), Duration::from_millis(900));
        assert_eq!(at.stands_for(Some(5), after(1000)), Duration::ZERO);
        assert_eq!(at.stands_for(Some(5), after(1500)), Duration::from_millis(500));
    }

    #[test]
    fn a_leadership_is_offered_once_in_a_while() {
        let start = Seams::real().clock.now();
        let mut at = Standing::at(None, start);
        assert!(at.is_due(start));
        assert!(!at.is_due(start + AGAIN / 2));
        assert!(at.is_due(start + AGAIN));
    }
}
