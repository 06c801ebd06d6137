//! The types that openraft is instantiated with, and their protobuf forms.
//!
//! A replica is openraft's "node": its id is the replica's, and the node it lives on is what openraft carries along.
//! Leader ids are of the standard kind, one leader per term, so that a term alone names a leader and fences its
//! proposals.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::entry::RaftEntry;
use openraft::vote::{RaftLeaderId, RaftVote};
use openraft::{EntryPayload, Membership};
use prost::Message;
use proto::raft as wire;
use proto::raft::entry::Compression;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::command::Command;

openraft::declare_raft_types!(
    /// Flotilla's instance of openraft's types.
    pub TypeConfig:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = Host,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::runtime::Paced,
);

pub(crate) type Vote = VoteOf<TypeConfig>;
pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type Entry = EntryOf<TypeConfig>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
pub(crate) type LeaderId = <TypeConfig as openraft::RaftTypeConfig>::LeaderId;
pub(crate) type Term = <LeaderId as RaftLeaderId>::Committed;

/// What applying a command answered.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Reply(pub Bytes);

/// The node that a replica lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Host(pub u64);

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

// openraft asks for serde; nothing of ours ever goes through it.
impl Serialize for Reply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Reply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Vec::<u8>::deserialize(deserializer)?.into()))
    }
}

/// Bytes that are not what they should be.
#[derive(Clone, Debug, thiserror::Error)]
#[error("malformed {what}")]
pub(crate) struct Malformed {
    pub what: &'static str,
}

fn malformed(what: &'static str) -> Malformed {
    Malformed { what }
}

/// What the messages on disk that have a version say of it: nothing, which stands for 1. A later version says its number where the
/// version before would misread it.
pub(crate) const FIRST_VERSION: u32 = 0;

/// Refuses what a later version has written.
pub(crate) fn check_version(said: u32, what: &'static str) -> Result<(), Malformed> {
    if said > 1 { Err(malformed(what)) } else { Ok(()) }
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(Term::new(term), index)
}

pub(crate) fn term_of(id: &LogId) -> u64 {
    id.leader_id.term
}

pub(crate) fn vote_to_wire(vote: &Vote) -> wire::Vote {
    wire::Vote {
        term: vote.leader_id().term,
        replica: vote.leader_id().voted_for,
        committed: vote.is_committed(),
    }
}

pub(crate) fn vote_from_wire(vote: Option<wire::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(malformed("vote"))?;
    Ok(Vote::from_leader_id(LeaderId::new(vote.term, vote.replica), vote.committed))
}

pub(crate) fn log_id_to_wire(id: &LogId) -> wire::LogId {
    wire::LogId { term: term_of(id), index: id.index }
}

pub(crate) fn log_id_from_wire(id: wire::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    log_id_to_wire(id).encode_to_vec().into()
}

pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<LogId, Malformed> {
    wire::LogId::decode(bytes).map(log_id_from_wire).map_err(|_| malformed("log id"))
}

fn membership_to_wire(membership: &Membership<u64, Host>) -> wire::Membership {
    wire::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| wire::Voters { replicas: voters.iter().copied().collect() })
            .collect(),
        members: membership.nodes().map(|(&replica, host)| wire::Member { replica, node: host.0 }).collect(),
    }
}

fn membership_from_wire(membership: wire::Membership) -> Result<Membership<u64, Host>, Malformed> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|voters| voters.replicas.into_iter().collect()).collect();
    let hosts: BTreeMap<u64, Host> =
        membership.members.into_iter().map(|member| (member.replica, Host(member.node))).collect();
    if configs.is_empty() && hosts.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, hosts).map_err(|_| malformed("membership"))
}

pub(crate) fn stored_membership_to_wire(stored: &StoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        at: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
        version: FIRST_VERSION,
    }
}

pub(crate) fn stored_membership_from_wire(
    stored: Option<wire::StoredMembership>,
) -> Result<StoredMembership, Malformed> {
    let stored = stored.ok_or(malformed("membership"))?;
    check_version(stored.version, "position: this version does not know its form")?;
    let membership = membership_from_wire(stored.membership.ok_or(malformed("membership"))?)?;
    Ok(StoredMembership::new(stored.at.map(log_id_from_wire), membership))
}

