//! What operators want of nodes: that they lead nothing for a while, that they are emptied, that they are not awaited any longer.
//!
//! A node is named by its place, and found by its address: its number it was given when it joined. Where a node that left or died
//! had a vote in the meta-group, another one has it then, without anybody asking; that is counted, too ([`META_MEMBER`]).

use std::time::Duration;

use proto::meta::change_duty::Change;
use proto::meta::{ChangeDutyRequest, DescribeResponse, NodeDuty, NodeStatus, RepairRequest};
use storage::ids::META_GROUP;

use super::net;
use super::operate::{Ending, LOOK_EVERY, Operator, refused, voters};
use super::plan::Wish;
use super::world::Place;

/// How it is counted that the meta-group got another member in the place of one whose node left or died.
pub const META_MEMBER: &str = "meta-member";
const NO_MEMBER: &str = "it is no member";
/// Within this time it is known of a dead node that it is dead.
const DEAD_WITHIN: Duration = Duration::from_secs(5);

impl Operator {
    /// A node leads nothing until that time is over.
    pub(super) async fn drain(&self, cluster: &DescribeResponse, place: Place, lasts: Duration) -> Ending {
        let Some(node) = at(cluster, place).map(|known| known.id) else { return refused(NO_MEMBER) };
        match self.meta.change_duty(duty(node, Change::Drain)).await {
            Ok(_) => {}
            refusal => return refusal.into(),
        }
        let (begun, mut drained) = (self.seams.clock.now(), false);
        while self.since(begun) < lasts {
            if let Ok(now) = self.meta.describe().await {
                drained |= is_drained(&now, node);
            }
            self.seams.sleep(LOOK_EVERY).await;
        }
        // (It may be on its way out meanwhile, and is refused then.)
        while self
            .meta
            .change_duty(duty(node, Change::Undrain))
            .await
            .is_err_and(|error| error.is_retriable())
        {
            self.seams.sleep(LOOK_EVERY).await;
        }
        match drained {
            true => Ending::Done,
            false => refused("it led something until it was to serve again"),
        }
    }

    /// A node is emptied; with [`Wish::Retire`] it is stopped then.
    pub(super) async fn decommission(
        &self,
        cluster: &DescribeResponse,
        wish: Wish,
        place: Place,
        recall: Option<Duration>,
    ) -> Ending {
        let Some(node) = spare(cluster, place, self.replicas) else {
            return refused("it does not serve, or the others can't hold as many replicas as are wanted");
        };
        let votes = has_vote(cluster, node);
        match self.meta.change_duty(duty(node, Change::Decommission)).await {
            Ok(_) => {}
            refusal => return refusal.into(),
        }
        let is_empty = |now: &DescribeResponse| {
            find(now, node).is_some_and(|n| n.duty() == NodeDuty::NodeDecommissioned)
        };
        let ending = self.wait(&format!("decommission-{node}"), recall, is_empty).await;
        if matches!(ending, Ending::Done) {
            self.count_member(votes);
            if wish == Wish::Retire {
                self.retiring.lock().push(place);
            }
        }
        ending
    }

    /// What a node that has died had is rebuilt elsewhere, before it comes back; with [`Wish::Repair`], because the cluster is told
    /// not to await it.
    pub(super) async fn replace(&self, cluster: &DescribeResponse, wish: Wish, place: Place) -> Ending {
        let Some(node) = at(cluster, place).filter(|known| known.replicas > 0).map(|known| known.id) else {
            return refused("it has nothing that could be rebuilt");
        };
        let (votes, begun, mut died) = (has_vote(cluster, node), self.seams.clock.now(), false);
        loop {
            let now = self.meta.describe().await.ok();
            match now.as_ref().and_then(|now| Some((now, find(now, node)?))) {
                // A leader that has yet to hear of a node takes it to be alive.
                Some((_, known)) if known.alive && known.silent_ms.is_some() => {
                    if died {
                        return refused("it came back before");
                    }
                    if self.since(begun) > DEAD_WITHIN {
                        return refused("it is alive");
                    }
                }
                Some((now, _)) => {
                    died = true;
                    if holds_nothing(now, node) {
                        self.count_member(votes);
                        return Ending::Done;
                    }
                    if wish == Wish::Repair {
                        // Said each time, for another leader would not know; until it counts as dead, it is refused.
                        let _ = self.meta.repair(RepairRequest { node }).await;
                    }
                }
                None => {}
            }
            self.seams.sleep(LOOK_EVERY).await;
        }
    }

    fn count_member(&self, had_vote: bool) {
        if had_vote {
            self.tally.lock().entry(META_MEMBER).or_default().done += 1;
        }
    }
}

fn duty(node: u64, change: Change) -> ChangeDutyRequest {
    ChangeDutyRequest { node, change: change.into(), force: false }
}

