//! Shards by key.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use storage::ids::{GroupId, KeyRange};
use txn::ShardDescriptor;

/// A set of descriptors, of each group the one with the highest epoch, to be searched by key.
///
/// Reports of a split may arrive child first, so ranges may overlap for a moment: the shard that starts nearest before
/// the key wins, which is the child.
#[derive(Clone, Debug, Default)]
pub struct ShardMap {
    groups: HashMap<GroupId, ShardDescriptor>,
    starts: BTreeMap<Bytes, GroupId>,
}

impl ShardMap {
    /// Takes a descriptor in, unless it is not newer than what is known. Returns whether it was taken.
    pub fn learn(&mut self, new: ShardDescriptor) -> bool {
        if let Some(old) = self.groups.get(&new.group) {
            if old.epoch >= new.epoch {
                return false;
            }
            if self.starts.get(&old.range.start) == Some(&old.group) {
                self.starts.remove(&old.range.start);
            }
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
    fn gap_is_not_answered() {
        let mut map = ShardMap::default();
        map.learn(shard(1, "", "m", 2));
        assert_eq!(groups(&map, "a", "z"), None);
        assert!(map.lookup(b"m").is_none());
    }
}
