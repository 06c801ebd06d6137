//! Replicas on this node that are no members of their groups any more.
//!
//! A replica that leaves its group is removed from its node at once, by request. If the node was down then, or the request
//! was lost, or a replica was made and never added, it stays: it hears from no leader, can't be elected (a majority of
//! those it knows has moved on, and gives no vote), and takes room. So each node looks for replicas of its own that nobody
//! has written to for a while, and asks the group's leader.
//!
//! **Only the leader's word counts**, given after it has made sure, with a majority, that it leads: neither the node's own
//! view of the members (it may be from before), nor the meta-group's map (it is told later) would do. And the leader's "no"
//! is final: no replica id is added to a group twice. There is one moment at which a replica that will be wanted is no
//! member: after it was made and before it is added. It is shorter than [`UNHEARD_MIN`]; if it ever isn't, what is added is
//! a learner without a replica, which never catches up, never votes, and is removed by placement.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::admin as rpc;
use proto::admin::node_control_client::NodeControlClient;
use raft::{Group, MultiRaft};
use storage::ids::{GroupId, NodeId, ReplicaId};
use storage::seam::Seams;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use txn::Directory;

use crate::reconcile::OPERATION_LIMIT;
use crate::rpc::{Channels, within};
use crate::{Error, MetaClient};

/// Between two rounds.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Nobody writes to replicas at rest, and nearly all of them are in order: they are looked at in one of so many rounds.
const RESTING_EVERY: u32 = 4;
/// A replica that a leader has written to more lately is in order.
const UNHEARD_MIN: Duration = Duration::from_secs(20);
const _: () = assert!(UNHEARD_MIN.as_secs() >= 2 * OPERATION_LIMIT.as_secs());
/// How long a leader may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Removes them.
pub struct Leftovers {
    cluster_id: Bytes,
    multi: Arc<MultiRaft>,
    client: Arc<MetaClient>,
    channels: Channels,
    seams: Seams,
}

impl Leftovers {
    /// Those among the replicas in `multi`; `client` knows who leads and where.
    pub fn new(cluster_id: u128, multi: Arc<MultiRaft>, client: Arc<MetaClient>, seams: Seams) -> Arc<Self> {
        let cluster_id = cluster_id.to_be_bytes().to_vec().into();
        Arc::new(Self { cluster_id, multi, client, channels: Channels::new(&seams), seams })
    }

    /// Removes this node's replica if it is no member of its group; `leader` is where the leader is believed to be. An
    /// error if it is a member, or if nobody can say. A replica that isn't there is removed.
    pub async fn remove(
        &self,
        group: GroupId,
        replica: ReplicaId,
        leader: Option<NodeId>,
    ) -> Result<(), Error> {
        if self.multi.group(group).is_none_or(|here| here.replica() != replica) {
            return Ok(());
        }
        let leader = leader.or_else(|| Directory::leader(&*self.client, group));
        let leader = leader.ok_or_else(|| Error::Unavailable(format!("nobody is known to lead {group}")))?;
        let address = Directory::address(&*self.client, leader)
            .ok_or_else(|| Error::Unavailable(format!("the address of {leader} is not known")))?;
        let mut control = NodeControlClient::new(self.channels.get(&address)?);
        let (cluster_id, ask) = (self.cluster_id.clone(), (group.0, replica.0));
        let request = rpc::HasMemberRequest { cluster_id, group: ask.0, replica: ask.1 };
        let answer = within(&self.seams, ANSWER_LIMIT, control.has_member(request)).await?;
        if answer.into_inner().member {
            return Err(Error::Unavailable(format!("{replica} is a member of {group}")));
        }
        let removed = self.multi.remove_replica(group, replica).await;
        removed.map_err(|error| Error::Unavailable(error.to_string()))
    }

    /// It rests, so nobody writes to it; and it belongs here, by the map that is known here. (That may be old, and says nothing
    /// for certain. A leader is woken and asked only if it speaks against the replica.)
    fn rests_in_order(&self, group: &Group) -> bool {
        group.rests() && self.client.has_replica(group.id(), group.replica())
    }

    /// Looks for them until cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut round = 0_u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.seams.beat(LOOK_EVERY) => {}
            }
            let groups = match round.is_multiple_of(RESTING_EVERY) {
                true => self.multi.groups(),
                false => self.multi.awake(),
            };
            round = round.wrapping_add(1);
            for group in groups {
                if group.leads().is_some() || group.unheard_for() < UNHEARD_MIN || self.rests_in_order(&group)
                {
                    continue;
                }
                let (id, replica) = (group.id(), group.replica());
                drop(group);
                match self.remove(id, replica, None).await {
                    Ok(()) => info!("{id}: {replica} was no member any more, and is removed from this node"),
                    Err(error) => debug!("{id}: {replica} has not heard from a leader for a while: {error}"),
                }
            }
        }
    }
}
