//! A simulated node: the product's own assembly over simulated seams, in a runtime of its own.
//!
//! To run a node is to poll its tasks until none has anything more to do. A node that is paused is not run. One that crashes is its
//! runtime dropped, with all tasks wherever they were.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use node::assembly::{self, Assembled, Parts, Services};
use node::bootstrap::{self, Seeker};
use node::local::LocalFiles;
use node::service::admin::InitWish;
use node::service::readiness::Readiness;
use parking_lot::Mutex;
use proto::meta::Addresses;
use raft::RaftOptions;
use storage::seam::{Seams, SystemClock, Task, Tasks};
use storage::{Engine, Store, StoreOptions};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::disk::{Disk, SimLog};
use super::host::{self, Lens};
use super::net::{self, Net};
use super::plan::Plan;
use super::world::{Place, Purpose, World, generator_of};

/// Tasks of a node. What the product gives to a thread of its own runs here in one go, after as long as a disk takes.
struct SimTasks {
    world: Arc<World>,
    disk: Arc<Disk>,
    place: Place,
    handle: Handle,
}

impl Tasks for SimTasks {
    fn spawn_boxed(&self, _: &'static str, task: Task) {
        self.handle.spawn(task);
        self.world.touch(self.place);
    }

    fn thread(&self, _: &'static str, body: Box<dyn FnOnce() + Send + 'static>) -> std::io::Result<()> {
        let takes = self.world.sleep(self.place, self.disk.latency_ns());
        self.spawn_boxed(
            "thread",
            Box::pin(async move {
                takes.await;
                body();
            }),
        );
        Ok(())
    }
}

/// What a node has become.
#[derive(Default)]
pub struct Status {
    /// It takes part.
    pub up: Option<Assembled>,
    /// Its state.
    pub engine: Option<Arc<Engine>>,
    /// It could not start.
    pub failure: Option<String>,
}

struct Life {
    runtime: Runtime,
    status: Arc<Mutex<Status>>,
    seams: Seams,
}

/// What nodes of a simulation have in common.
pub struct Shared {
    /// The simulation's seed.
    pub seed: u64,
    /// Events.
    pub world: Arc<World>,
    /// Links.
    pub net: Arc<Net>,
    /// How many nodes found the cluster.
    pub founders: usize,
    /// Voters of each group.
    pub replicas: usize,
    /// What each shard is said to take on the disk.
    pub shard_bytes: u64,
    /// The product's settings.
    pub raft: RaftOptions,
}

/// A node over all its lives.
pub struct SimNode {
    shared: Arc<Shared>,
    place: Place,
    /// Its disk.
    pub disk: Arc<Disk>,
    /// Its clocks.
    pub lens: Lens,
    /// It stands still.
    pub paused: bool,
    /// It has been stopped for good.
    pub gone: bool,
    /// The nodes whose addresses it is told when it starts.
    pub join: Vec<Place>,
    number: u64,
    life: Option<Life>,
    /// When its next timer is due.
    due_at: Option<u64>,
}

impl SimNode {
    /// One that has never run.
    pub fn new(shared: Arc<Shared>, place: Place, disk: Arc<Disk>, lens: Lens) -> Self {
        let join = (0..shared.founders).collect();
        let (paused, gone) = (false, false);
        Self { shared, place, disk, lens, paused, gone, join, number: 0, life: None, due_at: None }
    }

    /// Starts it. `begin` runs in it when it takes part.
    pub fn start(&mut self, begin: impl FnOnce(&Assembled, &Seams) + Send + 'static) -> Result<()> {
        host::look_through(self.lens);
        let runtime = Builder::new_current_thread().enable_all().build().context("making a runtime")?;
        let tasks = SimTasks {
            world: self.shared.world.clone(),
            disk: self.disk.clone(),
            place: self.place,
            handle: runtime.handle().clone(),
        };
        let random = generator_of(self.shared.seed, Purpose::Seams, self.place as u64 + (self.number << 8));
        let seams = Seams::with(Arc::new(SystemClock), Arc::new(tasks), random)
            .over(self.shared.net.seam(self.place));
        let status = Arc::<Mutex<Status>>::default();
        let (shared, place, disk) = (self.shared.clone(), self.place, self.disk.clone());
        let (dir, to_tell, for_boot) = (self.disk.state_dir(self.number), status.clone(), seams.clone());
        let join = self.join.iter().copied().map(net::address).collect();
        seams.spawn("boot", async move {
            match boot(&shared, place, &disk, dir, join, &for_boot).await {
                Ok((assembled, engine)) => {
                    begin(&assembled, &for_boot);
                    let mut status = to_tell.lock();
                    (status.up, status.engine) = (Some(assembled), Some(engine));
                }
                Err(error) => to_tell.lock().failure = Some(format!("{error:#}")),
            }
        });
        self.life = Some(Life { runtime, status, seams });
        self.shared
            .world
            .note("start", &[self.place as u64, self.number], || format!("node {}", self.place + 1));
        Ok(())
    }

