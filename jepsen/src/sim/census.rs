//! Who has which keys, and where: looked at in every node.
//!
//! Some things must hold at every moment ([`watch`]), others when everything is whole and has come to rest ([`compare`]): then every
//! key is in one shard, each shard's members are where the meta-group says, all of them vote, and no node has a replica
//! of anything else. No node is being drained or emptied, one that was emptied has nothing, and what was split by itself
//! has been merged. Replicas that were removed, or absorbed, may stay for a while; they must not answer ([`strays`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::Bytes;
use proto::common::ShardDescriptor as Described;
use proto::meta::{DescribeResponse, GroupStatus, NodeDuty};
use raft::{Group, Role};
use storage::ids::{GroupId, META_GROUP, NodeId, ReplicaId};
use txn::{ShardDescriptor, ShardServer};

use super::node::SimNode;
use super::world::Place;

/// What a node has.
struct Holdings {
    place: Place,
    groups: Vec<Arc<Group>>,
    shards: Arc<ShardServer>,
}

impl Holdings {
    fn node(&self) -> NodeId {
        self.shards.me()
    }

    /// How a replica is doing, in words.
    fn condition(&self, group: GroupId) -> String {
        let Some(replica) = self.groups.iter().find(|replica| replica.id() == group) else {
            return String::new();
        };
        let shard = self.shards.registry().get(group);
        let frozen = shard.as_ref().is_some_and(|shard| shard.frozen().is_some());
        let own = shard.and_then(|shard| shard.descriptor());
        let (role, rests, unheard) =
            (replica.role().borrow().clone(), replica.rests(), replica.unheard_for());
        format!(" ({role:?}, at rest: {rests}, not written to for {unheard:?}, frozen: {frozen}, {own:?})")
    }

    /// What it knows of a shard that is not frozen.
    fn descriptor(&self, group: GroupId) -> Option<Arc<ShardDescriptor>> {
        let shard = self.shards.registry().get(group)?;
        shard.frozen().is_none().then(|| shard.descriptor()).flatten()
    }
}

fn holdings(nodes: &[SimNode]) -> Vec<Holdings> {
    let of = |(place, node): (Place, &SimNode)| {
        let parts = node.look(|status| status.up.as_ref().map(|up| (up.multi.groups(), up.shards.clone())));
        let (mut groups, shards) = parts.flatten()?;
        groups.sort_by_key(|group| group.id());
        Some(Holdings { place, groups, shards })
    };
    nodes.iter().enumerate().filter_map(of).collect()
}

/// What must hold at every moment: no replica has stopped because of what it found, and no two replicas of a node hold the same
/// key (but for one that is frozen, and serves nobody).
pub(super) fn watch(nodes: &[SimNode]) -> Result<()> {
    for here in holdings(nodes) {
        let node = here.place + 1;
        for group in &here.groups {
            let role = group.role();
            if let Role::Stopped { reason } = &*role.borrow() {
                bail!("the replica of {} on node {node} has stopped: {reason}", group.id());
            }
        }
        let mut held: Vec<_> = here.groups.iter().filter_map(|group| here.descriptor(group.id())).collect();
        held.sort_by(|one, other| one.range.start.cmp(&other.range.start));
        for pair in held.windows(2) {
            if pair[0].range.overlaps(&pair[1].range) {
                bail!("on node {node} {:?} and {:?} hold the same keys", pair[0], pair[1]);
            }
        }
    }
    Ok(())
}

/// What must hold in the end. Something that no waiting mends is an error; what has yet to come to its end is told.
pub(super) fn compare(
    nodes: &[SimNode],
    cluster: &DescribeResponse,
    voters: usize,
) -> Result<Option<String>> {
    let here = holdings(nodes);
    let unfinished = unfinished(cluster, voters)
        .or_else(|| misplaced(&here, cluster))
        .or_else(|| here.iter().find_map(|here| differing(here, cluster)));
    match unfinished {
        None => covered(cluster).map(|()| None),
        told => Ok(told),
    }
}

/// An operation that is under way, or a group whose members are not what they shall be.
fn unfinished(cluster: &DescribeResponse, voters: usize) -> Option<String> {
    let ends = |kind: &str| matches!(kind, "move" | "merge" | "drain" | "decommission");
    let operation = cluster.operations.iter().find(|known| ends(&known.kind));
    if let Some(known) = operation {
        return Some(format!("{} goes on: {}", known.id, known.state));
    }
    if let Some(shard) = unmerged(cluster) {
        return Some(format!("{shard} was split off by itself, and has not been merged again"));
    }
    let gone = |node: u64| {
        let known = cluster.nodes.iter().find(|known| known.id == node);
        known.is_none_or(|known| known.duty() == NodeDuty::NodeDecommissioned)
    };
    cluster.groups.iter().find_map(|group| {
        let of = GroupId(group.group);
        if group.leader_node == 0 {
            return Some(format!("nobody is known to lead {of}"));
        }
        if group.joint || group.replicas.iter().any(|replica| replica.learner) {
            return Some(format!("the members of {of} are being changed"));
        }
        if let Some(left) = group.replicas.iter().find(|replica| gone(replica.node)) {
            return Some(format!("{of} has a replica on n{}, which was decommissioned", left.node));
        }
        let count = group.replicas.len();
        (count != voters).then(|| format!("{of} has {count} voters, not {voters}"))
    })
}

