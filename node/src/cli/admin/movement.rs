//! `flotilla admin move` and `transfer-leader`.

use std::time::Duration;

use clap::Args;
use proto::meta::{MoveRequest, TransferRequest};
use serde_json::json;

use super::wait::{self, Look, Progress};
use super::{describe, names};
use crate::exit::Failure;

/// How long a move is waited for, unless it is said.
const TIMEOUT_SECONDS: u64 = 600;

/// Arguments of `move`.
#[derive(Args)]
pub struct MoveArgs {
    /// The shard: g3, or meta
    shard: String,
    /// The node that has a replica: n2, or one of its addresses
    #[arg(long)]
    from: String,
    /// The node that shall have it
    #[arg(long)]
    to: String,
    /// Return at once instead of when it is done
    #[arg(long)]
    no_wait: bool,
    /// Wait no longer than this; the move goes on
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_SECONDS)]
    timeout: u64,
}

/// Arguments of `transfer-leader`.
#[derive(Args)]
pub struct TransferArgs {
    /// The shard: g3, or meta
    shard: String,
    /// The node that shall lead it: n2, or one of its addresses
    node: String,
}

/// Moves a replica.
pub async fn run(args: &MoveArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let cluster = super::cluster(host).await?;
    let group = names::group(&cluster, &args.shard)?;
    let (from, to) = (names::node(&cluster, &args.from)?, names::node(&cluster, &args.to)?);
    carry_out((group, from, to), args.no_wait, args.timeout, host, as_json).await
}

/// The same, of what was chosen already.
pub(super) async fn go(
    shard: &str,
    from: u64,
    to: u64,
    no_wait: bool,
    host: &str,
    as_json: bool,
) -> Result<String, Failure> {
    let group = names::group(&super::cluster(host).await?, shard)?;
    carry_out((group, from, to), no_wait, TIMEOUT_SECONDS, host, as_json).await
}

async fn carry_out(
    (group, from, to): (u64, u64, u64),
    no_wait: bool,
    timeout: u64,
    host: &str,
    as_json: bool,
) -> Result<String, Failure> {
    let mut admin = super::connect(host).await?;
    let response = admin.r#move(MoveRequest { group, from, to }).await.map_err(|s| describe(host, &s))?;
    let id = response.into_inner().operation;
    let mut text = format!("g{group} has moved from n{from} to n{to}");
    if no_wait && !id.is_empty() {
        text = format!("{id}: g{group} moves from n{from} to n{to}");
    } else if !id.is_empty() {
        let look = |cluster: &proto::meta::DescribeResponse| {
            if let Some(going) = cluster.operations.iter().find(|operation| operation.id == id) {
                return Ok(Progress::Going(format!("{id}: {}", going.state)));
            }
            let known = cluster.groups.iter().find(|known| known.group == group);
            let holds = |node| known.is_some_and(|g| g.replicas.iter().any(|r| r.node == node && !r.learner));
            match holds(to) && !holds(from) {
                true => Ok(Progress::Ended(text.clone())),
                false => Err(Failure::Refused(format!(
                    "{id} was given up or cancelled; the log of the meta-group's leader says why. `flotilla admin shards` shows where g{group} is"
                ))),
            }
        };
        text = wait::until(host, Look::Plain, Duration::from_secs(timeout), look).await?;
    }
    Ok(match as_json {
        true => super::pretty(
            &json!({ "operation": id, "group": group, "from": from, "to": to, "done": !no_wait || id.is_empty() }),
        ),
        false => format!("{text}\n"),
    })
}

/// Has another node lead.
pub async fn transfer(args: &TransferArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let cluster = super::cluster(host).await?;
    let (group, to) = (names::group(&cluster, &args.shard)?, names::node(&cluster, &args.node)?);
    let mut admin = super::connect(host).await?;
    let response = admin.transfer(TransferRequest { group, to }).await.map_err(|s| describe(host, &s))?;
    let leader = response.into_inner().leader;
    Ok(match as_json {
        true => super::pretty(&json!({ "group": group, "leader": leader })),
        false => format!("g{group} is led by n{leader}\n"),
    })
}
