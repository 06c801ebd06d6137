//! `flotilla admin meta`: the members of the meta-group. They are chosen like those of any shard, and replaced by
//! themselves; these commands are for whoever wants it otherwise.

use clap::{Args, Subcommand};
use proto::meta::{DescribeResponse, NodeDuty, NodeStatus};
use serde_json::json;

use super::{movement, names};
use crate::exit::Failure;

/// The meta-group's number.
const META_GROUP: u64 = 1;

/// Arguments of `meta`.
#[derive(Args)]
pub struct MetaArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Who is a member, and who leads
    Status,
    /// Make a node a member, in the place of another one
    Add {
        /// The node: n4, or one of its addresses
        node: String,
        /// The member that leaves. Without it: one that is down, or the one that has most to do, but not the leader
        #[arg(long, value_name = "NODE")]
        replacing: Option<String>,
        /// Return at once instead of when it is done
        #[arg(long)]
        no_wait: bool,
    },
    /// Have a node be no member any more; another one takes its place
    Remove {
        /// The node: n2, or one of its addresses
        node: String,
        /// The node that takes its place. Without it: the one that has least to do
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// Return at once instead of when it is done
        #[arg(long)]
        no_wait: bool,
    },
}

/// Prints, or moves a replica of the meta-group.
pub async fn run(args: &MetaArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let cluster = super::cluster(host).await?;
    let members = || {
        let group = cluster.groups.iter().find(|group| group.group == META_GROUP);
        group.into_iter().flat_map(|group| &group.replicas)
    };
    let is_member = |node: u64| members().any(|member| member.node == node && !member.learner);
    let (from, to, no_wait) = match &args.action {
        None | Some(Action::Status) => return Ok(print(&cluster, as_json)),
        Some(Action::Add { node, replacing, no_wait }) => {
            let to = names::node(&cluster, node)?;
            if is_member(to) {
                return Ok(already(to, "is a member already", as_json));
            }
            let from = match replacing {
                Some(name) => names::node(&cluster, name)?,
                None => dispensable(&cluster, members().map(|member| member.node))?,
            };
            (from, to, *no_wait)
        }
        Some(Action::Remove { node, to, no_wait }) => {
            let from = names::node(&cluster, node)?;
            if !members().any(|member| member.node == from) {
                return Ok(already(from, "is no member", as_json));
            }
            let to = match to {
                Some(name) => names::node(&cluster, name)?,
                None => idle(&cluster, &is_member)?,
            };
            (from, to, *no_wait)
        }
    };
    movement::go("meta", from, to, no_wait, host, as_json).await
}

fn already(node: u64, what: &str, as_json: bool) -> String {
    match as_json {
        true => super::pretty(&json!({ "node": node, "done": true })),
        false => format!("n{node} {what} of the meta-group\n"),
    }
}

/// The member that is missed least.
fn dispensable(cluster: &DescribeResponse, members: impl Iterator<Item = u64>) -> Result<u64, Failure> {
    let members: Vec<u64> = members.collect();
    let leader = cluster.groups.iter().find(|group| group.group == META_GROUP).map(|group| group.leader_node);
    let candidates = cluster.nodes.iter().filter(|n| members.contains(&n.id) && Some(n.id) != leader);
    let least = candidates.min_by_key(|node| (node.alive, std::cmp::Reverse(node.replicas), node.id));
    least.map(|node| node.id).ok_or_else(|| {
        Failure::Refused(
            "the meta-group has one member only; it grows by itself when there are more nodes".into(),
        )
    })
}

/// The node that can best become a member.
fn idle(cluster: &DescribeResponse, is_member: &dyn Fn(u64) -> bool) -> Result<u64, Failure> {
    let able = |n: &&NodeStatus| n.alive && n.duty() == NodeDuty::NodeActive && !is_member(n.id);
    let least = cluster.nodes.iter().filter(able).min_by_key(|node| (node.replicas, node.id));
    least.map(|node| node.id).ok_or_else(|| {
        Failure::Refused("no other node lives that could take its place; start another one first".into())
    })
}

fn print(cluster: &DescribeResponse, as_json: bool) -> String {
    let group = cluster.groups.iter().find(|group| group.descriptor.is_none()).cloned().unwrap_or_default();
    if as_json {
        let members = group.replicas.iter().map(|r| {
            json!({ "node": r.node, "replica": r.replica, "voter": !r.learner, "reachable": r.reachable, "lag": r.lag, "leads": r.node == group.leader_node })
        });
        return super::pretty(
            &json!({ "term": group.term, "leader": group.leader_node, "members": members.collect::<Vec<_>>() }),
        );
    }
    let mut table = super::table(&["NODE", "REPLICA", "ROLE", "STATE"]);
    for replica in &group.replicas {
        let role = match (replica.node == group.leader_node, replica.learner) {
            (true, _) => "leads",
            (false, true) => "learns",
            (false, false) => "follows",
        };
        let state = match replica.reachable {
            true if replica.lag == 0 => "up to date".to_owned(),
            true => format!("{} entries behind", replica.lag),
            false => "not heard of".to_owned(),
        };
        table.add_row([
            format!("n{}", replica.node),
            format!("r{}", replica.replica),
            role.to_owned(),
            state,
        ]);
    }
    super::rendered(table)
}
