//! What a commit costs: latency, CPU, fsyncs, bytes written and allocations, of a group of one replica and of three.
//!
//! `cargo bench --workspace --bench commit`. The nodes are in this process, over TCP, on a real disk (cargo's directory for temporary
//! files, or `FLOTILLA_BENCH_DIR`); a commit is one proposal of 256 bytes, acknowledged when it is applied at the leader. The last lines are of
//! 16 KiB of text, as it is and compressed. fsyncs
//! and log bytes are counted by the log itself, written bytes by the kernel (`/proc/self/io`), all nodes together.
//! docs/storage-costs.md has figures.
//!
//! `-- 3,1,32` measures that line alone, `-- 3,1,32,plain 3,1,32,lz4` those two, one after the other.

#[path = "../tests/harness/mod.rs"]
#[allow(unreachable_pub, missing_docs, clippy::disallowed_methods, reason = "shared with the tests")]
mod harness;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::future::join_all;
use harness::{Cluster, GROUP};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit,
};
use raft::{NewGroup, RaftOptions};
use storage::ids::{GroupId, NodeId, ReplicaId, Term};
use storage::seam::Seams;

const VALUE_BYTES: usize = 246;
const TEXT_BYTES: usize = 16 << 10;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(3);

/// Counts calls of the allocator, frees apart.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED: AtomicU64 = AtomicU64::new(0);

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        ALLOCATED.fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: the caller's obligations are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's obligations are the same.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the log counts.
#[derive(Default)]
struct Counted {
    fsyncs: AtomicU64,
    log_bytes: AtomicU64,
}

struct Fsyncs(Arc<Counted>);
struct LogBytes(Arc<Counted>);

impl HistogramFn for Fsyncs {
    fn record(&self, _: f64) {
        self.0.fsyncs.fetch_add(1, Relaxed);
    }
}

impl CounterFn for LogBytes {
    fn increment(&self, value: u64) {
        self.0.log_bytes.fetch_add(value, Relaxed);
    }

    fn absolute(&self, _: u64) {}
}

struct Recorder(Arc<Counted>);

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match key.name() {
            "flotilla_log_bytes_total" => Counter::from_arc(Arc::new(LogBytes(self.0.clone()))),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match key.name() {
            "flotilla_log_fsync_seconds" => Histogram::from_arc(Arc::new(Fsyncs(self.0.clone()))),
            _ => Histogram::noop(),
        }
    }
}

/// Everything that is counted, at one moment.
#[derive(Clone, Copy, Default)]
struct Totals {
    fsyncs: u64,
    log_bytes: u64,
    written_bytes: u64,
    allocations: u64,
    allocated: u64,
    cpu_ms: u64,
}

impl Totals {
    fn now(counted: &Counted) -> Self {
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // After the name in brackets: utime and stime are the 12th and 13th, in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |n: usize| fields.get(n).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
        Self {
            fsyncs: counted.fsyncs.load(Relaxed),
            log_bytes: counted.log_bytes.load(Relaxed),
            written_bytes: field(&io, "write_bytes"),
            allocations: ALLOCATIONS.load(Relaxed),
            allocated: ALLOCATED.load(Relaxed),
            cpu_ms: 10 * (ticks(11) + ticks(12)),
        }
    }
}

/// What is proposed.
#[derive(Clone, Copy)]
enum Payload {
    /// One small value.
    Small,
    /// Rows of text.
    Text { compressed: bool },
}

impl Payload {
    /// What its lines are chosen by, after their numbers.
    fn suffix(self) -> &'static str {
        match self {
            Self::Small => "",
            Self::Text { compressed: false } => ",plain",
            Self::Text { compressed: true } => ",lz4",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Small => "256 B",
            Self::Text { compressed: false } => "16 KiB, plain",
            Self::Text { compressed: true } => "16 KiB, lz4",
        }
    }

    fn value(self) -> String {
        match self {
            Self::Small => "v".repeat(VALUE_BYTES),
            Self::Text { .. } => rows_of_text(TEXT_BYTES),
        }
    }
}

/// Orders of a shop, say: words, numbers and dates, always the same ones.
fn rows_of_text(bytes: usize) -> String {
    const WORDS: [&str; 24] = [
        "anchor", "barrel", "candle", "door", "engine", "flag", "glass", "hammer", "iron", "jacket",
        "kettle", "ladder", "mirror", "needle", "oil", "paper", "rope", "sail", "table", "umbrella", "valve",
        "wheel", "yarn", "zinc",
    ];
    let mut state = 7_u32;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let mut text = String::with_capacity(bytes + 128);
    while text.len() < bytes {
        let (id, price, day) = (draw(10_000_000), draw(100_000), draw(28));
        let (thing, other) = (WORDS[draw(WORDS.len())], WORDS[draw(WORDS.len())]);
        let stage = ["ordered", "sent", "paid"][draw(3)];
        // (Writing to a string does not fail.)
        let _ = write!(text, "{id},{thing} with {other},{price},2026-11-{:02},{stage};", day + 1);
    }
    text.truncate(bytes);
    text
}