pub(crate) fn meta_to_wire(meta: &SnapshotMeta) -> wire::SnapshotMeta {
    wire::SnapshotMeta {
        last: meta.last_log_id.as_ref().map(log_id_to_wire),
        membership: Some(stored_membership_to_wire(&meta.last_membership)),
    }
}

pub(crate) fn meta_from_wire(meta: Option<wire::SnapshotMeta>) -> Result<SnapshotMeta, Malformed> {
    let meta = meta.ok_or(malformed("snapshot header"))?;
    Ok(SnapshotMeta {
        last_log_id: meta.last.map(log_id_from_wire),
        last_membership: stored_membership_from_wire(meta.membership)?,
    })
}

pub(crate) fn entry_to_wire(entry: &Entry) -> wire::Entry {
    let (payload, compression, crc32) = match &entry.payload {
        EntryPayload::Blank => (None, Compression::Unspecified, None),
        EntryPayload::Normal(command) => {
            let (compression, data, crc32) = command.to_wire();
            (Some(wire::entry::Payload::Command(data)), compression, crc32)
        }
        EntryPayload::Membership(m) => {
            (Some(wire::entry::Payload::Membership(membership_to_wire(m))), Compression::Unspecified, None)
        }
    };
    let compression = compression as i32;
    wire::Entry { term: term_of(&entry.log_id), index: entry.log_id.index, payload, compression, crc32 }
}

pub(crate) fn entry_from_wire(entry: wire::Entry) -> Result<Entry, Malformed> {
    let compression = Compression::try_from(entry.compression)
        .map_err(|_| malformed("log entry: it is compressed in a way that this version does not know"))?;
    let payload = match entry.payload {
        Some(wire::entry::Payload::Command(data)) => {
            EntryPayload::Normal(Command::from_wire(compression, data, entry.crc32)?)
        }
        _ if compression != Compression::Unspecified => {
            return Err(malformed("log entry: it is no command, and compressed"));
        }
        None => EntryPayload::Blank,
        Some(wire::entry::Payload::Membership(m)) => EntryPayload::Membership(membership_from_wire(m)?),
    };
    Ok(Entry::new(log_id(entry.term, entry.index), payload))
}

pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    entry_to_wire(entry).encode_to_vec().into()
}

pub(crate) fn decode_entry(bytes: Bytes) -> Result<Entry, Malformed> {
    entry_from_wire(wire::Entry::decode(bytes).map_err(|_| malformed("log entry"))?)
}

/// What an entry weighs in caches, batches and messages: in these, large commands are compressed.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    const OVERHEAD: usize = 64;
    match &entry.payload {
        EntryPayload::Normal(command) => command.bytes() + OVERHEAD,
        _ => OVERHEAD,
    }
}

#[cfg(test)]
mod tests {
    use storage::ids::ReplicaId;

    use super::*;
    use crate::log_store::{decode_ballot, encode_ballot};

    #[test]
    fn first_version_is_not_said_or_said_and_later_ones_are_refused() {
        let said = |version: u8| {
            let mut ballot = encode_ballot(ReplicaId(4), None, true).to_vec();
            // (Field 4, a number.)
            ballot.extend((version > 0).then_some([4 << 3, version]).into_iter().flatten());
            ballot
        };
        assert_eq!(decode_ballot(&said(0)).expect("not said").0, ReplicaId(4));
        assert_eq!(decode_ballot(&said(1)).expect("said").0, ReplicaId(4));
        decode_ballot(&said(2)).expect_err("a ballot of a later version");

        let stored = stored_membership_to_wire(&StoredMembership::default());
        for (version, known) in [(0, true), (1, true), (2, false)] {
            let stored = wire::StoredMembership { version, ..stored.clone() };
            assert_eq!(stored_membership_from_wire(Some(stored)).is_ok(), known, "{version}");
        }
    }
}
