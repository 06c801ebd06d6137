//! `flotilla init`.

use clap::Args;
use proto::admin as pb;

use super::admin::{connect, describe};
use crate::config::DEFAULT_RPC;
use crate::exit::Failure;

/// Arguments of `flotilla init`.
#[derive(Args)]
pub struct InitArgs {
    /// RPC address of the node
    #[arg(long, visible_alias = "rpc", value_name = "ADDR", default_value = DEFAULT_RPC)]
    host: String,
    /// How many nodes hold each piece of data
    #[arg(long, value_name = "N", default_value_t = meta::REPLICATION_FACTOR, value_parser = clap::value_parser!(u32).range(1..=7))]
    replication_factor: u32,
}

/// Asks the node, and prints the new cluster's id.
pub fn run(args: InitArgs) -> Result<(), Failure> {
    let id = crate::runtime::build(1)?.block_on(async {
        let mut admin = connect(&args.host).await?;
        let request = pb::InitRequest { replication_factor: args.replication_factor };
        let response = admin.init(request).await.map_err(|status| describe(&args.host, &status))?;
        Ok::<_, Failure>(hex::encode(&response.into_inner().cluster_id))
    })?;
    super::print(&format!("initialised cluster {id}\n"))
}
