//! Moves of replicas for the sake of evenness.
//!
//! Nodes that are above their bands give; where a node is below its band, whoever has more than its share gives, too.
//! Of each giver a handful of replicas is looked at (its hottest, and some that chance brings), against the emptiest
//! nodes of the replica's zone and of the cluster, and what gains most for its size (see [`super::fill`]) is moved. For
//! its size: what is most of the kind that is lacking, not just the largest; a node that was filled with large shards
//! would lack replicas when it has its bytes, and shards would have to be exchanged. What was planned counts at once, so
//! the next choice is made for the cluster as it will be.

use storage::ids::{META_GROUP, NodeId};

use super::description::Group;
use super::draft::Draft;
use super::explain::{Measure, Why};
use super::fill::{Amount, DIMENSIONS};
use super::operation::Operation;
use super::survey::{Places, Survey, amount, scramble};
use super::view::View;

/// So many replicas of each giving node are looked at.
const CANDIDATES_MAX: usize = 24;
/// So many takers are looked at, in the replica's zone and as many in the cluster.
const TAKERS_MAX: usize = 12;
/// A taker that has enough to do is awaited if it is better by this factor.
const WORTH_WAITING: f64 = 1.5;
/// A giver stops for this time when what is left gains less than this part of what its first move gained: next time
/// there are other candidates.
const WORTH_NOW: f64 = 0.3;
/// Gains that are smaller are noise of the arithmetic.
const GAIN_MIN: f64 = 1e-9;

struct Balance<'b, 'a> {
    view: &'b View<'a>,
    survey: &'b mut Survey,
    draft: &'b mut Draft,
    /// The emptiest first.
    takers: Vec<usize>,
    /// … by zone.
    takers_by_zone: Vec<Vec<usize>>,
}

/// A move that could be made.
#[derive(Clone, Copy)]
struct Move {
    place: usize,
    from: usize,
    to: usize,
    amount: Amount,
    /// The gain for the size.
    gain: f64,
}

/// Plans moves.
pub(super) fn balance(view: &View<'_>, survey: &mut Survey, draft: &mut Draft) {
    if !view.policy.can.replace || !view.policy.can.balance || survey.budget.exhausted() {
        return;
    }
    // For evenness alone nothing is put where it may have to go from again.
    if !view.located {
        return;
    }
    let givers = givers(view, survey);
    if givers.is_empty() {
        return;
    }
    let mut takers: Vec<usize> = (0..view.described().len()).filter(|n| view.nodes[*n].accepts).collect();
    takers.sort_by(|a, b| survey.fill.fullness(*a).total_cmp(&survey.fill.fullness(*b)).then(a.cmp(b)));
    let zones = takers.iter().map(|n| view.nodes[*n].domain.zone() as usize + 1).max().unwrap_or(0);
    let mut takers_by_zone = vec![Vec::new(); zones];
    for &node in &takers {
        takers_by_zone[view.nodes[node].domain.zone() as usize].push(node);
    }
    let mut balance = Balance { view, survey, draft, takers, takers_by_zone };
    let mut candidates = balance.candidates(&givers);
    let mut least = vec![GAIN_MIN; givers.len()];
    // In turns, so that nobody gives all before the others have given any.
    for _ in 0..view.policy.moves_per_node_max {
        let mut moved = false;
        for ((&giver, candidates), least) in givers.iter().zip(&mut candidates).zip(&mut least) {
            if balance.survey.budget.exhausted() {
                return;
            }
            moved |= balance.give(giver, candidates, least);
        }
        if !moved {
            return;
        }
    }
}

