//! `flotilla admin check`: do the replicas hold the same, is the map as the shards are, do constraints and indexes hold?

mod advice;
mod map;
mod tables;

use std::time::Duration;

use clap::Args;
use proto::consistency as pb;
use proto::consistency::consistency_client::ConsistencyClient;
use proto::consistency::replica_digest::State;
use serde_json::json;
use storage::seam::Seams;

use self::map::Map;
use super::progress::{Left, Meter};
use crate::exit::Failure;

/// Between two groups. (Large ones take their time: nodes are told how fast they may read.)
const GROUP_LIMIT: Duration = Duration::from_secs(24 * 3600);

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
    /// Whether the replicas of each shard are equal, and the map has each key once, where the shard's replicas have it
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
    let mut compared = None;
    let mut inspected: Option<tables::Inspected> = None;
    if args.wants(Part::Replicas) {
        let found = compared.insert(replicas(args, host).await?);
        if !as_json {
            crate::cli::print(&format!("{}{}\n", as_table(&found.groups, args.all), found.sum))?;
        }
        values.insert("groups".into(), as_values(&found.groups));
        values.insert("map".into(), json!(found.map.wrong));
        values.insert("map_unknown".into(), json!(found.map.unknown));
        match (found.wrong(), found.unknown()) {
            (0, 0) => {}
            (0, _) => unknown.push(found.sum.clone()),
            _ => wrong.push(found.sum.clone()),
        }
    }
    if args.wants(Part::Tables) {
        match tables::inspect(&args.tables, args.rate << 20, host).await {
            Ok(found) => inspected = Some(found),
            Err(Failure::Differs(why)) => wrong.push(why),
            // What was found of the replicas is told all the same.
            Err(failure) if compared.is_some() => unknown.push(failure.to_string()),
            Err(failure) => return Err(failure),
        }
    }
    if let Some(found) = &inspected {
        if !as_json {
            crate::cli::print(&format!("{}{}\n", tables::as_table(found), found.sum()))?;
        }
        if let serde_json::Value::Object(found) = tables::as_values(found) {
            values.extend(found);
        }
        match (found.unsound(), found.unknown()) {
            (0, 0) => {}
            (0, _) => unknown.push(found.sum()),
            _ => wrong.push(found.sum()),
        }
    }
    let (nothing, no_map) = (Vec::new(), Map::default());
    let (groups, map) = compared.as_ref().map_or((&nothing, &no_map), |found| (&found.groups, &found.map));
    let advice = advice::of(groups, map, inspected.as_ref().map_or(&[][..], |found| &found.tables[..]));
    if as_json {
        values.insert("advice".into(), json!(advice));
        crate::cli::print(&super::pretty(&values.into()))?;
    } else if !advice.is_empty() {
        crate::cli::print(&format!("\nWhat to do:\n- {}\n", advice.join("\n- ")))?;
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
    map: Map,
    /// Replicas that are not as the others.
    differ: usize,
    /// … that have stopped by themselves.
    failed: usize,
    /// … that were stopped, for they were not as the others.
    quarantined: usize,
    /// Replicas that were not looked at, and groups.
    silent: usize,
    sum: String,
}

async fn replicas(args: &CheckArgs, host: &str) -> Result<Compared, Failure> {
    let cluster = super::cluster(host).await?;
    let asked: Vec<u64> =
        args.shards.iter().map(|name| super::names::group(&cluster, name)).collect::<Result<_, _>>()?;
    let whole = asked.is_empty();
    let all = if whole { cluster.groups.len() } else { asked.len() };
    let groups = compare(asked, all, args.rate << 20, host).await?;
    let map = map::look(&cluster, &groups, whole, host).await;
    Ok(Compared::of(groups, map))
}

impl Compared {
    fn of(groups: Vec<pb::GroupComparison>, map: Map) -> Self {
        let (mut differ, mut failed, mut quarantined, mut silent, mut all) = (0, 0, 0, 0, 0);
        let mut first = None;
        for group in &groups {
            silent += usize::from(group.replicas.is_empty());
            for replica in &group.replicas {
                all += 1;
                let count = match replica.state() {
                    State::Equal => continue,
                    State::Differs => &mut differ,
                    State::Failed => &mut failed,
                    State::Quarantined => &mut quarantined,
                    State::Unknown | State::Unspecified => {
                        silent += 1;
                        continue;
                    }
                };
                *count += 1;
                first = first.or(Some((group, replica)));
            }
        }
        let mut sum = format!("{} groups, {all} replicas: {differ} differ", groups.len());
        for (count, what) in [(failed, "failed"), (quarantined, "in quarantine")] {
            if count > 0 {
                sum += &format!(", {count} {what}");
            }
        }
        sum += &format!(", {silent} not looked at");
        if let Some((group, replica)) = first {
            sum += &format!("; g{} on n{}: {}", group.group, replica.node, replica.detail);
        }
        let of_map: Vec<&str> = map.wrong.iter().chain(&map.unknown).map(String::as_str).collect();
        if !of_map.is_empty() {
            sum += &format!("; the map: {}", of_map.join("; "));
        }
        Self { groups, map, differ, failed, quarantined, silent, sum }
    }

