//! Placement at size: a cluster that carries out whatever is planned, one plan a second.
//!
//! `settles_small` runs with all other tests. `settles_large` is 1,000 nodes with 1,000,000 shards; it writes
//! `docs/placement-simulation.md` and its plots:
//!
//! ```sh
//! cargo test --release -p meta --lib placement::simulation::settles_large -- --ignored --nocapture
//! ```

mod bound;
mod cluster;
mod plot;
mod scenario;

use std::fmt::Write as _;

use cluster::{Simulation, Size};
use scenario::{AtRest, Outcome, SCENARIOS, run};

/// What one plan may take, in a release build.
const PLAN_MS_MAX: f64 = 1_000.0;

#[test]
fn settles_small() {
    // Without optimisation, less has to do.
    let shards = if cfg!(debug_assertions) { 5_000 } else { 20_000 };
    let size = Size { nodes: 100, shards, tables: shards / 100 };
    let mut at_rest = AtRest::new();
    let outcomes: Vec<Outcome> = SCENARIOS.iter().map(|s| run(s, size, &mut at_rest)).collect();
    outcomes.iter().for_each(|outcome| println!("{}", outcome.row()));
    outcomes.iter().for_each(Outcome::check);
}

/// 10,000 shards on three nodes, which all have a replica of each.
#[test]
fn three_nodes_ten_thousand_shards() {
    let mut simulation = Simulation::new(Size { nodes: 3, shards: 10_000, tables: 10 }, 3);
    let first = simulation.pass();
    let best = (0..5).map(|_| simulation.pass().plan_ms).fold(first.plan_ms, f64::min);
    println!("10,000 shards on 3 nodes: {best:.1} ms a plan");
    // Without optimisation, on a machine that has other things to do.
    assert!(best < PLAN_MS_MAX);
    assert_eq!(first.moves, 0, "every node has everything");
}

#[test]
#[ignore = "half an hour, in a release build"]
fn settles_large() {
    let size = Size { nodes: 1_000, shards: 1_000_000, tables: 1_000 };
    let docs =
        std::env::var("DOCS").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../docs").into());
    let mut table = String::from(scenario::HEADER);
    let mut at_rest = AtRest::new();
    let mut outcomes: Vec<Outcome> = Vec::new();
    // What takes longest comes last, alone in memory.
    for scenario in SCENARIOS.iter().rev() {
        let outcome = run(scenario, size, &mut at_rest);
        println!("{}", outcome.row());
        let _ = writeln!(table, "{}", outcome.row());
        outcomes.push(outcome);
        std::fs::write(format!("{docs}/placement-simulation.md"), &table).expect("docs are writable");
        let plot = plot::draw(&outcomes);
        std::fs::write(format!("{docs}/placement-simulation.svg"), plot).expect("docs are writable");
    }
    for outcome in &outcomes {
        outcome.check();
        assert!(outcome.plan_ms_max <= PLAN_MS_MAX, "{}: {} ms", outcome.name, outcome.plan_ms_max);
    }
}
