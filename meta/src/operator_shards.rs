//! What operators want of shards: splits, merges, and rules for tables.

use std::sync::Arc;

use proto::common::ShardDescriptor;
use proto::meta as pb;
use proto::meta::command::Command;
use storage::ids::{GroupId, META_GROUP};

use crate::Error;
use crate::reconcile;
use crate::reconcile::reshape::{self, Cut};
use crate::rpc::Channels;
use crate::server::MetaServer;

impl MetaServer {
    /// Cuts a shard in two at a key, or says where its middle is. A shard that begins at the key already is left as it is.
    pub async fn split(self: &Arc<Self>, request: pb::SplitRequest) -> Result<pb::SplitResponse, Error> {
        let group = GroupId(request.group);
        let shard = self.shard(group)?;
        let own = self.clone();
        if request.only_choose {
            let key = reshape::choose(&own, &Channels::new(&own.seams), group, Cut::Bytes).await?;
            return Ok(pb::SplitResponse { group: group.0, key });
        }
        let Some(key) = request.key else {
            return Err(Error::Rejected(format!("at which key is {group} to be cut? Ask for one first")));
        };
        if let Some(beginning) = self.beginning_at(&key) {
            return Ok(pb::SplitResponse { group: beginning.0, key });
        }
        if shard.start[..] > key[..] || (!shard.end.is_empty() && shard.end[..] <= key[..]) {
            return Err(Error::Rejected(format!("{group} does not hold that key")));
        }
        let at = key.clone();
        let work = async move {
            // Whoever asked before, and did not wait for the answer, may have had it cut while this waited for its turn.
            match own.beginning_at(&at) {
                Some(beginning) => Ok(beginning),
                None => reshape::split(&own, &Channels::new(&own.seams), group, at, false).await,
            }
        };
        let born = reconcile::alone(self, group, format!("{group}: split"), work).await?;
        self.nudge.notify_one();
        Ok(pb::SplitResponse { group: born.0, key })
    }

    /// The shard whose first key that is.
    fn beginning_at(&self, key: &[u8]) -> Option<GroupId> {
        self.replica.read(|state| {
            let begins = |(_, shard): &(&GroupId, &pb::Shard)| {
                shard.descriptor.as_ref().is_some_and(|descriptor| descriptor.start[..] == *key)
            };
            state.shards().iter().find(begins).map(|(group, _)| *group)
        })
    }

    /// Has a shard absorb its right neighbour.
    pub async fn merge(&self, request: pb::MergeRequest) -> Result<pb::MergeResponse, Error> {
        let left = GroupId(request.group);
        let shard = self.shard(left)?;
        let right = self.replica.read(|state| {
            let shards = state.shards().values().filter_map(|shard| shard.descriptor.as_ref());
            let mut next = shards.filter(|other| !shard.end.is_empty() && other.start == shard.end);
            next.next().map(|next| (next.group, next.start.clone()))
        });
        let Some((right, start)) = right else {
            return Err(Error::Rejected(format!(
                "{left} has no right neighbour; `flotilla admin shards` shows them in order"
            )));
        };
        if shard.start[..] < crate::DEFAULT_DATABASE_START[..]
            && start[..] >= crate::DEFAULT_DATABASE_START[..]
        {
            return Err(Error::Rejected("the system's shard is not merged with others".into()));
        }
        let rules = self.replica.read(|state| {
            let rule = |start: &[u8]| {
                let family = start.first_chunk().map(|prefix| u64::from_be_bytes(*prefix));
                let own = state.cluster().rules.iter().find(|rule| Some(rule.family) == family);
                own.map(|rule| (rule.replicas, rule.placement.clone()))
            };
            rule(&shard.start) == rule(&start)
        });
        if !rules {
            return Err(Error::Rejected(format!(
                "{left} and g{right} lie in tables with different rules for their replicas"
            )));
        }
        let begin = pb::BeginMerge { left: left.0, right, automatic: false };
        let result = self.propose(Command::BeginMerge(begin)).await?;
        self.nudge.notify_one();
        Ok(pb::MergeResponse { operation: format!("merge-{}", result.r#move), right })
    }

    /// Says what is wanted of a table's shards.
    pub async fn set_rule(&self, rule: pb::TableRule) -> Result<(), Error> {
        self.propose(Command::SetRule(rule)).await?;
        self.nudge.notify_one();
        Ok(())
    }

    fn shard(&self, group: GroupId) -> Result<ShardDescriptor, Error> {
        if group == META_GROUP {
            return Err(Error::Rejected("the meta-group is no shard: it is neither split nor merged".into()));
        }
        let known = self.replica.read(|state| state.shards().get(&group).and_then(|s| s.descriptor.clone()));
        known.ok_or_else(|| {
            Error::Rejected(format!("there is no shard {group}; `flotilla admin shards` lists them"))
        })
    }
}
