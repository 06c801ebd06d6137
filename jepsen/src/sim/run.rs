//! One simulation from beginning to end.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use meta::MetaClient;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::census;
use super::client::{Client, Phase, Record};
use super::disk::{Disk, Manners};
use super::host;
use super::net::Net;
use super::node::{Shared, SimNode, raft_options};
use super::operate::{Ending, Tally, Underway};
use super::plan::{Defect, Fault, Plan, SECOND};
use super::strike::Strikes;
use super::workload::{self, Workload};
use super::world::{Place, Purpose, World, generator_of};
use crate::checker::{self, Validity, Verdict};
use crate::history::{History, Op};

/// How long a cluster may take to form.
pub(super) const FORM_MAX_NS: u64 = 60 * SECOND;
/// How often it is looked whether what must always hold does.
const WATCH_NS: u64 = SECOND / 4;
/// Between two attempts of what must succeed, before clients begin and after they have ended.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// Clients of each node.
const CLIENTS: u64 = 3;

/// The first panic of this process. Tokio catches those of tasks; a node's process would have ended.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// To be called by the panic hook: the simulation ends with this failure.
pub fn panicked(message: String) {
    PANIC.lock().get_or_insert(message);
}

/// What is to be simulated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// Workloads to choose from.
    pub workloads: Vec<&'static str>,
    /// How long clients work.
    pub work_ns: u64,
    /// At most so many calls.
    pub calls_max: u64,
    /// Of the plan's faults, those with these numbers; `None`: all.
    pub faults: Option<Vec<usize>>,
    /// Reads are confirmed by a majority.
    pub quorum_reads: bool,
    /// What the machine does wrong.
    pub defect: Option<Defect>,
    /// Where the nodes' state is kept; emptied at the end.
    pub dir: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What was done, in the plan's numbering.
    pub faults: Vec<(usize, Fault)>,
    /// The workload's name.
    pub workload: &'static str,
    /// Calls of clients.
    pub calls: u64,
    /// What became of what operators wanted.
    pub operations: Tally,
    /// What is wrong, if anything; one line.
    pub failure: Option<String>,
    /// Too little happened for a verdict; one line.
    pub undecided: Option<String>,
    /// What checkers said.
    pub verdicts: Vec<Verdict>,
    /// The history.
    pub history: Vec<Op>,
    /// How often groups were laid to rest, or woke, on the nodes that ran in the end.
    pub rests: u64,
    /// Simulated time.
    pub simulated_ns: u64,
    /// Hash and number of everything that happened.
    pub digest: (u64, u64),
}

impl Outcome {
    /// Of the seed.
    pub fn validity(&self) -> Validity {
        match (&self.failure, &self.undecided) {
            (Some(_), _) => Validity::Invalid,
            (None, Some(_)) => Validity::Unknown,
            (None, None) => Validity::Valid,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.simulated_ns as f64 / 1e9;
        writeln!(f, "{}: {} calls in {seconds:.1} simulated seconds", self.workload, self.calls)?;
        writeln!(f, "groups woke or were laid to rest {} times", self.rests)?;
        for (number, fault) in &self.faults {
            writeln!(f, "  fault {number}, {fault}")?;
        }
        for (name, counts) in &self.operations {
            writeln!(f, "  {name}: {counts}")?;
        }
        for verdict in &self.verdicts {
            writeln!(f, "{verdict}")?;
        }
        writeln!(f, "trace {:016x} of {} events", self.digest.0, self.digest.1)?;
        match (&self.failure, &self.undecided) {
            (None, None) => write!(f, "nothing is wrong"),
            (None, Some(why)) => write!(f, "undecided: {why}"),
            (Some(failure), _) => write!(f, "FAILED: {failure}"),
        }
    }
}

/// Why a verdict is what it is, in one line: its anomalies, or if there are none what was noted.
fn reason(verdict: &Verdict) -> String {
    let names = verdict.names();
    let why = if names.is_empty() { verdict.notes.join("; ") } else { names.join(", ") };
    format!("{}: {}", verdict.checker, why.replace('\n', " "))
}

/// Runs a simulation on this thread, which must be fresh: nothing on it may have drawn random numbers.
pub fn simulate(options: &Options, trace: Option<Box<dyn Write + Send>>) -> Result<Outcome> {
    host::begin(options.seed ^ ((Purpose::System as u64) << 56));
    ensure!(host::works(), "this program is not linked for simulations");
    let mut simulation = Simulation::new(options, trace)?;
    let failure = match simulation.run() {
        Ok(()) => None,
        Err(error) => Some(format!("{error:#}")),
    };
    let outcome = simulation.finish(failure);
    // Nodes whose objects hold each other keep their files open; that ends with the process.
    let _ = std::fs::remove_dir_all(&options.dir);
    outcome
}

/// A cluster and what is done to it.
pub(super) struct Simulation {
    pub options: Options,
    pub plan: Plan,
    pub world: Arc<World>,
    pub net: Arc<Net>,
    pub nodes: Vec<SimNode>,
    pub record: Arc<Record>,
    pub tally: Arc<Mutex<Tally>>,
    /// The nodes that are empty, and to be stopped for good.
    pub retiring: Arc<Mutex<Vec<Place>>>,
    pub workload: Arc<dyn Workload>,
    checker: &'static str,
    phase: watch::Sender<Phase>,
    starts: u64,
}

impl Simulation {
    fn new(options: &Options, trace: Option<Box<dyn Write + Send>>) -> Result<Self> {
        let plan = Plan::draw(options.seed, &options.workloads, options.work_ns, options.defect);
        let entry = workload::find(plan.workload).context("a workload that is not there")?;
        let seed = options.seed;
        let world = World::new(seed, plan.places(), trace);
        let net = Net::new(seed, plan.places(), world.clone());
        let shared = Arc::new(Shared {
            seed,
            world: world.clone(),
            net: net.clone(),
            founders: plan.nodes,
            replicas: plan.replicas,
            shard_bytes: plan.shard_bytes,
            raft: raft_options(&plan),
        });
        let manners = Manners { stall_ns: 0, lies: options.defect == Some(Defect::LyingDisks) };
        let nodes = (0..plan.places()).map(|place| {
            let dir = options.dir.join(format!("n{}", place + 1));
            let disk = Disk::new(seed, place, dir, manners, world.clone());
            SimNode::new(shared.clone(), place, disk, plan.lenses[place])
        });
        let record = Record::new(world.clone(), options.calls_max);
        Ok(Self {
            options: options.clone(),
            nodes: nodes.collect(),
            record,
            tally: Arc::default(),
            retiring: Arc::default(),
            workload: (entry.make)(),
            checker: entry.checker,
            phase: watch::Sender::new(Phase::Wait),
            starts: 0,
            plan,
            world,
            net,
        })
    }

