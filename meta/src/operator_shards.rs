//! What operators want of shards: splits, merges, and rules for tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::common::ShardDescriptor;
use proto::meta::command::Command;
use proto::meta::{self as pb, NodeDuty};
use storage::ids::{GroupId, KeyRange, META_GROUP};

use crate::Error;
use crate::placement::{Locality, Rule};
use crate::reconcile;
use crate::reconcile::reshape::{self, Cut};
use crate::rpc::Channels;
use crate::server::MetaServer;
use crate::settings::Settings;
use crate::state::State;

/// Shards that one command leaves to placement, at most.
const UNPINNED_MAX: usize = 1_000;

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

    /// Says what is wanted of a table's shards; answers what of it can't be had with the nodes there are.
    pub async fn set_rule(&self, rule: pb::TableRule) -> Result<pb::SetRuleResponse, Error> {
        self.propose(Command::SetRule(rule.clone())).await?;
        self.nudge.notify_one();
        Ok(pb::SetRuleResponse { unmet: self.replica.read(|state| unmet(state, &rule)) })
    }

    /// No key in a range is ever used again: nothing is wanted of the tables in it, and what was cut for them may be merged.
    pub async fn vacate(&self, request: pb::VacateRequest) -> Result<pb::VacateResponse, Error> {
        self.lead()?;
        let range = KeyRange::new(request.start, request.end);
        let (families, pinned) = self
            .replica
            .read(|state| (families(&state.cluster().rules, &range), pinned(state.shards(), &range)));
        for family in families {
            let nothing = pb::TableRule { family, ..pb::TableRule::default() };
            self.propose(Command::SetRule(nothing)).await?;
        }
        for some in pinned.chunks(UNPINNED_MAX) {
            let update = pb::UpdateShards { shards: Vec::new(), automatic: some.to_vec() };
            self.propose(Command::UpdateShards(update)).await?;
        }
        self.nudge.notify_one();
        Ok(pb::VacateResponse {})
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

/// What of a rule can't be had with the nodes there are, in words.
fn unmet(state: &State, rule: &pb::TableRule) -> Vec<String> {
    let stays = |node: &&pb::Node| matches!(node.duty(), NodeDuty::NodeActive | NodeDuty::NodeDraining);
    let places =
        state.nodes().values().filter(stays).map(|node| node.locality.as_deref()?.parse::<Locality>().ok());
    // Where one may stand that has not said so, nobody can tell.
    let (Some(places), Ok(wanted)) =
        (places.collect::<Option<Vec<Locality>>>(), rule.placement.parse::<Rule>())
    else {
        return Vec::new();
    };
    let replicas = match rule.replicas {
        0 => Settings::new(state.settings()).replication_factor(),
        replicas => replicas as usize,
    };
    Rule { replicas, ..wanted }.unmet(&places)
}

/// The tables all of whose keys lie in a range, of those with rules of their own.
fn families(rules: &[pb::TableRule], range: &KeyRange) -> Vec<u64> {
    let inside = |family: &u64| range.contains_range(&KeyRange::prefix(&family.to_be_bytes()));
    rules.iter().map(|rule| rule.family).filter(inside).collect()
}

/// The shards that were cut for what was in a range, by others than placement: those that begin in it, and what follows at its end,
/// which was kept apart from it.
fn pinned(shards: &BTreeMap<GroupId, pb::Shard>, range: &KeyRange) -> Vec<u64> {
    let begins_there = |shard: &pb::Shard| {
        let start = shard.descriptor.as_ref().map(|descriptor| &descriptor.start);
        start.is_some_and(|start| range.contains(start) || (!start.is_empty() && *start == range.end))
    };
    shards
        .iter()
        .filter(|(_, shard)| !shard.automatic && begins_there(shard))
        .map(|(group, _)| group.0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_for_a_vacated_storage_is_left_to_placement_and_nothing_else() {
        let table = [0_u8, 0, 0, 2, 0, 0, 0, 9];
        let storage = [&table[..], &[0x80, 0, 0, 1]].concat();
        let bucket = |storage: u8, bucket: u8| [&table[..], &[0x80, 0, 0, storage, 0x80, bucket]].concat();
        let starts = [
            Vec::new(),
            bucket(1, 0),
            bucket(1, 1),
            // Placement's own.
            bucket(1, 2),
            // The end of the storage.
            [&table[..], &[0x80, 0, 0, 2]].concat(),
            // The next storage, of the same table.
            bucket(2, 0),
        ];
        let shard = |(group, start): (u64, &Vec<u8>)| {
            let descriptor = ShardDescriptor { group, start: start.clone().into(), ..Default::default() };
            (
                GroupId(group),
                pb::Shard { descriptor: Some(descriptor), changed_at: 1, automatic: group == 13 },
            )
        };
        let shards: BTreeMap<GroupId, pb::Shard> = (10..).zip(&starts).map(shard).collect();
        assert_eq!(pinned(&shards, &KeyRange::prefix(&storage)), [11, 12, 14]);
        assert_eq!(pinned(&shards, &KeyRange::prefix(&table)), [11, 12, 14, 15]);
    }

    #[test]
    fn rules_of_a_vacated_table_or_database_go_and_no_others() {
        let family = |database: u64, table: u64| (database << 32) | table;
        let all = [family(2, 9), family(2, 10), family(3, 7), family(3, u64::from(u32::MAX)), family(4, 1)];
        let rules = all.map(|family| pb::TableRule { family, replicas: 5, ..Default::default() });
        let table = all[0].to_be_bytes();
        assert_eq!(families(&rules, &KeyRange::prefix(&table)), [all[0]]);
        // A storage of the table, as TRUNCATE leaves it: the table lives on.
        let storage = [&table[..], &[0x80, 0, 0, 1]].concat();
        assert!(families(&rules, &KeyRange::prefix(&storage)).is_empty());
        assert_eq!(families(&rules, &KeyRange::prefix(&3_u32.to_be_bytes())), all[2..4]);
    }
}
