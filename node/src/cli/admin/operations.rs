//! `flotilla admin operations`.

use clap::{Args, Subcommand};
use proto::meta::{CancelRequest, DescribeResponse, Operation};
use serde_json::json;

use crate::exit::Failure;

/// Arguments of `operations`.
#[derive(Args)]
pub struct OperationsArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// List what is under way
    List,
    /// End a move, drain or decommission; what it has done so far is tidied up
    Cancel {
        /// As listed: move-3, drain-2, decommission-4
        id: String,
    },
}

/// Lists or cancels.
pub async fn run(args: &OperationsArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    match &args.action {
        None | Some(Action::List) => Ok(print(&super::cluster(host).await?, as_json)),
        Some(Action::Cancel { id }) => {
            let mut admin = super::connect(host).await?;
            let request = CancelRequest { operation: id.clone() };
            admin.cancel(request).await.map_err(|status| super::describe(host, &status))?;
            Ok(match as_json {
                true => super::pretty(&json!({ "cancelled": id })),
                false => format!("{id} is cancelled\n"),
            })
        }
    }
}

fn print(cluster: &DescribeResponse, as_json: bool) -> String {
    if as_json {
        let operation =
            |o: &Operation| json!({ "id": o.id, "kind": o.kind, "subject": o.subject, "state": o.state });
        return super::pretty(&cluster.operations.iter().map(operation).collect());
    }
    if cluster.operations.is_empty() {
        return "nothing is under way\n".to_owned();
    }
    let mut table = super::table(&["ID", "KIND", "WHAT", "STATE"]);
    for operation in &cluster.operations {
        table.add_row([&operation.id, &operation.kind, &operation.subject, &operation.state]);
    }
    super::rendered(table)
}