    /// How much is not as it should be.
    fn wrong(&self) -> usize {
        self.differ + self.failed + self.quarantined + self.map.wrong.len()
    }

    /// Of how much nobody can tell.
    fn unknown(&self) -> usize {
        self.silent + self.map.unknown.len()
    }
}

/// Has these groups compared; none: all there are. `all` is how many answers there will be.
async fn compare(
    groups: Vec<u64>,
    all: usize,
    bytes_per_second: u64,
    host: &str,
) -> Result<Vec<pb::GroupComparison>, Failure> {
    let channel = super::channel_over(&Seams::real(), host).await?;
    let mut client = ConsistencyClient::new(channel);
    let seams = Seams::real();
    let total = if groups.is_empty() { all } else { groups.len() };
    let request = pb::CompareRequest { groups, bytes_per_second };
    let failed = |status| super::describe(host, &status);
    let mut answers = client.compare(request).await.map_err(failed)?.into_inner();
    let mut groups: Vec<pb::GroupComparison> = Vec::new();
    let mut meter = Meter::new();
    loop {
        let count = total.saturating_sub(groups.len()) as u64;
        meter.show("replicas are compared", Some(Left { count, unit: "groups", bytes: 0 }));
        let next = tokio::select! {
            next = answers.message() => next.map_err(failed)?,
            () = seams.sleep(GROUP_LIMIT) => return Err(Failure::Unreachable(format!("{host} has fallen silent"))),
        };
        let Some(group) = next else { break };
        groups.push(group);
    }
    meter.clear();
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
            "start": group.descriptor.as_ref().map(|shard| hex::encode(&shard.start)),
            "end": group.descriptor.as_ref().map(|shard| hex::encode(&shard.end)),
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

    #[test]
    fn the_sum_names_the_first_replica_that_differs_and_what_is_wrong_with_the_map() {
        let replica = |node, state: State, detail: &str| pb::ReplicaDigest {
            node,
            state: state as i32,
            detail: detail.to_owned(),
            ..Default::default()
        };
        let group = |group, replicas| pb::GroupComparison { group, replicas, ..Default::default() };
        let groups = vec![
            group(3, vec![replica(1, State::Equal, ""), replica(2, State::Unknown, "no answer")]),
            group(4, vec![replica(1, State::Equal, ""), replica(2, State::Differs, "data: -1 rows")]),
            group(5, Vec::new()),
        ];
        let map = Map { wrong: vec!["a hole".into()], unknown: vec!["not asked".into()] };
        let found = Compared::of(groups, map);
        assert_eq!((found.wrong(), found.unknown()), (2, 3));
        assert_eq!(
            found.sum,
            "3 groups, 4 replicas: 1 differ, 2 not looked at; g4 on n2: data: -1 rows; the map: a hole; not asked"
        );
        let sound = Compared::of(vec![group(3, vec![replica(1, State::Equal, "")])], Map::default());
        assert_eq!(sound.sum, "1 groups, 1 replicas: 0 differ, 0 not looked at");
        assert_eq!((sound.wrong(), sound.unknown()), (0, 0));
    }

    #[test]
    fn a_replica_that_has_failed_or_is_in_quarantine_is_wrong_and_not_unknown() {
        let found = |state: State, detail: &str| {
            let replica = |state: State, detail: &str| pb::ReplicaDigest {
                node: 2,
                state: state as i32,
                detail: detail.to_owned(),
                ..Default::default()
            };
            let replicas = vec![replica(State::Equal, ""), replica(state, detail)];
            Compared::of(
                vec![pb::GroupComparison { group: 7, replicas, ..Default::default() }],
                Map::default(),
            )
        };
        let failed = found(State::Failed, "it cannot be opened");
        assert_eq!((failed.wrong(), failed.unknown()), (1, 0));
        assert_eq!(
            failed.sum,
            "1 groups, 2 replicas: 0 differ, 1 failed, 0 not looked at; g7 on n2: it cannot be opened"
        );
        let quarantined = found(State::Quarantined, "it differs");
        assert_eq!((quarantined.wrong(), quarantined.unknown()), (1, 0));
        assert_eq!(
            quarantined.sum,
            "1 groups, 2 replicas: 0 differ, 1 in quarantine, 0 not looked at; g7 on n2: it differs"
        );
        let silent = found(State::Unknown, "no answer");
        assert_eq!((silent.wrong(), silent.unknown()), (0, 1));
    }
}
