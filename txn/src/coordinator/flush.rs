//! Large transactions: writes that are sent before the commit, and taken back by a savepoint.

use std::sync::Arc;

use super::txn::{State, Txn};
use crate::Error;
use crate::api::Key;

/// Keys that are put back at once, after a rollback past a flush.
const RESTORE_KEYS: usize = 1_000;

impl Txn {
    /// Sends the buffer as intents, in the background, when it has become large. Waits if the last one is still being
    /// sent: that bounds the memory.
    pub(super) async fn flush_if_large(&self) -> Result<(), Error> {
        let large = |state: &State| state.buffer.bytes() >= self.core.options.flush_bytes;
        if !large(&self.state.lock()) {
            return Ok(());
        }
        let Some(this) = self.this.upgrade() else {
            return Ok(());
        };
        let sending = self.sending.clone().lock_owned().await;
        let (writes, overwritten) = {
            let mut state = self.state.lock();
            self.check(&state, true)?;
            if !large(&state) {
                return Ok(());
            }
            let overwritten = state.buffer.overwritten().unwrap_or_else(|| {
                state.buffer.give_up_marks();
                Vec::new()
            });
            let writes = Arc::new(state.buffer.take());
            state.flushing = Some(writes.clone());
            state.flushes += 1;
            (writes, overwritten)
        };
        self.core.seams.spawn("flush", async move {
            let result = match this.remember(overwritten).await {
                Ok(()) => this.send_early(&writes).await,
                Err(error) => Err(error),
            };
            let mut state = this.state.lock();
            state.flushing = None;
            state.flushes += 1;
            if let Err(error) = result {
                state.failed.get_or_insert(error);
            }
            drop(state);
            drop(sending);
        });
        Ok(())
    }

    /// Reads what own intents say that are about to be replaced: a savepoint may want it back.
    async fn remember(&self, overwritten: Vec<(u64, Key)>) -> Result<(), Error> {
        for chunk in overwritten.chunks(RESTORE_KEYS) {
            let at = self.core.oracle.timestamp().await?;
            let keys: Vec<Key> = chunk.iter().map(|(_, key)| key.clone()).collect();
            let values = self.core.read(Some(self.id), at, false, &keys, &[]).await?;
            let mut state = self.state.lock();
            for ((mark, _), value) in chunk.iter().zip(values) {
                state.buffer.remember(*mark, value);
            }
        }
        Ok(())
    }

    /// Undoes the writes since a mark, those that were sent included.
    pub(super) async fn undo_to(&self, mark: u64) -> Result<(), Error> {
        // What is on its way has to arrive first: it is replaced by something newer.
        let sending = self.sending.clone().lock_owned().await;
        let undone = {
            let mut state = self.state.lock();
            self.check(&state, false)?;
            let undone = state.buffer.rollback_to(mark)?;
            // They may be what was undone.
            state.locked.values_mut().for_each(|locked| locked.value = None);
            undone
        };
        drop(sending);
        let restored = self.restore(&undone.restore).await;
        if let Err(error) = &restored {
            // Intents are left that say what was taken back: the transaction must not commit.
            self.state.lock().failed.get_or_insert(error.clone());
        }
        restored
    }

    /// Makes intents say what stands under them: the transaction has written nothing there any more. (While an intent lies,
    /// nobody else changes that.)
    async fn restore(&self, keys: &[Key]) -> Result<(), Error> {
        for chunk in keys.chunks(RESTORE_KEYS) {
            let at = self.core.oracle.timestamp().await?;
            let values = self.core.read(None, at, false, chunk, &[]).await?;
            {
                let mut state = self.state.lock();
                self.check(&state, false)?;
                for (key, value) in chunk.iter().zip(values) {
                    state.buffer.restore(key.clone(), value);
                }
            }
            self.flush_if_large().await?;
        }
        Ok(())
    }
}
