//! Freezing, thawing, absorbing: what every replica does. `command/merge.rs` has the protocol, and why it is exact.
//!
//! ```text
//!   [group][0x10] f      frozen: into which group, at which epoch of it    (Frozen)
//!   [group][0x10] a      absorbed: by which group                          (u64 BE)
//! ```
//!
//! Both are the replica's own, durable with the batch that brings them. `a` stands only until the replica is removed, and only
//! at replicas that hold nothing any more.
//!
//! Invariants, checked where they could break:
//!
//! - a frozen shard applies nothing but a thaw ([`Shard::must_not_be_frozen`]);
//! - a replica absorbs only what stands beside it just as it was frozen ([`absorb`]);
//! - at every moment at most one descriptor on a node holds a key; but for the moment between a snapshot's import and
//!   [`Registry::retire_overlapped`], when the other one is frozen, and serves nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use proto::shard as pb;
use raft::Fatal;
use storage::fail_point::{self, FailPoint};
use storage::ids::{GroupId, Timestamp};
use storage::sabotage::{self, Sabotage};
use storage::{Batch, Cf, Engine, Snapshot, mvcc};

use super::closing::load_closed;
use super::{Registry, Shard, load_descriptor, load_safe_point, store_descriptor, store_safe_point};
use crate::descriptor::ShardDescriptor;
use crate::keys;

/// How long a replica that was absorbed stays, to send on those who ask for it.
const BURIED_AFTER: Duration = Duration::from_secs(3);

/// What makes a replica something else than one that serves.
#[derive(Clone, Debug, Default)]
pub(super) struct Fate {
    /// It waits to be absorbed.
    pub frozen: Option<pb::Frozen>,
    /// It was absorbed, and was seen to be at this moment.
    pub absorbed: Option<Instant>,
}

/// What becomes true of a replica with the batch that is being applied, and may be seen after it only.
#[derive(Debug)]
pub(super) enum Growth {
    Thawed(ShardDescriptor),
    Absorbed(ShardDescriptor),
}

impl Shard {
    /// Into which shard this one is frozen, if it is.
    pub fn frozen(&self) -> Option<pb::Frozen> {
        self.fate.read().frozen
    }

    /// Its left neighbour has taken its keys.
    pub fn is_absorbed(&self) -> bool {
        self.fate.read().absorbed.is_some()
    }

    /// Whether it can be removed.
    pub(crate) fn is_to_be_buried(&self, now: Instant) -> bool {
        let absorbed = self.fate.read().absorbed;
        absorbed.is_some_and(|since| now.saturating_duration_since(since) >= BURIED_AFTER)
    }

    /// Whether the engine says that the shard is frozen, and at this epoch.
    pub fn is_frozen_at(&self, epoch: u64) -> Result<bool, Fatal> {
        let frozen = load_frozen(&self.engine, self.group)?;
        let stored = load_descriptor(&self.engine, self.group)?;
        Ok(frozen.is_some() && stored.is_some_and(|descriptor| descriptor.epoch.0 == epoch))
    }

    /// What stands in the engine, when it is opened or was replaced.
    pub(super) fn load_fate(&self) -> Result<(), Fatal> {
        let frozen = load_frozen(&self.engine, self.group)?;
        let absorbed = self.engine.get(Cf::Group, &keys::absorbed(self.group))?;
        match absorbed.is_some() {
            true => self.registry.absorbed.add(self.group, &self.me),
            false => self.registry.absorbed.remove(self.group, &self.me),
        }
        *self.fate.write() = Fate { frozen, absorbed: absorbed.map(|_| self.seams.clock.now()) };
        Ok(())
    }

    /// Nothing may change a frozen shard: latches, the look at the descriptor and raft's terms have seen to it.
    pub(super) fn must_not_be_frozen(&self) -> Result<(), Fatal> {
        match &*self.fate.read() {
            Fate { frozen: None, absorbed: None } => Ok(()),
            _ => Err(Fatal::new(format!("M1: {} is frozen, and yet its log would change it", self.group))),
        }
    }

