//! A whole transaction in one shard: one request, one log entry.
//!
//! The latches cover all that is written (exclusively) and all that was read (shared); under them nothing of either
//! changes between the checks, the draw of the timestamp, and the effects. So the transaction happens at that
//! timestamp as if alone: everything it read is as it was at `read_at`, and stays so up to the commit.
//!
//! Intents of others under *written* keys have to be decided first; the gateway sees to that. Intents in what was
//! *read*, or under keys where a row must stand, might commit on either side of a timestamp that is not yet drawn; the gateway then
//! takes the way over intents, where validation happens at a timestamp known before.

use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::response::Body as Answer;
use storage::Snapshot;
use storage::ids::{KeyRange, Timestamp, TxnId};
use storage::intents;
use storage::mvcc;
use storage::sabotage::{self, Sabotage};

use super::decide::newest;
use super::intents::intents_in;
use super::rules::{self, MET_MAX, WriteCheck};
use super::{Context, Fates, Outcome, Refusal};
use crate::Error;
use crate::descriptor::range_from_pb;
use crate::latch::{Mode, Span};
use crate::wire::parse_txn;

pub async fn commit(cx: &Context<'_>, request: pb::Commit) -> Outcome {
    let txn = parse_txn(&request.txn)?;
    if request.exact_epoch && cx.epoch != cx.descriptor.epoch.0 {
        return Err(Refusal::WrongShard);
    }
    let reads: Vec<KeyRange> = request.reads.into_iter().map(range_from_pb).collect();
    for write in &request.writes {
        cx.must_hold_key(&write.key)?;
    }
    for range in &reads {
        cx.must_hold(range)?;
    }
    for key in &request.present {
        cx.must_hold_key(key)?;
    }
    if let Some(waiting) = claimed(cx, txn, &request.writes) {
        return Ok(waiting);
    }
    let fences = cx.fences(&request.fences);
    let mut spans = Vec::with_capacity(request.writes.len() + reads.len() + fences.len());
    spans.extend(request.writes.iter().map(|w| (Span::Key(w.key.clone()), Mode::Exclusive)));
    spans.extend(reads.iter().map(|range| (read_span(range), Mode::Shared)));
    spans.extend(request.present.iter().map(|key| (Span::Key(key.clone()), Mode::Shared)));
    spans.extend(fences.iter().map(|(key, _)| (Span::Key(key.clone()), Mode::Shared)));
    let guard = cx.latch(spans).await;

    let view = cx.view()?;
    if let Some(waiting) = shut_out(cx, txn, &request.writes, &fences) {
        return Ok(waiting);
    }
    if !reads.is_empty() {
        cx.must_reach(Timestamp(request.read_at))?;
    }
    cx.writes_must_reach(&request.writes)?;
    let checked = check(&view.snapshot, txn, Timestamp(request.read_at), &reads, &request.writes, &fences);
    let checked = checked.and_then(|()| check_present(&view.snapshot, txn, &request.present));
    let checked = checked.and_then(|()| cx.in_the_way_of_fences(&view, txn, &request.writes));
    // What was found may be the past of a deposed leader; a proposal would notice, an error would not.
    cx.confirm().await?;
    checked.map_err(|refusal| cx.with_rival(&view.snapshot, refusal))?;

    let at = cx.server.oracle().timestamp().await?;
    if !sabotage::is(Sabotage::OracleGoesBack) {
        // T1, T2.
        debug_assert!(at > Timestamp(request.read_at), "the oracle went back");
        for write in request.writes.iter().filter(|_| cfg!(debug_assertions)) {
            debug_assert!(newest(&view.snapshot, &write.key)? < at, "a version below one that stands there");
        }
    }
    let writes = request.writes.into_iter().map(|w| pb::Version { key: w.key, value: w.value }).collect();
    cx.propose(guard, Effect::Versions(pb::Versions { txn: request.txn, at: at.0, writes })).await?;
    // It is over, and so are its locks here.
    cx.leadership.locks.release(txn, cx.server.seams().clock.now());
    Ok(Answer::Done(at.0))
}

