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
//!
//! **A read of several keys at the latest holds its latches while it takes its snapshot.** It is not enough to wait for
//! the writers that were there when it came. Suppose T1 latches `a` right after that and draws 10, T2 latches `b`,
//! draws 20 and is applied; and only now comes the snapshot, which holds T2 and not T1. A reader at 15 sees T1 and not
//! T2: no order explains both. (One key needs no latch: its writers are applied in the order of their timestamps. Nor
//! does a read at a timestamp: both T1 and T2 are above it.)

use bytes::Bytes;
use proto::shard as pb;
use proto::shard::response::Body as Answer;
use storage::ids::{Timestamp, TxnId};
use storage::{Snapshot, intents, mvcc};

use super::rules::{self, MET_MAX, Sight};
use super::{Context, Fates, Outcome, Refusal, View};
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
    let view = view_at(cx, at, request.keys.len() > 1, spans).await?;
    cx.must_reach(at)?;
    let values = evaluate(&view.snapshot, own, at, &fates, &fences, &request.keys)?;
    cx.confirm().await?;
    Ok(Answer::Values(pb::Values { values }))
}

/// The state, once nobody writes `spans` any more who did when this was called. `several` keys are read at one moment.
/// (Fences needn't be of the same moment: whoever writes a row shares the latch on its fences with nobody who changes them.)
pub async fn view_at(
    cx: &Context<'_>,
    at: Timestamp,
    several: bool,
    spans: Vec<(Span, Mode)>,
) -> Result<View, Refusal> {
    if several && at == Timestamp::MAX {
        let _guard = cx.latch(spans).await;
        return cx.view();
    }
    cx.leadership.latches.wait(&spans).await;
    cx.view()
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
            match fates.sight_of(&mut points, key, &intent, own, at)? {
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
