//! Where a replica should go, and which one should.

use std::cmp::{Ordering, Reverse};

use super::budget::Budget;
use super::description::{Group, Replica};
use super::fill::Fill;
use super::survey::Places;
use super::view::View;

/// How good a set of places is: fewer violations of the rule, then more diversity.
type Quality = (usize, Reverse<u32>);

/// What choices are made by.
pub(super) struct Chooser<'c, 'a> {
    pub view: &'c View<'a>,
    pub fill: &'c Fill,
    pub budget: &'c Budget,
}

impl Chooser<'_, '_> {
    fn quality(&self, group: &Group, others: &[usize], node: usize) -> Quality {
        let violations = self.view.rule(group).violations(others.iter().copied().chain([node]));
        (violations, Reverse(self.view.distance_to(node, others.iter().copied())))
    }

    /// The best node for another replica beside `others`: by the rule, by diversity, then the emptiest, disks that are
    /// too full last. None if there
    /// is none, or if all that are as good have enough to do: waiting is better than a worse place.
    pub fn place(&self, group: &Group, others: &[usize]) -> Option<(usize, Quality)> {
        let bytes = group.bytes.unwrap_or(0) as f64;
        let mut best: Option<Quality> = None;
        let mut chosen: Option<(Quality, (bool, f64), usize)> = None;
        for (node, state) in self.view.described().iter().enumerate() {
            let taken = || others.contains(&node) || group.replicas.iter().any(|r| r.node == state.id);
            if !state.accepts || !self.fill.fits(node, bytes) || taken() {
                continue;
            }
            let quality = self.quality(group, others, node);
            if best.is_none_or(|best| quality < best) {
                best = Some(quality);
            }
            if best.is_some_and(|best| quality > best) || !self.budget.builds(node) {
                continue;
            }
            let fullness = (self.fill.too_full(node), self.fill.fullness(node));
            let better = |&(other, least, _): &(Quality, (bool, f64), usize)| match quality.cmp(&other) {
                Ordering::Equal => fullness < least,
                order => order == Ordering::Less,
            };
            if chosen.as_ref().is_none_or(better) {
                chosen = Some((quality, fullness, node));
            }
        }
        let (quality, _, node) = chosen.filter(|chosen| Some(chosen.0) == best)?;
        Some((node, quality))
    }

    /// The quality of a set of replicas.
    pub fn quality_of(&self, group: &Group, nodes: &[usize]) -> Quality {
        let violations = self.view.rule(group).violations(nodes.iter().copied());
        (violations, Reverse(self.view.diversity(nodes)))
    }

    /// Of several replicas the one that is needed least: it is lost, or has to go, or the rest is better without it,
    /// or it was said to be replaced, or its node is fullest.
    pub fn least_needed<'r>(&self, group: &Group, replicas: &[&'r Replica]) -> Option<&'r Replica> {
        let rank = |replica: &Replica| {
            let node = self.view.node(replica);
            let mut rest = Places::default();
            for other in replicas.iter().filter(|r| r.id != replica.id) {
                rest.push(self.view.index(other.node));
            }
            let (violations, diversity) = self.quality_of(group, rest.as_slice());
            let leads = group.leader == Some(replica.node);
            (!node.gone, !node.leaving, violations, !replica.replaced, diversity, leads)
        };
        let fullness = |replica: &Replica| self.fill.fullness(self.view.index(replica.node));
        replicas.iter().copied().min_by(|a, b| {
            let fuller = || fullness(b).total_cmp(&fullness(a));
            // Of equals the younger: it has less to lose.
            rank(a).cmp(&rank(b)).then_with(fuller).then(b.id.cmp(&a.id))
        })
    }

    /// A voter that may lead, on the node that leads least.
    pub fn next_leader<'r>(
        &self,
        group: &'r Group,
        leaders: impl Fn(usize) -> u64,
        without: Option<&Replica>,
    ) -> Option<&'r Replica> {
        let stays = |r: &&Replica| without.is_none_or(|w| w.id != r.id);
        let candidates = group.replicas.iter().filter(|r| self.view.may_lead(group, r)).filter(stays);
        candidates.min_by_key(|r| {
            let node = self.view.index(r.node);
            (!self.view.rule(group).leads_well(node), leaders(node), node)
        })
    }
}
