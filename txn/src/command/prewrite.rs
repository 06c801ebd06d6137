//! Lays intents: the first half of a commit over several shards, or the early half of a large transaction.
//!
//! An intent is a promise of this shard that nobody else writes the key until the transaction's fate is known. Sending
//! the same prewrite again is harmless, and one of a later round of the same transaction replaces the value.
//!
//! An *asynchronous commit* (`coordinator/async_commit.rs`) has happened when all its intents lie. Its timestamp is the
//! highest of those that the leaders draw under the latches of its prewrites, and is kept with the intents.

use bytes::Bytes;
use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::response::Body as Answer;
use storage::ids::Timestamp;
use storage::intents;

use super::commit::{claimed, shut_out};
use super::decide::{ended, load_record};
use super::intents::context;
use super::rules::{self, WriteCheck};
use super::{Context, Fates, Outcome, Refusal};
use crate::latch::{Mode, Span};
use crate::wire::parse_txn;

pub async fn prewrite(cx: &Context<'_>, request: pb::Prewrite) -> Outcome {
    let txn = parse_txn(&request.txn)?;
    if request.exact_epoch && cx.epoch != cx.descriptor.epoch.0 {
        return Err(Refusal::WrongShard);
    }
    for write in &request.writes {
        cx.must_hold_key(&write.key)?;
    }
    if let Some(waiting) = claimed(cx, txn, &request.writes) {
        return Ok(waiting);
    }
    let fences = cx.fences(&request.fences);
    let mut spans = Vec::with_capacity(request.writes.len() + fences.len());
    spans.extend(request.writes.iter().map(|w| (Span::Key(w.key.clone()), Mode::Exclusive)));
    spans.extend(fences.iter().map(|(key, _)| (Span::Key(key.clone()), Mode::Shared)));
    let guard = cx.latch(spans).await;
    let view = cx.view()?;
    cx.writes_must_reach(&request.writes)?;

    let holds_primary = cx.descriptor.range.contains(&request.primary);
    if holds_primary {
        // Whoever met other intents of the transaction may have ended it before its primary arrived.
        match load_record(&view.snapshot, &request.primary, txn)? {
            Some(record) if record.kind() == pb::FateKind::FateAborted => {
                cx.confirm().await?;
                return Err(ended().into());
            }
            // A copy of a request that was answered long ago; or an asynchronous commit that others have found complete.
            Some(record) => return Ok(Answer::Done(record.at)),
            None => cx.leadership.heard(txn, cx.server.seams().clock.now()),
        }
    }
    if let Some(waiting) = shut_out(cx, txn, &request.writes, &fences) {
        return Ok(waiting);
    }
    let checked = check(&view.snapshot, txn, &request, &fences);
    let checked = checked.and_then(|found| {
        cx.in_the_way_of_fences(&view, txn, &request.writes)?;
        Ok(found)
    });
    cx.confirm().await?;
    let Found { overtaken, mut at_least } =
        checked.map_err(|refusal| cx.with_rival(&view.snapshot, refusal))?;
    let mut drawn = 0;
    if request.async_commit && overtaken.len() < request.writes.len() {
        // Under the latches: above every read of these keys that was served, like a commit in one shard.
        drawn = cx.server.oracle().timestamp().await?.0;
        at_least = at_least.max(drawn);
    }
    if overtaken.len() == request.writes.len() {
        return Ok(Answer::Done(at_least));
    }

    let writes = request.writes.into_iter().enumerate();
    let writes = writes.filter(|(index, _)| overtaken.binary_search(index).is_err());
    let writes = writes.map(|(_, w)| pb::Version { key: w.key, value: w.value }).collect();
    let effect = pb::PutIntents {
        txn: request.txn,
        primary: request.primary,
        started: request.started,
        writes,
        round: request.round,
        at_least: drawn,
        all_keys: request.all_keys,
    };
    cx.propose(guard, Effect::PutIntents(effect)).await?;
    Ok(Answer::Done(at_least))
}

/// What a check found.
pub struct Found {
    /// By index: writes whose intents lie already.
    pub overtaken: Vec<usize>,
    /// The highest timestamp of those, if they are an asynchronous commit's.
    at_least: u64,
}

/// Whether intents may be laid for `writes`, except for those of which newer ones lie: their indexes.
pub fn check(
    snapshot: &storage::Snapshot,
    txn: storage::ids::TxnId,
    request: &pb::Prewrite,
    fences: &[(Bytes, &pb::Fence)],
) -> Result<Found, Refusal> {
    // Fences are for failing early here: they are checked again at the commit timestamp, with the reads. So an
    // undecided change of schema doesn't matter yet.
    let undecided = rules::check_fences(snapshot, Some(txn), Timestamp::MAX, &Fates::default(), fences)?;
    let mut found = match rules::check_writes(snapshot, txn, request.round, &request.writes)? {
        WriteCheck::Clear { overtaken } => Found { overtaken, at_least: 0 },
        WriteCheck::Blocked(intents) => return Err(Refusal::Blocked { intents, in_reads: false }),
    };
    if !request.async_commit {
        return Ok(found);
    }
    // It commits without looking at fences again.
    if !undecided.is_empty() {
        return Err(Refusal::Blocked { intents: undecided, in_reads: false });
    }
    for (index, write) in request.writes.iter().enumerate() {
        match intents::get_intent(snapshot, &write.key)?.filter(|intent| intent.txn == txn) {
            // A copy of this request came before. What it was given stays: others may have gone by it.
            Some(intent) => {
                found.at_least = found.at_least.max(context(&intent)?.at_least);
                if let Err(at) = found.overtaken.binary_search(&index) {
                    found.overtaken.insert(at, index);
                }
            }
            // Someone has looked for this intent, did not find it, and has drawn conclusions.
            None if load_record(snapshot, &write.key, txn)?.is_some() => return Err(ended().into()),
            None => {}
        }
    }
    Ok(found)
}
