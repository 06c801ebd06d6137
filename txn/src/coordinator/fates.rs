//! What becomes of transactions whose intents are met: their primaries are asked, and what is decided is settled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{KeyRange, Timestamp, TxnId};

use super::core::{Core, unexpected};
use crate::Error;
use crate::api::Key;
use crate::router::{Repeat, RouteError};
use crate::wire::{Fate, parse_txn, txn_bytes};

/// A writer that has waited so long for an undecided transaction ends it, if it is the older one of the two.
const WOUND_AFTER: Duration = Duration::from_millis(50);

/// The fates that a request has learned of.
pub(super) type FateMap = HashMap<TxnId, Fate>;

pub(super) fn fates_to_pb(fates: &FateMap) -> Vec<pb::Fate> {
    fates.iter().map(|(txn, fate)| fate.to_pb(*txn)).collect()
}

impl Core {
    /// Finds out the fates of those whose intents are in the way of a read at `at`. Decided ones' intents are settled
    /// in the background.
    pub(super) async fn learn_fates(
        self: &Arc<Self>,
        met: Vec<pb::MetIntent>,
        at: Timestamp,
        fates: &mut FateMap,
        deadline: Instant,
    ) -> Result<(), Error> {
        let mut by_txn: HashMap<TxnId, Vec<pb::MetIntent>> = HashMap::new();
        for intent in met {
            by_txn.entry(parse_txn(&intent.txn)?).or_default().push(intent);
        }
        let pushes = by_txn.into_iter().map(|(txn, intents)| async move {
            let primary = intents.first().map(|i| i.primary.clone()).unwrap_or_default();
            let fate = self.push(txn, primary, at, deadline).await?;
            Ok::<_, Error>((txn, fate, intents))
        });
        for pushed in join_all(pushes).await {
            let (txn, fate, intents) = pushed?;
            fates.insert(txn, fate);
            if fate.is_decided() {
                self.settle_later(txn, fate, intents.into_iter().map(|i| i.key).collect());
            }
        }
        Ok(())
    }

    /// Asks for a transaction's fate; if it is undecided, it won't commit at or below `above`.
    async fn push(
        &self,
        txn: TxnId,
        primary: Key,
        above: Timestamp,
        deadline: Instant,
    ) -> Result<Fate, Error> {
        self.push_with(
            pb::Push { txn: txn_bytes(txn), primary, above: above.0, ..pb::Push::default() },
            deadline,
        )
        .await
    }

    /// Asks a transaction's primary.
    pub(super) async fn push_with(&self, push: pb::Push, deadline: Instant) -> Result<Fate, Error> {
        let primary = push.primary.clone();
        let txn = parse_txn(&push.txn)?;
        match self.router.ask_key(&primary, Ask::Push(push), Repeat::Harmless, deadline).await {
            Ok(Answer::Fate(fate)) => Ok(Fate::from_pb(&fate)?.1),
            Ok(Answer::AsyncCommit(commit)) => self.find_out_async(txn, primary, commit.keys, deadline).await,
            Err(RouteError::Failed(error)) => Err(error),
            _ => Err(unexpected()),
        }
    }

    /// Others' intents lie under keys to be written: waits until they are decided, and settles them. Of two that wait
    /// for each other, the older one ends the younger one after a while. `waited_since` is when the waiting began. Returns a key
    /// whose intent is undecided still, after a pause.
    pub(super) async fn clear_the_way(
        &self,
        own: (Timestamp, TxnId),
        met: Vec<pb::MetIntent>,
        waited_since: Instant,
        pause: &mut Duration,
        deadline: Instant,
    ) -> Result<Option<Key>, Error> {
        let waited = self.seams.clock.now().saturating_duration_since(waited_since);
        let mut by_txn: HashMap<TxnId, Vec<pb::MetIntent>> = HashMap::new();
        for intent in met {
            by_txn.entry(parse_txn(&intent.txn)?).or_default().push(intent);
        }
        let mut undecided = None;
        for (txn, intents) in by_txn {
            let Some(first) = intents.first() else {
                continue;
            };
            let mut push =
                pb::Push { txn: txn_bytes(txn), primary: first.primary.clone(), ..pb::Push::default() };
            let mut fate = self.push_with(push.clone(), deadline).await?;
            if !fate.is_decided() && waited >= WOUND_AFTER && own < (Timestamp(first.started), txn) {
                push.abort = true;
                fate = self.push_with(push, deadline).await?;
            }
            if fate.is_decided() {
                let ranges = intents.iter().map(|i| KeyRange::point(&i.key)).collect();
                self.settle(txn, fate, ranges, deadline).await?;
            } else if waited >= self.options.conflict_wait {
                return Err(Error::Conflict { key: first.key.clone(), rival: Some(txn) });
            } else {
                undecided = Some(first.key.clone());
            }
        }
        if undecided.is_some() {
            self.router.pause_before(pause, deadline).await?;
        }
        Ok(undecided)
    }
}
