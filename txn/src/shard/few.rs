//! Those of a node's shards for which something has to be done again and again.
//!
//! A node may have ten thousand shards, of which hardly any leads or is about to go. Locks lapse, descriptors follow members
//! and waits are reported several times in a second: to go through all shards for that costs more than the work itself. So
//! whoever becomes one of the few says so when it does, and whoever looks goes through these.
//!
//! To be among them says nothing: whoever looks asks the shard itself. Not to be among them says that there is nothing to do:
//! so a shard is put in *before* it is to be found that it leads, or was absorbed.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use storage::ids::GroupId;

/// See the module.
pub(super) struct Few<T>(Mutex<BTreeMap<GroupId, Weak<T>>>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Few<T> {
    /// It is one of them from now on.
    pub fn add(&self, group: GroupId, member: &Weak<T>) {
        self.0.lock().insert(group, member.clone());
    }

    /// It is none of them any more. (Another replica of the group, which came later, stays.)
    pub fn remove(&self, group: GroupId, member: &Weak<T>) {
        let mut members = self.0.lock();
        if members.get(&group).is_some_and(|known| known.ptr_eq(member)) {
            members.remove(&group);
        }
    }

    /// All of them that are still there.
    pub fn all(&self) -> Vec<Arc<T>> {
        let mut members = self.0.lock();
        members.retain(|_, member| member.strong_count() > 0);
        members.values().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GroupId = GroupId(1);
    const B: GroupId = GroupId(2);

    fn found(few: &Few<&'static str>) -> Vec<&'static str> {
        few.all().iter().map(|member| **member).collect()
    }

    #[test]
    fn a_later_replica_of_a_group_is_not_removed_with_an_earlier_one() {
        let few = Few::default();
        let (early, late, other) = (Arc::new("early"), Arc::new("late"), Arc::new("other"));
        few.add(A, &Arc::downgrade(&early));
        few.add(B, &Arc::downgrade(&other));
        assert_eq!(found(&few), ["early", "other"]);
        few.add(A, &Arc::downgrade(&late));
        few.remove(A, &Arc::downgrade(&early));
        assert_eq!(found(&few), ["late", "other"]);
        few.remove(A, &Arc::downgrade(&late));
        few.remove(A, &Arc::downgrade(&late));
        assert_eq!(found(&few), ["other"]);
    }

    #[test]
    fn one_that_is_gone_is_forgotten() {
        let few = Few::default();
        let (a, b) = (Arc::new("a"), Arc::new("b"));
        few.add(A, &Arc::downgrade(&a));
        few.add(B, &Arc::downgrade(&b));
        drop(a);
        assert_eq!(found(&few), ["b"]);
        assert_eq!(few.0.lock().len(), 1);
    }
}