/// A shard that was split off by itself, though the one before it is of the same table. Both are small and cold when nobody asks
/// for anything.
fn unmerged(cluster: &DescribeResponse) -> Option<GroupId> {
    let shards =
        cluster.groups.iter().filter_map(|group| Some((group.descriptor.as_ref()?, group.automatic)));
    let mut shards: Vec<(&Described, bool)> = shards.collect();
    shards.sort_by(|(one, _), (other, _)| one.start.cmp(&other.start));
    let table = |shard: &Described| shard.start.first_chunk::<8>().copied();
    let apart = shards.windows(2).find(|pair| {
        let ((left, _), (right, automatic)) = (pair[0], pair[1]);
        automatic && table(left).is_some() && table(left) == table(right)
    });
    apart.map(|pair| GroupId(pair[1].0.group))
}

/// A replica that should not be where it is, or isn't where it should be.
fn misplaced(here: &[Holdings], cluster: &DescribeResponse) -> Option<String> {
    let wanted = cluster.groups.iter().flat_map(|group| {
        let replicas = group.replicas.iter();
        replicas
            .map(move |replica| ((GroupId(group.group), NodeId(replica.node)), ReplicaId(replica.replica)))
    });
    let wanted: BTreeMap<(GroupId, NodeId), ReplicaId> = wanted.collect();
    let found = here
        .iter()
        .flat_map(|here| here.groups.iter().map(move |group| ((group.id(), here.node()), group.replica())));
    let found: BTreeMap<(GroupId, NodeId), ReplicaId> = found.collect();
    let left = found.iter().find(|(place, replica)| wanted.get(*place) != Some(*replica));
    if let Some(((group, node), replica)) = left {
        let holdings = here.iter().find(|here| here.node() == *node);
        let how = holdings.map(|here| here.condition(*group)).unwrap_or_default();
        return Some(format!("{replica} of {group} is still on {node}, and no member any more{how}"));
    }
    let missing = wanted.iter().find(|(place, _)| !found.contains_key(*place));
    missing.map(|((group, node), replica)| format!("{node} has no {replica} of {group}"))
}

/// A replica that knows its shard as something else than the meta-group does.
fn differing(here: &Holdings, cluster: &DescribeResponse) -> Option<String> {
    let shards = here.groups.iter().map(|group| group.id()).filter(|group| *group != META_GROUP);
    shards.into_iter().find_map(|id| {
        let known = cluster.groups.iter().find(|known| known.group == id.0)?.descriptor.as_ref();
        let node = here.node();
        let Some(own) = here.descriptor(id) else {
            return Some(format!("the replica of {id} on {node} is frozen, or blank"));
        };
        let shape = |d: &Described| (d.start.clone(), d.end.clone(), d.epoch);
        let own = shape(&Described::from(&*own));
        (known.map(shape) != Some(own)).then(|| format!("{node} and the meta-group differ about {id}"))
    })
}

/// Every key must be in one shard of those that the meta-group knows.
fn covered(cluster: &DescribeResponse) -> Result<()> {
    let mut shards: Vec<&Described> = cluster.groups.iter().filter_map(|g| g.descriptor.as_ref()).collect();
    shards.sort_by(|one, other| one.start.cmp(&other.start));
    let mut end = Some(Bytes::new());
    for shard in shards {
        let id = GroupId(shard.group);
        match end {
            Some(end) if end == shard.start => {}
            Some(end) if end < shard.start => {
                bail!("nobody holds the keys from {} to {}", end.escape_ascii(), shard.start.escape_ascii())
            }
            _ => {
                bail!("{id} and the shard before it hold the same keys, from {}", shard.start.escape_ascii())
            }
        }
        end = Some(shard.end.clone()).filter(|end| !end.is_empty());
    }
    match end {
        None => Ok(()),
        Some(end) => bail!("nobody holds the keys from {} on", end.escape_ascii()),
    }
}

/// A replica that is no member of its group any more, or whose shard is gone.
pub(super) struct Stray {
    /// The node it is still on.
    pub place: Place,
    /// The shard it was of.
    pub group: GroupId,
    /// A key it held.
    pub key: Bytes,
    /// Whom to ask there.
    pub shards: Arc<ShardServer>,
}

/// All of them.
pub(super) fn strays(nodes: &[SimNode], cluster: &DescribeResponse) -> Vec<Stray> {
    let mut found = Vec::new();
    for here in holdings(nodes) {
        for replica in &here.groups {
            let (group, id) = (replica.id(), replica.replica());
            // (The meta-group has no shard.)
            let Some(shard) = here.shards.registry().get(group) else { continue };
            let own = shard.descriptor();
            let gone = match cluster.groups.iter().find(|known| known.group == group.0) {
                Some(known) => was_removed(id, known),
                // Without keys it was absorbed, and knows; or it is blank.
                None => own.as_ref().is_none_or(|own| is_superseded(own, cluster)),
            };
            if gone {
                let nowhere = || Bytes::copy_from_slice(&meta::DEFAULT_DATABASE_START);
                let key = own.map_or_else(nowhere, |own| own.range.start.clone());
                found.push(Stray { place: here.place, group, key, shards: here.shards.clone() });
            }
        }
    }
    found
}

