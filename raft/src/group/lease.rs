//! Whether this replica leads still: by its lease, or by asking a quorum.

use std::sync::atomic::Ordering;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ReadPolicy, ServerState};
use storage::ids::Term;

use super::Group;
use crate::api::NotLeader;
use crate::core::is_only_voter;

impl Group {
    /// Whether this replica leads in `term` and holds a lease: nobody else has led between the moment that the
    /// caller took its snapshot and now. Call it *after* taking the snapshot.
    ///
    /// A quorum has answered a message that was sent less than a lease ago, and each of those replicas elects nobody
    /// for longer than that.
    pub fn lease(&self, term: Term) -> Result<(), NotLeader> {
        if self.reads_by_quorum() {
            return Err(NotLeader { leader: None });
        }
        let core = self.core().ok_or_else(|| self.not_leader())?;
        // The term and the acknowledgement of one moment: an acknowledgement of a later term would vouch for a
        // snapshot that was taken while somebody else led.
        let valid = {
            let metrics = core.metrics.borrow_watched();
            let leads = metrics.state == ServerState::Leader && metrics.current_term == term.0;
            let acked = metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < self.options.lease());
            let sole = || {
                // Set before openraft hears of a change, so that a change is never overlooked.
                !self.changing.load(Ordering::SeqCst)
                    && is_only_voter(self.replica(), &metrics.membership_config)
                    && is_only_voter(self.replica(), &metrics.committed_membership_config)
            };
            leads && (acked || sole())
        };
        // Last: a lease is given up, for a transfer or for rest, before any voter hears that it may forget it. This
        // thread may have slept between two lines. (In this order: a transfer that is over has ended the role.)
        if self.handing_over.load(Ordering::SeqCst) || self.leads() != Some(term) {
            return Err(self.not_leader());
        }
        if valid { Ok(()) } else { Err(NotLeader { leader: None }) }
    }

    /// Whether no lease is to be relied upon, so that [`Group::lease`] always refuses.
    pub fn reads_by_quorum(&self) -> bool {
        self.nursery.hub.quorum_reads.load(Ordering::SeqCst)
    }

    /// Asks a quorum whether this replica leads in `term`: as [`Group::lease`], without relying on clocks.
    pub async fn confirm_quorum(&self, term: Term) -> Result<(), NotLeader> {
        let leaves = self.handing_over.load(Ordering::SeqCst) && self.is_stalled();
        if self.leads() != Some(term) || leaves {
            return Err(self.not_leader());
        }
        self.rest.touch();
        let core = self.core().ok_or_else(|| self.not_leader())?;
        let confirmed = tokio::select! {
            confirmed = core.raft.get_read_linearizer(ReadPolicy::ReadIndex) => confirmed,
            () = self.seams.sleep(self.options.request_timeout) => return Err(NotLeader { leader: None }),
        };
        match confirmed {
            Ok(read) if read.read_log_id().committed_leader_id().term == term.0 => Ok(()),
            _ => Err(self.not_leader()),
        }
    }
}
