//! `flotilla admin drain`, `undrain`, `decommission`, `recommission`.

use std::time::Duration;

use clap::Args;
use proto::meta::change_duty::Change;
use proto::meta::{ChangeDutyRequest, DescribeResponse, GroupStatus, NodeDuty, NodeFacts, NodeStatus};
use serde_json::json;

use super::progress::Left;
use super::wait::{self, Look, Progress};
use super::{describe, names};
use crate::exit::Failure;

/// Arguments of `drain` and `undrain`, and of `recommission`.
#[derive(Args)]
pub struct DutyArgs {
    /// The node: n2, or one of its addresses
    node: String,
    /// Return at once instead of when it is done
    #[arg(long)]
    no_wait: bool,
    /// Wait no longer than this; what was begun goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

/// Arguments of `decommission`.
#[derive(Args)]
pub struct DecommissionArgs {
    /// The node: n2, or one of its addresses
    node: String,
    /// Return at once instead of when the node is empty
    #[arg(long)]
    no_wait: bool,
    /// Wait no longer than this; what was begun goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
    /// Even if the other nodes can't hold as many replicas as are wanted: it keeps those until they can
    #[arg(long)]
    force: bool,
}

/// Has a node do something else.
pub async fn run(change: Change, args: &DutyArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    apply(change, &args.node, false, (!args.no_wait).then_some(args.timeout), host, as_json).await
}

/// Has a node's replicas move elsewhere.
pub async fn decommission(args: &DecommissionArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let wait = (!args.no_wait).then_some(args.timeout);
    apply(Change::Decommission, &args.node, args.force, wait, host, as_json).await
}

async fn apply(
    change: Change,
    name: &str,
    force: bool,
    wait: Option<u64>,
    host: &str,
    as_json: bool,
) -> Result<String, Failure> {
    let node = names::node(&super::cluster(host).await?, name)?;
    let mut admin = super::connect(host).await?;
    let request = ChangeDutyRequest { node, change: change.into(), force };
    admin.change_duty(request).await.map_err(|status| describe(host, &status))?;
    let text = match wait {
        Some(seconds) => {
            // Only what a node is emptied of may have to wait for room.
            let kind = if change == Change::Decommission { Look::Planned } else { Look::Plain };
            let limit = Duration::from_secs(seconds);
            wait::until(host, kind, limit, |c| progress(c, node)).await?
        }
        None => match progress(&super::planned(host).await?, node)? {
            Progress::Going(text) | Progress::Counted(text, _) | Progress::Ended(text) => text,
        },
    };
    if !as_json {
        return Ok(format!("{text}\n"));
    }
    let cluster = super::cluster(host).await?;
    let known = find(&cluster, node)?;
    Ok(super::pretty(&json!({
        "node": node, "duty": duty(known), "replicas": known.replicas, "leaders": known.leaders,
        "sessions": known.facts.as_ref().map_or(0, |facts| facts.sessions),
    })))
}

fn find(cluster: &DescribeResponse, node: u64) -> Result<&NodeStatus, Failure> {
    let known = cluster.nodes.iter().find(|known| known.id == node);
    known.ok_or_else(|| Failure::Other(format!("n{node} is not listed any more")))
}

fn progress(cluster: &DescribeResponse, node: u64) -> Result<Progress, Failure> {
    let known = find(cluster, node)?;
    let facts = known.facts.clone().unwrap_or_default();
    Ok(match known.duty() {
        NodeDuty::NodeActive if known.alive && facts.closed => {
            Progress::Going(format!("n{node} does not let sessions in yet"))
        }
        NodeDuty::NodeActive => Progress::Ended(format!("n{node} serves")),
        NodeDuty::NodeDraining => draining(known, &facts),
        NodeDuty::NodeDecommissioning => {
            let waiting = cluster.plan.as_ref().map_or(0, |plan| plan.waiting);
            let mut stuck = match waiting {
                0 => String::new(),
                _ => format!("; {waiting} wait for room on another node"),
            };
            let unled = cluster.groups.iter().filter(|group| group.leader_node == 0).count();
            if unled > 0 {
                stuck += &format!("; {unled} shards have no leader to say what it has of them");
            }
            let left = Left { count: known.replicas, unit: "replicas", bytes: bytes_on(cluster, node) };
            Progress::Counted(format!("n{node} has {} replicas to give away{stuck}", known.replicas), left)
        }
        NodeDuty::NodeDecommissioned => {
            Progress::Ended(format!("n{node} is decommissioned: it is empty and can be stopped for good"))
        }
    })
}

fn draining(known: &NodeStatus, facts: &NodeFacts) -> Progress {
    let node = known.id;
    let mut left = Vec::new();
    if known.leaders > 0 {
        left.push(format!("{} to hand over", counted(known.leaders, "leader")));
    }
    // The sessions of a dead node are gone, too.
    match (known.alive, facts.closed, facts.sessions) {
        (false, ..) | (true, true, 0) => {}
        (true, false, _) => left.push("sessions that are still let in".to_owned()),
        (true, true, sessions) => left.push(format!("{} left", counted(sessions, "session"))),
    }
    if left.is_empty() {
        return Progress::Ended(format!(
            "n{node} is drained: it leads nothing, has no session, and can be stopped for a while (`flotilla admin undrain n{node}` \
             afterwards)"
        ));
    }
    let count = match known.leaders {
        0 => Left { count: facts.sessions, unit: "sessions", bytes: 0 },
        leaders => Left { count: leaders, unit: "leaders", bytes: 0 },
    };
    Progress::Counted(format!("n{node} has {}", left.join(", ")), count)
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// About how much the node's replicas take.
fn bytes_on(cluster: &DescribeResponse, node: u64) -> u64 {
    let holds = |group: &&GroupStatus| group.replicas.iter().any(|replica| replica.node == node);
    let sizes = cluster.groups.iter().filter(holds).filter_map(|group| group.load?.bytes);
    sizes.fold(0, u64::saturating_add)
}

/// What is wanted of the node, in a word.
pub fn duty(node: &NodeStatus) -> &'static str {
    meta::duty_name(node.duty())
}
