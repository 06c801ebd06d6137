//! Changes of members, and of the leader.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use storage::ids::{NodeId, ReplicaId, Term};
use tokio::sync::oneshot;

use super::{Group, not_leader};
use crate::api::{ChangeError, Progress, Role};
use crate::core::Core;
use crate::types::Host;

/// How many entries the next leader may lack when a transfer begins. Writes wait until it has them.
const TRANSFER_LAG_MAX: u64 = 1000;
/// … and how many bytes of them.
const TRANSFER_BYTES_MAX: u64 = 8 << 20;

impl Group {
    pub(crate) async fn change(&self, change: ChangeMembers<u64, Host>) -> Result<(), ChangeError> {
        let _turn = self.changes.lock().await;
        if self.leads().is_none() || self.is_mute() {
            return Err(self.not_leader().into());
        }
        self.rest.touch();
        let core = self.core().ok_or_else(|| self.not_leader())?;
        if self.shared.machine.keeps_members() {
            return Err(ChangeError::Refused(
                "the group's members are to stay as they are for now".to_owned(),
            ));
        }
        self.changing.store(true, Ordering::SeqCst);
        let result = tokio::select! {
            result = core.raft.change_membership(change, false) => result,
            () = self.seams.sleep(self.options.propose_timeout) => {
                // The flag stays: who votes is unclear until the role changes or the next change succeeds.
                return Err(ChangeError::Ambiguous("no quorum has answered in time".to_owned()));
            }
        };
        if let Ok(response) = &result {
            await_membership(&core, response.log_id.index).await;
        }
        let ambiguous = matches!(&result, Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))));
        if !ambiguous {
            self.changing.store(false, Ordering::SeqCst);
        }
        match result {
            Ok(_) => Ok(()),
            Err(RaftError::Fatal(_)) if core.is_closing() => {
                Err(ChangeError::Ambiguous("the leadership was given up meanwhile".to_owned()))
            }
            Err(RaftError::Fatal(fatal)) => Err(ChangeError::Stopped(self.stop_reason(&fatal))),
            Err(RaftError::APIError(error)) => Err(match error {
                ClientWriteError::ForwardToLeader(to) => not_leader(&to).into(),
                ClientWriteError::LogEntryDiscarded(_) => ChangeError::Ambiguous(error.to_string()),
                ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
                )
                | ClientWriteError::PreconditionFailed(_) => ChangeError::InProgress(error.to_string()),
                ClientWriteError::ChangeMembershipError(_) => ChangeError::Refused(error.to_string()),
            }),
        }
    }

    /// No change of members begins here while this is held. What another leader has begun before is in the log already, and
    /// to be seen in [`Group::status`].
    pub async fn hold_members(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.changes.clone().lock_owned().await
    }

    /// Hands the leadership to another voter. `Ok` says that this replica leads no more; usually, but not certainly,
    /// `to` does. If that fails in time, this replica stands for election again, so that the group can write: also if the caller does not
    /// wait for it.
    pub async fn transfer_leader(self: &Arc<Self>, to: ReplicaId) -> Result<(), ChangeError> {
        let Some(term) = self.leads() else { return Err(self.not_leader().into()) };
        if to == self.replica() {
            return Ok(());
        }
        self.rest.touch();
        let core = self.core().ok_or_else(|| self.not_leader())?;
        let is_voter = core.server.borrow_watched().membership_config.voter_ids().any(|id| id == to.0);
        if !is_voter {
            return Err(ChangeError::Refused(format!("{to} has no vote")));
        }
        // To one that does not answer, or is far behind, it would cost an outage.
        let status = self.status();
        let ready = |progress: &Progress| self.answers(progress) && is_close(&core, progress);
        let Some(progress) = status.progress.get(&to).copied().filter(ready) else {
            return Err(ChangeError::Refused(format!("{to} does not answer or is behind")));
        };
        // What it has in its log it has yet to apply; and its disk, and the way to it, are busy. But where much is written, all may be
        // behind at once, and for long: then one that is close in this group is as good as any.
        let stalls = |node: NodeId| self.nursery.hub.liveness.is_stalled(node);
        let is_better = |(replica, node): (&ReplicaId, &NodeId)| {
            let progress = status.progress.get(replica).copied().filter(ready);
            progress.is_some_and(|progress| !progress.behind) && !stalls(*node)
        };
        if progress.behind && status.members.iter().any(is_better) {
            return Err(ChangeError::Refused(format!("the node of {to} is catching up")));
        }
        if self.voters().iter().any(|(id, node)| *id == to && stalls(*node)) {
            return Err(ChangeError::Refused(format!("the disk of {to} stalls")));
        }
        // Before the first voter hears of it.
        self.handing_over.store(true, Ordering::SeqCst);
        if self.leads() != Some(term) {
            self.handing_over.store(false, Ordering::SeqCst);
            return Err(self.not_leader().into());
        }
        // In a task of its own: if whoever asks for it goes away, there would be nobody to end it.
        let (done, handed_over) = oneshot::channel();
        let group = self.clone();
        self.seams.spawn("raft-transfer", async move {
            let outcome = group.hand_over(&core, term, to).await;
            let failed = matches!(outcome, Err(ChangeError::TimedOut(_)));
            let _ = done.send(outcome);
            if failed {
                group.begin_anew(&core, term).await;
            }
        });
        let stopping = |_| Err(ChangeError::TimedOut("the node is shutting down".to_owned()));
        handed_over.await.unwrap_or_else(stopping)
    }

    /// … or waits for it in vain.
    async fn hand_over(&self, core: &Core, term: Term, to: ReplicaId) -> Result<(), ChangeError> {
        if let Err(fatal) = core.raft.trigger().transfer_leader(to.0).await {
            return Err(match core.is_closing() {
                true => self.not_leader().into(),
                false => ChangeError::Stopped(self.stop_reason(&fatal)),
            });
        }
        let mut role = self.role();
        let deposed = |role: &Role| role.leads() != Some(term);
        tokio::select! {
            // (The role outlives all who wait for it.)
            _ = role.wait_for(deposed) => return Ok(()),
            // By then all leases have run out: openraft is silent as long as a transfer lasts.
            () = self.seams.sleep(self.options.election_max * 2) => {}
        }
        tracing::warn!(group = %self.id(), %to, "a leader transfer has failed; this replica stands for election again");
        Err(ChangeError::TimedOut(format!("{to} did not take over")))
    }

    /// Waits until a leader of a later term serves: until then it may need this replica to commit its first entry.
    pub(crate) async fn succeeded(&self, term: Term) -> Result<(), ChangeError> {
        let mut applied = self.shared.applied_term();
        let served = applied.wait_for(|applied| *applied > term.0).await;
        served.map(|_| ()).map_err(|_| ChangeError::TimedOut("the replica has stopped".to_owned()))
    }
}

/// Whether a member will have all of the log in a moment.
fn is_close(core: &Core, progress: &Progress) -> bool {
    let matched = progress.matched.map_or(0, |index| index.0);
    progress.lag <= TRANSFER_LAG_MAX && core.log.bytes_after(matched) <= TRANSFER_BYTES_MAX
}

/// Waits until the metrics tell of the membership that came with an entry.
async fn await_membership(core: &Core, index: u64) {
    let mut server = core.raft.server_metrics();
    loop {
        let known = server.borrow_watched().membership_config.log_id().is_some_and(|id| id.index >= index);
        if known || server.changed().await.is_err() {
            return;
        }
    }
}
