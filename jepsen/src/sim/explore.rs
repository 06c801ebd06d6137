//! Many seeds, several at a time, each in a process of its own; and what a failing one comes down to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use serde_json::{Value as Json, json};
use tokio::process::Command;

use super::run::Outcome;
use crate::checker::Validity;

/// A process that computes longer has lost its way. (How long it takes says nothing where others compute, too.)
const CPU_SECONDS_MAX: libc::rlim_t = 120;
/// How often a failing seed is run again, to find out what it needs.
const SHRINK_RUNS_MAX: usize = 60;

/// What is the same for all seeds.
#[derive(Clone, Debug)]
pub struct Exploration {
    /// The first seed.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Processes at a time.
    pub jobs: usize,
    /// Arguments of `jepsen sim` that are handed on.
    pub arguments: Vec<String>,
    /// Go on after a failure, and tell of all of them.
    pub keep_going: bool,
}

/// What is left of a run when its process has ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What is wrong.
    pub failure: Option<String>,
    /// Too little happened for a verdict.
    pub undecided: bool,
    /// The numbers of the faults, if it has told.
    pub faults: Option<Vec<usize>>,
    /// Clients' calls.
    pub calls: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Hash of everything that happened.
    pub digest: String,
}

impl Report {
    /// As a process hands it over.
    pub fn line(seed: u64, outcome: &Outcome) -> String {
        json!({
            "seed": seed,
            "failure": outcome.failure,
            "undecided": outcome.undecided,
            "faults": outcome.faults.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            "calls": outcome.calls,
            "simulated_ns": outcome.simulated_ns,
            "digest": format!("{:016x}/{}", outcome.digest.0, outcome.digest.1),
        })
        .to_string()
    }

