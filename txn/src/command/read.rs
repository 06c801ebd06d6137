//! Point reads.
//!
//! **Why a read at `r` misses no commit at or below `r`.** A one-shard commit draws its timestamp under exclusive
//! latches. If it took them before the read came, the read waits until it is applied. If later, it drew later, and
//! `r` existed already: it is above `r`. A commit over several shards draws its timestamp after all its intents are
//! laid; a read that came before an intent was latched has an `r` that existed before that draw; one that came later
//! meets the intent and asks for its fate, and the answer "pending" binds the transaction to commit above `r`.
//!
//! **Why a read of the latest is strict.** It sees everything that is applied. What it doesn't see of its keys draws
//! its timestamp later than this read began, so above every commit that was acknowledged before. (This is why the
//! leader draws the timestamp of a one-shard commit, and the gateway doesn't bring it along: a commit that was drawn
//! early and arrives late would slip below commits that the reader already knows of.) An intent in the way sends the
//! reader to the oracle: it reads again as of a fresh timestamp.

use bytes::Bytes;
use proto::shard as pb;
use proto::shard::response::Body as Answer;
use storage::ids::{Timestamp, TxnId};
use storage::{Snapshot, intents, mvcc};

use super::rules::{self, MET_MAX, Sight};
use super::{Context, Fates, Outcome, Refusal};
use crate::latch::{Mode, Span};
use crate::wire::parse_txn_opt;

/// The timestamp of a read, where 0 says "the latest".
pub fn timestamp(at: u64) -> Timestamp {
    match at {
        0 => Timestamp::MAX,
        at => Timestamp(at),
    }
}

pub async fn read(cx: &Context<'_>, request: pb::Read) -> Outcome {
    let own = parse_txn_opt(&request.txn)?;
    let at = timestamp(request.at);
    let fates = Fates::from_pb(&request.fates)?;
    for key in &request.keys {
        cx.must_hold_key(key)?;
    }
    let fences = cx.fences(&request.fences);
    let keys = request.keys.iter().chain(fences.iter().map(|(key, _)| key));
    let spans: Vec<_> = keys.map(|key| (Span::Key(key.clone()), Mode::Shared)).collect();
    cx.leadership.latches.wait(&spans).await;
    let view = cx.view()?;
    cx.must_reach(at)?;
    let values = evaluate(&view.snapshot, own, at, &fates, &fences, &request.keys)?;
    cx.confirm().await?;
    Ok(Answer::Values(pb::Values { values }))
}

/// The values of `keys` as of `at`, if no intents of unknown fate are in the way.
pub fn evaluate(
    snapshot: &Snapshot,
    own: Option<TxnId>,
    at: Timestamp,
    fates: &Fates,
    fences: &[(Bytes, &pb::Fence)],
    keys: &[Bytes],
) -> Result<Vec<pb::OptionalValue>, Refusal> {
    let mut unknown = rules::check_fences(snapshot, own, at, fates, fences)?;
    let mut points = mvcc::PointReader::new(snapshot);
    let mut values = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some(intent) = intents::get_intent(snapshot, key)? {
            match fates.sight(intent.txn, own, at) {
                // Nobody writes a version above someone's intent: an intent that counts is the newest that does.
                Sight::Counts => {
                    values.push(pb::OptionalValue { value: intent.value });
                    continue;
                }
                Sight::Unknown => {
                    if unknown.len() < MET_MAX {
                        unknown.push(rules::met(key, &intent));
                    }
                    continue;
                }
                Sight::Ignored => {}
            }
        }
        let value = points.get(key, at)?.and_then(|version| version.value);
        values.push(pb::OptionalValue { value });
    }
    match unknown.is_empty() {
        true => Ok(values),
        false => Err(Refusal::Blocked { intents: unknown, in_reads: true }),
    }
}
