//! The description, worked out: nodes by number, what each may be used for, and what rules mean for them.

use storage::ids::NodeId;

use super::description::{Description, Duty, Group, Health, Replica};
use super::locality::{Domain, Domains, Locality};
use super::policy::Policy;
use super::rule::{Constraint, Placing, REPLICAS_MAX, Rule};

/// Node ids below it are looked up in a table.
const TABLE_MAX: u64 = 1 << 20;

/// A node, as placement sees it.
#[derive(Clone, Debug)]
pub(super) struct NodeView {
    pub id: NodeId,
    /// It can be asked for something.
    pub live: bool,
    /// Its replicas are as good as lost.
    pub gone: bool,
    /// Its replicas shall move elsewhere, or are lost.
    pub leaving: bool,
    /// It may get replicas.
    pub accepts: bool,
    /// It may get leaders, and may keep those that it has.
    pub leads: bool,
    /// It gets none for now.
    pub behind: bool,
    pub domain: Domain,
    pub capacity: f64,
}

/// What all parts of placement look at.
pub(super) struct View<'a> {
    pub cluster: &'a Description,
    pub policy: &'a Policy,
    /// In the order of their ids; the last one stands for all that are not described.
    pub nodes: Vec<NodeView>,
    /// It is known where all nodes stand whose replicas are not lost anyway. While it isn't, nothing is taken away on the ground
    /// of places.
    pub located: bool,
    table: Vec<u32>,
    placings: Vec<Placing>,
}

impl<'a> View<'a> {
    pub fn new(cluster: &'a Description, policy: &'a Policy) -> Self {
        let mut domains = Domains::default();
        let mut located = true;
        let mut nodes: Vec<NodeView> = Vec::with_capacity(cluster.nodes.len() + 1);
        for node in &cluster.nodes {
            let live = node.health == Health::Live;
            let gone = match node.health {
                Health::Live => false,
                Health::Down(since) => since >= policy.repair_after || node.duty == Duty::Leaving,
            };
            let capacity = node.capacity_bytes as f64;
            let full = policy.is_full(node.capacity_bytes, node.used_bytes);
            let gone = gone && policy.can.replace;
            located &= gone || node.locality.is_some();
            nodes.push(NodeView {
                id: node.id,
                live,
                gone,
                leaving: gone || (node.duty == Duty::Leaving && policy.can.replace),
                accepts: live && node.duty == Duty::Serving && !full && node.locality.is_some(),
                leads: live && node.duty == Duty::Serving,
                behind: node.behind,
                domain: match &node.locality {
                    Some(locality) => domains.domain(locality),
                    None => domains.unknown(),
                },
                capacity,
            });
        }
        nodes.sort_by_key(|node| node.id);
        nodes.push(NodeView {
            id: NodeId(u64::MAX),
            live: false,
            gone: policy.can.replace,
            leaving: policy.can.replace,
            accepts: false,
            leads: false,
            behind: false,
            domain: Domain::default(),
            capacity: 0.0,
        });
        let mut view = Self { cluster, policy, table: table(&nodes), nodes, located, placings: Vec::new() };
        let default = [Rule::default()];
        let rules = if cluster.rules.is_empty() { &default[..] } else { &cluster.rules };
        view.placings = rules.iter().map(|rule| view.placing(rule)).collect();
        view
    }

    /// A node's place in [`View::nodes`].
    #[inline]
    pub fn index(&self, node: NodeId) -> usize {
        match self.table.get(node.0 as usize) {
            Some(&place) => place as usize,
            None if node.0 < TABLE_MAX => self.nodes.len() - 1,
            None => self.nodes.binary_search_by_key(&node, |n| n.id).unwrap_or(self.nodes.len() - 1),
        }
    }

    /// The nodes that were described.
    pub fn described(&self) -> &[NodeView] {
        &self.nodes[..self.nodes.len() - 1]
    }

    #[inline]
    pub fn node(&self, replica: &Replica) -> &NodeView {
        &self.nodes[self.index(replica.node)]
    }

    /// What is wanted of a group. A rule that isn't there is the first one.
    #[inline]
    pub fn rule(&self, group: &Group) -> &Placing {
        self.placings.get(usize::from(group.rule)).unwrap_or(&self.placings[0])
    }

    /// The leader's node, if the group can be asked to change.
    pub fn leader(&self, group: &Group) -> Option<usize> {
        let leader = self.index(group.leader?);
        (!group.busy && self.nodes[leader].live).then_some(leader)
    }

    /// A replica that may become the leader.
    pub fn may_lead(&self, group: &Group, replica: &Replica) -> bool {
        let node = self.node(replica);
        let ready = replica.voter && replica.caught_up && Some(replica.node) != group.leader;
        ready && node.leads && (!node.behind || !self.is_led_well_elsewhere(group))
    }

