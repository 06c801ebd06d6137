//! Cuts a shard into several. No row moves: a shard is a key range, and its rows don't know whose they are.
//!
//! ```text
//!   before   g7 [a ............................ z)  e3
//!   after    g7 [a ...... k)  e4     g9 [k ... z)  e4     same replicas on the same nodes
//! ```
//!
//! The latch on the whole shard lets everything in flight finish first, and keeps everything else waiting until the
//! split is applied here; those who waited find a new epoch, and are sent to learn. That also keeps this leader from
//! answering for keys that a child already serves elsewhere. A later leader of the parent has the split applied before
//! it serves.
//!
//! Intents and records stay where they are, under their keys. What the parent's leader remembered of transactions
//! whose primary is now a child's is covered by the floor of the child's first leader.

mod served;

use bytes::Bytes;
use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::response::Body as Answer;
use storage::ids::{Epoch, GroupId, KeyRange, Timestamp};
use storage::{Snapshot, intents, mvcc};

use super::{Context, Outcome, Refusal, rules};
use crate::descriptor::ShardDescriptor;
use crate::latch::{Mode, Span};
use crate::{Error, keys, shard};

pub async fn split(cx: &Context<'_>, request: pb::Split) -> Outcome {
    let range = cx.descriptor.range.clone();
    let points: Vec<_> = request.points.into_iter().filter(|p| p.key != range.start).collect();
    if points.windows(2).any(|pair| pair[0].key >= pair[1].key) || points.iter().any(|p| p.group <= 1) {
        return Err(Error::Invalid("split points out of order".to_owned()).into());
    }
    for point in &points {
        cx.must_hold_key(&point.key)?;
    }
    if points.is_empty() {
        return Ok(descriptors(&[(*cx.descriptor).clone()]));
    }
    let began = cx.server.seams().clock.now();
    let guard = cx.latch(vec![(Span::Range(range.clone()), Mode::Exclusive)]).await;
    let view = cx.view()?;
    cx.confirm().await?;
    for point in &points {
        must_be_free(cx, GroupId(point.group))?;
    }
    // The children begin with the members that apply the split. The descriptor may be behind.
    let status = cx.group.status();
    if status.joint || status.members.is_empty() {
        return Err(Error::Unavailable("the shard's members are being changed".to_owned()).into());
    }
    let replicas = status.members;
    let mut fences = Vec::new();
    for point in &points {
        copy_fences(&view.snapshot, &range.start, &point.key, &mut fences)?;
    }
    let epoch = Epoch(cx.descriptor.epoch.0 + 1);
    let ends = points.iter().skip(1).map(|p| p.key.clone()).chain([range.end.clone()]);
    let children: Vec<ShardDescriptor> = points
        .iter()
        .zip(ends)
        .map(|(point, end)| ShardDescriptor {
            group: GroupId(point.group),
            range: KeyRange { start: point.key.clone(), end },
            epoch,
            replicas: replicas.clone(),
        })
        .collect();
    let parent = ShardDescriptor {
        range: KeyRange { start: range.start, end: points[0].key.clone() },
        epoch,
        replicas: replicas.clone(),
        group: cx.descriptor.group,
    };
    let effect = pb::SplitShard {
        parent: Some((&parent).into()),
        children: children.iter().map(Into::into).collect(),
        fences,
    };
    cx.propose(guard, Effect::Split(effect)).await?;
    served::measure(cx.server, began, children.iter().map(|child| child.group).collect());
    let mut all = vec![parent];
    all.extend(children);
    Ok(descriptors(&all))
}

/// An id that was given out twice stops the split here, where nothing is proposed yet, as far as this node can tell. Whoever wants
/// the split comes again with another id.
fn must_be_free(cx: &Context<'_>, child: GroupId) -> Result<(), Refusal> {
    let stored = shard::load_descriptor(cx.shard.engine(), child);
    let stored = stored.map_err(|error| Error::Corruption(error.to_string()))?;
    if stored.is_some() || cx.server.multi().group(child).is_some() {
        tracing::error!(%child, "a new shard was to get an id that is in use");
        return Err(Error::Unavailable(format!("{child} exists already: another id is needed")).into());
    }
    Ok(())
}

fn descriptors(shards: &[ShardDescriptor]) -> Answer {
    Answer::Descriptors(pb::Descriptors { shards: shards.iter().map(Into::into).collect() })
}

/// The fences that stand for keys on both sides of `at`: the child needs them under a key of its own, with all their
/// history, since reads check them as of their snapshot.
///
/// A fence's prefix is a prefix of every key that it stands for. So the candidates stand under the prefixes of `at`.
fn copy_fences(
    snapshot: &Snapshot,
    shard_start: &[u8],
    at: &Bytes,
    copies: &mut Vec<pb::FenceVersion>,
) -> Result<(), Refusal> {
    let mut last = Bytes::new();
    for length in 0..at.len() {
        let prefix = &at[..length];
        let key = keys::fence(shard_start, prefix);
        if key == last {
            continue;
        }
        last = key.clone();
        if let Some(intent) = intents::get_intent(snapshot, &key)? {
            // A schema change is about to commit, or not; the copy must not miss it.
            if intent.value.as_ref().is_none_or(|value| fence_prefix(value, shard_start, &key).is_some()) {
                return Err(Refusal::Blocked { intents: vec![rules::met(&key, &intent)], in_reads: false });
            }
            continue;
        }
        let mut upto = Timestamp::MAX;
        // The newest value that is not a removal tells whose fence it is.
        let mut versions = Vec::new();
        while let Some(version) = mvcc::get(snapshot, &key, upto)? {
            let older = version.ts.0.checked_sub(1);
            versions.push(version);
            match older {
                Some(older) => upto = Timestamp(older),
                None => break,
            }
        }
        let Some(value) = versions.iter().find_map(|v| v.value.clone()) else {
            continue;
        };
        let Some(prefix) = fence_prefix(&value, shard_start, &key).filter(|p| at.starts_with(p) && p != at)
        else {
            continue;
        };
        let target = keys::fence(at, &prefix);
        let copy = |v: mvcc::Version| pb::FenceVersion { key: target.clone(), at: v.ts.0, value: v.value };
        copies.extend(versions.into_iter().map(copy));
    }
    Ok(())
}

/// The prefix of the fence that `value` is, if it is one: the value of a row that happens to stand under a candidate
/// doesn't say so.
fn fence_prefix(value: &[u8], shard_start: &[u8], key: &[u8]) -> Option<Bytes> {
    let prefix = shard::decode_fence(value).ok()?.prefix;
    (keys::fence(shard_start, &prefix) == key).then_some(prefix)
}
