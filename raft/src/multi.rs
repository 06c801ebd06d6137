//! All replicas of a node: opening, creating, removing and stopping them.

mod open;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use proto::raft as wire;
use proto::raft::raft_server::RaftServer;
use storage::ids::{GroupId, NodeId, ReplicaId};
use storage::raft_log::LogEngine;
use storage::seam::Seams;
use storage::{Engine, Store};
use tokio::sync::{oneshot, watch};
use tonic::Status;

use crate::api::{AddressBook, Error, Fatal, Peer, StateMachineFactory, UnknownReplica};
use crate::arrivals::Arrivals;
use crate::claims::Claims;
use crate::core::Nursery;
use crate::gate::Closing;
use crate::group::{Group, within};
use crate::liveness::{self, Reach};
use crate::log_room::LogRoom;
use crate::options::RaftOptions;
use crate::rest::{self, Roll};
use crate::suspects::Suspects;
use crate::transport::Hub;
use crate::transport::received::Received;
use crate::transport::server::{Endpoint, Mount, refusal};
use crate::{broken, checkpoint, progress, stall};

/// Where, in the store's directory, incoming snapshots are spooled to.
pub(crate) const SPOOL_DIR: &str = "incoming";
/// How often at most a message for the same unknown group is reported.
const REPORT_EVERY: Duration = Duration::from_millis(250);
const REPORTS_KEPT_MAX: usize = 1024;

type UnknownHook = Box<dyn Fn(UnknownReplica) + Send + Sync>;

/// The groups of a node, and all they share.
pub struct MultiRaft {
    pub(crate) nursery: Arc<Nursery>,
    engine: Arc<Engine>,
    pub(crate) log: Arc<dyn LogEngine>,
    pub(crate) factory: Arc<dyn StateMachineFactory>,
    seams: Seams,
    hub: Arc<Hub>,
    received: Received,
    pub(crate) spool_dir: PathBuf,
    arrivals: Arc<Arrivals>,
    pub(crate) groups: RwLock<HashMap<GroupId, Arc<Group>>>,
    /// Replicas are created, opened and removed one at a time.
    lifecycle: tokio::sync::Mutex<()>,
    /// Who holds which keys is looked at, and changed by a claim or a removal, by one at a time: see [`crate::removal`].
    pub(crate) territory: tokio::sync::Mutex<()>,
    /// What those snapshots replace that are being installed, or whose install has failed, in this process or in an earlier one.
    pub(crate) claims: Arc<Claims>,
    unknown_hook: RwLock<Option<UnknownHook>>,
    unknown_reported: Mutex<HashMap<GroupId, Instant>>,
    stopping: AtomicBool,
    /// Why the store can't be used any more: see [`crate::broken`].
    pub(crate) broken: watch::Sender<Option<Fatal>>,
    /// No promise given before this process started can still be relied on.
    pub(crate) gate_open: AtomicBool,
    mount: Mount,
}

impl MultiRaft {
    /// Opens all replicas that the store knows, and takes part.
    ///
    /// State machines apply what the log holds beyond the engine's last flush before this returns. Groups that exist
    /// since before hold no elections until the longest lease that they may have promised is over.
    pub async fn start(
        options: RaftOptions,
        store: Arc<Store>,
        factory: Arc<dyn StateMachineFactory>,
        book: Arc<dyn AddressBook>,
        seams: Seams,
    ) -> Result<Arc<Self>, Error> {
        let identity = store.identity().ok_or(Error::NoIdentity)?;
        let config = Arc::new(options.openraft()?);
        let hub = Hub::new(identity.cluster_id, identity.node_id, book, seams.clone(), options.clone());
        let nursery = Nursery {
            config,
            log: store.log(),
            hub: hub.clone(),
            log_room: LogRoom::new(options.log_bytes_in_flight_max),
            roll: Roll::default(),
            suspects: Suspects::default(),
            options,
        };
        let spool_dir = store.dir().join(SPOOL_DIR);
        let arrivals = Arrivals::open(spool_dir.clone(), seams.clone()).map_err(|e| Error::Open {
            group: GroupId(0),
            replica: ReplicaId(0),
            source: Fatal::new(e),
        })?;
        let multi = Arc::new(Self {
            nursery: Arc::new(nursery),
            engine: store.engine(),
            log: store.log(),
            factory,
            hub,
            received: Received::default(),
            spool_dir,
            arrivals,
            groups: RwLock::default(),
            lifecycle: tokio::sync::Mutex::new(()),
            territory: tokio::sync::Mutex::new(()),
            claims: Arc::default(),
            unknown_hook: RwLock::default(),
            unknown_reported: Mutex::default(),
            stopping: AtomicBool::new(false),
            broken: watch::Sender::new(None),
            gate_open: AtomicBool::new(false),
            mount: Mount::new(),
            seams: seams.clone(),
        });
        multi.mount.attach(&multi);
        multi.reopen().await?;
        seams.spawn("raft-gate", open_gate(Arc::downgrade(&multi), seams.clone()));
        seams.spawn("raft-pulses", liveness::beat(multi.hub.clone()));
        seams.spawn(
            "raft-liveness",
            liveness::watch(Arc::downgrade(&multi), multi.hub.clone(), seams.clone()),
        );
        seams.spawn("raft-disk", stall::watch(Arc::downgrade(&multi), seams.clone()));
        seams.spawn("raft-broken", broken::watch(Arc::downgrade(&multi), seams.clone()));
        seams.spawn("raft-progress", progress::watch(Arc::downgrade(&multi), seams.clone()));
        seams.spawn("raft-checkpoint", checkpoint::run(Arc::downgrade(&multi), seams.clone()));
        seams.spawn("raft-rest", rest::run(Arc::downgrade(&multi), seams.clone()));
        Ok(multi)
    }