/// Whether a replica is no member of its group any more. (One that is newer than all members has yet to be added.)
fn was_removed(replica: ReplicaId, group: &GroupStatus) -> bool {
    let members = || group.replicas.iter().map(|member| member.replica);
    members().all(|member| member != replica.0) && members().any(|member| member > replica.0)
}

/// Whether another shard has its first key, under a higher epoch. (One that was just born may be unknown to the meta-group.)
fn is_superseded(own: &ShardDescriptor, cluster: &DescribeResponse) -> bool {
    let key = &own.range.start;
    let holds = |d: &Described| d.start <= *key && (d.end.is_empty() || *key < d.end);
    let mut described = cluster.groups.iter().filter_map(|group| group.descriptor.as_ref());
    described.any(|d| d.group != own.group.0 && d.epoch > own.epoch.0 && holds(d))
}

#[cfg(test)]
mod tests {
    use proto::meta::{NodeStatus, Operation, ReplicaProgress};

    use super::*;

    fn cluster(ranges: &[(&'static str, &'static str)]) -> DescribeResponse {
        let group = |(n, (start, end)): (usize, &(&'static str, &'static str))| GroupStatus {
            group: n as u64 + 2,
            descriptor: Some(Described {
                group: n as u64 + 2,
                start: Bytes::from_static(start.as_bytes()),
                end: Bytes::from_static(end.as_bytes()),
                ..Default::default()
            }),
            ..Default::default()
        };
        DescribeResponse { groups: ranges.iter().enumerate().map(group).collect(), ..Default::default() }
    }

    #[test]
    fn every_key_is_in_one_shard() {
        let wrong = |ranges| covered(&cluster(ranges)).expect_err("a hole, or an overlap").to_string();
        covered(&cluster(&[("", "f"), ("m", ""), ("f", "m")])).expect("whole");
        assert!(wrong(&[("", "f"), ("m", "")]).contains("from f to m"));
        assert!(wrong(&[("", "g"), ("f", "")]).contains("the same keys"));
        assert!(wrong(&[("", ""), ("f", "")]).contains("the same keys"));
        assert!(wrong(&[("", "f"), ("f", "m")]).contains("from m on"));
        assert!(wrong(&[("a", "")]).contains("to a"));
    }

    #[test]
    fn what_was_split_by_itself_is_to_be_merged_within_its_table() {
        let mut cluster = cluster(&[
            ("", "b"),
            ("b", "table 01"),
            ("table 01", "table 01k"),
            ("table 01k", "table 02"),
            ("table 02", ""),
        ]);
        assert_eq!(unmerged(&cluster), None, "operators cut it there");
        for (group, apart) in [(1, None), (2, None), (4, None), (3, Some(GroupId(5)))] {
            cluster.groups[group].automatic = true;
            assert_eq!(unmerged(&cluster), apart);
        }
        let told = unfinished(&cluster, 3).expect("it goes on");
        assert!(told.contains("g5 was split off by itself"), "{told}");
    }

    #[test]
    fn who_was_emptied_has_nothing_and_nobody_is_being_emptied() {
        let node = |id| NodeStatus { id, ..Default::default() };
        let member = |node| ReplicaProgress { replica: 10 + node, node, ..Default::default() };
        let mut cluster = cluster(&[("", "")]);
        cluster.nodes = (1..=4).map(node).collect();
        cluster.groups[0].leader_node = 1;
        cluster.groups[0].replicas = (1..=3).map(member).collect();
        assert_eq!(unfinished(&cluster, 3), None);
        cluster.nodes[2].duty = NodeDuty::NodeDecommissioned.into();
        let told = unfinished(&cluster, 3).expect("it has a replica");
        assert!(told.contains("g2 has a replica on n3"), "{told}");
        cluster.nodes.swap_remove(2);
        assert!(unfinished(&cluster, 3).is_some(), "nobody knows the node");
        for kind in ["move", "merge", "drain", "decommission"] {
            let known = Operation { id: format!("{kind}-3"), kind: kind.to_owned(), ..Default::default() };
            cluster.operations = vec![known];
            let told = unfinished(&cluster, 3).expect("it is under way");
            assert!(told.contains(&format!("{kind}-3 goes on")), "{told}");
        }
    }

    #[test]
    fn only_what_was_a_member_before_is_a_stray() {
        let member = |replica| ReplicaProgress { replica, ..Default::default() };
        let group = GroupStatus { replicas: [4, 5, 9].map(member).into(), ..Default::default() };
        let removed: Vec<u64> = (3..12).filter(|id| was_removed(ReplicaId(*id), &group)).collect();
        assert_eq!(removed, [3, 6, 7, 8]);
    }
}
