//! `flotilla admin`: looks at a running cluster, sets what can be set, and moves what can be moved.
//!
//! Every command may be repeated: it asks for a state, not for a step, and what is so already is left so. What takes time
//! is done by the cluster; a command that waits for it can be interrupted, and run again.

mod check;
mod duty;
mod metagroup;
mod movement;
pub(super) mod names;
mod nodes;
mod operations;
mod progress;
mod rebalance;
mod reshape;
mod settings;
pub(super) mod shards;
mod status;
mod wait;

use std::time::Duration;

use clap::{Args, Subcommand};
use proto::admin as pb;
use proto::admin::admin_client::AdminClient;
use proto::meta::DescribeResponse;
use proto::meta::change_duty::Change;
use storage::seam::Seams;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::config::DEFAULT_RPC;
use crate::exit::Failure;

/// How long a connection and an answer may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Arguments of `flotilla admin`.
#[derive(Args)]
pub struct AdminArgs {
    #[command(subcommand)]
    command: Admin,
    /// RPC address of any node
    #[arg(long, global = true, visible_alias = "rpc", value_name = "ADDR", default_value = DEFAULT_RPC)]
    host: String,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Admin {
    /// List the shards, or those of a table: key range, replicas, leader
    Shards(shards::ShardsArgs),
    /// List the nodes: addresses, whether they live, what they hold
    Nodes,
    /// Sum the cluster up
    Status(status::StatusArgs),
    /// Compare the replicas of each shard, row by row, see that the map holds each key once, and that constraints, indexes and
    /// foreign keys hold in all tables: exit status 8 if something is wrong, 7 if something could not be looked at
    Check(check::CheckArgs),
    /// Show or change what is set for the whole cluster
    Settings(settings::SettingsArgs),
    /// Wait until replicas and leaders are where they should be; with --dry-run, print what would be done
    Rebalance(rebalance::RebalanceArgs),
    /// Move a shard's replica from one node to another
    Move(movement::MoveArgs),
    /// Cut a shard in two, or the largest shard of a table
    Split(reshape::SplitArgs),
    /// Have a shard absorb its right neighbour
    Merge(reshape::MergeArgs),
    /// Have another node lead a shard
    TransferLeader(movement::TransferArgs),
    /// Have a node lead nothing, take no replicas and have no sessions, so that it can be stopped for a while
    Drain(duty::DutyArgs),
    /// Have a drained node serve again
    Undrain(duty::DutyArgs),
    /// Move everything off a node, so that it can be stopped for good
    Decommission(duty::DecommissionArgs),
    /// Keep a node that is being, or was, decommissioned
    Recommission(duty::DutyArgs),
    /// Rebuild the replicas of nodes that are down, now instead of after `node_down_replace_after`
    Repair(rebalance::RepairArgs),
    /// List what is under way, or cancel it
    Operations(operations::OperationsArgs),
    /// Look at the meta-group
    Meta(metagroup::MetaArgs),
}

/// Asks and prints.
pub fn run(args: AdminArgs) -> Result<(), Failure> {
    let output = crate::runtime::build(1)?.block_on(async {
        match &args.command {
            Admin::Shards(shards) => shards::run(shards, &args.host, args.json).await,
            Admin::Nodes => Ok(nodes::print(&cluster(&args.host).await?, args.json)),
            Admin::Check(check) => check::run(check, &args.host, args.json).await,
            Admin::Settings(settings) => settings::run(settings, &args.host, args.json).await,
            Admin::Status(status) => status::run(status, &args.host, args.json).await,
            Admin::Rebalance(rebalance) => rebalance::run(rebalance, &args.host, args.json).await,
            Admin::Move(moving) => movement::run(moving, &args.host, args.json).await,
            Admin::Split(split) => reshape::split(split, &args.host, args.json).await,
            Admin::Merge(merge) => reshape::merge(merge, &args.host, args.json).await,
            Admin::TransferLeader(transfer) => movement::transfer(transfer, &args.host, args.json).await,
            Admin::Drain(node) => duty::run(Change::Drain, node, &args.host, args.json).await,
            Admin::Undrain(node) => duty::run(Change::Undrain, node, &args.host, args.json).await,
            Admin::Decommission(node) => duty::decommission(node, &args.host, args.json).await,
            Admin::Recommission(node) => duty::run(Change::Recommission, node, &args.host, args.json).await,
            Admin::Repair(repair) => rebalance::repair(repair, &args.host, args.json).await,
            Admin::Operations(operations) => operations::run(operations, &args.host, args.json).await,
            Admin::Meta(meta) => metagroup::run(meta, &args.host, args.json).await,
        }
    })?;
    super::print(&output)
}

/// A client of the node at `host`.
pub(crate) async fn connect(host: &str) -> Result<AdminClient<Channel>, Failure> {
    connect_over(&Seams::real(), host).await
}

/// The same over the network of `seams`.
pub(crate) async fn connect_over(seams: &Seams, host: &str) -> Result<AdminClient<Channel>, Failure> {
    let channel = channel_over(seams, host).await?;
    Ok(AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// A connection to the node at `host`.
pub(crate) async fn channel_over(seams: &Seams, host: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{host}"))
        .map_err(|_| Failure::Usage(format!("{host:?} is not an address: HOST:PORT is meant")))?
        .connect_timeout(CONNECT_LIMIT)
        .timeout(ANSWER_LIMIT);
    endpoint.connect_with_connector(raft::Dialer::new(seams)).await.map_err(|error| {
        Failure::Unreachable(format!("no node answers at {host}: {}", crate::exit::chain(&error)))
    })
}

/// A refusal, in words.
pub(crate) fn describe(host: &str, status: &Status) -> Failure {
    match status.code() {
        Code::AlreadyExists | Code::FailedPrecondition | Code::InvalidArgument => {
            Failure::Refused(status.message().to_owned())
        }
        _ => Failure::Unreachable(format!("{host}: {}", status.message())),
    }
}

/// What the meta-group's leader says of the cluster, but for what placement would do.
async fn cluster(host: &str) -> Result<DescribeResponse, Failure> {
    ask(host, true).await
}

/// The same with what placement would do.
async fn planned(host: &str) -> Result<DescribeResponse, Failure> {
    ask(host, false).await
}

async fn ask(host: &str, without_plan: bool) -> Result<DescribeResponse, Failure> {
    let mut admin = connect(host).await?;
    let request = pb::ClusterRequest { without_plan };
    let response = admin.cluster(request).await.map_err(|status| describe(host, &status))?;
    response.into_inner().cluster.ok_or_else(|| Failure::Other("the node sent an empty answer".into()))
}

/// A table without lines, as `kubectl` and `docker` print them.
pub(super) fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.iter().copied());
    table
}

pub(super) fn rendered(mut table: comfy_table::Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    format!("{}\n", table.trim_fmt())
}

pub(super) fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
