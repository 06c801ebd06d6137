//! `flotilla admin meta`: the members of the meta-group. They are chosen like those of any shard, and replaced by
//! themselves; these commands are for whoever wants it otherwise.

use clap::{Args, Subcommand};
use proto::meta::DescribeResponse;
use serde_json::json;

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
}

/// Prints.
pub async fn run(_: &MetaArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    Ok(print(&super::cluster(host).await?, as_json))
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
