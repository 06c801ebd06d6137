//! Whether the replicas of each group hold the same rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use raft::{Group, Role};
use storage::ids::{GroupId, LogIndex};
use storage::{Cf, Engine};

use super::node::SimNode;
use super::world::Place;

/// What is wrong with replicas that have applied the same is an error; which ones have not (yet) is told.
pub(super) fn compare(nodes: &[SimNode]) -> Result<Option<String>> {
    // By group: what the first replica that was looked at has applied, and the hash of its rows.
    let mut known: BTreeMap<GroupId, (Place, Option<LogIndex>, u64)> = BTreeMap::new();
    for (place, node) in nodes.iter().enumerate() {
        let parts = node.look(|status| {
            let groups = status.up.as_ref().map(|up| up.multi.groups())?;
            Some((groups, status.engine.clone()?))
        });
        let Some((groups, engine)) = parts.flatten() else { continue };
        for group in groups {
            let status = group.status();
            if let Role::Stopped { reason } = &status.role {
                bail!("the replica of {} on node {} has stopped: {reason}", status.group, place + 1);
            }
            let rows = hash(&group, &engine)?;
            let (other, applied, others_rows) =
                *known.entry(status.group).or_insert((place, status.applied, rows));
            if applied != status.applied {
                let (one, two) = (other + 1, place + 1);
                return Ok(Some(format!(
                    "of {}, nodes {one} and {two} have applied different entries",
                    status.group
                )));
            }
            if rows != others_rows {
                let (one, two) = (other + 1, place + 1);
                bail!("the rows of {} differ between nodes {one} and {two}", status.group);
            }
        }
    }
    Ok(None)
}

fn hash(group: &Group, engine: &Arc<Engine>) -> Result<u64> {
    let snapshot = engine.snapshot();
    let mut hasher = crc32fast::Hasher::new();
    let mut count = 0u64;
    for (cf, range) in group.machine().spans() {
        // What groups keep for themselves says where they are, too.
        if cf == Cf::Group {
            continue;
        }
        let mut rows = snapshot.iter(cf, &range);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            hasher.update(&(key.len() as u32).to_le_bytes());
            hasher.update(key);
            hasher.update(value);
            count += 1;
            rows.next();
        }
        rows.check()?;
    }
    Ok(count << 32 | u64::from(hasher.finalize()))
}