    fn run(&mut self) -> Result<()> {
        for place in 0..self.plan.nodes {
            self.start(place)?;
        }
        self.form()?;
        self.presplit()?;
        let (began, workload) = (Arc::new(Mutex::new(false)), self.workload.clone());
        let done = began.clone();
        self.in_node(0, |client| async move {
            while workload.setup(&client.database).await.is_err() {
                client.seams.sleep(PAUSE).await;
            }
            *done.lock() = true;
        });
        self.run_until(FORM_MAX_NS, |_| *began.lock()).context("the first rows are never written")?;

        self.enter(Phase::Work);
        let faults = self.plan.chosen(self.options.faults.as_deref());
        let absences = faults.iter().map(|(_, fault)| fault).filter(|fault| fault.is_absence());
        let back_ns = absences.map(|fault| fault.at_ns + fault.for_ns).max();
        let end = host::now_ns() + self.options.work_ns.max(back_ns.unwrap_or(0));
        let mut strikes = Strikes::new(faults);
        loop {
            let next = strikes.next().map_or(end, |at| at.min(end));
            self.advance_to(next.min(host::now_ns() + WATCH_NS))?;
            census::watch(&self.nodes)?;
            self.retire()?;
            if host::now_ns() >= end {
                break;
            }
            strikes.strike(self)?;
        }
        self.enter(Phase::Rest);
        strikes.undo_all(self)?;
        self.recover()
    }

    /// How many rows there are to cut between.
    pub fn rows(&self) -> u32 {
        self.workload.rows()
    }

    /// A node that takes part, and its way to the meta-group.
    pub fn asked(&self) -> Result<(Place, Arc<MetaClient>)> {
        let meta = |node: &SimNode| node.look(|s| s.up.as_ref().map(|up| up.meta.clone())).flatten();
        let mut nodes = self.nodes.iter().enumerate();
        nodes.find_map(|(place, node)| Some((place, meta(node)?))).context("no node runs")
    }

    /// Stops nodes for good that are empty. One whose address is all that a newcomer knows stays until that has joined.
    fn retire(&mut self) -> Result<()> {
        let needed = |place: &Place| self.nodes.iter().any(|node| node.waits_for(*place));
        let due: Vec<Place> = {
            let mut retiring = self.retiring.lock();
            let due = retiring.iter().copied().filter(|place| !needed(place)).collect();
            retiring.retain(needed);
            due
        };
        for place in due {
            self.world.note("retire", &[place as u64], || format!("node {} is stopped for good", place + 1));
            self.nodes[place].crash(false)?;
            self.nodes[place].gone = true;
        }
        Ok(())
    }

