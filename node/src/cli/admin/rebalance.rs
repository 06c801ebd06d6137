//! `flotilla admin rebalance` and `repair`: what placement would do, and waiting until it has done it.

use std::time::Duration;

use clap::Args;
use proto::meta::{DescribeResponse, PlannedStep, RepairRequest};
use serde_json::json;

use super::progress::Left;
use super::wait::{self, Look, Progress};
use super::{describe, names, status};
use crate::exit::Failure;

/// Arguments of `rebalance`.
#[derive(Args)]
pub struct RebalanceArgs {
    /// Only print what would be done next, and what would come of it
    #[arg(long)]
    dry_run: bool,
    /// Wait no longer than this; it goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// Arguments of `repair`.
#[derive(Args)]
pub struct RepairArgs {
    /// Only of this node: n2, or one of its addresses
    node: Option<String>,
}

/// Prints the plan, or waits until there is nothing left to do.
pub async fn run(args: &RebalanceArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let cluster = super::planned(host).await?;
    if args.dry_run {
        return Ok(print(&cluster, as_json));
    }
    let look = |cluster: &DescribeResponse| {
        let plan = cluster.plan.clone().unwrap_or_default();
        let steps = cluster.operations.iter().filter(|o| o.kind != "drain").count();
        let stuck = status::stuck(cluster);
        Ok(match (plan.steps.len(), steps) {
            (0, 0) if stuck.is_empty() => Progress::Ended(plan.before),
            (0, 0) => Progress::Going(format!("nothing can be done now: {}", stuck.join("; "))),
            (planned, going) => {
                let bytes = plan.steps.iter().map(|step| step.bytes).sum();
                let left = Left { count: (planned + going) as u64, unit: "steps", bytes };
                Progress::Counted(format!("{going} steps under way, {planned} to be taken next"), left)
            }
        })
    };
    let evenness = wait::until(host, Look::Planned, Duration::from_secs(args.timeout), look).await?;
    let off = !meta::settings::Settings::new(cluster.settings.unwrap_or_default()).rebalance();
    if as_json {
        return Ok(super::pretty(&json!({ "evenness": evenness, "rebalance": !off })));
    }
    let hint = "the setting `rebalance` is off: nothing is moved for the sake of evenness\n";
    Ok(format!("nothing is left to do\neach node has: {evenness}\n{}", if off { hint } else { "" }))
}

fn print(cluster: &DescribeResponse, as_json: bool) -> String {
    let plan = cluster.plan.clone().unwrap_or_default();
    let bytes: u64 = plan.steps.iter().map(|step| step.bytes).sum();
    let count = |kind: &str| plan.steps.iter().filter(|step| step.kind == kind).count();
    let (moves, transfers) = (count("add_learner"), count("transfer_leader"));
    if as_json {
        let step = |s: &PlannedStep| json!({"group": s.group, "kind": s.kind, "step": s.text, "reason": s.reason, "bytes": s.bytes});
        return super::pretty(&json!({
            "steps": plan.steps.iter().map(step).collect::<Vec<_>>(), "replicas_to_build": moves, "leader_changes": transfers,
            "bytes": bytes, "before": plan.before, "after": plan.after,
            "groups_without_leader": plan.leaderless, "groups_waiting": plan.waiting,
        }));
    }
    let mut text = String::new();
    if plan.steps.is_empty() {
        text.push_str("nothing is to be done\n");
    } else {
        let mut table = super::table(&["STEP", "REASON", "BYTES"]);
        for step in &plan.steps {
            table.add_row([
                &step.text,
                &step.reason,
                &if step.bytes > 0 { step.bytes.to_string() } else { String::new() },
            ]);
        }
        text.push_str(&super::rendered(table));
        text.push_str(&format!(
            "\nreplicas to build {moves}, leader changes {transfers}, bytes to copy {bytes}\n"
        ));
    }
    text.push_str(&format!("each node has: {}\n", plan.before));
    if !plan.steps.is_empty() {
        text.push_str(&format!("and would have: {}\n", plan.after));
    }
    for reason in status::stuck(cluster) {
        text.push_str(&format!("{reason}\n"));
    }
    text
}

/// Has nodes that are down not be awaited any longer.
pub async fn repair(args: &RepairArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let node = match &args.node {
        Some(name) => names::node(&super::cluster(host).await?, name)?,
        None => 0,
    };
    let mut admin = super::connect(host).await?;
    let response = admin.repair(RepairRequest { node }).await.map_err(|status| describe(host, &status))?;
    let nodes = response.into_inner().nodes;
    if as_json {
        return Ok(super::pretty(&json!({ "nodes": nodes })));
    }
    let names: Vec<String> = nodes.iter().map(|node| format!("n{node}")).collect();
    Ok(match names.is_empty() {
        true => "no node is down\n".to_owned(),
        false => format!(
            "not awaited any longer: {}; their replicas are rebuilt elsewhere (`flotilla admin rebalance` waits for it)\n",
            names.join(", ")
        ),
    })
}
