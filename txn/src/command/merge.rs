//! Merges a shard with its right neighbour. No row moves: keys carry no shard id, and both shards have their replicas on the
//! same nodes, in the same databases. What has to be exact is *who answers for which keys, and as of which state*.
//!
//! ```text
//!   before   g7 [a ...... k)  e4     g9 [k ... z)  e4     replicas on the same nodes (moves have seen to that)
//!   frozen   g7 [a ...... k)  e4     g9 [k ... z)  e5 ❄   g9 answers for nothing any more
//!   after    g7 [a ............................ z)  e6    g9 is gone
//! ```
//!
//! # The protocol
//!
//! The meta-group's leader conducts (`meta/src/reconcile/reshape.rs`); it keeps nothing that matters.
//!
//! 1. **Freeze** the right shard, "into g7 at e4": a latch on the whole of it lets everything in flight finish, then one entry
//!    in its log says so. From its application on, no replica of it, whoever leads, evaluates anything but a thaw, applies
//!    anything but a thaw, or changes its members. So its state is fixed.
//! 2. **Wait** until every one of its replicas has applied that entry, *and has flushed it*: after any crash, a node's state of the
//!    right shard is the frozen one at least, and it can't be more.
//! 3. **Absorb**: one entry in the left shard's log, under a latch on the whole of it, while its members can't change and are on
//!    just those nodes, and if its epoch is still e4. Where it is applied, in one batch, the left descriptor grows and the
//!    right one goes. The right replica on that node holds nothing from then on, and is removed a little later, with a
//!    tombstone, like any replica.
//!
//! If it does not come to 3, the merge is called off: **abandon** raises the left shard's epoch (so no absorption "at e4" that
//! is still under way anywhere can be proposed), or finds that the absorption is done. Only after the former the right
//! shard is **thawed**, under a new epoch. Anyone may do that at any time who finds a frozen shard; it says itself whom to ask.
//!
//! # Why it is exact
//!
//! - *One of two things happens.* Absorption is proposed at e4 only; abandonment raises e4 in the same log. Whichever comes first
//!   there makes the other impossible. A thaw follows an abandonment only.
//! - *Nobody answers for a key that another answers for.* The right shard's leader looks at its descriptor after the snapshot
//!   ([`Context::view`]), and the freeze raises its epoch before it is visible; a deposed leader has no lease. The left shard
//!   answers for the new keys after the absorption is applied at its leader. Between the two nobody does: requests for
//!   the right shard wait there ([`crate::server`]), and are sent on.
//! - *Nothing that was acknowledged is missing.* Whatever the right shard acknowledged stands before the freeze in its log, and
//!   every replica of the left has applied that log up to the freeze, durably, before it can apply the absorption.
//!   It checks (`shard/merge.rs`), and stops rather than go on without.
//! - *What leaders remember* is lost as in a change of leaders, and so is safe to lose: the left leader starts a new
//!   [`Leadership`](crate::shard::Leadership) within its term, with a floor of its own (pushes that the right leader promised),
//!   and no locks (advisory ones are told again). Timestamps are drawn, and so above all that either shard has served.
//! - *Intents and records* stand under their keys and stay there. Fences of tables that reach over the boundary stand in both
//!   shards with the same history; the right shard's copies go. So there may be no intent on one when it is frozen: it would be lost.
//! - *The safe point* is the higher one of the two.
//! - *Members*: the right shard's can't change while it is frozen, for a replica that is removed takes its rows with it. The
//!   left shard's can't change between the look at them and the absorption's place in the log: a newcomer that applied it
//!   from the log would lack the rows. One that comes later gets a snapshot of the whole.
//!
//! # When someone fails
//!
//! | who | what happens |
//! |---|---|
//! | the conductor | the next one finds the frozen shard in its leader's reports, and abandons and thaws, or finds it absorbed |
//! | a replica before it has acknowledged the freeze | the merge is called off |
//! | a replica after that | it starts from a state with the freeze in it, and applies the absorption when its log brings it |
//! | … and its log doesn't reach back so far | it gets a snapshot of the left shard, which may overlap a shard that is frozen into it |
//! | the right shard's leader | the next one is frozen, too |
//! | the left shard's leader | its proposal is in the next one's log before that one begins to lead, or never; the conductor asks |
//! | a majority of either | the merge waits with it; the right shard's keys are not served until there is one again |

use std::collections::{BTreeMap, BTreeSet};

use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::response::Body as Answer;
use storage::ids::{Epoch, KeyRange, NodeId, ReplicaId};
use storage::intents;

use super::{Context, Outcome, Refusal, rules};
use crate::descriptor::ShardDescriptor;
use crate::latch::{Mode, Span};
use crate::{Error, keys};

