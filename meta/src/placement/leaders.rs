//! Leaders: away from where they should not be, then spread by load, within tables, and by number.
//!
//! Handing a leadership over copies nothing, but clients notice for some milliseconds. So it, too, is done only where
//! something comes of it. The three ways of spreading can't work against each other: a transfer for the sake of
//! load lowers the excess of load (the sum of the squares of what nodes have above their band); one for a table's sake
//! leaves the excess of load as it is or lowers it, and evens out the table; one for the number's sake leaves load and
//! table no worse, and evens out the number. So leaders come to rest.
//!
//! Loads waver, and are known late: they are averages over seconds, and who has just begun to lead has none. Therefore a node within
//! its band gives nothing; one above it gives until it is well within; a shard whose leader or range has changed lately stays; and
//! a node that leads such a shard gives nothing before it is known what is left to it.

use std::collections::BTreeMap;

use storage::ids::META_GROUP;

use super::description::Group;
use super::draft::Draft;
use super::explain::{Measure, Why};
use super::fill::REST;
use super::operation::Operation;
use super::survey::Survey;
use super::view::View;

/// Who leads how much.
pub(super) struct Leading {
    leaders: Vec<u64>,
    load: Vec<u64>,
    nodes: usize,
    slack: f64,
    /// More load than this is too much.
    load_max: f64,
    /// … and is brought down to this: see [`super::fill`].
    load_rest: f64,
    /// A transfer is worth it if the giver has so much more before it than the taker has after it: what wavers at the edge of the
    /// band must not be handed back.
    worth: f64,
    /// Nodes whose numbers of leaders differ by less are even.
    apart_min: u64,
    /// It is not known yet how much the node leads.
    guessed: Vec<bool>,
    /// Of some group it is not known who will lead it in a moment.
    pub changing: bool,
    bands: super::policy::Bands,
}

impl Leading {
    pub fn new(view: &View<'_>) -> Self {
        let bands = view.policy.bands;
        Self {
            leaders: vec![0; view.nodes.len()],
            load: vec![0; view.nodes.len()],
            nodes: view.nodes.iter().filter(|n| n.leads).count(),
            slack: bands.load_slack,
            load_max: 0.0,
            load_rest: 0.0,
            worth: 0.0,
            apart_min: 2,
            guessed: vec![false; view.nodes.len()],
            changing: false,
            bands,
        }
    }

    #[inline]
    pub fn count(&mut self, node: usize, group: &Group) {
        self.leaders[node] += 1;
        self.load[node] += group.load.led();
        // (What is guessed of little is little.)
        self.guessed[node] |= group.guessed && group.load.led() as f64 > self.slack;
    }

    /// Everything has been counted.
    pub fn counted(&mut self) {
        let nodes = self.nodes.max(1) as f64;
        let load = self.load.iter().sum::<u64>() as f64 / nodes;
        let band = (load * self.bands.led_load).max(self.slack);
        (self.load_max, self.load_rest, self.worth) = (load + band, load + REST * band, band / 2.0);
        let leaders = self.leaders.iter().sum::<u64>() as f64 / nodes;
        // Two that are both within the band are even.
        self.apart_min = (2.0 * self.bands.leaders * leaders).ceil().max(2.0) as u64;
    }

    pub fn leaders(&self, node: usize) -> u64 {
        self.leaders[node]
    }

    pub fn load(&self, node: usize) -> u64 {
        self.load[node]
    }

    fn excess(&self, load: u64) -> f64 {
        let excess = (load as f64 - self.load_rest).max(0.0);
        excess * excess
    }

    /// By how much a transfer lowers the excess of load.
    fn load_gain(&self, from: usize, to: usize, load: u64) -> f64 {
        let before = self.excess(self.load[from]) + self.excess(self.load[to]);
        before - self.excess(self.load[from].saturating_sub(load)) - self.excess(self.load[to] + load)
    }

    fn transfer(&mut self, from: usize, to: usize, load: u64) {
        self.leaders[from] = self.leaders[from].saturating_sub(1);
        self.leaders[to] += 1;
        self.load[from] = self.load[from].saturating_sub(load);
        self.load[to] += load;
    }
}

