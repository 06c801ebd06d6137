//! openraft's state machine over ours: one batch per entry, holding the command's effects and the applied id.
//!
//! The engine has no write-ahead log: what is applied is durable only after a flush. So two positions are kept:
//! *applied* (visible; in the engine's memory) and *flushed* (survives a crash). openraft purges the log up to
//! what it believes is in a snapshot, so it is only ever told of what is flushed.

use std::io;
use std::sync::{Arc, Weak};

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use parking_lot::Mutex;
use prost::Message;
use proto::raft as wire;
use storage::fail_point::{self, FailPoint};
use storage::ids::{GroupId, LogIndex, ReplicaId, Term};
use storage::seam::Seams;
use storage::{Batch, Cf, Engine};
use tokio::sync::watch;

use crate::api::{Applied, Fatal, StateMachine};
use crate::fault::Fault;
use crate::keys;
use crate::snapshot::{self, SnapshotData};
use crate::spool::Spool;
use crate::types::{
    Entry, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig, decode_log_id, encode_log_id,
    stored_membership_from_wire, stored_membership_to_wire, term_of,
};
use crate::view::Views;

/// How far the state is, and who the members were there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Position {
    pub last: Option<LogId>,
    pub membership: StoredMembership,
}

impl Position {
    /// What the engine holds of a group.
    pub fn load(engine: &Engine, group: GroupId) -> Result<Self, Fatal> {
        let bad = |e: crate::types::Malformed| Fatal::new(format!("the state of {group} is corrupt: {e}"));
        let last = engine.get(Cf::Group, &keys::applied_key(group))?;
        let last = last.as_deref().map(decode_log_id).transpose().map_err(bad)?;
        let membership = match engine.get(Cf::Group, &keys::membership_key(group))? {
            Some(bytes) => {
                let stored = wire::StoredMembership::decode(bytes).ok();
                stored_membership_from_wire(stored).map_err(bad)?
            }
            None => StoredMembership::default(),
        };
        Ok(Self { last, membership })
    }

    /// Adds itself to a batch.
    pub fn store(&self, group: GroupId, batch: &mut Batch) {
        if let Some(last) = &self.last {
            batch.put(Cf::Group, &keys::applied_key(group), &encode_log_id(last));
        }
        let membership = stored_membership_to_wire(&self.membership).encode_to_vec();
        batch.put(Cf::Group, &keys::membership_key(group), &membership);
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }
}

/// What the adapter shares with its group.
pub(crate) struct Shared {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub engine: Arc<Engine>,
    pub machine: Arc<dyn StateMachine>,
    pub seams: Seams,
    pub fault: Fault,
    /// Who wants to see the state at some index.
    pub views: Views,
    /// Visible.
    applied: Mutex<Position>,
    /// Durable. Never ahead of `applied`.
    flushed: Mutex<Position>,
    /// The term of the last applied entry.
    applied_term: watch::Sender<u64>,
    /// A snapshot is taking the state's place.
    installing: std::sync::atomic::AtomicBool,
    /// openraft has taken in the initial state; from now on a snapshot it asks for is for a follower.
    running: std::sync::atomic::AtomicBool,
}

impl Shared {
    pub fn new(
        group: GroupId,
        replica: ReplicaId,
        engine: Arc<Engine>,
        machine: Arc<dyn StateMachine>,
        seams: Seams,
        fault: Fault,
        position: Position,
    ) -> Arc<Self> {
        let term = position.last.as_ref().map_or(0, term_of);
        Arc::new(Self {
            group,
            replica,
            engine,
            machine,
            seams,
            fault,
            views: Views::default(),
            // Right after the engine was opened, what is visible is what was flushed.
            flushed: Mutex::new(position.clone()),
            applied: Mutex::new(position),
            applied_term: watch::Sender::new(term),
            installing: false.into(),
            running: false.into(),
        })
    }

    pub fn applied(&self) -> Position {
        self.applied.lock().clone()
    }

    pub fn applied_index(&self) -> Option<u64> {
        self.applied.lock().last.map(|id| id.index)
    }

    pub fn flushed_index(&self) -> Option<u64> {
        self.flushed.lock().last.map(|id| id.index)
    }

    /// The checkpointer has flushed the engine after it had read this position.
    pub fn set_flushed(&self, position: Position) {
        let mut flushed = self.flushed.lock();
        if position.last > flushed.last {
            *flushed = position;
        }
    }

    pub fn applied_term(&self) -> watch::Receiver<u64> {
        self.applied_term.subscribe()
    }

    pub fn set_running(&self, running: bool) {
        self.running.store(running, std::sync::atomic::Ordering::Release);
    }

    pub fn is_installing(&self) -> bool {
        self.installing.load(std::sync::atomic::Ordering::Acquire)
    }

    fn is_running(&self) -> bool {
        self.running.load(std::sync::atomic::Ordering::Acquire)
    }

    async fn apply(&self, entry: Entry) -> Result<Reply, Fatal> {
        let id = entry.log_id;
        self.check_next(&id)?;
        let at = Applied { term: Term(term_of(&id)), index: LogIndex(id.index) };
        let mut batch = self.engine.batch();
        let mut reply = Reply::default();
        let mut membership = None;
        match entry.payload {
            EntryPayload::Blank => {}
            // A barrier: everything before it is applied.
            EntryPayload::Normal(command) if command.is_barrier() => {}
            EntryPayload::Normal(command) => {
                let command = command.expand().map_err(Fatal::new)?;
                reply.0 = self.machine.apply(&mut batch, at, &command)?;
            }
            EntryPayload::Membership(members) => {
                let stored = StoredMembership::new(Some(id), members);
                let encoded = stored_membership_to_wire(&stored).encode_to_vec();
                batch.put(Cf::Group, &keys::membership_key(self.group), &encoded);
                membership = Some(stored);
            }
        }
        batch.put(Cf::Group, &keys::applied_key(self.group), &encode_log_id(&id));
        // (If RocksDB holds writes back, this replica waits, and not everybody whose task is on the same thread.)
        self.engine.write_aside(batch, &self.seams).await?;
        fail_point::pass(passed(membership.as_ref()));
        {
            let mut applied = self.applied.lock();
            applied.last = Some(id);
            if let Some(membership) = membership {
                applied.membership = membership;
            }
        }
        self.machine.applied(at);
        self.show(at.index);
        self.note_term(term_of(&id));
        Ok(reply)
    }

