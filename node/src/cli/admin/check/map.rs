//! The map's side of `flotilla admin check`: does it have each key once, and each shard as the shard's own replicas have it?
//!
//! The meta-group is told what shards are, and decides nothing: the word of a shard's own replicas counts. But nodes go by the
//! map, so that keys which it has nowhere, or elsewhere, are out of reach.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use proto::common::ShardDescriptor;
use proto::consistency::GroupComparison;
use proto::meta::DescribeResponse;
use storage::seam::Seams;

use crate::cli::admin::shards::key;

/// A map that has holes, or is behind, is asked for again: it may be told of a split's halves one after the other.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(400);

/// What there is to say of the map.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// What is wrong, and stays so.
    pub wrong: Vec<String>,
    /// What could not be looked at.
    pub unknown: Vec<String>,
}

/// Looks at the map. `before` was asked for before the `groups` were compared; `whole`: all groups were.
pub async fn look(before: &DescribeResponse, groups: &[GroupComparison], whole: bool, host: &str) -> Map {
    let seams = Seams::real();
    let mut map = Map::default();
    for attempt in 0..TRIES {
        if attempt > 0 {
            seams.sleep(PAUSE).await;
        }
        map = match crate::cli::admin::cluster(host).await {
            Ok(now) => judge(before, &now, groups, whole),
            Err(failure) => {
                Map { unknown: vec![format!("it could not be asked for: {failure}")], ..Map::default() }
            }
        };
        if map == Map::default() {
            break;
        }
    }
    map
}

fn judge(before: &DescribeResponse, now: &DescribeResponse, groups: &[GroupComparison], whole: bool) -> Map {
    let (old, new) = (by_group(before), by_group(now));
    let wrong = if whole { holes(new.values().copied()) } else { Vec::new() };
    let mut map = Map { wrong, unknown: Vec::new() };
    for own in groups.iter().filter_map(|group| group.descriptor.as_ref()) {
        let (old, new) = (old.get(&own.group).copied(), new.get(&own.group).copied());
        // Epochs only grow, and the map is told of one after the replicas have it: so it can't have had a newer one before they
        // were asked.
        let ahead = old.filter(|old| old.epoch > own.epoch);
        let mut same_epoch = [old, new].into_iter().flatten().filter(|known| known.epoch == own.epoch);
        if let Some(known) = ahead.or_else(|| same_epoch.find(|known| !is_same(known, own))) {
            map.wrong.push(format!(
                "g{} is {} there, and {} to its replicas",
                own.group,
                what(known),
                what(own)
            ));
        } else if new.is_some_and(|new| new.epoch < own.epoch) {
            map.unknown.push(format!("it has yet to hear that g{} is {}", own.group, what(own)));
        }
        // (One that it does not have any more was absorbed, or its keys are a hole.)
    }
    map
}

fn by_group(cluster: &DescribeResponse) -> HashMap<u64, &ShardDescriptor> {
    let shards = cluster.groups.iter().filter_map(|group| group.descriptor.as_ref());
    shards.map(|shard| (shard.group, shard)).collect()
}

fn is_same(one: &ShardDescriptor, other: &ShardDescriptor) -> bool {
    (&one.start, &one.end) == (&other.start, &other.end) && members(one) == members(other)
}

fn members(shard: &ShardDescriptor) -> BTreeSet<(u64, u64)> {
    shard.replicas.iter().map(|replica| (replica.replica, replica.node)).collect()
}

/// A shard, for people.
fn what(shard: &ShardDescriptor) -> String {
    let (start, end) = (key(&shard.start, "-∞"), key(&shard.end, "∞"));
    let members: Vec<String> =
        members(shard).iter().map(|(replica, node)| format!("r{replica} on n{node}")).collect();
    format!("from {start} to {end}, with {}, at epoch {}", members.join(" and "), shard.epoch)
}

/// Keys that no shard holds, or two.
fn holes<'a>(shards: impl Iterator<Item = &'a ShardDescriptor>) -> Vec<String> {
    let mut shards: Vec<&ShardDescriptor> = shards.collect();
    shards.sort_by_key(|shard| (&shard.start, shard.group));
    let mut troubles = Vec::new();
    // Up to where keys are held, by whom; the end of all keys is empty, as their beginning is.
    let mut held: Option<(&[u8], u64)> = None;
    for shard in shards {
        let begins = &shard.start[..];
        match held {
            None if begins.is_empty() => {}
            None => troubles.push(format!("nobody holds the keys before g{}", shard.group)),
            Some((end, by)) if end.is_empty() || end > begins => {
                troubles.push(format!("g{by} and g{} hold the same keys", shard.group));
            }
            Some((end, by)) if end < begins => {
                troubles.push(format!("nobody holds the keys between g{by} and g{}", shard.group));
            }
            Some(_) => {}
        }
        held = Some((&shard.end, shard.group));
    }
    if let Some((end, by)) = held.filter(|(end, _)| !end.is_empty()) {
        troubles.push(format!("nobody holds the keys from {} on, after g{by}", key(end, "")));
    }
    troubles
}

