//! The cluster as placement sees it: the replicated state with the last reports.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use proto::meta::{self as pb, NodeDuty};
use storage::ids::{GroupId, META_GROUP, NodeId, ReplicaId};

use crate::loads::is_young;
use crate::placement::{self, Bands, Capabilities, Description, Duty, Health, Policy};
use crate::server::{DEAD_AFTER, MetaServer, Soft};
use crate::settings::Settings;

/// A replica that lacks no more entries than this counts as caught up.
const LAG_MAX: u64 = 1_000;
/// So long after a node's death its return is awaited before leaders are spread over the others.
const AWAITED: Duration = Duration::from_secs(60);
/// A group whose leader has just changed keeps it for so long: where elections follow each other, the nodes are
/// overloaded, and moving leaders makes it worse.
const REST: Duration = Duration::from_secs(10);
/// Up to this term a group is new, and may find its place at once.
const YOUNG_TERM: u64 = 2;
/// A learner on a node that lives has answered nothing for so long: it isn't there, or never will be.
const LEARNER_SILENCE_MAX: Duration = Duration::from_secs(60);

/// What is known of a shard's bytes and load is of before, for so long after its range has changed (or could not be).
const RESHAPED_REST: Duration = Duration::from_secs(20);

/// What of the requests that a shard may have makes no difference between nodes.
const LOAD_SLACK: f64 = 0.05;
const LOAD_SLACK_MIN: f64 = 20.0;

pub(super) fn policy(settings: &Settings) -> Policy {
    let balance = settings.rebalance();
    let can = Capabilities { balance, merge: settings.shard_merge(), ..Capabilities::ALL };
    let (split_bytes, split_load) = (settings.shard_bytes(), settings.shard_load());
    // Where shards are to be small, nodes are to be even.
    let load_slack = (LOAD_SLACK * split_load as f64).clamp(LOAD_SLACK_MIN, Bands::default().load_slack);
    let bands = Bands { load_slack, ..Bands::default() };
    let (repair_after, moves_per_node_max) = (settings.replace_after(), settings.moves_per_node());
    // Far below, or what is merged would be split again.
    let (merge_bytes_max, merge_load_max) = (split_bytes / 4, split_load / 10);
    let thresholds = Policy { split_bytes, split_load, merge_bytes_max, merge_load_max, ..Policy::default() };
    Policy { can, bands, repair_after, moves_per_node_max, ..thresholds }
}

pub(super) fn describe_cluster(server: &MetaServer, soft: &Soft, now: Instant) -> Description {
    server.replica.read(|state| {
        let settings = Settings::new(state.settings());
        let replicas = settings.replication_factor();
        // Who has been emptied is there no more.
        let nodes = state.nodes().iter().filter(|(_, node)| node.duty() != NodeDuty::NodeDecommissioned);
        let nodes: Vec<(NodeId, NodeDuty)> = nodes.map(|(id, node)| (*id, node.duty())).collect();
        let shards = state.shards().iter().map(|(id, shard)| (*id, shard.descriptor.as_ref()));
        let mut shards: Vec<_> = shards.collect();
        shards.sort_by_key(|(id, descriptor)| (descriptor.map(|d| &d.start), *id));
        let groups = std::iter::once((META_GROUP, None)).chain(shards);
        let mut groups: Vec<_> = groups.map(|(id, d)| describe_group(id, d, soft, now)).collect();
        let (rules, rule_of) = rules(&state.cluster().rules, replicas);
        // What an operator is moving is left alone, and what is being merged.
        let moved = state.cluster().moves.iter().map(|moving| moving.group);
        let merged = state.cluster().merges.iter().flat_map(|merge| [merge.left, merge.right]);
        let taken: HashSet<u64> = moved.chain(merged).collect();
        for group in &mut groups {
            group.busy |= taken.contains(&group.id.0);
            group.pinned = !state.shards().get(&group.id).is_some_and(|shard| shard.automatic);
            group.rule = group.family.and_then(|family| rule_of.get(&family.0)).copied().unwrap_or(0);
        }
        // A leader of the meta-group that is new to it waits for what the others report; and while leaders move, who
        // leads how much is not known: moving more of them by half the truth would never come to rest.
        let fresh = now - soft.since < DEAD_AFTER;
        let unheard = nodes.iter().any(|(id, _)| !soft.last_seen.contains_key(id));
        let unknown = fresh && (unheard || groups.iter().any(|g| g.leader.is_none()));
        let moving = soft.between_leaders.values().any(|since| now - *since < DEAD_AFTER);
        // A node that has gone is likely to come back. Until then leaders stay where elections have put them.
        let silent = |id: &NodeId| now - soft.last_seen.get(id).copied().unwrap_or(soft.since);
        let awaited = nodes.iter().any(|(id, _)| !soft.alive(*id, now) && silent(id) < AWAITED);
        Description {
            nodes: nodes.into_iter().map(|(id, duty)| describe_node(id, duty, soft, now)).collect(),
            groups,
            rules,
            incomplete: !settings.rebalance() || unknown || moving || awaited || !soft.operations.is_empty(),
            salt: (now - soft.since).as_secs(),
        }
    })
}

