//! Lays intents: the first half of a commit over several shards, or the early half of a large transaction.
//!
//! An intent is a promise of this shard that nobody else writes the key until the transaction's fate is known. Sending
//! the same prewrite again is harmless, and one of a later round of the same transaction replaces the value.

use bytes::Bytes;
use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::response::Body as Answer;
use storage::ids::Timestamp;

use super::decide::{ended, load_record};
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
    let fences = cx.fences(&request.fences);
    let mut spans = Vec::with_capacity(request.writes.len() + fences.len());
    spans.extend(request.writes.iter().map(|w| (Span::Key(w.key.clone()), Mode::Exclusive)));
    spans.extend(fences.iter().map(|(key, _)| (Span::Key(key.clone()), Mode::Shared)));
    let guard = cx.latch(spans).await;
    let view = cx.view()?;

    let holds_primary = cx.descriptor.range.contains(&request.primary);
    if holds_primary {
        // Whoever met other intents of the transaction may have ended it before its primary arrived.
        match load_record(&view.snapshot, &request.primary, txn)? {
            Some(record) if record.kind() == pb::FateKind::FateAborted => {
                cx.confirm().await?;
                return Err(ended().into());
            }
            // A copy of a request that was answered long ago.
            Some(_) => return Ok(Answer::Done(0)),
            None => cx.leadership.heard(txn, cx.server.seams().clock.now()),
        }
    }
    let checked = check(&view.snapshot, txn, request.round, &request.writes, &fences);
    cx.confirm().await?;
    let overtaken = checked?;

    let writes = request.writes.into_iter().enumerate();
    let writes = writes.filter(|(index, _)| overtaken.binary_search(index).is_err());
    let writes = writes.map(|(_, w)| pb::Version { key: w.key, value: w.value }).collect();
    let effect = pb::PutIntents {
        txn: request.txn,
        primary: request.primary,
        started: request.started,
        writes,
        round: request.round,
    };
    cx.propose(guard, Effect::PutIntents(effect)).await?;
    Ok(Answer::Done(0))
}

fn check(
    snapshot: &storage::Snapshot,
    txn: storage::ids::TxnId,
    round: u64,
    writes: &[pb::Write],
    fences: &[(Bytes, &pb::Fence)],
) -> Result<Vec<usize>, Refusal> {
    // Fences are for failing early here: they are checked again at the commit timestamp, with the reads. So an
    // undecided change of schema doesn't matter yet.
    rules::check_fences(snapshot, Some(txn), Timestamp::MAX, &Fates::default(), fences)?;
    match rules::check_writes(snapshot, txn, round, writes)? {
        WriteCheck::Clear { overtaken } => Ok(overtaken),
        WriteCheck::Blocked(intents) => Err(Refusal::Blocked { intents, in_reads: false }),
    }
}
