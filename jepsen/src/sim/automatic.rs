//! Splits and merges that nobody asks for shard by shard: operators set what is too large, and placement finds which shards are.
//!
//! How large a shard is depends on when RocksDB's threads merge its tables, so each is said to take the same (`changes.rs`): too
//! much as long as shards are to be small, little otherwise. A shard that was split is left alone for twenty seconds; so it is
//! split once while clients work. To see merges while faults strike, shards are split before clients begin
//! ([`Simulation::presplit`]), and merged when an operator allows it. In the end, nothing that was split by itself may be left
//! apart (`census.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use proto::meta::DescribeResponse;

use super::changes::{APART, SMALL, TOGETHER};
use super::host;
use super::operate::{Ending, LOOK_EVERY, Operator, refused};
use super::plan::SECOND;
use super::run::{FORM_MAX_NS, PAUSE, Simulation};
use super::workload;

/// So long a shard that was split is left alone, and a little.
const APART_NS: u64 = 21 * SECOND;
/// Placement may leave a shard alone for half a minute: it was led by another one a moment ago, or could not be reshaped.
const COMES_WITHIN: Duration = Duration::from_secs(30);
/// What is set for a while, and brought back to its default in the end.
pub(super) const SETTINGS: [&str; 2] = [SMALL.0, APART.0];

impl Operator {
    /// Shards are to be small, until one has been split on account of it.
    pub(super) async fn have_split(&self, cluster: &DescribeResponse) -> Ending {
        let before = split_off(cluster);
        self.set_and_see(SMALL, |now| !split_off(now).is_subset(&before)).await
    }

    /// Shards may be merged, until one that was split by itself has been.
    pub(super) async fn have_merged(&self, cluster: &DescribeResponse) -> Ending {
        let before = split_off(cluster);
        self.set_and_see(TOGETHER, |now| !before.is_subset(&split_off(now))).await
    }

    async fn set_and_see(
        &self,
        (name, value): (&str, &str),
        has_come: impl Fn(&DescribeResponse) -> bool,
    ) -> Ending {
        match self.meta.change_setting(name, value).await {
            Ok(()) => {}
            refusal => return refusal.into(),
        }
        let begun = self.seams.clock.now();
        while self.since(begun) < COMES_WITHIN {
            if self.meta.describe().await.is_ok_and(|now| has_come(&now)) {
                return Ending::Done;
            }
            self.seams.sleep(LOOK_EVERY).await;
        }
        refused("no shard was reshaped in time")
    }
}

impl Simulation {
    /// If the plan says so: has shards of rows be split by themselves while nothing else happens, and lets time pass until they could
    /// be merged, were it allowed.
    pub(super) fn presplit(&mut self) -> Result<()> {
        if !self.plan.presplit {
            return Ok(());
        }
        let (split, rows) = (Arc::new(Mutex::new(false)), self.workload.rows());
        let (place, meta) = self.asked()?;
        let done = split.clone();
        self.in_node(place, move |client| async move {
            // There must be two rows to be cut between: such that were there, and are not any more.
            while workload::leave_traces(&client.database, rows).await.is_err() {
                client.seams.sleep(PAUSE).await;
            }
            for (name, value) in [APART, SMALL] {
                while meta.change_setting(name, value).await.is_err() {
                    client.seams.sleep(PAUSE).await;
                }
            }
            while !meta.describe().await.is_ok_and(|now| !split_off(&now).is_empty()) {
                client.seams.sleep(PAUSE).await;
            }
            while meta.change_setting(SMALL.0, "").await.is_err() {
                client.seams.sleep(PAUSE).await;
            }
            *done.lock() = true;
        });
        self.run_until(FORM_MAX_NS, |_| *split.lock()).context("no shard is split by itself")?;
        self.advance_to(host::now_ns() + APART_NS)
    }
}

/// The shards that were split off by themselves.
fn split_off(cluster: &DescribeResponse) -> BTreeSet<u64> {
    cluster.groups.iter().filter(|group| group.automatic).map(|group| group.group).collect()
}
