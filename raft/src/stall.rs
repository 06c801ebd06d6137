//! A disk that stalls: its node should not lead.
//!
//! Nothing is lost while it does: entries are committed by the others, and neither leader nor lease depends on the leader's own
//! disk. But as long as it lasts one more failure stops the group, a vote that the core has to save blocks it, and what is
//! slow rarely comes alone. So a node whose log has been busy with one write for longer than
//! [`RaftOptions::disk_stall`](crate::RaftOptions)
//!
//! - says so: an error in its log, `flotilla_raft_disk_stalled_total`, and in its pulses, so that nobody hands it a leadership;
//! - stands back in each group where somebody is better: hands the leadership to a voter that does not stall, and stands for
//!   no election;
//! - is taken for well when the disk has kept up for a while.
//!
//! A group that rests at home there ([`crate::rest`]) is woken elsewhere.
//!
//! Somebody is better in a group if another of its voters is on a node that is heard and does not stall
//! ([`Group::is_outdone`]). Nodes that have no vote there, however well they are, can't lead it. Where nobody is better, for
//! all voters stall or are silent, the replica leads, stands for election and wakes as ever: a slow leader is better than
//! none. Both may change while the disk stalls: it is asked again at each look.
//!
//! What a node says is the truth, whether or not it stands back: nodes that said so only as long as others are better would
//! change their minds together, again and again.
//!
//! A leader that has handed over may learn of it only when its disk is back: openraft's core waits for the vote that it gives
//! its successor to be saved. So from the moment of the transfer on it takes no proposals, vouches for no reads, and says at once that it
//! does not lead ([`crate::Group::propose`], [`crate::Group::confirm_quorum`]).

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use storage::ids::GroupId;
use storage::seam::Seams;

use crate::group::Group;
use crate::multi::MultiRaft;

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A look that comes so much too late: this process has slept, and the disk need not have.
const SLEPT: Duration = Duration::from_millis(250);
/// The disk is well when it has kept up for so many times the limit.
const RECOVERY: u32 = 5;
/// Before a leadership that nobody took is offered again.
const AGAIN: Duration = Duration::from_secs(1);

/// Looks at the log's disk until the node's consensus layer is gone.
pub(crate) async fn watch(multi: Weak<MultiRaft>, seams: Seams) {
    let mut looked = seams.clock.now();
    let mut awake = looked;
    let mut seen: Option<Instant> = None;
    let mut offered = HashMap::new();
    loop {
        seams.beat(LOOK_EVERY).await;
        let Some(multi) = multi.upgrade() else { return };
        if multi.is_stopping() {
            return;
        }
        let now = seams.clock.now();
        if now.saturating_duration_since(looked) > LOOK_EVERY + SLEPT {
            awake = now;
        }
        looked = now;
        let limit = multi.options().disk_stall;
        let stalled_for = multi.log.stalled_for().min(now.saturating_duration_since(awake));
        if stalled_for >= limit {
            seen = Some(now);
        }
        let stalled = seen.is_some_and(|at| now.saturating_duration_since(at) < limit * RECOVERY);
        let hub = multi.hub();
        let is_new = hub.liveness.set_stalled(hub.me, stalled);
        if is_new {
            announce(stalled, limit);
            offered.clear();
        }
        if stalled || is_new {
            // Somebody may have come to be better, or not be any more.
            multi.roll().awake().iter().for_each(|group| stand_or_stand_back(group));
        }
        if stalled {
            hand_over(&multi, &seams, &mut offered);
        }
    }
}

fn announce(stalled: bool, limit: Duration) {
    metrics::gauge!("flotilla_raft_disk_stalled").set(f64::from(u8::from(stalled)));
    match stalled {
        true => {
            metrics::counter!("flotilla_raft_disk_stalled_total").increment(1);
            tracing::error!(
                "the disk stalls: a write to the log takes longer than {limit:?}; this node leaves it to others to lead"
            );
        }
        false => tracing::info!("the disk has kept up for {:?}: this node may lead again", limit * RECOVERY),
    }
}

/// Whether the replica stands for election when it misses a leader, as it is now.
fn stand_or_stand_back(group: &Group) {
    match group.stands_back() {
        true => group.keep_from_election(),
        false if !group.is_gated() => group.stand_for_election(),
        false => {}
    }
}

/// Offers what this node leads to others, each group once in a while.
fn hand_over(multi: &MultiRaft, seams: &Seams, offered: &mut HashMap<GroupId, Instant>) {
    let now = seams.clock.now();
    let is_to_leave = |group: &Arc<Group>| group.leads().is_some() && group.stands_back();
    for group in multi.roll().awake().into_iter().filter(is_to_leave) {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < AGAIN;
        if offered.get(&group.id()).is_some_and(recent) || group.is_handing_over() {
            continue;
        }
        offered.insert(group.id(), now);
        seams.spawn("raft-hand-over", give_away(group, "the disk stalls"));
    }
}

/// Hands a leadership over, if there is somebody to take it.
pub(crate) async fn give_away(group: Arc<Group>, why: &'static str) {
    // A sole voter, and one whose others don't answer, keeps what it has.
    let Some(to) = group.successor() else { return };
    match group.transfer_leader(to).await {
        Ok(()) => tracing::info!(group = %group.id(), %to, why, "handed over"),
        Err(error) => {
            tracing::info!(group = %group.id(), %to, %error, why, "not handed over")
        }
    }
}
