//! `flotilla admin operations`.

use clap::{Args, Subcommand};
use proto::meta::{CancelRequest, DescribeResponse, Operation};
use serde_json::json;
use storage::seam::{Clock, SystemClock};

use crate::exit::Failure;

/// Between two looks.
const WATCH_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

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
    /// List what is under way again and again, until nothing is
    Watch,
    /// End a move, merge, drain or decommission; what it has done so far is tidied up
    Cancel {
        /// As listed: move-3, merge-5, drain-2, decommission-4
        id: String,
    },
}

/// Lists or cancels.
pub async fn run(args: &OperationsArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    match &args.action {
        None | Some(Action::List) => Ok(print(&super::cluster(host).await?, as_json)),
        Some(Action::Watch) => watch(host, as_json).await,
        Some(Action::Cancel { id }) => {
            let mut admin = super::connect(host).await?;
            let request = CancelRequest { operation: id.clone() };
            let response = admin.cancel(request).await.map_err(|status| super::describe(host, &status))?;
            let over = response.into_inner().over;
            Ok(match (as_json, over) {
                (true, _) => super::pretty(&json!({ "cancelled": id, "was_over": over })),
                (false, false) => format!("{id} is cancelled\n"),
                (false, true) => format!("{id} is not under way any more\n"),
            })
        }
    }
}

/// Prints what has changed, every time, until nothing is under way but drains, which last.
async fn watch(host: &str, as_json: bool) -> Result<String, Failure> {
    let clock = SystemClock;
    let mut printed = String::new();
    loop {
        // While the meta-group elects, nobody answers.
        if let Ok(cluster) = super::cluster(host).await {
            let text = print(&cluster, as_json);
            if cluster.operations.iter().all(|operation| operation.kind == "drain") {
                return Ok(text);
            }
            if text != printed {
                super::super::print(&text)?;
                printed = text;
            }
        }
        clock.sleep(WATCH_EVERY).await;
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
