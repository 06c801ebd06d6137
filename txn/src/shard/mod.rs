//! One replica of a shard: what it holds, and who leads it.
//!
//! [`Shard`] is the state machine that raft applies commands to (`apply.rs`). Its `Leadership`, which exists only
//! while this replica leads, is what commands are evaluated with (`leadership.rs`, [`crate::command`]). [`Registry`]
//! finds the shards of this node, and makes them when raft opens a group.

mod apply;
pub mod closing;
pub(crate) mod effort;
mod few;
mod garbage;
mod leadership;
mod merge;
mod recent;
mod traffic;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use prost::Message;
use raft::{Expected, Fatal, Role, StateMachine, StateMachineFactory};
use storage::fail_point::{self, FailPoint};
use storage::ids::{GroupId, KeyRange, NodeId, ReplicaId, Timestamp, TxnId};
use storage::seam::Seams;
use storage::{Cf, Engine};
use tokio::sync::{mpsc, watch};

pub use closing::Closing;
pub use garbage::Garbage;
pub use leadership::{LAPSE, Leadership, Pushed};
pub use recent::Recent;
pub use traffic::Traffic;

use self::few::Few;
use crate::descriptor::ShardDescriptor;
use crate::{Error, keys};

/// A replica of a shard on this node.
///
/// A shard that is frozen serves nothing, and changes nothing; one that was absorbed holds nothing (`merge.rs`).
///
/// Invariant: `descriptor` in memory is never larger than what the engine says. A split shrinks it *before* its batch
/// becomes visible, so that whoever looks at the descriptor *after* taking a snapshot never reads in a snapshot that
/// holds the split with a descriptor that doesn't. Nor is `safe_point` ever below what the engine says, for the same
/// reason.
pub struct Shard {
    me: Weak<Shard>,
    group: GroupId,
    engine: Arc<Engine>,
    seams: Seams,
    descriptor: RwLock<Option<Arc<ShardDescriptor>>>,
    leadership: RwLock<Option<Arc<Leadership>>>,
    /// Children of splits whose batch is not yet visible.
    born: Mutex<Vec<ShardDescriptor>>,
    /// What the batch that is being applied makes of it.
    growth: Mutex<Option<merge::Growth>>,
    fate: RwLock<merge::Fate>,
    recent: Mutex<Recent>,
    safe_point: AtomicU64,
    /// As the engine says, but for the batch that is being written.
    closed: AtomicU64,
    vouched: closing::Vouched,
    imports: AtomicU64,
    garbage: Mutex<Garbage>,
    traffic: Traffic,
    registry: Arc<Registry>,
}

impl Shard {
    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The state database.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What this replica knows itself to be; `None` for a blank replica, which has not heard from a leader yet.
    pub fn descriptor(&self) -> Option<Arc<ShardDescriptor>> {
        self.descriptor.read().clone()
    }

    /// What is needed to serve, while this replica leads.
    pub fn leadership(&self) -> Option<Arc<Leadership>> {
        self.leadership.read().clone()
    }

    /// One-shard commits that were applied lately.
    pub fn recent(&self) -> &Mutex<Recent> {
        &self.recent
    }

    /// Versions that only reads below it need may be gone.
    pub fn safe_point(&self) -> Timestamp {
        Timestamp(self.safe_point.load(Ordering::SeqCst))
    }

    /// What is known of the shard's garbage.
    pub fn garbage(&self) -> &Mutex<Garbage> {
        &self.garbage
    }

    /// A commit is applied. Memory only, and nothing that is applied depends on it.
    fn remember(&self, txn: TxnId, at: Timestamp) {
        if at != Timestamp::ZERO {
            self.recent.lock().add(txn, at);
        }
    }

    /// What it has been asked while it led.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// There is no intent, and no record of a transaction.
    fn is_settled(&self, range: &KeyRange) -> bool {
        let snapshot = self.engine.snapshot();
        let is_empty = |cf, range: &KeyRange| {
            let mut iter = snapshot.iter(cf, range);
            iter.seek(&range.start);
            iter.key().is_none() && iter.check().is_ok()
        };
        is_empty(Cf::Intents, range) && is_empty(Cf::Group, &keys::records(range))
    }

