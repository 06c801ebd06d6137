//! How far a node is that has come back, as the leaders of its groups and its own metrics say.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value as Json;

use super::TELL_EVERY;
use super::bulk::megabytes;
use crate::cluster::Cluster;
use crate::history::Clock;
use crate::observe::Metrics;
use crate::run::sleep;

/// Entries that a replica may lack, or have yet to apply: the load goes on, and leaders report once a second.
const LAG_MAX: u64 = 32;
/// How often in succession nothing is owed: what is told of groups is up to a second old.
const LOOKS: u32 = 4;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Snapshots come fast, and are to be met half-way.
const RECEIVED_EVERY: Duration = Duration::from_millis(50);

/// What a node lacks.
#[derive(Clone, Debug, Default, PartialEq)]
struct Owed {
    /// All groups.
    groups: usize,
    /// Those whose leader is not known, or doesn't hear of a voter on the node that has (almost) everything.
    behind: usize,
    /// Entries that these lack, as far as they are known.
    entries: u64,
}

impl Owed {
    fn is_nothing(&self) -> bool {
        self.groups > 0 && self.behind == 0
    }
}

/// Reads what `flotilla admin shards --json` says of a node, by its id.
fn owed(shards: &Json, node: u64) -> Owed {
    let mut owed = Owed::default();
    for group in shards.as_array().into_iter().flatten() {
        owed.groups += 1;
        let mut replicas = group["replicas"].as_array().into_iter().flatten();
        let replica =
            replicas.find(|replica| replica["node"] == node && replica["voter"] == Json::Bool(true));
        let lag = replica.and_then(|replica| replica["lag"].as_u64());
        let heard = replica.is_some_and(|replica| replica["reachable"] == Json::Bool(true));
        if group["leader"].is_u64() && heard && lag.is_some_and(|lag| lag <= LAG_MAX) {
            continue;
        }
        owed.behind += 1;
        // The greatest of all numbers says that nobody knows.
        owed.entries += lag.filter(|lag| *lag < u64::MAX).unwrap_or_default();
    }
    owed
}

/// Waits until nothing is owed to a node (its number, and its id), and says since when on the clock: none if it has not come to that
/// until `deadline`.
pub(super) async fn caught_up(
    cluster: &Cluster,
    (node, id): (usize, u64),
    clock: Clock,
    deadline: Duration,
    tell: &dyn Fn(&str),
) -> Result<Option<Duration>> {
    let (mut since, mut looks, mut told) = (None, 0, clock.elapsed());
    loop {
        let now = clock.elapsed();
        if now > deadline {
            return Ok(None);
        }
        let said = look(cluster, node, id).await;
        if matches!(said, Ok((true, _))) {
            looks += 1;
            let since = *since.get_or_insert(now);
            if looks == LOOKS {
                return Ok(Some(since));
            }
        } else {
            (since, looks) = (None, 0);
        }
        if now >= told + TELL_EVERY {
            told = now;
            // A node that starts, or has been killed a moment ago, answers nothing.
            tell(&said.map_or_else(|error| format!("{error:#}"), |(_, said)| said));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Whether nothing is owed to a node, and how far it is.
async fn look(cluster: &Cluster, node: usize, id: u64) -> Result<(bool, String)> {
    let owed = owed(&cluster.operate(&["shards"]).await?, id);
    let metrics = Metrics::of(cluster, node).await?;
    let unapplied = metrics.value("flotilla_raft_apply_lag_entries", "").unwrap_or(f64::INFINITY);
    let received = metrics.value("flotilla_raft_snapshot_bytes_total", "direction=\"received\"");
    let said = format!(
        "{} of {} groups owe it something; {} entries that are known of; {:.0} MB of snapshots received",
        owed.behind,
        owed.groups,
        owed.entries,
        megabytes(received.unwrap_or_default() as u64)
    );
    Ok((owed.is_nothing() && unapplied <= LAG_MAX as f64, said))
}

/// Waits until a node has received so many bytes of snapshots since its process began.
pub(super) async fn received(cluster: &Cluster, node: usize, bytes: u64) {
    loop {
        // Before it listens, it says nothing.
        let metrics = Metrics::of(cluster, node).await.ok();
        let received =
            metrics.and_then(|m| m.value("flotilla_raft_snapshot_bytes_total", "direction=\"received\""));
        if received.unwrap_or_default() >= bytes as f64 {
            return;
        }
        sleep(RECEIVED_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn group(leader: Json, replica: Json) -> Json {
        json!({ "group": 7, "leader": leader, "replicas": [
            { "replica": 1, "node": 1, "voter": true, "lag": 0, "reachable": true },
            replica,
        ] })
    }

    fn replica(node: u64, voter: bool, lag: u64, reachable: bool) -> Json {
        json!({ "replica": 3, "node": node, "voter": voter, "lag": lag, "reachable": reachable })
    }

    #[test]
    fn a_voter_that_is_heard_and_has_almost_everything_is_owed_nothing() {
        let well = owed(&json!([group(json!(1), replica(3, true, LAG_MAX, true))]), 3);
        assert_eq!(well, Owed { groups: 1, behind: 0, entries: 0 });
        assert!(well.is_nothing());
    }

    #[test]
    fn whoever_lacks_entries_or_is_not_heard_or_does_not_vote_is_owed_something() {
        let groups = [
            group(json!(1), replica(3, true, LAG_MAX + 1, true)),
            group(json!(1), replica(3, true, u64::MAX, true)),
            group(json!(1), replica(3, true, 0, false)),
            group(json!(1), replica(3, false, 0, true)),
            group(json!(1), replica(2, true, 0, true)),
            group(Json::Null, replica(3, true, 0, true)),
        ];
        for group in &groups {
            assert_eq!(owed(&json!([group]), 3).behind, 1, "{group}");
        }
        let all = owed(&json!(groups), 3);
        assert_eq!(all, Owed { groups: 6, behind: 6, entries: LAG_MAX + 1 });
        assert!(!owed(&json!([]), 3).is_nothing(), "nobody has said anything");
    }
}
