//! The moment of truth of a transaction over several shards: its primary's intent becomes a version, and a record of
//! the fate appears, in one log entry.
//!
//! Asking again is harmless as long as the record is there: it answers. So a commit whose answer was lost is simply sent
//! again, and its record stays until no copy can come any more.

use bytes::Bytes;
use prost::Message;
use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::response::Body as Answer;
use storage::ids::{Timestamp, TxnId};
use storage::sabotage::{self, Sabotage};
use storage::{Cf, Snapshot, intents, mvcc};

use super::intents::context;
use super::{Context, Outcome, Refusal};
use crate::latch::{Guard, Mode, Span};
use crate::wire::parse_txn;
use crate::{Error, keys};

pub async fn commit_primary(cx: &Context<'_>, request: pb::CommitPrimary) -> Outcome {
    let txn = parse_txn(&request.txn)?;
    cx.must_hold_key(&request.primary)?;
    let guard = cx.latch(vec![(Span::Key(request.primary.clone()), Mode::Exclusive)]).await;
    let view = cx.view()?;
    let standing = standing(&view.snapshot, &request.primary, txn)?;
    cx.confirm().await?;
    match standing {
        Standing::Undecided => {}
        Standing::Committed(at) => return Ok(Answer::Done(at.0)),
        Standing::Aborted => return Err(ended().into()),
        Standing::Gone => return Err(Error::Aborted("its primary intent is gone".to_owned()).into()),
    }
    let at = match request.at {
        // It is too late to refuse: the transaction has happened. Nor is there a reason: whoever was promised that it
        // commits later was below the timestamp of the primary's intent.
        at if request.all_lie => {
            let intent = intents::get_intent(&view.snapshot, &request.primary)?;
            let at_least = intent.map(|intent| context(&intent)).transpose()?.unwrap_or_default().at_least;
            if at_least == 0 || at < at_least {
                return Err(Error::Internal("no such asynchronous commit".to_owned()).into());
            }
            Timestamp(at)
        }
        // Under the latch on the primary: every push so far was to a timestamp that exists, so below this one.
        0 => cx.server.oracle().timestamp().await?,
        at => {
            let bound = cx.leadership.floor(cx.server.oracle()).await?.max(cx.leadership.pushed_to(txn));
            if Timestamp(at) <= bound {
                return Err(Refusal::Pushed);
            }
            Timestamp(at)
        }
    };
    // P3. (The leader's own draw, too: under the latch every push so far was to a timestamp that exists.)
    debug_assert!(
        at > cx.leadership.pushed_to(txn) || sabotage::is(Sabotage::OracleGoesBack),
        "a commit at or below a timestamp that it was pushed to"
    );
    // T2.
    debug_assert!(
        newest(&view.snapshot, &request.primary)? <= at || sabotage::is(Sabotage::OracleGoesBack),
        "a commit below a version of its primary"
    );
    let record = pb::TxnRecord { kind: pb::FateKind::FateCommitted.into(), at: at.0, spans: request.spans };
    decide(cx, guard, txn, request.primary, record).await?;
    Ok(Answer::Done(at.0))
}

/// What the primary's shard holds of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its primary's intent lies, and nothing is decided.
    Undecided,
    /// The record says so.
    Committed(Timestamp),
    /// The record says so.
    Aborted,
    /// No record, and no intent: it was never laid, or it was removed by whoever ended the transaction, long ago.
    Gone,
}

/// See [`Standing`].
pub fn standing(snapshot: &Snapshot, primary: &[u8], txn: TxnId) -> Result<Standing, Error> {
    if let Some(record) = load_record(snapshot, primary, txn)? {
        return Ok(match record.kind() {
            pb::FateKind::FateCommitted => Standing::Committed(Timestamp(record.at)),
            _ => Standing::Aborted,
        });
    }
    let laid = intents::get_intent(snapshot, primary)?.is_some_and(|intent| intent.txn == txn);
    Ok(if laid { Standing::Undecided } else { Standing::Gone })
}

/// The timestamp of a key's newest version.
pub fn newest(snapshot: &Snapshot, key: &[u8]) -> Result<Timestamp, Error> {
    Ok(mvcc::newest(snapshot, key)?.map_or(Timestamp::ZERO, |version| version.ts))
}

/// Replicates a fate. The guard covers the primary.
pub async fn decide(
    cx: &Context<'_>,
    guard: Guard,
    txn: TxnId,
    primary: Bytes,
    record: pb::TxnRecord,
) -> Result<(), Refusal> {
    let effect = pb::Decide { txn: crate::wire::txn_bytes(txn), primary, record: Some(record) };
    cx.propose(guard, Effect::Decide(effect)).await?;
    cx.leadership.decided(txn);
    Ok(())
}

/// The record of a decided transaction.
pub fn load_record(snapshot: &Snapshot, primary: &[u8], txn: TxnId) -> Result<Option<pb::TxnRecord>, Error> {
    let stored = snapshot.get(Cf::Group, &keys::record(primary, txn))?;
    let Some(stored) = stored else {
        return Ok(None);
    };
    let record = pb::TxnRecord::decode(stored);
    record.map(Some).map_err(|e| Error::Corruption(format!("a transaction record does not decode: {e}")))
}

/// The transaction was ended by someone else.
pub fn ended() -> Error {
    Error::Aborted("it was in the way of an older transaction, or silent for too long".to_owned())
}
