//! Writes a change of the group's members into the shard's descriptor, with a new epoch. The change itself is raft's, and
//! was made before.

use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::response::Body as Answer;
use storage::ids::Epoch;

use super::{Context, Outcome};
use crate::Error;
use crate::descriptor::{ShardDescriptor, replicas_from_pb};
use crate::latch::{Mode, Span};

pub async fn set_replicas(cx: &Context<'_>, request: pb::SetReplicas) -> Outcome {
    let replicas = replicas_from_pb(&request.replicas);
    if replicas.is_empty() {
        return Err(Error::Invalid("a shard without replicas".to_owned()).into());
    }
    if replicas == cx.descriptor.replicas {
        return Ok(Answer::Done(0));
    }
    // One key suffices to exclude a split, which latches the whole shard, and another change of this kind.
    let guard = cx.latch(vec![(Span::Key(cx.descriptor.range.start.clone()), Mode::Exclusive)]).await;
    cx.view()?;
    let descriptor = ShardDescriptor {
        replicas,
        epoch: Epoch(cx.descriptor.epoch.0 + 1),
        group: cx.descriptor.group,
        range: cx.descriptor.range.clone(),
    };
    cx.propose(guard, Effect::Descriptor((&descriptor).into())).await?;
    Ok(Answer::Done(0))
}
