//! Where a group keeps what is its own in the column family `group`.
//!
//! ```text
//!   [group u64 BE][0x00]            raft: the id of the last applied entry
//!   [group u64 BE][0x01]            raft: the membership, and the entry it came with
//!   [group u64 BE][0x02]            raft: the highest id of a replica that was removed from this node (u64 BE)
//!   [group u64 BE][0x03]            raft: the id of the replica that may take part in nothing any more (u64 BE)
//!   [group u64 BE][0x10] …          the state machine's
//! ```

use storage::ids::{GroupId, KeyRange};

const APPLIED: u8 = 0x00;
const MEMBERSHIP: u8 = 0x01;
const REMOVED: u8 = 0x02;
const QUARANTINED: u8 = 0x03;
const PRIVATE: u8 = 0x10;

fn key(group: GroupId, kind: u8) -> Vec<u8> {
    let mut key = group.0.to_be_bytes().to_vec();
    key.push(kind);
    key
}

/// A key of a group's state machine in the column family `group`.
pub fn private_key(group: GroupId, suffix: &[u8]) -> Vec<u8> {
    let mut key = key(group, PRIVATE);
    key.extend_from_slice(suffix);
    key
}

/// All keys of a group's state machine in the column family `group`: one of its [`crate::StateMachine::spans`].
pub fn private_keys(group: GroupId) -> KeyRange {
    KeyRange::prefix(&key(group, PRIVATE))
}

pub(crate) fn applied_key(group: GroupId) -> Vec<u8> {
    key(group, APPLIED)
}

pub(crate) fn membership_key(group: GroupId) -> Vec<u8> {
    key(group, MEMBERSHIP)
}

/// Outlives the group's replica on this node.
pub(crate) fn removed_key(group: GroupId) -> Vec<u8> {
    key(group, REMOVED)
}

/// Goes with the replica.
pub(crate) fn quarantined_key(group: GroupId) -> Vec<u8> {
    key(group, QUARANTINED)
}

/// Everything of a group.
pub(crate) fn all_keys(group: GroupId) -> KeyRange {
    KeyRange::prefix(&group.0.to_be_bytes())
}
