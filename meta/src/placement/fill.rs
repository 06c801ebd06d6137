//! How full nodes are, and what a move is worth.
//!
//! Three things are balanced: replicas, bytes and load. Each node has a *share* of each, in proportion to its disk
//! where that is known, and a *band* around the share within which it is left alone. What a node costs is the square of
//! its distance from the band, summed over the three; what a move gains is what it takes off the cost of both nodes.
//!
//! A move is made only if it gains. So moves end (the cost falls with each), nothing is moved between nodes that are
//! within their bands, and a move that is good for one of the three and bad for another is weighed once, not made and
//! unmade by two schedulers in turn.
//!
//! What sets moves off is a node outside its band; what moves aim at is a little further inside, so that a node whose
//! bytes and load waver at the edge of its band is not tended again and again.

use super::policy::Policy;
use super::view::View;

/// What is balanced: replicas, bytes, load.
pub(super) const DIMENSIONS: usize = 3;
/// How much more a disk that is too full costs than one that is fuller than others.
const FULL_WEIGHT: f64 = 20.0;

/// The part of the band that moves aim at.
pub(super) const REST: f64 = 0.8;

/// An amount of each.
pub(super) type Amount = [f64; DIMENSIONS];

/// What each node holds.
pub(super) struct Fill {
    held: Vec<Amount>,
    /// By how much the node's disk is about to be fuller than it is now.
    added: Vec<f64>,
    used: Vec<f64>,
    capacity: Vec<f64>,
    /// The part of everything that the node should hold. 0: it is not in service.
    share: Vec<f64>,
    /// Where the part of the band ends that moves aim at.
    low: Vec<Amount>,
    high: Vec<Amount>,
    total: Amount,
    band: Amount,
    slack: Amount,
    /// One by what a node has on average.
    per_unit: Amount,
    used_wanted: Vec<f64>,
    used_max: Vec<f64>,
}

impl Fill {
    pub fn new(view: &View<'_>) -> Self {
        let Policy { bands, .. } = view.policy;
        let nodes = view.nodes.len();
        let mut used = vec![0.0; nodes];
        for node in &view.cluster.nodes {
            used[view.index(node.id)] = node.used_bytes as f64;
        }
        Self {
            held: vec![[0.0; DIMENSIONS]; nodes],
            added: vec![0.0; nodes],
            used,
            capacity: view.nodes.iter().map(|n| n.capacity).collect(),
            share: shares(view),
            low: vec![[0.0; DIMENSIONS]; nodes],
            high: vec![[0.0; DIMENSIONS]; nodes],
            total: [0.0; DIMENSIONS],
            band: [bands.replicas, bands.bytes, bands.load],
            slack: [1.0, view.policy.split_bytes as f64, bands.load_slack],
            per_unit: [1.0; DIMENSIONS],
            used_wanted: view.nodes.iter().map(|n| view.policy.used_wanted(n.capacity)).collect(),
            used_max: view.nodes.iter().map(|n| view.policy.used_max(n.capacity)).collect(),
        }
    }

    /// Counts a replica that is there.
    #[inline]
    pub fn count(&mut self, node: usize, amount: &Amount) {
        for (held, amount) in self.held[node].iter_mut().zip(amount) {
            *held += amount;
        }
    }

    /// Everything has been counted.
    pub fn counted(&mut self) {
        let serving = self.share.iter().filter(|s| **s > 0.0).count().max(1) as f64;
        for dimension in 0..DIMENSIONS {
            // What lies on nodes that aren't in service will lie on the others.
            self.total[dimension] = self.held.iter().map(|held| held[dimension]).sum();
            self.per_unit[dimension] = 1.0 / (self.total[dimension] / serving).max(self.slack[dimension]);
            for node in 0..self.share.len() {
                let (wanted, half) = (self.wanted(node, dimension), REST * self.half_band(node, dimension));
                self.low[node][dimension] = wanted - half;
                self.high[node][dimension] = wanted + half;
            }
        }
    }

    /// A replica is going to be somewhere.
    pub fn add(&mut self, node: usize, amount: &Amount) {
        self.count(node, amount);
        self.added[node] += amount[1];
    }

    /// A replica is going to be somewhere else.
    pub fn remove(&mut self, node: usize, amount: &Amount) {
        for (held, amount) in self.held[node].iter_mut().zip(amount) {
            *held -= amount;
        }
        self.added[node] -= amount[1];
    }

    pub fn held(&self, node: usize) -> &Amount {
        &self.held[node]
    }