    fn of(seed: u64, line: &str) -> Result<Self> {
        let report: Json = serde_json::from_str(line).with_context(|| format!("in {line:?}"))?;
        let number = |name: &str| report[name].as_u64().unwrap_or_default();
        let faults = report["faults"].as_array();
        Ok(Self {
            seed,
            failure: report["failure"].as_str().map(str::to_owned),
            undecided: report["undecided"].is_string(),
            faults: faults.map(|all| all.iter().filter_map(|n| n.as_u64().map(|n| n as usize)).collect()),
            calls: number("calls"),
            simulated: Duration::from_nanos(number("simulated_ns")),
            digest: report["digest"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

/// What an exploration found.
#[derive(Debug, Default)]
pub struct Found {
    /// Runs that failed, shrunk: what is wrong, and the command that shows it.
    pub failures: Vec<(String, String)>,
    /// Seeds that ended.
    pub runs: u64,
    /// Those among them of which nothing can be said, because too little happened.
    pub undecided: u64,
    /// Simulated time of all.
    pub simulated: Duration,
    /// Real time.
    pub took: Duration,
    /// Clients' calls of all.
    pub calls: u64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.simulated.as_secs_f64() / self.took.as_secs_f64().max(0.001);
        write!(
            f,
            "{} seeds ({} undecided), {} calls, {:.0} simulated seconds in {:.0} s: {rate:.1} simulated seconds per second",
            self.runs,
            self.undecided,
            self.calls,
            self.simulated.as_secs_f64(),
            self.took.as_secs_f64()
        )
    }
}

impl Found {
    /// One failure is one too many; what is undecided must be rare for the rest to mean something.
    pub fn validity(&self) -> Validity {
        if !self.failures.is_empty() {
            Validity::Invalid
        } else if self.runs == 0 || self.undecided * 50 > self.runs {
            Validity::Unknown
        } else {
            Validity::Valid
        }
    }
}

/// Runs seeds until all are done, or one fails, which is then shrunk.
#[allow(clippy::disallowed_methods, reason = "the rate is one of real time")]
pub async fn explore(what: &Exploration, progress: impl Fn(&Found)) -> Result<Found> {
    let began = Instant::now();
    let mut found = Found::default();
    let seeds = what.first..what.first.saturating_add(what.count);
    let runs = seeds.map(|seed| async move { (seed, child(seed, &what.arguments).await) });
    let mut runs = std::pin::pin!(futures::stream::iter(runs).buffer_unordered(what.jobs.max(1)));
    while let Some((seed, report)) = runs.next().await {
        let report = report.with_context(|| format!("seed {seed}"))?;
        found.runs += 1;
        found.undecided += u64::from(report.undecided && report.failure.is_none());
        found.calls += report.calls;
        found.simulated += report.simulated;
        found.took = began.elapsed();
        progress(&found);
        if report.failure.is_some() {
            found.failures.push(shrink(report, &what.arguments).await?);
            if !what.keep_going {
                break;
            }
        }
    }
    found.took = began.elapsed();
    Ok(found)
}

/// Leaves out faults and calls as long as it still fails. Returns what is wrong in the end, and how to see it.
async fn shrink(mut failing: Report, arguments: &[String]) -> Result<(String, String)> {
    let seed = failing.seed;
    let Some(mut needed) = failing.faults.take() else {
        let failure = failing.failure.unwrap_or_default();
        return Ok((failure, format!("jepsen sim --seed {seed} {}", arguments.join(" "))));
    };
    let mut runs = 0;
    let mut calls_max: Option<u64> = None;
    let with = |faults: &[usize], calls: Option<u64>| {
        let numbers: Vec<String> = faults.iter().map(usize::to_string).collect();
        let faults = if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") };
        let mut arguments = [arguments, &["--faults".to_owned(), faults]].concat();
        arguments.extend(calls.iter().flat_map(|calls| ["--calls".to_owned(), calls.to_string()]));
        arguments
    };
    let mut n = 0;
    while n < needed.len() && runs < SHRINK_RUNS_MAX {
        let mut fewer = needed.clone();
        fewer.remove(n);
        runs += 1;
        match child(seed, &with(&fewer, None)).await? {
            smaller if smaller.failure.is_some() => (failing, needed) = (smaller, fewer),
            _ => n += 1,
        }
    }
    let (mut enough, mut too_few) = (failing.calls, 0);
    while too_few + 1 < enough && runs < SHRINK_RUNS_MAX {
        let middle = too_few + (enough - too_few) / 2;
        runs += 1;
        match child(seed, &with(&needed, Some(middle))).await? {
            smaller if smaller.failure.is_some() => {
                (failing, enough, calls_max) = (smaller, middle, Some(middle));
            }
            _ => too_few = middle,
        }
    }
    let arguments = with(&needed, calls_max).join(" ");
    let failure = failing.failure.unwrap_or_default();
    Ok((failure, format!("jepsen sim --seed {seed} {arguments}")))
}

/// One seed in a process of its own. A process that dies is a failure of that seed.
pub async fn child(seed: u64, arguments: &[String]) -> Result<Report> {
    let mut command = here(seed, arguments)?;
    command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.output().await.context("running a seed")?;
    let line = String::from_utf8_lossy(&output.stdout);
    match line.lines().last() {
        Some(line) if line.starts_with('{') => Report::of(seed, line),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: Vec<&str> = said.lines().take(4).collect();
            Ok(Report::died(seed, format!("the process ended with {}: {}", output.status, said.join(" "))))
        }
    }
}

impl Report {
    fn died(seed: u64, failure: String) -> Self {
        let (faults, digest) = (None, String::new());
        Self {
            seed,
            failure: Some(failure),
            undecided: false,
            faults,
            calls: 0,
            simulated: Duration::ZERO,
            digest,
        }
    }
}

/// The command that runs a seed. Addresses are not randomised in it, should anything depend on them.
#[allow(unsafe_code, reason = "between fork and exec")]
pub fn here(seed: u64, arguments: &[String]) -> Result<Command> {
    let me = program()?;
    let mut command = Command::new(me);
    command.args(["sim", "--here", "--seed", &seed.to_string()]).args(arguments);
    let limit = libc::rlimit { rlim_cur: CPU_SECONDS_MAX, rlim_max: CPU_SECONDS_MAX };
    // SAFETY: neither call touches memory but the limit, which the closure owns.
    unsafe {
        command.pre_exec(move || {
            // Where that is not allowed, it is left.
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            libc::setrlimit(libc::RLIMIT_CPU, &limit);
            Ok(())
        });
    }
    Ok(command)
}

/// The program that is linked for simulations: this one, or as a test says.
fn program() -> Result<PathBuf> {
    match std::env::var_os("JEPSEN_BIN") {
        Some(path) => Ok(path.into()),
        None => std::env::current_exe().context("this program's path"),
    }
}

/// A directory for one process's nodes: in memory if possible.
pub fn scratch() -> Result<PathBuf> {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let dir = base.join(format!("flotilla-sim-{}", std::process::id()));
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    match std::fs::create_dir_all(&dir) {
        Ok(()) => Ok(dir),
        Err(error) => bail!("{}: {error}", dir.display()),
    }
}
