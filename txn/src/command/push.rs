//! Someone has met an intent and asks the primary's shard for the transaction's fate.
//!
//! "Pending" is an answer to go on with: from then on the transaction can't commit at or below the asker's timestamp,
//! so that the asker may look past its intents. That is remembered in memory; a later leader, who doesn't remember,
//! has a floor above it (see `shard/leadership.rs`).
//!
//! A transaction can be pushed out of every timestamp it draws by a stream of readers. So after the first time its
//! coordinator *stages* the commit, and readers wait a moment instead.
//!
//! An asynchronous commit can't be told to commit later: it may have happened. Whoever reads below its primary's
//! timestamp goes on at once; others wait for its coordinator for a moment, and then find out by its intents
//! (`probe.rs`). If one of those will never lie, they come back to say so (`incomplete`), and it is aborted here.

use bytes::Bytes;
use proto::shard as pb;
use proto::shard::response::Body as Answer;
use std::time::Duration;
use storage::ids::{Timestamp, TxnId};
use storage::intents;

use super::decide::{decide, load_record};
use super::intents::context;
use super::{Context, Outcome, Refusal};
use crate::latch::{Mode, Span};
use crate::shard::Pushed;
use crate::wire::{Fate, parse_txn};

/// How long a push waits for a staged transaction before it looks again.
const STAGED_POLL: Duration = Duration::from_millis(2);

/// How long a push waits for the coordinator of an asynchronous commit to say what became of it.
const ASYNC_PATIENCE: Duration = Duration::from_secs(1);

/// What an attempt came to.
enum Found {
    Fate(Fate),
    /// Staged: look again.
    Staged,
    /// It commits asynchronously and may have.
    Async {
        /// All that it writes.
        keys: Vec<Bytes>,
        /// Its coordinator is silent.
        lapsed: bool,
    },
}

pub async fn push(cx: &Context<'_>, request: pb::Push) -> Outcome {
    let txn = parse_txn(&request.txn)?;
    cx.must_hold_key(&request.primary)?;
    let seams = cx.server.seams();
    let patient_until = seams.clock.now() + ASYNC_PATIENCE;
    loop {
        match attempt(cx, &request, txn).await? {
            Found::Fate(fate) => return Ok(Answer::Fate(fate.to_pb(txn))),
            Found::Async { keys, lapsed }
                if lapsed || request.abort || seams.clock.now() >= patient_until =>
            {
                return Ok(Answer::AsyncCommit(pb::AsyncCommit { keys }));
            }
            Found::Staged | Found::Async { .. } => seams.sleep(STAGED_POLL).await,
        }
    }
}

async fn attempt(cx: &Context<'_>, request: &pb::Push, txn: TxnId) -> Result<Found, Refusal> {
    // Held, not only waited for: between finding the transaction undecided and remembering the push no commit may slip.
    let mode = if request.abort { Mode::Exclusive } else { Mode::Shared };
    let guard = cx.latch(vec![(Span::Key(request.primary.clone()), mode)]).await;
    let view = cx.view()?;
    if let Some(record) = load_record(&view.snapshot, &request.primary, txn)? {
        cx.confirm().await?;
        return Ok(Found::Fate(match record.kind() {
            pb::FateKind::FateCommitted => Fate::Committed(Timestamp(record.at)),
            _ => Fate::Aborted,
        }));
    }
    if !request.incomplete
        && let Some(intent) = intents::get_intent(&view.snapshot, &request.primary)?.filter(|i| i.txn == txn)
    {
        let context = context(&intent)?;
        if context.at_least > 0 {
            cx.confirm().await?;
            let now = cx.server.seams().clock.now();
            let lapsed = cx.leadership.push(txn, Timestamp::ZERO, now) == Pushed::Lapsed;
            // It commits at this timestamp or above: whoever reads below needs to know no more. (Writers ask with 0.)
            let below = request.above < context.at_least && (request.above > 0 || !lapsed);
            return Ok(match below && !request.abort {
                true => Found::Fate(Fate::Pending(Timestamp(context.at_least - 1))),
                false => Found::Async { keys: context.all_keys, lapsed },
            });
        }
    }
    let now = cx.server.seams().clock.now();
    let mut abort = request.abort;
    let mut fate = Fate::Aborted;
    if request.stage {
        fate = Fate::Pending(cx.leadership.stage(txn, now));
    } else if !abort {
        match cx.leadership.push(txn, Timestamp(request.above), now) {
            Pushed::Pending(above) => fate = Fate::Pending(above),
            Pushed::Staged => return Ok(Found::Staged),
            Pushed::Lapsed => abort = true,
        }
    }
    if !abort {
        // After the push is remembered: if the lease holds now, the next leader's floor is drawn later than this.
        cx.confirm().await?;
        return Ok(Found::Fate(fate));
    }
    if !request.abort {
        // Lapsed. Taking the exclusive latch means looking again.
        drop(guard);
        let again = pb::Push { abort: true, ..request.clone() };
        return Box::pin(attempt(cx, &again, txn)).await;
    }
    let record = pb::TxnRecord { kind: pb::FateKind::FateAborted.into(), at: 0, spans: Vec::new() };
    decide(cx, guard, txn, request.primary.clone(), record).await?;
    Ok(Found::Fate(Fate::Aborted))
}
