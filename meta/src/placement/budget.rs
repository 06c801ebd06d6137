//! How much may be going on at a time.

use super::policy::Policy;

/// What is left of the policy's bounds. What is under way already has been taken off.
pub(super) struct Budget {
    total: usize,
    /// Replicas being built, by node.
    building: Vec<usize>,
    /// Replicas being fed by the leaders on a node.
    feeding: Vec<usize>,
    per_node_max: usize,
    pub transfers: usize,
}

impl Budget {
    pub fn new(policy: &Policy, nodes: usize) -> Self {
        Self {
            total: policy.moves_max,
            building: vec![0; nodes],
            feeding: vec![0; nodes],
            per_node_max: policy.moves_per_node_max,
            transfers: policy.transfers_max,
        }
    }

    /// A replica is being built.
    pub fn take(&mut self, leader: usize, node: usize) {
        self.total = self.total.saturating_sub(1);
        self.building[node] += 1;
        self.feeding[leader] += 1;
    }

    /// Something is going on that is not seen yet.
    pub fn take_one(&mut self) {
        self.total = self.total.saturating_sub(1);
    }

    /// Nothing more may be begun.
    pub fn exhausted(&self) -> bool {
        self.total == 0
    }

    /// Whether a replica may be built on the node.
    pub fn builds(&self, node: usize) -> bool {
        self.total > 0 && self.building[node] < self.per_node_max
    }

    /// Whether leaders on the node may feed so many more replicas, or none is being fed.
    pub fn feeds_all(&self, leader: usize, replicas: usize) -> bool {
        self.feeds(leader)
            && (self.feeding[leader] == 0 || self.feeding[leader] + replicas <= self.per_node_max)
    }

    /// Whether a leader on the node may feed another replica.
    pub fn feeds(&self, leader: usize) -> bool {
        self.total > 0 && self.feeding[leader] < self.per_node_max
    }
}
