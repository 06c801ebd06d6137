//! Who differs: a pure function of the digests.

use std::collections::HashMap;

use proto::consistency::replica_digest::State;
use proto::consistency::{FamilyDigest, ReplicaDigest};

/// What a replica is told to differ in where as many others hold something else.
const NOBODY: &str = "no majority holds the same";

/// Sets each state. As most are is equal; where nobody is in the majority, all differ. A replica without digests keeps the state that
/// it has, if it has one.
pub fn judge(replicas: &mut [ReplicaDigest]) {
    let mut votes: HashMap<Vec<FamilyDigest>, usize> = HashMap::new();
    for replica in replicas.iter().filter(|replica| !replica.families.is_empty()) {
        *votes.entry(replica.families.clone()).or_default() += 1;
    }
    let most = votes.values().copied().max().unwrap_or(0);
    let mut leading = votes.iter().filter(|(_, count)| **count == most).map(|(families, _)| families);
    let right = leading.next().cloned();
    let tie = leading.next().is_some();
    for replica in replicas {
        let state = match &right {
            _ if replica.families.is_empty() => match replica.state() {
                State::Unspecified => State::Unknown,
                told => told,
            },
            Some(right) if !tie && replica.families == *right => State::Equal,
            _ => State::Differs,
        };
        replica.state = state as i32;
        let (State::Differs, Some(right)) = (state, &right) else { continue };
        if !replica.families.is_empty() {
            replica.detail = if tie { NOBODY.to_owned() } else { differences(&replica.families, right) };
        }
    }
}

/// The replicas that are to go, after [`judge`]: those that differ or have failed, if a majority of all voters is equal.
pub fn outcasts(replicas: &[ReplicaDigest]) -> Vec<u64> {
    let voters = replicas.iter().filter(|replica| !replica.learner);
    let equal = voters.clone().filter(|replica| replica.state() == State::Equal).count();
    if 2 * equal <= voters.count() {
        return Vec::new();
    }
    replicas.iter().filter(|replica| is_bad(replica)).map(|replica| replica.replica).collect()
}

/// It is known not to be as it should.
pub fn is_bad(replica: &ReplicaDigest) -> bool {
    matches!(replica.state(), State::Differs | State::Quarantined | State::Failed)
}

fn differences(these: &[FamilyDigest], right: &[FamilyDigest]) -> String {
    let pairs = these.iter().zip(right).filter(|(this, other)| this != other);
    let told = pairs.map(|(this, other)| {
        let rows = this.rows as i64 - other.rows as i64;
        match rows {
            0 => format!("{}: other rows", this.name),
            _ => format!("{}: {rows:+} rows", this.name),
        }
    });
    told.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(rows: u64, hash: u8) -> ReplicaDigest {
        let hash = vec![hash; 32].into();
        let families = vec![FamilyDigest { name: "data".into(), rows, bytes: 10 * rows, hash }];
        ReplicaDigest { families, ..Default::default() }
    }

    fn judged(mut replicas: Vec<ReplicaDigest>) -> Vec<(State, String)> {
        judge(&mut replicas);
        replicas.into_iter().map(|r| (r.state(), r.detail)).collect()
    }

    #[test]
    fn the_majority_is_right_and_a_tie_leaves_nobody_right() {
        use State::{Differs, Equal, Unknown};
        let none = ReplicaDigest::default();
        assert_eq!(
            judged(vec![replica(5, 1), replica(5, 1), none.clone()]),
            [(Equal, String::new()), (Equal, String::new()), (Unknown, String::new())]
        );
        assert_eq!(
            judged(vec![replica(5, 1), replica(4, 2), replica(5, 1)]),
            [(Equal, String::new()), (Differs, "data: -1 rows".into()), (Equal, String::new())]
        );
        assert_eq!(
            judged(vec![replica(5, 1), replica(5, 2), replica(5, 2)])[0],
            (Differs, "data: other rows".into())
        );
        assert_eq!(
            judged(vec![replica(5, 1), replica(4, 2)]),
            [(Differs, NOBODY.into()), (Differs, NOBODY.into())]
        );
        assert_eq!(judged(vec![none]), [(Unknown, String::new())]);
    }

    #[test]
    fn only_who_differs_from_a_majority_of_all_voters_goes() {
        let cast_out = |mut replicas: Vec<ReplicaDigest>| {
            replicas.iter_mut().zip(1..).for_each(|(replica, id)| replica.replica = id);
            judge(&mut replicas);
            outcasts(&replicas)
        };
        let none = ReplicaDigest::default();
        let unreadable = ReplicaDigest { state: State::Differs as i32, ..none.clone() };
        let quarantined = ReplicaDigest { state: State::Quarantined as i32, ..none.clone() };
        let failed = ReplicaDigest { state: State::Failed as i32, ..none.clone() };
        let learner = |hash| ReplicaDigest { learner: true, ..replica(5, hash) };
        assert_eq!(cast_out(vec![replica(5, 1), replica(5, 2), replica(5, 1)]), [2]);
        assert_eq!(cast_out(vec![replica(5, 1), unreadable, replica(5, 1)]), [2]);
        assert_eq!(cast_out(vec![quarantined, replica(5, 1), replica(5, 1)]), [1]);
        assert_eq!(cast_out(vec![replica(5, 1), replica(5, 1), failed.clone()]), [3]);
        // A majority has failed: what there is left of the group must not be made less.
        assert_eq!(cast_out(vec![replica(5, 1), failed.clone(), failed.clone()]), []);
        // … or has perhaps, for nobody knows of one.
        assert_eq!(cast_out(vec![replica(5, 1), failed, none.clone()]), []);
        assert_eq!(cast_out(vec![replica(5, 1), replica(5, 1), replica(5, 1), learner(2)]), [4]);
        // Two of five are as they are, and nobody knows of the others.
        assert_eq!(cast_out(vec![replica(5, 1), replica(5, 1), replica(5, 2), none.clone(), none]), []);
        // Learners have no voice.
        assert_eq!(cast_out(vec![replica(5, 1), learner(1), learner(1), replica(5, 2)]), []);
        assert_eq!(cast_out(vec![replica(5, 1), replica(5, 2)]), []);
    }
}
