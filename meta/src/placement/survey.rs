//! One look at every group: sums per node, and short lists of what should be looked at again.
//!
//! This is what makes a plan for a million shards take a fraction of a second: each group is looked at once, in the
//! order of memory, against what is known of its nodes; the lists are bounded by the number of nodes, and only what is
//! in them is thought about.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use storage::ids::META_GROUP;

use super::budget::Budget;
use super::description::Group;
use super::explain::{Evenness, Stalled};
use super::fill::{Amount, Fill};
use super::leaders::Leading;
use super::rule::REPLICAS_MAX;
use super::view::View;

/// So many of the hottest groups of each node are remembered.
const HOTTEST_MAX: usize = 16;
/// So many needs of the groups that a node leads are remembered, for each replica that it may feed.
const NEEDS_PER_PLACE: usize = 2;

/// How much a group needs a change of its members. What comes first is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// A change was begun.
    Begun,
    /// Voters are lost or missing, and the group stops if so many more than this fail.
    Endangered(u8),
    /// Voters are on a node that is to be taken away.
    Leaving,
    /// There are too many voters.
    Surplus,
    /// Voters are where the rule doesn't want them.
    Misplaced,
    /// Voters share a domain.
    Together,
}

/// A group that needs a change of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Need {
    pub urgency: Urgency,
    /// Makes those alternate that may find no better place.
    tie: u32,
    /// The group's place in the description.
    pub place: u32,
}

/// What was seen.
pub(super) struct Survey {
    pub fill: Fill,
    pub leading: Leading,
    pub budget: Budget,
    /// In the order in which they should be met.
    pub needs: Vec<Need>,
    /// Groups whose leaders should not be where they are.
    pub ill_led: Vec<u32>,
    /// By leader's node: the groups that are asked most.
    pub hottest_led: Vec<Vec<u32>>,
    /// By replica's node: the groups that make most load.
    pub hottest_held: Vec<Vec<u32>>,
    pub stalled: Stalled,
}

/// The largest of what is offered.
#[derive(Default)]
struct Largest(BinaryHeap<Reverse<(u64, Reverse<u32>)>>);

impl Largest {
    #[inline]
    fn offer(&mut self, value: u64, place: u32) {
        if self.0.len() < HOTTEST_MAX {
            self.0.push(Reverse((value, Reverse(place))));
        } else if self.0.peek().is_some_and(|least| value > least.0.0) {
            self.0.pop();
            self.0.push(Reverse((value, Reverse(place))));
        }
    }

    fn into_places(self) -> Vec<u32> {
        self.0.into_sorted_vec().into_iter().map(|Reverse((_, Reverse(place)))| place).collect()
    }
}

/// The places of a few nodes, without an allocation. What is beyond the bound is left out: no group is so large.
#[derive(Clone, Copy, Default)]
pub(super) struct Places {
    nodes: [usize; REPLICAS_MAX + 1],
    len: usize,
}

impl Places {
    #[inline]
    pub fn push(&mut self, node: usize) {
        if let Some(free) = self.nodes.get_mut(self.len) {
            *free = node;
            self.len += 1;
        }
    }

    #[inline]
    pub fn as_slice(&self) -> &[usize] {
        &self.nodes[..self.len]
    }
}

/// What a replica of the group adds to a node.
#[inline]
pub(super) fn amount(group: &Group) -> Amount {
    let voters = group.replicas.iter().filter(|r| r.voter).count();
    [1.0, group.bytes.unwrap_or(0) as f64, group.load.held(voters)]
}

struct Surveyor<'v, 'a> {
    view: &'v View<'a>,
    survey: Survey,
    /// By leader's node.
    needs: Vec<BinaryHeap<Need>>,
    needs_max: usize,
    begun: Vec<Need>,
    ill_led_max: usize,
    led: Vec<Largest>,
    held: Vec<Largest>,
}

/// Looks at everything once.
pub(super) fn survey(view: &View<'_>) -> Survey {
    let nodes = view.nodes.len();
    let survey = Survey {
        fill: Fill::new(view),
        leading: Leading::new(view),
        budget: Budget::new(view.policy, nodes),
        needs: Vec::new(),
        ill_led: Vec::new(),
        hottest_led: Vec::new(),
        hottest_held: Vec::new(),
        stalled: Stalled::default(),
    };
    let mut surveyor = Surveyor {
        view,
        survey,
        needs: (0..nodes).map(|_| BinaryHeap::new()).collect(),
        needs_max: NEEDS_PER_PLACE * view.policy.moves_per_node_max + 1,
        begun: Vec::new(),
        ill_led_max: 4 * view.policy.transfers_max,
        led: (0..nodes).map(|_| Largest::default()).collect(),
        held: (0..nodes).map(|_| Largest::default()).collect(),
    };
    for (place, group) in view.cluster.groups.iter().enumerate() {
        surveyor.look(place as u32, group);
    }
    surveyor.finish()
}

impl Surveyor<'_, '_> {
    fn look(&mut self, place: u32, group: &Group) {
        let amount = amount(group);
        let learns = group.replicas.iter().any(|r| !r.voter);
        if group.busy {
            self.survey.budget.take_one();
        }
        self.survey.leading.changing |= group.changes_hands;
        for replica in &group.replicas {
            let node = self.view.index(replica.node);
            // What is about to be replaced counts at its new place only.
            if !(replica.replaced && learns) {
                self.survey.fill.count(node, &amount);
            }
            if !replica.voter
                && let Some(leader) = group.leader
            {
                self.survey.budget.take(self.view.index(leader), node);
            }
            if amount[2] > 0.0 && replica.voter {
                self.held[node].offer(amount[2] as u64, place);
            }
        }
        if let Some(leader) = group.leader {
            let leader = self.view.index(leader);
            self.survey.leading.count(leader, group);
            if !group.busy && self.view.nodes[leader].live {
                self.look_at_leader(place, group, leader);
                self.look_at_members(place, group, leader, learns);
                return;
            }
        }
        if !group.busy && !group.replicas.is_empty() {
            self.survey.stalled.leaderless += 1;
        }
    }

