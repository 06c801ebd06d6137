//! Clearing what DROP and TRUNCATE have left behind.
//!
//! The transaction that drops a table or gives it a new storage notes the old keys as a *garbage* row. Snapshots taken
//! before it committed still read those keys, so a sweeper on each node clears a range only after it has seen the note
//! for [`GRACE`] by its own monotonic clock. Sweepers of several nodes may clear the same range; that is harmless, since
//! nothing is ever written to it again (ids are never reused).
//!
//! **Caveat.** A transaction that stays open for longer than `GRACE` and then reads a table that was dropped meanwhile
//! may find it empty; the fence, which is kept, refuses it in the case of TRUNCATE only at commit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use txn::api::{BeginOptions, Expect, Isolation, Key, Write};
use txn::ids::KeyRange;

use super::image::scan_all;
use super::stored::{self, StoredGarbage};
use super::{Catalog, layout};
use crate::error::{Result, SqlError, SqlState};

/// How long old keys are kept.
const GRACE: Duration = Duration::from_secs(600);
/// How often a node looks; up to twice that, so that nodes don't do it all at once.
const SWEEP_INTERVAL_MS: u64 = 60_000;

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
pub(super) struct Seen(HashMap<Key, Instant>);

impl Catalog {
    /// Sweeps in the background until `shutdown` is cancelled.
    pub fn start_sweeper(self: &Arc<Self>, shutdown: tokio_util::sync::CancellationToken) {
        let catalog = Arc::clone(self);
        self.seams().spawn("catalog-sweeper", async move {
            let mut seen = Seen::default();
            loop {
                let seams = catalog.seams();
                let pause = seams.random_range(SWEEP_INTERVAL_MS, 2 * SWEEP_INTERVAL_MS);
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
    async fn sweep(&self, seen: &mut Seen) -> Result<()> {
        let options = BeginOptions { isolation: Isolation::Snapshot, read_only: true };
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
            self.clear(&KeyRange::new(unhex(&stored.start)?, unhex(&stored.end)?)).await?;
            self.attempt(BeginOptions::default(), |transaction| {
                let delete = Write { key: key.clone(), value: None, expect: Expect::Any };
                async move { Ok(transaction.write(vec![delete], &[]).await?) }
            })
            .await?;
        }
        Ok(())
    }

    /// Clears a range, but leaves the fences that shards keep at their start: a shard that begins inside a table's old
    /// storage may hold rows of its new one.
    async fn clear(&self, range: &KeyRange) -> Result<()> {
        for shard in self.cluster().shards(range).await? {
            let Some(part) = shard.range.intersection(range) else { continue };
            let mut fence = shard.range.start.to_vec();
            fence.push(0);
            let mut after = fence.clone();
            after.push(0);
            for piece in [
                KeyRange::new(part.start.clone(), fence),
                KeyRange::new(part.start.clone().max(Bytes::from(after)), part.end.clone()),
            ] {
                if !piece.is_empty() {
                    self.cluster().clear_range(&piece).await?;
                }
            }
        }
        Ok(())
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    hex::decode(text)
        .map_err(|e| SqlError::new(SqlState::DATA_CORRUPTED, format!("garbage range cannot be read: {e}")))
}