/// Hands a leadership over.
fn transfer(
    view: &View<'_>,
    survey: &mut Survey,
    draft: &mut Draft,
    place: usize,
    (from, to): (usize, usize),
    why: Why,
) {
    let group = &view.cluster.groups[place];
    let node = view.nodes[to].id;
    let Some(replica) = group.on(node).map(|r| r.id) else { return };
    survey.leading.transfer(from, to, group.load.led());
    survey.budget.transfers = survey.budget.transfers.saturating_sub(1);
    draft.step(place, Operation::TransferLeader { group: group.id, replica, node }, why);
}

/// Moves leaders away from nodes that shall lead nothing, and to where rules want them.
pub(super) fn evacuate(view: &View<'_>, survey: &mut Survey, draft: &mut Draft) {
    if !view.policy.can.transfer {
        return;
    }
    for place in std::mem::take(&mut survey.ill_led) {
        let place = place as usize;
        if survey.budget.transfers == 0 {
            return;
        }
        if draft.touched(place) {
            continue;
        }
        let group = &view.cluster.groups[place];
        let Some(from) = view.leader(group) else { continue };
        let rule = view.rule(group);
        let must = !view.nodes[from].leads;
        // What has just been moved there by others may be moved again only if it must.
        if group.restless && !must {
            continue;
        }
        let candidates = group.replicas.iter().filter(|r| view.may_lead(group, r));
        let candidates = candidates.map(|r| view.index(r.node)).filter(|n| must || rule.leads_well(*n));
        let rank = |n: &usize| (!rule.leads_well(*n), survey.leading.leaders(*n), *n);
        let Some(to) = candidates.min_by_key(rank) else { continue };
        let node = view.nodes[from].id;
        let why = if must { Why::MayNotLead(node) } else { Why::LeadsElsewhere(node) };
        transfer(view, survey, draft, place, (from, to), why);
    }
}

/// Spreads leaders.
pub(super) fn spread(view: &View<'_>, survey: &mut Survey, draft: &mut Draft) {
    // By half the truth, leaders would never come to rest.
    if view.cluster.incomplete || survey.leading.changing || !view.policy.can.transfer {
        return;
    }
    spread_load(view, survey, draft);
    // Families first: where their leaders come to lie decides which nodes the others should avoid.
    let mut moved = BTreeMap::new();
    spread_numbers(view, survey, draft, &mut moved, true);
    spread_numbers(view, survey, draft, &mut moved, false);
}

/// The leader's node, if the leadership may be moved for the sake of evenness.
fn movable(view: &View<'_>, draft: &Draft, place: usize) -> Option<usize> {
    let group = &view.cluster.groups[place];
    let stays = group.id == META_GROUP || group.restless || draft.touched(place);
    if stays { None } else { view.leader(group).filter(|leader| view.nodes[*leader].leads) }
}

/// Where the leader may go without being farther from where the rule wants it.
fn candidates<'v>(
    view: &'v View<'_>,
    group: &'v Group,
    leader: usize,
) -> impl Iterator<Item = usize> + Clone + 'v {
    let rule = view.rule(group);
    let may = group.replicas.iter().filter(|r| view.may_lead(group, r)).map(|r| view.index(r.node));
    may.filter(move |node| rule.leads_well(*node) || !rule.leads_well(leader))
}

fn spread_load(view: &View<'_>, survey: &mut Survey, draft: &mut Draft) {
    let mut nodes: Vec<usize> = (0..view.described().len())
        .filter(|n| survey.leading.load(*n) as f64 > survey.leading.load_max && !survey.leading.guessed[*n])
        .collect();
    nodes.sort_by_key(|n| (std::cmp::Reverse(survey.leading.load(*n)), *n));
    for node in nodes {
        let mut hottest = std::mem::take(&mut survey.hottest_led[node]);
        while survey.budget.transfers > 0 && survey.leading.load(node) as f64 > survey.leading.load_rest {
            let leading = &survey.leading;
            let mut best: Option<(f64, usize, usize)> = None;
            for &place in &hottest {
                let place = place as usize;
                let group = &view.cluster.groups[place];
                let Some(from) = movable(view, draft, place).filter(|from| *from == node) else { continue };
                if group.guessed {
                    continue;
                }
                let load = group.load.led();
                for to in candidates(view, group, from) {
                    // A group that is hot all by itself would only take its heat elsewhere.
                    let after = leading.load(to) + load;
                    let better = after as f64 + leading.worth <= leading.load(from) as f64;
                    let gain = leading.load_gain(from, to, load);
                    if better && gain > 0.0 && best.is_none_or(|(most, ..)| gain > most) {
                        best = Some((gain, place, to));
                    }
                }
            }
            let Some((_, place, to)) = best else { break };
            hottest.retain(|p| *p as usize != place);
            let amount = view.cluster.groups[place].load.led();
            let end = |node: usize| (view.nodes[node].id, survey.leading.load(node));
            let why = Why::Uneven { measure: Measure::LedLoad, from: end(node), to: end(to), amount };
            transfer(view, survey, draft, place, (node, to), why);
        }
    }
}

