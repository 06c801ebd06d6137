//! Rows that must stand when a transaction commits, whoever changes them meanwhile: what a foreign key asks of the row that is
//! referred to.
//!
//! A validated read would do, and refuse too much: a row that many others refer to is often changed, and only its going matters. A
//! lock (`FOR KEY SHARE`) says exactly what is meant, and promises nothing, as it is lost with its leader. So the lock is taken, below
//! `Serializable`, to have others wait, and the *demand* is looked at when the commit's timestamp is known:
//!
//! - over intents, by an ordinary read at that timestamp `T`, which sees all that commits at or below `T` and nothing else
//!   (`txn/PROTOCOL.md`);
//! - in one shard, under shared latches on the keys, from before the check until the effects are applied.
//!
//! Either way a row stands there *at the timestamp of the commit*. Who removes the row at a later one has validated up to there that
//! nobody refers to it, and so has met what this transaction has written.
//!
//! Keys that the transaction itself writes afterwards need no look: its intent keeps others away, and what it makes of them it has
//! checked itself. A demand outlives a rollback to a savepoint, which costs a needless conflict at worst.

use super::reading::{Reading, Statement};
use super::txn::{State, Txn};
use crate::Error;
use crate::api::{Fence, Isolation, Key, LockWait, LockedRow, Locking, Transaction};
use crate::coordinator::core::Core;

use std::sync::Arc;

use storage::ids::{Timestamp, TxnId};

/// Past so many demands of a transaction keys are not locked any more: a lock costs memory at its leader.
const LOCKED_MAX: usize = 10_000;
/// Keys that one transaction may demand.
const DEMANDS_MAX: usize = 1_000_000;
/// Keys read by one call.
const BATCH_MAX: usize = 4_096;

impl Txn {
    /// See [`Transaction::demand`].
    pub(super) async fn demand_at(
        &self,
        reading: &Reading,
        keys: &[Key],
        how: Locking,
        fences: &[Fence],
    ) -> Result<Vec<bool>, Error> {
        let demanded = {
            let mut state = self.state.lock();
            self.check(&state, true)?;
            // Where the keys are is to be validated, too: also at a level that forgets what it has read.
            self.use_fences(&mut state, fences, true)?;
            state.demanded.len()
        };
        if demanded + keys.len() > DEMANDS_MAX {
            return Err(Error::TooLarge(format!(
                "more than {DEMANDS_MAX} rows referred to by one transaction"
            )));
        }
        let there: Vec<bool> = if self.is_serializable() {
            let (values, from_shards) = self.look_at(reading, keys, fences).await?;
            for index in from_shards.into_iter().filter(|index| values[*index].is_none()) {
                reading.add_key(&keys[index]);
            }
            values.iter().map(Option::is_some).collect()
        } else if demanded < LOCKED_MAX {
            debug_assert_ne!(how.wait, LockWait::Skip, "a row that was left out tells nothing");
            let rows = self.lock_at(reading, keys, how, fences, true).await?;
            rows.into_iter().map(LockedRow::value).map(|value| value.is_some()).collect()
        } else {
            let (values, _) = self.look_at(&Reading::new(false, None), keys, fences).await?;
            values.iter().map(Option::is_some).collect()
        };
        let present = keys.iter().zip(&there).filter(|(_, there)| **there).map(|(key, _)| key.clone());
        self.state.lock().demanded.extend(present);
        Ok(there)
    }

    /// What the commit has to look at.
    pub(super) fn demands(state: &State) -> Vec<Key> {
        state.demanded.iter().filter(|key| !state.buffer.has_written(key)).cloned().collect()
    }

    /// See [`Transaction::latest`].
    pub(super) fn latest(&self) -> Option<Arc<dyn Transaction>> {
        if self.options.isolation == Isolation::Serializable {
            return None;
        }
        let reading = Reading::new(true, None);
        let this = self.this.upgrade()?;
        let mut state = self.state.lock();
        state.statements.push(Arc::downgrade(&reading));
        state.strict.push(reading.clone());
        drop(state);
        Some(Statement::new(this, reading))
    }
}

impl Core {
    /// Whether rows stand under all of `keys` at `at`, with the transaction's own intents.
    pub(super) async fn meet_demands(
        self: &Arc<Self>,
        own: TxnId,
        keys: &[Key],
        at: Timestamp,
    ) -> Result<(), Error> {
        for keys in keys.chunks(BATCH_MAX) {
            let values = self.read(Some(own), at, false, keys, &[]).await?;
            if let Some((key, _)) = keys.iter().zip(values).find(|(_, value)| value.is_none()) {
                return Err(Error::Conflict { key: key.clone(), rival: None });
            }
        }
        Ok(())
    }
}
