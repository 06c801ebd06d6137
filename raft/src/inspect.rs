//! What a stopped node's files hold of a replica, in words: see [`storage::inspect`].

use bytes::Bytes;
use openraft::{EntryPayload, Membership};
use storage::Cf;
use storage::ids::{GroupId, LogIndex, ReplicaId, Term};
use storage::inspect::Inspection;

use crate::api::Fatal;
use crate::keys;
use crate::log_store::decode_ballot;
use crate::state_machine::Position;
use crate::types::{self, Host, LogId, decode_entry, decode_log_id};

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The term of the leader that wrote it.
    pub term: Term,
    /// The index.
    pub index: LogIndex,
}

/// A replica as its files have it.
#[derive(Clone, Debug)]
pub struct StoredReplica {
    /// Which of the group's replicas it is; `None` if there is only state left.
    pub replica: Option<ReplicaId>,
    /// It was being removed.
    pub leaving: bool,
    /// The newest term, for whom it voted, and whether that one was known to lead.
    pub vote: Option<(Term, ReplicaId, bool)>,
    /// Up to where the log was cut off, for the state has it.
    pub purged: Option<Place>,
    /// The last entry of the log.
    pub last: Option<Place>,
    /// Up to where it was known to be committed when that was last written.
    pub committed: Option<Place>,
    /// Up to where the flushed state goes: what follows is applied again when the node starts.
    pub applied: Option<Place>,
    /// The members as of that state: voters, learners, and a change that is under way.
    pub members: String,
    /// The newest replica of the group that was removed from this node.
    pub removed: Option<ReplicaId>,
}

/// An entry of the log.
#[derive(Clone, Debug)]
pub struct StoredEntry {
    /// Where.
    pub place: Place,
    /// What.
    pub content: Content,
}

/// What an entry says.
#[derive(Clone, Debug)]
pub enum Content {
    /// Nothing: a new leader's first.
    Blank,
    /// These are the members.
    Members(String),
    /// A command of the state machine.
    Command {
        /// As its owner encoded it.
        bytes: Bytes,
        /// How many bytes it takes in the log, if it is compressed there.
        compressed: Option<usize>,
    },
}

/// What the files hold of a replica.
pub fn replica(files: &Inspection, group: GroupId) -> Result<StoredReplica, Fatal> {
    let log = files.log(group).map_err(Fatal::new)?;
    let position = Position::load(files.engine(), group)?;
    let place_of = |bytes: &Option<Bytes>| -> Result<Option<Place>, Fatal> {
        let id = bytes.as_deref().map(decode_log_id).transpose().map_err(Fatal::new)?;
        Ok(id.as_ref().map(place))
    };
    let ballot = log.vote.as_deref().map(decode_ballot).transpose().map_err(Fatal::new)?;
    let (replica, vote, leaving) = match ballot {
        Some((replica, vote, leaving)) => (Some(replica), vote, leaving),
        None => (None, None, false),
    };
    let vote = vote.map(|vote| {
        let leader = vote.leader_id();
        (Term(leader.term), ReplicaId(leader.voted_for), vote.is_committed())
    });
    let last = match log.last {
        Some((_, bytes)) => Some(place(&decode_entry(bytes).map_err(Fatal::new)?.log_id)),
        None => None,
    };
    let removed = files.engine().get(Cf::Group, &keys::removed_key(group)).map_err(Fatal::new)?;
    Ok(StoredReplica {
        replica,
        leaving,
        vote,
        purged: place_of(&log.purged)?,
        last,
        committed: place_of(&log.committed)?,
        applied: position.last.as_ref().map(place),
        members: members(position.membership.membership()),
        removed: removed
            .and_then(|bytes| bytes.as_ref().try_into().ok())
            .map(|id| ReplicaId(u64::from_be_bytes(id))),
    })
}

/// Decodes an entry, and expands its command.
pub fn entry(stored: Bytes) -> Result<StoredEntry, Fatal> {
    let entry = decode_entry(stored).map_err(Fatal::new)?;
    let place = place(&entry.log_id);
    let content = match entry.payload {
        EntryPayload::Blank => Content::Blank,
        EntryPayload::Normal(command) => {
            let expanded = command.expand().map_err(|e| Fatal::new(format!("the entry at {place}: {e}")))?;
            let compressed = command.is_compressed().then(|| command.bytes());
            Content::Command { bytes: expanded.into_owned().into(), compressed }
        }
        EntryPayload::Membership(membership) => Content::Members(members(&membership)),
    };
    Ok(StoredEntry { place, content })
}

fn place(id: &LogId) -> Place {
    Place { term: Term(types::term_of(id)), index: LogIndex(id.index) }
}

fn members(membership: &Membership<u64, Host>) -> String {
    let hosts: Vec<String> =
        membership.nodes().map(|(replica, host)| format!("r{replica}@n{}", host.0)).collect();
    let mut configs = membership.get_joint_config().iter();
    let names = |voters: &std::collections::BTreeSet<u64>| {
        voters.iter().map(|voter| format!("r{voter}")).collect::<Vec<_>>().join(" ")
    };
    let voters = configs.next().map(names).unwrap_or_default();
    let next = configs.next().map(|next| format!(", changing to {}", names(next))).unwrap_or_default();
    format!("{} (voters {voters}{next})", hosts.join(" "))
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}
