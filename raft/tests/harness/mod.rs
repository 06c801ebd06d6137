//! A cluster in a process, and a state machine of strings.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod counters;
pub mod links;
pub mod puppet;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft::{
    AddressBook, Applied, Expected, Fatal, Group, GroupView, Mount, MultiRaft, ProposeError, RaftOptions,
    Role, StateMachine, StateMachineFactory, private_key, private_keys,
};
use storage::digest::Digest;
use storage::ids::{GroupId, KeyRange, LogIndex, NodeId, ReplicaId, Term};
use storage::seam::{Network, Seams, Tasks};
use storage::{Batch, Cf, Engine, Identity, Store, StoreOptions};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;

pub const GROUP: GroupId = GroupId(7);
pub const CLUSTER: u128 = 99;
/// What a command takes on a node that dawdles.
const DAWDLE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(30);

/// Whoever is about to apply a command waits here while it is shut.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
}

impl Gate {
    fn set(&self, shut: bool) {
        *self.shut.lock().expect("lock") = shut;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let shut = self.shut.lock().expect("lock");
        if *shut {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            drop(self.opened.wait_while(shut, |shut| *shut).expect("lock"));
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Nothing is applied, or installed, on any node, until this is dropped. (A thread of the runtime waits for that.)
pub struct Held(Arc<Gate>);

impl Held {
    /// Somebody is about to do it.
    pub fn is_met(&self) -> bool {
        self.count() > 0
    }

    /// How many are.
    pub fn count(&self) -> usize {
        self.0.waiting.load(Ordering::SeqCst)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// What state machines of some groups hold, beside their own keys.
type Claims = Mutex<HashMap<GroupId, KeyRange>>;

/// Replicas that every node believes to have, by its state.
type Awaited = Mutex<Vec<Expected>>;

/// Commands are `key=value`; the state lies in the group's private keys. `fail=3` is what replica 3 cannot apply.
struct Strings {
    group: GroupId,
    replica: ReplicaId,
    commands: AtomicUsize,
    /// That were begun to be sent.
    snapshots: AtomicUsize,
    gate: Arc<Gate>,
    installs: Arc<Gate>,
    claims: Arc<Claims>,
    hangs: Arc<AtomicBool>,
    dawdles: Arc<AtomicBool>,
}

impl StateMachine for Strings {
    fn apply(&self, batch: &mut Batch, _at: Applied, command: &[u8]) -> Result<Bytes, Fatal> {
        self.gate.pass();
        while self.hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.dawdles.load(Ordering::SeqCst) {
            std::thread::sleep(DAWDLE);
        }
        let text = std::str::from_utf8(command).map_err(Fatal::new)?;
        let (key, value) = text.split_once('=').ok_or_else(|| Fatal::new("no command"))?;
        if key == "fail" && value.parse() == Ok(self.replica.0) {
            return Err(Fatal::new("it is told to fail"));
        }
        batch.put(Cf::Group, &private_key(self.group, key.as_bytes()), value.as_bytes());
        self.commands.fetch_add(1, Ordering::SeqCst);
        Ok(Bytes::copy_from_slice(key.as_bytes()))
    }

    fn applied(&self, _at: Applied) {}

    fn spans(&self) -> Vec<(Cf, KeyRange)> {
        let claimed = self.claims.lock().expect("lock").get(&self.group).cloned();
        let ranges = [private_keys(self.group)].into_iter().chain(claimed);
        ranges.map(|range| (Cf::Group, range)).collect()
    }

    fn restoring(&self) {
        self.installs.pass();
    }

    fn restored(&self) -> Result<(), Fatal> {
        Ok(())
    }

    /// (Asked whenever one of its snapshots is about to be sent, and only then.)
    fn is_retired(&self) -> bool {
        self.snapshots.fetch_add(1, Ordering::SeqCst);
        false
    }

    fn may_rest(&self) -> bool {
        true
    }

    fn role_changed(&self, _role: &Role) {}
}

#[derive(Default)]
struct Machines {
    opened: Mutex<HashMap<GroupId, Arc<Strings>>>,
    gate: Arc<Gate>,
    installs: Arc<Gate>,
    claims: Arc<Claims>,
    awaited: Arc<Awaited>,
    hangs: Arc<AtomicBool>,
    dawdles: Arc<AtomicBool>,
}

/// Until it is dropped a node applies nothing, or slowly.
pub struct Hang(Arc<AtomicBool>);

impl Drop for Hang {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl StateMachineFactory for Machines {
    fn open(
        &self,
        group: GroupId,
        replica: ReplicaId,
        _: Arc<Engine>,
    ) -> Result<Arc<dyn StateMachine>, Fatal> {
        let (gate, installs) = (self.gate.clone(), self.installs.clone());
        let (claims, hangs, dawdles) = (self.claims.clone(), self.hangs.clone(), self.dawdles.clone());
        let (commands, snapshots) = Default::default();
        let machine = Strings { group, replica, commands, snapshots, gate, installs, claims, hangs, dawdles };
        let machine = Arc::new(machine);
        self.opened.lock().expect("lock").insert(group, machine.clone());
        Ok(machine)
    }

    fn expected(&self, _: &Arc<Engine>) -> Result<Vec<Expected>, Fatal> {
        Ok(self.awaited.lock().expect("lock").clone())
    }
}

#[derive(Default)]
struct Book(Mutex<HashMap<NodeId, String>>);

impl AddressBook for Book {
    fn address(&self, node: NodeId) -> Option<String> {
        self.0.lock().expect("lock").get(&node).cloned()
    }
}

struct Running {
    multi: Arc<MultiRaft>,
    machines: Arc<Machines>,
    store: Arc<Store>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

pub struct Cluster {
    dirs: HashMap<u64, TempDir>,
    book: Arc<Book>,
    running: HashMap<u64, Running>,
    gate: Arc<Gate>,
    installs: Arc<Gate>,
    claims: Arc<Claims>,
    awaited: Arc<Awaited>,
    /// Of nodes that are started from now on.
    pub options: RaftOptions,
    /// … and their way to each other, if it is not plain TCP.
    pub network: Option<Arc<dyn Network>>,
    /// … and what runs their tasks, if it is not tokio alone.
    pub tasks: Option<Arc<dyn Tasks>>,
}

impl Cluster {
    pub fn new() -> Self {
        let options = RaftOptions {
            keep_entries: 5,
            proposal_bytes_in_flight_max: 4096,
            checkpoint_interval: Duration::from_secs(3600),
            rest_after: Duration::from_secs(3600),
            ..RaftOptions::default()
        };
        let (dirs, running, book, gate, installs, claims, awaited) = Default::default();
        let (network, tasks) = Default::default();
        Self { dirs, book, running, gate, installs, claims, awaited, options, network, tasks }
    }

    pub async fn start(&mut self, node: u64) {
        let dir = self.dirs.entry(node).or_insert_with(directory);
        let mut seams = Seams::real();
        seams.network = self.network.clone().unwrap_or(seams.network);
        seams.tasks = self.tasks.clone().unwrap_or(seams.tasks);
        let store = Store::open(dir.path(), StoreOptions::default(), seams.clone()).expect("open the store");
        if store.identity().is_none() {
            let identity = Identity { cluster_id: CLUSTER, node_id: NodeId(node) };
            store.set_identity(identity).expect("identity");
        }
        let known = self.book.address(NodeId(node));
        let listener = TcpListener::bind(known.as_deref().unwrap_or("127.0.0.1:0")).await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        self.book.0.lock().expect("lock").insert(NodeId(node), address);

        let mount = Mount::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = tonic::transport::Server::builder()
            .add_service(mount.service())
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async {
                let _ = stopped.await;
            });
        let served = tokio::spawn(async {
            // A stream that a peer keeps open would keep a graceful stop waiting.
            let _ = serve.await;
        });

        let (gate, installs) = (self.gate.clone(), self.installs.clone());
        let (claims, awaited) = (self.claims.clone(), self.awaited.clone());
        let machines = Arc::new(Machines { gate, installs, claims, awaited, ..Machines::default() });
        let options = self.options.clone();
        let book: Arc<dyn AddressBook> = self.book.clone();
        let multi = MultiRaft::start(options, store.clone(), machines.clone(), book, seams);
        let multi = multi.await.expect("start");
        mount.attach(&multi);
        self.running.insert(node, Running { multi, machines, store, stop, served });
    }

    /// Gracefully.
    pub async fn stop(&mut self, node: u64) {
        let running = self.running.remove(&node).expect("running");
        running.multi.shutdown().await;
        end(running).await;
    }

    /// Without handing anything over.
    pub async fn kill(&mut self, node: u64) {
        let running = self.running.remove(&node).expect("running");
        running.served.abort();
        running.multi.abandon().await;
        end(running).await;
    }

    /// As after a power cut: what was not flushed is gone. The node must be idle.
    pub async fn crash(&mut self, node: u64) {
        let image = TempDir::new().expect("a directory");
        storage::crash_image::crash_image(self.dirs[&node].path(), image.path()).expect("a copy");
        self.kill(node).await;
        self.dirs.insert(node, image);
    }

    /// A node applies nothing more, until the answer is dropped. It keeps a thread.
    pub fn hang(&self, node: u64) -> Hang {
        let hangs = &self.running[&node].machines.hangs;
        hangs.store(true, Ordering::SeqCst);
        Hang(hangs.clone())
    }

    /// A node applies a hundred commands a second, until the answer is dropped.
    pub fn dawdle(&self, node: u64) -> Hang {
        let dawdles = &self.running[&node].machines.dawdles;
        dawdles.store(true, Ordering::SeqCst);
        Hang(dawdles.clone())
    }

    /// The log's disk of a node does nothing more, until the answer is dropped.
    pub fn stall(&self, node: u64) -> std::sync::mpsc::Sender<()> {
        let (well, stalled) = std::sync::mpsc::channel();
        let wait = move |_: Result<(), storage::Error>| {
            let _ = stalled.recv();
        };
        // Of a group that isn't there.
        self.running[&node].store.log().remove_group(GroupId(u64::MAX - 1), Box::new(wait));
        well
    }

    pub fn multi(&self, node: u64) -> Arc<MultiRaft> {
        self.running[&node].multi.clone()
    }

    pub fn dir(&self, node: u64) -> &Path {
        self.dirs[&node].path()
    }

    /// Makes the address known of a node that is none of these.
    pub fn introduce(&self, node: u64, address: String) {
        self.book.0.lock().expect("lock").insert(NodeId(node), address);
    }

    pub fn address(&self, node: u64) -> String {
        self.book.address(NodeId(node)).expect("started")
    }

    pub fn group(&self, node: u64) -> Arc<Group> {
        self.multi(node).group(GROUP).expect("the group")
    }

    /// Waits until the group rests on these nodes.
    pub async fn at_rest(&self, nodes: &[u64]) {
        eventually("the group rests", || nodes.iter().all(|node| self.group(*node).rests())).await;
    }

    /// The node at which the group rests.
    pub fn home(&self, nodes: &[u64]) -> u64 {
        let is_home = |node: &&u64| self.group(**node).status().serves().is_some();
        *nodes.iter().find(is_home).expect("a home")
    }

    /// The node that leads in the highest term.
    pub async fn leader(&self) -> (u64, Term) {
        let mut found = None;
        eventually("there is a leader", || {
            let leaders = self.running.iter().filter_map(|(node, running)| {
                let group = running.multi.group(GROUP)?;
                Some((group.leads()?, *node))
            });
            found = leaders.max();
            found.is_some()
        })
        .await;
        found.map(|(term, node)| (node, term)).expect("found")
    }

    /// Writes until it is acknowledged.
    pub async fn put(&self, key: &str, value: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (node, term) = self.leader().await;
            match self.group(node).propose(term, format!("{key}={value}").into()).await {
                Ok(answer) => {
                    assert_eq!(answer, key.as_bytes());
                    return;
                }
                Err(ProposeError::NotLeader(_) | ProposeError::Ambiguous(_) | ProposeError::Stopped(_))
                    if tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("cannot write {key}: {error}"),
            }
        }
    }

    /// What a node's state says.
    pub fn get(&self, node: u64, key: &str) -> Option<String> {
        let value = self.running[&node].store.engine().get(Cf::Group, &private_key(GROUP, key.as_bytes()));
        value.expect("get").map(|v| String::from_utf8(v.to_vec()).expect("text"))
    }

    /// How many bytes the group's entries take in a node's log.
    pub fn log_bytes(&self, node: u64) -> usize {
        let log = self.running[&node].store.log();
        let first = log.state(GROUP).expect("the log").first.unwrap_or(LogIndex(0));
        let entries = log.read(GROUP, first, LogIndex(u64::MAX), usize::MAX).expect("entries");
        entries.iter().map(|(_, entry)| entry.len()).sum()
    }

    /// Changes a node's state past its log: a defect of the disk or of the program.
    pub fn corrupt(&self, node: u64, key: &str, value: &str) {
        let engine = self.running[&node].store.engine();
        let mut batch = engine.batch();
        batch.put(Cf::Group, &private_key(GROUP, key.as_bytes()), value.as_bytes());
        engine.write(batch).expect("write");
    }

    /// All that a node's engine holds of the group, raft's own keys among it.
    pub fn rows(&self, node: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let snapshot = self.running[&node].store.engine().snapshot();
        let mut iter = snapshot.iter(Cf::Group, &KeyRange::prefix(&GROUP.0.to_be_bytes()));
        let mut rows = Vec::new();
        iter.seek_to_first();
        while let Some((key, value)) = iter.item() {
            rows.push((key.to_vec(), value.to_vec()));
            iter.next();
        }
        iter.check().expect("rows");
        rows
    }

    /// Puts such rows into a node's engine, past everybody.
    pub fn put_rows(&self, node: u64, rows: &[(Vec<u8>, Vec<u8>)]) {
        let engine = self.running[&node].store.engine();
        let mut batch = engine.batch();
        rows.iter().for_each(|(key, value)| batch.put(Cf::Group, key, value));
        engine.write(batch).expect("write");
    }

    /// From now on nothing is applied.
    pub fn hold(&self) -> Held {
        self.gate.set(true);
        Held(self.gate.clone())
    }

    /// From now on no snapshot is installed.
    pub fn hold_installs(&self) -> Held {
        self.installs.set(true);
        Held(self.installs.clone())
    }

    /// The group's state machines hold this, too, from now on; or not any more.
    pub fn claim(&self, group: GroupId, range: Option<KeyRange>) {
        let mut claims = self.claims.lock().expect("lock");
        match range {
            Some(range) => claims.insert(group, range),
            None => claims.remove(&group),
        };
    }

    /// By their states the nodes that are started from now on should have this.
    pub fn expect(&self, expected: Expected) {
        self.awaited.lock().expect("lock").push(expected);
    }

    /// The digest of a node's rows of the group at `index`.
    pub async fn digest(&self, node: u64, view: oneshot::Receiver<GroupView>) -> Vec<Digest> {
        let view = view.await.unwrap_or_else(|_| panic!("node {node} gives no view"));
        let mut digester = view.digester();
        // In small steps: where one ends must not matter.
        while digester.step(64).expect("read").is_some() {}
        digester.finish().to_vec()
    }

    pub fn applied_commands(&self, node: u64) -> usize {
        let machines = self.running[&node].machines.opened.lock().expect("lock");
        machines[&GROUP].commands.load(Ordering::SeqCst)
    }

    /// How many snapshots of a group a node has begun to send. To each member it sends one after the other.
    pub fn snapshots_begun(&self, node: u64, group: GroupId) -> usize {
        let machines = self.running[&node].machines.opened.lock().expect("lock");
        machines[&group].snapshots.load(Ordering::SeqCst)
    }

    /// Waits until all nodes have applied all that the leader has.
    pub async fn converge(&self, nodes: &[u64]) {
        let (leader, _) = self.leader().await;
        let target = self.group(leader).status().last;
        for &node in nodes {
            eventually("a node catches up", || self.group(node).status().applied >= target).await;
        }
    }
}

/// Where stores are: a real disk, if there is to be measured.
fn directory() -> TempDir {
    let dir = match std::env::var_os("FLOTILLA_BENCH_DIR") {
        Some(parent) => TempDir::new_in(parent),
        None => TempDir::new_in(env!("CARGO_TARGET_TMPDIR")),
    };
    dir.expect("a directory")
}

async fn end(running: Running) {
    let _ = running.stop.send(());
    running.served.abort();
    let _ = running.served.await;
    drop(running.multi);
    close(running.store).await;
}

/// Closes a store, so that it can be opened again.
pub async fn close(store: Arc<Store>) {
    // Streams and tasks let go of the store one after the other.
    let (engine, log) = (store.engine(), store.log());
    store.close().expect("close");
    drop(store);
    eventually("the store is free", || Arc::strong_count(&engine) == 1 && Arc::strong_count(&log) == 1).await;
}

/// As [`eventually`], of what has to be asked for.
#[allow(dead_code, reason = "not every test asks")]
pub async fn eventually_so<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "it never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "it never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
