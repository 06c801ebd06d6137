//! `flotilla admin split` and `merge`.

use std::time::Duration;

use clap::Args;
use proto::meta::{DescribeResponse, MergeRequest, SplitRequest};
use serde_json::json;

use super::wait::{self, Look, Progress};
use super::{describe, names, shards};
use crate::exit::Failure;

/// Arguments of `split`.
#[derive(Args)]
pub struct SplitArgs {
    /// The shard (g3), or a table, of which the largest shard is cut
    shard: String,
    /// Where the second half begins, in hexadecimal, as `flotilla admin --json shards` shows keys; otherwise in the middle of its
    /// bytes. (By a table's own values: ALTER TABLE … SPLIT AT VALUES)
    #[arg(long, value_name = "KEY")]
    at: Option<String>,
    /// The table's database
    #[arg(long, default_value = "postgres")]
    database: String,
}

/// Arguments of `merge`.
#[derive(Args)]
pub struct MergeArgs {
    /// The shard that remains: g3. Its right neighbour ends
    shard: String,
    /// Return at once instead of when it is done
    #[arg(long)]
    no_wait: bool,
    /// Wait no longer than this; the merge goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// Cuts a shard in two.
pub async fn split(args: &SplitArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let cluster = super::cluster(host).await?;
    let key = args.at.as_ref().map(hex::decode).transpose();
    let key =
        key.map_err(|_| Failure::Usage("a key is given in hexadecimal, like 000000020000040a".into()))?;
    let group = match is_shard(&args.shard) {
        true => names::group(&cluster, &args.shard)?,
        false => {
            let prefix = shards::prefix_of(&cluster, &args.database, &args.shard).await?;
            of_table(&cluster, &prefix, key.as_deref())?
        }
    };
    let mut admin = super::connect(host).await?;
    let failed = |status: tonic::Status| describe(host, &status);
    let key: bytes::Bytes = match key {
        Some(key) => key.into(),
        // First of all, so that it is the same however often the cut is tried.
        None => {
            let request = SplitRequest { group, key: None, only_choose: true };
            admin.split(request).await.map_err(failed)?.into_inner().key
        }
    };
    let request = SplitRequest { group, key: Some(key.clone()), only_choose: false };
    let response = admin.split(request).await.map_err(|status| interrupted(failed(status), group, &key))?;
    let response = response.into_inner();
    Ok(match as_json {
        true => super::pretty(
            &json!({ "group": group, "right": response.group, "key": hex::encode(&response.key) }),
        ),
        false => format!("g{} begins at {}\n", response.group, shards::key(&response.key, "")),
    })
}

/// The shard may have been cut all the same: how to see to it without cutting it once more.
fn interrupted(failure: Failure, group: u64, key: &[u8]) -> Failure {
    match failure {
        Failure::Unreachable(why) => Failure::Unreachable(format!(
            "{why}. The shard may be cut, or not: `flotilla admin split g{group} --at {}` makes sure of it",
            hex::encode(key)
        )),
        other => other,
    }
}

fn is_shard(name: &str) -> bool {
    name.strip_prefix('g').unwrap_or(name).parse::<u64>().is_ok()
}

/// The shard of a table that holds the key, or the largest one: of those that begin in the table, if there are any, for the others
/// hold something else, too.
fn of_table(cluster: &DescribeResponse, prefix: &[u8], key: Option<&[u8]>) -> Result<u64, Failure> {
    let shards = cluster.groups.iter().filter_map(|group| Some((group, group.descriptor.as_ref()?)));
    let within = |group: &DescribeGroup<'_>| shards::holds(group.1, key.unwrap_or(prefix));
    let size = |(group, descriptor): &DescribeGroup<'_>| {
        (descriptor.start.starts_with(prefix), group.load.and_then(|load| load.bytes))
    };
    let largest = shards.filter(within).max_by_key(size);
    let (group, _) = largest.ok_or_else(|| Failure::Unreachable("no shard of the table is known".into()))?;
    Ok(group.group)
}

type DescribeGroup<'g> = (&'g proto::meta::GroupStatus, &'g proto::common::ShardDescriptor);

/// Merges a shard with its right neighbour.
pub async fn merge(args: &MergeArgs, host: &str, as_json: bool) -> Result<String, Failure> {
    let cluster = super::cluster(host).await?;
    let group = names::group(&cluster, &args.shard)?;
    let mut admin = super::connect(host).await?;
    let response = admin.merge(MergeRequest { group }).await.map_err(|status| describe(host, &status))?;
    let (id, right) = (response.get_ref().operation.clone(), response.get_ref().right);
    let mut text = format!("{id}: g{group} absorbs g{right}");
    if !args.no_wait {
        let look = |cluster: &DescribeResponse| {
            if let Some(going) = cluster.operations.iter().find(|operation| operation.id == id) {
                return Ok(Progress::Going(format!("{id}: {}", going.state)));
            }
            match cluster.groups.iter().any(|known| known.group == right) {
                false => Ok(Progress::Ended(format!("g{group} has absorbed g{right}"))),
                true => Err(Failure::Refused(format!(
                    "{id} was given up or cancelled; the log of the meta-group's leader says why"
                ))),
            }
        };
        text = wait::until(host, Look::Plain, Duration::from_secs(args.timeout), look).await?;
    }
    Ok(match as_json {
        true => {
            super::pretty(&json!({ "operation": id, "group": group, "right": right, "done": !args.no_wait }))
        }
        false => format!("{text}\n"),
    })
}
