//! The last resort, with the node stopped: a replica that has survived becomes the only member of its group.
//!
//! A group that has lost most of its voters *for good* elects nobody any more. Whoever gives them up writes a new membership into the
//! log of one survivor, by hand: it names the survivor alone. When its node starts, that entry counts, as the last membership in
//! any log does, and the survivor elects itself, commits what its log holds, and leads. Placement then makes new replicas.
//!
//! **What may be lost**: whatever the others had acknowledged, and this replica had not got yet. What its log holds beyond what was
//! committed becomes committed: commits whose clients were told that their fate is unknown may turn out to have happened. A replica
//! that was a learner, or far behind, may lack minutes. Over several shards, transactions may be there by halves.
//!
//! **What must not happen**: that two survivors of one group are recovered, or that one of those who were given up comes back. Each would
//! lead a group of its own under the same name.
//!
//! **A replica in quarantine is no survivor like the others**: its rows were found to differ from a majority's, nobody knows
//! where else they do, and made the only member it would be the truth. Any other one is better, also one that is behind: what
//! that lacks is lost, but what it says was so. [`recover`] refuses one in quarantine; where there is no other, somebody has to
//! say so first ([`release`]).
//!
//! **A replica whose snapshot was being installed is none at all.** It holds neither what it had nor what it was to get, and what it had
//! acknowledged may lie in the snapshot alone. [`recover`] refuses it, and nobody can accept it: a start of its node goes on with the
//! install, if the snapshot is whole; then it is a replica like others. The same goes for one whose state or log can't be read
//! ([`Damaged`]): it is named, and the others of its store are judged all the same.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{EntryPayload, Membership};
use storage::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use storage::{Cf, Store};

use crate::api::{Error, Fatal};
use crate::keys;
use crate::log_store::{decode_ballot, durably};
use crate::multi::SPOOL_DIR;
use crate::removal::{self, QUARANTINED};
use crate::snapshot;
use crate::state_machine::Position;
use crate::types::{Entry, Host, LogId, decode_entry, decode_log_id, encode_entry, log_id, term_of};

/// Entries are read in pieces of so many bytes.
const PIECE_BYTES: usize = 4 << 20;
/// Why one is not recovered whose snapshot was being installed.
const UNFINISHED: &str = "a snapshot was being installed into it: it is not whole";

/// What a store has of groups.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Those of which it can be told what they are.
    pub survivors: Vec<Survivor>,
    /// The others.
    pub damaged: Vec<Damaged>,
}

/// A replica in a store that nobody runs, of which nobody can tell what it has: its state or its log can't be read. It is nobody's survivor.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// The group.
    pub group: GroupId,
    /// The replica, if that can be read.
    pub replica: Option<ReplicaId>,
    /// What is wrong.
    pub why: Fatal,
}

/// A replica in a store that nobody runs.
#[derive(Clone, Debug)]
pub struct Survivor {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// The group's voters, by the last membership that the replica has heard of. While it changes: of before and after.
    pub voters: BTreeMap<ReplicaId, NodeId>,
    /// Who must agree: a majority of these voters; while the membership changes, of those of before and also of those of after. Empty if
    /// the replica has heard of no membership.
    pub halves: Vec<BTreeSet<ReplicaId>>,
    /// The last entry of its log: of several survivors that one has most whose entry is of the highest term, and then of the highest
    /// index.
    pub last: (Term, LogIndex),
    /// Its rows differed from those of a majority: see the module.
    pub quarantined: bool,
    /// A snapshot was being installed into it: see the module. (The voters are those of the snapshot then, the last entry is not.)
    pub unfinished: bool,
}

impl Survivor {
    /// Whether the voters on nodes that are `lost` are so many that the others are no majority. While the membership changes, one half
    /// that has lost its majority is enough: nothing is committed, and nobody elected, without both.
    pub fn has_lost_its_majority(&self, lost: &BTreeSet<NodeId>) -> bool {
        let is_left = |voter: &&ReplicaId| self.voters.get(*voter).is_some_and(|node| !lost.contains(node));
        let is_lost = |half: &BTreeSet<ReplicaId>| half.iter().filter(is_left).count() <= half.len() / 2;
        self.halves.is_empty() || self.halves.iter().any(is_lost)
    }
}

