//! Many seeds, several at a time, each in a process of its own; and what a failing one comes down to.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use serde_json::{Value as Json, json};
use tokio::process::Command;

use super::operate::Counts;
use super::plan::{Defect, Plan};
use super::run::Outcome;
use crate::checker::{self, Validity};
use crate::run::write_json;

/// A process that computes longer has lost its way. (How long it takes says nothing where others compute, too.)
const CPU_SECONDS_MAX: libc::rlim_t = 120;
/// With this status `jepsen` ends when it can't tell: a seed is undecided, or the harness failed.
pub const STATUS_UNKNOWN: i32 = 2;
/// How often a failing seed is run again, to find out what it needs.
const SHRINK_RUNS_MAX: usize = 60;
/// Of what operators wanted so often, something must have been done: otherwise nobody knows what the seeds would have shown.
const TRIES_MIN: u64 = 40;

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
    /// What decides which faults a seed stands for, of which a process that died can't tell: workloads …
    pub workloads: Vec<&'static str>,
    /// … how long clients work …
    pub work_ns: u64,
    /// … and what the machine does wrong.
    pub defect: Option<Defect>,
    /// Of the faults, those with these numbers; none: all.
    pub only: Option<Vec<usize>>,
    /// Clients' calls, at most.
    pub calls_max: u64,
    /// Where runs that failed leave their folders.
    pub out: PathBuf,
    /// Go on after a failure, and tell of all of them.
    pub keep_going: bool,
}

impl Exploration {
    /// The numbers of a seed's faults, as its process draws them.
    pub fn drawn(&self, seed: u64) -> Vec<usize> {
        self.plan(seed).chosen(self.only.as_deref()).into_iter().map(|(number, _)| number).collect()
    }

