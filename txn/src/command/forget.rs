//! Removes a transaction's record.
//!
//! The coordinator's obligation: all intents are settled, and no request of the transaction is on its way
//! (`coordinator/strays.rs`). Someone who still has an old
//! snapshot with an intent in it, and asks now, is told "pending", asks for the rows again because of that, and finds
//! the version in the place of the intent.

use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::response::Body as Answer;

use super::{Context, Outcome};
use crate::latch::{Mode, Span};
use crate::wire::parse_txn;

pub async fn forget(cx: &Context<'_>, request: pb::Forget) -> Outcome {
    parse_txn(&request.txn)?;
    cx.must_hold_key(&request.primary)?;
    let guard = cx.latch(vec![(Span::Key(request.primary.clone()), Mode::Exclusive)]).await;
    cx.view()?;
    let effect = pb::ForgetRecord { txn: request.txn, primary: request.primary };
    cx.propose(guard, Effect::Forget(effect)).await?;
    Ok(Answer::Done(0))
}