#[allow(clippy::print_stdout, reason = "the table is what it is for")]
fn main() {
    let counted = Arc::<Counted>::default();
    if metrics::set_global_recorder(Recorder(counted.clone())).is_err() {
        return;
    }
    // `cargo test --benches` runs this, too, and wants no figures.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let only: Vec<String> = std::env::args().filter(|argument| argument.contains(',')).collect();
    println!(
        "| replicas | groups | callers | a commit | commits/s | p50 ms | p99 ms | CPU µs | fsyncs | log bytes | written bytes | allocations | allocated bytes |"
    );
    println!("|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (small, plain, lz4) =
            (Payload::Small, Payload::Text { compressed: false }, Payload::Text { compressed: true });
        for (replicas, groups, callers, payload) in [
            (1, 1, 1, small),
            (1, 1, 32, small),
            (1, 1, 256, small),
            (1, 64, 64, small),
            (1, 64, 256, small),
            (3, 1, 1, small),
            (3, 1, 32, small),
            (3, 1, 256, small),
            (3, 64, 64, small),
            (3, 64, 256, small),
            (1, 1, 32, plain),
            (1, 1, 32, lz4),
            (3, 1, 1, plain),
            (3, 1, 1, lz4),
            (3, 1, 32, plain),
            (3, 1, 32, lz4),
        ] {
            // `-- 3,64,64` measures that line alone.
            let line = format!("{replicas},{groups},{callers}{}", payload.suffix());
            if !only.is_empty() && !only.contains(&line) {
                continue;
            }
            measure(&counted, replicas, groups, callers, payload).await;
        }
    });
}

#[allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures")]
async fn measure(counted: &Counted, replicas: u64, groups: u64, callers: u64, payload: Payload) {
    let mut cluster = Cluster::new();
    cluster.options = RaftOptions::default();
    for node in 1..=replicas {
        cluster.start(node).await;
        // (Small values are never compressed: with it, they show that it costs them nothing.)
        cluster.multi(node).set_log_compression(!matches!(payload, Payload::Text { compressed: false }));
    }
    let ids: Vec<GroupId> = (0..groups).map(|n| GroupId(GROUP.0 + n)).collect();
    let members: std::collections::BTreeMap<_, _> =
        (1..=replicas).map(|n| (ReplicaId(n), NodeId(n))).collect();
    for id in &ids {
        for n in 1..=replicas {
            let (me, campaign) = (ReplicaId(n), n == 1);
            let new = NewGroup { group: *id, me, members: members.clone(), campaign };
            cluster.multi(n).create_group(new).await.expect("a group");
        }
    }
    let multi = cluster.multi(1);
    let leads = |id: &GroupId| multi.group(*id).and_then(|group| group.leads());
    harness::eventually("node 1 leads everything", || ids.iter().all(|id| leads(id).is_some())).await;

    let seams = Seams::real();
    let (begin, end) = (seams.clock.now() + WARM_UP, seams.clock.now() + WARM_UP + MEASURED);
    let measuring = async {
        seams.sleep(WARM_UP).await;
        let before = Totals::now(counted);
        seams.sleep(MEASURED).await;
        (before, Totals::now(counted))
    };
    let value: Arc<str> = payload.value().into();
    let calling = (0..callers).map(|caller| {
        let value = value.clone();
        let id = ids[(caller % groups) as usize];
        let group = multi.group(id).expect("a group");
        let term: Term = leads(&id).expect("a leader");
        let seams = seams.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            let mut n = 0_u64;
            loop {
                let start = seams.clock.now();
                if start >= end {
                    return took;
                }
                let command = format!("{:08}={value}", n % 1000);
                group.propose(term, command.into()).await.expect("a commit");
                n += 1;
                if start >= begin {
                    took.push(seams.clock.now() - start);
                }
            }
        })
    });
    let calling: Vec<_> = calling.collect();
    let ((before, after), took) = futures::join!(measuring, join_all(calling));
    let mut took: Vec<Duration> = took.into_iter().flat_map(|took| took.expect("a caller")).collect();
    took.sort_unstable();
    let commits = took.len() as u64;
    let at = |part: usize| took[(took.len() * part / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
    let each = |of: fn(&Totals) -> u64| (of(&after) - of(&before)) as f64 / commits as f64;
    println!(
        "| {replicas} | {groups} | {callers} | {} | {:.0} | {:.2} | {:.2} | {:.0} | {:.3} | {:.0} | {:.0} | {:.0} | {:.0} |",
        payload.name(),
        commits as f64 / MEASURED.as_secs_f64(),
        at(50),
        at(99),
        each(|t| t.cpu_ms) * 1e3,
        each(|t| t.fsyncs),
        each(|t| t.log_bytes),
        each(|t| t.written_bytes),
        each(|t| t.allocations),
        each(|t| t.allocated),
    );
    drop(multi);
    for node in 1..=replicas {
        cluster.stop(node).await;
    }
}