    fn plan(&self, seed: u64) -> Plan {
        Plan::draw(seed, &self.workloads, self.work_ns, self.defect)
    }
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
    /// Clients' calls, if it has told.
    pub calls: Option<u64>,
    /// What became of operations, by kind.
    pub operations: BTreeMap<String, Counts>,
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
            "operations": outcome.operations.iter().map(|(name, counts)| (*name, counts.json())).collect::<BTreeMap<_, _>>(),
            "simulated_ns": outcome.simulated_ns,
            "digest": format!("{:016x}/{}", outcome.digest.0, outcome.digest.1),
        })
        .to_string()
    }

    fn of(seed: u64, line: &str) -> Result<Self> {
        let report: Json = serde_json::from_str(line).with_context(|| format!("in {line:?}"))?;
        let faults = report["faults"].as_array();
        let operations = report["operations"].as_object().into_iter().flatten();
        Ok(Self {
            seed,
            failure: report["failure"].as_str().map(str::to_owned),
            undecided: report["undecided"].is_string(),
            faults: faults.map(|all| all.iter().filter_map(|n| n.as_u64().map(|n| n as usize)).collect()),
            calls: report["calls"].as_u64(),
            operations: operations
                .filter_map(|(name, counts)| Some((name.clone(), Counts::of(counts)?)))
                .collect(),
            simulated: Duration::from_nanos(report["simulated_ns"].as_u64().unwrap_or_default()),
            digest: report["digest"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

/// A run that failed, shrunk.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What is wrong.
    pub what: String,
    /// The command that shows it.
    pub command: String,
    /// Where its trace, its history, its schedule, pictures and the verdict are.
    pub folder: PathBuf,
}

/// What an exploration found.
#[derive(Debug, Default)]
pub struct Found {
    /// Runs that failed, shrunk.
    pub failures: Vec<Failure>,
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
    /// What became of the operations of all, by kind.
    pub operations: BTreeMap<String, Counts>,
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
        )?;
        if self.operations.is_empty() {
            return Ok(());
        }
        let counts: Vec<String> = self.operations.iter().map(|(name, n)| format!("{name}: {n}")).collect();
        write!(f, "; {}", counts.join("; "))?;
        let never: Vec<&str> = self.never_done().collect();
        match never.is_empty() {
            true => Ok(()),
            false => write!(f, "; {} was tried often and never done", never.join(", ")),
        }
    }
}

impl Found {
    /// What operators have wanted often, and nothing of it was done.
    fn never_done(&self) -> impl Iterator<Item = &str> {
        let never = |counts: &Counts| counts.done == 0 && counts.tries() >= TRIES_MIN;
        self.operations.iter().filter(move |(_, counts)| never(counts)).map(|(name, _)| &name[..])
    }

    /// One failure is one too many; what is undecided must be rare for the rest to mean something: one seed of twenty. (Some stand for faults
    /// that leave hardly any time for calls, and what is read in the end does not count.) So must what is never done at all.
    pub fn validity(&self) -> Validity {
        if !self.failures.is_empty() {
            Validity::Invalid
        } else if self.runs == 0 || self.undecided * 20 > self.runs || self.never_done().next().is_some() {
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
        found.calls += report.calls.unwrap_or_default();
        for (name, counts) in &report.operations {
            found.operations.entry(name.clone()).or_default().add(*counts);
        }
        found.simulated += report.simulated;
        found.took = began.elapsed();
        progress(&found);
        if let Some(failure) = report.failure.clone() {
            // Whatever happens now, that it has failed must be known.
            let shrunk = shrink(report, what).await;
            let shrunk = shrunk.with_context(|| format!("shrinking seed {seed}, which failed: {failure}"))?;
            let folder = keep(seed, &shrunk, what).await?;
            let command = format!("jepsen sim --seed {seed} {}", shrunk.arguments.join(" "));
            found.failures.push(Failure { what: shrunk.failure, command, folder });
            if !what.keep_going {
                break;
            }
        }
    }
    found.took = began.elapsed();
    Ok(found)
}

/// What a failing seed comes down to.
struct Shrunk {
    /// What is wrong in the end.
    failure: String,
    /// The numbers of the faults that it takes.
    faults: Vec<usize>,
    /// With which arguments it is seen.
    arguments: Vec<String>,
}

/// Runs a seed once more, for whoever wants to understand it.
async fn keep(seed: u64, shrunk: &Shrunk, what: &Exploration) -> Result<PathBuf> {
    let folder = (1..).map(|n| {
        what.out.join(format!("sim-seed-{seed}{}", if n == 1 { String::new() } else { format!("-{n}") }))
    });
    let folder = folder.into_iter().find(|folder| !folder.exists()).context("a folder")?;
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let faults = what.plan(seed).chosen(Some(&shrunk.faults[..]));
    let schedule: Vec<Json> = faults.iter().map(|(number, fault)| fault.json(*number)).collect();
    write_json(&folder, "schedule.json", &Json::from(schedule))?;
    let mut command = here(seed, &shrunk.arguments)?;
    command.arg("--trace").arg(folder.join("trace")).arg("--history").arg(folder.join("history.edn"));
    command.arg("--folder").arg(&folder);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("running a seed")?;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let path = folder.join("verdict.txt");
    std::fs::write(&path, said).with_context(|| format!("writing {}", path.display()))?;
    Ok(folder)
}

/// Whether two failures are of one kind: the same checker and an anomaly in common, or the same words but for numbers.
fn same_kind(one: &str, other: &str) -> bool {
    let halves = |text: &str| {
        let (head, tail) = text.split_once(": ").unwrap_or((text, ""));
        let without = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).take(120).collect::<String>();
        (without(head), tail.to_owned(), without(tail))
    };
    let ((head, names, tail), (other_head, other_names, other_tail)) = (halves(one), halves(other));
    if head != other_head {
        return false;
    }
    if checker::find(&head).is_none() {
        return tail == other_tail;
    }
    names.split(", ").any(|name| other_names.split(", ").any(|other| name == other))
}

/// Leaves out faults and calls as long as it still fails in the same way.
async fn shrink(mut failing: Report, what: &Exploration) -> Result<Shrunk> {
    let (seed, arguments) = (failing.seed, &what.arguments[..]);
    // One that died has not told.
    let mut needed = failing.faults.take().unwrap_or_else(|| what.drawn(seed));
    let kind = failing.failure.clone().unwrap_or_default();
    let still_fails =
        |report: &Report| report.failure.as_ref().is_some_and(|failure| same_kind(failure, &kind));
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
            smaller if still_fails(&smaller) => (failing, needed) = (smaller, fewer),
            _ => n += 1,
        }
    }
    let mut too_few: u64 = 0;
    let mut enough = failing.calls;
    // One that died has not told of its calls either: ever more of them, until it dies again.
    while enough.is_none() && too_few < what.calls_max && runs < SHRINK_RUNS_MAX {
        let more = (too_few * 2).clamp(1, what.calls_max);
        runs += 1;
        match child(seed, &with(&needed, Some(more))).await? {
            again if still_fails(&again) => {
                (failing, enough, calls_max) = (again, Some(more), Some(more));
            }
            _ => too_few = more,
        }
    }
    let mut enough = enough.unwrap_or_default();
    while too_few + 1 < enough && runs < SHRINK_RUNS_MAX {
        let middle = too_few + (enough - too_few) / 2;
        runs += 1;
        match child(seed, &with(&needed, Some(middle))).await? {
            smaller if still_fails(&smaller) => {
                (failing, enough, calls_max) = (smaller, middle, Some(middle));
            }
            _ => too_few = middle,
        }
    }
    let (failure, arguments) = (failing.failure.unwrap_or_default(), with(&needed, calls_max));
    Ok(Shrunk { failure, faults: needed, arguments })
}