/// Whoever inserts without a lock waits for those who have locked the key to insert a row there, or to delete one: the gateway
/// takes the lock first, and comes again. (Should the lock be lost, whoever commits first has the key.)
pub fn claimed(cx: &Context<'_>, txn: TxnId, writes: &[pb::Write]) -> Option<Answer> {
    let locks = &cx.leadership.locks;
    let claimed = writes.iter().find(|write| write.absent && locks.is_claimed(txn, &write.key));
    claimed.map(|write| Answer::Waiting(pb::Waiting { key: write.key.clone(), ..pb::Waiting::default() }))
}

/// Whoever writes into a table waits for the transaction that has locked it for a change of schema, and so does whoever changes its
/// fence. To be called under the latches on the fences: who has the lock waits for those who hold them (`lock.rs`), so nobody is
/// between this look and the log when the table is read.
pub fn shut_out(
    cx: &Context<'_>,
    txn: TxnId,
    writes: &[pb::Write],
    fences: &[(bytes::Bytes, &pb::Fence)],
) -> Option<Answer> {
    let locks = &cx.leadership.locks;
    let locked = fences.iter().find(|(key, fence)| {
        locks.is_claimed(txn, key) && writes.iter().any(|write| write.key.starts_with(&fence.prefix))
    });
    let set = || writes.iter().find(|write| !write.fence_of.is_empty() && locks.is_claimed(txn, &write.key));
    let key = locked.map(|(key, _)| key).or_else(|| set().map(|write| &write.key))?;
    Some(Answer::Waiting(pb::Waiting { key: key.clone(), ..pb::Waiting::default() }))
}

/// Whether rows stand under all of `keys`. Of others' intents there nobody can say yet what they will be.
fn check_present(snapshot: &Snapshot, txn: TxnId, keys: &[bytes::Bytes]) -> Result<(), Refusal> {
    let mut points = mvcc::PointReader::new(snapshot);
    let mut met = Vec::new();
    for key in keys {
        if let Some(intent) = intents::get_intent(snapshot, key)?.filter(|intent| intent.txn != txn) {
            met.push(rules::met(key, &intent));
        } else if !points.get_with(key, Timestamp::MAX, |_, value| value.is_some())?.unwrap_or(false) {
            return Err(Error::Conflict { key: key.clone(), rival: None }.into());
        }
    }
    if met.is_empty() {
        return Ok(());
    }
    met.truncate(MET_MAX);
    Err(Refusal::Blocked { intents: met, in_reads: true })
}

/// A read range as it is latched; most are single keys.
pub fn read_span(range: &KeyRange) -> Span {
    match storage::keys::as_point(range) {
        Some(_) => Span::Key(range.start.clone()),
        None => Span::Range(range.clone()),
    }
}

/// Whether the transaction may commit in this shard, at a timestamp that is yet to be drawn.
pub fn check(
    snapshot: &Snapshot,
    txn: TxnId,
    read_at: Timestamp,
    reads: &[KeyRange],
    writes: &[pb::Write],
    fences: &[(bytes::Bytes, &pb::Fence)],
) -> Result<(), Refusal> {
    let no_fates = Fates::default();
    let mut in_reads = rules::check_fences(snapshot, Some(txn), Timestamp::MAX, &no_fates, fences)?;
    // Reads first: whoever has read a key as absent, and finds it there now, has a conflict, not a duplicate.
    for range in reads {
        if sabotage::is(Sabotage::SkipReadValidation) {
            break;
        }
        if let Some((key, _)) = mvcc::any_version_in(snapshot, range, read_at, Timestamp::MAX)? {
            return Err(Error::Conflict { key, rival: None }.into());
        }
        let met = intents_in(snapshot, range, false, MET_MAX, usize::MAX)?.intents;
        let others = met.iter().filter(|(_, intent)| intent.txn != txn);
        in_reads.extend(others.map(|(key, intent)| rules::met(key, intent)));
    }
    if let WriteCheck::Blocked(intents) = rules::check_writes(snapshot, txn, 0, writes)? {
        return Err(Refusal::Blocked { intents, in_reads: false });
    }
    if !in_reads.is_empty() {
        in_reads.truncate(MET_MAX);
        return Err(Refusal::Blocked { intents: in_reads, in_reads: true });
    }
    Ok(())
}
