//! Runs a workload against a cluster: `jepsen bank --urls URL,URL,URL --seconds 30`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use jepsen::workload::bank;

#[derive(Parser)]
#[command(about = "Drives a running cluster and checks what it saw")]
struct Arguments {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Subcommand)]
enum Workload {
    /// Transfers between accounts, and looks at all of them
    Bank {
        /// The nodes' connection URLs
        #[arg(long, value_delimiter = ',', required = true)]
        urls: Vec<String>,
        /// How long it runs
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Clients that transfer, and as many that look
        #[arg(long, default_value_t = 6)]
        clients: usize,
        /// Accounts
        #[arg(long, default_value_t = 20)]
        accounts: i32,
        /// Seeds the clients' choices
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

#[tokio::main]
#[allow(clippy::print_stdout, reason = "the report is what the command is for")]
async fn main() -> anyhow::Result<ExitCode> {
    let Workload::Bank { urls, seconds, clients, accounts, seed } = Arguments::parse().workload;
    let duration = Duration::from_secs(seconds);
    let report = bank::run(bank::Options { urls, accounts, clients, duration, seed }).await?;
    println!(
        "{} transfers acknowledged, {} of unknown outcome, {} refused; {} observations; {} anomalies",
        report.acknowledged,
        report.unknown,
        report.refused,
        report.observations,
        report.anomalies.len()
    );
    for anomaly in report.anomalies.iter().take(20) {
        println!("  {anomaly}");
    }
    Ok(if report.anomalies.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