    fn set_descriptor(&self, descriptor: ShardDescriptor) {
        *self.descriptor.write() = Some(Arc::new(descriptor));
        self.registry.changed();
    }

    fn load(&self) -> Result<(), Fatal> {
        let stored = load_descriptor(&self.engine, self.group)?;
        *self.descriptor.write() = stored.map(Arc::new);
        let safe_point = load_safe_point(&self.engine, self.group)?;
        self.safe_point.fetch_max(safe_point.0, Ordering::SeqCst);
        self.load_closed()?;
        self.load_fate()?;
        self.registry.changed();
        Ok(())
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shard({}, {:?})", self.group, self.descriptor().map(|d| d.range.clone()))
    }
}

impl StateMachine for Shard {
    fn apply(
        &self,
        batch: &mut storage::Batch,
        _at: raft::Applied,
        command: &[u8],
    ) -> Result<bytes::Bytes, Fatal> {
        if self.leadership.read().is_none() {
            return apply::apply(self, batch, command);
        }
        let before = self.seams.clock.thread_cpu();
        let answer = apply::apply(self, batch, command);
        self.traffic.applied(self.seams.clock.thread_cpu().saturating_sub(before));
        answer
    }

    fn applied(&self, _at: raft::Applied) {
        if fail_point::ON && self.frozen().is_some() {
            fail_point::pass(FailPoint::FreezeApplied);
        }
        self.grow();
        // Only now do the children exist in the engine.
        let born = std::mem::take(&mut *self.born.lock());
        if !born.is_empty() {
            fail_point::pass(FailPoint::SplitApplied);
            // The receiver lives as long as the node serves; after that nobody needs the children.
            let _ = self.registry.births.send(born);
        }
    }

    fn spans(&self) -> Vec<(Cf, KeyRange)> {
        // The engine's word, not the memory's: a snapshot must fit the batches that are visible.
        let stored = match load_descriptor(&self.engine, self.group) {
            Ok(stored) => stored,
            Err(error) => {
                tracing::error!(group = %self.group, %error, "cannot read the shard's descriptor");
                self.descriptor().map(|d| (*d).clone())
            }
        };
        spans(self.group, stored.as_ref())
    }

    fn restoring(&self) {
        self.import_passes();
    }

    fn restored(&self) -> Result<(), Fatal> {
        self.load()?;
        self.registry.retire_overlapped()?;
        self.import_passes();
        Ok(())
    }

    fn keeps_members(&self) -> bool {
        self.frozen().is_some() || self.is_absorbed()
    }

    fn yields_to(&self, group: GroupId) -> bool {
        self.is_absorbed() || self.frozen().is_some_and(|frozen| frozen.into == group.0)
    }

    fn is_retired(&self) -> bool {
        self.is_absorbed()
    }

    /// No request, lock or transaction is under way, and no merge. (Garbage is no reason to stay awake: whoever collects it wakes
    /// the shard.)
    fn may_rest(&self) -> bool {
        if self.frozen().is_some() || self.is_absorbed() {
            return false;
        }
        let Some(descriptor) = self.descriptor() else { return false };
        let busy = self.leadership().is_some_and(|leadership| leadership.is_busy());
        !busy && self.is_settled(&descriptor.range)
    }

    fn role_changed(&self, role: &Role) {
        let leadership = match role {
            Role::Leader { term } => Some(Arc::new(Leadership::new(*term, self.seams.clock.now()))),
            Role::Follower { .. } => None,
            Role::Stopped { .. } => {
                self.registry.remove(self);
                None
            }
        };
        {
            // While it can't be seen who leads: of two changes, the later one counts for both.
            let mut current = self.leadership.write();
            match leadership.is_some() {
                true => self.registry.led.add(self.group, &self.me),
                false => self.registry.led.remove(self.group, &self.me),
            }
            *current = leadership;
        }
        self.registry.changed();
    }
}

/// Everything that the engine holds of a shard, beside what raft keeps there.
pub fn spans(group: GroupId, descriptor: Option<&ShardDescriptor>) -> Vec<(Cf, KeyRange)> {
    let own = (Cf::Group, raft::private_keys(group));
    let Some(descriptor) = descriptor else {
        return vec![own];
    };
    let range = descriptor.range.clone();
    vec![own, (Cf::Group, keys::records(&range)), (Cf::Data, range.clone()), (Cf::Intents, range)]
}

