//! What becomes of a seed's nodes and shards beside faults: nodes join, are drained, leave, or are away for longer than they are
//! awaited; shards are split and merged by themselves.
//!
//! It is drawn from a generator of its own, so that a seed without any of it is what it would be if there were none.
//!
//! # What a plan must not ask for
//!
//! A node that leaves is stopped, or stays empty for good, and nobody says that it shall be kept: so there must always be enough
//! others. At most as many nodes leave as there are more than replicas; or one, where one may join before. They are founders,
//! each of them once: a newcomer that has yet to learn that it is a member could be sent away, and would then be refused.

use rand::Rng;
use rand::rngs::StdRng;

use super::host::Lens;
use super::plan::{ABSENCE_MIN_NS, Deed, Fault, MS, SECOND, Who, Wish, deed};
use super::world::{Place, Purpose, generator};

/// What each shard is said to take where shards are split by themselves: more than the least that [`SMALL`] can say.
const SHARD_BYTES: u64 = 70_000;
/// The name of the setting, and its value, by which such a shard is too large.
pub(super) const SMALL: (&str, &str) = ("shard_max_bytes", "64kB");
/// By which shards are not merged by themselves, and are.
pub(super) const APART: (&str, &str) = ("shard_merge", "off");
pub(super) const TOGETHER: (&str, &str) = ("shard_merge", "on");
/// A node that is away for longer is replaced: the least that can be said.
const REPLACE_AFTER: (&str, &str) = ("node_down_replace_after", "5s");

/// What the cluster is like otherwise.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// How many nodes found it.
    pub nodes: usize,
    /// How many voters each group has.
    pub replicas: usize,
    /// Clocks' rates differ from the true one by no more parts per million.
    pub drift_max: i64,
    /// How long clients work.
    pub work_ns: u64,
}

/// What is drawn.
#[derive(Default)]
pub(super) struct Changes {
    /// The clocks of nodes that may join.
    pub lenses: Vec<Lens>,
    /// See [`super::plan::Plan`].
    pub settings: Vec<(&'static str, &'static str)>,
    pub shard_bytes: u64,
    pub presplit: bool,
    /// What operators want, and what breaks on account of it.
    pub faults: Vec<Fault>,
}

impl Changes {
    /// Of a seed.
    pub fn draw(seed: u64, shape: Shape) -> Self {
        let rng = &mut generator(seed, Purpose::Changes);
        let mut changes = Self::default();
        let newcomers: usize = match rng.random_range(0..12) {
            0 => 2,
            1..5 => 1,
            _ => 0,
        };
        for n in 0..newcomers {
            changes.admit(rng, shape, shape.nodes + n);
        }
        if rng.random_ratio(1, 3) {
            let place = rng.random_range(0..shape.nodes + newcomers);
            let (at_ns, for_ns) =
                (rng.random_range(0..shape.work_ns), rng.random_range(500 * MS..2_500 * MS));
            changes.want(rng, shape, (Wish::Drain, place), at_ns, for_ns);
        }
        changes.send_away(rng, shape, newcomers);
        if shape.nodes + newcomers > shape.replicas && rng.random_ratio(1, 6) {
            changes.be_away(rng, shape);
        }
        changes.reshape(rng, shape);
        changes
    }

    fn want(
        &mut self,
        rng: &mut StdRng,
        shape: Shape,
        (wish, place): (Wish, Place),
        at_ns: u64,
        for_ns: u64,
    ) {
        let deed = Deed::Operate { wish, asked: rng.random_range(0..shape.nodes), dice: place as u64 };
        self.faults.push(Fault { at_ns, for_ns, deed });
    }

    /// A node joins; often it is in trouble meanwhile, or soon is, and gets a replica.
    fn admit(&mut self, rng: &mut StdRng, shape: Shape, place: Place) {
        let drift_ppm = rng.random_range(-shape.drift_max..=shape.drift_max);
        let wall_ahead_ms = rng.random_range(-2_000..=2_000);
        self.lenses.push(Lens { drift_ppm, wall_ahead_ms, ..Lens::default() });
        let joins_ns = rng.random_range(0..shape.work_ns * 2 / 3);
        self.want(rng, shape, (Wish::Join, place), joins_ns, 0);
        if rng.random_bool(0.5) {
            let (at_ns, for_ns) =
                (joins_ns + rng.random_range(0..SECOND), rng.random_range(200 * MS..2 * SECOND));
            let deed = deed(rng, Who::Node(place), shape.nodes);
            self.faults.push(Fault { at_ns, for_ns, deed });
        }
        if rng.random_bool(0.5) {
            let at_ns = joins_ns + rng.random_range(300 * MS..2 * SECOND);
            let (asked, dice) = (rng.random_range(0..shape.nodes), rng.random());
            self.faults.push(Fault {
                at_ns,
                for_ns: 0,
                deed: Deed::Operate { wish: Wish::Move, asked, dice },
            });
        }
    }

    /// Nodes leave; some are kept when they have begun to.
    fn send_away(&mut self, rng: &mut StdRng, shape: Shape, newcomers: usize) {
        let mut founders: Vec<Place> = (0..shape.nodes).collect();
        let spare = shape.nodes - shape.replicas;
        for _ in 0..rng.random_range(0..=spare.max(newcomers.min(1))) {
            let place = founders.swap_remove(rng.random_range(0..founders.len()));
            // Where none can be spared, a newcomer has to come before.
            let earliest_ns = if spare > 0 { 0 } else { shape.work_ns / 3 };
            let at_ns = rng.random_range(earliest_ns..shape.work_ns);
            let wish = if rng.random_bool(0.5) { Wish::Retire } else { Wish::Decommission };
            let kept = wish == Wish::Decommission && rng.random_ratio(1, 4);
            let for_ns = if kept { rng.random_range(100 * MS..1_500 * MS) } else { 0 };
            self.want(rng, shape, (wish, place), at_ns, for_ns);
        }
    }

