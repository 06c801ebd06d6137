//! Applying commands: effects turn into writes, without looking.
//!
//! The one exception is [`Settle`](proto::shard::Settle) (and the primary in `Decide`), which reads the intents that it
//! turns into versions, instead of carrying their values through the log a second time. That is as deterministic: the
//! state is the same on every replica at that point of the log, and raft writes each command's batch before it asks
//! for the next.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use prost::Message;
use proto::shard as pb;
use proto::shard::command::Effect;
use raft::Fatal;
use storage::ids::{KeyRange, Timestamp, TxnId};
use storage::intents::{self, Intent};
use storage::sabotage::{self, Sabotage};
use storage::{Batch, Cf, Snapshot, gc, mvcc};

use super::closing::store_closed;
use super::{Shard, load_descriptor, merge, store_descriptor, store_safe_point};
use crate::descriptor::{ShardDescriptor, range_from_pb, range_to_pb};
use crate::keys;
use crate::wire::parse_txn;

/// A command that apply does not understand is a newer version's, or damage: either way this replica must not go on.
fn malformed(what: &str) -> Fatal {
    Fatal::new(format!("a command is malformed: {what}"))
}

pub(super) fn apply(shard: &Shard, batch: &mut Batch, command: &[u8]) -> Result<Bytes, Fatal> {
    if command.is_empty() {
        // A barrier: it only proves that everything before it is applied.
        return Ok(Bytes::new());
    }
    let command = pb::Command::decode(command).map_err(Fatal::new)?;
    let closed = Timestamp(command.closed);
    let is_fixed = shard.frozen().is_some() || shard.is_absorbed();
    // Before the effects: children inherit it.
    if closed > Timestamp::ZERO && !is_fixed {
        shard.close(batch, closed);
    }
    let effect = match command.effect {
        Some(effect) => effect,
        // Not latched, so it may come after a freeze.
        None if closed > Timestamp::ZERO => return Ok(Bytes::new()),
        None => return Err(malformed("no effect")),
    };
    match &effect {
        // Not latched, so it may come after a freeze: then it does nothing.
        Effect::Collect(_) if is_fixed => {
            return Ok(pb::Collected::default().encode_to_vec().into());
        }
        Effect::Thaw(_) => {}
        _ => shard.must_not_be_frozen()?,
    }
    match effect {
        Effect::Versions(c) => {
            let at = Timestamp(c.at);
            debug_assert!(is_open(shard, at), "C1: a commit at or below what was closed");
            for write in &c.writes {
                debug_assert!(is_unclaimed(shard, &write.key, None), "I1: a version over someone's intent");
                if sabotage::is(Sabotage::LoseRow) && is_to_be_lost(shard, &write.key) {
                    continue;
                }
                if sabotage::is(Sabotage::FailToApply) && is_to_fail(write.value.as_deref()) {
                    return Err(Fatal::new("it says that it is to fail"));
                }
                mvcc::put_version(batch, &write.key, at, write.value.as_deref());
            }
            // Memory only, and nothing that is applied depends on it.
            shard.garbage.lock().wrote(c.writes.len(), at);
            shard.remember(parse_txn(&c.txn).map_err(Fatal::new)?, at);
        }
        Effect::PutIntents(c) => {
            let txn = parse_txn(&c.txn).map_err(Fatal::new)?;
            let at_least = Timestamp(c.at_least);
            debug_assert!(at_least == Timestamp::ZERO || is_open(shard, at_least), "C1: of intents");
            for write in c.writes {
                debug_assert!(
                    is_unclaimed(shard, &write.key, Some(txn)),
                    "I1: an intent over someone's intent"
                );
                let all_keys = if write.key == c.primary { c.all_keys.clone() } else { Vec::new() };
                let context = pb::IntentContext { round: c.round, at_least: c.at_least, all_keys };
                let intent = Intent {
                    txn,
                    primary: c.primary.clone(),
                    read_at: Timestamp(c.started),
                    value: write.value,
                    context: context.encode_to_vec().into(),
                };
                intents::put_intent(batch, &write.key, &intent);
            }
        }
        Effect::Decide(c) => {
            let txn = parse_txn(&c.txn).map_err(Fatal::new)?;
            let record = c.record.ok_or_else(|| malformed("a decision without a record"))?;
            debug_assert!(is_only_fate(shard, &c.primary, txn, &record), "F1: a second fate");
            batch.put(Cf::Group, &keys::record(&c.primary, txn), &record.encode_to_vec());
            let snapshot = shard.engine.snapshot();
            settle_key(&snapshot, batch, txn, Timestamp(record.at), &c.primary)?;
            shard.garbage.lock().wrote(1, Timestamp(record.at));
            shard.remember(txn, Timestamp(record.at));
        }
        Effect::Settle(c) => {
            let txn = parse_txn(&c.txn).map_err(Fatal::new)?;
            let at = Timestamp(c.committed_at);
            shard.remember(txn, at);
            let snapshot = shard.engine.snapshot();
            for key in &c.keys {
                settle_key(&snapshot, batch, txn, at, key)?;
            }
            let mut settled = c.keys.len();
            for span in c.spans {
                settled += settle_span(&snapshot, batch, txn, at, &range_from_pb(span))?;
            }
            shard.garbage.lock().wrote(settled, at);
        }
        Effect::Forget(c) => {
            let txn = parse_txn(&c.txn).map_err(Fatal::new)?;
            batch.delete(Cf::Group, &keys::record(&c.primary, txn));
        }
        Effect::Split(c) => split(shard, batch, c)?,
        Effect::Descriptor(c) => {
            let descriptor = ShardDescriptor::try_from(c).map_err(Fatal::new)?;
            if descriptor.group != shard.group {
                return Err(malformed("a descriptor of another group"));
            }
            store_descriptor(batch, &descriptor);
            shard.set_descriptor(descriptor);
        }
        Effect::Freeze(c) => merge::freeze(shard, batch, c)?,
        Effect::Thaw(c) => merge::thaw(shard, batch, c)?,
        Effect::Absorb(c) => merge::absorb(shard, batch, c)?,
        Effect::Collect(c) => return Ok(collect(shard, batch, c)?.encode_to_vec().into()),
        Effect::Clear(c) => {
            let start = shard.descriptor().ok_or_else(|| malformed("no shard to clear"))?.range.start.clone();
            // The shard's fence stays: the table that it stands for may go on in other keys of this shard. Known here and not
            // when the range was chosen, since a split may have come between.
            for range in keys::beside_fence(&range_from_pb(c), &start) {
                batch.delete_range(Cf::Data, &range);
                batch.delete_range(Cf::Intents, &range);
            }
        }
    }
    Ok(Bytes::new())
}

