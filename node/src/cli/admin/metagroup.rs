//! `flotilla admin meta`: the members of the meta-group. They are chosen like those of any shard, and replaced by
//! themselves; these commands are for whoever wants it otherwise.

use clap::{Args, Subcommand};
use meta::membership::{self, Choice};
use proto::meta::DescribeResponse;
use serde_json::json;

use super::{movement, names};
use crate::exit::Failure;

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
    let (choice, no_wait) = match &args.action {
        None | Some(Action::Status) => return Ok(print(&cluster, as_json)),
        Some(Action::Add { node, replacing, no_wait }) => {
            let (node, replacing) = (names::node(&cluster, node)?, named(&cluster, replacing.as_deref())?);
            (membership::add(&cluster, node, replacing), *no_wait)
        }
        Some(Action::Remove { node, to, no_wait }) => {
            let (node, to) = (names::node(&cluster, node)?, named(&cluster, to.as_deref())?);
            (membership::remove(&cluster, node, to), *no_wait)
        }
    };
    let choice = choice.map_err(|error| Failure::Refused(error.to_string()))?;
    match choice {
        Choice::Move(from, to) => movement::go("meta", from, to, no_wait, host, as_json).await,
        Choice::Already(node, what) => Ok(already(node, what, as_json)),
    }
}

fn named(cluster: &DescribeResponse, name: Option<&str>) -> Result<Option<u64>, Failure> {
    name.map(|name| names::node(cluster, name)).transpose()
}

fn already(node: u64, what: &str, as_json: bool) -> String {
    match as_json {
        true => super::pretty(&json!({ "node": node, "done": true })),
        false => format!("n{node} {what} of the meta-group\n"),
    }
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
