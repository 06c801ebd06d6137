//! Snapshots whose stream breaks: they go on where they were, and nothing is sent twice but what was on its way.

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use harness::{Cluster, GROUP, eventually};
use raft::NewGroup;
use storage::ids::{NodeId, ReplicaId};
use storage::seam::{Connecting, Connection, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const MIB: u64 = 1 << 20;
/// Values of 1 MiB.
const VALUES: u64 = 32;
/// What may be lost of a stream that breaks.
const ON_ITS_WAY: u64 = 6 * MIB;

/// Counts what goes to one address, and breaks the connection that takes it past a mark.
#[derive(Default)]
struct Tapped {
    address: Mutex<String>,
    written: AtomicU64,
    /// The next mark last.
    marks: Mutex<Vec<u64>>,
}

impl Tapped {
    /// From now on.
    fn tap(&self, address: String, marks: &[u64]) {
        *self.marks.lock().expect("lock") = marks.iter().rev().copied().collect();
        *self.address.lock().expect("lock") = address;
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    fn marks_left(&self) -> usize {
        self.marks.lock().expect("lock").len()
    }
}

/// So that the harness can share it.
struct Tap(Arc<Tapped>);

impl Network for Tap {
    fn connect(&self, address: String) -> Connecting {
        let tapped = self.0.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(Counted { stream, address, tapped, written: 0, broken: false })
                as Box<dyn Connection>)
        })
    }
}

struct Counted {
    stream: TcpStream,
    address: String,
    tapped: Arc<Tapped>,
    written: u64,
    broken: bool,
}

impl Counted {
    fn count(&mut self, bytes: u64) {
        if *self.tapped.address.lock().expect("lock") != self.address {
            return;
        }
        self.written += bytes;
        let total = self.tapped.written.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let mut marks = self.tapped.marks.lock().expect("lock");
        // Only a snapshot writes so much.
        if self.written > MIB && marks.last().is_some_and(|mark| total > *mark) {
            marks.pop();
            self.broken = true;
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.broken { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.count(*bytes as u64);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Three nodes, one of which is away and so far behind that it needs a snapshot of 32 MiB; that one.
async fn one_far_behind(tapped: &Arc<Tapped>) -> (Cluster, u64) {
    let mut cluster = Cluster::new();
    cluster.network = Some(Arc::new(Tap(tapped.clone())));
    // Two seconds: time enough to be interrupted.
    cluster.options.snapshot_bytes_per_second = 16 * MIB;
    for node in 1..=3 {
        cluster.start(node).await;
    }
    let members: BTreeMap<ReplicaId, NodeId> = (1..=3).map(|n| (ReplicaId(n), NodeId(n))).collect();
    for node in 1..=3 {
        let (group, me, members) = (GROUP, ReplicaId(node), members.clone());
        cluster
            .multi(node)
            .create_group(NewGroup { group, me, members, campaign: node == 1 })
            .await
            .expect("create");
    }
    cluster.put("a", "1").await;
    let (leader, _) = cluster.leader().await;
    let away = (1..=3).find(|n| *n != leader).expect("a follower");
    cluster.kill(away).await;
    for n in 0..VALUES {
        cluster.put(&format!("k{n}"), &value(n)).await;
    }
    for node in (1..=3).filter(|n| *n != away) {
        cluster.multi(node).checkpoint().await.expect("checkpoint");
        let group = cluster.group(node);
        eventually("the log is purged", || group.status().purged.is_some_and(|i| i.0 > 20)).await;
    }
    (cluster, away)
}

fn value(n: u64) -> String {
    n.to_string().repeat(MIB as usize)[..MIB as usize].to_owned()
}

fn assert_complete(cluster: &Cluster, node: u64) {
    for n in 0..VALUES {
        assert!(cluster.get(node, &format!("k{n}")) == Some(value(n)), "k{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_whose_stream_is_cut_twice_goes_on_where_it_was() {
    let tapped = Arc::new(Tapped::default());
    let (mut cluster, away) = one_far_behind(&tapped).await;
    tapped.tap(cluster.address(away), &[10 * MIB, 20 * MIB]);
    cluster.start(away).await;
    cluster.converge(&[1, 2, 3]).await;
    assert_complete(&cluster, away);
    assert_eq!(tapped.marks_left(), 0, "it was cut twice");
    let written = tapped.written();
    assert!(written < VALUES * MIB + 2 * ON_ITS_WAY, "{written} bytes for {VALUES} MiB");
    // Nothing is left behind.
    let left = std::fs::read_dir(cluster.dir(away).join("incoming")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_that_restarts_goes_on_with_what_it_has() {
    let tapped = Arc::new(Tapped::default());
    let (mut cluster, away) = one_far_behind(&tapped).await;
    tapped.tap(cluster.address(away), &[]);
    cluster.start(away).await;
    eventually("half of it is there", || tapped.written() > VALUES * MIB / 2).await;
    cluster.kill(away).await;
    let kept = std::fs::read_dir(cluster.dir(away).join("incoming")).map_or(0, Iterator::count);
    assert_eq!(kept, 1);
    cluster.start(away).await;
    cluster.converge(&[1, 2, 3]).await;
    assert_complete(&cluster, away);
    let written = tapped.written();
    assert!(written < VALUES * MIB + 2 * ON_ITS_WAY, "{written} bytes for {VALUES} MiB");
}
