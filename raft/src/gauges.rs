//! How a node's replicas are, as gauges: for `/metrics`.

use crate::api::Role;
use crate::multi::MultiRaft;

impl MultiRaft {
    /// Publishes how many replicas there are in each role, and how far the farthest of them lag behind. Cheap: reads what each
    /// group has published itself.
    pub fn record_metrics(&self) {
        let (mut leading, mut following, mut without_leader) = (0_u32, 0_u32, 0_u32);
        let (mut uncommitted, mut unapplied, mut unflushed) = (0, 0, 0);
        let stopped = self.doubts().count() as u32;
        for group in self.awake() {
            let status = group.status();
            match status.role {
                Role::Leader { .. } => leading += 1,
                Role::Follower { leader: Some(_) } => following += 1,
                Role::Follower { leader: None } => without_leader += 1,
                // Counted where those are that could not even be opened.
                Role::Stopped { .. } => {}
            }
            let index = |index: Option<storage::ids::LogIndex>| index.map_or(0, |index| index.0);
            let (last, committed) = (index(status.last), index(status.committed));
            let (applied, flushed) = (index(status.applied), index(status.flushed));
            uncommitted = last.saturating_sub(committed).max(uncommitted);
            unapplied = committed.saturating_sub(applied).max(unapplied);
            unflushed = applied.saturating_sub(flushed).max(unflushed);
        }
        let resting = (self.count() as u32).saturating_sub(leading + following + without_leader + stopped);
        let roles = [
            ("leader", leading),
            ("follower", following),
            ("no-leader", without_leader),
            ("stopped", stopped),
            ("at-rest", resting),
        ];
        for (role, replicas) in roles {
            metrics::gauge!("flotilla_raft_replicas", "role" => role).set(f64::from(replicas));
        }
        metrics::gauge!("flotilla_raft_commit_lag_entries").set(uncommitted as f64);
        metrics::gauge!("flotilla_raft_apply_lag_entries").set(unapplied as f64);
        metrics::gauge!("flotilla_raft_flush_lag_entries").set(unflushed as f64);
    }
}
