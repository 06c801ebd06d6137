//! `flotilla admin check`: do the replicas hold the same, does the map have each key once, do constraints and indexes hold?

mod tables;

use std::time::Duration;

use clap::Args;
use proto::common::ShardDescriptor;
use proto::consistency as pb;
use proto::consistency::consistency_client::ConsistencyClient;
use proto::consistency::replica_digest::State;
use serde_json::json;
use storage::seam::Seams;

use crate::exit::Failure;

/// Between two groups. (Large ones take their time: nodes are told how fast they may read.)
const GROUP_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A map that has holes is asked for again.
const MAP_TRIES: usize = 5;
const MAP_PAUSE: Duration = Duration::from_millis(400);

/// Arguments of `flotilla admin check`.
#[derive(Args)]
pub struct CheckArgs {
    /// The shards whose replicas are compared: g3, or meta; all, and the tables too, if none is named
    shards: Vec<String>,
    /// How much each replica reads per second, at most, in MiB; and how much is read of the tables
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// List all replicas, not only those that are not as they should be
    #[arg(long)]
    all: bool,
    /// Only this
    #[arg(long, value_enum, conflicts_with = "shards")]
    only: Option<Part>,
    /// Look at this table only: NAME, SCHEMA.NAME or DATABASE.SCHEMA.NAME; can be repeated
    #[arg(long = "table", value_name = "NAME", conflicts_with_all = ["shards", "only"])]
    tables: Vec<String>,
}

/// What is looked at.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Whether the replicas of each shard are equal, and the map has each key once
    Replicas,
    /// Whether constraints, indexes and foreign keys hold
    Tables,
}

impl CheckArgs {
    fn wants(&self, part: Part) -> bool {
        match part {
            Part::Replicas => self.tables.is_empty() && self.only != Some(Part::Tables),
            Part::Tables => self.shards.is_empty() && self.only != Some(Part::Replicas),
        }
    }
}

/// Asks, prints, and fails if something is not as it should be, or could not be looked at.
pub async fn run(args: &CheckArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let (mut values, mut wrong, mut unknown) = (serde_json::Map::new(), Vec::new(), Vec::new());
    if args.wants(Part::Replicas) {
        let found = replicas(args, host).await?;
        if !as_json {
            crate::cli::print(&format!("{}{}\n", as_table(&found.groups, args.all), found.sum))?;
        }
        values.insert("groups".into(), as_values(&found.groups));
        values.insert("map".into(), json!(found.map));
        match (found.differ + found.map.len(), found.unknown) {
            (0, 0) => {}
            (0, _) => unknown.push(found.sum),
            _ => wrong.push(found.sum),
        }
    }
    if args.wants(Part::Tables) {
        let found = tables::inspect(&args.tables, args.rate << 20, host).await?;
        if !as_json {
            crate::cli::print(&format!("{}{}\n", tables::as_table(&found), found.sum()))?;
        }
        if let serde_json::Value::Object(found) = tables::as_values(&found) {
            values.extend(found);
        }
        match (found.unsound(), found.unknown()) {
            (0, 0) => {}
            (0, _) => unknown.push(found.sum()),
            _ => wrong.push(found.sum()),
        }
    }
    if as_json {
        crate::cli::print(&super::pretty(&values.into()))?;
    }
    match (wrong.is_empty(), unknown.is_empty()) {
        (true, true) => Ok(String::new()),
        (true, false) => Err(Failure::Unreachable(unknown.join("; "))),
        (false, _) => Err(Failure::Differs(wrong.join("; "))),
    }
}

/// What was found of replicas.
struct Compared {
    groups: Vec<pb::GroupComparison>,
    map: Vec<String>,
    differ: usize,
    unknown: usize,
    sum: String,
}

async fn replicas(args: &CheckArgs, host: &str) -> Result<Compared, Failure> {
    let map = if args.shards.is_empty() { map_troubles(host).await? } else { Vec::new() };
    let cluster = super::cluster(host).await?;
    let asked =
        args.shards.iter().map(|name| super::names::group(&cluster, name)).collect::<Result<_, _>>()?;
    let groups = compare(asked, args.rate << 20, host).await?;
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
    let mut sum =
        format!("{} groups, {all} replicas: {differ} differ, {unknown} not looked at", groups.len());
    if !map.is_empty() {
        sum += &format!("; the map: {}", map.join(", "));
    }
    Ok(Compared { groups, map, differ, unknown, sum })
}

