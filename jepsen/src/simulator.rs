//! The command `jepsen sim`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use jepsen::checker::Validity;
use jepsen::history::{History, edn, json};
use jepsen::report;
use jepsen::sim::explore::{self, Exploration, Report};
use jepsen::sim::plan::Defect;
use jepsen::sim::{Options, Outcome, panicked, simulate, workload};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Seeds between two lines of progress.
const PROGRESS_EVERY: u64 = 50;
/// Every call of a simulation is a process of its own: they are drawn in so many rows.
const TIMELINE_ROWS: u64 = 15;

#[derive(Args)]
pub struct Sim {
    /// Runs one seed, and tells of it
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Runs so many seeds, until one fails
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Seeds at a time [default: one per processor]
    #[arg(long)]
    jobs: Option<usize>,
    /// Goes on after a failure, and lists them all
    #[arg(long)]
    keep_going: bool,
    /// Workloads to choose from: bank, list-append, register
    #[arg(long, value_delimiter = ',')]
    workload: Vec<String>,
    /// How long clients work, in simulated time
    #[arg(long, default_value = "6s", value_parser = crate::duration)]
    time: Duration,
    /// Of the faults and operators' wishes that the seed stands for, those with these numbers; or `none`
    #[arg(long, value_name = "0,2,…", overrides_with = "faults")]
    faults: Option<String>,
    /// So many calls of clients at most
    #[arg(long, default_value_t = 1_000_000, overrides_with = "calls")]
    calls: u64,
    /// Lets the simulated machine do something that it may not: lying-disks, racing-clocks
    #[arg(long)]
    broken: Option<String>,
    /// Reads are confirmed by a majority, instead of relying on leases
    #[arg(long)]
    quorum_reads: bool,
    /// Writes everything that happens to a file (of one seed)
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Writes the history to a file (of one seed): EDN, or a JSON array if it ends in .json
    #[arg(long)]
    history: Option<PathBuf>,
    /// Leaves the verdict and the pictures (of one seed) in a folder
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
    /// Where a seed that failed leaves its folder: trace, history, schedule, pictures, verdict
    #[arg(long, default_value_os_t = std::env::temp_dir().join("jepsen"))]
    out: PathBuf,
    /// Prints one line of JSON for each seed
    #[arg(long)]
    json: bool,
    /// In this process
    #[arg(long, hide = true)]
    here: bool,
}

#[allow(clippy::print_stdout, reason = "the verdict is what the command is for")]
pub fn run(sim: &Sim) -> Result<Validity> {
    let runtime = tokio::runtime::Builder::new_current_thread();
    match sim.seed {
        Some(seed) if sim.here => here(sim, seed),
        Some(seed) => {
            let mut command = explore::here(seed, &sim.arguments())?;
            if sim.json {
                command.arg("--json");
            }
            for (name, path) in [("--trace", &sim.trace), ("--history", &sim.history)] {
                if let Some(path) = path {
                    command.arg(name).arg(path);
                }
            }
            let status = command.as_std_mut().status().context("running the seed")?;
            Ok(match status.code() {
                Some(0) => Validity::Valid,
                Some(explore::STATUS_UNKNOWN) => Validity::Unknown,
                // Also a process that died.
                _ => Validity::Invalid,
            })
        }
        None => build(runtime)?.block_on(many(sim)),
    }
}

/// The time of the runtime, which is the simulated one: seconds since the first line.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    #[allow(clippy::disallowed_methods, reason = "it is the runtime's time that is told")]
    fn format_time(&self, line: &mut Writer<'_>) -> std::fmt::Result {
        static START: OnceLock<tokio::time::Instant> = OnceLock::new();
        let now = tokio::time::Instant::now();
        write!(line, "{:12.6}", now.duration_since(*START.get_or_init(|| now)).as_secs_f64())
    }
}

/// What all nodes of a seed say goes to stderr, if `FLOTILLA_LOG` chooses any of it.
fn init_log() {
    if let Ok(filter) = EnvFilter::try_from_env("FLOTILLA_LOG") {
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_timer(SimulatedTime);
        let _ = log.with_writer(std::io::stderr).with_ansi(false).try_init();
    }
}