/// One seed in a process of its own. A process that dies is a failure of that seed; one that says that the harness failed is an error.
pub async fn child(seed: u64, arguments: &[String]) -> Result<Report> {
    let mut command = here(seed, arguments)?;
    command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.output().await.context("running a seed")?;
    let line = String::from_utf8_lossy(&output.stdout);
    match line.lines().last() {
        Some(line) if line.starts_with('{') => Report::of(seed, line),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().take(4).collect::<Vec<_>>().join(" ");
            if output.status.code() == Some(STATUS_UNKNOWN) {
                bail!("the harness failed: {said}");
            }
            Ok(Report::died(seed, format!("the process ended with {}: {said}", output.status)))
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
            calls: None,
            operations: BTreeMap::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_done_has_not_been_explored() {
        let of = |done, refused| {
            let counts = [("join".to_owned(), Counts { done, refused, unknown: 0 })];
            Found { runs: 100, operations: counts.into(), ..Found::default() }
        };
        for (done, refused, validity) in [
            (0, TRIES_MIN, Validity::Unknown),
            (1, TRIES_MIN, Validity::Valid),
            (0, TRIES_MIN - 1, Validity::Valid),
        ] {
            let found = of(done, refused);
            assert_eq!(found.validity(), validity, "{found}");
            assert_eq!(found.to_string().contains("join was tried often"), validity == Validity::Unknown);
        }
    }

    #[test]
    fn a_smaller_run_must_fail_in_the_same_way() {
        assert!(same_kind("list-append: G1a, G-single", "list-append: G-single"));
        assert!(!same_kind("list-append: G1a", "list-append: lost-append"));
        assert!(!same_kind("bank: wrong-total", "linear: not-linearizable"));
        let panic =
            |node: u64, line: u64| format!("node {node} panics: panicked at txn/src/lock.rs:{line}: held");
        assert!(same_kind(&panic(1, 14), &panic(3, 14)));
        assert!(!same_kind(&panic(1, 14), "not every node comes back: not within 60 s"));
        assert!(same_kind(
            "not every node comes back: not within 60 s",
            "not every node comes back: not within 60 s"
        ));
        assert!(!same_kind("the process ended with signal: 6", "list-append: G1a"));
    }
}