fn collect(shard: &Shard, batch: &mut Batch, command: pb::Collect) -> Result<pb::Collected, Fatal> {
    let descriptor = shard.descriptor().ok_or_else(|| malformed("no shard to collect"))?;
    // A later command may have been proposed by someone who knew less.
    let safe_point = shard.safe_point().max(Timestamp(command.safe_point));
    store_safe_point(batch, shard.group, safe_point);
    // Before the batch is visible: see the invariant on `Shard`.
    shard.safe_point.fetch_max(safe_point.0, Ordering::SeqCst);
    // A split may have come between: what is not this shard's any more is not touched.
    let Some(range) = range_from_pb(command.range.unwrap_or_default()).intersection(&descriptor.range) else {
        return Ok(pb::Collected::default());
    };
    let progress =
        gc::gc(&shard.engine.snapshot(), batch, &range, safe_point, command.versions_max as usize)?;
    Ok(pb::Collected {
        removed: progress.removed as u64,
        seen: progress.seen as u64,
        pending: progress.seen.saturating_sub(progress.removed + progress.live) as u64,
        rest: progress.rest.as_ref().map(range_to_pb),
    })
}

/// Of every eighth key or so, by its last byte, on replicas that follow.
fn is_to_be_lost(shard: &Shard, key: &[u8]) -> bool {
    shard.leadership().is_none() && key.last().is_some_and(|last| last % 8 == 3)
}

/// A row that says so.
fn is_to_fail(value: Option<&[u8]>) -> bool {
    const SAYS: &[u8] = b"THIS FAILS";
    value.is_some_and(|value| value.windows(SAYS.len()).any(|part| part == SAYS))
}

/// Nothing was closed there. (Draws come after what was closed existed, unless the oracle is made to lie.)
fn is_open(shard: &Shard, at: Timestamp) -> bool {
    at > shard.closed() || sabotage::is(Sabotage::OracleGoesBack)
}