pub async fn freeze(cx: &Context<'_>, request: pb::Freeze) -> Outcome {
    if let Some(frozen) = cx.shard.frozen() {
        return match (frozen.into, frozen.into_epoch) == (request.into, request.into_epoch) {
            true => Ok(descriptor(&cx.descriptor)),
            false => Err(busy("the shard is frozen for another merge")),
        };
    }
    let range = cx.descriptor.range.clone();
    // (Before the latch: a change of members that is under way may take its time.)
    let members = cx.group.hold_members().await;
    let guard = cx.latch(vec![(Span::Range(range.clone()), Mode::Exclusive)]).await;
    let view = cx.view()?;
    cx.confirm().await?;
    let replicas = steady_members(cx)?;
    let fence = keys::fence(&range.start, b"");
    if let Some(intent) = intents::get_intent(&view.snapshot, &fence)? {
        return Err(Refusal::Blocked { intents: vec![rules::met(&fence, &intent)], in_reads: false });
    }
    let frozen =
        ShardDescriptor { range, replicas, epoch: above(cx.descriptor.epoch), group: cx.descriptor.group };
    let effect = pb::FreezeShard {
        descriptor: Some((&frozen).into()),
        frozen: Some(pb::Frozen { into: request.into, into_epoch: request.into_epoch }),
    };
    cx.propose((guard, members), Effect::Freeze(effect)).await?;
    Ok(descriptor(&frozen))
}

pub async fn absorb(cx: &Context<'_>, request: pb::Absorb) -> Outcome {
    let right = request.right.ok_or_else(|| Error::Invalid("an absorption of nothing".to_owned()))?;
    let right = ShardDescriptor::try_from(right)?;
    if cx.descriptor.range.contains(&right.range.start) {
        cx.confirm().await?;
        return Ok(descriptor(&cx.descriptor));
    }
    if cx.descriptor.epoch.0 != request.epoch || cx.descriptor.range.end != right.range.start {
        return Err(busy("the shard is another than the one that was to absorb its neighbour"));
    }
    let range = cx.descriptor.range.clone();
    let members = cx.group.hold_members().await;
    let guard = cx.latch(vec![(Span::Range(range.clone()), Mode::Exclusive)]).await;
    cx.view()?;
    cx.confirm().await?;
    let replicas = steady_members(cx)?;
    let nodes =
        |replicas: &BTreeMap<ReplicaId, NodeId>| -> BTreeSet<NodeId> { replicas.values().copied().collect() };
    if nodes(&replicas) != nodes(&right.replicas) {
        return Err(busy("the two shards are not on the same nodes"));
    }
    let left = ShardDescriptor {
        group: cx.descriptor.group,
        range: KeyRange { start: range.start, end: right.range.end.clone() },
        epoch: above(cx.descriptor.epoch.max(right.epoch)),
        replicas,
    };
    let effect = pb::AbsorbShard { left: Some((&left).into()), right: Some((&right).into()) };
    cx.propose((guard, members), Effect::Absorb(effect)).await?;
    Ok(descriptor(&left))
}

pub async fn abandon(cx: &Context<'_>, request: pb::Abandon) -> Outcome {
    if cx.descriptor.epoch.0 != request.epoch {
        // What this replica has applied is committed, also if it leads no more: the epoch never comes back.
        return match cx.descriptor.epoch.0 > request.epoch {
            true => Ok(descriptor(&cx.descriptor)),
            false => Err(busy("the shard has yet to reach that epoch")),
        };
    }
    // One key excludes the absorption, which latches the whole shard.
    let guard = cx.latch(vec![(Span::Key(cx.descriptor.range.start.clone()), Mode::Exclusive)]).await;
    cx.view()?;
    let raised = ShardDescriptor { epoch: above(cx.descriptor.epoch), ..(*cx.descriptor).clone() };
    cx.propose(guard, Effect::Descriptor((&raised).into())).await?;
    Ok(descriptor(&raised))
}

pub async fn thaw(cx: &Context<'_>, request: pb::Thaw) -> Outcome {
    if cx.shard.frozen().is_none() || cx.descriptor.epoch.0 != request.epoch {
        // It was done before, or is about another freeze.
        return Ok(descriptor(&cx.descriptor));
    }
    let range = cx.descriptor.range.clone();
    let guard = cx.latch(vec![(Span::Range(range), Mode::Exclusive)]).await;
    cx.view()?;
    let thawed = ShardDescriptor { epoch: above(cx.descriptor.epoch), ..(*cx.descriptor).clone() };
    cx.propose(guard, Effect::Thaw((&thawed).into())).await?;
    Ok(descriptor(&thawed))
}

fn descriptor(shard: &ShardDescriptor) -> Answer {
    Answer::Descriptors(pb::Descriptors { shards: vec![shard.into()] })
}

fn above(epoch: Epoch) -> Epoch {
    Epoch(epoch.0 + 1)
}

fn busy(why: &str) -> Refusal {
    Error::Unavailable(why.to_owned()).into()
}

/// The group's members, if all of them vote and no change is under way.
fn steady_members(cx: &Context<'_>) -> Result<BTreeMap<ReplicaId, NodeId>, Refusal> {
    let status = cx.group.status();
    match status.joint || !status.learners.is_empty() || status.members.is_empty() {
        true => Err(busy("the shard's members are being changed")),
        false => Ok(status.members),
    }
}

/// Whether a shard that is frozen takes the request.
pub fn concerns_frozen(ask: &proto::shard::request::Body) -> bool {
    matches!(ask, proto::shard::request::Body::Freeze(_) | proto::shard::request::Body::Thaw(_))
}
