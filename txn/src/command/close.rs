//! Closes timestamps: a read of the whole shard, whose answer is that there is nothing more to come.
//!
//! ```text
//!   draw "now" ──▶ c = now − lag ──▶ wait for the exclusive latches on the shard ──▶ say "closed: c" in the log
//! ```
//!
//! Whoever latches after the draw draws later, and commits above `c`; whoever had latched before is waited for, and is applied, or never will be.
//! That is the argument of every read at a timestamp (`read.rs`), for all keys at once. Nobody is held up: waiting takes no latch.
//! (That `c` lies behind the present is for intents: those of transactions that are under way would be in every reader's way.)
//!
//! What is closed is said along with the shard's next command. Only a shard that is not written any more says it in a command of its own: once, or
//! again and again while its past is read (`shard/closing.rs`). The proposal carries the term like any other, and is refused in another.

use proto::shard as pb;
use proto::shard::response::Body as Answer;
use storage::ids::Timestamp;

use super::{Context, Outcome};
use crate::latch::{Mode, Span};

pub async fn close(cx: &Context<'_>, request: pb::Close) -> Outcome {
    let (clock, closing) = (&cx.server.seams().clock, &cx.leadership.closing);
    if request.wanted {
        closing.want(clock.now());
    }
    if request.behind == 0 || !closing.is_due(clock.now()) {
        return Ok(Answer::Done(closing.newest().0));
    }
    // A leader without a majority would append an entry at each look, and none of them would come to anything.
    cx.confirm().await?;
    // Before the latches are looked at: C2.
    let present = cx.server.oracle().timestamp().await?;
    let at = Timestamp(present.0.saturating_sub(request.behind));
    cx.leadership.latches.wait(&[(Span::Range(cx.descriptor.range.clone()), Mode::Shared)]).await;
    // The latches were those of the whole shard, if it has not grown meanwhile.
    cx.view()?;
    if closing.closable(at, present, clock.now()) {
        cx.propose_closed(at).await?;
        closing.said(at);
    }
    let newest = closing.newest();
    if newest > Timestamp::ZERO {
        let behind = present.physical_ms().saturating_sub(newest.physical_ms());
        metrics::histogram!("flotilla_closed_behind_seconds").record(behind as f64 / 1e3);
    }
    Ok(Answer::Done(at.0))
}
