//! What operators want while clients work and other things break: splits, merges, moves of replicas, transfers of leaders; and, in
//! `duties.rs` and `automatic.rs`, what is wanted of nodes, and of shards without naming one.
//!
//! A task at some node asks the meta-group and looks until it is done, as `flotilla admin` does. What is done, and how, is the
//! product's business: the conductor that runs in every simulated node (`meta::reconcile`). What it refuses (there is
//! no neighbour, no free node, the group is busy) is no trouble.
//!
//! The task dies with its node. What it has begun goes on then, for it is replicated; only nobody writes down how it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meta::{DEFAULT_DATABASE_START, Error, MetaClient};
use parking_lot::Mutex;
use proto::common::ShardDescriptor;
use proto::meta::{
    CancelRequest, DescribeResponse, GroupStatus, MergeRequest, MoveRequest, NodeDuty, SplitRequest,
    TransferRequest,
};
use serde_json::{Value as Json, json};
use storage::seam::Seams;

use super::client::Record;
use super::plan::Wish;
use super::workload::key;
use super::world::Place;
use crate::checker::faults::{DONE, REFUSED};
use crate::history::Value;

/// Between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often somebody is looked for who knows the cluster.
const LOOKS_MAX: usize = 20;
/// An outcome: it may have been done or not.
const UNKNOWN: &str = "unknown";

/// What became of the operations of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// They were done.
    pub done: u64,
    /// The cluster did not take them, or gave them up, or was asked to.
    pub refused: u64,
    /// Nobody was there to see.
    pub unknown: u64,
}

impl Counts {
    /// For the line of JSON with which a process tells of its seed.
    pub fn json(self) -> Json {
        json!([self.done, self.refused, self.unknown])
    }

    /// What [`Counts::json`] has made of it.
    pub fn of(json: &Json) -> Option<Self> {
        let [done, refused, unknown] = &json.as_array()?[..] else { return None };
        Some(Self { done: done.as_u64()?, refused: refused.as_u64()?, unknown: unknown.as_u64()? })
    }

    /// How often it was tried.
    pub fn tries(self) -> u64 {
        self.done + self.refused + self.unknown
    }

    /// Those of other seeds are counted, too.
    pub fn add(&mut self, other: Self) {
        self.done += other.done;
        self.refused += other.refused;
        self.unknown += other.unknown;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} done, {} refused, {} unknown", self.done, self.refused, self.unknown)
    }
}

/// By the operation's name.
pub type Tally = BTreeMap<&'static str, Counts>;

/// How an operation ended.
#[derive(Debug)]
pub(super) enum Ending {
    Done,
    Refused(String),
    Unknown(String),
}

impl<T> From<Result<T, Error>> for Ending {
    fn from(answer: Result<T, Error>) -> Self {
        match answer {
            Ok(_) => Ending::Done,
            Err(Error::Rejected(why)) => Ending::Refused(why),
            Err(error) => Ending::Unknown(error.to_string()),
        }
    }
}

/// An operation that has begun. That it ends is written down, whatever happens.
pub(super) struct Underway {
    record: Arc<Record>,
    tally: Arc<Mutex<Tally>>,
    wish: Wish,
    /// What the history says of it, but for phase and outcome.
    entries: Vec<(Value, Value)>,
    ended: bool,
}

impl Underway {
    /// Its beginning has been written down with `entries`.
    pub fn new(
        record: Arc<Record>,
        tally: Arc<Mutex<Tally>>,
        wish: Wish,
        entries: Vec<(Value, Value)>,
    ) -> Self {
        Self { record, tally, wish, entries, ended: false }
    }

    /// It has ended.
    pub fn end(mut self, ending: &Ending) {
        self.note(ending);
    }

    fn note(&mut self, ending: &Ending) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (outcome, why) = {
            let mut tally = self.tally.lock();
            let counts = tally.entry(self.wish.name()).or_default();
            let (count, outcome, why) = match ending {
                Ending::Done => (&mut counts.done, DONE, None),
                Ending::Refused(why) => (&mut counts.refused, REFUSED, Some(why)),
                Ending::Unknown(why) => (&mut counts.unknown, UNKNOWN, Some(why)),
            };
            *count += 1;
            (outcome, why)
        };
        let named = |name: &str, value| (Value::keyword(name), value);
        let mut entries = vec![named("phase", Value::keyword("end"))];
        entries.append(&mut self.entries);
        entries.push(named("outcome", Value::keyword(outcome)));
        entries.extend(why.map(|why| named("why", Value::from(&why[..]))));
        self.record.nemesis(self.wish.name(), &Value::Map(entries));
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.note(&Ending::Unknown("the node that was asked died".to_owned()));
    }
}

/// Who asks, at a node.
pub(super) struct Operator {
    /// The node's way to the meta-group.
    pub meta: Arc<MetaClient>,
    /// The node's.
    pub seams: Seams,
    /// How many rows there are to cut between.
    pub rows: u32,
    /// How many voters each group has.
    pub replicas: usize,
    /// For what is counted beside the wish itself.
    pub tally: Arc<Mutex<Tally>>,
    /// The nodes that are empty, and to be stopped for good.
    pub retiring: Arc<Mutex<Vec<Place>>>,
}