/// The node at a place, if it has joined.
fn at(cluster: &DescribeResponse, place: Place) -> Option<&NodeStatus> {
    let address = net::address(place);
    cluster.nodes.iter().find(|node| node.addresses.as_ref().is_some_and(|at| at.rpc == address))
}

fn find(cluster: &DescribeResponse, node: u64) -> Option<&NodeStatus> {
    cluster.nodes.iter().find(|known| known.id == node)
}

/// The node at a place, if it serves and enough others do.
fn spare(cluster: &DescribeResponse, place: Place, replicas: usize) -> Option<u64> {
    let serves = |node: &&NodeStatus| node.duty() == NodeDuty::NodeActive;
    let node = at(cluster, place).filter(serves)?;
    (cluster.nodes.iter().filter(serves).count() > replicas).then_some(node.id)
}

/// Whether it is a member of the meta-group.
fn has_vote(cluster: &DescribeResponse, node: u64) -> bool {
    let group = cluster.groups.iter().find(|group| group.group == META_GROUP.0);
    group.is_some_and(|group| voters(group).any(|voter| voter == node))
}

/// Whether somebody leads each group.
fn is_led(cluster: &DescribeResponse) -> bool {
    cluster.groups.iter().all(|group| group.leader_node != 0)
}

/// Whether a node that is to lead nothing leads nothing.
fn is_drained(cluster: &DescribeResponse, node: u64) -> bool {
    let known = find(cluster, node).is_some_and(|known| known.duty() == NodeDuty::NodeDraining);
    known && is_led(cluster) && cluster.groups.iter().all(|group| group.leader_node != node)
}

/// Whether no group has a replica on a node, by the word of all leaders.
fn holds_nothing(cluster: &DescribeResponse, node: u64) -> bool {
    let mut replicas = cluster.groups.iter().flat_map(|group| &group.replicas);
    is_led(cluster) && replicas.all(|replica| replica.node != node)
}

#[cfg(test)]
mod tests {
    use proto::meta::{Addresses, GroupStatus, ReplicaProgress};

    use super::*;

    /// Four nodes, which joined in the opposite order of their places; the meta-group and a shard on nodes 1 to 3, led by 1 and 2.
    fn cluster() -> DescribeResponse {
        let node = |id: u64| NodeStatus {
            id,
            addresses: Some(Addresses { rpc: net::address(4 - id as Place), ..Default::default() }),
            ..Default::default()
        };
        let group = |group: u64| GroupStatus {
            group,
            leader_node: group,
            replicas: (1..=3).map(|node| ReplicaProgress { node, ..Default::default() }).collect(),
            ..Default::default()
        };
        DescribeResponse {
            nodes: (1..=4).map(node).collect(),
            groups: [1, 2].map(group).into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_node_is_found_by_its_address() {
        let cluster = cluster();
        let found: Vec<Option<u64>> = (0..5).map(|place| at(&cluster, place).map(|node| node.id)).collect();
        assert_eq!(found, [Some(4), Some(3), Some(2), Some(1), None]);
    }

    #[test]
    fn a_node_is_sent_away_only_if_enough_others_serve() {
        let mut cluster = cluster();
        assert_eq!(
            (spare(&cluster, 0, 3), spare(&cluster, 0, 4), spare(&cluster, 7, 3)),
            (Some(4), None, None)
        );
        cluster.nodes[0].duty = NodeDuty::NodeDraining.into();
        assert_eq!((spare(&cluster, 0, 3), spare(&cluster, 0, 2)), (None, Some(4)));
        assert_eq!(spare(&cluster, 3, 1), None, "it does not serve");
    }

    #[test]
    fn a_node_is_drained_when_it_leads_nothing_that_is_known() {
        let mut cluster = cluster();
        assert!(!is_drained(&cluster, 3), "nobody wants it to be");
        cluster.nodes.iter_mut().for_each(|node| node.duty = NodeDuty::NodeDraining.into());
        let drained =
            |cluster: &DescribeResponse| (1..=4).map(|node| is_drained(cluster, node)).collect::<Vec<_>>();
        assert_eq!(drained(&cluster), [false, false, true, true]);
        cluster.groups[0].leader_node = 0;
        assert_eq!(drained(&cluster), [false; 4], "who leads the first group is not known");
    }

    #[test]
    fn a_node_holds_nothing_if_all_leaders_say_so() {
        let mut cluster = cluster();
        assert!((1..=4).all(|node| holds_nothing(&cluster, node) == (node == 4)));
        assert!((1..=4).all(|node| has_vote(&cluster, node) == (node < 4)));
        cluster.groups[0].replicas[0].learner = true;
        assert!(!has_vote(&cluster, 1) && !holds_nothing(&cluster, 1));
        cluster.groups[1].leader_node = 0;
        assert!(!holds_nothing(&cluster, 4), "nobody speaks for the second group");
    }
}