/// The descriptor that the engine holds for `group`.
pub fn load_descriptor(engine: &Engine, group: GroupId) -> Result<Option<ShardDescriptor>, Fatal> {
    let Some(stored) = engine.get(Cf::Group, &keys::descriptor(group))? else {
        return Ok(None);
    };
    decode_descriptor(&stored).map(Some)
}

/// The descriptor that a snapshot holds for `group`.
pub fn descriptor_in(snapshot: &storage::Snapshot, group: GroupId) -> Result<Option<ShardDescriptor>, Fatal> {
    let stored = snapshot.get(Cf::Group, &keys::descriptor(group))?;
    stored.map(|stored| decode_descriptor(&stored)).transpose()
}

fn decode_descriptor(stored: &[u8]) -> Result<ShardDescriptor, Fatal> {
    let message = proto::common::ShardDescriptor::decode(stored).map_err(Fatal::new)?;
    ShardDescriptor::try_from(message).map_err(Fatal::new)
}

/// Adds a descriptor to a batch.
pub fn store_descriptor(batch: &mut storage::Batch, descriptor: &ShardDescriptor) {
    let message = proto::common::ShardDescriptor::from(descriptor);
    batch.put(Cf::Group, &keys::descriptor(descriptor.group), &message.encode_to_vec());
}

/// The safe point that the engine holds for `group`: versions that only older snapshots need may be gone.
pub fn load_safe_point(engine: &Engine, group: GroupId) -> Result<Timestamp, Fatal> {
    let Some(stored) = engine.get(Cf::Group, &keys::safe_point(group))? else {
        return Ok(Timestamp::ZERO);
    };
    let bytes = stored[..].try_into().map_err(|_| Fatal::new("a shard's safe point is not 8 bytes"))?;
    Ok(Timestamp(u64::from_be_bytes(bytes)))
}

fn store_safe_point(batch: &mut storage::Batch, group: GroupId, safe_point: Timestamp) {
    batch.put(Cf::Group, &keys::safe_point(group), &safe_point.0.to_be_bytes());
}

/// Gives a new shard its descriptor, before its group is created on this node (the cluster's first shards; children
/// of splits get theirs from the split).
pub fn found(engine: &Engine, descriptor: &ShardDescriptor) -> Result<(), Error> {
    let mut batch = engine.batch();
    store_descriptor(&mut batch, descriptor);
    engine.write(batch).map_err(Error::from)?;
    engine.flush().map_err(Error::from)
}

/// The shards of this node.
pub struct Registry {
    me: NodeId,
    shards: RwLock<HashMap<GroupId, Arc<Shard>>>,
    /// All that have a leadership.
    led: Few<Shard>,
    /// All that were absorbed.
    absorbed: Few<Shard>,
    births: mpsc::UnboundedSender<Vec<ShardDescriptor>>,
    changes: watch::Sender<u64>,
}

impl Registry {
    /// The registry of the node `me`, and the children of splits, for whom groups have to be created.
    pub fn new(me: NodeId) -> (Arc<Self>, mpsc::UnboundedReceiver<Vec<ShardDescriptor>>) {
        let (births, receiver) = mpsc::unbounded_channel();
        let (shards, led, absorbed) = Default::default();
        let registry = Self { me, shards, led, absorbed, births, changes: watch::Sender::new(0) };
        (Arc::new(registry), receiver)
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// A shard of this node.
    pub fn get(&self, group: GroupId) -> Option<Arc<Shard>> {
        self.shards.read().get(&group).cloned()
    }

    /// All shards of this node.
    pub fn all(&self) -> Vec<Arc<Shard>> {
        self.shards.read().values().cloned().collect()
    }

    /// Those that this node leads: what is at rest is not among them.
    pub fn led(&self) -> Vec<Arc<Shard>> {
        self.led.all()
    }

    /// Those whose keys are another one's by now.
    pub(crate) fn absorbed(&self) -> Vec<Arc<Shard>> {
        self.absorbed.all()
    }

    /// The descriptors of all shards of this node: what is reported to the meta-group.
    pub fn descriptors(&self) -> Vec<Arc<ShardDescriptor>> {
        self.all().iter().filter_map(|s| s.descriptor()).collect()
    }

    /// Whether a shard of this node overlaps `range`.
    pub fn overlaps(&self, range: &KeyRange) -> bool {
        self.descriptors().iter().any(|d| d.range.overlaps(range))
    }

    /// Changes whenever a descriptor or a leader of this node does: a reason to report at once.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn remove(&self, shard: &Shard) {
        let mut shards = self.shards.write();
        if shards.get(&shard.group).is_some_and(|s| std::ptr::eq(&**s, shard)) {
            shards.remove(&shard.group);
        }
    }
}

