//! An instance of openraft that is made anew: for a leader that could not hand over.
//!
//! openraft remembers on its leader that it hands over, and forgets it with that leader only. Until somebody else is elected it takes no
//! write, says nothing to the others, and does not stand for election, for it leads. If the one that is to take over refuses, or is
//! gone, and no other stands for election, all of a group may be well enough to serve, and nobody ever does.
//!
//! So the leader ends its instance, as if the group were laid to rest, and stands for election with a new one. This is as safe, for the same reasons
//! ([`crate::rest`]): the role ends before the instance does, that leader never leads again in its term, and if the vote is not the leader's any
//! more by then, the replica neither votes nor stands for election for as long as it may have promised somebody not to. What is in its log stays
//! there; what becomes of it, the next leader's first entry tells.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use storage::ids::Term;

use crate::core::Core;
use crate::group::Group;
use crate::progress;

/// How often it is looked whether all that is committed is applied.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Group {
    /// Ends the leadership in `term`, which `core` has by openraft's word, and stands for election in a later one. Returns when that has begun,
    /// somebody else has been elected, or the replica has ended. To be called in a task of its own.
    pub(crate) async fn begin_anew(self: &Arc<Self>, core: &Arc<Core>, term: Term) {
        let renewed = loop {
            match self.renew(core, term).await {
                Some(renewed) => break renewed,
                None => self.seams.sleep(LOOK_EVERY).await,
            }
        };
        if renewed {
            // Even if the disk stalls here. What was to be handed over nobody has taken, and a leader that is slow is better than none.
            self.campaign_though_stalled().await;
        }
    }

    /// Whether there is a new instance; nothing as long as it has to wait.
    async fn renew(self: &Arc<Self>, core: &Arc<Core>, term: Term) -> Option<bool> {
        let _turn = self.rest.turn.lock().await;
        let is_current = self.core().is_some_and(|current| Arc::ptr_eq(&current, core));
        if !is_current || self.is_stopping() || self.shared.fault.get().is_some() {
            return Some(false);
        }
        let vote = {
            let metrics = core.metrics.borrow_watched();
            if metrics.state != ServerState::Leader || metrics.current_term != term.0 {
                return Some(false);
            }
            metrics.vote
        };
        // Its worker on the state ends by itself. One that hangs would go on beside that of the next instance. (The leader is silent,
        // so if this lasts, the others elect.)
        if self.shared.applied_index() < progress::due(core) {
            return None;
        }
        let status = self.status_of(core);
        // (One that has voted for somebody meanwhile comes back by itself.)
        let ended = self.end_instance(core, status, BTreeSet::new(), &vote).await;
        Some(ended && self.open_instance().await.is_ok())
    }
}
