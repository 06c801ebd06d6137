//! Clearing what DROP and TRUNCATE have left behind.
//!
//! The transaction that drops a table, or gives it a new storage or index, notes the old keys as a *garbage* row. A sweeper on
//! each node clears the range of a note after it has known the note for [`GRACE`], and deletes the note. In between it tells the
//! meta-group that the range is vacated: only now is it certain that nothing is wanted of the replicas any more.
//!
//! # Why nothing is lost
//!
//! Cleared is cleared for all snapshots, so the range must be reachable by none. A range is reached through a descriptor that
//! names its storage; ids come from a counter, and none is given out twice. Who may still have such a descriptor?
//!
//! 1. *Whoever comes after the commit*: nobody. The note is written by the transaction that takes the storage out of the
//!    catalog. If that is rolled back, or its process dies before the commit, there is no note; if the sweeper's dies, the
//!    note is still there, and clearing twice is clearing once. A table created anew under the old name has another id.
//! 2. *A writer that began before*: its commit carries the table's fence, which the same transaction has changed, and is
//!    refused. What it had sent early are intents of a transaction that cannot commit; an intent whose transaction *has*
//!    committed is that of a row which was garbage with the rest. Fates are kept elsewhere, and stay, so a transaction whose
//!    primary lay in the range is still found committed by its other keys.
//! 3. *A reader whose snapshot is older*: it reads without a word what is left. For a transaction younger than [`UNCHECKED`]
//!    that is everything, for the sweeper waits longer. An older one looks after each page, at the latest version of the
//!    catalog, whether the table still has the storage, and the index ([`Kept::check`]). If so, nothing had been cleared when the page was
//!    read, a moment before; if not, the statement fails with `72000`, as in PostgreSQL a snapshot that is too old. Both ages are
//!    measured on monotonic clocks, whose rates may differ by less than the factor between the two: leases assume far more.
//!    The reader measures *after* its page has come, so that a process that was paused in between finds itself old.
//! 4. *The reader and writer of its own change*: a transaction that has dropped or truncated reads its new storage, which no
//!    note names before it commits. One that has changed a table otherwise, and is older than a rival's DROP of it, is in
//!    conflict with it and cannot commit, whatever it reads.
//!
//! **What must stay inside the range**: a shard that begins in a table's old storage may hold rows of its new one, and keeps the
//! table's fence at its own start. `Database::clear_range` spares these (each shard its own, when it applies the entry, so that
//! no split can come between).
//!
//! **Caveat.** After ten minutes, a long transaction loses what others drop and truncate meanwhile. That is the price of
//! neither tracking all snapshots of a cluster nor keeping garbage for as long as anybody forgets to commit.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use txn::api::{BeginOptions, Expect, Isolation, Key, Write};
use txn::ids::KeyRange;

use super::image::scan_all;
use super::stored::{self, StoredGarbage};
use super::{Catalog, TableDescriptor, TransactionCatalog, layout};
use crate::error::{Result, SqlError, SqlState};

/// How long old keys are kept.
pub(crate) const GRACE: Duration = Duration::from_secs(600);
/// Transactions younger than this needn't ask whether what they read is still kept.
pub(crate) const UNCHECKED: Duration = Duration::from_secs(300);
/// How often a node looks; up to twice that, so that nodes don't do it all at once.
const SWEEP_INTERVAL_MS: u64 = 60_000;
/// … so many times as long while it knows of no note: each look wakes the shard that they are in.
const SWEEP_SELDOM: u64 = 5;

/// The note about a range.
pub(super) fn note(range: KeyRange, since_ms: u64) -> Result<Write> {
    let stored = StoredGarbage { start: hex::encode(&range.start), end: hex::encode(&range.end), since_ms };
    Ok(Write {
        key: layout::garbage_key(&range),
        value: Some(stored::encode("garbage range", &stored)?),
        expect: Expect::Any,
    })
}

/// When each note was first seen by this node.
#[derive(Default)]
pub(crate) struct Seen(HashMap<Key, Instant>);

