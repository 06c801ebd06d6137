//! How a group is laid to rest: by its leader, when nothing speaks against it, and then by those that hear of it. The order of
//! the steps is what makes it safe: see [`crate::rest`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use proto::raft as wire;
use storage::ids::{LogIndex, NodeId};

use super::Rested;
use crate::api::{GroupStatus, Peer, Role};
use crate::core::Core;
use crate::group::Group;
use crate::types::{Vote, log_id_to_wire, vote_to_wire};

/// How long the others may take to answer that they rest, too.
const TELL_LIMIT: Duration = Duration::from_millis(500);
const TELL_BYTES: usize = 64;

impl Group {
    /// Lays the group to rest, as its leader, if nothing speaks against it. Whether it has.
    pub(crate) async fn lay_to_rest(self: &Arc<Self>) -> bool {
        let Some((rest, others)) = self.go_to_rest().await else { return false };
        self.tell_to_rest(rest, others).await;
        true
    }

    /// Nothing is held any more: whoever asks for the group meanwhile does not wait until all have been told. One that hears
    /// of it late has another vote by then, or rests, and is woken.
    pub(super) async fn tell_to_rest(&self, rest: wire::Rest, others: Vec<Peer>) {
        let tell = |other: Peer| {
            let body = wire::request::Body::Rest(rest.clone());
            let link = self.nursery.hub.link(other.node);
            link.request(self.id(), self.replica(), other.replica, TELL_BYTES, TELL_LIMIT, body)
        };
        // Whoever doesn't hear it wakes the others some time.
        let _ = futures::future::join_all(others.into_iter().map(tell)).await;
    }

    /// … here. What to tell, and whom.
    pub(super) async fn go_to_rest(self: &Arc<Self>) -> Option<(wire::Rest, Vec<Peer>)> {
        let _turn = self.rest.turn.try_lock().ok()?;
        let _members = self.changes.try_lock().ok()?;
        // Nothing is in flight, and nothing comes.
        let all = self.options.proposals_in_flight_max as u32;
        let _proposals = self.proposals.try_acquire_many(all).ok()?;
        let core = self.core()?;
        let status = self.status_of(&core);
        let owed = match self.may_rest(&status) {
            Ok(owed) => owed,
            Err(why) => {
                tracing::trace!(group = %self.id(), why, "not to be laid to rest");
                return None;
            }
        };
        let (vote, last) = {
            let metrics = core.metrics.borrow_watched();
            let agrees = metrics.state == ServerState::Leader && metrics.current_term == status.term.0;
            if !agrees || metrics.last_applied.is_none() {
                return None;
            }
            (metrics.vote, metrics.last_applied)
        };
        let others: Vec<Peer> = status
            .members
            .iter()
            .chain(&status.learners)
            .map(|(replica, node)| Peer { replica: *replica, node: *node })
            .filter(|other| other.replica != self.replica())
            .collect();
        let rest = wire::Rest {
            vote: Some(vote_to_wire(&vote)),
            last: last.as_ref().map(log_id_to_wire),
            owed: owed.iter().map(|node| node.0).collect(),
        };
        let rests = self.close(&core, status, owed, &vote).await;
        rests.then_some((rest, others))
    }

    /// Whether the group has no work, as far as its leader sees: who lacks entries, for his node is away; or why it has.
    fn may_rest(&self, status: &GroupStatus) -> Result<BTreeSet<NodeId>, &'static str> {
        if status.role.leads() != Some(status.term) || self.is_gated() || self.is_stopping() {
            return Err("it does not lead");
        }
        if status.joint || status.last.is_none() {
            return Err("its members are being changed");
        }
        if status.last != status.committed || status.last != status.applied {
            return Err("entries are on their way");
        }
        if !self.machine().may_rest() {
            return Err("its state machine has work");
        }
        let mut owed = BTreeSet::new();
        let mut voters = 1;
        let fresh = 4 * self.options.heartbeat;
        for (replica, node) in status.members.iter().chain(&status.learners) {
            if *replica == self.replica() {
                continue;
            }
            let progress = status.progress.get(replica);
            let answers = progress.and_then(|p| p.silent_for).is_some_and(|silence| silence < fresh);
            match progress {
                Some(p) if answers && p.lag == 0 => {
                    voters += usize::from(status.members.contains_key(replica))
                }
                _ if !self.nursery.hub.liveness.is_heard(*node) => {
                    owed.insert(*node);
                }
                _ => return Err("a member lacks entries"),
            }
        }
        if 2 * voters > status.members.len() { Ok(owed) } else { Err("no majority has all of it") }
    }

    /// The leader says that it has laid the group to rest, and that members on these nodes may lack entries. Whether this replica
    /// rests, too.
    pub(crate) async fn follow_to_rest(
        self: &Arc<Self>,
        from: Peer,
        vote: Vote,
        last: u64,
        owed: BTreeSet<NodeId>,
    ) -> bool {
        let _turn = self.rest.turn.lock().await;
        let Some(core) = self.core() else {
            let mut rested = self.rest.rested.lock();
            let is_news = rested.status.leader != Some(from) || rested.owed != owed;
            if rested.status.term.0 <= vote.leader_id().term && is_news {
                rested.status.leader = Some(from);
                rested.owed = owed;
                self.nursery.roll.rests(self.id(), rested.owes());
            }
            return true;
        };
        let mut status = self.status_of(&core);
        let agrees = {
            let metrics = core.metrics.borrow_watched();
            let follows = matches!(metrics.state, ServerState::Follower | ServerState::Learner);
            follows && metrics.vote == vote && vote.is_committed()
        };
        let whole = status.last == Some(LogIndex(last)) && status.applied == Some(LogIndex(last));
        if !agrees || !whole || status.joint || self.is_stopping() {
            return false;
        }
        status.leader = Some(from);
        self.close(&core, status, owed, &vote).await
    }

    /// Drops openraft's instance. False if its vote was not what it seemed: then the replica is gated for a while, and wakes.
    async fn close(
        self: &Arc<Self>,
        core: &Arc<Core>,
        status: GroupStatus,
        owed: BTreeSet<NodeId>,
        vote: &Vote,
    ) -> bool {
        if !self.end_instance(core, status, owed, vote).await {
            return false;
        }
        self.rest.rested.lock().vote = Some(*vote);
        metrics::counter!("flotilla_raft_rests_total").increment(1);
        tracing::debug!(group = %self.id(), replica = %self.replica(), "at rest");
        true
    }

    /// … and says for itself nothing about the log.
    pub(super) async fn end_instance(
        self: &Arc<Self>,
        core: &Arc<Core>,
        status: GroupStatus,
        owed: BTreeSet<NodeId>,
        vote: &Vote,
    ) -> bool {
        let rested = Rested { status: GroupStatus { rests: true, ..status }, owed, vote: None };
        {
            let _one = self.rest.publishing.lock();
            let leader = rested.leader_elsewhere();
            let owes = rested.owes();
            *self.rest.rested.lock() = rested;
            *self.rest.core.write() = None;
            // It would not stand for election, and so never wake.
            self.set_stuck(false);
            self.nursery.roll.rests(self.id(), owes);
            self.publish(Role::Follower { leader });
        }
        core.close().await;
        if core.log.vote() == Some(*vote) {
            return true;
        }
        let closing = self.gate.close();
        let group = self.clone();
        self.seams.spawn("raft-gate", async move {
            group.seams.sleep(group.options.election_max).await;
            group.gate.outlive(closing);
            // (It was awake: its place is its own.)
            if group.awake_in_any_case().await.is_ok() && !group.is_gated() {
                group.stand_for_election();
            }
        });
        false
    }
}