fn build(mut builder: tokio::runtime::Builder) -> Result<tokio::runtime::Runtime> {
    builder.enable_all().build().context("making a runtime")
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "the verdict is what the command is for")]
async fn many(sim: &Sim) -> Result<Validity> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let what = Exploration {
        first: sim.from,
        count: sim.seeds,
        jobs: sim.jobs.unwrap_or(processors),
        arguments: sim.arguments(),
        workloads: sim.workloads()?,
        work_ns: sim.time.as_nanos() as u64,
        defect: sim.defect()?,
        only: sim.faults()?,
        calls_max: sim.calls,
        out: sim.out.clone(),
        keep_going: sim.keep_going,
    };
    let found = explore::explore(&what, |found| {
        if found.runs.is_multiple_of(PROGRESS_EVERY) {
            eprintln!("{found}");
        }
    })
    .await?;
    println!("{found}");
    for failure in &found.failures {
        println!("FAILED: {}\n  {}\n  in {}", failure.what, failure.command, failure.folder.display());
    }
    Ok(found.validity())
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "the verdict is what the command is for")]
#[allow(clippy::disallowed_methods, reason = "a simulation needs a fresh thread of its own")]
fn here(sim: &Sim, seed: u64) -> Result<Validity> {
    init_log();
    let options = sim.options(seed)?;
    let trace: Option<Box<dyn Write + Send>> = match &sim.trace {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
            Some(Box::new(BufWriter::new(file)))
        }
        None => None,
    };
    report_panics();
    let dir = options.dir.clone();
    let simulation = std::thread::Builder::new()
        .name("simulation".to_owned())
        .stack_size(64 << 20)
        .spawn(move || simulate(&options, trace))
        .context("starting the simulation's thread")?;
    let outcome = simulation.join();
    let _ = std::fs::remove_dir_all(dir);
    // Of which the hook has told: it is the seed's failure, wherever it happened.
    let Ok(outcome) = outcome else {
        eprintln!("FAILED: the simulation panicked");
        exit_now(crate::status(Validity::Invalid))
    };
    let outcome = outcome?;
    if let Some(path) = &sim.history {
        write_history(path, &outcome)?;
    }
    if let Some(folder) = &sim.folder {
        leave(folder, seed, &outcome)?;
    }
    if sim.json {
        println!("{}", Report::line(seed, &outcome));
    } else {
        println!("seed {seed}, {outcome}");
    }
    std::io::stdout().flush().context("printing")?;
    // Nodes that crashed have left databases open, whose threads need not be waited for.
    exit_now(crate::status(outcome.validity()))
}

/// What real runs leave, too.
fn leave(folder: &std::path::Path, seed: u64, outcome: &Outcome) -> Result<()> {
    let history = History::new(outcome.history.clone())?;
    let found = outcome.verdicts.iter().any(|verdict| verdict.validity == Validity::Invalid);
    // What no checker knows of.
    let troubles: Vec<String> = outcome.failure.iter().filter(|_| !found).cloned().collect();
    let findings = report::Findings {
        folder,
        workload: outcome.workload,
        seed,
        validity: outcome.validity(),
        verdicts: &outcome.verdicts,
        troubles: &troubles,
        history: &history,
        clients: TIMELINE_ROWS,
    };
    findings.write()
}

fn write_history(path: &std::path::Path, outcome: &Outcome) -> Result<()> {
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "json") {
        text = json::write_all(&outcome.history);
    } else {
        for op in &outcome.history {
            edn::write(&mut text, op).context("writing an operation")?;
            text.push('\n');
        }
    }
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// A panic is a finding: it would end a node's process, and ends the simulation.
#[allow(clippy::print_stderr, reason = "what went wrong is for the terminal")]
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}\n{}", std::backtrace::Backtrace::capture());
        panicked(panic.to_string().replace('\n', " "));
    }));
}

#[allow(unsafe_code, reason = "exit without destructors")]
fn exit_now(status: u8) -> ! {
    // SAFETY: it ends the process, whatever its state.
    unsafe { libc::_exit(status.into()) }
}

impl Sim {
    /// What is the same for every seed, as arguments.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--time".to_owned(), format!("{}ms", self.time.as_millis())];
        let mut add = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
        if !self.workload.is_empty() {
            add("--workload", &self.workload.join(","));
        }
        if let Some(broken) = &self.broken {
            add("--broken", broken);
        }
        if self.quorum_reads {
            arguments.push("--quorum-reads".to_owned());
        }
        let mut add = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
        if let Some(faults) = &self.faults {
            add("--faults", faults);
        }
        if self.calls < 1_000_000 {
            add("--calls", &self.calls.to_string());
        }
        arguments
    }

    fn workloads(&self) -> Result<Vec<&'static str>> {
        if self.workload.is_empty() {
            return Ok(workload::ALL.iter().map(|entry| entry.name).collect());
        }
        let find = |name: &String| {
            let entry = workload::find(name).with_context(|| format!("there is no workload '{name}'"))?;
            Ok(entry.name)
        };
        self.workload.iter().map(find).collect()
    }

    fn defect(&self) -> Result<Option<Defect>> {
        let Some(name) = &self.broken else { return Ok(None) };
        let known = Defect::ALL.iter().find(|(known, _)| known == name);
        Ok(Some(known.with_context(|| format!("there is no defect '{name}'"))?.1))
    }

    fn faults(&self) -> Result<Option<Vec<usize>>> {
        match self.faults.as_deref() {
            None => Ok(None),
            Some("none") => Ok(Some(Vec::new())),
            Some(list) => match list.split(',').map(str::parse).collect() {
                Ok(numbers) => Ok(Some(numbers)),
                Err(_) => bail!("'{list}' is no list of numbers"),
            },
        }
    }

    fn options(&self, seed: u64) -> Result<Options> {
        Ok(Options {
            seed,
            workloads: self.workloads()?,
            work_ns: self.time.as_nanos() as u64,
            calls_max: self.calls,
            faults: self.faults()?,
            defect: self.defect()?,
            quorum_reads: self.quorum_reads,
            dir: explore::scratch()?,
        })
    }
}
