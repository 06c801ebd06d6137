//! The cluster as placement sees it: the replicated state with the last reports.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use proto::meta::{self as pb, NodeDuty};
use storage::ids::{GroupId, META_GROUP, NodeId, ReplicaId};

use super::{Phase, Underway, absence};
use crate::loads::is_young;
use crate::placement::{self, Bands, Capabilities, Description, Duty, Health, Policy};
use crate::server::{DEAD_AFTER, MetaServer, Soft};
use crate::settings::Settings;

/// A replica that lacks no more entries than this counts as caught up.
const LAG_MAX: u64 = 1_000;
/// The meta-group has so many members, or one, …
const META_MEMBERS: usize = 3;
/// … or so many.
const META_MEMBERS_MAX: usize = 5;
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
    let transfers_max = settings.leader_moves();
    // Far below, or what is merged would be split again.
    let (merge_bytes_max, merge_load_max) = (split_bytes / 4, split_load / 10);
    let split_cpu_ms = settings.shard_cpu_ms();
    let merge_cpu_ms_max = split_cpu_ms / 10;
    let splits = Policy { split_bytes, split_load, split_cpu_ms, ..Policy::default() };
    let thresholds = Policy { merge_bytes_max, merge_load_max, merge_cpu_ms_max, ..splits };
    Policy { can, bands, repair_after, moves_per_node_max, transfers_max, ..thresholds }
}

pub(super) fn describe_cluster(server: &MetaServer, soft: &Soft, now: Instant) -> Description {
    server.replica.read(|state| {
        let settings = Settings::new(state.settings());
        let replicas = settings.replication_factor();
        // Who has been emptied is there no more.
        let nodes = state.nodes().iter().filter(|(_, node)| node.duty() != NodeDuty::NodeDecommissioned);
        let nodes: Vec<(NodeId, &pb::Node)> = nodes.map(|(id, node)| (*id, node)).collect();
        let shards = state.shards().iter().map(|(id, shard)| (*id, shard.descriptor.as_ref()));
        let mut shards: Vec<_> = shards.collect();
        shards.sort_by_key(|(id, descriptor)| (descriptor.map(|d| &d.start), *id));
        let groups = std::iter::once((META_GROUP, None)).chain(shards);
        let mut groups: Vec<_> = groups.map(|(id, d)| describe_group(id, d, soft, now)).collect();
        let (mut rules, rule_of) = rules(&state.cluster().rules, replicas);
        // What an operator is moving is left alone, and what is being merged.
        let moved = state.cluster().moves.iter().map(|moving| moving.group);
        let merged = state.cluster().merges.iter().flat_map(|merge| [merge.left, merge.right]);
        let taken: HashSet<u64> = moved.chain(merged).collect();
        for group in &mut groups {
            count_coming(group, soft.operations.get(&group.id));
            group.busy |= taken.contains(&group.id.0);
            group.pinned = !state.shards().get(&group.id).is_some_and(|shard| shard.automatic);
            group.rule = group.family.and_then(|family| rule_of.get(&family.0)).copied().unwrap_or(0);
        }
        let staying = nodes.iter().filter(|(_, node)| node.duty() != NodeDuty::NodeDecommissioning).count();
        groups[0].rule = place_of(&mut rules, meta_rule(replicas, staying));
        // A leader of the meta-group that is new to it waits for what the others report; and while leaders move, who
        // leads how much is not known: moving more of them by half the truth would never come to rest.
        let fresh = now - soft.since < DEAD_AFTER;
        let unheard = nodes.iter().any(|(id, _)| !soft.last_seen.contains_key(id));
        let unknown = fresh && (unheard || groups.iter().any(|g| g.leader.is_none()));
        let moving = soft.between_leaders.values().any(|since| now - *since < DEAD_AFTER);
        // A node that has gone is likely to come back. Until then leaders stay where elections have put them.
        let wall_ms = server.seams.clock.wall_ms();
        let silent = |(id, node): &(NodeId, &pb::Node)| absence::silence(*id, node, soft, now, wall_ms);
        let awaited = nodes.iter().any(|node| !soft.alive(node.0, now) && silent(node) < AWAITED);
        let behind = behind(soft, now);
        let nodes = nodes.into_iter();
        Description {
            nodes: nodes
                .map(|(id, node)| describe_node(id, node, behind.contains(&id), soft, now, wall_ms))
                .collect(),
            groups,
            rules,
            incomplete: !settings.rebalance() || unknown || moving || awaited,
            salt: (now - soft.since).as_secs(),
        }
    })
}