#[cfg(test)]
mod tests {
    use proto::common::Replica;
    use proto::meta::GroupStatus;

    use super::*;

    fn shard(group: u64, start: &'static str, end: &'static str, epoch: u64) -> ShardDescriptor {
        let replicas = vec![Replica { replica: 7, node: 2, learner: false }];
        ShardDescriptor { group, start: start.as_bytes().into(), end: end.as_bytes().into(), epoch, replicas }
    }

    fn troubles(shards: &[(&'static str, &'static str)]) -> Vec<String> {
        let numbered = shards.iter().zip(2..);
        let shards: Vec<ShardDescriptor> =
            numbered.map(|(&(start, end), n)| shard(n, start, end, 1)).collect();
        holes(shards.iter())
    }

    #[test]
    fn each_key_is_held_once() {
        assert!(troubles(&[("", "")]).is_empty());
        assert!(troubles(&[("m", ""), ("", "c"), ("c", "m")]).is_empty());
        assert_eq!(troubles(&[("", "c"), ("d", "")]), ["nobody holds the keys between g2 and g3"]);
        assert_eq!(troubles(&[("", "d"), ("c", "")]), ["g2 and g3 hold the same keys"]);
        assert_eq!(troubles(&[("", ""), ("c", "")]), ["g2 and g3 hold the same keys"]);
        assert_eq!(
            troubles(&[("b", "c")]),
            ["nobody holds the keys before g2", "nobody holds the keys from /63 on, after g2"]
        );
    }

    fn map(shards: &[ShardDescriptor]) -> DescribeResponse {
        let group = |shard: &ShardDescriptor| GroupStatus {
            group: shard.group,
            descriptor: Some(shard.clone()),
            ..Default::default()
        };
        DescribeResponse { groups: shards.iter().map(group).collect(), ..Default::default() }
    }

    fn compared(own: ShardDescriptor) -> [GroupComparison; 1] {
        [GroupComparison { group: own.group, descriptor: Some(own), ..Default::default() }]
    }

    #[test]
    fn what_a_shard_is_is_for_its_replicas_to_say() {
        let whole = [shard(2, "", "m", 5), shard(3, "m", "", 5)];
        let judged = |old: &[ShardDescriptor], new: &[ShardDescriptor], own| {
            judge(&map(old), &map(new), &compared(own), false)
        };
        assert_eq!(judged(&whole, &whole, whole[0].clone()), Map::default());

        let other_end = judged(&whole, &whole, shard(2, "", "k", 5));
        assert_eq!(
            other_end.wrong,
            [
                "g2 is from -∞ to /6d, with r7 on n2, at epoch 5 there, and from -∞ to /6b, with r7 on n2, at epoch 5 to its replicas"
            ]
        );
        let mut elsewhere = whole[0].clone();
        elsewhere.replicas[0].node = 3;
        assert_eq!(judged(&whole, &whole, elsewhere).wrong.len(), 1);
        assert_eq!(judged(&whole, &whole, shard(2, "", "m", 4)).wrong.len(), 1, "nobody can be ahead of it");
    }

    #[test]
    fn a_shard_may_change_while_it_is_looked_at() {
        let (before, after) = (shard(2, "", "", 5), shard(2, "", "m", 6));
        let judged = |own: &ShardDescriptor, new: &ShardDescriptor| {
            let (old, new) = (map(std::slice::from_ref(&before)), map(std::slice::from_ref(new)));
            judge(&old, &new, &compared(own.clone()), false)
        };
        assert_eq!(judged(&before, &after), Map::default());
        assert_eq!(judged(&after, &after), Map::default());
        let late = judged(&after, &before);
        assert_eq!((late.wrong.len(), late.unknown.len()), (0, 1), "{late:?}");
        // It was absorbed.
        assert_eq!(
            judge(&map(std::slice::from_ref(&before)), &map(&[]), &compared(before.clone()), false),
            Map::default()
        );
    }
}
