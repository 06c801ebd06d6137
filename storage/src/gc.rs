//! Removing versions that nobody can read any more.
//!
//! A read at or above the safe point sees, of each row, the newest version at or below its timestamp. So of the
//! versions at or below the safe point only the newest one matters, and not even that one if it is a deletion. It is
//! the caller's obligation that no read below the safe point comes any more (long transactions, backups and
//! `AS OF SYSTEM TIME` hold the safe point back), and that no version is committed at or below it.

use bytes::Bytes;

use crate::Error;
use crate::engine::{Batch, Cf, Snapshot};
use crate::ids::{KeyRange, Timestamp};
use crate::keys;
use crate::mvcc;

/// How far one step of garbage collection got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Versions that the batch removes.
    pub removed: usize,
    /// Versions that were looked at.
    pub seen: usize,
    /// Rows whose newest version is no deletion: so many versions will stay.
    pub live: usize,
    /// What is left of the range; `None` when it is done.
    pub rest: Option<KeyRange>,
}

/// Adds to `batch` the removal of what is garbage in `range`, looking at about `versions_max` versions.
pub fn gc(
    snapshot: &Snapshot,
    batch: &mut Batch,
    range: &KeyRange,
    safe_point: Timestamp,
    versions_max: usize,
) -> Result<Progress, Error> {
    let mut progress = Progress::default();
    if range.is_empty() {
        return Ok(progress);
    }
    let mut iter = snapshot.iter(Cf::Data, range);
    let mut user: Vec<u8> = Vec::new();
    // The row's newest version at or below the safe point was seen.
    let mut covered = false;
    // That version, if it is a deletion. It goes last: without it, older versions that are still there would show.
    let mut deletion: Option<Vec<u8>> = None;
    iter.seek_to_first();
    while let Some((key, value)) = iter.item() {
        let (row, ts) = mvcc::split(snapshot, key)?;
        let is_newest = row != user;
        if is_newest {
            progress.removed += remove(batch, deletion.take());
            user.clear();
            user.extend_from_slice(row);
            covered = false;
        }
        if progress.seen >= versions_max {
            // Ends within a row, too: its deletion stays, and the rest begins with this row again.
            let mut start = Vec::new();
            keys::decode_user_key(&user, &mut start)
                .ok_or_else(|| Error::corrupt(snapshot.dir(), "not a version's key"))?;
            progress.rest = Some(KeyRange { start: Bytes::from(start), end: range.end.clone() });
            return Ok(progress);
        }
        progress.seen += 1;
        if is_newest && !mvcc::is_tombstone(value) {
            progress.live += 1;
        }
        if ts <= safe_point {
            if covered {
                batch.delete(Cf::Data, key);
                progress.removed += 1;
            } else if mvcc::is_tombstone(value) {
                deletion = Some(key.to_vec());
            }
            covered = true;
        }
        iter.next();
    }
    iter.check()?;
    progress.removed += remove(batch, deletion);
    Ok(progress)
}

fn remove(batch: &mut Batch, version: Option<Vec<u8>>) -> usize {
    version.map_or(0, |key| {
        batch.delete(Cf::Data, &key);
        1
    })
}
