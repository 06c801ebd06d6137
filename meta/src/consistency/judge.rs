//! Who differs: a pure function of the digests.

use std::collections::HashMap;

use proto::consistency::replica_digest::State;
use proto::consistency::{FamilyDigest, ReplicaDigest};

/// Sets each state. As most are is equal; where nobody is in the majority, all differ.
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
            _ if replica.families.is_empty() => State::Unknown,
            Some(right) if !tie && replica.families == *right => State::Equal,
            _ => State::Differs,
        };
        replica.state = state as i32;
        if let (State::Differs, false, Some(right)) = (state, tie, &right) {
            replica.detail = differences(&replica.families, right);
        }
    }
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
            [(Differs, String::new()), (Differs, String::new())]
        );
        assert_eq!(judged(vec![none]), [(Unknown, String::new())]);
    }
}