    /// The tonic service to mount. A node that has to listen before it is part of a cluster makes a [`Mount`] first
    /// and attaches this to it.
    pub fn service(&self) -> RaftServer<Endpoint> {
        self.mount.service()
    }

    /// Which nodes don't answer.
    pub fn reach(&self) -> Reach {
        Reach::new(self.hub.clone())
    }

    /// Called (from the transport, so: quickly) when a message comes for a replica that this node doesn't have.
    /// Repetitions within a fraction of a second are left out.
    pub fn on_unknown_replica(&self, hook: impl Fn(UnknownReplica) + Send + Sync + 'static) {
        *self.unknown_hook.write() = Some(Box::new(hook));
    }

    /// A group of this node.
    pub fn group(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups.read().get(&id).cloned()
    }

    /// All groups of this node.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.groups.read().values().cloned().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.groups.read().len()
    }

    /// Those among them that are not at rest.
    pub fn awake(&self) -> Vec<Arc<Group>> {
        self.nursery.roll.awake()
    }

    /// Changes whenever a group wakes or is laid to rest on this node.
    pub fn rest_version(&self) -> u64 {
        self.nursery.roll.version()
    }

    /// The groups that have woken, were laid to rest or are gone since the last call; for one caller, who looks at each of them
    /// afterwards.
    pub fn take_rest_changes(&self) -> BTreeSet<GroupId> {
        self.nursery.roll.take_changed()
    }

    /// Sends snapshots at this rate from now on, all of them together.
    pub fn set_snapshot_rate(&self, bytes_per_second: u64) {
        self.hub.pace.set(bytes_per_second);
    }

    /// Whether reads are confirmed by a majority from now on, instead of relying on leases.
    pub fn set_quorum_reads(&self, quorum_reads: bool) {
        self.hub.quorum_reads.store(quorum_reads, Ordering::SeqCst);
    }

    /// Whether large commands that are proposed here from now on are compressed, in the logs and on the wire. What is compressed is
    /// understood either way.
    pub fn set_log_compression(&self, log_compression: bool) {
        self.hub.log_compression.store(log_compression, Ordering::Relaxed);
    }

    /// Hands leaderships over, then stops everything and makes it durable.
    pub async fn shutdown(&self) {
        let _turn = self.lifecycle.lock().await;
        self.stopping.store(true, Ordering::SeqCst);
        let groups = self.groups();
        let transfers = groups.iter().map(|group| async move {
            let (Some(term), Some(to)) = (group.leads(), group.successor()) else { return };
            let handed_over = match group.transfer_leader(to).await {
                Ok(()) => group.succeeded(term).await,
                Err(error) => Err(error),
            };
            if let Err(error) = handed_over {
                tracing::info!(group = %group.id(), %error, "the leadership stays until the others notice");
            }
        });
        let transfers = async {
            futures::future::join_all(transfers).await;
        };
        within(&self.seams, self.options().shutdown_transfer_timeout, transfers).await;
        self.stop_groups(true).await;
        if let Err(error) = self.flush().await {
            tracing::error!(%error, "cannot flush the state at shutdown");
        }
    }

    /// Stops everything at once: hands nothing over and makes nothing durable that isn't.
    pub async fn abandon(&self) {
        let _turn = self.lifecycle.lock().await;
        self.stopping.store(true, Ordering::SeqCst);
        self.stop_groups(false).await;
    }

    async fn stop_groups(&self, take_leave: bool) {
        let groups = self.groups();
        futures::future::join_all(groups.iter().map(|group| group.stop("the node is shutting down"))).await;
        if take_leave {
            liveness::farewell(&self.hub).await;
        }
        self.hub.stop();
        self.groups.write().clear();
    }

    /// Flushes the state and cuts the logs now, instead of when it is due.
    pub async fn checkpoint(self: &Arc<Self>) -> Result<(), Fatal> {
        checkpoint::checkpoint(self).await
    }

    /// Runs work to its end even if whoever waits for it goes away: a caller's connection breaks, and its call is dropped between two steps, of
    /// which only a restart would do the second.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, outcome) = oneshot::channel();
        self.seams.spawn(name, async move {
            let _ = done.send(work.await);
        });
        outcome.await.unwrap_or(Err(Error::ShuttingDown))
    }

    pub(crate) async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Error> {
        let turn = self.lifecycle.lock().await;
        if self.is_stopping() { Err(Error::ShuttingDown) } else { Ok(turn) }
    }

    pub(crate) async fn flush(&self) -> Result<(), Error> {
        let engine = self.engine.clone();
        let flushed = self.blocking("flush", move || engine.flush()).await?;
        flushed.map_err(storage_error("flush the state"))
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.seams.blocking(name, work).await.map_err(|e| Error::Thread { reason: e.to_string() })
    }

    // For the transport and the checkpointer.

    /// The replica that a message is for.
    pub(crate) fn addressed(
        &self,
        id: GroupId,
        replica: ReplicaId,
        from: Peer,
    ) -> Result<Arc<Group>, wire::Refusal> {
        match self.group(id) {
            Some(group) if group.replica() == replica => Ok(group),
            _ => {
                self.report_unknown(UnknownReplica { group: id, replica, from });
                let detail = format!("{id} has no {replica} on {}", self.hub.me);
                Err(refusal(wire::refusal::Reason::UnknownGroup, detail))
            }
        }
    }

    fn report_unknown(&self, unknown: UnknownReplica) {
        let now = self.seams.clock.now();
        {
            let mut reported = self.unknown_reported.lock();
            let recent = |at: &Instant| now.saturating_duration_since(*at) < REPORT_EVERY;
            if reported.get(&unknown.group).is_some_and(recent) {
                return;
            }
            if reported.len() >= REPORTS_KEPT_MAX {
                reported.clear();
            }
            reported.insert(unknown.group, now);
        }
        if let Some(hook) = &*self.unknown_hook.read() {
            hook(unknown);
        }
    }

    pub(crate) fn check_sender(&self, cluster: &[u8], to: u64) -> Result<(), Status> {
        if cluster != self.hub.cluster {
            return Err(Status::permission_denied("this node belongs to another cluster"));
        }
        if to != self.hub.me.0 {
            let text = format!("this node is {}, not {}", self.hub.me, NodeId(to));
            return Err(Status::failed_precondition(text));
        }
        Ok(())
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub(crate) fn received(&self) -> &Received {
        &self.received
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn appended(&self) -> &AtomicU64 {
        &self.nursery.log_room.appended
    }

    pub(crate) fn options(&self) -> &RaftOptions {
        &self.nursery.options
    }

    pub(crate) fn roll(&self) -> &Roll {
        &self.nursery.roll
    }

    pub(crate) fn doubts(&self) -> &Suspects {
        &self.nursery.suspects
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) fn seams(&self) -> &Seams {
        &self.seams
    }

    pub(crate) fn arrivals(&self) -> &Arc<Arrivals> {
        &self.arrivals
    }
}

pub(crate) fn storage_error(operation: &'static str) -> impl Fn(storage::Error) -> Error {
    move |source| Error::Storage { operation, source }
}

/// Lets the groups that exist since before the start take part in elections, when no leader can still rely on a
/// promise that they have forgotten. Each after a moment of its own, so that the nodes of a cluster that starts as a
/// whole don't all stand for election at once.
async fn open_gate(multi: std::sync::Weak<MultiRaft>, seams: Seams) {
    let Some((lease, spread)) = multi.upgrade().map(|m| (m.options().election_max, m.options().election_min))
    else {
        return;
    };
    seams.sleep(lease).await;
    let Some(multi) = multi.upgrade() else { return };
    multi.gate_open.store(true, Ordering::SeqCst);
    for group in multi.groups() {
        group.gate.outlive(Closing::START);
        let pause = spread.mul_f64(seams.random_f64());
        let clock = seams.clock.clone();
        seams.spawn("raft-ungate", async move {
            clock.sleep(pause).await;
            if !group.is_gated() {
                group.stand_for_election();
            }
        });
    }
}