/// All replicas in a store, each judged by itself. An error: the store does not say which there are.
pub fn survivors(store: &Store) -> Result<Found, Error> {
    let installs = installs(store).map_err(|e| broken(group_zero(), ReplicaId(0), e))?;
    let groups = store.log().groups().map_err(|e| broken(group_zero(), ReplicaId(0), e))?;
    let mut found = Found::default();
    for &group in &groups {
        let replica = match ballot(store, group) {
            Ok((_, true)) => continue,
            Ok((replica, false)) => replica,
            Err(why) => {
                found.damaged.push(Damaged { group, replica: None, why });
                continue;
            }
        };
        match judge(store, group, replica, installs.get(&group)) {
            Ok(survivor) => found.survivors.extend(survivor),
            Err(why) => found.damaged.push(Damaged { group, replica: Some(replica), why }),
        }
    }
    for group in installs.into_keys().filter(|group| !groups.contains(group)) {
        let why = Fatal::new("a snapshot was being installed into it, and it has no log");
        found.damaged.push(Damaged { group, replica: None, why });
    }
    Ok(found)
}

/// The installs that have not ended, as [`snapshot::unfinished`] tells of them.
fn installs(store: &Store) -> Result<BTreeMap<GroupId, Option<Position>>, Fatal> {
    let dir = store.dir().join(SPOOL_DIR);
    snapshot::unfinished(&store.engine(), &dir, |group| ballot(store, group).ok())
}

/// Which replica of a group is there, and whether it is being removed.
fn ballot(store: &Store, group: GroupId) -> Result<(ReplicaId, bool), Fatal> {
    let ballot = store.log().vote(group)?;
    let ballot = ballot.ok_or_else(|| Fatal::new("its log has lost the replica's id"))?;
    let (replica, _, removed) = decode_ballot(&ballot).map_err(Fatal::new)?;
    Ok((replica, removed))
}

/// What a replica is; `None`: nothing has come to it yet. `install`: a snapshot was being installed into it.
fn judge(
    store: &Store,
    group: GroupId,
    replica: ReplicaId,
    install: Option<&Option<Position>>,
) -> Result<Option<Survivor>, Fatal> {
    let End { last, mut membership, hole } = end_of(store, group)?;
    match install {
        // It may be nothing yet but what the snapshot makes it.
        Some(awaited) => {
            if let Some(awaited) = awaited.as_ref().filter(|awaited| awaited.last >= last) {
                membership = awaited.membership.membership().clone();
            }
        }
        None if last.is_none() => return Ok(None),
        None if hole => return Err(Fatal::new("the log begins after the end of the state")),
        None => {}
    }
    let configs = membership.get_joint_config().iter();
    let halves = configs.map(|half| half.iter().copied().map(ReplicaId).collect()).collect();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let voters = membership.nodes().filter(|(id, _)| voters.contains(id));
    let voters = voters.map(|(id, host)| (ReplicaId(*id), NodeId(host.0))).collect();
    let last = last.map_or((Term(0), LogIndex(0)), |last| (Term(term_of(&last)), LogIndex(last.index)));
    let quarantined = removal::is_quarantined(&store.engine(), group, replica)?;
    let unfinished = install.is_some();
    Ok(Some(Survivor { group, replica, voters, halves, last, quarantined, unfinished }))
}

/// Ends a replica's quarantine, durably. From now on its rows count, whatever is wrong with them.
pub fn release(store: &Store, survivor: &Survivor) -> Result<(), Error> {
    let engine = store.engine();
    let mut batch = engine.batch();
    batch.delete(Cf::Group, &keys::quarantined_key(survivor.group));
    engine.write(batch).and_then(|()| engine.flush()).map_err(|e| broken(survivor.group, survivor.replica, e))
}

/// Makes the replica the only member of its group, durably. One in quarantine is refused: it would not even run; and one that is not
/// whole: what the next start imports would be put over this.
pub async fn recover(store: &Store, survivor: &Survivor) -> Result<(), Error> {
    let (group, replica) = (survivor.group, survivor.replica);
    let failed = |e: Fatal| broken(group, replica, e);
    let quarantined = removal::is_quarantined(&store.engine(), group, replica);
    if quarantined.map_err(|e| failed(e.into()))? {
        return Err(failed(Fatal::new(QUARANTINED)));
    }
    if installs(store).map_err(failed)?.contains_key(&group) {
        return Err(failed(Fatal::new(UNFINISHED)));
    }
    let me = store.identity().ok_or(Error::NoIdentity)?.node_id;
    let last = end_of(store, group).map_err(failed)?.last;
    let last = last.ok_or_else(|| failed(Fatal::new("an empty log")))?;
    let alone = Membership::new(vec![BTreeSet::from([replica.0])], BTreeMap::from([(replica.0, Host(me.0))]));
    let alone = alone.map_err(|e| failed(Fatal::new(e.to_string())))?;
    let index = last.index + 1;
    let entry: Entry =
        openraft::entry::RaftEntry::new(log_id(term_of(&last), index), EntryPayload::Membership(alone));
    let log = store.log();
    let encoded = vec![(LogIndex(index), encode_entry(&entry))];
    durably(|done| log.append(group, encoded, done)).await.map_err(|e| broken(group, replica, e))
}

