//! One step of garbage collection: raises the shard's safe point, and removes what no read at or above it needs.
//!
//! What is replicated is the range and the safe point; each replica finds the garbage when it applies the command, which
//! is the same on all of them. Nothing is latched. An evaluation that took its snapshot before has seen all versions,
//! and what it concluded stays true; one that takes it later looks at the safe point afterwards
//! ([`Context::must_reach`]). A split that comes between cuts the range to the shard's when it is applied.
//!
//! **Why nothing is missed.** Reads, locks and validations of a snapshot below the safe point are refused, so of the
//! versions at or below it only the newest matters ([`storage::gc`]). An intent that becomes a version below the safe point
//! later is still the newest of its key: nobody writes a version above someone's intent.

use prost::Message;
use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::response::Body as Answer;

use super::{Context, Outcome};
use crate::Error;
use crate::descriptor::range_from_pb;

/// Versions that one step looks at, at most: applying it holds up the shard for so long.
pub const VERSIONS_MAX: u32 = 4096;

pub async fn collect(cx: &Context<'_>, request: pb::Collect) -> Outcome {
    cx.must_hold(&range_from_pb(request.range.clone().unwrap_or_default()))?;
    let request = pb::Collect { versions_max: request.versions_max.clamp(1, VERSIONS_MAX), ..request };
    let guard = cx.latch(Vec::new()).await;
    let answer = cx.propose_for_answer(guard, Effect::Collect(request)).await?;
    let collected = pb::Collected::decode(answer).map_err(|error| {
        Error::Corruption(format!("a step of garbage collection does not decode: {error}"))
    })?;
    Ok(Answer::Collected(collected))
}