impl Catalog {
    /// Sweeps in the background until `shutdown` is cancelled. Once: a second call does nothing.
    pub fn start_sweeper(self: &Arc<Self>, shutdown: tokio_util::sync::CancellationToken) {
        if self.sweeping.swap(true, Ordering::Relaxed) {
            return;
        }
        let catalog = Arc::clone(self);
        self.seams().spawn("catalog-sweeper", async move {
            let mut seen = Seen::default();
            loop {
                let seams = catalog.seams();
                let interval = SWEEP_INTERVAL_MS * if seen.0.is_empty() { SWEEP_SELDOM } else { 1 };
                let pause = seams.random_range(interval, 2 * interval);
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = seams.sleep(Duration::from_millis(pause)) => {}
                }
                if let Err(error) = catalog.sweep(&mut seen).await {
                    tracing::warn!(%error, "dropped tables could not be cleared; trying again later");
                }
            }
        });
    }

    /// Clears what has been garbage for long enough.
    pub(crate) async fn sweep(&self, seen: &mut Seen) -> Result<()> {
        let options = BeginOptions { isolation: Isolation::Snapshot, read_only: true, ..Default::default() };
        let notes =
            self.attempt(options, |transaction| async move {
                scan_all(&*transaction, layout::garbage_range()).await
            })
            .await?;
        let now = self.seams().clock.now();
        seen.0.retain(|key, _| notes.iter().any(|(k, _)| k == key));
        for (key, value) in notes {
            let first = *seen.0.entry(key.clone()).or_insert(now);
            if now.saturating_duration_since(first) < GRACE {
                continue;
            }
            let stored: StoredGarbage = stored::decode("garbage range", &value)?;
            let range = KeyRange::new(unhex(&stored.start)?, unhex(&stored.end)?);
            self.cluster().clear_range(&range).await?;
            self.cluster().vacate(&range).await?;
            self.attempt(BeginOptions::default(), |transaction| {
                let delete = Write { key: key.clone(), value: None, expect: Expect::Any };
                async move { Ok(transaction.write(vec![delete], &[]).await?) }
            })
            .await?;
        }
        Ok(())
    }
}

/// The storage that a statement reads.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    database: u32,
    table: u32,
    storage: u32,
    index: Option<u32>,
}

impl Kept {
    pub(crate) fn of(table: &TableDescriptor) -> Self {
        Self { database: table.database, table: table.id, storage: table.storage_id, index: None }
    }

    /// An index, too.
    pub(crate) fn with_index(self, index: u32) -> Self {
        Self { index: Some(index), ..self }
    }

    /// To be called after each read through a transaction: fails with `72000` if what was read may have been cleared before.
    pub(crate) async fn check(self, of: &TransactionCatalog) -> Result<()> {
        if self.is_kept(of).await? {
            return Ok(());
        }
        Err(SqlError::new(SqlState("72000"), "snapshot too old")
            .detail(
                "A table or index that the transaction reads has been dropped or truncated since it began.",
            )
            .hint("Begin a new transaction."))
    }

    /// To be called after each read through a transaction: whether what was read cannot have been cleared before.
    pub(crate) async fn is_kept(self, of: &TransactionCatalog) -> Result<bool> {
        if of.age() < UNCHECKED || of.has_changed(self.table) {
            return Ok(true);
        }
        let key = layout::table_key(self.database, self.table);
        let values = of.catalog().cluster().get_latest(std::slice::from_ref(&key), &[]).await?;
        let stored = values.into_iter().next().flatten();
        if let Some(stored) = stored {
            let now = stored::decode_table(&stored)?;
            let index_kept = |index: u32| now.index_ids().any(|id| id == index);
            return Ok(now.storage_id == self.storage && self.index.is_none_or(index_kept));
        }
        Ok(false)
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    hex::decode(text)
        .map_err(|e| SqlError::new(SqlState::DATA_CORRUPTED, format!("garbage range cannot be read: {e}")))
}
