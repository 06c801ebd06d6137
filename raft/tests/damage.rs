//! A network that flips bits unnoticed. (One test: what is counted is of the whole process.)

#![allow(clippy::disallowed_methods, reason = "tests of the real thing run on the real clock")]

mod harness;

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use harness::counters::Counters;
use harness::{Cluster, GROUP, eventually};
use raft::NewGroup;
use storage::ids::{NodeId, ReplicaId};
use storage::seam::{Connecting, Connection, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const NODES: [u64; 3] = [1, 2, 3];
/// The command before which bits are flipped. (It is of one length byte, and so are the terms and indexes here.)
const COMMAND: &[u8] = b"flipped=arrives-whole";
/// So many, or one more. (More than there are followers: until then none of them has it whole.)
const FLIPS: u64 = 3;
/// Of a term: it becomes one that nobody has reached.
const FLIPPED: u8 = 0x40;

/// Connects, and flips a bit in the terms of the first entries that it carries with [`COMMAND`].
#[derive(Clone, Default)]
struct Flipping(Arc<AtomicU64>);

impl Flipping {
    fn flips(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// What is sent in the place of `bytes`, if it is something else.
    fn flip(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let command = bytes.windows(COMMAND.len()).position(|part| part == COMMAND)?;
        // The fields before it: 1 (term), 2 (index), both numbers, and the command's own tag and length.
        let [0x08, _, 0x10, _, 0x1a, _] = *bytes[..command].last_chunk::<6>()? else { return None };
        let mut flipped = bytes.to_vec();
        flipped[command - 5] ^= FLIPPED;
        (self.flips() < FLIPS).then_some(flipped)
    }
}

impl Network for Flipping {
    fn connect(&self, address: String) -> Connecting {
        let flipping = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(Flipped { stream, flipping }) as Box<dyn Connection>)
        })
    }
}

struct Flipped {
    stream: TcpStream,
    flipping: Flipping,
}

impl AsyncRead for Flipped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Flipped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let flipped = self.flipping.flip(buf);
        let written = Pin::new(&mut self.stream).poll_write(cx, flipped.as_deref().unwrap_or(buf));
        if flipped.is_some() && written.is_ready() {
            self.flipping.0.fetch_add(1, Ordering::SeqCst);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A follower that took such an entry would have the newest log of all, and be elected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_is_altered_on_its_way_is_refused_and_sent_again() {
    let counters = Counters::install();
    let flipping = Flipping::default();
    let mut cluster = Cluster::new();
    cluster.network = Some(Arc::new(flipping.clone()));
    for node in NODES {
        cluster.start(node).await;
    }
    for node in NODES {
        let members: BTreeMap<_, _> = NODES.map(|n| (ReplicaId(n), NodeId(n))).into();
        let new = NewGroup { group: GROUP, me: ReplicaId(node), members, campaign: node == 1 };
        cluster.multi(node).create_group(new).await.expect("create");
    }
    cluster.put("before", "1").await;
    cluster.converge(&NODES).await;
    assert_eq!((flipping.flips(), counters.get("flotilla_messages_damaged_total")), (0, 0));

    let command = std::str::from_utf8(COMMAND).expect("text");
    let (key, value) = command.split_once('=').expect("a key");
    cluster.put(key, value).await;
    cluster.converge(&NODES).await;
    assert!(flipping.flips() >= FLIPS, "{}", flipping.flips());
    let damaged = || counters.get("flotilla_messages_damaged_total") == flipping.flips();
    eventually("all that was flipped is refused", damaged).await;
    for node in NODES {
        assert_eq!(cluster.get(node, key).as_deref(), Some(value), "node {node}");
    }
    let (_, term) = cluster.leader().await;
    assert!(term.0 < u64::from(FLIPPED), "nobody came to the term of an altered entry: {term}");
}