/// The nodes that give, the fullest first.
fn givers(view: &View<'_>, survey: &Survey) -> Vec<usize> {
    let fill = &survey.fill;
    let nodes = || (0..view.described().len()).filter(|n| !view.nodes[*n].leaving);
    let live = || nodes().filter(|n| view.nodes[*n].live);
    let empty: Vec<bool> =
        (0..DIMENSIONS).map(|d| nodes().any(|n| view.nodes[n].accepts && fill.outside(n, d) < 0.0)).collect();
    let gives = |node: &usize| {
        fill.too_full(*node)
            || (0..DIMENSIONS).any(|d| {
                fill.outside(*node, d) > 0.0 || (empty[d] && fill.held(*node)[d] >= fill.wanted(*node, d))
            })
    };
    let mut givers: Vec<usize> = live().filter(gives).collect();
    // In a cluster where all nodes of a zone are below their shares, they even out among themselves.
    if givers.is_empty() && empty.contains(&true) {
        givers = live().collect();
    }
    let rank = |n: &usize| (fill.cost_now(*n), fill.fullness(*n));
    givers.sort_by(|a, b| {
        let ((cost, full), (other_cost, other_full)) = (rank(a), rank(b));
        other_cost.total_cmp(&cost).then(other_full.total_cmp(&full)).then(a.cmp(b))
    });
    givers
}

impl Balance<'_, '_> {
    /// For each giver, places of groups that it may give.
    fn candidates(&self, givers: &[usize]) -> Vec<Vec<u32>> {
        const NONE: u32 = u32::MAX;
        let groups = &self.view.cluster.groups;
        let mut giver_of = vec![NONE; self.view.nodes.len()];
        let mut lists: Vec<Vec<u32>> = Vec::with_capacity(givers.len());
        for (turn, &node) in givers.iter().enumerate() {
            giver_of[node] = turn as u32;
            let hot = self.survey.hottest_held[node].iter().copied();
            lists.push(if self.survey.fill.outside(node, 2) > 0.0 { hot.collect() } else { Vec::new() });
        }
        let bounds: Vec<usize> = lists.iter().map(|hot| hot.len() + CANDIDATES_MAX).collect();
        let mut open = lists.len();
        // From somewhere, by large steps that reach every group once: neither the same ones each time, nor only
        // neighbours.
        let len = groups.len();
        let mut place = scramble(self.view.cluster.salt) as usize % len.max(1);
        let step = step_coprime_to(len);
        for _ in 0..len {
            if open == 0 {
                break;
            }
            place = (place + step) % len;
            let mut movable = None;
            for replica in &groups[place].replicas {
                let turn = giver_of[self.view.index(replica.node)];
                if turn == NONE || !self.gives(&groups[place], replica.node) {
                    continue;
                }
                let list = &mut lists[turn as usize];
                if list.len() < bounds[turn as usize] && *movable.get_or_insert_with(|| self.movable(place)) {
                    list.push(place as u32);
                    open -= usize::from(list.len() == bounds[turn as usize]);
                }
            }
        }
        lists
    }

    /// Whether the group is in order, so that it can be moved for no more than evenness.
    fn movable(&self, place: usize) -> bool {
        let group = &self.view.cluster.groups[place];
        let rule = self.view.rule(group);
        let in_order = group.replicas.iter().all(|r| r.voter && self.view.node(r).live);
        in_order
            && group.id != META_GROUP
            && !self.draft.touched(place)
            && (rule.target..=rule.most).contains(&group.replicas.len())
            && self.view.leader(group).is_some_and(|leader| self.survey.budget.feeds(leader))
    }

    /// Whether a node may give its replica of the group. What leads stays: another replica of the group, or another
    /// group, will do as well. An only replica always leads, and hands over when its successor has a vote.
    fn gives(&self, group: &Group, node: NodeId) -> bool {
        group.leader != Some(node) || (group.replicas.len() == 1 && self.view.policy.can.transfer)
    }

    /// Plans the giver's best move. Returns whether there is one that gains more than `least`.
    fn give(&mut self, giver: usize, candidates: &mut Vec<u32>, least: &mut f64) -> bool {
        let mut best: Option<Move> = None;
        for &place in candidates.iter() {
            let place = place as usize;
            let group = &self.view.cluster.groups[place];
            if !self.gives(group, self.view.nodes[giver].id) || !self.movable(place) {
                continue;
            }
            let found = self.best_move(place, giver);
            if let Some(found) = found
                && best.is_none_or(|best| found.gain > best.gain)
            {
                best = Some(found);
            }
        }
        let Some(best) = best.filter(|best| best.gain >= *least) else {
            candidates.clear();
            return false;
        };
        *least = least.max(best.gain * WORTH_NOW);
        candidates.retain(|place| *place as usize != best.place);
        self.plan(best);
        true
    }

