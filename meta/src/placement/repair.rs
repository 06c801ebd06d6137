//! Changes of members that are needed: begun ones are ended, lost and missing voters replaced, nodes emptied, rules
//! and diversity obeyed. The most endangered groups come first.
//!
//! A replica is replaced in steps: a learner is added; when it has caught up, one joint change makes it a voter and
//! the old one none; if the old one leads, it first hands that over. A group never has fewer voters than it shall
//! have because of a step taken here, and a lost voter is dropped only together with its successor's vote.
//!
//! Each step is decided from what is, so it does not matter who began.

use std::collections::BTreeSet;

use storage::ids::ReplicaId;

use super::choose::Chooser;
use super::description::{Group, Replica};
use super::draft::Draft;
use super::explain::Why;
use super::operation::Operation;
use super::survey::{Survey, Urgency, amount};
use super::view::View;

/// At most so many groups are thought about for each replica that may be built.
const ATTEMPTS_PER_MOVE: usize = 2;

struct Repair<'r, 'a> {
    view: &'r View<'a>,
    survey: &'r mut Survey,
    draft: &'r mut Draft,
    place: usize,
    group: &'a Group,
}

/// Plans what groups need.
pub(super) fn repair(view: &View<'_>, survey: &mut Survey, draft: &mut Draft) {
    let mut attempts = ATTEMPTS_PER_MOVE * view.policy.moves_max;
    for need in std::mem::take(&mut survey.needs) {
        let place = need.place as usize;
        let group = &view.cluster.groups[place];
        if need.urgency != Urgency::Begun {
            if attempts == 0 {
                break;
            }
            attempts -= 1;
        }
        Repair { view, survey, draft, place, group }.meet(need.urgency);
    }
}

