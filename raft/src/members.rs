//! Changes of a group's members, by its leader: what is refused before openraft is asked.
//!
//! - **One change at a time.** [`Group::change`] holds a lock here, and openraft refuses a change while another is not
//!   committed. A change that was cut off between its two entries (joint, then uniform) is ended by the next one: the
//!   joint voters count as voters until then.
//! - **A voter goes only if those who stay can do without it**: of the new voters a majority has answered lately, and those
//!   that had no vote before have all but the end of the log. Else a change could take a group from "one more may fail"
//!   to "stopped", or wait for a learner with writes stopped.
//! - **The leader never removes itself**: it hands over first. (Its lease would not know that it has ended.)
//! - **Replica ids only grow within a group**: a replica that left is never added again, however late a request for it is.

use std::collections::BTreeSet;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use storage::ids::{NodeId, ReplicaId};

use crate::api::{ChangeError, GroupStatus, NotLeader};
use crate::group::Group;
use crate::types::Host;

/// How many entries a learner may lack when it gets its vote.
const PROMOTION_LAG_MAX: u64 = 1_000;

impl Group {
    /// Adds a replica without a vote. Returns when the change is committed, not when the replica has caught up.
    /// Idempotent.
    pub async fn add_learner(&self, replica: ReplicaId, node: NodeId) -> Result<(), ChangeError> {
        let core = self.core().ok_or_else(|| self.not_leader())?;
        let members = core.server.borrow_watched().membership_config.clone();
        match members.membership().get_node(&replica.0) {
            Some(host) if host.0 == node.0 => return Ok(()),
            Some(host) => {
                return Err(ChangeError::Refused(format!("{replica} is on {} already", NodeId(host.0))));
            }
            None => {}
        }
        let newest = members.membership().nodes().map(|(id, _)| *id).max();
        if newest.is_some_and(|newest| replica.0 < newest) {
            return Err(ChangeError::Refused(format!("{replica} is older than the group's newest member")));
        }
        self.change(ChangeMembers::AddNodes([(replica.0, Host(node.0))].into())).await
    }

    /// Makes exactly these members (learners or voters so far) the voters; voters not named leave the group,
    /// learners not named stay. The leader must be among them: transfer the leadership before.
    pub async fn change_voters(&self, voters: BTreeSet<ReplicaId>) -> Result<(), ChangeError> {
        if !voters.contains(&self.replica()) {
            return Err(ChangeError::Refused("the leader cannot remove itself".to_owned()));
        }
        self.can_commit(&self.status(), &voters)?;
        self.change(ChangeMembers::ReplaceAllVoters(voters.iter().map(|r| r.0).collect())).await
    }

    /// See the module.
    fn can_commit(&self, status: &GroupStatus, voters: &BTreeSet<ReplicaId>) -> Result<(), ChangeError> {
        let fresh = 2 * self.options.election_max;
        let answers = |replica: &ReplicaId| {
            let progress = status.progress.get(replica);
            *replica == self.replica() || progress.and_then(|p| p.silent_for).is_some_and(|s| s < fresh)
        };
        let behind = |replica: &ReplicaId| {
            let progress = status.progress.get(replica);
            !progress.is_some_and(|p| p.matched.is_some() && p.lag <= PROMOTION_LAG_MAX)
        };
        let refused = |why: String| Err(ChangeError::Refused(why));
        let new = voters.iter().filter(|replica| !status.members.contains_key(replica));
        if let Some(replica) = new.into_iter().find(|replica| !answers(replica) || behind(replica)) {
            return refused(format!("{replica} does not answer, or has not caught up"));
        }
        let live = voters.iter().filter(|replica| answers(replica)).count();
        if live <= voters.len() / 2 {
            return refused(format!("of the {} voters there would be, only {live} answer", voters.len()));
        }
        Ok(())
    }

    /// Removes a replica, whatever it is to the group; a voter under the conditions of [`Group::change_voters`]. One that
    /// is no member any more is gone already.
    pub async fn remove(&self, replica: ReplicaId) -> Result<(), ChangeError> {
        let status = self.status();
        if status.members.contains_key(&replica) {
            return self.change_voters(status.members.into_keys().filter(|r| *r != replica).collect()).await;
        }
        match status.learners.contains_key(&replica) {
            true => self.remove_learners([replica].into()).await,
            false => Ok(()),
        }
    }

    /// Removes learners.
    pub async fn remove_learners(&self, learners: BTreeSet<ReplicaId>) -> Result<(), ChangeError> {
        self.change(ChangeMembers::RemoveNodes(learners.iter().map(|r| r.0).collect())).await
    }

    /// Whether a replica is a member of the group, or might still be one. `Ok(false)` is final, except for a replica that
    /// has yet to be added: this replica led at a moment after the call began, and no change that it knows of, committed or
    /// not, has the replica in it.
    pub async fn has_member(&self, replica: ReplicaId) -> Result<bool, NotLeader> {
        let term = self.leads().ok_or_else(|| self.not_leader())?;
        self.confirm_quorum(term).await?;
        let core = self.core().ok_or_else(|| self.not_leader())?;
        let known = core.server.borrow_watched();
        let memberships = [&known.membership_config, &known.committed_membership_config];
        Ok(memberships.iter().any(|m| m.membership().get_node(&replica.0).is_some()))
    }
}
