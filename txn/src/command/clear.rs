//! Removes a range of rows, all versions and intents of them: a table that no snapshot can reach any more.

use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::response::Body as Answer;

use super::{Context, Outcome};
use crate::descriptor::{range_from_pb, range_to_pb};
use crate::latch::{Mode, Span};

pub async fn clear(cx: &Context<'_>, request: pb::Clear) -> Outcome {
    let range = range_from_pb(request.range.unwrap_or_default());
    cx.must_hold(&range)?;
    let guard = cx.latch(vec![(Span::Range(range.clone()), Mode::Exclusive)]).await;
    cx.view()?;
    cx.propose(guard, Effect::Clear(range_to_pb(&range))).await?;
    Ok(Answer::Done(0))
}
