//! Someone has met an intent and asks the primary's shard for the transaction's fate.
//!
//! "Pending" is an answer to go on with: from then on the transaction can't commit at or below the asker's timestamp,
//! so that the asker may look past its intents. That is remembered in memory; a later leader, who doesn't remember,
//! has a floor above it (see `shard/leadership.rs`).
//!
//! A transaction can be pushed out of every timestamp it draws by a stream of readers. So after the first time its
//! coordinator *stages* the commit, and readers wait a moment instead.

use proto::shard as pb;
use proto::shard::response::Body as Answer;
use std::time::Duration;
use storage::ids::{Timestamp, TxnId};

use super::decide::{decide, load_record};
use super::{Context, Outcome, Refusal};
use crate::latch::{Mode, Span};
use crate::shard::Pushed;
use crate::wire::{Fate, parse_txn};

/// How long a push waits for a staged transaction before it looks again.
const STAGED_POLL: Duration = Duration::from_millis(2);

pub async fn push(cx: &Context<'_>, request: pb::Push) -> Outcome {
    let txn = parse_txn(&request.txn)?;
    cx.must_hold_key(&request.primary)?;
    loop {
        match attempt(cx, &request, txn).await? {
            Some(fate) => return Ok(Answer::Fate(fate.to_pb(txn))),
            None => cx.server.seams().sleep(STAGED_POLL).await,
        }
    }
}

/// `None`: staged; try again.
async fn attempt(cx: &Context<'_>, request: &pb::Push, txn: TxnId) -> Result<Option<Fate>, Refusal> {
    // Held, not only waited for: between finding the transaction undecided and remembering the push no commit may slip.
    let mode = if request.abort { Mode::Exclusive } else { Mode::Shared };
    let guard = cx.latch(vec![(Span::Key(request.primary.clone()), mode)]).await;
    let view = cx.view()?;
    if let Some(record) = load_record(&view.snapshot, &request.primary, txn)? {
        cx.confirm().await?;
        return Ok(Some(match record.kind() {
            pb::FateKind::FateCommitted => Fate::Committed(Timestamp(record.at)),
            _ => Fate::Aborted,
        }));
    }
    let now = cx.server.seams().clock.now();
    let mut abort = request.abort;
    let mut fate = Fate::Aborted;
    if request.stage {
        fate = Fate::Pending(cx.leadership.stage(txn, now));
    } else if !abort {
        match cx.leadership.push(txn, Timestamp(request.above), now) {
            Pushed::Pending(above) => fate = Fate::Pending(above),
            Pushed::Staged => return Ok(None),
            Pushed::Lapsed => abort = true,
        }
    }
    if !abort {
        // After the push is remembered: if the lease holds now, the next leader's floor is drawn later than this.
        cx.confirm().await?;
        return Ok(Some(fate));
    }
    if !request.abort {
        // Lapsed. Taking the exclusive latch means looking again.
        drop(guard);
        let again = pb::Push { abort: true, ..request.clone() };
        return Box::pin(attempt(cx, &again, txn)).await;
    }
    let record = pb::TxnRecord {
        kind: pb::FateKind::FateAborted.into(),
        at: 0,
        spans: Vec::new(),
        written_ms: cx.server.seams().clock.wall_ms(),
    };
    decide(cx, guard, txn, request.primary.clone(), record).await?;
    Ok(Some(Fate::Aborted))
}
