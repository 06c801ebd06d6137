//! Settles intents of a decided transaction: they become versions, or vanish.
//!
//! A span may hold millions of intents. It is settled page by page, so that no entry and no batch is large.

use bytes::Bytes;
use proto::shard as pb;
use proto::shard::command::Effect;
use proto::shard::response::Body as Answer;
use storage::ids::{KeyRange, TxnId};

use super::intents::intents_in;
use super::{Context, Outcome, Refusal};
use crate::Error;
use crate::descriptor::{range_from_pb, range_to_pb};
use crate::latch::{Mode, Span};
use crate::wire::Fate;

/// Intents settled by one log entry.
const PAGE_ROWS: usize = 4096;
/// … and about so many bytes.
const PAGE_BYTES: usize = 2 << 20;

pub async fn resolve(cx: &Context<'_>, request: pb::Resolve) -> Outcome {
    let fate = request.fate.ok_or_else(|| Error::Invalid("a resolution without a fate".to_owned()))?;
    let (txn, fate) = Fate::from_pb(&fate)?;
    let committed_at = match fate {
        Fate::Committed(at) => at.0,
        Fate::Aborted => 0,
        Fate::Pending(_) => {
            return Err(Error::Invalid("a pending transaction cannot be resolved".to_owned()).into());
        }
    };
    for key in &request.keys {
        cx.must_hold_key(key)?;
    }
    if fate == Fate::Aborted {
        // By its coordinator, who leaves no record: whoever waits for its staged commit need not.
        cx.leadership.decided(txn);
    }
    let settle = |keys, spans| pb::Settle { txn: crate::wire::txn_bytes(txn), committed_at, keys, spans };
    if !request.keys.is_empty() {
        let spans = request.keys.iter().map(|key| (Span::Key(key.clone()), Mode::Exclusive)).collect();
        let guard = cx.latch(spans).await;
        cx.view()?;
        cx.propose(guard, Effect::Settle(settle(request.keys, Vec::new()))).await?;
    }
    if request.unlock {
        // Only now: whoever gets a lock finds the row itself, and no intent.
        cx.leadership.locks.release(txn, cx.server.seams().clock.now());
    }
    // One page per request: the sender goes on with the rest, and no request takes long.
    let Some(span) = request.spans.into_iter().next().map(range_from_pb) else {
        return Ok(Answer::Page(pb::Page::default()));
    };
    cx.must_hold(&span)?;
    let Some((page, rest)) = next_page(cx, txn, &span)? else {
        return Ok(Answer::Page(pb::Page::default()));
    };
    let guard = cx.latch(vec![(Span::Range(page.clone()), Mode::Exclusive)]).await;
    cx.view()?;
    cx.propose(guard, Effect::Settle(settle(Vec::new(), vec![range_to_pb(&page)]))).await?;
    Ok(Answer::Page(pb::Page { rows: Vec::new(), rest: rest.as_ref().map(range_to_pb) }))
}

/// The smallest range that holds the next page of the transaction's intents, and what is left after it.
fn next_page(
    cx: &Context<'_>,
    txn: TxnId,
    range: &KeyRange,
) -> Result<Option<(KeyRange, Option<KeyRange>)>, Refusal> {
    let view = cx.view()?;
    let mut from = range.clone();
    loop {
        let page = intents_in(&view.snapshot, &from, false, PAGE_ROWS, PAGE_BYTES)?;
        let after = |key: Bytes| KeyRange { start: key, end: range.end.clone() };
        let rest = page.stopped_at.map(after);
        let mut mine = page.intents.iter().filter(|(_, intent)| intent.txn == txn).map(|(key, _)| key);
        if let Some(first) = mine.next() {
            let last = mine.next_back().unwrap_or(first);
            let span = KeyRange { start: first.clone(), end: KeyRange::point(last).end };
            return Ok(Some((span, rest)));
        }
        match rest {
            Some(rest) => from = rest,
            None => return Ok(None),
        }
    }
}
