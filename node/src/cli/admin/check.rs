//! `flotilla admin check`: do the replicas hold the same?

use std::time::Duration;

use clap::Args;
use proto::consistency as pb;
use proto::consistency::consistency_client::ConsistencyClient;
use proto::consistency::replica_digest::State;
use serde_json::json;
use storage::seam::Seams;

use crate::exit::Failure;

/// Between two groups. (Large ones take their time: nodes are told how fast they may read.)
const GROUP_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Arguments of `flotilla admin check`.
#[derive(Args)]
pub struct CheckArgs {
    /// Look at this group only (repeatable)
    #[arg(long, value_name = "ID")]
    group: Vec<u64>,
    /// How much each replica reads per second, at most, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// List all replicas, not only those that are not as they should be
    #[arg(long)]
    all: bool,
}

/// Asks, prints, and fails if replicas differ or could not be looked at.
pub async fn run(args: &CheckArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let groups = compare(args, host).await?;
    let (mut differ, mut unknown, mut all) = (0, 0, 0);
    for group in &groups {
        unknown += usize::from(group.replicas.is_empty());
        for replica in &group.replicas {
            all += 1;
            match replica.state() {
                State::Equal => {}
                State::Differs => differ += 1,
                _ => unknown += 1,
            }
        }
    }
    let sum = format!("{} groups, {all} replicas: {differ} differ, {unknown} not looked at", groups.len());
    let text =
        if as_json { as_json_text(&groups) } else { format!("{}{sum}\n", as_table(&groups, args.all)) };
    crate::cli::print(&text)?;
    match (differ, unknown) {
        (0, 0) => Ok(String::new()),
        (0, _) => Err(Failure::Unreachable(sum)),
        _ => Err(Failure::Differs(sum)),
    }
}

async fn compare(args: &CheckArgs, host: &str) -> Result<Vec<pb::GroupComparison>, Failure> {
    let channel = super::channel_over(&Seams::real(), host).await?;
    let mut client = ConsistencyClient::new(channel);
    let seams = Seams::real();
    let request = pb::CompareRequest { groups: args.group.clone(), bytes_per_second: args.rate << 20 };
    let failed = |status| super::describe(host, &status);
    let mut answers = client.compare(request).await.map_err(failed)?.into_inner();
    let mut groups = Vec::new();
    loop {
        let next = tokio::select! {
            next = answers.message() => next.map_err(failed)?,
            () = seams.sleep(GROUP_LIMIT) => return Err(Failure::Unreachable(format!("{host} has fallen silent"))),
        };
        match next {
            Some(group) => groups.push(group),
            None => return Ok(groups),
        }
    }
}

fn state(replica: &pb::ReplicaDigest) -> &'static str {
    match replica.state() {
        State::Equal => "equal",
        State::Differs => "differs",
        State::Unknown | State::Unspecified => "unknown",
    }
}

fn as_json_text(groups: &[pb::GroupComparison]) -> String {
    let family = |family: &pb::FamilyDigest| json!({ "family": family.name, "rows": family.rows, "bytes": family.bytes, "sha256": hex::encode(&family.hash) });
    let replica = |replica: &pb::ReplicaDigest| {
        json!({
            "replica": replica.replica, "node": replica.node, "voter": !replica.learner, "state": state(replica),
            "detail": replica.detail, "families": replica.families.iter().map(family).collect::<Vec<_>>(),
        })
    };
    let groups = groups.iter().map(|group| {
        json!({
            "group": group.group, "index": group.index, "trouble": group.trouble,
            "replicas": group.replicas.iter().map(replica).collect::<Vec<_>>(),
        })
    });
    super::pretty(&groups.collect())
}

fn as_table(groups: &[pb::GroupComparison], all: bool) -> String {
    let mut table =
        super::table(&["GROUP", "REPLICA", "NODE", "INDEX", "ROWS", "BYTES", "DIGEST", "STATE", "DETAIL"]);
    let mut lines = 0;
    for group in groups {
        let id = format!("g{}", group.group);
        if group.replicas.is_empty() {
            table.add_row([&id, "", "", "", "", "", "", "unknown", &group.trouble]);
            lines += 1;
        }
        // One that differs is of use beside those that it differs from.
        let differ = group.replicas.iter().any(|replica| replica.state() == State::Differs);
        for replica in &group.replicas {
            if !all && !differ && replica.state() == State::Equal {
                continue;
            }
            let sum =
                |of: fn(&pb::FamilyDigest) -> u64| replica.families.iter().map(of).sum::<u64>().to_string();
            table.add_row([
                &id,
                &format!("r{}", replica.replica),
                &format!("n{}{}", replica.node, if replica.learner { "?" } else { "" }),
                &group.index.to_string(),
                &sum(|family| family.rows),
                &sum(|family| family.bytes),
                &short(&replica.families),
                state(replica),
                &replica.detail,
            ]);
            lines += 1;
        }
    }
    if lines == 0 { String::new() } else { super::rendered(table) }
}

/// The beginning of each family's hash: enough to tell them apart by eye.
fn short(families: &[pb::FamilyDigest]) -> String {
    let hashes = families.iter().map(|family| hex::encode(&family.hash[..family.hash.len().min(4)]));
    hashes.collect::<Vec<_>>().join(" ")
}
