//! How operators name nodes and shards, with what the command line says to a name that means nothing.

use proto::meta::DescribeResponse;

use crate::exit::Failure;

pub use meta::names::group_number;

/// The meta-group's number.
pub const META_GROUP: u64 = storage::ids::META_GROUP.0;

/// See [`meta::names::node`].
pub fn node(cluster: &DescribeResponse, name: &str) -> Result<u64, Failure> {
    meta::names::node(cluster, name).map_err(|error| Failure::Usage(error.to_string()))
}

/// See [`meta::names::group`].
pub fn group(cluster: &DescribeResponse, name: &str) -> Result<u64, Failure> {
    meta::names::group(cluster, name).map_err(|error| Failure::Usage(error.to_string()))
}