/// No intent lies under the key, except `own`'s. (What can't be read here is a matter for those who have to read it.)
fn is_unclaimed(shard: &Shard, key: &[u8], own: Option<TxnId>) -> bool {
    let intent = intents::get_intent(&shard.engine.snapshot(), key).ok().flatten();
    intent.is_none_or(|intent| Some(intent.txn) == own)
}

/// No other fate of the transaction is on record.
fn is_only_fate(shard: &Shard, primary: &[u8], txn: TxnId, fate: &pb::TxnRecord) -> bool {
    let stored = shard.engine.get(Cf::Group, &keys::record(primary, txn)).ok().flatten();
    let known = stored.and_then(|stored| pb::TxnRecord::decode(stored).ok());
    known.is_none_or(|known| (known.kind, known.at) == (fate.kind, fate.at))
}

fn split(shard: &Shard, batch: &mut Batch, command: pb::SplitShard) -> Result<(), Fatal> {
    let parent = command.parent.ok_or_else(|| malformed("a split without a parent"))?;
    let parent = ShardDescriptor::try_from(parent).map_err(Fatal::new)?;
    if parent.group != shard.group {
        return Err(malformed("a split of another group"));
    }
    for fence in &command.fences {
        mvcc::put_version(batch, &fence.key, Timestamp(fence.at), fence.value.as_deref());
    }
    store_descriptor(batch, &parent);
    let mut born = Vec::with_capacity(command.children.len());
    for child in command.children {
        let child = ShardDescriptor::try_from(child).map_err(Fatal::new)?;
        must_be_unborn(shard, &child)?;
        store_descriptor(batch, &child);
        store_safe_point(batch, child.group, shard.safe_point());
        // The child begins with this very state, and whoever leads it draws later: C5.
        store_closed(batch, child.group, shard.closed());
        born.push(child);
    }
    // Before the batch is visible: see the invariant on `Shard`.
    shard.set_descriptor(parent);
    shard.traffic.forget_keys();
    shard.born.lock().extend(born);
    Ok(())
}

/// S1: what a split brings forth is nowhere yet, on any node. The batch that makes it says with it how far the log is applied, so a
/// crash undoes both; and no snapshot brings a child to where its parent has yet to split (`raft::removal`). So whatever stands
/// there is another shard, whose id was given out twice, and it must not lose its keys to this one: rather this replica stops. Other
/// nodes, which don't have the other one, go on; nothing that is the same on all of them tells the two apart.
///
/// (The very same descriptor is what a node has kept that was only to learn, and is told the same again.)
fn must_be_unborn(shard: &Shard, child: &ShardDescriptor) -> Result<(), Fatal> {
    let stored = load_descriptor(&shard.engine, child.group)?;
    let absorbed = shard.engine.get(Cf::Group, &keys::absorbed(child.group))?.is_some();
    match stored {
        None if !absorbed => Ok(()),
        Some(stored) if stored == *child && !absorbed => Ok(()),
        _ => Err(Fatal::new(format!(
            "S1: a split of {} is to bring forth {child:?}, and that id is taken",
            shard.group
        ))),
    }
}

fn settle_key(
    snapshot: &Snapshot,
    batch: &mut Batch,
    txn: TxnId,
    committed_at: Timestamp,
    key: &[u8],
) -> Result<(), Fatal> {
    // Settling twice, or after someone else did, finds nothing and changes nothing.
    if let Some(intent) = intents::get_intent(snapshot, key)?.filter(|i| i.txn == txn) {
        settle_intent(batch, committed_at, key, &intent);
    }
    Ok(())
}

fn settle_span(
    snapshot: &Snapshot,
    batch: &mut Batch,
    txn: TxnId,
    committed_at: Timestamp,
    span: &KeyRange,
) -> Result<usize, Fatal> {
    // The leader has chosen the span such that it is a page's worth.
    let limits = mvcc::Limits { rows: usize::MAX, bytes: usize::MAX };
    let mut settled = 0;
    for (key, intent) in intents::scan_intents(snapshot, span, limits)?.intents {
        if intent.txn == txn {
            settle_intent(batch, committed_at, &key, &intent);
            settled += 1;
        }
    }
    Ok(settled)
}

fn settle_intent(batch: &mut Batch, committed_at: Timestamp, key: &[u8], intent: &Intent) {
    if committed_at > Timestamp::ZERO {
        mvcc::put_version(batch, key, committed_at, intent.value.as_deref());
    }
    intents::remove_intent(batch, key);
}

#[cfg(test)]
mod tests;