/// The rule for all, and those of tables; by family, which of them.
fn rules(own: &[pb::TableRule], replicas: usize) -> (Vec<placement::Rule>, HashMap<u64, u16>) {
    let mut rules = vec![placement::Rule { replicas, ..placement::Rule::default() }];
    let mut of = HashMap::new();
    for table in own.iter().take(usize::from(u16::MAX)) {
        // (It was checked when it was set; what a later version understands is as good as not said.)
        let places = table.placement.parse().unwrap_or_else(|_| placement::Rule::default());
        let replicas = if table.replicas == 0 { replicas } else { table.replicas as usize };
        let rule = placement::Rule { replicas, ..places };
        let place = rules.iter().position(|known| *known == rule).unwrap_or_else(|| {
            rules.push(rule);
            rules.len() - 1
        });
        of.insert(table.family, place as u16);
    }
    (rules, of)
}

fn describe_node(id: NodeId, duty: NodeDuty, soft: &Soft, now: Instant) -> placement::Node {
    let heard = soft.last_seen.get(&id).copied().unwrap_or(soft.since);
    // A node of which it is not known where it stands is given nothing: its first report is awaited.
    let facts = soft.facts.get(&id);
    let health = match facts.is_some() && soft.alive(id, now) {
        true => Health::Live,
        false if soft.given_up.contains(&id) => Health::Down(Duration::MAX),
        false => Health::Down(now - heard),
    };
    let facts = facts.cloned().unwrap_or_default();
    placement::Node {
        id,
        health,
        duty: match duty {
            NodeDuty::NodeActive => Duty::Serving,
            NodeDuty::NodeDraining => Duty::Draining,
            NodeDuty::NodeDecommissioning | NodeDuty::NodeDecommissioned => Duty::Leaving,
        },
        // The node has checked it; from another version, what isn't understood is as good as not said.
        locality: facts.locality.parse().unwrap_or_default(),
        capacity_bytes: facts.capacity_bytes,
        used_bytes: facts.used_bytes,
    }
}

pub(super) fn describe_group(
    id: GroupId,
    descriptor: Option<&proto::common::ShardDescriptor>,
    soft: &Soft,
    now: Instant,
) -> placement::Group {
    let mut group = placement::Group::new(id);
    group.family = descriptor.and_then(family);
    group.busy = soft.operations.contains_key(&id);
    let Some(reported) = soft.groups.get(&id) else { return group };
    let lost = |r: &pb::ReplicaProgress| {
        let silence = reported.silent_since.get(&ReplicaId(r.replica)).map(|since| now - *since);
        r.learner && soft.alive(NodeId(r.node), now) && silence.is_some_and(|s| s > LEARNER_SILENCE_MAX)
    };
    let replaced = soft.replacing.get(&id);
    let replica = |r: &pb::ReplicaProgress| placement::Replica {
        voter: !r.learner,
        lost: lost(r),
        replaced: replaced == Some(&ReplicaId(r.replica)),
        caught_up: r.reachable && r.lag <= LAG_MAX,
        ..placement::Replica::voter(ReplicaId(r.replica), NodeId(r.node))
    };
    group.leader = Some(reported.by);
    group.replicas = reported.report.replicas.iter().map(replica).collect();
    group.joint = reported.report.joint;
    group.reshaped = soft.reshaped.get(&id).is_some_and(|at| now - *at < RESHAPED_REST);
    let reshaped = soft.reshaped.get(&id).is_some_and(|at| is_young(*at, now));
    group.guessed = reshaped || is_young(reported.since, now);
    group.restless = reported.report.term > YOUNG_TERM && now - reported.since < REST;
    group.busy |= reported.report.frozen_into != 0;
    let load = soft.loads.of(id, reported.report.load.unwrap_or_default(), reported.since, now);
    group.bytes = soft.sizes.of(id, Some(&reported.report));
    group.load = placement::Load { reads: load.reads_per_second, writes: load.writes_per_second };
    group
}

/// The table (database and table id, four bytes each) that a shard begins in. A shard that begins at a database's start
/// is spread against nothing in particular.
fn family(descriptor: &proto::common::ShardDescriptor) -> Option<placement::Family> {
    let prefix = descriptor.start.first_chunk()?;
    Some(placement::Family(u64::from_be_bytes(*prefix)))
}