impl Operator {
    /// Has a wish fulfilled, of what the dice say; called off after `recall`.
    pub async fn carry_out(&self, wish: Wish, dice: u64, recall: Option<Duration>) -> Ending {
        let Some(cluster) = self.look().await else {
            return refused("nobody says what the cluster looks like");
        };
        let place = dice as Place;
        match wish {
            // Nobody is asked but the newcomer, who asks by itself.
            Wish::Join => refused("it is no member yet"),
            Wish::Drain => self.drain(&cluster, place, recall.unwrap_or_default()).await,
            Wish::Decommission | Wish::Retire => self.decommission(&cluster, wish, place, recall).await,
            Wish::Rebuild | Wish::Repair => self.replace(&cluster, wish, place).await,
            Wish::Small => self.have_split(&cluster).await,
            Wish::Large => self.have_merged(&cluster).await,
            Wish::Split => match uncut(&cluster, self.rows, dice) {
                Some((group, key)) => {
                    self.meta.split(SplitRequest { group, key: Some(key), only_choose: false }).await.into()
                }
                None => refused("every row begins a shard, or nobody knows its shard"),
            },
            Wish::Transfer => match heir(&cluster, dice) {
                Some((group, to)) => self.meta.transfer(TransferRequest { group, to }).await.into(),
                None => refused("the group has nobody else to lead it"),
            },
            Wish::Merge => {
                let Some(group) = left_one(&cluster, dice) else {
                    return refused("no shard has a right neighbour");
                };
                match self.meta.merge(MergeRequest { group }).await {
                    Ok(begun) => {
                        let right = begun.right;
                        let done = |now: &DescribeResponse| now.groups.iter().all(|g| g.group != right);
                        self.wait(&begun.operation, recall, done).await
                    }
                    refusal => refusal.into(),
                }
            }
            Wish::Move => {
                let Some((group, from, to)) = journey(&cluster, dice) else {
                    return refused("all nodes have a replica, or nobody leads the group");
                };
                match self.meta.begin_move(MoveRequest { group, from, to }).await {
                    Ok(begun) => {
                        let done = |now: &DescribeResponse| {
                            let known = now.groups.iter().find(|known| known.group == group);
                            known.is_some_and(|g| voters(g).any(|n| n == to) && voters(g).all(|n| n != from))
                        };
                        self.wait(&begun.operation, recall, done).await
                    }
                    refusal => refusal.into(),
                }
            }
        }
    }

    async fn look(&self) -> Option<DescribeResponse> {
        for _ in 0..LOOKS_MAX {
            if let Ok(cluster) = self.meta.describe().await {
                return Some(cluster);
            }
            self.seams.sleep(LOOK_EVERY).await;
        }
        None
    }

    /// How long ago that was.
    pub(super) fn since(&self, begun: Instant) -> Duration {
        self.seams.clock.now().saturating_duration_since(begun)
    }

    /// Looks until the operation is no longer under way; whether it was done then.
    pub(super) async fn wait(
        &self,
        operation: &str,
        mut recall: Option<Duration>,
        done: impl Fn(&DescribeResponse) -> bool,
    ) -> Ending {
        let begun = self.seams.clock.now();
        loop {
            if let Ok(cluster) = self.meta.describe().await
                && cluster.operations.iter().all(|known| known.id != operation)
            {
                return match done(&cluster) {
                    true => Ending::Done,
                    false => refused("it was given up, or called off"),
                };
            }
            let waited = self.since(begun);
            if recall.take_if(|after| waited >= *after).is_some() {
                // Whatever comes of that, the operation ends.
                let _ = self.meta.cancel(CancelRequest { operation: operation.to_owned() }).await;
            }
            self.seams.sleep(LOOK_EVERY).await;
        }
    }
}

pub(super) fn refused(why: &str) -> Ending {
    Ending::Refused(why.to_owned())
}

/// The item that the dice say.
fn pick<T>(mut items: Vec<T>, dice: u64) -> Option<T> {
    match items.len() {
        0 => None,
        count => Some(items.swap_remove((dice % count as u64) as usize)),
    }
}

pub(super) fn voters(group: &GroupStatus) -> impl Iterator<Item = u64> + '_ {
    group.replicas.iter().filter(|replica| !replica.learner).map(|replica| replica.node)
}

/// The shards that hold rows, in the order of their keys.
fn shards(cluster: &DescribeResponse) -> Vec<&ShardDescriptor> {
    let described = cluster.groups.iter().filter_map(|group| group.descriptor.as_ref());
    let mut shards: Vec<_> =
        described.filter(|shard| shard.start[..] >= DEFAULT_DATABASE_START[..]).collect();
    shards.sort_by(|one, other| one.start.cmp(&other.start));
    shards
}

