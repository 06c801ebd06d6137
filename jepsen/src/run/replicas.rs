//! Whether all replicas are equal in the end: the product's own comparison, asked when everything is whole again.

use std::time::Duration;

use serde_json::Value as Json;
use storage::seam::{Clock, SystemClock};

use super::sleep;
use crate::checker::Verdict;
use crate::cluster::Cluster;

/// A node that has just come back catches up first; one that never will is not waited for long.
const PATIENCE: Duration = Duration::from_secs(25);
const PAUSE: Duration = Duration::from_millis(1_500);
/// How long the comparison of all replicas may take.
const CHECK_LIMIT: Duration = Duration::from_secs(180);

/// Compares all replicas of all groups, the meta-group's too.
pub(super) async fn compare(cluster: &Cluster) -> Verdict {
    let mut verdict = Verdict::new("replicas");
    let mut last = String::new();
    let began = SystemClock.now();
    while last.is_empty() || SystemClock.now().saturating_duration_since(began) < PATIENCE {
        if !last.is_empty() {
            sleep(PAUSE).await;
        }
        let said = match cluster.check(CHECK_LIMIT).await {
            Ok(check) => check.said,
            Err(error) => {
                last = format!("{error:#}");
                continue;
            }
        };
        let seen = look(&said["groups"]);
        for hole in said["map"].as_array().into_iter().flatten() {
            verdict.anomaly("map-inconsistent", hole.to_string(), Vec::new());
        }
        for differing in seen.differing {
            verdict.anomaly("replicas-differ", differing, Vec::new());
        }
        if seen.groups == 0 {
            last = "admin check has looked at nothing".to_owned();
            continue;
        }
        if verdict.anomalies.is_empty() && !seen.unknown.is_empty() {
            last = seen.unknown.join("; ");
            continue;
        }
        verdict.note(format!(
            "{} groups, {} replicas, {} rows each at most",
            seen.groups, seen.replicas, seen.rows
        ));
        return verdict;
    }
    verdict.unknown(format!("not all replicas could be looked at: {last}"));
    verdict
}

#[derive(Debug, Default, PartialEq)]
struct Seen {
    groups: usize,
    replicas: usize,
    rows: u64,
    differing: Vec<String>,
    unknown: Vec<String>,
}

/// Reads what `flotilla admin check --json` says of groups.
fn look(groups: &Json) -> Seen {
    let mut seen = Seen::default();
    for group in groups.as_array().into_iter().flatten() {
        seen.groups += 1;
        let replicas: Vec<&Json> = group["replicas"].as_array().into_iter().flatten().collect();
        if replicas.is_empty() {
            seen.unknown.push(format!("group {}: {}", group["group"], group["trouble"]));
        }
        for replica in replicas {
            seen.replicas += 1;
            let families = replica["families"].as_array().into_iter().flatten();
            seen.rows = seen.rows.max(families.filter_map(|family| family["rows"].as_u64()).sum());
            let text = format!("group {} at index {}: {replica}", group["group"], group["index"]);
            match replica["state"].as_str() {
                Some("equal") => {}
                Some("differs") => seen.differing.push(text),
                _ => seen.unknown.push(text),
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_differing_and_unknown_replicas_are_told_apart() {
        let replica = |state: &str| json!({ "state": state, "families": [{ "rows": 4 }, { "rows": 3 }] });
        let group = |states: &[&str]| {
            let replicas: Vec<Json> = states.iter().map(|state| replica(state)).collect();
            json!({ "group": 3, "index": 17, "trouble": "no leader", "replicas": replicas })
        };
        let seen =
            look(&json!([group(&["equal", "equal"]), group(&["equal", "differs", "unknown"]), group(&[])]));
        assert_eq!((seen.groups, seen.replicas, seen.rows), (3, 5, 7));
        assert_eq!((seen.differing.len(), seen.unknown.len()), (1, 2));
        assert!(seen.differing[0].contains("group 3 at index 17"), "{seen:?}");
    }
}
