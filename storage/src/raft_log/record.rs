//! How the log database lays out a group: keys `(group, kind, index)`, values with a checksum.
//!
//! ```text
//!   key     group  u64 BE │ kind u8 │ index u64 BE (entries only)
//!   value   crc32  u32 LE, of the key and the payload │ payload
//! ```
//!
//! The checksum covers the key too, so that a payload under the wrong index is noticed.

use crate::ids::{GroupId, LogIndex};

/// What a key of the log database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The vote; durable before `save_vote` is done.
    Vote = 1,
    /// The committed position; written along with the next synced write.
    Committed = 2,
    /// The index up to which entries were purged (u64 BE), and the purged log id as raft encoded it.
    Purged = 3,
    /// An entry; durable before `append` is done.
    Entry = 4,
}

pub(super) const GROUP_BYTES: usize = 8;
const ENTRY_KEY_BYTES: usize = GROUP_BYTES + 1 + 8;
pub(super) const CRC_BYTES: usize = 4;

/// The key of a group's vote, committed position or purged id.
pub(super) fn key(group: GroupId, kind: Kind) -> [u8; GROUP_BYTES + 1] {
    let mut key = [0; GROUP_BYTES + 1];
    key[..GROUP_BYTES].copy_from_slice(&group.0.to_be_bytes());
    key[GROUP_BYTES] = kind as u8;
    key
}

/// The key of an entry.
pub(super) fn entry_key(group: GroupId, index: LogIndex) -> [u8; ENTRY_KEY_BYTES] {
    let mut entry = [0; ENTRY_KEY_BYTES];
    entry[..=GROUP_BYTES].copy_from_slice(&key(group, Kind::Entry));
    entry[GROUP_BYTES + 1..].copy_from_slice(&index.0.to_be_bytes());
    entry
}

/// The first key behind a group's entries.
pub(super) fn entries_end(group: GroupId) -> [u8; GROUP_BYTES + 1] {
    let mut end = key(group, Kind::Entry);
    end[GROUP_BYTES] += 1;
    end
}

/// The index in an entry's key; `None` if it is none.
pub(super) fn entry_index(key: &[u8]) -> Option<LogIndex> {
    let key: &[u8; ENTRY_KEY_BYTES] = key.try_into().ok()?;
    let index = key.last_chunk::<8>()?;
    (key[GROUP_BYTES] == Kind::Entry as u8).then(|| LogIndex(u64::from_be_bytes(*index)))
}

/// Writes the stored form of `payload` into `out`.
pub(super) fn seal(key: &[u8], payload: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.reserve(CRC_BYTES + payload.len());
    out.extend_from_slice(&checksum(key, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The payload of a stored form; `None` if it fails its checksum.
pub(super) fn open<'v>(key: &[u8], stored: &'v [u8]) -> Option<&'v [u8]> {
    let (crc, payload) = stored.split_first_chunk::<CRC_BYTES>()?;
    (u32::from_le_bytes(*crc) == checksum(key, payload)).then_some(payload)
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_payload_opens_under_its_own_key_only() {
        let (key, other) = (entry_key(GroupId(1), LogIndex(7)), entry_key(GroupId(1), LogIndex(8)));
        let mut stored = Vec::new();
        seal(&key, b"payload", &mut stored);
        assert_eq!(open(&key, &stored), Some(&b"payload"[..]));
        assert_eq!(open(&other, &stored), None);
        stored[6] ^= 1;
        assert_eq!(open(&key, &stored), None);
        assert_eq!(open(&key, b"abc"), None);
        assert_eq!(entry_index(&key), Some(LogIndex(7)));
    }
}