    /// A node dies, and stays away until what it had has been rebuilt elsewhere, if all goes well.
    fn be_away(&mut self, rng: &mut StdRng, shape: Shape) {
        let place = rng.random_range(0..shape.nodes);
        let (wish, for_ns) = match rng.random_bool(0.5) {
            true => (Wish::Repair, rng.random_range(5 * SECOND..7 * SECOND)),
            false => (Wish::Rebuild, rng.random_range(8 * SECOND..10 * SECOND)),
        };
        if wish == Wish::Rebuild {
            self.settings.push(REPLACE_AFTER);
        }
        debug_assert!(for_ns >= ABSENCE_MIN_NS, "clients would not work until it is back");
        let at_ns = rng.random_range(0..shape.work_ns / 4);
        let deed = Deed::Crash { who: Who::Node(place), count: 1, power: rng.random_bool(0.7) };
        self.faults.push(Fault { at_ns, for_ns, deed });
        self.want(rng, shape, (wish, place), at_ns + 100 * MS, 0);
    }

    /// Shards are split by themselves while clients work; or they were before, and are merged by themselves while clients work.
    fn reshape(&mut self, rng: &mut StdRng, shape: Shape) {
        let (wish, latest_ns) = match rng.random_range(0..12) {
            0 => (Wish::Small, shape.work_ns / 2),
            1 => (Wish::Large, shape.work_ns / 3),
            _ => return,
        };
        self.shard_bytes = SHARD_BYTES;
        self.presplit = wish == Wish::Large;
        let at_ns = rng.random_range(0..latest_ns);
        self.want(rng, shape, (wish, 0), at_ns, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn wishes(changes: &Changes) -> impl Iterator<Item = (&Fault, Wish, Place)> {
        changes.faults.iter().filter_map(|fault| match fault.deed {
            Deed::Operate { wish, dice, .. } => Some((fault, wish, dice as Place)),
            _ => None,
        })
    }

    /// Of many seeds.
    fn all(nodes: usize, replicas: usize) -> impl Iterator<Item = Changes> {
        let shape = Shape { nodes, replicas, drift_max: 0, work_ns: 4 * SECOND };
        (0..1_000).map(move |seed| Changes::draw(seed, shape))
    }

    #[test]
    fn there_are_always_enough_nodes_left() {
        for (nodes, replicas) in [(3, 3), (4, 3), (5, 3), (5, 5)] {
            let mut most = 0;
            for changes in all(nodes, replicas) {
                let leave = |wish: Wish| matches!(wish, Wish::Decommission | Wish::Retire);
                let left: Vec<Place> =
                    wishes(&changes).filter(|(_, wish, _)| leave(*wish)).map(|(.., place)| place).collect();
                let newcomers = changes.lenses.len();
                assert!(left.iter().all(|place| *place < nodes), "a newcomer is sent away");
                assert_eq!(left.iter().collect::<BTreeSet<_>>().len(), left.len(), "one leaves twice");
                assert!(left.len() <= (nodes - replicas).max(newcomers.min(1)), "{left:?}");
                most = most.max(left.len());
            }
            assert_eq!(most, (nodes - replicas).max(1));
        }
    }

    #[test]
    fn each_newcomer_joins_once() {
        for changes in all(4, 3) {
            let joins = wishes(&changes).filter(|(_, wish, _)| *wish == Wish::Join);
            let places: Vec<Place> = joins.map(|(.., place)| place).collect();
            assert_eq!(places, (4..4 + changes.lenses.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn whoever_is_to_be_replaced_is_away_for_long_enough() {
        let mut seen = BTreeSet::new();
        for changes in all(4, 3) {
            for (asked, wish, place) in wishes(&changes) {
                let replaced_after = match wish {
                    Wish::Repair => 0,
                    Wish::Rebuild => 5 * SECOND,
                    _ => continue,
                };
                seen.insert(wish);
                assert_eq!(changes.settings.contains(&REPLACE_AFTER), wish == Wish::Rebuild);
                let dies = |fault: &&Fault| match fault.deed {
                    Deed::Crash { who, count, .. } => (who, count) == (Who::Node(place), 1),
                    _ => false,
                };
                let away = changes.faults.iter().filter(dies).find(|fault| fault.is_absence());
                let away = away.expect("it dies");
                assert!(away.at_ns < asked.at_ns && away.for_ns > replaced_after + 2 * SECOND);
            }
        }
        assert_eq!(seen.len(), 2, "{seen:?}");
    }

    #[test]
    fn shards_are_large_where_they_are_to_be_split() {
        let mut seen = BTreeSet::new();
        for changes in all(3, 3) {
            let reshaped: Vec<Wish> = wishes(&changes)
                .map(|(_, wish, _)| wish)
                .filter(|w| matches!(w, Wish::Small | Wish::Large))
                .collect();
            assert_eq!(changes.shard_bytes > 64 << 10, !reshaped.is_empty());
            assert_eq!(changes.presplit, reshaped == [Wish::Large]);
            seen.extend(reshaped);
        }
        assert_eq!(seen.len(), 2, "{seen:?}");
    }
}
