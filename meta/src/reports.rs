//! What the meta-group's leader makes of the nodes' reports.
//!
//! A node tells of each group that it leads, once a second. Of groups at rest there may be thousands, and nothing new of any of
//! them: they are in a report only when something has changed; otherwise it says what they come to (a digest), and
//! whoever has nothing that comes to the same asks for them.

use std::collections::HashSet;
use std::time::Instant;

use proto::meta as pb;
use storage::ids::{GroupId, NodeId, ReplicaId};
use storage::seam::Seams;

use crate::server::{DEAD_AFTER, Reported, Soft};

/// What a report says of the groups at rest on its node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resting {
    /// They are in it, and come to this.
    Sent(u64),
    /// They are what they were when they came to this.
    Known(u64),
}

impl Soft {
    /// Takes a node's report in; returns whether it says something new about its groups.
    pub fn take_report(
        &mut self,
        node: NodeId,
        now: Instant,
        groups: Vec<pb::GroupReport>,
        resting: Resting,
    ) -> bool {
        self.given_up.remove(&node);
        let was_alive = self.last_seen.insert(node, now).is_some_and(|seen| now - seen < DEAD_AFTER);
        let mut news = !was_alive;
        let mut led = HashSet::new();
        let mut leaders_changed = false;
        for report in groups {
            let id = GroupId(report.group);
            let known = self.groups.get(&id);
            if known.is_some_and(|k| k.report.term > report.term) {
                continue;
            }
            led.insert(id);
            self.between_leaders.remove(&id);
            news |= known.is_none_or(|k| k.by != node || !same_members(&k.report, &report));
            leaders_changed |= known.is_none_or(|k| k.by != node || k.report.term != report.term);
            let since = known.filter(|k| k.report.term == report.term).map_or(now, |k| k.since);
            let silent = report.replicas.iter().filter(|r| !r.reachable).map(|r| ReplicaId(r.replica));
            let earlier = |r: &ReplicaId| known.and_then(|k| k.silent_since.get(r)).copied();
            let silent_since = silent.map(|r| (r, earlier(&r).unwrap_or(now))).collect();
            self.loads.note(id, report.load, since, now);
            self.groups.insert(id, Reported { by: node, since, at: now, report, silent_since });
        }
        // What rests is not told of each time. If it has changed, the next report tells of it.
        let told = matches!(resting, Resting::Sent(_));
        let (Resting::Sent(digest) | Resting::Known(digest)) = resting;
        if told {
            self.resting.insert(node, digest);
        }
        let same = self.resting.get(&node) == Some(&digest);
        // What the node led and no longer does has no known leader until somebody says so.
        let mut lost = Vec::new();
        for (id, known) in self.groups.iter_mut().filter(|(id, known)| known.by == node && !led.contains(id))
        {
            if !known.report.rests || told {
                lost.push(*id);
            } else if same {
                known.at = now;
            }
        }
        for id in &lost {
            self.groups.remove(id);
            self.between_leaders.insert(*id, now);
        }
        if leaders_changed || !lost.is_empty() {
            self.leaders_version += 1;
        }
        news || !lost.is_empty()
    }
}

/// Whether two reports tell of the same members.
fn same_members(one: &pb::GroupReport, other: &pb::GroupReport) -> bool {
    let members = |report: &pb::GroupReport| -> Vec<(u64, bool)> {
        report.replicas.iter().map(|r| (r.replica, r.learner)).collect()
    };
    one.joint == other.joint && members(one) == members(other)
}

/// Where a leader begins to count versions of the list of leaders: no two of them begin alike.
pub(crate) fn leaders_version(seams: &Seams) -> u64 {
    seams.random_u64() >> 1 | 1
}
