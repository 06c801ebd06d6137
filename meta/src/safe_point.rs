//! Up to where old versions may be collected: a pure piece.
//!
//! The safe point lies `ttl` behind the oracle, and is held back by the oldest snapshot that any living node has open,
//! but never by more than `hold`. It is a promise in one direction only: shards keep what reads at or above it need. Who
//! reads below is told so by the shard (which replicates its own safe point), so nothing depends on reports being
//! complete: a report that is missing costs a transaction its snapshot, never its correctness.
//!
//! It is not replicated. The next leader begins with 0 and says nothing until every node that counts as alive has
//! reported to it.

use std::collections::HashMap;
use std::time::Duration;

use storage::ids::{NodeId, Timestamp};

/// What one leader knows.
#[derive(Debug, Default)]
pub struct SafePoint {
    oldest: HashMap<NodeId, Option<Timestamp>>,
    at: Timestamp,
}

impl SafePoint {
    /// A node's oldest open snapshot.
    pub fn report(&mut self, node: NodeId, oldest: Option<Timestamp>) {
        self.oldest.insert(node, oldest);
    }

    /// The safe point, if it is known. `now`: the last timestamp that was handed out.
    pub fn advance(
        &mut self,
        now: Timestamp,
        alive: impl IntoIterator<Item = NodeId>,
        ttl: Duration,
        hold: Duration,
    ) -> Timestamp {
        let mut held = Timestamp::MAX;
        for node in alive {
            match self.oldest.get(&node) {
                Some(oldest) => held = held.min(oldest.unwrap_or(Timestamp::MAX)),
                None => return self.at,
            }
        }
        let limit = before(now, ttl);
        let wanted = limit.min(held).max(limit.min(before(now, hold)));
        self.at = self.at.max(wanted);
        self.at
    }
}

fn before(now: Timestamp, by: Duration) -> Timestamp {
    let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    Timestamp(now.physical_ms().saturating_sub(ms) << Timestamp::COUNTER_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp((seconds * 1000) << Timestamp::COUNTER_BITS)
    }

    const TTL: Duration = Duration::from_secs(10);
    const HOLD: Duration = Duration::from_secs(100);
    const NODES: [NodeId; 2] = [NodeId(1), NodeId(2)];

    #[test]
    fn it_waits_for_all_who_live_and_follows_the_oldest() {
        let mut point = SafePoint::default();
        assert_eq!(point.advance(at(1000), NODES, TTL, HOLD), Timestamp::ZERO);
        point.report(NodeId(1), None);
        assert_eq!(point.advance(at(1000), NODES, TTL, HOLD), Timestamp::ZERO);
        point.report(NodeId(2), Some(at(950)));
        assert_eq!(point.advance(at(1000), NODES, TTL, HOLD), at(950));
        // Held back no longer than that.
        assert_eq!(point.advance(at(1200), NODES, TTL, HOLD), at(1100));
        point.report(NodeId(2), None);
        assert_eq!(point.advance(at(1200), NODES, TTL, HOLD), at(1190));
        // Never back, whatever is reported later.
        point.report(NodeId(1), Some(at(1000)));
        assert_eq!(point.advance(at(1201), NODES, TTL, HOLD), at(1190));
    }

    #[test]
    fn a_hold_shorter_than_the_ttl_means_the_ttl() {
        let mut point = SafePoint::default();
        point.report(NodeId(1), Some(at(500)));
        let short = Duration::from_secs(5);
        assert_eq!(point.advance(at(1000), [NodeId(1)], TTL, short), at(990));
    }
}