    /// What the node should hold.
    pub fn wanted(&self, node: usize, dimension: usize) -> f64 {
        self.total[dimension] * self.share[node]
    }

    /// How far from its share the node is, beyond the band: above 0, or below.
    pub fn outside(&self, node: usize, dimension: usize) -> f64 {
        let half = self.half_band(node, dimension);
        let off = self.held[node][dimension] - self.wanted(node, dimension);
        if off > half {
            off - half
        } else if off < -half {
            off + half
        } else {
            0.0
        }
    }

    fn half_band(&self, node: usize, dimension: usize) -> f64 {
        (self.wanted(node, dimension) * self.band[dimension]).max(self.slack[dimension])
    }

    /// Whether the node has the room for so many bytes.
    pub fn fits(&self, node: usize, bytes: f64) -> bool {
        let capacity = self.capacity[node];
        capacity == 0.0 || self.used[node] + self.added[node] + bytes <= self.used_max[node]
    }

    /// Whether the node's disk is fuller than wanted.
    pub fn too_full(&self, node: usize) -> bool {
        let capacity = self.capacity[node];
        capacity > 0.0 && self.used[node] + self.added[node] > self.used_wanted[node]
    }

    /// What the node costs, with so much of everything more or less (`sign`).
    #[inline]
    fn cost(&self, node: usize, amount: &Amount, sign: f64) -> f64 {
        let (held, low, high) = (&self.held[node], &self.low[node], &self.high[node]);
        let mut cost = 0.0;
        for dimension in 0..DIMENSIONS {
            let held = held[dimension] + sign * amount[dimension];
            let outside = (held - high[dimension]).max(low[dimension] - held).max(0.0);
            let outside = outside * self.per_unit[dimension];
            cost += outside * outside;
        }
        let capacity = self.capacity[node];
        if capacity > 0.0 {
            let used = self.used[node] + self.added[node] + sign * amount[1];
            let over = (used - self.used_wanted[node]).max(0.0) / capacity * FULL_WEIGHT;
            cost += over * over;
        }
        cost
    }

    /// What the node costs as it is.
    pub fn cost_now(&self, node: usize) -> f64 {
        self.cost(node, &[0.0; DIMENSIONS], 0.0)
    }

    /// What giving gains. What a move gains is the sum of both; if it is not above 0, it is not worth it.
    pub fn gain_of_giving(&self, from: usize, amount: &Amount) -> f64 {
        self.cost_now(from) - self.cost(from, amount, -1.0)
    }

    /// What taking gains.
    #[inline]
    pub fn gain_of_taking(&self, to: usize, amount: &Amount) -> f64 {
        self.cost_now(to) - self.cost(to, amount, 1.0)
    }

    /// How large an amount is, in parts of what a node has on average.
    #[inline]
    pub fn size(&self, amount: &Amount) -> f64 {
        let square = |dimension: usize| (amount[dimension] * self.per_unit[dimension]).powi(2);
        (0..DIMENSIONS).map(square).sum::<f64>().sqrt()
    }

    /// How full the node is, compared with what it should hold: the mean over what is balanced.
    pub fn fullness(&self, node: usize) -> f64 {
        let part = |dimension: usize| {
            let wanted = self.wanted(node, dimension);
            if wanted > 0.0 { self.held[node][dimension] / wanted } else { 0.0 }
        };
        (0..DIMENSIONS).map(part).sum()
    }

    /// In which dimension the node is farthest outside, and by how many units. The first of equals.
    pub fn worst(&self, node: usize) -> (usize, f64) {
        let mut worst = (0, 0.0);
        for dimension in 0..DIMENSIONS {
            let outside = self.outside(node, dimension) * self.per_unit[dimension];
            if outside.abs() > f64::abs(worst.1) {
                worst = (dimension, outside);
            }
        }
        worst
    }
}

/// In proportion to the disks; a disk of unknown size is taken to be of average size.
fn shares(view: &View<'_>) -> Vec<f64> {
    let serves = |node: &&super::view::NodeView| !node.leaving && node.id.0 != u64::MAX;
    let known: Vec<f64> = view.nodes.iter().filter(serves).map(|n| n.capacity).filter(|c| *c > 0.0).collect();
    let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
    let weight = |node: &super::view::NodeView| match serves(&node) {
        true if node.capacity > 0.0 => node.capacity,
        true => mean,
        false => 0.0,
    };
    let total = view.nodes.iter().map(weight).sum::<f64>().max(f64::MIN_POSITIVE);
    view.nodes.iter().map(|node| weight(node) / total).collect()
}