    /// The batch is visible.
    pub(super) fn grow(&self) {
        let Some(growth) = self.growth.lock().take() else { return };
        match growth {
            Growth::Thawed(descriptor) => {
                self.fate.write().frozen = None;
                self.set_descriptor(descriptor);
            }
            Growth::Absorbed(descriptor) => {
                fail_point::pass(FailPoint::AbsorbApplied);
                {
                    let mut leadership = self.leadership.write();
                    if let Some(before) = leadership.take() {
                        *leadership = Some(Arc::new(before.renewed(self.seams.clock.now())));
                    }
                }
                self.traffic.forget_keys();
                self.set_descriptor(descriptor);
            }
        }
    }

    /// Its keys are its left neighbour's now.
    fn retire(&self) {
        self.registry.absorbed.add(self.group, &self.me);
        *self.fate.write() = Fate { frozen: None, absorbed: Some(self.seams.clock.now()) };
        *self.descriptor.write() = None;
        self.registry.changed();
    }
}

fn load_frozen(engine: &Engine, group: GroupId) -> Result<Option<pb::Frozen>, Fatal> {
    let stored = engine.get(Cf::Group, &keys::frozen(group))?;
    stored.map(|stored| pb::Frozen::decode(stored).map_err(Fatal::new)).transpose()
}

pub(super) fn freeze(shard: &Shard, batch: &mut Batch, command: pb::FreezeShard) -> Result<(), Fatal> {
    let (Some(descriptor), Some(frozen)) = (command.descriptor, command.frozen) else {
        return Err(Fatal::new("a command is malformed: a freeze of nothing"));
    };
    let descriptor = own(shard, descriptor)?;
    shard.must_not_be_frozen()?;
    store_descriptor(batch, &descriptor);
    batch.put(Cf::Group, &keys::frozen(shard.group), &frozen.encode_to_vec());
    // Before the batch is visible: see the invariant on `Shard`.
    shard.fate.write().frozen = Some(frozen);
    shard.set_descriptor(descriptor);
    Ok(())
}

pub(super) fn thaw(
    shard: &Shard,
    batch: &mut Batch,
    command: proto::common::ShardDescriptor,
) -> Result<(), Fatal> {
    let descriptor = own(shard, command)?;
    if shard.is_absorbed() {
        return Err(Fatal::new(format!("M4: {} was absorbed, and yet its log would thaw it", shard.group)));
    }
    store_descriptor(batch, &descriptor);
    batch.delete(Cf::Group, &keys::frozen(shard.group));
    *shard.growth.lock() = Some(Growth::Thawed(descriptor));
    Ok(())
}

pub(super) fn absorb(shard: &Shard, batch: &mut Batch, command: pb::AbsorbShard) -> Result<(), Fatal> {
    let (Some(left), Some(right)) = (command.left, command.right) else {
        return Err(Fatal::new("a command is malformed: an absorption of nothing"));
    };
    let (left, right) = (own(shard, left)?, ShardDescriptor::try_from(right).map_err(Fatal::new)?);
    let stored = load_descriptor(&shard.engine, right.group)?;
    let frozen = load_frozen(&shard.engine, right.group)?;
    let is_ready =
        stored.as_ref() == Some(&right) && frozen.is_some_and(|frozen| frozen.into == shard.group.0);
    if !is_ready && !sabotage::is(Sabotage::AbsorbUnseen) {
        // Every node has said that it has it, durably. Going on without would lose rows.
        return Err(Fatal::new(format!(
            "M2: {} is to absorb {right:?}, but what is here is {stored:?}",
            shard.group
        )));
    }
    let safe_point = shard.safe_point().max(load_safe_point(&shard.engine, right.group)?);
    store_descriptor(batch, &left);
    store_safe_point(batch, shard.group, safe_point);
    // What either has promised for its keys: C5. (The right one is frozen: its word is the same on every replica.)
    shard.set_closed(batch, shard.closed().min(load_closed(&shard.engine, right.group)?));
    remove_inner_fence(&shard.engine.snapshot(), batch, &right)?;
    retire_in(batch, right.group, shard.group);
    // Before the batch is visible: see the invariant on `Shard`.
    shard.safe_point.fetch_max(safe_point.0, std::sync::atomic::Ordering::SeqCst);
    if let Some(neighbour) = shard.registry.get(right.group) {
        neighbour.retire();
        // Memory only: who asks for a commit of the neighbour's asks here from now on.
        let commits = std::mem::take(&mut *neighbour.recent.lock());
        shard.recent.lock().append(commits);
        shard.garbage.lock().wrote(1, safe_point);
    }
    *shard.growth.lock() = Some(Growth::Absorbed(left));
    Ok(())
}

