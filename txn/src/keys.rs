//! What this crate keeps in the column family `group`, and the keys of fences.
//!
//! ```text
//!   [group u64 BE][0x10] d                          the shard's descriptor           (ShardDescriptor)
//!   [group u64 BE][0x10] s                          its safe point                   (u64 BE)
//!   [group u64 BE][0x10] c                          its closed timestamp             (u64 BE)
//!   [group u64 BE][0x10] f                          it waits to be absorbed          (Frozen)
//!   [group u64 BE][0x10] a                          it was absorbed, by which group  (u64 BE)
//!   [ff ff ff ff ff ff ff ff] r primary 00 01 txn   a decided transaction's record   (TxnRecord)
//! ```
//!
//! Records stand under their primary's key and not under a group, so that a split moves them without touching them.
//! The primary is escaped (`00` becomes `00 ff`), so that records sort like primaries and a shard's key range is a
//! range of records, too.

use bytes::{BufMut, Bytes};
use storage::ids::{GroupId, KeyRange, TxnId};

const RECORDS: [u8; 9] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, b'r'];

/// Where a shard's descriptor is kept.
pub fn descriptor(group: GroupId) -> Vec<u8> {
    raft::private_key(group, b"d")
}

/// Where a shard's safe point is kept.
pub fn safe_point(group: GroupId) -> Vec<u8> {
    raft::private_key(group, b"s")
}

/// Where a shard's closed timestamp is kept.
pub fn closed(group: GroupId) -> Vec<u8> {
    raft::private_key(group, b"c")
}

/// Where a shard keeps that it waits to be absorbed.
pub fn frozen(group: GroupId) -> Vec<u8> {
    raft::private_key(group, b"f")
}

/// Where a replica keeps that its shard was absorbed.
pub fn absorbed(group: GroupId) -> Vec<u8> {
    raft::private_key(group, b"a")
}

/// Where a transaction's record is kept.
pub fn record(primary: &[u8], txn: TxnId) -> Vec<u8> {
    let mut key = Vec::with_capacity(RECORDS.len() + primary.len() + 2 + 16);
    key.extend_from_slice(&RECORDS);
    escape(primary, &mut key);
    key.extend_from_slice(&[0, 1]);
    key.put_u128(txn.0);
    key
}

/// All records whose primary lies in `range`.
pub fn records(range: &KeyRange) -> KeyRange {
    let bound = |key: &[u8]| {
        let mut bound = RECORDS.to_vec();
        escape(key, &mut bound);
        Bytes::from(bound)
    };
    let end = match range.end.is_empty() {
        true => storage::ids::prefix_end(&RECORDS),
        false => bound(&range.end),
    };
    KeyRange { start: bound(&range.start), end }
}

/// The primary and the transaction that a record's key names.
pub fn parse_record(key: &[u8]) -> Option<(Bytes, TxnId)> {
    let rest = key.strip_prefix(&RECORDS)?;
    let (escaped, txn) = rest.split_last_chunk::<16>()?;
    let escaped = escaped.strip_suffix(&[0, 1])?;
    let mut primary = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        primary.push(byte);
        if byte == 0 && bytes.next() != Some(&0xff) {
            return None;
        }
    }
    Some((primary.into(), TxnId(u128::from_be_bytes(*txn))))
}

fn escape(key: &[u8], out: &mut Vec<u8>) {
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
}

/// Where the shard that begins at `shard_start` keeps the fence of `prefix`.
pub fn fence(shard_start: &[u8], prefix: &[u8]) -> Bytes {
    let at = shard_start.max(prefix);
    let mut key = Vec::with_capacity(at.len() + 1);
    key.extend_from_slice(at);
    key.push(0);
    key.into()
}

/// A range without the key at which the shard that begins at `shard_start` keeps the fence of what it begins in.
pub fn beside_fence(range: &KeyRange, shard_start: &[u8]) -> Vec<KeyRange> {
    let fence = fence(shard_start, b"");
    if !range.contains(&fence) {
        return vec![range.clone()];
    }
    let after = KeyRange::point(&fence).end;
    let pieces = [KeyRange::new(range.start.clone(), fence), KeyRange::new(after, range.end.clone())];
    pieces.into_iter().filter(|piece| !piece.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff)], 0..5)
    }

    proptest! {
        #[test]
        fn record_lies_in_the_records_of_its_primarys_range(a in key(), b in key(), primary in key(), txn: u128) {
            let range = KeyRange::new(a, b);
            let record = record(&primary, TxnId(txn));
            prop_assert_eq!(records(&range).contains(&record), range.contains(&primary));
            prop_assert_eq!(parse_record(&record), Some((Bytes::from(primary), TxnId(txn))));
        }

        #[test]
        fn beside_the_fence_is_all_but_the_fence(a in key(), b in key(), start in key(), probe in key()) {
            let range = KeyRange::new(a, b);
            let fence = fence(&start, b"");
            for probe in [probe.into(), fence.clone(), KeyRange::point(&fence).end] {
                let covering = beside_fence(&range, &start).iter().filter(|r| r.contains(&probe)).count();
                prop_assert_eq!(covering, usize::from(range.contains(&probe) && probe != fence));
            }
        }
    }
}