/// Opens shards for raft.
pub struct ShardFactory {
    registry: Arc<Registry>,
    seams: Seams,
}

impl ShardFactory {
    /// A factory that puts what it opens into `registry`.
    pub fn new(registry: Arc<Registry>, seams: Seams) -> Self {
        Self { registry, seams }
    }
}

impl StateMachineFactory for ShardFactory {
    fn open(
        &self,
        group: GroupId,
        _replica: ReplicaId,
        engine: Arc<Engine>,
    ) -> Result<Arc<dyn StateMachine>, Fatal> {
        let shard = Arc::new_cyclic(|me| Shard {
            me: me.clone(),
            group,
            engine,
            seams: self.seams.clone(),
            descriptor: RwLock::default(),
            leadership: RwLock::default(),
            born: Mutex::default(),
            growth: Mutex::default(),
            fate: RwLock::default(),
            recent: Mutex::default(),
            safe_point: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            vouched: closing::Vouched::default(),
            imports: AtomicU64::new(0),
            garbage: Mutex::default(),
            traffic: Traffic::default(),
            registry: self.registry.clone(),
        });
        shard.load()?;
        self.registry.shards.write().insert(group, shard.clone());
        Ok(shard)
    }

    fn expected(&self, engine: &Arc<Engine>) -> Result<Vec<Expected>, Fatal> {
        let snapshot = engine.snapshot();
        let mut iter = snapshot.iter(Cf::Group, &KeyRange::all());
        let mut expected = Vec::new();
        // From group to group: one seek finds the next group, one get its descriptor.
        let mut from = 1_u64.to_be_bytes().to_vec();
        loop {
            iter.seek(&from);
            let Some(group) =
                iter.key().and_then(|key| key.first_chunk::<8>()).map(|g| u64::from_be_bytes(*g))
            else {
                iter.check()?;
                return Ok(expected);
            };
            // The records' pseudo-group is the last one.
            let Some(next) = group.checked_add(1) else {
                return Ok(expected);
            };
            if let Some(stored) = snapshot.get(Cf::Group, &keys::descriptor(GroupId(group)))? {
                match decode_descriptor(&stored) {
                    Ok(descriptor) => {
                        if let Some(replica) = descriptor.replica_on(self.registry.me) {
                            let members: BTreeMap<_, _> = descriptor.replicas;
                            expected.push(Expected { group: GroupId(group), replica, members });
                        }
                    }
                    // A replica of it has failed, and says so; one that has yet to be made is made by whoever finds it missing.
                    Err(error) => {
                        tracing::error!(group, %error, "the descriptor of a shard does not decode");
                    }
                }
            }
            from = next.to_be_bytes().to_vec();
        }
    }
}

/// The version that a fence's stored value says. The value also names the prefix, so that a split knows which fences
/// to copy.
pub fn fence_version(value: &[u8]) -> Result<u64, Error> {
    decode_fence(value).map(|fence| fence.version)
}

/// A fence's stored value.
pub fn decode_fence(value: &[u8]) -> Result<proto::shard::FenceValue, Error> {
    proto::shard::FenceValue::decode(value)
        .map_err(|e| Error::Corruption(format!("a fence does not decode: {e}")))
}

/// A fence's value as it is stored.
pub fn encode_fence(prefix: &bytes::Bytes, version: u64) -> bytes::Bytes {
    proto::shard::FenceValue { version, prefix: prefix.clone() }.encode_to_vec().into()
}
