//! `jepsen run`: one run, or a campaign of many, unattended.
//!
//! A campaign tries each workload with each family of faults, in an order drawn from the seed, so that one that is broken off has
//! seen something of everything. A run that fails to come about is tried again on other ports; whatever happens to it, the next one is
//! begun. Folders of runs that found nothing are removed, and of those that did, the first ones keep everything.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jepsen::checker::Validity;
use jepsen::cluster::Cluster;
use jepsen::fault::{self, Family, Fault};
use jepsen::history::Clock;
use jepsen::report::{self, table, table::Row};
use jepsen::{run, workload};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::Run;

/// Attempts to get a run going, each on other ports.
const TRIES_MAX: u16 = 3;
/// Ports that one cluster takes.
const PORTS: u16 = 100;
/// Of a campaign, so many folders of failed runs are kept whole; of others, the verdict.
const FOLDERS_MAX: usize = 20;
/// What is kept of the others.
const KEPT: [&str; 4] = ["run.json", "schedule.json", "verdict.txt", "verdict.json"];
/// The operator has had enough.
const INTERRUPTED: &str = "interrupted";
/// A run that takes so much longer than its clients work hangs.
const OVERTIME: Duration = Duration::from_secs(600);

/// A run to be made.
struct Plan {
    workload: &'static str,
    seed: u64,
    faults: Vec<&'static Fault>,
    /// How the faults are called together.
    family: String,
    mixed: bool,
}

/// Makes one run or all of them; the worst verdict.
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "the verdict is what the command is for")]
pub async fn conduct(arguments: &Run) -> Result<Validity> {
    if !arguments.urls().is_empty() && arguments.faults.iter().any(|fault| fault != "none") {
        bail!(
            "--faults {}: only a cluster of one's own is broken (--cluster local), not a database that runs already",
            arguments.faults.join(",")
        );
    }
    let rounds = rounds(arguments)?;
    let clock = Clock::start();
    let (mut rows, mut worst, mut kept) = (Vec::new(), Validity::Valid, 0);
    let mut seed = arguments.seed;
    'all: loop {
        let plans = rounds(seed);
        let alone = plans.len() == 1 && arguments.seeds == 1 && arguments.total.is_none();
        for plan in plans {
            if arguments.total.is_some_and(|total| clock.elapsed() >= total) {
                break 'all;
            }
            println!("— {}, {}, seed {}", plan.workload, plan.family, plan.seed);
            let row = match persistently(arguments, &plan, rows.len()).await {
                Err(error) if alone => return Err(error),
                Err(error) => {
                    worst = worst.max(Validity::Unknown);
                    let why = format!("{error:#}");
                    let interrupted = why == INTERRUPTED;
                    rows.push(Row::failed(plan.workload, &plan.family, plan.seed, why));
                    if interrupted {
                        break 'all;
                    }
                    rows.last()
                }
                Ok(outcome) => {
                    worst = worst.max(outcome.validity());
                    let row =
                        Row::new(plan.workload, &plan.family, plan.seed, arguments.time_limit, &outcome);
                    if alone || outcome.validity() != Validity::Valid {
                        print!("{}", report::text(&outcome));
                    }
                    if alone || arguments.keep {
                        println!("in {}", outcome.folder.display());
                    } else {
                        tidy(&outcome.folder, outcome.validity(), &mut kept);
                    }
                    rows.push(row);
                    rows.last()
                }
            };
            if let (Some(row), false) = (row, alone) {
                println!("{}", row.line());
            }
            write_table(arguments, &rows, clock)?;
        }
        seed = seed.wrapping_add(1);
        let done = seed >= arguments.seed.saturating_add(arguments.seeds);
        if done && arguments.total.is_none() {
            break;
        }
    }
    if rows.is_empty() {
        eprintln!("jepsen: there was no time for a run");
        worst = Validity::Unknown;
    }
    if rows.len() > 1 {
        println!("\n{}", table::markdown("", &rows).trim_start());
    }
    Ok(worst)
}

/// The runs of a seed.
fn rounds(arguments: &Run) -> Result<impl Fn(u64) -> Vec<Plan>> {
    let asked: Vec<&str> =
        arguments.workloads.iter().chain(&arguments.workload).map(String::as_str).collect();
    let everything = asked == ["all"];
    if asked.is_empty() {
        bail!("which workload? `jepsen list` shows them; all is one, too");
    }
    let find = |name: &&str| {
        let entry = workload::ALL.iter().find(|entry| entry.name == *name);
        entry
            .map(|entry| entry.name)
            .with_context(|| format!("there is no workload '{name}'; `jepsen list` shows them"))
    };
    let names: Vec<&'static str> = match everything {
        true => workload::ALL.iter().map(|entry| entry.name).collect(),
        false => asked.iter().map(find).collect::<Result<_>>()?,
    };
    let mut sets: Vec<(String, Vec<&'static Fault>, bool)> = Vec::new();
    let nodes = usize::from(arguments.nodes);
    // What is another one of the list on so few nodes is tried if it is asked for by its name: then there are more.
    let all: Vec<&'static Fault> =
        fault::ALL.iter().filter(|fault| fault.is_fair() && !fault.is_another(nodes)).collect();
    match &arguments.faults[..] {
        [word] if word == "all" && everything && !arguments.mixed => {
            for family in Family::ALL {
                let of = all.iter().copied().filter(|fault| fault.family() == family).collect();
                sets.push((family.name().to_owned(), of, false));
            }
            sets.push(("mixed".to_owned(), all, true));
        }
        [word] if word == "all" => sets.push(("all".to_owned(), all, arguments.mixed)),
        names => {
            let mut chosen: Vec<&'static Fault> = Vec::new();
            for name in names.iter().filter(|name| *name != "none") {
                match Family::ALL.into_iter().find(|family| family.name() == name) {
                    Some(family) => chosen.extend(all.iter().filter(|fault| fault.family() == family)),
                    None => {
                        chosen.push(fault::find(name).with_context(|| format!("there is no fault '{name}'"))?)
                    }
                }
            }
            let name = if chosen.is_empty() { "none".to_owned() } else { names.join("+") };
            sets.push((name, chosen, arguments.mixed));
        }
    }
    let campaign = everything && sets.len() > 1;
    Ok(move |seed| {
        let cells = names.iter().flat_map(|name| sets.iter().map(move |set| (*name, set)));
        let mut plans: Vec<Plan> = cells
            .map(|(workload, (family, faults, mixed))| Plan {
                workload,
                seed,
                faults: faults.clone(),
                family: family.clone(),
                mixed: *mixed,
            })
            .collect();
        if campaign {
            plans.shuffle(&mut StdRng::seed_from_u64(seed));
        }
        plans
    })
}

