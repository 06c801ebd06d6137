//! The comparison that nobody asks for: once per `consistency_check_interval`, each group.
//!
//! The loop runs on every node and works only where the meta-group is led, on one group at a time, and each replica reads no
//! faster than `consistency_check_mib_per_second`. When a leader begins, it spreads the groups over the interval by chance: what
//! another one has compared lately, it does not know.
//!
//! A group of which a node says that its replica has failed, or has met damage in its rows, is compared at once ([`super::suspects`]).
//!
//! What it does about a replica that differs or has failed, twice, at two entries of the log:
//!
//! ```text
//!   a majority of all voters is equal ──▶ 1. Quarantine to the replica's node: it stops, and does not come back after a restart
//!                                         2. its group's leader removes it, its node throws it away
//!                                         3. placement finds the group too small, and builds a new replica, under a new id
//!   otherwise ──▶ nobody knows who is right: it is only reported
//! ```
//!
//! A majority that has failed is a group that stands still; removing any of them could only make it worse. So that is reported, too.
//!
//! Neither way is silent: an error in the log of the meta-group's leader and of the replica's node, `flotilla_consistency_differences_total`,
//! `flotilla_raft_replicas_quarantined_total`. Should the leader fail in between, the replica stays stopped, and its node says so to
//! the next one. So a replica that says that it is in quarantine is removed, too, whenever it is met. That is also how a replica of the
//! meta-group goes whose node leads it: in quarantine it leads no more, and the next leader does the rest.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::consistency::replica_digest::State;
use proto::consistency::{GroupComparison, QuarantineRequest, ReplicaDigest};
use storage::ids::{GroupId, META_GROUP, NodeId, ReplicaId};
use storage::seam::Seams;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::conduct::{Conductor, Nodes};
use super::judge::{is_bad, outcasts};
use crate::placement::Operation;
use crate::reconcile::carry_out;
use crate::rpc::{Channels, within};
use crate::server::MetaServer;
use crate::settings::Settings;
use crate::{Error, MetaClient};

/// Between two looks whether a group is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A replica's node stops it within this time; a leadership is handed over before.
const QUARANTINE_LIMIT: Duration = Duration::from_secs(10);
/// A removal that does not succeed is tried so often, with pauses: the group may have to elect first.
const REMOVALS_MAX: usize = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// When each group is due.
///
/// There may be ten thousand groups, and hardly ever is one due or new: which there are is looked at when the map or the interval
/// has changed, and otherwise only the first.
#[derive(Debug, Default)]
struct Due {
    /// Of the map, and the interval.
    made_of: Option<(u64, Duration)>,
    at: HashMap<GroupId, Instant>,
    /// The same by time.
    order: BTreeSet<(Instant, GroupId)>,
}

impl Due {
    /// These are the groups as of that version of the map. New ones are due by chance within the interval.
    fn follow(
        &mut self,
        version: u64,
        interval: Duration,
        groups: impl Iterator<Item = GroupId>,
        now: Instant,
        mut chance: impl FnMut() -> f64,
    ) {
        if self.made_of == Some((version, interval)) {
            return;
        }
        let known = std::mem::take(&mut self.at);
        for group in groups {
            let at = known.get(&group).copied().unwrap_or_else(|| now + interval.mul_f64(chance()));
            // The interval may have been made shorter.
            self.at.insert(group, at.min(now + interval));
        }
        self.order = self.at.iter().map(|(group, at)| (*at, *group)).collect();
        self.made_of = Some((version, interval));
    }

    /// The group that has been due for longest; from then on it is due an interval later.
    fn next(&mut self, now: Instant) -> Option<GroupId> {
        let (_, interval) = self.made_of?;
        let (at, group) = self.order.first().copied().filter(|(at, _)| *at <= now)?;
        self.order.remove(&(at, group));
        self.order.insert((now + interval, group));
        self.at.insert(group, now + interval);
        Some(group)
    }
}

/// Compares the replicas of all groups, again and again.
pub struct Periodic {
    conductor: Conductor,
    server: Arc<MetaServer>,
    seams: Seams,
}

impl Periodic {
    /// For the node whose part of the meta-group is `server`.
    pub fn new(cluster_id: u128, server: Arc<MetaServer>, client: Arc<MetaClient>, seams: Seams) -> Self {
        let channels = Arc::new(Channels::new(&seams));
        Self { conductor: Conductor { cluster_id, client, channels, seams: seams.clone() }, server, seams }
    }

