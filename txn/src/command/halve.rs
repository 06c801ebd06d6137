//! Looks for a key at which the shard is best cut in two. A suggestion: nothing depends on how good it is.

use proto::shard as pb;
use proto::shard::response::Body as Answer;
use storage::middle::middle;

use super::{Context, Outcome};
use crate::Error;

pub async fn halve(cx: &Context<'_>, request: pb::Halve) -> Outcome {
    let range = cx.descriptor.range.clone();
    let key = match (request.by_cpu, request.by_load) {
        (true, _) => cx.shard.traffic().middle_of_cpu(),
        (false, true) => cx.shard.traffic().middle(),
        (false, false) => {
            let (engine, within) = (cx.shard.engine().clone(), range.clone());
            let look = move || middle(&engine, &within);
            let found = cx.server.seams().blocking("shard-middle", look).await;
            found.map_err(|e| Error::Internal(e.to_string()))?.map_err(Error::from)?
        }
    };
    // What was sampled may have gone with an earlier split.
    let key =
        key.filter(|key| range.contains(key) && *key > range.start && !super::is_inner_fence(&range, key));
    Ok(Answer::Middle(pb::Middle { key }))
}