/// The rule for all, and those of tables; by family, which of them.
fn rules(own: &[pb::TableRule], replicas: usize) -> (Vec<placement::Rule>, HashMap<u64, u16>) {
    let mut rules = vec![placement::Rule { replicas, ..placement::Rule::default() }];
    let mut of = HashMap::new();
    for table in own.iter().take(usize::from(u16::MAX) - 1) {
        // (It was checked when it was set; what a later version understands is as good as not said.)
        let places = table.placement.parse().unwrap_or_else(|_| placement::Rule::default());
        let replicas = if table.replicas == 0 { replicas } else { table.replicas as usize };
        let rule = placement::Rule { replicas, ..places };
        of.insert(table.family, place_of(&mut rules, rule));
    }
    (rules, of)
}

fn meta_rule(replicas: usize, nodes: usize) -> placement::Rule {
    placement::Rule { replicas: meta_members(replicas, nodes), ..placement::Rule::default() }
}

/// How many members the meta-group shall have where shards have so many replicas and so many nodes stay: three or five, as
/// shards have at least five replicas or not, since with one the cluster would end with a node, and more than five make every
/// timestamp slower and nothing safer. Where fewer than three stay, it waits for others as shards do, unless those can do without.
pub(crate) fn meta_members(replicas: usize, nodes: usize) -> usize {
    match nodes {
        META_MEMBERS_MAX.. if replicas >= META_MEMBERS_MAX => META_MEMBERS_MAX,
        META_MEMBERS.. => META_MEMBERS,
        _ => META_MEMBERS.min(nodes.max(replicas)).max(1),
    }
}

/// Where the rule is among them; it is added if it isn't.
fn place_of(rules: &mut Vec<placement::Rule>, rule: placement::Rule) -> u16 {
    let place = rules.iter().position(|known| *known == rule).unwrap_or_else(|| {
        rules.push(rule);
        rules.len() - 1
    });
    place as u16
}

/// A replica that is being made counts where it will be, though its leader has not told of it yet: otherwise each plan until then would
/// send others there, too, and the next ones send them back.
fn count_coming(group: &mut placement::Group, underway: Option<&Underway>) {
    let coming = underway.filter(|underway| !matches!(underway.state, Phase::Failed(..)));
    if let Some(node) = coming.and_then(|underway| underway.builds).filter(|node| group.on(*node).is_none()) {
        // (Nothing is planned for a group that is busy: its id is nobody's.)
        let replica = placement::Replica::voter(ReplicaId(0), node);
        group.replicas.push(placement::Replica { voter: false, caught_up: false, ..replica });
    }
}

/// The nodes that are catching up, as they have told whoever leads anything that they have a part of.
fn behind(soft: &Soft, now: Instant) -> HashSet<NodeId> {
    let told = soft.groups.values().filter(|told| soft.alive(told.by, now));
    let replicas = told.flat_map(|told| &told.report.replicas);
    replicas.filter(|replica| replica.behind).map(|replica| NodeId(replica.node)).collect()
}