/// Where a group's state and log end.
struct End {
    /// The last entry.
    last: Option<LogId>,
    /// The last membership in the log, or in the state.
    membership: Membership<u64, Host>,
    /// The log begins after the end of the state: entries are lacking.
    hole: bool,
}

fn end_of(store: &Store, group: GroupId) -> Result<End, Fatal> {
    let log = store.log();
    let position = Position::load(&store.engine(), group)?;
    let mut membership = position.membership.membership().clone();
    let state = log.state(group)?;
    let purged = state.purged.as_deref().map(decode_log_id).transpose().map_err(Fatal::new)?;
    let hole = purged.as_ref().map(|id| id.index) > position.last.as_ref().map(|id| id.index);
    let mut last = purged.max(position.last);
    let mut from = state.first.unwrap_or(LogIndex(0));
    while let Some((end, _)) = &state.last
        && from <= *end
    {
        let piece = log.read(group, from, LogIndex(end.0 + 1), PIECE_BYTES)?;
        let Some((read, _)) = piece.last() else { break };
        from = LogIndex(read.0 + 1);
        for (_, encoded) in piece {
            let entry = decode_entry(encoded).map_err(Fatal::new)?;
            if let EntryPayload::Membership(members) = &entry.payload {
                membership = members.clone();
            }
            last = last.max(Some(entry.log_id));
        }
    }
    Ok(End { last, membership, hole })
}

fn group_zero() -> GroupId {
    GroupId(0)
}

fn broken(
    group: GroupId,
    replica: ReplicaId,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Open { group, replica, source: Fatal::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of voters that each live on the node of their number.
    fn survivor(halves: &[&[u64]]) -> Survivor {
        let halves: Vec<BTreeSet<ReplicaId>> =
            halves.iter().map(|half| half.iter().copied().map(ReplicaId).collect()).collect();
        let voters = halves.iter().flatten().map(|voter| (*voter, NodeId(voter.0))).collect();
        let last = (Term(1), LogIndex(1));
        let (group, replica) = (GroupId(1), ReplicaId(1));
        Survivor { group, replica, voters, halves, last, quarantined: false, unfinished: false }
    }

    fn has_lost(halves: &[&[u64]], lost: &[u64]) -> bool {
        survivor(halves).has_lost_its_majority(&lost.iter().copied().map(NodeId).collect())
    }

    #[test]
    fn half_of_the_voters_are_no_majority() {
        assert!(!has_lost(&[&[1, 2, 3]], &[3]));
        assert!(has_lost(&[&[1, 2, 3]], &[2, 3]));
        assert!(has_lost(&[&[1, 2]], &[2]));
        assert!(!has_lost(&[&[1]], &[2, 3]), "others' loss");
        assert!(has_lost(&[], &[]), "it knows nobody who could elect it");
    }

    #[test]
    fn of_a_membership_that_changes_each_half_needs_its_majority() {
        let growing: &[&[u64]] = &[&[1, 2, 3], &[1, 2, 3, 4, 5]];
        assert!(has_lost(growing, &[1, 2]), "3 of 5 are left, but 1 of the 3 of before");
        assert!(has_lost(growing, &[3, 4, 5]), "2 of 3 are left, but 2 of the 5 of after");
        let moving: &[&[u64]] = &[&[1, 2, 3], &[1, 4, 5]];
        assert!(has_lost(moving, &[4, 5]), "3 of all five are left, but 1 of the 3 of after");
        assert!(has_lost(moving, &[2, 3]));
        // Two of four are a minority of all, and leave each half its majority.
        assert!(!has_lost(&[&[1, 2, 3], &[1, 2, 4]], &[3, 4]));
        assert!(!has_lost(moving, &[3, 5]));
    }
}
