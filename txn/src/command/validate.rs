//! Whether what a transaction has read is still so at a later timestamp: before a commit over several shards, and
//! when a transaction moves its snapshot.
//!
//! A "yes" stays true without anything being remembered: whoever writes into the ranges after this has looked draws
//! its commit timestamp after `at` existed (one shard), or is bound by a push to commit above `at` (intents).

use proto::shard as pb;
use proto::shard::response::Body as Answer;
use storage::Snapshot;
use storage::ids::{KeyRange, Timestamp, TxnId};
use storage::mvcc;
use storage::sabotage::{self, Sabotage};

use super::commit::read_span;
use super::intents::intents_in;
use super::rules::{self, MET_MAX, Sight};
use super::{Context, Fates, Outcome, Refusal};
use crate::Error;
use crate::descriptor::range_from_pb;
use crate::latch::{Mode, Span};
use crate::wire::parse_txn;

pub async fn validate(cx: &Context<'_>, request: pb::Validate) -> Outcome {
    let txn = parse_txn(&request.txn)?;
    let fates = Fates::from_pb(&request.fates)?;
    let reads: Vec<KeyRange> = request.reads.into_iter().map(range_from_pb).collect();
    for range in &reads {
        cx.must_hold(range)?;
    }
    let fences = cx.fences(&request.fences);
    let mut spans: Vec<_> = reads.iter().map(|range| (read_span(range), Mode::Shared)).collect();
    spans.extend(fences.iter().map(|(key, _)| (Span::Key(key.clone()), Mode::Shared)));
    cx.leadership.latches.wait(&spans).await;
    let view = cx.view()?;
    cx.must_reach(Timestamp(request.read_at))?;
    let at = Timestamp(request.at);
    let mut unknown = rules::check_fences(&view.snapshot, Some(txn), at, &fates, &fences)?;
    let read_at = Timestamp(request.read_at);
    debug_assert!(read_at <= at, "T1: reads later than the commit that they are validated for");
    for range in &reads {
        check_range(&view.snapshot, txn, read_at, at, &fates, range, &mut unknown)
            .map_err(|refusal| cx.with_rival(&view.snapshot, refusal))?;
    }
    cx.confirm().await?;
    match unknown.is_empty() {
        true => Ok(Answer::Done(at.0)),
        false => Err(Refusal::Blocked { intents: unknown, in_reads: true }),
    }
}

/// Whether nothing in `range` has changed in `(read_at, at]`. Adds intents to `unknown` of which that depends.
pub fn check_range(
    snapshot: &Snapshot,
    txn: TxnId,
    read_at: Timestamp,
    at: Timestamp,
    fates: &Fates,
    range: &KeyRange,
    unknown: &mut Vec<pb::MetIntent>,
) -> Result<(), Refusal> {
    if sabotage::is(Sabotage::SkipReadValidation) {
        return Ok(());
    }
    if let Some((key, _)) = mvcc::any_version_in(snapshot, range, read_at, at)? {
        return Err(Error::Conflict { key, rival: None }.into());
    }
    let mut left = Some(range.clone());
    while let Some(page_range) = left.take() {
        let page = intents_in(snapshot, &page_range, false, 1024, 1 << 20)?;
        for (key, intent) in page.intents {
            if intent.txn == txn {
                continue;
            }
            match fates.sight(intent.txn, None, at) {
                // It counts at `at`. It is a change unless it counted for the read, too.
                Sight::Counts if fates.committed_at(intent.txn).is_some_and(|when| when > read_at) => {
                    return Err(Error::Conflict { key, rival: Some(intent.txn) }.into());
                }
                Sight::Counts | Sight::Ignored => {}
                Sight::Unknown => {
                    unknown.push(rules::met(&key, &intent));
                    if unknown.len() >= MET_MAX {
                        return Ok(());
                    }
                }
            }
        }
        left = page.stopped_at.map(|key| KeyRange { start: key, end: page_range.end });
    }
    Ok(())
}
