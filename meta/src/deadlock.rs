//! Deadlocks: who waits for whom in all shards together, and who has to give way.
//!
//! Each node reports the waits in the shards that it leads, if they have lasted longer than a report counts
//! ([`COUNTS_FOR`]). So all waits that are looked at together existed at the same moment, and a circle of them is a deadlock:
//! none of those in it can go on by itself. (Waits that end by a lock timeout meanwhile are the exception; then a victim may
//! have been chosen in vain, which costs it a retry.)
//!
//! Of a circle the youngest transaction is ended; it has done the least. All of this is soft state of the meta-group's
//! leader: after a change of leader, the next reports tell everything again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use storage::ids::{NodeId, TxnId};
use txn::Edge;

/// How long a node's report counts. Waits younger than this must not be reported.
pub const COUNTS_FOR: Duration = Duration::from_millis(250);

/// What the nodes have reported.
#[derive(Debug, Default)]
pub struct Waits {
    reports: HashMap<NodeId, (Instant, Vec<Edge>)>,
}

impl Waits {
    /// Takes in what `node` says; returns the victims among those who wait there.
    pub fn report(&mut self, node: NodeId, waits: Vec<Edge>, now: Instant) -> Vec<TxnId> {
        self.reports.retain(|_, (at, _)| now.saturating_duration_since(*at) <= COUNTS_FOR);
        if waits.is_empty() {
            self.reports.remove(&node);
            return Vec::new();
        }
        self.reports.insert(node, (now, waits));
        let edges = || self.reports.values().flat_map(|(_, edges)| edges);
        let graph: DiGraphMap<u128, ()> = edges().map(|edge| (edge.waiter.0, edge.holder.0)).collect();
        let started: HashMap<u128, _> = edges().map(|edge| (edge.waiter.0, edge.started)).collect();
        let circles = tarjan_scc(&graph).into_iter().filter(|component| component.len() > 1);
        let youngest = circles.filter_map(|circle| {
            circle.into_iter().max_by_key(|txn| (started.get(txn).copied().unwrap_or_default(), *txn))
        });
        let here = |txn: &u128| {
            self.reports.get(&node).is_some_and(|(_, edges)| edges.iter().any(|edge| edge.waiter.0 == *txn))
        };
        youngest.filter(here).map(TxnId).collect()
    }
}

#[cfg(test)]
mod tests {
    use storage::ids::Timestamp;
    use storage::seam::Seams;

    use super::*;

    fn edges(waits: &[(u128, u128)]) -> Vec<Edge> {
        let edge = |(waiter, holder): &(u128, u128)| Edge {
            waiter: TxnId(*waiter),
            started: Timestamp(*waiter as u64),
            holder: TxnId(*holder),
        };
        waits.iter().map(edge).collect()
    }

    #[test]
    fn the_youngest_of_a_circle_over_nodes_gives_way_where_it_waits() {
        let (mut waits, now) = (Waits::default(), Seams::real().clock.now());
        let (a, b, c) = (NodeId(1), NodeId(2), NodeId(3));
        assert!(waits.report(a, edges(&[(1, 2), (7, 1)]), now).is_empty());
        assert!(waits.report(b, edges(&[(2, 3)]), now).is_empty());
        assert!(waits.report(a, edges(&[(1, 2), (7, 1)]), now).is_empty(), "a chain is no circle");
        assert_eq!(waits.report(c, edges(&[(3, 1)]), now), vec![TxnId(3)]);
        assert!(waits.report(b, edges(&[(2, 3)]), now).is_empty(), "the victim waits elsewhere");
        assert!(waits.report(c, Vec::new(), now).is_empty());
        assert!(waits.report(b, edges(&[(2, 3)]), now).is_empty(), "broken");
    }

    #[test]
    fn what_was_said_long_ago_does_not_count() {
        let (mut waits, now) = (Waits::default(), Seams::real().clock.now());
        assert!(waits.report(NodeId(1), edges(&[(1, 2)]), now).is_empty());
        let later = now + COUNTS_FOR + Duration::from_millis(1);
        assert!(waits.report(NodeId(2), edges(&[(2, 1)]), later).is_empty());
        assert_eq!(waits.report(NodeId(1), edges(&[(1, 2)]), later), Vec::new());
        assert_eq!(waits.report(NodeId(2), edges(&[(2, 1)]), later), vec![TxnId(2)]);
    }

    #[test]
    fn two_circles_have_two_victims() {
        let (mut waits, now) = (Waits::default(), Seams::real().clock.now());
        let mut victims = waits.report(NodeId(1), edges(&[(1, 2), (2, 1), (5, 6), (6, 5), (9, 5)]), now);
        victims.sort();
        assert_eq!(victims, vec![TxnId(2), TxnId(6)]);
    }
}
