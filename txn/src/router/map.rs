//! What the router knows: where shards are, and who leads them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use storage::ids::{Epoch, GroupId, NodeId};

use crate::descriptor::ShardDescriptor;

/// Beyond that many, what was refuted is forgotten: it may be asked once more in vain.
const REFUTED_MAX: usize = 65_536;

/// Shards and their leaders. All of it may be stale.
#[derive(Default)]
pub(super) struct Map {
    /// By first key. Never overlapping.
    pub(super) shards: BTreeMap<Bytes, Arc<ShardDescriptor>>,
    pub(super) leaders: HashMap<GroupId, NodeId>,
    /// Shards that are not what they were, by the word of a replica, and up to which epoch. At most [`REFUTED_MAX`].
    refuted: HashMap<GroupId, Epoch>,
}

impl Map {
    pub(super) fn find(&self, key: &[u8]) -> Option<Arc<ShardDescriptor>> {
        let (_, shard) =
            self.shards.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        shard.range.contains(key).then(|| shard.clone())
    }

    /// The shard that holds the last keys before `end`.
    pub(super) fn find_before(&self, end: &[u8]) -> Option<Arc<ShardDescriptor>> {
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let (_, shard) = self.shards.range::<[u8], _>((Bound::Unbounded, upper)).next_back()?;
        let reaches = shard.range.end.is_empty() || (!end.is_empty() && &shard.range.end[..] >= end);
        reaches.then(|| shard.clone())
    }

    /// The shard is not what it was: it is forgotten, and not believed when it comes from where nobody has asked anew.
    pub(super) fn refute(&mut self, shard: &ShardDescriptor) {
        let known = self.shards.get(&shard.range.start);
        if known.is_some_and(|known| known.group == shard.group && known.epoch == shard.epoch) {
            self.shards.remove(&shard.range.start);
        }
        if self.refuted.len() >= REFUTED_MAX {
            self.refuted.clear();
        }
        let epoch = self.refuted.entry(shard.group).or_default();
        *epoch = shard.epoch.max(*epoch);
    }

    /// Whether a descriptor that nobody has asked for anew may be true.
    pub(super) fn is_plausible(&self, shard: &ShardDescriptor) -> bool {
        self.refuted.get(&shard.group).is_none_or(|epoch| shard.epoch > *epoch)
    }

    /// Takes a descriptor in, and throws out what it contradicts and is older. False: it is old news itself.
    pub(super) fn learn(&mut self, descriptor: &Arc<ShardDescriptor>) -> bool {
        let range = &descriptor.range;
        let mut stale: Vec<Bytes> = Vec::new();
        let from = self.find(&range.start).map_or(range.start.clone(), |s| s.range.start.clone());
        for (start, known) in self.shards.range(from..) {
            if !range.end.is_empty() && *start >= range.end {
                break;
            }
            if known.epoch > descriptor.epoch
                || (known.group == descriptor.group && known.epoch == descriptor.epoch)
            {
                return false;
            }
            stale.push(start.clone());
        }
        for start in stale {
            self.shards.remove(&start);
        }
        // The same shard, known with another start (it was merged with a neighbour).
        self.shards.retain(|_, known| known.group != descriptor.group || known.epoch > descriptor.epoch);
        self.shards.insert(range.start.clone(), descriptor.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use storage::ids::KeyRange;

    use super::*;

    fn shard(group: u64, start: &'static str, end: &'static str, epoch: u64) -> Arc<ShardDescriptor> {
        Arc::new(ShardDescriptor {
            group: GroupId(group),
            range: KeyRange::new(start, end),
            epoch: Epoch(epoch),
            replicas: BTreeMap::new(),
        })
    }

    fn shown(map: &Map) -> String {
        let shards = map.shards.values().map(|s| format!("{}{:?}{}", s.group, s.range, s.epoch));
        shards.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn newer_descriptors_replace_what_they_overlap() {
        let mut map = Map::default();
        assert!(map.learn(&shard(2, "a", "", 1)));
        assert!(map.learn(&shard(3, "m", "", 2)), "a child of a split that the parent has not told of");
        assert_eq!(shown(&map), "g3[m, )e2");
        assert!(!map.learn(&shard(2, "a", "", 1)), "old news");
        assert!(map.learn(&shard(2, "a", "m", 2)));
        assert_eq!(shown(&map), "g2[a, m)e2 g3[m, )e2");
        assert!(!map.learn(&shard(3, "m", "", 2)), "known already");
        assert!(map.find(b"0").is_none());
        assert_eq!(map.find(b"lzz").map(|s| s.group), Some(GroupId(2)));
        assert_eq!(map.find(b"m").map(|s| s.group), Some(GroupId(3)));
        assert_eq!(map.find_before(b"m").map(|s| s.group), Some(GroupId(2)));
        assert_eq!(map.find_before(b"").map(|s| s.group), Some(GroupId(3)));
    }

    #[test]
    fn refuted_shards_are_believed_if_they_were_asked_for_anew_only() {
        let mut map = Map::default();
        let old = shard(2, "a", "", 1);
        assert!(map.is_plausible(&old));
        map.learn(&old);
        map.refute(&old);
        assert!(map.find(b"b").is_none());
        assert!(!map.is_plausible(&old));
        assert!(map.is_plausible(&shard(2, "a", "m", 2)));
        assert!(map.is_plausible(&shard(3, "a", "", 1)), "another one");
        // Whoever has asked anew may be told the same: it is tried again, but not for the word of others.
        assert!(map.learn(&old) && map.find(b"b").is_some());
        assert!(!map.is_plausible(&old));
    }
}
