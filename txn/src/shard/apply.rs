//! Applying commands: effects turn into writes, without looking.
//!
//! The one exception is [`Settle`](proto::shard::Settle) (and the primary in `Decide`), which reads the intents that it
//! turns into versions, instead of carrying their values through the log a second time. That is as deterministic: the
//! state is the same on every replica at that point of the log, and raft writes each command's batch before it asks
//! for the next.

use bytes::Bytes;
use prost::Message;
use proto::shard as pb;
use proto::shard::command::Effect;
use raft::Fatal;
use storage::ids::{KeyRange, Timestamp, TxnId};
use storage::intents::{self, Intent};
use storage::{Batch, Cf, Snapshot, mvcc};

use super::{Shard, store_descriptor};
use crate::descriptor::{ShardDescriptor, range_from_pb};
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
    match command.effect.ok_or_else(|| malformed("no effect"))? {
        Effect::Versions(c) => {
            let at = Timestamp(c.at);
            for write in &c.writes {
                mvcc::put_version(batch, &write.key, at, write.value.as_deref());
            }
            // Memory only, and nothing that is applied depends on it.
            shard.recent.lock().add(parse_txn(&c.txn).map_err(Fatal::new)?, at);
        }
        Effect::PutIntents(c) => {
            let txn = parse_txn(&c.txn).map_err(Fatal::new)?;
            let round = Bytes::copy_from_slice(&c.round.to_be_bytes());
            for write in c.writes {
                let intent = Intent {
                    txn,
                    primary: c.primary.clone(),
                    read_at: Timestamp(c.started),
                    value: write.value,
                    context: round.clone(),
                };
                intents::put_intent(batch, &write.key, &intent);
            }
        }
        Effect::Decide(c) => {
            let txn = parse_txn(&c.txn).map_err(Fatal::new)?;
            let record = c.record.ok_or_else(|| malformed("a decision without a record"))?;
            batch.put(Cf::Group, &keys::record(&c.primary, txn), &record.encode_to_vec());
            let snapshot = shard.engine.snapshot();
            settle_key(&snapshot, batch, txn, Timestamp(record.at), &c.primary)?;
        }
        Effect::Settle(c) => {
            let txn = parse_txn(&c.txn).map_err(Fatal::new)?;
            let at = Timestamp(c.committed_at);
            let snapshot = shard.engine.snapshot();
            for key in &c.keys {
                settle_key(&snapshot, batch, txn, at, key)?;
            }
            for span in c.spans {
                settle_span(&snapshot, batch, txn, at, &range_from_pb(span))?;
            }
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
        store_descriptor(batch, &child);
        born.push(child);
    }
    // Before the batch is visible: see the invariant on `Shard`.
    shard.set_descriptor(parent);
    shard.born.lock().extend(born);
    Ok(())
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
) -> Result<(), Fatal> {
    // The leader has chosen the span such that it is a page's worth.
    let limits = mvcc::Limits { rows: usize::MAX, bytes: usize::MAX };
    for (key, intent) in intents::scan_intents(snapshot, span, limits)?.intents {
        if intent.txn == txn {
            settle_intent(batch, committed_at, &key, &intent);
        }
    }
    Ok(())
}

fn settle_intent(batch: &mut Batch, committed_at: Timestamp, key: &[u8], intent: &Intent) {
    if committed_at > Timestamp::ZERO {
        mvcc::put_version(batch, key, committed_at, intent.value.as_deref());
    }
    intents::remove_intent(batch, key);
}