impl<'a> Repair<'_, 'a> {
    fn meet(&mut self, urgency: Urgency) {
        match urgency {
            Urgency::Begun => self.go_on(),
            Urgency::Endangered(_) | Urgency::Leaving => {
                self.fill_up();
            }
            Urgency::Surplus => self.shrink(),
            Urgency::Misplaced | Urgency::Together => self.rearrange(),
        }
    }

    fn chooser(&self) -> Chooser<'_, 'a> {
        Chooser { view: self.view, fill: &self.survey.fill, budget: &self.survey.budget }
    }

    fn voters(&self) -> Vec<&'a Replica> {
        self.group.replicas.iter().filter(|r| r.voter).collect()
    }

    /// Learners that are still of use.
    fn learners(&self) -> Vec<&'a Replica> {
        self.group.replicas.iter().filter(|r| !r.voter && !self.view.node(r).gone).collect()
    }

    /// How many more replicas the group needs than it has or is about to get. (It may have more than there are nodes
    /// where they shall be: those are replaced, too.)
    fn lacking(&self) -> usize {
        let stays = |r: &&Replica| !self.view.node(r).leaving;
        let there = self.group.replicas.iter().filter(stays).count();
        let rule = self.view.rule(self.group);
        rule.target.max(self.voters().len().min(rule.most)).saturating_sub(there)
    }

    /// Whether there are too few replicas, wherever they are.
    fn grows(&self) -> bool {
        self.group.replicas.len() < self.view.rule(self.group).target
    }

    /// There are learners, or a change of voters was cut off half-way.
    fn go_on(&mut self) {
        let can = self.view.policy.can;
        let lost = self.group.replicas.iter().find(|r| !r.voter && (r.lost || self.view.node(r).leaving));
        if let Some(lost) = lost.filter(|_| can.replace) {
            return self.remove(lost, Why::NotNeeded);
        }
        if self.grows() && self.fill_up() {
            return;
        }
        let live: Vec<&Replica> = self.learners().into_iter().filter(|r| self.view.node(r).live).collect();
        if self.group.joint {
            // First things first: until it is ended, two majorities are needed for everything.
            return self.promote(live.into_iter().filter(|r| r.caught_up).collect());
        }
        // All at once: one change of the membership instead of several, and no stop at an even number of voters when
        // there is no need for one.
        if !live.is_empty() && live.iter().all(|r| r.caught_up) {
            self.promote(live);
        }
    }

    /// Adds what is lacking. A group that has too few voters gets all it lacks at once; what is lost or leaves is
    /// replaced one by one. Returns whether anything was done.
    fn fill_up(&mut self) -> bool {
        let voters = self.voters();
        let rule = self.view.rule(self.group);
        let (grows, can) = (self.grows(), self.view.policy.can);
        if (grows && !can.grow) || (!grows && !can.replace) {
            return false;
        }
        let lacking = match grows {
            true => rule.target - self.group.replicas.len(),
            false => self.lacking().min(1),
        };
        // Not one now and the other later: two voters are worse than one.
        if !self.view.leader(self.group).is_some_and(|leader| self.survey.budget.feeds_all(leader, lacking)) {
            self.draft.stalled.waiting += 1;
            return false;
        }
        let stays = |r: &&Replica| !self.view.node(r).leaving;
        let mut others: Vec<usize> =
            self.group.replicas.iter().filter(stays).map(|r| self.view.index(r.node)).collect();
        let replaced = voters.iter().copied().filter(|r| self.view.node(r).leaving);
        let replaced = replaced.min_by_key(|r| !self.view.node(r).gone).filter(|_| !grows);
        let live = voters.iter().filter(|r| self.view.node(r).live).count();
        let why = match replaced {
            None => Why::Missing { have: voters.len(), want: rule.target },
            Some(r) if self.view.node(r).gone => Why::Repair { live, of: voters.len() },
            Some(r) => Why::Leaving(r.node),
        };
        let mut added = false;
        for _ in 0..lacking {
            let Some(node) = self.free_place(&others) else {
                self.draft.stalled.waiting += 1;
                break;
            };
            self.add(node, replaced, why.clone());
            others.push(node);
            added = true;
        }
        added
    }

    fn free_place(&self, others: &[usize]) -> Option<usize> {
        self.view.leader(self.group).filter(|leader| self.survey.budget.feeds(*leader))?;
        self.chooser().place(self.group, others).map(|(node, _)| node)
    }

    fn add(&mut self, node: usize, replaces: Option<&Replica>, why: Why) {
        let Some(leader) = self.view.leader(self.group) else { return };
        let amount = amount(self.group);
        self.survey.budget.take(leader, node);
        self.survey.fill.add(node, &amount);
        if let Some(old) = replaces {
            self.survey.fill.remove(self.view.index(old.node), &amount);
        }
        let operation = Operation::AddLearner {
            group: self.group.id,
            node: self.view.nodes[node].id,
            replaces: replaces.map(|r| r.id),
        };
        self.draft.copy(self.place, self.group, operation, why);
    }

    /// Learners have caught up: they get their votes, and who is too many leaves.
    fn promote(&mut self, learners: Vec<&'a Replica>) {
        let most = self.view.rule(self.group).most;
        let voters = self.voters();
        let mut stay: Vec<&Replica> = voters.iter().chain(&learners).copied().collect();
        let mut leave: Vec<&Replica> = Vec::new();
        while self.view.policy.can.replace && stay.len() > most {
            let Some(least) = self.chooser().least_needed(self.group, &stay) else { break };
            if !self.may_go(least) {
                // (What was begun is better ended with one voter too many than not at all.)
                if self.group.joint {
                    break;
                }
                self.draft.stalled.waiting += 1;
                return;
            }
            stay.retain(|r| r.id != least.id);
            leave.push(least);
        }
        if let Some(learner) = leave.iter().find(|r| !r.voter) {
            return self.remove(learner, Why::NotNeeded);
        }
        if let Some(leader) = leave.iter().find(|r| Some(r.node) == self.group.leader) {
            if self.hand_over(leader) {
                return;
            }
            // Nobody else may lead before the others have votes.
            stay = voters.iter().chain(&learners).copied().collect();
        }
        let voters: BTreeSet<ReplicaId> = stay.iter().map(|r| r.id).collect();
        let operation = Operation::ChangeVoters { group: self.group.id, voters };
        self.draft.step(self.place, operation, Why::CaughtUp);
    }

    /// There are too many voters.
    fn shrink(&mut self) {
        let voters = self.voters();
        let want = self.view.rule(self.group).most;
        let Some(least) = self.chooser().least_needed(self.group, &voters) else { return };
        // A node that is only away for a moment is awaited: its voter may be needed.
        let rest = voters.iter().filter(|r| r.id != least.id);
        let live = rest.filter(|r| self.view.node(r).live).count();
        if !self.may_go(least) || (self.view.node(least).live && live < want) {
            self.draft.stalled.waiting += 1;
        } else if Some(least.node) == self.group.leader {
            self.hand_over(least);
        } else {
            self.remove(least, Why::Surplus { have: voters.len(), want });
        }
    }

    /// Whether it is known well enough that it is this one that is not needed: who goes is chosen by where all of them stand.
    fn may_go(&self, replica: &Replica) -> bool {
        self.view.located || self.view.node(replica).leaving
    }

    /// Makes another voter the leader, so that this one can go.
    fn hand_over(&mut self, leader: &Replica) -> bool {
        let leading = &self.survey.leading;
        let next = self.chooser().next_leader(self.group, |n| leading.leaders(n), Some(leader));
        let Some(next) = next.filter(|_| self.view.policy.can.transfer) else { return false };
        let operation = Operation::TransferLeader { group: self.group.id, replica: next.id, node: next.node };
        self.draft.step(self.place, operation, Why::Leaving(leader.node));
        true
    }

    fn remove(&mut self, replica: &Replica, why: Why) {
        let (group, node) = (self.group.id, replica.node);
        let operation = Operation::RemoveReplica { group, replica: replica.id, node };
        self.draft.step(self.place, operation, why);
    }

    /// Voters are in bad places: the one whose replacement does most good is replaced.
    fn rearrange(&mut self) {
        let Some(leader) = self.view.leader(self.group) else { return };
        if !self.survey.budget.feeds(leader) {
            return;
        }
        let voters = self.voters();
        let nodes: Vec<usize> = voters.iter().map(|r| self.view.index(r.node)).collect();
        let now = self.chooser().quality_of(self.group, &nodes);
        let mut best: Option<(_, &Replica, usize)> = None;
        for (at, voter) in voters.iter().enumerate() {
            let mut others = nodes.clone();
            others.remove(at);
            let Some((node, _)) = self.chooser().place(self.group, &others) else { continue };
            others.push(node);
            let then = self.chooser().quality_of(self.group, &others);
            let leads = Some(voter.node) == self.group.leader;
            let rank = (then, leads, voter.id);
            if then < now && best.as_ref().is_none_or(|(least, ..)| rank < *least) {
                best = Some((rank, *voter, node));
            }
        }
        let Some(((then, ..), voter, node)) = best else {
            self.draft.stalled.waiting += 1;
            return;
        };
        let why = match then.0 < now.0 {
            true => Why::Misplaced(voter.node),
            false => Why::Together { diversity: now.1.0, then: then.1.0 },
        };
        self.add(node, Some(voter), why);
    }
}
