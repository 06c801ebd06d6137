//! Cleans up behind gateways that have died: records of decided transactions that nobody has come back for.
//!
//! A record is removed by its coordinator, a moment after the commit. One that is old was left behind. Whether it
//! committed or not, the record says where its intents may lie; an aborted one's are found by whoever meets them, and its
//! record only has to outlive every request that its coordinator may still send.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use proto::shard as pb;
use storage::Cf;
use storage::ids::TxnId;

use super::core::Core;
use crate::descriptor::range_from_pb;
use crate::keys;
use crate::server::ShardServer;
use crate::spans::SpanSet;
use crate::wire::Fate;

const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// A record that was there for longer was left behind: its coordinator would have come within a request's time.
const LEFT_BEHIND: Duration = Duration::from_secs(60);
/// Records whose age is kept in mind; further ones wait their turn.
const AGES_MAX: usize = 20_000;
/// Records settled by one sweep of one shard; the next sweep goes on.
const RECORDS_MAX: usize = 256;

/// Sweeps the shards that this node leads, until the node stops.
pub async fn run(core: Weak<Core>, server: Arc<ShardServer>) {
    let mut ages = Ages::default();
    loop {
        let Some(core) = core.upgrade() else {
            return;
        };
        ages.begin_round();
        for shard in server.registry().led() {
            let (Some(_), Some(descriptor)) = (shard.leadership(), shard.descriptor()) else {
                continue;
            };
            let records = keys::records(&descriptor.range);
            let left = match left_behind(&shard, &records, &mut ages, core.seams.clock.now()) {
                Ok(left) => left,
                Err(error) => {
                    tracing::error!(group = %shard.group(), %error, "cannot look for records that were left behind");
                    continue;
                }
            };
            for (primary, txn, record) in left {
                let (mut sent, mut fate) = (SpanSet::default(), Fate::Aborted);
                if record.kind() == pb::FateKind::FateCommitted {
                    fate = Fate::Committed(storage::ids::Timestamp(record.at));
                    record.spans.into_iter().for_each(|span| sent.add_range(&range_from_pb(span)));
                }
                core.finish(txn, primary, fate, sent, HashMap::new(), true).await;
            }
        }
        let seams = core.seams.clone();
        drop(core);
        seams.beat(SWEEP_EVERY).await;
    }
}

/// How long this node has known the records of its shards. By its own monotonic time: the wall clock jumps, and a record that
/// goes too early is an acknowledged write lost (F2). A new leader, or process, begins anew: later is harmless.
#[derive(Debug, Default)]
struct Ages {
    /// By its key, when each was first seen, as of the last round.
    before: HashMap<Bytes, Instant>,
    /// Those that are still there in this round.
    now: HashMap<Bytes, Instant>,
}

impl Ages {
    /// What is not seen from here on is forgotten.
    fn begin_round(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    /// A record is there; whether it has been for so long that it was left behind.
    fn is_old(&mut self, record: &[u8], now: Instant) -> bool {
        if self.is_full() {
            return false;
        }
        let since = self.before.get(record).copied().unwrap_or(now);
        self.now.insert(Bytes::copy_from_slice(record), since);
        now.saturating_duration_since(since) > LEFT_BEHIND
    }

    /// The record is about to be removed.
    fn forget(&mut self, record: &[u8]) {
        self.now.remove(record);
    }

    fn is_full(&self) -> bool {
        self.now.len() >= AGES_MAX
    }
}

type Left = (Bytes, TxnId, pb::TxnRecord);

fn left_behind(
    shard: &crate::shard::Shard,
    records: &storage::ids::KeyRange,
    ages: &mut Ages,
    now: Instant,
) -> Result<Vec<Left>, crate::Error> {
    let snapshot = shard.engine().snapshot();
    let mut iter = snapshot.iter(Cf::Group, records);
    let mut left = Vec::new();
    iter.seek_to_first();
    while let Some((key, value)) = iter.item() {
        let record = pb::TxnRecord::decode(value)
            .map_err(|e| crate::Error::Corruption(format!("a transaction record does not decode: {e}")))?;
        if let Some((primary, txn)) = keys::parse_record(key)
            && ages.is_old(key, now)
            && left.len() < RECORDS_MAX
        {
            // Should it be written again, it is a new one.
            ages.forget(key);
            left.push((primary, txn, record));
        }
        if ages.is_full() {
            break;
        }
        iter.next();
    }
    iter.check()?;
    Ok(left)
}

#[cfg(test)]
mod tests {
    use storage::seam::{Clock, SystemClock};

    use super::*;

    #[test]
    fn a_record_is_old_when_it_was_seen_for_a_minute() {
        let start = SystemClock.now();
        let mut ages = Ages::default();
        let mut is_old = |record: &str, after: u64| {
            ages.begin_round();
            ages.is_old(record.as_bytes(), start + Duration::from_secs(after))
        };
        assert!(!is_old("a", 0) && !is_old("a", 60) && is_old("a", 61));
        assert!(!is_old("b", 90), "another one");
        assert!(!is_old("a", 95), "it was gone in between: this is a new one");
        assert!(!is_old("a", 155) && is_old("a", 156));
    }
}
