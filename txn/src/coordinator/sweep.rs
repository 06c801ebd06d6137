//! Cleans up behind gateways that have died: records of decided transactions that nobody has come back for.
//!
//! A record is removed by its coordinator, a moment after the commit. One that is old was left behind. Whether it
//! committed or not, the record says where its intents may lie; an aborted one's are found by whoever meets them, and its
//! record only has to outlive every request that its coordinator may still send.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::shard as pb;
use storage::Cf;

use super::core::Core;
use crate::descriptor::range_from_pb;
use crate::keys;
use crate::server::ShardServer;
use crate::spans::SpanSet;
use crate::wire::Fate;

const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// A record that is older was left behind: its coordinator would have come within a request's time.
const LEFT_BEHIND_MS: u64 = 60_000;
/// Records settled by one sweep of one shard; the next sweep goes on.
const RECORDS_MAX: usize = 256;

/// Sweeps the shards that this node leads, until the node stops.
pub async fn run(core: Weak<Core>, server: Arc<ShardServer>) {
    loop {
        let Some(core) = core.upgrade() else {
            return;
        };
        for shard in server.registry().all() {
            let (Some(_), Some(descriptor)) = (shard.leadership(), shard.descriptor()) else {
                continue;
            };
            let left = match left_behind(
                &shard,
                &keys::records(&descriptor.range),
                core.seams.clock.wall_ms(),
            ) {
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
        seams.sleep(SWEEP_EVERY).await;
    }
}

type Left = (Bytes, storage::ids::TxnId, pb::TxnRecord);

fn left_behind(
    shard: &crate::shard::Shard,
    records: &storage::ids::KeyRange,
    now_ms: u64,
) -> Result<Vec<Left>, crate::Error> {
    let snapshot = shard.engine().snapshot();
    let mut iter = snapshot.iter(Cf::Group, records);
    let mut left = Vec::new();
    iter.seek_to_first();
    while let Some((key, value)) = iter.item() {
        let record = pb::TxnRecord::decode(value)
            .map_err(|e| crate::Error::Corruption(format!("a transaction record does not decode: {e}")))?;
        if record.written_ms + LEFT_BEHIND_MS < now_ms
            && let Some((primary, txn)) = keys::parse_record(key)
        {
            left.push((primary, txn, record));
            if left.len() >= RECORDS_MAX {
                break;
            }
        }
        iter.next();
    }
    iter.check()?;
    Ok(left)
}