    /// Entries are applied one after the other. One that was left out would be missing here alone, and one that came again
    /// would count twice, and nobody would know. (An entry that a crash has taken from the state, the position there has not
    /// reached, either. A state that holds nothing may begin with any.)
    fn check_next(&self, id: &LogId) -> Result<(), Fatal> {
        let last = self.applied.lock().last;
        match last.filter(|last| id.index != last.index + 1) {
            Some(last) => Err(Fatal::new(format!("entry {id} is not the one after {last}"))),
            None => Ok(()),
        }
    }

    fn note_term(&self, term: u64) {
        self.applied_term.send_if_modified(|current| {
            let changed = *current != term;
            *current = term;
            changed
        });
    }

    fn fail(&self, doing: &str, error: impl std::fmt::Display) -> io::Error {
        let reason = format!("{doing}: {error}");
        self.fault.set(reason.as_str());
        io::Error::other(reason)
    }
}

#[cfg(test)]
impl Shared {
    /// As if all entries before this one had been applied, if some have been.
    pub fn skip_to(&self, index: u64) {
        if let Some(last) = &mut self.applied.lock().last {
            last.index = last.index.max(index.saturating_sub(1));
        }
    }
}

/// What openraft calls.
pub(crate) struct Adapter {
    shared: Arc<Shared>,
    alive: Arc<()>,
}

impl Adapter {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, alive: Arc::default() }
    }

    /// Nobody holds it any more when openraft has let go of the state machine: nothing is being applied or imported then.
    pub fn life(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }
}

impl RaftStateMachine<TypeConfig> for Adapter {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let position = self.shared.applied();
        Ok((position.last, position.membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        // Applying hardly ever waits, so a long catch-up would keep its thread from everybody else.
        const YIELD_EVERY: usize = 64;
        let mut count = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) =
                item.map_err(|e| self.shared.fail("cannot read the log to apply it", e))?;
            let applied = self.shared.apply(entry).await;
            let reply = applied.map_err(|e| self.shared.fail("cannot apply a command", e))?;
            if let Some(responder) = responder {
                responder.send(reply);
            }
            count += 1;
            if count % YIELD_EVERY == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { shared: self.shared.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<()> {
        let SnapshotData::Spooled(spool) = data else {
            return Err(self.shared.fail("cannot install a snapshot", "it did not come from another node"));
        };
        let position = Position { last: meta.last_log_id, membership: meta.last_membership.clone() };
        self.shared.installing.store(true, std::sync::atomic::Ordering::Release);
        let installed = self.install(spool, position).await;
        self.shared.installing.store(false, std::sync::atomic::Ordering::Release);
        installed.map_err(|e| self.shared.fail("cannot install a snapshot", e))
    }

    /// At start: only how far the flushed state reaches. Later: a view of the state as it is, for a follower.
    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotData>>> {
        if !self.shared.is_running() {
            let flushed = self.shared.flushed.lock().clone();
            let meta = flushed.meta();
            return Ok(flushed.last.map(|_| Snapshot { meta, snapshot: SnapshotData::Marker }));
        }
        // Nothing is applied meanwhile: this runs in turn with `apply`.
        let position = self.shared.applied();
        let view = self.shared.engine.snapshot();
        let spans = self.shared.machine.spans();
        // (Asked last: then the spans are from before.)
        if self.shared.machine.is_retired() {
            return Ok(None);
        }
        let data = SnapshotData::View { engine: self.shared.engine.clone(), view, spans };
        Ok(Some(Snapshot { meta: position.meta(), snapshot: data }))
    }
}

/// Which moment it is when an entry is in the engine.
fn passed(members: Option<&StoredMembership>) -> FailPoint {
    match members.map(StoredMembership::membership) {
        None => FailPoint::ApplyWritten,
        Some(members) if members.get_joint_config().len() > 1 => FailPoint::JointWritten,
        Some(members) if members.learner_ids().next().is_some() => FailPoint::LearnerWritten,
        Some(_) => FailPoint::UniformWritten,
    }
}

impl Adapter {
    async fn install(&mut self, spool: Spool, position: Position) -> Result<(), Fatal> {
        let shared = self.shared.clone();
        shared.machine.restoring();
        let engine = shared.engine.clone();
        let group = shared.group;
        let stored = position.clone();
        let install = move || snapshot::install(&engine, group, spool, &stored);
        shared.seams.blocking("install-snapshot", install).await.map_err(Fatal::new)??;
        shared.machine.restored()?;
        let term = position.last.as_ref().map_or(0, term_of);
        *shared.applied.lock() = position.clone();
        *shared.flushed.lock() = position;
        shared.skip_views();
        shared.note_term(term);
        Ok(())
    }
}

/// Tells openraft how far the flushed state reaches. Nothing is built: a follower that needs a snapshot gets a view
/// of the state as it is then.
pub(crate) struct Builder {
    shared: Arc<Shared>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<openraft::alias::SnapshotOf<TypeConfig, SnapshotData>> {
        let meta = self.shared.flushed.lock().meta();
        Ok(Snapshot { meta, snapshot: SnapshotData::Marker })
    }
}