/// What is wrong with the map, and stays so: it may be told of a split's halves one after the other.
async fn map_troubles(host: &str) -> Result<Vec<String>, Failure> {
    let mut troubles = Vec::new();
    for attempt in 0..MAP_TRIES {
        if attempt > 0 {
            Seams::real().sleep(MAP_PAUSE).await;
        }
        let cluster = super::cluster(host).await?;
        troubles = holes(cluster.groups.iter().filter_map(|group| group.descriptor.as_ref()));
        if troubles.is_empty() {
            break;
        }
    }
    Ok(troubles)
}

/// Keys that no shard holds, or two.
fn holes<'a>(shards: impl Iterator<Item = &'a ShardDescriptor>) -> Vec<String> {
    let mut shards: Vec<&ShardDescriptor> = shards.collect();
    shards.sort_by_key(|shard| &shard.start);
    let mut troubles = Vec::new();
    // Up to where keys are held, by whom; the end of all keys is empty, as their beginning is.
    let mut held: Option<(&[u8], u64)> = None;
    for shard in shards {
        let begins = &shard.start[..];
        match held {
            None if begins.is_empty() => {}
            None => troubles.push(format!("nobody holds the keys before g{}", shard.group)),
            Some((end, by)) if end.is_empty() || end > begins => {
                troubles.push(format!("g{by} and g{} hold the same keys", shard.group));
            }
            Some((end, by)) if end < begins => {
                troubles.push(format!("nobody holds the keys between g{by} and g{}", shard.group));
            }
            Some(_) => {}
        }
        held = Some((&shard.end, shard.group));
    }
    if let Some((end, by)) = held.filter(|(end, _)| !end.is_empty()) {
        troubles.push(format!("nobody holds the keys from {} on, after g{by}", hex::encode(end)));
    }
    troubles
}

async fn compare(
    groups: Vec<u64>,
    bytes_per_second: u64,
    host: &str,
) -> Result<Vec<pb::GroupComparison>, Failure> {
    let channel = super::channel_over(&Seams::real(), host).await?;
    let mut client = ConsistencyClient::new(channel);
    let seams = Seams::real();
    let request = pb::CompareRequest { groups, bytes_per_second };
    let failed = |status| super::describe(host, &status);
    let mut answers = client.compare(request).await.map_err(failed)?.into_inner();
    let mut groups: Vec<pb::GroupComparison> = Vec::new();
    let mut progress = tables::Progress::new();
    loop {
        let next = tokio::select! {
            next = answers.message() => next.map_err(failed)?,
            () = seams.sleep(GROUP_LIMIT) => return Err(Failure::Unreachable(format!("{host} has fallen silent"))),
        };
        let Some(group) = next else { break };
        groups.push(group);
        progress.show(&format!("{} groups compared", groups.len()));
    }
    progress.clear();
    Ok(groups)
}

fn state(replica: &pb::ReplicaDigest) -> &'static str {
    match replica.state() {
        State::Equal => "equal",
        State::Differs => "differs",
        State::Quarantined => "quarantined",
        State::Failed => "failed",
        State::Unknown | State::Unspecified => "unknown",
    }
}

fn as_values(groups: &[pb::GroupComparison]) -> serde_json::Value {
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
    groups.collect()
}

fn as_table(groups: &[pb::GroupComparison], all: bool) -> String {
    let mut table =
        super::table(&["SHARD", "REPLICA", "NODE", "INDEX", "ROWS", "BYTES", "DIGEST", "STATE", "DETAIL"]);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn troubles(shards: &[(&'static str, &'static str)]) -> Vec<String> {
        let shard = |(n, (start, end)): (usize, &(&'static str, &'static str))| ShardDescriptor {
            group: n as u64 + 2,
            start: start.as_bytes().into(),
            end: end.as_bytes().into(),
            ..Default::default()
        };
        let shards: Vec<ShardDescriptor> = shards.iter().enumerate().map(shard).collect();
        holes(shards.iter())
    }

    #[test]
    fn each_key_is_held_once() {
        assert!(troubles(&[("", "")]).is_empty());
        assert!(troubles(&[("m", ""), ("", "c"), ("c", "m")]).is_empty());
        assert_eq!(troubles(&[("", "c"), ("d", "")]), ["nobody holds the keys between g2 and g3"]);
        assert_eq!(troubles(&[("", "d"), ("c", "")]), ["g2 and g3 hold the same keys"]);
        assert_eq!(troubles(&[("", ""), ("c", "")]), ["g2 and g3 hold the same keys"]);
        assert_eq!(
            troubles(&[("b", "c")]),
            ["nobody holds the keys before g2", "nobody holds the keys from 63 on, after g2"]
        );
    }
}
