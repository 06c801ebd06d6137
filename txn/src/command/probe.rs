//! Finding out what became of an asynchronous commit whose coordinator doesn't say: is this intent of it there?
//!
//! If it isn't, a record of abortion under the key sees to it that it never will be: a prewrite that comes late finds it
//! (`prewrite.rs`). So the answer stays true, whoever asks, and all who ask come to the same conclusion.
//!
//! A transaction that was decided meanwhile may have no intents left. Whoever asks turns to its primary with what was
//! found here, and there the record has the last word.

use proto::shard as pb;
use proto::shard::response::Body as Answer;
use storage::intents;

use super::decide::{decide, load_record};
use super::intents::context;
use super::{Context, Outcome};
use crate::latch::{Mode, Span};
use crate::wire::parse_txn;

pub async fn probe(cx: &Context<'_>, request: pb::Probe) -> Outcome {
    let txn = parse_txn(&request.txn)?;
    cx.must_hold_key(&request.key)?;
    let guard = cx.latch(vec![(Span::Key(request.key.clone()), Mode::Exclusive)]).await;
    let view = cx.view()?;
    let record = load_record(&view.snapshot, &request.key, txn)?;
    let intent = intents::get_intent(&view.snapshot, &request.key)?.filter(|intent| intent.txn == txn);
    cx.confirm().await?;
    if let Some(intent) = intent {
        return Ok(Answer::Done(context(&intent)?.at_least));
    }
    if record.is_none() {
        let record = pb::TxnRecord { kind: pb::FateKind::FateAborted.into(), ..pb::TxnRecord::default() };
        decide(cx, guard, txn, request.key, record).await?;
    }
    Ok(Answer::Done(0))
}