/// On other ports if it does not come about: somebody may have them.
#[allow(clippy::print_stderr, reason = "what went wrong is for the terminal")]
async fn persistently(arguments: &Run, plan: &Plan, nth: usize) -> Result<run::Outcome> {
    let mut last = None;
    for attempt in 0..TRIES_MAX {
        // Not the same ones as the run before: its connections linger.
        let shift = (nth as u16 % 2 + 2 * attempt) * PORTS;
        let base_port = arguments.base_port.checked_add(shift).context("the ports of --base-port")?;
        let limit = arguments.time_limit * 2 + OVERTIME;
        match tokio::time::timeout(limit, one(arguments, plan, base_port)).await {
            Ok(Ok(outcome)) => return Ok(outcome),
            Ok(Err(error)) if error.to_string() == INTERRUPTED => return Err(error),
            Ok(Err(error)) => {
                eprintln!("jepsen: {error:#}");
                last = Some(error);
            }
            Err(_) => {
                cluster(arguments, plan, base_port, None).wipe().await?;
                bail!("it did not end within {} s", limit.as_secs());
            }
        }
        if !arguments.urls().is_empty() {
            break;
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("it was not tried")))
}

fn cluster(arguments: &Run, plan: &Plan, base_port: u16, disk: Option<std::path::PathBuf>) -> Cluster {
    Cluster {
        script: arguments.cluster_script.clone(),
        binary: None,
        preload: disk,
        environment: Vec::new(),
        settings: Vec::new(),
        dir: arguments.out.join(format!("cluster-{base_port}")),
        base_port,
        // Where every node has everything, nothing can move.
        nodes: fault::nodes_for(arguments.nodes.into(), &plan.faults),
        present: Default::default(),
        proxies: plan.faults.iter().any(|fault| fault.needs_links()),
    }
}

async fn one(arguments: &Run, plan: &Plan, base_port: u16) -> Result<run::Outcome> {
    let disk = if plan.faults.iter().any(|fault| fault.needs_disk()) {
        Some(fault::disk::build(&arguments.out.join("interposer")).await?)
    } else {
        None
    };
    let cluster = cluster(arguments, plan, base_port, disk);
    let options = run::Options {
        workload: plan.workload.to_owned(),
        seed: plan.seed,
        time: arguments.time_limit,
        clients: arguments.clients,
        rate: arguments.rate,
        call_timeout: arguments.call_timeout,
        ops_max: arguments.ops_max,
        gap_max: (!arguments.gap_max.is_zero()).then_some(arguments.gap_max),
        faults: plan.faults.clone(),
        mixed: plan.mixed,
        plain_tables: arguments.plain_tables,
        progress: true,
        out: arguments.out.clone(),
    };
    let urls = arguments.urls();
    if !urls.is_empty() {
        return run::run_against(&options, urls).await;
    }
    let outcome = tokio::select! {
        outcome = run::run(&options, &cluster) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!(INTERRUPTED)),
    };
    // However it ended: no process is left behind.
    let wiped = cluster.wipe().await;
    let outcome = outcome?;
    wiped?;
    Ok(outcome)
}

/// Leaves of a run's folder what somebody will look at.
fn tidy(folder: &Path, validity: Validity, kept: &mut usize) {
    if validity == Validity::Valid {
        // What can't be removed takes room, no more.
        let _ = std::fs::remove_dir_all(folder);
        return;
    }
    *kept += 1;
    if *kept <= FOLDERS_MAX {
        return;
    }
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !KEPT.iter().any(|name| entry.file_name() == *name) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// After each run: whoever breaks the campaign off has the table so far.
fn write_table(arguments: &Run, rows: &[Row], clock: Clock) -> Result<()> {
    let Some(path) = &arguments.table else { return Ok(()) };
    let preface = format!(
        "# A soak\n\n`flotilla verify --workload {} --faults {} --time {}s --seed {}`: {} nodes (more where faults need them), {} clients, {} calls per second at most, \
         {:.0} minutes in all.\n\nA cell: whether all checkers of safety are satisfied (the comparison of all replicas in the end is one), \
         calls that succeeded / faults that were done / the longest time without an answer under faults of a minority (–: there were none).",
        arguments.workloads.iter().chain(&arguments.workload).cloned().collect::<Vec<_>>().join(","),
        arguments.faults.join(","),
        arguments.time_limit.as_secs(),
        arguments.seed,
        arguments.nodes,
        arguments.clients,
        arguments.rate,
        clock.elapsed().as_secs_f64() / 60.0,
    );
    let text = table::markdown(&preface, rows);
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