    /// Runs `task` in a node with a client of its own.
    pub fn in_node<F: Future<Output = ()> + Send + 'static>(
        &self,
        place: Place,
        task: impl FnOnce(Client) -> F,
    ) {
        let node = &self.nodes[place];
        let parts = node.look(|s| s.up.as_ref().map(|up| up.database.clone())).flatten();
        if let (Some(database), Some(seams)) = (parts, node.seams()) {
            let (workload, record) = (self.workload.clone(), self.record.clone());
            node.spawn(task(Client { workload, record, database, seams }));
        }
    }

    /// A node that has never been there starts; all it knows of the cluster is the address of one node.
    pub fn join(&mut self, place: Place, through: Place, joining: Underway) -> Result<()> {
        self.nodes[place].join = vec![through];
        self.start_and(place, || joining.end(&Ending::Done))
    }

    /// A node starts.
    pub fn start(&mut self, place: Place) -> Result<()> {
        self.start_and(place, || {})
    }

    /// … and does that when it takes part.
    fn start_and(&mut self, place: Place, then: impl FnOnce() + Send + 'static) -> Result<()> {
        let (workload, record, phase) = (self.workload.clone(), self.record.clone(), self.phase.subscribe());
        let (seed, pause_ns) = (self.options.seed, self.plan.pause_ns);
        let races = self.options.defect == Some(Defect::RacingClocks);
        self.starts += 1;
        let first = self.starts * CLIENTS;
        self.nodes[place].start(move |assembled, seams| {
            for worker in first..first + CLIENTS {
                let (workload, record, seams) = (workload.clone(), record.clone(), seams.clone());
                let database = assembled.database.clone();
                let client = Client { workload, record, database, seams: seams.clone() };
                let rng = generator_of(seed, Purpose::Clients, worker);
                let only_reads = races && worker % CLIENTS != 0;
                seams.spawn("client", client.work(phase.clone(), rng, pause_ns, only_reads));
            }
            then();
        })
    }

    fn enter(&mut self, phase: Phase) {
        self.phase.send_replace(phase);
        (0..self.nodes.len()).for_each(|place| self.world.touch(place));
    }

    /// Lets time go on until then.
    pub fn advance_to(&mut self, until_ns: u64) -> Result<()> {
        while self.step(until_ns)? {}
        Ok(())
    }

    /// Lets time go on until `done`, which must be the case within `limit_ns`.
    pub fn run_until(&mut self, limit_ns: u64, done: impl Fn(&[SimNode]) -> bool) -> Result<()> {
        let until = host::now_ns() + limit_ns;
        while !done(&self.nodes) {
            if !self.step(until)? {
                bail!("not within {} s", limit_ns / SECOND);
            }
        }
        Ok(())
    }

    /// Runs what can run, then moves to the next moment at which something happens; false if that is `until_ns` or later.
    fn step(&mut self, until_ns: u64) -> Result<bool> {
        while let Some(place) = self.world.next_due(|place| self.nodes[place].runs()) {
            self.nodes[place].run();
            if let Some(message) = PANIC.lock().take() {
                bail!("node {} panics: {message}", place + 1);
            }
            let failure = self.nodes[place].look(|status| status.failure.clone()).flatten();
            if let Some(failure) = failure {
                bail!("node {} does not start: {failure}", place + 1);
            }
        }
        let timers = self.nodes.iter().filter_map(SimNode::due_at);
        let next = timers.chain(self.world.next_event()).min().unwrap_or(u64::MAX);
        let next = next.max(host::now_ns());
        if next >= until_ns {
            host::advance_to(until_ns.max(host::now_ns()));
            return Ok(false);
        }
        host::advance_to(next);
        for (place, node) in self.nodes.iter().enumerate() {
            if node.due_at().is_some_and(|at| at <= next) {
                self.world.touch(place);
            }
        }
        self.world.happen();
        Ok(true)
    }

    fn finish(self, failure: Option<String>) -> Result<Outcome> {
        let (history, defects) = self.record.take();
        let checked = History::new(history.clone())?;
        let mut verdicts = Vec::new();
        for name in [self.checker, "progress"] {
            let checker = checker::find(name).context("a checker that is not there")?;
            verdicts.push((checker.check)(&checked));
        }
        let first = |of: Validity| verdicts.iter().find(|verdict| verdict.validity == of);
        let invalid = first(Validity::Invalid);
        let undecided = first(Validity::Unknown).map(reason);
        let failure = invalid.map(reason).or(failure).or_else(|| defects.first().cloned());
        let rests = |node: &SimNode| node.look(|status| status.up.as_ref().map(|up| up.multi.rest_version()));
        Ok(Outcome {
            rests: self.nodes.iter().filter_map(rests).flatten().sum(),
            faults: self.plan.chosen(self.options.faults.as_deref()),
            workload: self.plan.workload,
            calls: self.record.calls(),
            operations: self.tally.lock().clone(),
            failure,
            undecided,
            verdicts,
            history,
            simulated_ns: host::now_ns(),
            digest: self.world.digest(),
        })
    }
}
