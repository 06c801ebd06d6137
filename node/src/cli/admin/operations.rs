//! `flotilla admin operations`.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use proto::meta::{CancelRequest, DescribeResponse, Operation};
use serde_json::json;
use storage::seam::{Clock, SystemClock};

use crate::exit::Failure;

/// Between two looks.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// While the meta-group elects, nobody answers; whoever is silent for longer is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

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
    Watch {
        /// Watch no longer than this; what is under way goes on
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        timeout: u64,
    },
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
        Some(Action::Watch { timeout }) => watch(Duration::from_secs(*timeout), host, as_json).await,
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
async fn watch(limit: Duration, host: &str, as_json: bool) -> Result<String, Failure> {
    let clock = SystemClock;
    let deadline = clock.now() + limit;
    let mut printed = String::new();
    let mut heard = None;
    loop {
        let looked = super::cluster(host).await;
        let now = clock.now();
        match looked {
            Ok(cluster) => {
                heard = Some(now);
                let text = print(&cluster, as_json);
                let going = cluster.operations.iter().filter(|operation| operation.kind != "drain").count();
                if going == 0 {
                    return Ok(text);
                }
                if text != printed {
                    super::super::print(&text)?;
                    printed = text;
                }
                if now >= deadline {
                    let seconds = limit.as_secs();
                    return Err(Failure::Unreachable(format!(
                        "not yet, after {seconds} s: {going} operations are under way, and go on by themselves"
                    )));
                }
            }
            Err(failure) if now >= deadline || !is_forgiven(heard, now) => return Err(failure),
            Err(_) => {}
        }
        clock.sleep(WATCH_EVERY).await;
    }
}

/// Whether a look that fails is followed by another one. Where nobody has answered ever, the address is wrong.
fn is_forgiven(heard: Option<Instant>, now: Instant) -> bool {
    heard.is_some_and(|at| now.saturating_duration_since(at) < SILENCE_MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_forgiven_for_a_while_and_only_after_an_answer() {
        let now = SystemClock.now();
        assert!(!is_forgiven(None, now));
        assert!(is_forgiven(Some(now), now + SILENCE_MAX / 2));
        assert!(!is_forgiven(Some(now), now + SILENCE_MAX));
    }
}
