//! How many replicas are being built where. What operators have begun keeps to the same bound as placement
//! (`moves_per_node`); what placement begins in the same round is not counted, so that neither keeps the other waiting.

use std::collections::HashMap;

use storage::ids::{GroupId, NodeId};

use super::Phase;
use super::moves::Next;
use crate::placement::Operation;
use crate::server::Soft;

/// What is being built.
pub(super) struct Building {
    /// By group, and by the node that gets a replica: the node that feeds it.
    fed_by: HashMap<(GroupId, NodeId), NodeId>,
    per_node_max: usize,
}

impl Building {
    /// As was reported, with what has begun since.
    pub fn new(soft: &Soft, per_node_max: usize) -> Self {
        let mut fed_by = HashMap::new();
        for (group, known) in &soft.groups {
            let learners = known.report.replicas.iter().filter(|replica| replica.learner);
            fed_by.extend(learners.map(|replica| ((*group, NodeId(replica.node)), known.by)));
        }
        for (group, underway) in &soft.operations {
            let failed = matches!(underway.state, Phase::Failed(..));
            if let (Some(node), Some(known), false) = (underway.builds, soft.groups.get(group), failed) {
                fed_by.insert((*group, node), known.by);
            }
        }
        Self { fed_by, per_node_max }
    }

    /// Takes a place for each replica that is to be built; where there is none, it has to wait.
    pub fn limit(&mut self, next: Next, soft: &Soft) -> Next {
        let Next::Step(Operation::AddLearner { group, node, .. }) = &next else { return next };
        match soft.groups.get(group) {
            Some(known) if !self.begin(*group, *node, known.by) => {
                Next::Wait("as many replicas as may be (moves_per_node) are being built there, or from there")
            }
            _ => next,
        }
    }

    fn begin(&mut self, group: GroupId, node: NodeId, leader: NodeId) -> bool {
        let building = self.fed_by.keys().filter(|(_, on)| *on == node).count();
        let feeding = self.fed_by.values().filter(|by| **by == leader).count();
        let has_begun = self.fed_by.contains_key(&(group, node));
        let free = has_begun || building.max(feeding) < self.per_node_max;
        if free {
            self.fed_by.insert((group, node), leader);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use proto::meta as pb;
    use storage::ids::Term;
    use storage::seam::Seams;

    use super::*;
    use crate::reconcile::Underway;
    use crate::reports::Resting;

    /// Groups with their leaders, of which group 10 has a learner on n4.
    fn soft() -> Soft {
        let now = Seams::real().clock.now();
        let mut soft = Soft::new(Term(1), now, 1);
        let replica =
            |node, learner| pb::ReplicaProgress { replica: node, node, learner, ..Default::default() };
        for (leader, groups) in [(1, 10..14), (2, 20..24)] {
            let report = |group: u64| pb::GroupReport {
                group,
                term: 5,
                replicas: [1, 2, 3].map(|node| replica(node, false)).to_vec(),
                ..Default::default()
            };
            let mut reports: Vec<pb::GroupReport> = groups.map(report).collect();
            if leader == 1 {
                reports[0].replicas.push(replica(4, true));
            }
            soft.take_report(NodeId(leader), now, reports, Resting::Known(0));
        }
        soft
    }

    fn add(group: u64, node: u64) -> Next {
        let (group, node) = (GroupId(group), NodeId(node));
        Next::Step(Operation::AddLearner { group, node, replaces: None })
    }

    #[test]
    fn moves_wait_for_a_place_on_both_nodes() {
        let mut soft = soft();
        let began = |building: &mut Building, soft: &Soft, group, node| {
            matches!(building.limit(add(group, node), soft), Next::Step(_))
        };
        let mut building = Building::new(&soft, 2);
        // One is built on n4 from n1 already.
        assert!(began(&mut building, &soft, 11, 4));
        assert!(!began(&mut building, &soft, 20, 4), "n4 gets two");
        assert!(!began(&mut building, &soft, 12, 5), "n1 feeds two");
        assert!(began(&mut building, &soft, 20, 5) && began(&mut building, &soft, 21, 5));
        assert!(began(&mut building, &soft, 10, 4), "what has begun goes on");
        // What has begun a moment ago is in no report.
        let what = "g11: add learner on n4".to_owned();
        let underway = Underway { what, state: Phase::Running, builds: Some(NodeId(4)) };
        soft.operations.insert(GroupId(11), underway);
        assert!(!began(&mut Building::new(&soft, 2), &soft, 20, 4));
        assert!(began(&mut Building::new(&soft, 3), &soft, 20, 4));
        // Other steps build nothing.
        let other = Next::Step(Operation::Split { group: GroupId(20) });
        assert!(matches!(Building::new(&soft, 1).limit(other, &soft), Next::Step(_)));
    }
}