fn describe_node(
    id: NodeId,
    node: &pb::Node,
    behind: bool,
    soft: &Soft,
    now: Instant,
    wall_ms: u64,
) -> placement::Node {
    // A node of which it is not known how full it is is given nothing: its first report is awaited.
    let facts = soft.facts.get(&id);
    let health = match facts.is_some() && soft.alive(id, now) {
        true => Health::Live,
        false if absence::is_given_up(id, node, soft, now) => Health::Down(Duration::MAX),
        false => Health::Down(absence::silence(id, node, soft, now, wall_ms)),
    };
    let facts = facts.cloned().unwrap_or_default();
    placement::Node {
        id,
        health,
        duty: match node.duty() {
            NodeDuty::NodeActive => Duty::Serving,
            NodeDuty::NodeDraining => Duty::Draining,
            NodeDuty::NodeDecommissioning | NodeDuty::NodeDecommissioned => Duty::Leaving,
        },
        // The node has checked it; from another version, what isn't understood is as good as not said.
        locality: node.locality.as_deref().map(|locality| locality.parse().unwrap_or_default()),
        behind,
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
    let underway = soft.operations.get(&id);
    group.busy = underway.is_some();
    // What has failed has changed nothing, or the leader's own reports say what.
    let unsettled = |underway: &Underway| !matches!(underway.state, Phase::Failed(..));
    group.changes_hands = underway.is_some_and(|underway| underway.changes_hands && unsettled(underway));
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
    let (reads, writes) = (load.reads_per_second, load.writes_per_second);
    group.load = placement::Load { reads, writes, cpu_ms: load.cpu_ms_per_second };
    group
}

/// The table (database and table id, four bytes each) that a shard begins in. A shard that begins at a database's start
/// is spread against nothing in particular.
fn family(descriptor: &proto::common::ShardDescriptor) -> Option<placement::Family> {
    let prefix = descriptor.start.first_chunk()?;
    Some(placement::Family(u64::from_be_bytes(*prefix)))
}

#[cfg(test)]
mod tests {
    use storage::seam::Seams;

    use super::*;
    use crate::placement::Operation;

    #[test]
    fn a_replica_that_is_being_made_counts_where_it_will_be() {
        let now = Seams::real().clock.now();
        let on = |node: u64| placement::Replica::voter(ReplicaId(node), NodeId(node));
        let mut group = placement::Group::new(GroupId(7));
        group.replicas = vec![placement::Replica { replaced: true, ..on(1) }, on(2), on(3)];
        let adds = |node| {
            let replaces = Some(ReplicaId(1));
            Operation::AddLearner { group: GroupId(7), node: NodeId(node), replaces }
        };
        count_coming(&mut group, None);
        let failed = Phase::Failed(now, "down".to_owned());
        count_coming(&mut group, Some(&Underway::of(&adds(4), failed)));
        assert_eq!(group.replicas.len(), 3);
        for _ in 0..2 {
            count_coming(&mut group, Some(&Underway::of(&adds(4), Phase::Running)));
            count_coming(&mut group, Some(&Underway::of(&adds(4), Phase::Ended(now))));
            assert_eq!(group.replicas.len(), 4, "once");
        }
        assert!(group.on(NodeId(4)).is_some_and(|replica| !replica.voter));
    }

    #[test]
    fn meta_group_has_three_members_or_five() {
        let members = |replicas| meta_rule(replicas, 9).replicas;
        assert_eq!([1, 2, 3, 4, 5, 6, 9].map(members), [3, 3, 3, 3, 5, 5, 5]);
    }

    #[test]
    fn meta_group_waits_for_nodes_as_shards_do() {
        let members = |nodes| [3, 5].map(|replicas| meta_members(replicas, nodes));
        assert_eq!([0, 1, 2].map(members), [[3, 3]; 3]);
        assert_eq!([0, 1, 2, 3].map(|nodes| meta_members(1, nodes)), [1, 1, 2, 3]);
        assert_eq!([0, 1, 2, 3].map(|nodes| meta_members(2, nodes)), [2, 2, 2, 3]);
        assert_eq!([3, 4].map(members), [[3, 3]; 2]);
        assert_eq!([5, 6].map(members), [[3, 5]; 2]);
    }

    #[test]
    fn equal_rules_are_one() {
        let own = |family, replicas, placement: &str| pb::TableRule {
            family,
            replicas,
            placement: placement.into(),
        };
        let (mut rules, of) =
            rules(&[own(7, 5, ""), own(8, 0, "zone=a"), own(9, 1, "zone=a"), own(10, 1, "")], 1);
        assert_eq!([7, 8, 9, 10].map(|family| of[&family]), [1, 2, 2, 0]);
        assert_eq!(place_of(&mut rules, meta_rule(1, 3)), 3);
        assert_eq!(place_of(&mut rules, meta_rule(5, 5)), 1);
    }
}
