//! `flotilla admin status`.

use std::time::Duration;

use clap::Args;
use proto::meta::{DescribeResponse, GroupStatus, NodeDuty, NodeStatus, Operation};
use serde_json::json;
use storage::seam::{Clock, SystemClock};

use crate::exit::Failure;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Arguments of `flotilla admin status`.
#[derive(Args)]
pub struct StatusArgs {
    /// Wait up to so many seconds until all nodes live, every shard has a leader and all its replicas, and nothing is left to do
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

/// The nodes that have not been taken away.
fn members(cluster: &DescribeResponse) -> impl Iterator<Item = &NodeStatus> {
    cluster.nodes.iter().filter(|node| node.duty() != NodeDuty::NodeDecommissioned)
}

/// The cluster in a few numbers.
struct Summary {
    dead: usize,
    leaderless: usize,
    short: usize,
    factor: usize,
}

impl Summary {
    fn of(cluster: &DescribeResponse) -> Self {
        let factor =
            meta::settings::Settings::new(cluster.settings.clone().unwrap_or_default()).replication_factor();
        let nodes = members(cluster).count();
        let healthy = |g: &GroupStatus| {
            let wanted = (g.wanted as usize).min(nodes);
            g.replicas.iter().filter(|r| !r.learner && r.reachable).count() >= wanted
        };
        Self {
            dead: members(cluster).filter(|n| !n.alive).count(),
            leaderless: cluster.groups.iter().filter(|g| g.leader_node == 0).count(),
            short: cluster.groups.iter().filter(|g| !healthy(g)).count(),
            factor,
        }
    }

    /// Whether nothing is missing, and nothing under way.
    fn is_calm(&self, cluster: &DescribeResponse) -> bool {
        let healthy = self.dead == 0 && self.leaderless == 0 && self.short == 0;
        healthy && !cluster.operations.iter().any(is_underway)
    }

    /// Whether nothing is to be done either, which only a plan can tell.
    fn settled(&self, cluster: &DescribeResponse) -> bool {
        self.is_calm(cluster) && cluster.plan.is_some() && cluster.planned.is_empty()
    }
}

/// Whether an operation has yet to end. (A drain lasts until it is taken back, and a step that is done is listed for a moment.)
fn is_underway(operation: &Operation) -> bool {
    match operation.kind.as_str() {
        "drain" => false,
        "step" => !operation.state.ends_with(": done"),
        _ => true,
    }
}

/// Asks, again and again if told to wait.
pub async fn run(args: &StatusArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let clock = SystemClock;
    let deadline = clock.now() + Duration::from_secs(args.wait.unwrap_or(0));
    loop {
        let late = clock.now() >= deadline;
        let answer = look(host, args.wait.is_none() || late).await;
        match answer {
            Ok(cluster) => {
                let summary = Summary::of(&cluster);
                if args.wait.is_none() || summary.settled(&cluster) {
                    return Ok(print(&cluster, &summary, as_json));
                }
                if late {
                    let text = print(&cluster, &summary, false).trim_end().replace('\n', "; ");
                    return Err(Failure::Unreachable(format!("the cluster has not settled: {text}")));
                }
            }
            Err(failure) if late => return Err(failure),
            Err(_) => {}
        }
        clock.sleep(LOOK_EVERY).await;
    }
}

/// A plan is asked for at once, or when nothing else is left to wait for: at many shards it takes the leader a moment.
async fn look(host: &str, at_once: bool) -> Result<DescribeResponse, Failure> {
    if !at_once {
        let cluster = super::cluster(host).await?;
        if !Summary::of(&cluster).is_calm(&cluster) {
            return Ok(cluster);
        }
    }
    super::planned(host).await
}

fn print(cluster: &DescribeResponse, summary: &Summary, as_json: bool) -> String {
    let id = hex::encode(&cluster.cluster_id);
    let (nodes, groups) = (members(cluster).count(), cluster.groups.len());
    let Summary { dead, leaderless, short, factor } = summary;
    if as_json {
        return super::pretty(&json!({
            "cluster": id, "replication_factor": factor, "nodes": nodes, "nodes_dead": dead, "groups": groups,
            "groups_without_leader": leaderless, "groups_short_of_replicas": short, "planned": cluster.planned,
            "settled": summary.settled(cluster), "stuck": stuck(cluster), "operations": cluster.operations.len(),
        }));
    }
    let mut text = format!("cluster {id}\nreplication factor {factor}\n");
    text.push_str(&format!("nodes {nodes}, of which dead {dead}\n"));
    text.push_str(&format!(
        "groups {groups}, of which without leader {leaderless}, short of replicas {short}\n"
    ));
    for operation in &cluster.operations {
        text.push_str(&format!("{}: {}: {}\n", operation.kind, operation.subject, operation.state));
    }
    for step in &cluster.planned {
        text.push_str(&format!("planned: {step}\n"));
    }
    for reason in stuck(cluster) {
        text.push_str(&format!("{reason}\n"));
    }
    text
}

/// Why something that is wanted is not even planned.
pub(super) fn stuck(cluster: &DescribeResponse) -> Vec<String> {
    let plan = cluster.plan.clone().unwrap_or_default();
    let mut reasons = Vec::new();
    if plan.leaderless > 0 {
        reasons.push(format!("without a leader, so left alone: {} groups", plan.leaderless));
    }
    if plan.waiting == 0 {
        return reasons;
    }
    reasons.push(format!("waiting for a node that has room and is not busy: {} groups", plan.waiting));
    let policy = meta::placement::Policy::default();
    for node in members(cluster) {
        let facts = node.facts.clone().unwrap_or_default();
        if policy.is_full(facts.capacity_bytes, facts.used_bytes) {
            let free = facts.capacity_bytes.saturating_sub(facts.used_bytes);
            let percent = facts.used_bytes as f64 / facts.capacity_bytes as f64 * 100.0;
            reasons.push(format!(
                "the disk of n{} is {percent:.0} % full, with {:.1} GiB left: it is given no replicas",
                node.id,
                free as f64 / (1u64 << 30) as f64
            ));
        }
    }
    reasons
}
