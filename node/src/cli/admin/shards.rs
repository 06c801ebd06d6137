//! `flotilla admin shards`.

use clap::Args;
use proto::common::ShardDescriptor;
use proto::meta::{DescribeResponse, GroupStatus, ReplicaProgress};
use serde_json::json;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::exit::{Failure, chain};

/// Arguments of `flotilla admin shards`.
#[derive(Args)]
pub struct ShardsArgs {
    /// Only those that hold a part of this table
    table: Option<String>,
    /// The table's database
    #[arg(long, default_value = "postgres")]
    database: String,
}

/// Asks and prints.
pub async fn run(args: &ShardsArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let mut cluster = super::cluster(host).await?;
    if let Some(table) = &args.table {
        let prefix = prefix_of(&cluster, &args.database, table).await?;
        cluster.groups.retain(|group| group.descriptor.as_ref().is_some_and(|d| holds(d, &prefix)));
    }
    Ok(print(&cluster, as_json))
}

/// Whether a shard holds keys that begin with `prefix`.
pub(super) fn holds(shard: &ShardDescriptor, prefix: &[u8]) -> bool {
    let begins_before = shard.start[..] <= *prefix || shard.start.starts_with(prefix);
    begins_before && (shard.end.is_empty() || shard.end[..] > *prefix)
}

/// What the keys of a table begin with: its database's number and its own, which only SQL knows.
pub(super) async fn prefix_of(
    cluster: &DescribeResponse,
    database: &str,
    table: &str,
) -> Result<Vec<u8>, Failure> {
    let node = cluster.nodes.iter().find(|node| node.alive).and_then(|node| node.addresses.as_ref());
    let address = node.map(|addresses| addresses.sql.clone()).unwrap_or_default();
    let failed = |error: tokio_postgres::Error| match error.as_db_error() {
        Some(said) => Failure::Refused(said.message().to_owned()),
        None => Failure::Unreachable(format!("{address}: {}", chain(&error))),
    };
    let (host, port) = address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .ok_or_else(|| Failure::Unreachable("no node is known to live".into()))?;
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port).user("root").dbname(database).connect_timeout(super::CONNECT_LIMIT);
    let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
    let quoted = table.replace('\'', "''");
    let sql = format!(
        "SELECT oid::text, '{quoted}'::regclass::oid::text FROM pg_database WHERE datname = current_database()"
    );
    let rows = tokio::select! {
        rows = client.simple_query(&sql) => rows.map_err(failed)?,
        ended = connection => {
            ended.map_err(failed)?;
            return Err(Failure::Unreachable(format!("{address} has closed the connection")));
        }
    };
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let number = |column: usize| row.and_then(|row| row.get(column)).and_then(|n| n.parse::<u32>().ok());
    match (number(0), number(1)) {
        (Some(database), Some(table)) => Ok([database.to_be_bytes(), table.to_be_bytes()].concat()),
        _ => Err(Failure::Other(format!("{address} did not say which table {table} is"))),
    }
}

/// The shards in key order, the meta-group first.
pub fn print(cluster: &DescribeResponse, as_json: bool) -> String {
    let mut groups: Vec<&GroupStatus> = cluster.groups.iter().collect();
    groups.sort_by_key(|group| group.descriptor.as_ref().map(|d| d.start.clone()));
    if as_json {
        let shards = groups.iter().map(|group| {
            let replica = |r: &ReplicaProgress| {
                json!({"replica": r.replica, "node": r.node, "voter": !r.learner, "lag": r.lag, "reachable": r.reachable})
            };
            let load = group.load.unwrap_or_default();
            json!({
                "group": group.group,
                "start": group.descriptor.as_ref().map(|d| hex::encode(&d.start)),
                "end": group.descriptor.as_ref().map(|d| hex::encode(&d.end)),
                "epoch": group.descriptor.as_ref().map(|d| d.epoch),
                "database": group.descriptor.as_ref().and_then(|d| word(&d.start, 0)),
                "table": group.descriptor.as_ref().and_then(|d| word(&d.start, 1)),
                "leader": (group.leader_node != 0).then_some(group.leader_node),
                "term": group.term,
                "replicas": group.replicas.iter().map(replica).collect::<Vec<_>>(),
                "bytes": load.bytes,
                "reads_per_second": load.reads_per_second,
                "writes_per_second": load.writes_per_second,
                "cpu_ms_per_second": load.cpu_ms_per_second,
                "automatic": group.automatic,
            })
        });
        return super::pretty(&shards.collect());
    }
    let mut table = super::table(&["SHARD", "START", "END", "EPOCH", "LEADER", "TERM", "REPLICAS"]);
    for group in groups {
        let (start, end, epoch) = match &group.descriptor {
            None => ("(meta)".to_owned(), String::new(), String::new()),
            Some(d) => (key(&d.start, "-∞"), key(&d.end, "∞"), d.epoch.to_string()),
        };
        let leader = if group.leader_node == 0 { "?".to_owned() } else { format!("n{}", group.leader_node) };
        let replicas: Vec<String> = group.replicas.iter().map(replica).collect();
        table.add_row([
            format!("g{}", group.group),
            start,
            end,
            epoch,
            leader,
            group.term.to_string(),
            replicas.join(" "),
        ]);
    }
    super::rendered(table)
}

/// The `index`th of the words that a key of a table begins with: database, table, index.
fn word(key: &[u8], index: usize) -> Option<u32> {
    key.get(index * 4..index * 4 + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// Database, table and index as numbers, the rest in hexadecimal; an empty key is a bound at infinity.
pub fn key(key: &[u8], infinity: &str) -> String {
    if key.is_empty() {
        return infinity.to_owned();
    }
    let mut text = String::new();
    for index in 0..3 {
        match word(key, index) {
            Some(word) => text.push_str(&format!("/{word}")),
            None => break,
        }
    }
    let rest = &key[(key.len() / 4).min(3) * 4..];
    if !rest.is_empty() {
        text.push('/');
        text.push_str(&hex::encode(&rest[..rest.len().min(16)]));
        if rest.len() > 16 {
            text.push('…');
        }
    }
    text
}

/// `n2` votes, `n2?` learns, `!` says that the leader doesn't hear of it, `+17` that it lacks entries.
fn replica(replica: &ReplicaProgress) -> String {
    let mut text = format!("n{}", replica.node);
    if replica.learner {
        text.push('?');
    }
    if !replica.reachable {
        text.push('!');
    } else if replica.lag > 0 {
        text.push_str(&if replica.lag == u64::MAX { "+…".to_owned() } else { format!("+{}", replica.lag) });
    }
    text
}
