//! Settling intents of decided transactions: those that others have left in the way, and at the end of one's own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{GroupId, KeyRange, TxnId};

use super::core::{Core, Piece, unexpected};
use crate::Error;
use crate::api::Key;
use crate::descriptor::{range_from_pb, range_to_pb};
use crate::router::{Repeat, RouteError};
use crate::spans::SpanSet;
use crate::wire::{Fate, txn_bytes};

/// Keys in one request that settles intents.
const RESOLVE_KEYS_MAX: usize = 1024;

impl Core {
    pub(super) fn settle_later(self: &Arc<Self>, txn: TxnId, fate: Fate, keys: Vec<Key>) {
        let Ok(place) = self.background.clone().try_acquire_owned() else {
            return;
        };
        let core = self.clone();
        self.seams.spawn("settle", async move {
            let ranges = keys.iter().map(|key| KeyRange::point(key)).collect();
            if let Err(error) = core.settle(txn, fate, ranges, core.deadline()).await {
                tracing::debug!(?txn, %error, "intents of a decided transaction stay for now");
            }
            drop(place);
        });
    }

    /// Settles all intents of a decided transaction in `ranges`.
    pub(super) async fn settle(
        &self,
        txn: TxnId,
        fate: Fate,
        ranges: Vec<KeyRange>,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.settle_and_unlock(txn, fate, ranges, deadline, &Mutex::default()).await
    }

    /// The same by the coordinator. Locks that went along are taken out of `held`.
    pub(super) async fn settle_and_unlock(
        &self,
        txn: TxnId,
        fate: Fate,
        ranges: Vec<KeyRange>,
        deadline: Instant,
        held: &Mutex<HashMap<GroupId, Key>>,
    ) -> Result<(), Error> {
        let mut left = ranges;
        let mut pause = Duration::from_millis(2);
        while !left.is_empty() {
            let pieces = self.pieces(&left, deadline).await?;
            let settled = pieces.into_iter().map(|piece| self.settle_piece(txn, fate, piece, deadline, held));
            let results = join_all(settled).await;
            left = Vec::new();
            for result in results {
                left.extend(result?);
            }
            if !left.is_empty() {
                self.router.pause_before(&mut pause, deadline).await?;
            }
        }
        Ok(())
    }

    /// Returns what is left because the shard has moved.
    async fn settle_piece(
        &self,
        txn: TxnId,
        fate: Fate,
        piece: Piece,
        deadline: Instant,
        held: &Mutex<HashMap<GroupId, Key>>,
    ) -> Result<Vec<KeyRange>, Error> {
        let (points, spans): (Vec<_>, Vec<_>) =
            piece.ranges.into_iter().partition(|range| storage::keys::as_point(range).is_some());
        let mut left = Vec::new();
        let group = piece.shard.group;
        let at_once = spans.is_empty() && points.len() <= RESOLVE_KEYS_MAX;
        let unlock = at_once && held.lock().contains_key(&group);
        for chunk in points.chunks(RESOLVE_KEYS_MAX) {
            let keys = chunk.iter().map(|range| range.start.clone()).collect();
            let ask = pb::Resolve { fate: Some(fate.to_pb(txn)), keys, spans: Vec::new(), unlock };
            match self.router.ask(&piece.shard, Ask::Resolve(ask), Repeat::Harmless, deadline).await {
                Ok(_) if unlock => _ = held.lock().remove(&group),
                Ok(_) => {}
                Err(RouteError::Moved) => left.extend_from_slice(chunk),
                Err(RouteError::Failed(error)) => return Err(error),
                Err(RouteError::Pushed) => return Err(unexpected()),
            }
        }
        for span in spans {
            let mut todo = Some(span);
            while let Some(span) = todo.take() {
                let spans = vec![range_to_pb(&span)];
                let ask = pb::Resolve { fate: Some(fate.to_pb(txn)), spans, ..pb::Resolve::default() };
                // Each page has time of its own: how many there are nobody knows.
                let deadline = deadline.max(self.deadline());
                match self.router.ask(&piece.shard, Ask::Resolve(ask), Repeat::Harmless, deadline).await {
                    Ok(Answer::Page(page)) => todo = page.rest.map(range_from_pb),
                    Err(RouteError::Moved) => left.push(span),
                    Err(RouteError::Failed(error)) => return Err(error),
                    Ok(_) | Err(RouteError::Pushed) => return Err(unexpected()),
                }
            }
        }
        Ok(left)
    }

    /// Cleans up after a decided transaction, and lets the locks go that it may still hold. What can't be reached now is settled
    /// by whoever meets it. The record is to be forgotten only if no request of the transaction is under way (`strays.rs`).
    pub(super) async fn finish(
        &self,
        txn: TxnId,
        primary: Key,
        fate: Fate,
        sent: SpanSet,
        held: HashMap<GroupId, Key>,
        forget: bool,
    ) {
        let deadline = self.deadline();
        let ranges = sent.ranges().collect();
        let held = Mutex::new(held);
        let settled = self.settle_and_unlock(txn, fate, ranges, deadline, &held).await;
        // Only now: whoever gets a lock finds the row itself, and no intent.
        self.unlock_in(txn, held.into_inner()).await;
        if let Err(error) = settled {
            tracing::debug!(?txn, %error, "intents of a finished transaction are left to those who meet them");
            return;
        }
        if !forget {
            return;
        }
        let forget = Ask::Forget(pb::Forget { txn: txn_bytes(txn), primary: primary.clone() });
        if let Err(RouteError::Failed(error)) =
            self.router.ask_key(&primary, forget, Repeat::Harmless, self.deadline()).await
        {
            tracing::debug!(?txn, %error, "the record of a finished transaction stays");
        }
    }
}