/// A replica's own descriptor.
fn own(shard: &Shard, descriptor: proto::common::ShardDescriptor) -> Result<ShardDescriptor, Fatal> {
    let descriptor = ShardDescriptor::try_from(descriptor).map_err(Fatal::new)?;
    match descriptor.group == shard.group {
        true => Ok(descriptor),
        false => Err(Fatal::new("a command is malformed: a descriptor of another group")),
    }
}

/// From this batch on the group holds nothing on this node.
fn retire_in(batch: &mut Batch, group: GroupId, by: GroupId) {
    batch.delete(Cf::Group, &keys::descriptor(group));
    batch.delete(Cf::Group, &keys::safe_point(group));
    batch.delete(Cf::Group, &keys::closed(group));
    batch.delete(Cf::Group, &keys::frozen(group));
    batch.put(Cf::Group, &keys::absorbed(group), &by.0.to_be_bytes());
}

/// The fence of a table that reaches over the boundary stands in the left shard, too, with the same history. The copy under the
/// right shard's first key would pass for a row. (The fence of a table that *begins* at the boundary stands there as well, and
/// stays.)
fn remove_inner_fence(snapshot: &Snapshot, batch: &mut Batch, right: &ShardDescriptor) -> Result<(), Fatal> {
    let key = keys::fence(&right.range.start, b"");
    let mut versions = Vec::new();
    let mut upto = Timestamp::MAX;
    while let Some(version) = mvcc::get(snapshot, &key, upto)? {
        let older = version.ts.0.checked_sub(1);
        versions.push(version);
        match older {
            Some(older) => upto = Timestamp(older),
            None => break,
        }
    }
    let prefixes = versions.iter().filter_map(|version| super::decode_fence(version.value.as_ref()?).ok());
    let reaches_over =
        |prefix: &[u8]| right.range.start.starts_with(prefix) && prefix != &right.range.start[..];
    if prefixes.into_iter().any(|fence| reaches_over(&fence.prefix)) {
        for version in versions {
            mvcc::remove_version(batch, &key, version.ts);
        }
    }
    Ok(())
}

impl Registry {
    /// Frozen replicas whose keys their left neighbour holds here: it came as a snapshot from after the merge.
    pub(crate) fn retire_overlapped(&self) -> Result<(), Fatal> {
        for shard in self.all() {
            let (Some(frozen), Some(descriptor)) = (shard.frozen(), shard.descriptor()) else { continue };
            let left = self.get(GroupId(frozen.into)).and_then(|left| left.descriptor());
            let Some(left) = left.filter(|left| left.range.contains(&descriptor.range.start)) else {
                continue;
            };
            if left.epoch <= descriptor.epoch {
                return Err(Fatal::new(format!("M3: {left:?} holds the keys of {descriptor:?}")));
            }
            let mut batch = shard.engine.batch();
            retire_in(&mut batch, shard.group, left.group);
            shard.retire();
            shard.engine.write(batch)?;
        }
        Ok(())
    }
}
