//! What is wanted of groups: how many replicas, and where.

use super::locality::Locality;

/// No group has more replicas.
pub const REPLICAS_MAX: usize = 15;

/// What is wanted of the groups that refer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Voters, nodes permitting.
    pub replicas: usize,
    /// Where they may, must and must not be.
    pub constraints: Vec<Constraint>,
    /// Where the leader should be, if it can be. Empty (the default locality): anywhere.
    pub leader_in: Locality,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            replicas: crate::REPLICATION_FACTOR as usize,
            constraints: Vec::new(),
            leader_in: Locality::default(),
        }
    }
}

/// A condition on places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// All replicas are in there.
    Within(Locality),
    /// No replica is in there.
    Outside(Locality),
    /// At least so many replicas are in there.
    AtLeast(usize, Locality),
}

/// A rule, worked out for the nodes there are.
pub(super) struct Placing {
    /// How many voters there shall be.
    pub target: usize,
    /// The diversity that can be had.
    pub diversity: u32,
    /// By node: whether a replica may be there. Empty: anywhere.
    pub allowed: Vec<bool>,
    /// How many replicas must be on which nodes.
    pub at_least: Vec<(usize, Vec<bool>)>,
    /// By node: whether the leader should be there. Empty: anywhere.
    pub leads_well: Vec<bool>,
}

impl Placing {
    pub fn allows(&self, node: usize) -> bool {
        self.allowed.is_empty() || self.allowed.get(node).copied().unwrap_or(false)
    }

    pub fn leads_well(&self, node: usize) -> bool {
        self.leads_well.is_empty() || self.leads_well.get(node).copied().unwrap_or(false)
    }

    /// How many replicas are missing or misplaced if they were on these nodes.
    pub fn violations(&self, nodes: impl Iterator<Item = usize> + Clone) -> usize {
        let misplaced = match self.allowed.is_empty() {
            true => 0,
            false => nodes.clone().filter(|node| !self.allows(*node)).count(),
        };
        let missing = self.at_least.iter().map(|(wanted, there)| {
            wanted.saturating_sub(nodes.clone().filter(|node| there.get(*node) == Some(&true)).count())
        });
        misplaced + missing.sum::<usize>()
    }
}
