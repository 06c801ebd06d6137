//! What the meta-group's leader has been told lately, for those who list nodes and shards.

use std::time::Duration;

use proto::meta as pb;
use storage::ids::{GroupId, NodeId};
use txn::order::{GroupFacts, NodeFacts, Observed};

use super::MetaClient;
use crate::Error;
use crate::rpc::within;

/// How long it is waited for: whoever lists nodes may do so because something is wrong.
const OBSERVE_LIMIT: Duration = Duration::from_secs(2);

impl MetaClient {
    pub(super) async fn observe(&self) -> Result<Observed, Error> {
        let asked = self.describe_as(pb::DescribeRequest { without_plan: true });
        let known = within(&self.seams, OBSERVE_LIMIT, asked).await?;
        let nodes = known.nodes.into_iter().filter_map(|node| Some((NodeId(node.id), of_node(node.facts?))));
        let told = known.groups.into_iter().filter(|group| group.leader_node != 0);
        Ok(Observed {
            nodes: nodes.collect(),
            groups: told.map(|group| (GroupId(group.group), of_group(&group))).collect(),
        })
    }
}

fn of_node(facts: pb::NodeFacts) -> NodeFacts {
    let known = facts.capacity_bytes > 0;
    NodeFacts {
        locality: facts.locality,
        disk_bytes: known.then_some(facts.capacity_bytes),
        disk_used_bytes: known.then_some(facts.used_bytes),
        sessions: facts.sessions,
    }
}

fn of_group(group: &pb::GroupStatus) -> GroupFacts {
    let lag = group.replicas.iter().map(|replica| replica.lag).max();
    let nodes = |wanted: fn(&pb::ReplicaProgress) -> bool| {
        group.replicas.iter().filter(|replica| wanted(replica)).map(|replica| NodeId(replica.node)).collect()
    };
    GroupFacts {
        bytes: group.load.and_then(|load| load.bytes),
        reads_per_second: group.load.map(|load| load.reads_per_second),
        writes_per_second: group.load.map(|load| load.writes_per_second),
        voters: nodes(|replica| !replica.learner),
        // The leader says so of one from which it has not heard yet.
        lag: lag.filter(|lag| *lag != u64::MAX),
        unreachable: nodes(|replica| !replica.reachable),
    }
}
