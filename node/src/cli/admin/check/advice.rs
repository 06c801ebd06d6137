//! What an operator can do about what `flotilla admin check` has found.

use proto::consistency as pb;
use proto::consistency::finding::Kind;
use proto::consistency::replica_digest::State;

use super::map::Map;

const REPLACED: &str = "A replica that differs from the majority is replaced by the cluster itself when its shard has its turn, once per \
    consistency_check_interval. To have that soon: flotilla admin settings set consistency_check_interval 1min";
const NOBODY: &str = "Where no majority of a shard's replicas is equal, nobody knows which of them is right. Copy the stores of its nodes \
    before anything else; flotilla debug group STORE SHARD shows what a stopped node holds";
const QUARANTINED: &str = "A replica in quarantine serves nobody and is being replaced: flotilla admin status tells when that is done";
const FAILED: &str = "A replica that has failed says of what, here and in its node's log. The cluster replaces it by itself as long as a majority \
    of its shard's voters is equal: flotilla admin status tells when that is done";
const UNKNOWN: &str = "What could not be looked at: see that the nodes are up and have caught up (flotilla admin status --wait 60), and \
    check again";
const MAP: &str = "The word of a shard's own replicas counts, and the map takes it over when they change: move one to another node \
    (flotilla admin move), or split the shard (flotilla admin split). Until then some keys may be out of reach";
const ROW: &str = "Of rows that can't be read, or lie under another key: SELECT … AS OF SYSTEM TIME may show what they were before (up to \
    gc_ttl ago). Copy the others into a new table, by ranges of the key, and drop this one";
const CONSTRAINT: &str =
    "Rows that break NOT NULL or a CHECK: UPDATE or DELETE them; the table above has their keys";
const DUPLICATE: &str =
    "Rows with the same key: drop the constraint, UPDATE or DELETE all of them but one, then add it again";
const INDEX: &str = "An index, or the links of a foreign key, that are not as the rows: ALTER TABLE … DROP CONSTRAINT, and ADD CONSTRAINT; \
    that makes them anew from the rows. (An index made by CREATE UNIQUE INDEX: DROP INDEX, and CREATE UNIQUE INDEX.)";
const REFERENCE: &str =
    "Rows that refer to what is not there: INSERT what they refer to, or UPDATE or DELETE them";
const CATALOG: &str = "A catalog that contradicts itself: make no changes of the schema, copy the stores of all nodes, and copy what can be \
    read into a new cluster (COPY … TO STDOUT)";

/// For all that was found, each advice once.
pub fn of(groups: &[pb::GroupComparison], map: &Map, tables: &[pb::TableReport]) -> Vec<&'static str> {
    let is_any = |state: State| groups.iter().any(|group| has(group, state));
    let differing = || groups.iter().filter(|group| has(group, State::Differs));
    let found =
        |kind: Kind| tables.iter().any(|table| table.findings.iter().any(|finding| finding.kind() == kind));
    let unknown = is_any(State::Unknown)
        || groups.iter().any(|group| group.replicas.is_empty())
        || !map.unknown.is_empty()
        || tables.iter().any(|table| !table.trouble.is_empty());
    let all = [
        (differing().any(has_majority), REPLACED),
        (differing().any(|group| !has_majority(group)), NOBODY),
        (is_any(State::Quarantined), QUARANTINED),
        (is_any(State::Failed), FAILED),
        (!map.wrong.is_empty(), MAP),
        (found(Kind::Row), ROW),
        (found(Kind::Constraint), CONSTRAINT),
        (found(Kind::Duplicate), DUPLICATE),
        (found(Kind::Index), INDEX),
        (found(Kind::Reference), REFERENCE),
        (found(Kind::Catalog), CATALOG),
        (unknown, UNKNOWN),
    ];
    all.into_iter().filter(|(is_due, _)| *is_due).map(|(_, advice)| advice).collect()
}

fn has(group: &pb::GroupComparison, state: State) -> bool {
    group.replicas.iter().any(|replica| replica.state() == state)
}

/// Of all voters: as those count who replace a replica.
fn has_majority(group: &pb::GroupComparison) -> bool {
    let voters = group.replicas.iter().filter(|replica| !replica.learner);
    let equal = voters.clone().filter(|replica| replica.state() == State::Equal).count();
    2 * equal > voters.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::admin::names::META_GROUP;

    fn group(group: u64, states: &[State]) -> pb::GroupComparison {
        let replica = |state: &State| pb::ReplicaDigest { state: *state as i32, ..Default::default() };
        let replicas = states.iter().map(replica).collect();
        pb::GroupComparison { group, replicas, ..Default::default() }
    }

    #[test]
    fn what_is_in_order_needs_no_advice() {
        let table = pb::TableReport { table: "t".into(), ..Default::default() };
        assert!(of(&[group(3, &[State::Equal; 3])], &Map::default(), &[table]).is_empty());
    }

    #[test]
    fn a_replica_that_differs_is_replaced_if_a_majority_of_all_voters_is_equal() {
        use State::{Differs, Equal, Failed, Quarantined, Unknown};
        let advice = |id, states: &[State]| of(&[group(id, states)], &Map::default(), &[]);
        assert_eq!(advice(3, &[Equal, Equal, Differs]), [REPLACED]);
        assert_eq!(advice(META_GROUP, &[Equal, Equal, Differs]), [REPLACED]);
        assert_eq!(advice(3, &[Differs; 3]), [NOBODY]);
        assert_eq!(advice(3, &[Equal, Differs, Unknown]), [NOBODY, UNKNOWN]);
        assert_eq!(advice(3, &[Equal, Equal, Quarantined]), [QUARANTINED]);
        assert_eq!(advice(3, &[Equal, Equal, Failed]), [FAILED]);
        assert_eq!(advice(3, &[]), [UNKNOWN]);
    }

    #[test]
    fn each_kind_of_finding_has_its_advice_once() {
        let finding = |kind: Kind| pb::Finding { kind: kind as i32, ..Default::default() };
        let table = |kinds: &[Kind]| pb::TableReport {
            findings: kinds.iter().copied().map(finding).collect(),
            ..Default::default()
        };
        let tables = [
            table(&[Kind::Index, Kind::Row, Kind::Index]),
            table(&[Kind::Reference, Kind::Index]),
            table(&[Kind::Catalog, Kind::Duplicate, Kind::Constraint]),
            pb::TableReport { trouble: "no leader".into(), ..Default::default() },
        ];
        let map = Map { wrong: vec!["a hole".into()], unknown: Vec::new() };
        let advice = of(&[], &map, &tables);
        assert_eq!(advice, [MAP, ROW, CONSTRAINT, DUPLICATE, INDEX, REFERENCE, CATALOG, UNKNOWN]);
    }
}
