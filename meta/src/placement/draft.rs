//! A plan in the making.

use super::description::{Description, Group};
use super::explain::{Stalled, Step, Why};
use super::operation::Operation;

/// The steps so far, and which groups they are about.
pub(super) struct Draft {
    pub steps: Vec<Step>,
    pub stalled: Stalled,
    /// By place in the description.
    touched: Vec<bool>,
}

impl Draft {
    pub fn new(cluster: &Description) -> Self {
        let (steps, stalled) = Default::default();
        Self { steps, stalled, touched: vec![false; cluster.groups.len()] }
    }

    /// Whether there is a step for the group: one at a time.
    #[inline]
    pub fn touched(&self, place: usize) -> bool {
        self.touched[place]
    }

    /// Adds a step that copies nothing.
    pub fn step(&mut self, place: usize, operation: Operation, why: Why) {
        self.touched[place] = true;
        self.steps.push(Step { operation, why, bytes: 0 });
    }

    /// Adds a step that copies the group.
    pub fn copy(&mut self, place: usize, group: &Group, operation: Operation, why: Why) {
        self.touched[place] = true;
        self.steps.push(Step { operation, why, bytes: group.bytes.unwrap_or(0) });
    }

    /// The other group of a merge.
    pub fn touch(&mut self, place: usize) {
        self.touched[place] = true;
    }
}