    /// Whether a node that is not behind leads a group, or may. If not, whether one is behind says nothing: where much is written, all may be, and
    /// for long.
    fn is_led_well_elsewhere(&self, group: &Group) -> bool {
        let is_better = |replica: &Replica| {
            let node = self.node(replica);
            replica.voter && replica.caught_up && node.leads && !node.behind
        };
        group.replicas.iter().any(is_better)
    }

    /// The sum of a node's distances to others.
    pub fn distance_to(&self, node: usize, others: impl Iterator<Item = usize>) -> u32 {
        let domain = self.nodes[node].domain;
        others.map(|other| domain.distance(self.nodes[other].domain)).sum()
    }

    /// The sum of the distances of all pairs.
    pub fn diversity(&self, nodes: &[usize]) -> u32 {
        let pairs = nodes.iter().enumerate();
        pairs.map(|(place, &node)| self.distance_to(node, nodes[..place].iter().copied())).sum()
    }

    fn placing(&self, rule: &Rule) -> Placing {
        let locality = |node: &NodeView| {
            let described = self.cluster.nodes.iter().find(|n| n.id == node.id);
            described.and_then(|n| n.locality.as_ref())
        };
        let localities: Vec<_> = self.described().iter().map(locality).collect();
        let here = |place: &Locality| -> Vec<bool> {
            localities.iter().map(|known| known.is_some_and(|l| l.lies_in(place))).collect()
        };
        let mut allowed: Vec<bool> = Vec::new();
        let mut at_least = Vec::new();
        for constraint in &rule.constraints {
            let (place, wanted) = match constraint {
                Constraint::Within(place) => (place, true),
                Constraint::Outside(place) => (place, false),
                Constraint::AtLeast(count, place) => {
                    let there = here(place);
                    // More than there are nodes can't be had.
                    let nodes = there.iter().filter(|there| **there).count();
                    at_least.push(((*count).min(rule.replicas).min(nodes), there));
                    continue;
                }
            };
            allowed.resize(self.described().len(), true);
            for ((allowed, inside), known) in allowed.iter_mut().zip(here(place)).zip(&localities) {
                *allowed &= known.is_some() && inside == wanted;
            }
        }
        // Where there is no node, there can be no replica: what can't be had is as good as not said.
        if self.located && !allowed.contains(&true) {
            allowed.clear();
        }
        let leads_well = if rule.leader_in.is_empty() { Vec::new() } else { here(&rule.leader_in) };
        let nodes = match allowed.is_empty() {
            true => self.described().len(),
            false => allowed.iter().filter(|a| **a).count(),
        };
        let wanted = |nodes: usize| rule.replicas.clamp(1, REPLICAS_MAX).min(nodes.max(1));
        // Where there are too few nodes yet, a group grows no larger; but what it has is not given up for that.
        let (target, most) = (wanted(nodes), wanted(self.described().len()));
        let mut placing = Placing { target, most, room: nodes, diversity: 0, allowed, at_least, leads_well };
        placing.diversity = self.diversity_to_be_had(&placing);
        placing
    }

    /// What choosing the node that is farthest from those before comes to: what a group that has as much is spared
    /// from being looked at further.
    fn diversity_to_be_had(&self, placing: &Placing) -> u32 {
        let mut chosen: Vec<usize> = Vec::new();
        let usable =
            |node: &usize| !self.nodes[*node].leaving && self.nodes[*node].live && placing.allows(*node);
        let usable: Vec<usize> = (0..self.described().len()).filter(usable).collect();
        for _ in 0..placing.target {
            let violations =
                |node: usize| placing.violations(chosen.iter().copied().chain(std::iter::once(node)));
            let free = usable.iter().copied().filter(|node| !chosen.contains(node));
            let best = free.min_by_key(|&node| {
                let distance = self.distance_to(node, chosen.iter().copied());
                (violations(node), std::cmp::Reverse(distance), node)
            });
            let Some(best) = best else { break };
            chosen.push(best);
        }
        self.diversity(&chosen)
    }
}

fn table(nodes: &[NodeView]) -> Vec<u32> {
    let nowhere = nodes.len() - 1;
    let last = nodes[..nowhere].iter().rev().find(|n| n.id.0 < TABLE_MAX);
    let mut table = vec![nowhere as u32; last.map_or(0, |n| n.id.0 as usize + 1)];
    for (place, node) in nodes[..nowhere].iter().enumerate() {
        if let Some(entry) = table.get_mut(node.id.0 as usize) {
            *entry = place as u32;
        }
    }
    table
}
