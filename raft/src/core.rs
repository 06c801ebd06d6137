//! openraft's part of a replica: there while the group is awake, see [`crate::rest`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::Config;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::{RaftMetrics, ServerState};
use storage::ids::{NodeId, ReplicaId};
use storage::raft_log::LogEngine;
use storage::seam::Seams;
use tokio::sync::watch;

use crate::api::Fatal;
use crate::log_room::LogRoom;
use crate::log_store::LogStore;
use crate::options::RaftOptions;
use crate::rest::Roll;
use crate::state_machine::{Adapter, Shared};
use crate::suspects::Suspects;
use crate::transport::Hub;
use crate::transport::network::Factory;
use crate::types::{StoredMembership, TypeConfig};

pub(crate) type Raft = openraft::Raft<TypeConfig, Adapter>;

/// What all cores of a node are made with.
pub(crate) struct Nursery {
    pub options: RaftOptions,
    pub config: Arc<Config>,
    pub log: Arc<dyn LogEngine>,
    pub hub: Arc<Hub>,
    pub log_room: Arc<LogRoom>,
    pub roll: Roll,
    pub suspects: Suspects,
}

/// openraft's instance of a group.
pub(crate) struct Core {
    pub raft: Raft,
    pub log: LogStore,
    /// Everything at one moment: what belongs together is read from one borrow of it.
    pub metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    /// Changes rarely: what the role is watched by.
    pub server: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    /// It is put to rest: that it ends is no failure.
    closing: watch::Sender<bool>,
    /// While openraft works on the state.
    machine: Weak<()>,
    seams: Seams,
}

/// openraft ends its core and leaves its worker on the state to end by itself. How often it is looked for that.
const END_LOOK_EVERY: Duration = Duration::from_millis(2);
/// … and how long: an import of a large snapshot may be under way.
const END_LIMIT: Duration = Duration::from_secs(60);

impl Nursery {
    /// Makes the instance of a replica whose state is in `shared`, from what the log holds.
    ///
    /// There must be no other one. Whoever calls this must not be dropped before it is done.
    pub async fn open(&self, shared: &Arc<Shared>, gated: bool) -> Result<Arc<Core>, Fatal> {
        let (group, replica) = (shared.group, shared.replica);
        let log = LogStore::open(
            self.log.clone(),
            group,
            replica,
            self.options.append_bytes_max,
            self.options.tail_bytes_max,
            self.log_room.clone(),
        )
        .map_err(Fatal::new)?;
        let network = Factory { hub: self.hub.clone(), group, replica };
        // (What a later start reads as the "current snapshot" is what is flushed, as at the first one.)
        shared.set_running(false);
        let adapter = Adapter::new(shared.clone());
        let machine = adapter.life();
        let raft = Raft::build(replica.0, self.config.clone(), network, log.clone(), adapter)
            .await
            .map_err(|e| Fatal::new(e.to_string()))?;
        shared.set_running(true);
        if gated || self.hub.liveness.is_stalled(self.hub.me) {
            raft.runtime_config().elect(false);
        }
        crate::runtime::to_the_beat(&shared.seams.beat, || raft.run());
        Ok(Arc::new(Core {
            metrics: raft.metrics(),
            server: raft.server_metrics(),
            raft,
            log,
            closing: watch::Sender::new(false),
            machine,
            seams: shared.seams.clone(),
        }))
    }
}

impl Core {
    /// Ends when the instance is put to rest.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// It was put to rest, or another one takes its place.
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Ends it; everything that it has acknowledged is in the log.
    pub async fn close(&self) {
        self.closing.send_replace(true);
        self.end().await;
    }

    /// Ends it, and waits until nothing of it works on the state any more: entries that were on their way to be applied would be
    /// written beside what comes after.
    pub async fn end(&self) {
        let _ = self.raft.shutdown().await;
        let begun = self.seams.clock.now();
        while self.machine.strong_count() > 0 {
            if self.seams.clock.now().saturating_duration_since(begun) > END_LIMIT {
                tracing::error!("a replica's state is still being worked on {END_LIMIT:?} after its end");
                return;
            }
            self.seams.sleep(END_LOOK_EVERY).await;
        }
    }

    /// The members with a vote, and their nodes.
    pub fn voters(&self) -> Vec<(ReplicaId, NodeId)> {
        let server = self.server.borrow_watched();
        let members = &server.membership_config;
        let of = |id: u64| members.get_node(&id).map(|host| (ReplicaId(id), NodeId(host.0)));
        members.voter_ids().filter_map(of).collect()
    }

    /// The nodes of those who vote together: one set, or two while the members are being changed.
    pub fn quorums(&self) -> Vec<Vec<NodeId>> {
        let server = self.server.borrow_watched();
        let members = &server.membership_config;
        let node = |id: &u64| members.get_node(id).map(|host| NodeId(host.0));
        let configs = members.membership().get_joint_config().iter();
        configs.map(|voters| voters.iter().filter_map(node).collect()).collect()
    }

    /// The term that this replica leads in, with everything applied up to its own term's first entry.
    pub fn leads(&self, applied_term: u64) -> Option<u64> {
        // The term from the full metrics: the vote in the server's may not be the newest one yet.
        let metrics = self.metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader && metrics.current_term == applied_term;
        leads.then_some(applied_term)
    }

    /// Nobody else can be elected: there is nobody to ask.
    pub fn is_alone(&self, replica: ReplicaId) -> bool {
        let known = self.server.borrow_watched();
        is_only_voter(replica, &known.membership_config)
            && is_only_voter(replica, &known.committed_membership_config)
    }
}

/// Nobody else has a vote there.
pub(crate) fn is_only_voter(replica: ReplicaId, membership: &StoredMembership) -> bool {
    let mut voters = membership.voter_ids();
    voters.next() == Some(replica.0) && voters.next().is_none()
}
