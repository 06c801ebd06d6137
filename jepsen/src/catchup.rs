//! `jepsen catchup`: how a node catches up that was away while others wrote, and what clients notice of it.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use jepsen::absence::{self, Round};
use jepsen::checker::Validity;

use crate::measurement::{Place, conduct};

/// One of three is away, so that nothing can be rebuilt in its place.
const NODES: usize = 3;

#[derive(Args)]
pub struct Catchup {
    /// Bytes of rows that are written while the node is away: 1GB, 512MiB
    #[arg(long, default_value = "1GB", value_parser = size)]
    bytes: u64,
    /// Bytes of a row, at random
    #[arg(long, default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    row_bytes: u32,
    /// Shards of the table that they go to; what is less than 64 MiB for each comes from the logs, without snapshots
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=256))]
    shards: u32,
    /// Clients that write them
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: u32,
    /// Clients of the load that goes on all the time; every other one writes
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=200))]
    clients: u32,
    /// Their calls per second, of all together
    #[arg(long, default_value_t = 80.0)]
    rate: f64,
    /// How long the load is watched before the node goes away
    #[arg(long, default_value = "20s", value_parser = crate::duration)]
    before: Duration,
    /// How long the load is watched after the node has caught up, while it is given back what it led
    #[arg(long, default_value = "20s", value_parser = crate::duration)]
    after: Duration,
    /// How long the node may take to catch up
    #[arg(long, default_value = "30m", value_parser = crate::duration)]
    limit: Duration,
    /// MiB per second of snapshots that a node may send (`snapshot_mib_per_second`) [default: the product's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    snapshot_rate: Option<u32>,
    /// A second round, in which the node is killed again (SIGKILL) in the midst of its catching up
    #[arg(long)]
    interrupt: bool,
    /// Seeds the rows
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    place: Place,
}

/// A number with a unit: of powers of 1000 (`kB`, `MB`, `GB`) or of 1024 (`KiB`, `MiB`, `GiB`); without one, of bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("'{text}' is no size: say 1GB"))?;
    let unit = match &text[digits..] {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        unit => return Err(format!("'{unit}' is no unit: kB, MB, GB, KiB, MiB or GiB")),
    };
    number
        .checked_mul(unit)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("{text} is too much, or nothing"))
}

/// Measures, prints, and says whether the node caught up, and all is there and equal.
#[tokio::main]
#[allow(clippy::print_stdout, reason = "progress is for whoever watches")]
pub async fn run(arguments: Catchup) -> Result<Validity> {
    let options = absence::Options {
        bytes: arguments.bytes,
        row_bytes: arguments.row_bytes as usize,
        shards: arguments.shards as usize,
        writers: arguments.writers as usize,
        clients: arguments.clients as usize,
        rate: arguments.rate,
        before: arguments.before,
        after: arguments.after,
        limit: arguments.limit,
        interrupt: arguments.interrupt,
        seed: arguments.seed,
    };
    let folder = arguments.place.folder("catchup");
    let mut cluster = arguments.place.cluster(&folder, NODES);
    let rate = arguments.snapshot_rate.map(|rate| (absence::SNAPSHOT_RATE.to_owned(), rate.to_string()));
    cluster.settings.extend(rate);
    let measuring = absence::measure(&options, &cluster, |line| println!("  {line}"));
    let all_well = |rounds: &Vec<Round>| rounds.iter().all(Round::is_well);
    let rounds = conduct(&cluster, &folder, measuring, all_well).await?;
    arguments.place.show(&absence::markdown(&rounds))?;
    Ok(if all_well(&rounds) { Validity::Valid } else { Validity::Invalid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_either_kind() {
        assert_eq!(size("1GB"), Ok(1_000_000_000));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("300"), Ok(300));
        for wrong in ["", "GB", "1gb", "1.5GB", "0MB", "99999999999GB", "-1MB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