    fn best_move(&self, place: usize, from: usize) -> Option<Move> {
        let group = &self.view.cluster.groups[place];
        let rule = self.view.rule(group);
        let amount = amount(group);
        let size = self.survey.fill.size(&amount);
        let given = self.survey.fill.gain_of_giving(from, &amount);
        let mut others = Places::default();
        for replica in group.replicas.iter().filter(|r| r.node != self.view.nodes[from].id) {
            others.push(self.view.index(replica.node));
        }
        let others = others.as_slice();
        let with = |node: usize| others.iter().copied().chain(std::iter::once(node));
        let distance = self.view.distance_to(from, others.iter().copied());
        let violations = rule.violations(with(from));
        let zone = self.view.nodes[from].domain.zone() as usize;
        let mut best: Option<Move> = None;
        // What the best of those would gain that have enough to do.
        let mut awaited = GAIN_MIN;
        let mut consider = |to: usize, free: bool| {
            let usable = to != from && !others.contains(&to) && self.survey.fill.fits(to, amount[1]);
            if !usable {
                return;
            }
            let gain = (given + self.survey.fill.gain_of_taking(to, &amount)) / size;
            let most = if free { best.map_or(GAIN_MIN, |best| best.gain) } else { awaited };
            if gain > most
                && self.view.distance_to(to, others.iter().copied()) >= distance
                && rule.violations(with(to)) <= violations
            {
                match free {
                    true => best = Some(Move { place, from, to, amount, gain }),
                    false => awaited = gain,
                }
            }
        };
        for takers in [self.takers_by_zone.get(zone), Some(&self.takers)].into_iter().flatten() {
            let (mut free, mut full) = (0, 0);
            for &to in takers {
                let builds = self.survey.budget.builds(to);
                let seen = if builds { &mut free } else { &mut full };
                if *seen < TAKERS_MAX {
                    *seen += 1;
                    consider(to, builds);
                } else if free == TAKERS_MAX {
                    break;
                }
            }
        }
        // Waiting for a much better place is better than moving twice.
        best.filter(|best| best.gain * WORTH_WAITING >= awaited)
    }

    fn plan(&mut self, chosen: Move) {
        let Move { place, from, to, amount, .. } = chosen;
        let group = &self.view.cluster.groups[place];
        let (giver, taker) = (self.view.nodes[from].id, self.view.nodes[to].id);
        let (Some(leader), Some(old)) = (self.view.leader(group), group.on(giver)) else { return };
        let why = self.reason(&chosen);
        self.survey.budget.take(leader, to);
        self.survey.fill.remove(from, &amount);
        self.survey.fill.add(to, &amount);
        let operation = Operation::AddLearner { group: group.id, node: taker, replaces: Some(old.id) };
        self.draft.copy(place, group, operation, why);
    }

    /// What the move is mostly good for.
    fn reason(&self, chosen: &Move) -> Why {
        let Move { from, to, amount, .. } = *chosen;
        let fill = &self.survey.fill;
        if fill.too_full(from) {
            return Why::Full(self.view.nodes[from].id);
        }
        let ((gives, surplus), (takes, deficit)) = (fill.worst(from), fill.worst(to));
        let dimension = if surplus >= -deficit { gives } else { takes };
        let measure = [Measure::Replicas, Measure::Bytes, Measure::Load][dimension];
        let end = |node: usize| (self.view.nodes[node].id, fill.held(node)[dimension].round() as u64);
        Why::Uneven { measure, from: end(from), to: end(to), amount: amount[dimension].round() as u64 }
    }
}

/// A large step that has no divisor in common with `len`.
fn step_coprime_to(len: usize) -> usize {
    const LARGE: usize = 7_368_787;
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (LARGE..).find(|step| gcd(*step, len.max(1)) == 1).unwrap_or(1)
}