    /// Runs until cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let leading = self.server.leading();
        let mut due = Due::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.seams.beat(LOOK_EVERY) => {}
            }
            if leading.borrow().is_none() {
                due = Due::default();
                continue;
            }
            let Some(group) = self.suspect().or_else(|| self.next(&mut due)) else { continue };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.check(group) => {}
            }
        }
    }

    fn settings(&self) -> Settings {
        self.server.replica.read(|state| Settings::new(state.settings()))
    }

    /// A group that a node wants compared at once.
    fn suspect(&self) -> Option<GroupId> {
        // (Who has ceased to lead meanwhile compares nothing.)
        let suspect = self.server.with_soft(|soft, now| soft.suspects.next(now)).ok().flatten()?;
        let known = self.server.replica.read(|state| state.shards().contains_key(&suspect));
        (known || suspect == META_GROUP).then_some(suspect)
    }

    /// A group that is due; from then on it is due an interval later.
    fn next(&self, due: &mut Due) -> Option<GroupId> {
        let interval = self.settings().check_interval();
        let now = self.seams.clock.now();
        self.server.replica.read(|state| {
            let groups = std::iter::once(META_GROUP).chain(state.shards().keys().copied());
            due.follow(state.map_version(), interval, groups, now, || self.seams.random_f64());
        });
        due.next(now)
    }

    async fn check(&self, group: GroupId) {
        let rate = self.settings().check_rate();
        let compared = self.conductor.persistently(group, rate).await;
        metrics::counter!("flotilla_consistency_checks_total").increment(1);
        if !compared.trouble.is_empty() {
            info!("{group}: its replicas could not be compared: {}", compared.trouble);
            return;
        }
        if compared.replicas.iter().all(|replica| !is_bad(replica)) {
            return;
        }
        // What differs stays so; what was a moment's trouble does not.
        let again = self.conductor.persistently(group, rate).await;
        let twice = |replica: &&ReplicaDigest| {
            let before = compared.replicas.iter().find(|b| b.replica == replica.replica);
            is_bad(replica) && before.is_some_and(is_bad)
        };
        let bad: Vec<&ReplicaDigest> = again.replicas.iter().filter(twice).collect();
        for replica in &bad {
            let (id, node) = (ReplicaId(replica.replica), NodeId(replica.node));
            if replica.state() == State::Failed {
                // Its own node counts it.
                error!("{group}: {id} on {node} HAS FAILED: {}", replica.detail);
                continue;
            }
            metrics::counter!("flotilla_consistency_differences_total").increment(1);
            error!(
                "{group}: {id} on {node} IS NOT AS THE OTHERS at entry {}: {}",
                again.index, replica.detail
            );
        }
        let outcasts = outcasts(&again.replicas);
        for replica in bad {
            match outcasts.contains(&replica.replica) {
                true => self.replace(&again, replica).await,
                false => error!(
                    "{group}: no majority of its voters is equal, so nobody knows who is right, and all of them stay"
                ),
            }
        }
    }

    /// See the module.
    async fn replace(&self, compared: &GroupComparison, replica: &ReplicaDigest) {
        let (group, id, node) = (GroupId(compared.group), ReplicaId(replica.replica), NodeId(replica.node));
        if let Err(error) = self.quarantine(compared, replica).await {
            // The next comparison finds it again.
            warn!("{group}: {id} on {node} is not in quarantine: {error}");
            return;
        }
        for _ in 0..REMOVALS_MAX {
            if !self.server.leads() {
                info!("{group}: {id} on {node} is in quarantine; who leads the meta-group next removes it");
                return;
            }
            match carry_out(&self.server, Operation::RemoveReplica { group, replica: id, node }).await {
                Ok(()) => {
                    warn!("{group}: {id} on {node} was removed; placement builds another one");
                    return;
                }
                Err(error) => info!("{group}: {id} on {node} cannot be removed yet: {error}"),
            }
            self.seams.sleep(PAUSE).await;
        }
        error!("{group}: {id} on {node} stays in quarantine: it cannot be removed");
    }

    async fn quarantine(&self, compared: &GroupComparison, replica: &ReplicaDigest) -> Result<(), Error> {
        self.conductor.client.refresh().await?;
        let nodes = Nodes::known(&self.conductor.client, &self.conductor.channels);
        let mut there = nodes.get(NodeId(replica.node)).map_err(Error::Unavailable)?;
        let why = match replica.state() {
            State::Failed => replica.detail.clone(),
            _ => format!("it is not as the others at entry {}: {}", compared.index, replica.detail),
        };
        let request = QuarantineRequest {
            cluster_id: bytes::Bytes::copy_from_slice(&self.conductor.cluster_id.to_be_bytes()),
            group: compared.group,
            replica: replica.replica,
            why,
        };
        within(&self.seams, QUARANTINE_LIMIT, there.quarantine(request)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn groups(ids: &[u64]) -> impl Iterator<Item = GroupId> {
        ids.iter().map(|id| GroupId(*id)).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn each_group_is_due_once_per_interval() {
        let begin = Seams::real().clock.now();
        let mut due = Due::default();
        assert_eq!(due.next(begin), None, "nothing is known yet");
        let mut chances = [0.5, 0.25].into_iter();
        due.follow(1, HOUR, groups(&[1, 2]), begin, || chances.next().expect("two are new"));
        assert_eq!(due.next(begin + HOUR.mul_f64(0.2)), None);
        assert_eq!(due.next(begin + HOUR.mul_f64(0.6)), Some(GroupId(2)), "for longest");
        assert_eq!(due.next(begin + HOUR.mul_f64(0.6)), Some(GroupId(1)));
        assert_eq!(due.next(begin + HOUR.mul_f64(1.5)), None);
        assert_eq!(due.next(begin + HOUR.mul_f64(1.7)), Some(GroupId(1)));
    }

    #[test]
    fn groups_come_and_go_with_the_map_and_keep_their_time() {
        let begin = Seams::real().clock.now();
        let mut due = Due::default();
        due.follow(1, HOUR, groups(&[1, 2]), begin, || 0.5);
        due.follow(1, HOUR, groups(&[]), begin, || panic!("the same map"));
        due.follow(2, HOUR, groups(&[2, 3]), begin + HOUR / 4, || 0.5);
        assert_eq!(due.next(begin + HOUR / 2), Some(GroupId(2)));
        assert_eq!(due.next(begin + HOUR / 2), None, "one is gone, and the new one has its time");
        assert_eq!(due.next(begin + HOUR), Some(GroupId(3)));
        assert_eq!((due.at.len(), due.order.len()), (2, 2));
    }

    #[test]
    fn a_shorter_interval_counts_at_once() {
        let begin = Seams::real().clock.now();
        let mut due = Due::default();
        due.follow(1, HOUR, groups(&[1]), begin, || 1.0);
        due.follow(1, HOUR / 60, groups(&[1]), begin, || panic!("it is known"));
        assert_eq!(due.next(begin + HOUR / 60), Some(GroupId(1)));
        assert_eq!(due.next(begin + HOUR / 60), None);
    }
}