/// A row's key at which no shard begins, and the shard that holds it.
fn uncut(cluster: &DescribeResponse, rows: u32, dice: u64) -> Option<(u64, Bytes)> {
    let shards = shards(cluster);
    let holder = |key: Bytes| {
        let holds =
            |shard: &&&ShardDescriptor| shard.start < key && (shard.end.is_empty() || key < shard.end);
        shards.iter().find(holds).map(|shard| (shard.group, key.clone()))
    };
    pick((0..rows).map(key).filter_map(holder).collect(), dice)
}

/// A shard that has a right neighbour.
fn left_one(cluster: &DescribeResponse, dice: u64) -> Option<u64> {
    let shards = shards(cluster);
    let neighbours = shards.windows(2).filter(|pair| pair[0].end == pair[1].start);
    pick(neighbours.map(|pair| pair[0].group).collect(), dice)
}

/// A group, the meta-group among them, and a voter of it that doesn't lead.
fn heir(cluster: &DescribeResponse, dice: u64) -> Option<(u64, u64)> {
    let group = pick(cluster.groups.iter().filter(|group| group.leader_node != 0).collect(), dice)?;
    let to = pick(voters(group).filter(|node| *node != group.leader_node).collect(), dice >> 32)?;
    Some((group.group, to))
}

/// A group, the meta-group among them, a node with a vote in it, and a node that has no replica and is to get some.
fn journey(cluster: &DescribeResponse, dice: u64) -> Option<(u64, u64, u64)> {
    let group = pick(cluster.groups.iter().filter(|group| group.leader_node != 0).collect(), dice)?;
    let from = pick(voters(group).collect(), dice >> 16)?;
    let free = |node: &u64| group.replicas.iter().all(|replica| replica.node != *node);
    let serving = cluster.nodes.iter().filter(|node| node.duty() == NodeDuty::NodeActive);
    let to = pick(serving.map(|node| node.id).filter(free).collect(), dice >> 32)?;
    Some((group.group, from, to))
}

#[cfg(test)]
mod tests {
    use proto::meta::{NodeStatus, ReplicaProgress};

    use super::*;

    /// The meta-group, the system's shard, and shards that begin at these rows, on nodes 1 to 3 of 4; node 1 leads.
    fn cluster(rows: &[u32]) -> DescribeResponse {
        let replicas: Vec<ReplicaProgress> =
            (1..=3).map(|node| ReplicaProgress { replica: 10 + node, node, ..Default::default() }).collect();
        let starts = [Bytes::new(), Bytes::copy_from_slice(&DEFAULT_DATABASE_START)];
        let starts: Vec<Bytes> = starts.into_iter().chain(rows.iter().copied().map(key)).collect();
        let described = starts.iter().enumerate().map(|(n, start)| {
            let end = starts.get(n + 1).cloned().unwrap_or_default();
            Some(ShardDescriptor { group: 2 + n as u64, start: start.clone(), end, ..Default::default() })
        });
        let groups = std::iter::once(None).chain(described).map(|descriptor| GroupStatus {
            group: descriptor.as_ref().map_or(1, |shard| shard.group),
            descriptor,
            leader_node: 1,
            replicas: replicas.clone(),
            ..Default::default()
        });
        let nodes = (1..=4).map(|id| NodeStatus { id, ..Default::default() });
        DescribeResponse { groups: groups.collect(), nodes: nodes.collect(), ..Default::default() }
    }

    #[test]
    fn a_split_cuts_where_no_shard_begins() {
        let cluster = cluster(&[2, 4]);
        let cuts: Vec<_> = (0..3).filter_map(|dice| uncut(&cluster, 5, dice)).collect();
        assert_eq!(cuts, [(3, key(0)), (3, key(1)), (4, key(3))]);
        assert_eq!(uncut(&self::cluster(&[0, 1]), 2, 0), None);
    }

    #[test]
    fn a_merge_leaves_the_system_and_the_last_shard() {
        let lefts: Vec<_> = (0..2).filter_map(|dice| left_one(&cluster(&[2, 4]), dice)).collect();
        assert_eq!(lefts, [3, 4]);
        assert_eq!(left_one(&cluster(&[]), 7), None);
    }

    #[test]
    fn a_replica_moves_to_a_node_that_has_none_and_a_leader_to_one_that_has() {
        let cluster = cluster(&[2]);
        for dice in [0, 1 << 16, 0x0003_0002_0001_0007] {
            let (_, from, to) = journey(&cluster, dice).expect("a move");
            assert!((1..=3).contains(&from) && to == 4, "from {from} to {to}");
            let (_, heir) = heir(&cluster, dice).expect("a voter");
            assert!((2..=3).contains(&heir), "{heir}");
        }
        let mut full = cluster;
        full.nodes[3].duty = NodeDuty::NodeDraining.into();
        assert_eq!(journey(&full, 0), None);
        full.nodes.truncate(3);
        assert_eq!(journey(&full, 0), None);
    }

    #[test]
    fn counts_come_back_from_their_json() {
        let counts = Counts { done: 3, refused: 2, unknown: 1 };
        assert_eq!(Counts::of(&counts.json()), Some(counts));
        assert_eq!((counts.tries(), Counts::of(&json!([3, 2]))), (6, None));
        let mut sum = counts;
        sum.add(counts);
        assert_eq!((sum.done, sum.tries()), (6, 12));
    }
}
