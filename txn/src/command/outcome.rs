//! Whether a one-shard commit whose answer was lost has happened: "yes, at …", or "unknown" (0).
//!
//! If it is being evaluated here, the latch on its key makes the question wait for the end. If it was proposed by an
//! earlier leader, it was applied before this one served, or never will be.

use proto::shard as pb;
use proto::shard::response::Body as Answer;

use super::{Context, Outcome};
use crate::latch::{Mode, Span};
use crate::wire::parse_txn;

pub async fn outcome(cx: &Context<'_>, request: pb::Outcome) -> Outcome {
    let txn = parse_txn(&request.txn)?;
    cx.must_hold_key(&request.key)?;
    cx.leadership.latches.wait(&[(Span::Key(request.key), Mode::Shared)]).await;
    cx.view()?;
    let at = cx.shard.recent().lock().get(txn);
    cx.confirm().await?;
    Ok(Answer::Done(at.map_or(0, |at| at.0)))
}
