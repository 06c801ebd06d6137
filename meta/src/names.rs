//! How operators name nodes and shards.

use proto::meta::{DescribeResponse, NodeStatus};
use storage::ids::META_GROUP;

use crate::Error;

/// A node: `n2`, `2`, or one of its addresses.
pub fn node(cluster: &DescribeResponse, name: &str) -> Result<u64, Error> {
    let number = name.strip_prefix('n').unwrap_or(name).parse::<u64>().ok();
    let is = |node: &&NodeStatus| {
        let addresses = node.addresses.as_ref();
        Some(node.id) == number
            || addresses.is_some_and(|a| [&a.rpc, &a.sql, &a.http].iter().any(|a| *a == name))
    };
    cluster.nodes.iter().find(is).map(|node| node.id).ok_or_else(|| {
        let known: Vec<String> = cluster.nodes.iter().map(|node| format!("n{}", node.id)).collect();
        Error::Rejected(format!("there is no node {name:?}; there are {}", known.join(", ")))
    })
}

/// A shard: `g3`, `3`, or `meta`.
pub fn group(cluster: &DescribeResponse, name: &str) -> Result<u64, Error> {
    let known = group_number(name).filter(|number| cluster.groups.iter().any(|group| group.group == *number));
    known.ok_or_else(|| {
        Error::Rejected(format!(
            "there is no shard {name:?}: g3 is meant, or meta; `flotilla admin shards` lists them"
        ))
    })
}

/// The number in a shard's name.
pub fn group_number(name: &str) -> Option<u64> {
    match name {
        "meta" => Some(META_GROUP.0),
        _ => name.strip_prefix('g').unwrap_or(name).parse().ok(),
    }
}