    fn look_at_leader(&mut self, place: u32, group: &Group, leader: usize) {
        let wrong = !self.view.nodes[leader].leads || !self.view.rule(group).leads_well(leader);
        if wrong && self.survey.ill_led.len() < self.ill_led_max {
            let better = |replica| {
                let well = self.view.rule(group).leads_well(self.view.index(replica));
                well || !self.view.nodes[leader].leads
            };
            // Those that can't be helped must not keep others off the list.
            if group.replicas.iter().any(|r| self.view.may_lead(group, r) && better(r.node)) {
                self.survey.ill_led.push(place);
            }
        }
        let requests = group.load.led();
        if requests > 0 && !group.restless && group.id != META_GROUP {
            self.led[leader].offer(requests, place);
        }
    }

    fn look_at_members(&mut self, place: u32, group: &Group, leader: usize, learns: bool) {
        let Some(urgency) = self.urgency(group, learns) else { return };
        let tie = match urgency {
            Urgency::Misplaced | Urgency::Together => scramble(self.view.cluster.salt ^ u64::from(place)),
            _ => 0,
        };
        // Of those that can't be helped there may be many: they must not keep the others off the list.
        let rebuilt = matches!(urgency, Urgency::Endangered(_) | Urgency::Leaving);
        if rebuilt && !self.has_room(group) {
            self.survey.stalled.waiting += 1;
            return;
        }
        let need = Need { urgency, tie, place };
        if urgency == Urgency::Begun {
            self.begun.push(need);
            return;
        }
        let needs = &mut self.needs[leader];
        if needs.len() < self.needs_max {
            needs.push(need);
        } else if needs.peek().is_some_and(|last| need < *last) {
            needs.pop();
            needs.push(need);
        }
    }

    /// Whether there is a node that could hold another replica of the group, now or when it has less to do.
    fn has_room(&self, group: &Group) -> bool {
        let bytes = group.bytes.unwrap_or(0) as f64;
        let mut nodes = self.view.described().iter().enumerate();
        nodes.any(|(place, node)| {
            node.accepts && self.survey.fill.fits(place, bytes) && group.on(node.id).is_none()
        })
    }

    /// What the group needs most.
    #[inline]
    fn urgency(&self, group: &Group, learns: bool) -> Option<Urgency> {
        if learns || group.joint {
            return Some(Urgency::Begun);
        }
        let can = self.view.policy.can;
        let rule = self.view.rule(group);
        let (mut live, mut gone, mut leaving) = (0, 0, 0);
        let mut voters = Places::default();
        for replica in &group.replicas {
            let place = self.view.index(replica.node);
            let node = &self.view.nodes[place];
            live += usize::from(node.live);
            gone += usize::from(node.gone);
            leaving += usize::from(node.leaving);
            voters.push(place);
        }
        let voters = voters.as_slice();
        let margin = live.saturating_sub(voters.len() / 2 + 1).min(u8::MAX.into()) as u8;
        if voters.len() < rule.target {
            return can.grow.then_some(Urgency::Endangered(margin));
        }
        if !can.replace {
            return None;
        }
        if voters.len() > rule.most && voters.len() - leaving >= rule.most {
            // Whoever is gone or leaves is the first to go.
            Some(Urgency::Surplus)
        } else if gone > 0 {
            Some(Urgency::Endangered(margin))
        } else if leaving > 0 {
            Some(Urgency::Leaving)
        } else if !self.view.located {
            None
        } else if rule.violations(voters.iter().copied()) > rule.misplaced_at_least(voters.len()) {
            Some(Urgency::Misplaced)
        } else if rule.diversity > 0 && self.view.diversity(voters) < rule.diversity {
            Some(Urgency::Together)
        } else {
            None
        }
    }

    fn finish(self) -> Survey {
        let mut survey = self.survey;
        survey.fill.counted();
        survey.leading.counted();
        survey.needs = self.begun;
        survey.needs.extend(self.needs.into_iter().flat_map(BinaryHeap::into_vec));
        survey.needs.sort_unstable();
        survey.hottest_led = self.led.into_iter().map(Largest::into_places).collect();
        survey.hottest_held = self.held.into_iter().map(Largest::into_places).collect();
        survey
    }
}

impl Survey {
    /// How even it is.
    pub fn evenness(&self, view: &View<'_>) -> Evenness {
        let serving: Vec<usize> = (0..view.described().len()).filter(|n| !view.nodes[*n].leaving).collect();
        let range = |value: &dyn Fn(usize) -> u64| {
            let values = serving.iter().map(|n| value(*n));
            (values.clone().min().unwrap_or(0), values.max().unwrap_or(0))
        };
        let held = |dimension: usize| range(&|node| self.fill.held(node)[dimension].round() as u64);
        Evenness {
            replicas: held(0),
            bytes: held(1),
            load: held(2),
            leaders: range(&|node| self.leading.leaders(node)),
            led_load: range(&|node| self.leading.load(node)),
        }
    }
}

/// A number that looks like any other (the finaliser of SplitMix64).
pub(super) fn scramble(number: u64) -> u32 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as u32
}
