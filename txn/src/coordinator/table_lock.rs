//! Locks of whole tables, for changes of schema that read all rows: building an index, filling a column.
//!
//! Such a change is refused at its commit for every row that was written since its snapshot. Under a few writes a second it would
//! be refused each time, however often it is tried. So it locks the table's fence in all its shards first (`command/lock.rs`),
//! which those who write there find, and wait for as for a row that they want to insert.
//!
//! Like row locks, these live in leaders' memories and promise nothing: with a change of leader, and in a shard that was cut off
//! the table since, writers go on, and the change is refused as before.

use storage::ids::KeyRange;

use super::txn::Txn;
use crate::api::{Fence, LockWait, Locking};
use crate::{Error, LockMode, keys};

impl Txn {
    /// See [`Transaction::lock_table`](crate::api::Transaction::lock_table).
    pub(super) async fn lock_table_at(&self, fence: &Fence, wait: LockWait) -> Result<(), Error> {
        let fences = {
            let mut state = self.state.lock();
            self.check(&state, true)?;
            self.use_fences(&mut state, std::slice::from_ref(fence), true)?
        };
        if fences.is_empty() {
            return Ok(());
        }
        let limit = match wait {
            LockWait::For(Some(limit)) => Some(self.core.seams.clock.now() + limit),
            _ => None,
        };
        let how = Locking { mode: LockMode::Update, wait };
        let table = KeyRange::prefix(&fence.prefix);
        let mut at = table.start.clone();
        // In key order, as rows are locked: two changes of one table queue.
        loop {
            let shard = self.core.router.route(&at, self.core.deadline()).await?;
            let key = keys::fence(&shard.range.start, &fence.prefix);
            match self.lock_in_shard(&shard, &[key], None, how, &fences, limit).await {
                // The shard has moved.
                Ok(None) => continue,
                // It is locked. Someone's intents are still undecided after all the patience there is: the commit will tell.
                Ok(Some(_)) | Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
            let end = &shard.range.end;
            if end.is_empty() || (!table.end.is_empty() && *end >= table.end) {
                return Ok(());
            }
            at = end.clone();
        }
    }
}
