//! The watch over a replica's role: what openraft says of it, told to all who wait for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use storage::ids::Term;

use super::{Group, peer};
use crate::api::Role;
use crate::core::Core;

impl Group {
    /// Publishes role changes, until the replica stops or is laid to rest.
    pub(crate) async fn watch_role(self: Arc<Self>, core: Arc<Core>) {
        let mut server = core.raft.server_metrics();
        let mut applied_term = self.shared.applied_term();
        let mut fault = self.shared.fault.watch();
        let mut closing = core.closing();
        loop {
            if *closing.borrow() {
                return;
            }
            let role = self.observe(&core, *applied_term.borrow_and_update());
            if self.is_gated() && core.is_alone(self.replica()) {
                // Whom should it have promised anything?
                self.gate.open();
                core.raft.runtime_config().elect(true);
                let _ = core.raft.trigger().elect(true).await;
            }
            let stopped = matches!(role, Role::Stopped { .. });
            self.publish_of(&core, role);
            if stopped {
                return;
            }
            tokio::select! {
                _ = closing.changed() => return,
                changed = server.changed() => if changed.is_err() && !*closing.borrow() {
                    self.shared.fault.set("the consensus core has ended");
                },
                _ = applied_term.changed() => {}
                _ = fault.changed() => {}
            }
        }
    }

    fn observe(&self, core: &Core, applied_term: u64) -> Role {
        if let Some(reason) = self.shared.fault.get() {
            return Role::Stopped { reason };
        }
        let server = core.server.borrow_watched().clone();
        if server.state == ServerState::Leader {
            return match core.leads(applied_term) {
                Some(term) => Role::Leader { term: Term(term) },
                None => Role::Follower { leader: None },
            };
        }
        let leader = server.current_leader.filter(|&id| id != self.replica().0);
        Role::Follower { leader: leader.and_then(|id| peer(&server.membership_config, id)) }
    }

    pub(crate) fn publish(&self, role: Role) {
        if *self.role.borrow() == role {
            return;
        }
        let group = self.id();
        let leader = match &role {
            Role::Leader { .. } => Some(self.replica()),
            Role::Follower { leader } => leader.map(|leader| leader.replica),
            Role::Stopped { .. } => None,
        };
        if let Some(leader) = leader {
            let before = self.led_by.swap(leader.0, Ordering::SeqCst);
            // Once, where the leader is; and not if it has only rested since.
            if before != leader.0 && leader == self.replica() {
                metrics::counter!("flotilla_raft_leader_changes_total").increment(1);
            }
        }
        match &role {
            Role::Leader { term } => tracing::info!(%group, replica = %self.replica(), %term, "leading"),
            Role::Follower { leader: Some(leader) } => {
                tracing::info!(%group, replica = %self.replica(), leader = %leader.node, "following");
            }
            Role::Follower { leader: None } => tracing::debug!(%group, "without a leader"),
            Role::Stopped { reason } if self.stopping.load(Ordering::SeqCst) => {
                tracing::info!(%group, %reason, "stopped");
            }
            Role::Stopped { reason } => {
                metrics::counter!("flotilla_raft_replicas_failed_total").increment(1);
                self.nursery.suspects.stopped(self.id());
                tracing::error!(%group, replica = %self.replica(), %reason, "THIS REPLICA HAS FAILED AND TAKES PART NO MORE");
            }
        }
        self.shared.machine.role_changed(&role);
        if let Some(core) = self.core() {
            core.raft.runtime_config().heartbeat(true);
        }
        self.role.send_modify(|current| {
            // Whatever was under way was of the role that ends here. (Whoever finds it over finds the next role, too: nobody reads
            // the role meanwhile.)
            self.handing_over.store(false, Ordering::SeqCst);
            self.changing.store(false, Ordering::SeqCst);
            *current = role;
        });
    }
}
