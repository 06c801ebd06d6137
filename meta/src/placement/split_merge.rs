//! Suggestions: what should be split or merged.
//!
//! Where a shard is split is for the shard to say: it knows its keys. Two neighbours are merged only if the result is
//! far from being split again, if nobody wants the right one to begin where it does (it was cut by placement, or nothing is left of what
//! it was cut for), and never across rules. They may begin in two tables: otherwise the last shard of a dropped one would stay for ever. What
//! a table with shards of its own begins with is wanted, so it is not drawn into its neighbour; and what begins with a whole database
//! stays, for the system's shard before the first one is absorbed by nobody and absorbs nobody's.

use std::collections::BinaryHeap;

use storage::ids::META_GROUP;

use super::description::Group;
use super::draft::Draft;
use super::explain::Why;
use super::operation::Operation;
use super::view::View;

/// Suggests splits and merges.
pub(super) fn suggest(view: &View<'_>, draft: &mut Draft) {
    if view.policy.can.split {
        split(view, draft);
    }
    if view.policy.can.merge {
        merge(view, draft);
    }
}

/// Whether the group may be asked to change its range.
fn quiet(view: &View<'_>, draft: &Draft, place: usize) -> bool {
    let group = &view.cluster.groups[place];
    let steady = !group.restless && !group.reshaped && !group.busy && !group.joint;
    group.id != META_GROUP && steady && !draft.touched(place) && view.leader(group).is_some()
}

/// How many times too large or too hot a shard is, in thousandths.
fn excess(view: &View<'_>, group: &Group) -> u64 {
    let times = |is: u64, max: u64| is.saturating_mul(1_000) / max.max(1);
    let large = times(group.bytes.unwrap_or(0), view.policy.split_bytes);
    let busy = times(group.load.cpu_ms.into(), view.policy.split_cpu_ms);
    large.max(times(group.load.led(), view.policy.split_load)).max(busy)
}

fn split(view: &View<'_>, draft: &mut Draft) {
    let mut worst = BinaryHeap::new();
    for (place, group) in view.cluster.groups.iter().enumerate() {
        let excess = excess(view, group);
        if excess > 1_000 && quiet(view, draft, place) {
            worst.push(std::cmp::Reverse((excess, std::cmp::Reverse(place))));
            if worst.len() > view.policy.suggestions_max {
                worst.pop();
            }
        }
    }
    for std::cmp::Reverse((_, std::cmp::Reverse(place))) in worst.into_sorted_vec() {
        let group = &view.cluster.groups[place];
        let (bytes, requests) = (group.bytes.unwrap_or(0), group.load.led());
        let why = match (bytes > view.policy.split_bytes, requests > view.policy.split_load) {
            (true, _) => Why::Large { bytes, max: view.policy.split_bytes },
            (false, true) => Why::Hot { requests, max: view.policy.split_load },
            (false, false) => Why::Busy { cpu_ms: group.load.cpu_ms.into(), max: view.policy.split_cpu_ms },
        };
        draft.step(place, Operation::Split { group: group.id }, why);
    }
}

fn merge(view: &View<'_>, draft: &mut Draft) {
    let groups = &view.cluster.groups;
    let mut left = view.policy.suggestions_max;
    // From somewhere else each time: those that can't be carried out must not keep the others waiting.
    let begin = if groups.is_empty() { 0 } else { view.cluster.salt as usize % groups.len() };
    for place in (begin..groups.len()).chain(0..begin) {
        if left == 0 {
            return;
        }
        let (Some(first), Some(second)) = (groups.get(place), groups.get(place + 1)) else { continue };
        let (Some(bytes), Some(more)) = (first.bytes, second.bytes) else { continue };
        let (bytes, requests) = (bytes.saturating_add(more), first.load.led() + second.load.led());
        let cpu_ms = u64::from(first.load.cpu_ms) + u64::from(second.load.cpu_ms);
        let cold = requests <= view.policy.merge_load_max && cpu_ms <= view.policy.merge_cpu_ms_max;
        if bytes > view.policy.merge_bytes_max || !cold {
            continue;
        }
        let unwanted = second.family.is_some() && !second.pinned;
        if unwanted && first.rule == second.rule && quiet(view, draft, place) && quiet(view, draft, place + 1)
        {
            let operation = Operation::Merge { group: first.id, right: second.id };
            draft.step(place, operation, Why::Small { bytes, requests });
            draft.touch(place + 1);
            left -= 1;
        }
    }
}