    /// The process dies, or with `power` the machine.
    pub fn crash(&mut self, power: bool) -> Result<()> {
        let Some(life) = self.life.take() else { return Ok(()) };
        host::look_through(self.lens);
        self.shared.net.close(self.place, power);
        drop(life.status);
        drop(life.runtime);
        (self.paused, self.due_at) = (false, None);
        self.disk.crash(self.number, power)?;
        self.number += 1;
        // Whoever starts it again knows the cluster.
        self.join = (0..self.shared.founders).collect();
        Ok(())
    }

    /// Whether it has been started, and hasn't crashed.
    pub fn lives(&self) -> bool {
        self.life.is_some()
    }

    /// Whether it takes part.
    pub fn is_up(&self) -> bool {
        self.look(|status| status.up.is_some()) == Some(true)
    }

    /// Whether it has yet to find its cluster, and knows of that node only.
    pub fn waits_for(&self, place: Place) -> bool {
        self.lives() && !self.is_up() && self.join == [place]
    }

    /// Whether it is to be polled.
    pub fn runs(&self) -> bool {
        self.life.is_some() && !self.paused
    }

    /// When it has something to do by itself.
    pub fn due_at(&self) -> Option<u64> {
        self.due_at.filter(|_| self.runs())
    }

    /// Polls its tasks until none has anything more to do now.
    pub fn run(&mut self) {
        let Some(life) = &self.life else { return };
        host::look_through(self.lens);
        let timer = host::run_until_idle(&life.runtime);
        self.due_at = timer.map(|local_ns| host::now_ns() + self.lens.real_ns(local_ns).max(1));
    }

    /// Looks at what it has become; nothing while it doesn't live.
    pub fn look<T>(&self, at: impl FnOnce(&Status) -> T) -> Option<T> {
        self.life.as_ref().map(|life| at(&life.status.lock()))
    }

    /// What its tasks are made with.
    pub fn seams(&self) -> Option<Seams> {
        self.life.as_ref().map(|life| life.seams.clone())
    }

    /// Runs a task in it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(life) = &self.life {
            life.seams.spawn("simulator", task);
        }
    }
}

/// What `node::server::run` does, but for the ports and SQL.
async fn boot(
    shared: &Shared,
    place: Place,
    disk: &Arc<Disk>,
    dir: PathBuf,
    join: Vec<String>,
    seams: &Seams,
) -> Result<(Assembled, Arc<Engine>)> {
    let log = SimLog::open(disk);
    seams.spawn("raft-log", log.clone().write());
    let options = StoreOptions {
        block_cache_bytes: 8 << 20,
        memtable_bytes: 4 << 20,
        log_cache_bytes: 0,
        ..StoreOptions::default()
    };
    let store = Store::open_with(&dir, &options, |_, _| Ok(log))?;
    let files = LocalFiles::new(store.dir());
    let readiness = Readiness::starting();
    let services = Services::new(readiness);
    let closing = CancellationToken::new();
    let (wish, mut wishes) = mpsc::channel(1);
    if place == 0 && store.identity().is_none() {
        let (answer, _) = oneshot::channel();
        let init = InitWish { replication_factor: shared.replicas as u32, answer };
        wish.send(init).await.map_err(|_| anyhow!("nobody takes the wish"))?;
    }
    let serving = services.clone().serve(shared.net.listen(place), wish, closing.clone());
    seams.spawn("rpc", async move {
        // It ends with the node.
        let _ = serving.await;
    });
    let addresses =
        Addresses { rpc: net::address(place), sql: net::address(place), http: net::address(place) };
    let seeker = Seeker {
        store: &store,
        files: &files,
        single_node: false,
        join: &join,
        addresses: &addresses,
        seams,
    };
    let found = bootstrap::find_place(seeker, &mut wishes, &closing).await?;
    let found = found.context("stopped before it was anything")?;
    let parts = Parts {
        store: store.clone(),
        files,
        join,
        addresses,
        // A disk would say something else each time.
        facts: Arc::new(proto::meta::NodeFacts::default),
        // What tables take depends on when RocksDB's threads merge them.
        shard_bytes: Some(shared.shard_bytes),
        services,
        raft: shared.raft.clone(),
        closing,
        seams: seams.clone(),
    };
    Ok((assembly::assemble(found, parts).await?, store.engine()))
}

/// The product's settings, with what a plan says of them.
pub fn raft_options(plan: &Plan) -> RaftOptions {
    RaftOptions {
        keep_entries: plan.keep_entries,
        checkpoint_interval: Duration::from_nanos(plan.checkpoint_ns),
        // A simulation appends little.
        checkpoint_quiet_interval: Duration::ZERO,
        rest_after: Duration::from_nanos(plan.rest_after_ns),
        ..RaftOptions::default()
    }
}
