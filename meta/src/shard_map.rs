//! Shards by key.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use storage::ids::{GroupId, KeyRange};
use txn::ShardDescriptor;

/// A set of descriptors, of each group the one with the highest epoch, to be searched by key.
///
/// Reports of a split may arrive child first, so ranges may overlap for a moment: the shard that starts nearest before
/// the key wins, which is the child. A shard whose first key another one has at a higher epoch was absorbed, and goes.
#[derive(Clone, Debug, Default)]
pub struct ShardMap {
    groups: HashMap<GroupId, ShardDescriptor>,
    starts: BTreeMap<Bytes, GroupId>,
}

impl ShardMap {
    /// Takes a descriptor in, unless it is not newer than what is known. Returns whether it was taken.
    pub fn learn(&mut self, new: ShardDescriptor) -> bool {
        let takes = |one: &ShardDescriptor, other: &ShardDescriptor| {
            one.group != other.group && one.epoch > other.epoch && one.range.contains(&other.range.start)
        };
        if self.lookup(&new.range.start).is_some_and(|known| takes(known, &new)) {
            return false;
        }
        if let Some(old) = self.groups.get(&new.group) {
            if old.epoch >= new.epoch {
                return false;
            }
            if self.starts.get(&old.range.start) == Some(&old.group) {
                self.starts.remove(&old.range.start);
            }
        }
        let within = self.starts.range::<Bytes, _>(&new.range.start..);
        let within = within.take_while(|(start, _)| new.range.end.is_empty() || **start < new.range.end);
        let gone = |group: &GroupId| self.groups.get(group).is_some_and(|known| takes(&new, known));
        let absorbed: Vec<(Bytes, GroupId)> =
            within.filter(|(_, group)| gone(group)).map(|(start, group)| (start.clone(), *group)).collect();
        for (start, group) in absorbed {
            self.starts.remove(&start);
            self.groups.remove(&group);
        }
        self.starts.insert(new.range.start.clone(), new.group);
        self.groups.insert(new.group, new);
        true
    }

    /// The shard of a group.
    pub fn get(&self, group: GroupId) -> Option<&ShardDescriptor> {
        self.groups.get(&group)
    }

    /// The shard that holds `key`.
    pub fn lookup(&self, key: &[u8]) -> Option<&ShardDescriptor> {
        let before =
            self.starts.range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)));
        before.rev().filter_map(|(_, group)| self.groups.get(group)).find(|d| d.range.contains(key))
    }

    /// The shards that hold `range`, in key order; `None` if there is a gap in what is known.
    pub fn overlapping(&self, range: &KeyRange) -> Option<Vec<ShardDescriptor>> {
        let mut found = Vec::new();
        let mut next = range.start.clone();
        loop {
            let shard = self.lookup(&next)?;
            found.push(shard.clone());
            // The end of a stale parent would jump over its children: what starts earlier ends this shard's share.
            let after = (std::ops::Bound::Excluded(next.clone()), std::ops::Bound::Unbounded);
            let following = self.starts.range::<Bytes, _>(after).next().map(|(start, _)| start.clone());
            let end = match (following, shard.range.end.is_empty()) {
                (Some(start), true) => start,
                (Some(start), false) => start.min(shard.range.end.clone()),
                (None, _) => shard.range.end.clone(),
            };
            if end.is_empty() || (!range.end.is_empty() && end >= range.end) {
                found.dedup_by_key(|d| d.group);
                return Some(found);
            }
            next = end;
        }
    }

    /// All shards, in key order.
    pub fn iter(&self) -> impl Iterator<Item = &ShardDescriptor> {
        self.starts.values().filter_map(|group| self.groups.get(group))
    }

    /// How many shards there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use storage::ids::Epoch;

    use super::*;

    fn shard(group: u64, start: &'static str, end: &'static str, epoch: u64) -> ShardDescriptor {
        let range = KeyRange::new(start, end);
        ShardDescriptor { group: GroupId(group), range, epoch: Epoch(epoch), replicas: BTreeMap::new() }
    }

    fn groups(map: &ShardMap, start: &'static str, end: &'static str) -> Option<Vec<u64>> {
        map.overlapping(&KeyRange::new(start, end)).map(|found| found.iter().map(|d| d.group.0).collect())
    }

    #[test]
    fn split_reported_child_first_is_found() {
        let mut map = ShardMap::default();
        assert!(map.lookup(b"a").is_none());
        map.learn(shard(1, "", "", 1));
        assert!(map.learn(shard(2, "m", "", 2)));
        assert_eq!(map.lookup(b"a").map(|d| d.group.0), Some(1));
        assert_eq!(map.lookup(b"m").map(|d| d.group.0), Some(2));
        assert_eq!(groups(&map, "a", ""), Some(vec![1, 2]));
        assert!(map.learn(shard(1, "", "m", 2)));
        assert!(!map.learn(shard(1, "", "", 1)));
        assert_eq!(groups(&map, "a", "m"), Some(vec![1]));
        assert_eq!(groups(&map, "", ""), Some(vec![1, 2]));
    }

    #[test]
    fn absorbed_shard_goes_and_does_not_come_back() {
        let mut map = ShardMap::default();
        for known in [shard(1, "", "g", 4), shard(2, "g", "m", 2), shard(3, "m", "", 7)] {
            assert!(map.learn(known));
        }
        assert!(map.learn(shard(1, "", "m", 5)));
        assert_eq!(map.lookup(b"h").map(|d| d.group.0), Some(1));
        assert_eq!((map.len(), map.get(GroupId(2)).is_none()), (2, true));
        assert!(!map.learn(shard(2, "g", "m", 3)), "a late report of the absorbed one");
        // Split off again, under another id, and told of before the shard that it was split off from.
        assert!(map.learn(shard(4, "g", "m", 6)));
        assert_eq!(groups(&map, "", ""), Some(vec![1, 4, 3]));
        assert!(!map.learn(shard(1, "", "m", 5)));
        assert!(map.learn(shard(1, "", "g", 6)));
        assert_eq!(map.len(), 3);
    }

    #[test]
    fn gap_is_not_answered() {
        let mut map = ShardMap::default();
        map.learn(shard(1, "", "m", 2));
        assert_eq!(groups(&map, "a", "z"), None);
        assert!(map.lookup(b"m").is_none());
    }
}
