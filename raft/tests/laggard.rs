//! A node that was away and comes back: it is heard while it is sent what it lacks, and is handed nothing before it has that.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use harness::{Cluster, GROUP, Hang, eventually, eventually_so};
use raft::{ChangeError, Group, NewGroup, Progress, RaftOptions};
use storage::ids::{NodeId, ReplicaId, Term};
use storage::seam::{Connecting, Connection, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

const ALL: [u64; 3] = [1, 2, 3];
/// What leaves at a time on a narrow way.
const PIECE: usize = 64 << 10;
/// … and in a second.
const BYTES_PER_SECOND: usize = 16 << 20;
/// Shorter pauses are made up later.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Values of 1 MiB: they take several times as long as it takes until a node that does not answer is unreachable.
const VALUES: u64 = 80;
/// Commands for a node that dawdles: it needs half a minute for them.
const COMMANDS: u64 = 3_000;
const AT_ONCE: u64 = 500;

/// Makes the way to one address narrow.
#[derive(Default)]
struct Narrowed(Mutex<String>);

/// So that the harness can share it.
struct Ways(Arc<Narrowed>);

impl Network for Ways {
    fn connect(&self, address: String) -> Connecting {
        let narrowed = self.0.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(Way { stream, address, narrowed, free: Instant::now(), pause: None })
                as Box<dyn Connection>)
        })
    }
}

struct Way {
    stream: TcpStream,
    address: String,
    narrowed: Arc<Narrowed>,
    /// When all has left that was written.
    free: Instant,
    /// Until it is over nothing more leaves.
    pause: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Way {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Way {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if *self.narrowed.0.lock().expect("lock") != self.address {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
        }
        let piece = &buf[..buf.len().min(PIECE)];
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, piece))?;
        let takes = Duration::from_secs_f64(written as f64 / BYTES_PER_SECOND as f64);
        let now = Instant::now();
        self.free = self.free.max(now) + takes;
        // Timers are a millisecond coarse, and pieces small.
        let ahead = self.free > now + PAUSE_MIN;
        self.pause = ahead.then(|| Box::pin(tokio::time::sleep_until(self.free)));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn three(network: Option<Arc<dyn Network>>, set: impl FnOnce(&mut RaftOptions)) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.network = network;
    set(&mut cluster.options);
    for node in ALL {
        cluster.start(node).await;
    }
    let members: BTreeMap<ReplicaId, NodeId> = ALL.map(|n| (ReplicaId(n), NodeId(n))).into();
    for node in ALL {
        let (group, me, members) = (GROUP, ReplicaId(node), members.clone());
        let new = NewGroup { group, me, members, campaign: node == 1 };
        cluster.multi(node).create_group(new).await.expect("create");
    }
    cluster.put("a", "1").await;
    // As nodes do whose clients ask for each other's groups.
    for (node, other) in ALL.into_iter().flat_map(|node| ALL.map(|other| (node, NodeId(other)))) {
        cluster.multi(node).reach().watch(other);
    }
    // One that has never answered is not missed: time for twenty pulses.
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster
}

/// Guards the order of what waits for a node: what it lacks is queued within a moment, and takes five seconds to arrive. Pulses would be as
/// late behind that, and the node unreachable for everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_sent_a_lot_is_reachable_all_the_while() {
    let narrowed = Arc::<Narrowed>::default();
    let mut cluster = three(Some(Arc::new(Ways(narrowed.clone()))), |options| {
        // Nothing is cut off the log: there is no snapshot.
        (options.keep_entries, options.checkpoint_bytes) = (1_000_000, u64::MAX);
        // Long enough for a machine that has other things to do.
        (options.election_min, options.election_max) = (Duration::from_secs(1), Duration::from_secs(2));
        // What waits is not given up meanwhile.
        options.request_timeout = Duration::from_secs(20);
    })
    .await;
    let (leader, _) = cluster.leader().await;
    let away = ALL.into_iter().find(|node| *node != leader).expect("a follower");
    cluster.kill(away).await;
    let value = "x".repeat(1 << 20);
    for n in 0..VALUES {
        cluster.put(&format!("k{n}"), &value).await;
    }

    let reach = cluster.multi(leader).reach();
    eventually("it is missed", || reach.is_lost(NodeId(away))).await;

    *narrowed.0.lock().expect("lock") = cluster.address(away);
    cluster.start(away).await;
    eventually("it is back", || !reach.is_lost(NodeId(away))).await;
    let (late, group) = (cluster.group(away), cluster.group(leader));
    let has_all = || {
        assert!(!reach.is_lost(NodeId(away)), "{:?} of {:?}", late.status().last, group.status().last);
        late.status().applied >= group.status().last
    };
    eventually("it catches up", has_all).await;
}

async fn write(group: &Group, term: Term) {
    for first in (0..COMMANDS).step_by(AT_ONCE as usize) {
        let commands = (first..first + AT_ONCE).map(|n| group.propose(term, format!("k{n}=1").into()));
        futures::future::try_join_all(commands).await.expect("a quorum is well");
    }
}

/// Its log is whole, and its state is not.
fn is_behind(progress: Progress) -> bool {
    progress.behind && progress.lag == 0
}

/// Its log is as long as the others', so it would be elected; and then clients would wait until it has applied all that.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_has_much_to_apply_is_handed_no_leadership() {
    let cluster = three(None, |_| {}).await;
    let (leader, term) = cluster.leader().await;
    let late = ALL.into_iter().find(|node| *node != leader).expect("a follower");
    let dawdles = cluster.dawdle(late);
    let group = cluster.group(leader);
    write(&group, term).await;
    let progress = || group.status().progress.get(&ReplicaId(late)).copied();
    eventually("its log is whole, and its state is not", || progress().is_some_and(is_behind)).await;
    let handed_over = group.transfer_leader(ReplicaId(late)).await;
    assert!(handed_over.is_err(), "{:?}", cluster.group(late).status());

    drop(dawdles);
    let leads = || async {
        let (leader, _) = cluster.leader().await;
        leader == late || cluster.group(leader).transfer_leader(ReplicaId(late)).await.is_ok()
    };
    eventually_so("it may lead when it has applied that", leads).await;
}

/// Where much is written, all may be behind, and for long. Nobody could be handed anything: a drain would wait, and a shutdown would leave it to
/// elections.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_all_have_much_to_apply_that_is_no_reason() {
    let cluster = three(None, |_| {}).await;
    let (leader, term) = cluster.leader().await;
    let late: Vec<u64> = ALL.into_iter().filter(|node| *node != leader).collect();
    let _dawdle: Vec<Hang> = late.iter().map(|node| cluster.dawdle(*node)).collect();
    let group = cluster.group(leader);
    write(&group, term).await;
    let are_behind = || {
        let progress = group.status().progress;
        late.iter().all(|node| progress.get(&ReplicaId(*node)).copied().is_some_and(is_behind))
    };
    eventually("their logs are whole, and their states are not", are_behind).await;
    let outcome = group.transfer_leader(ReplicaId(late[0])).await;
    let is_refused = matches!(&outcome, Err(ChangeError::Refused(why)) if why.contains("is catching up"));
    assert!(!is_refused, "{outcome:?}");
}