/// Spreads leaders by number: those of one family, or all.
fn spread_numbers(
    view: &View<'_>,
    survey: &mut Survey,
    draft: &mut Draft,
    moved: &mut BTreeMap<usize, usize>,
    within_families: bool,
) {
    let groups = &view.cluster.groups;
    let ends = |leading: &Leading| {
        let numbers =
            (0..view.described().len()).filter(|n| view.nodes[*n].leads).map(|n| leading.leaders(n));
        (numbers.clone().min().unwrap_or(0), numbers.max().unwrap_or(0))
    };
    let (least, most) = ends(&survey.leading);
    if !within_families && most < least + survey.leading.apart_min {
        return;
    }
    // Of the family at hand: leaders by node.
    let mut within: Vec<u32> = vec![0; view.nodes.len()];
    let mut begin = 0;
    while begin < groups.len() {
        if survey.budget.transfers == 0 {
            return;
        }
        let family = groups[begin].family;
        let alone = family.is_none();
        let len = if alone { 1 } else { groups[begin..].iter().take_while(|g| g.family == family).count() };
        let run = begin..begin + len;
        begin += len;
        if within_families && len == 1 {
            continue;
        }
        let leader_of = |place: usize, moved: &BTreeMap<usize, usize>| {
            moved.get(&place).copied().or(groups[place].leader.map(|l| view.index(l)))
        };
        let mut most = 0;
        for place in run.clone() {
            if let Some(leader) = leader_of(place, moved) {
                within[leader] += 1;
                most = most.max(within[leader]);
            }
        }
        // With one leader on a node, there is nothing to spread within the family.
        if !within_families || most >= 2 {
            for place in run.clone() {
                if survey.budget.transfers == 0 {
                    break;
                }
                let Some(from) = movable(view, draft, place) else { continue };
                // Most groups are passed over here.
                let can_give = match within_families {
                    true => within[from] >= 2,
                    false => survey.leading.leaders(from) >= least + survey.leading.apart_min,
                };
                if !can_give {
                    continue;
                }
                let Some((to, why)) = better_place(view, survey, place, from, &within, within_families)
                else {
                    continue;
                };
                within[from] = within[from].saturating_sub(1);
                within[to] += 1;
                moved.insert(place, to);
                transfer(view, survey, draft, place, (from, to), why);
            }
        }
        for place in run {
            if let Some(leader) = leader_of(place, moved) {
                within[leader] = 0;
            }
            if let Some(leader) = groups[place].leader {
                within[view.index(leader)] = 0;
            }
        }
    }
}

/// Where the group's leader should go, if anywhere.
fn better_place(
    view: &View<'_>,
    survey: &Survey,
    place: usize,
    from: usize,
    within: &[u32],
    within_families: bool,
) -> Option<(usize, Why)> {
    let group = &view.cluster.groups[place];
    let leading = &survey.leading;
    let numbers = |node: usize| (u64::from(within[node]), leading.leaders(node));
    let to = candidates(view, group, from).min_by_key(|n| (numbers(*n), *n))?;
    let (gives, takes) = (numbers(from), numbers(to));
    let worthwhile = match within_families {
        true => gives.0 >= takes.0 + 2,
        false => gives.0 > takes.0 && gives.1 >= takes.1 + leading.apart_min,
    };
    if !worthwhile || leading.load_gain(from, to, group.load.led()) < 0.0 {
        return None;
    }
    let (giver, taker) = (view.nodes[from].id, view.nodes[to].id);
    let why = match within_families {
        true => Why::Family { from: (giver, gives.0), to: (taker, takes.0) },
        false => {
            Why::Uneven { measure: Measure::Leaders, from: (giver, gives.1), to: (taker, takes.1), amount: 1 }
        }
    };
    Some((to, why))
}
