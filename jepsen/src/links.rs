//! The links between nodes, as the harness's own TCP proxies, so that they can be cut and slowed without root.
//!
//! ```text
//!   node a ──▶ proxy of b (P+60+b) ──▶ node b (RPC, P+20+b)
//!              │  who asks? the owner of the other socket, by /proc
//!              └─ two pumps per connection: a → b and b → a, each looks at its own link
//! ```
//!
//! A cluster started with `--rpc-proxies` advertises the proxies' addresses, so that all that nodes say to each other passes here. A link is an
//! ordered pair of nodes: what `a` sends to `b` passes the link `(a, b)` on whichever connection it goes, so that one-way partitions
//! are possible. A cut link holds bytes back until it is whole again, as TCP does when packets are lost; new connections are
//! accepted and stay silent. Only on Linux: who made a connection is found in `/proc`.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::run::sleep;

/// A pump holds at most this much.
const CHUNK_BYTES: usize = 64 << 10;

/// On a lossy link, of a thousand chunks so many are held up, and so many break the connection.
const HELD_UP_PER_MILLE: u32 = 80;
const BROKEN_PER_MILLE: u32 = 8;
/// How long TCP waits before it sends again: its least, and twice that.
const RESEND_MS: std::ops::RangeInclusive<u64> = 200..=400;

/// What one node sends another.
pub type Link = (usize, usize);

/// How a link is broken; one that is not mentioned is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing gets through.
    Cut,
    /// Everything comes later.
    Slow(Duration),
    /// Packets are lost: TCP sends them again after a while, and all that follows waits; some connections break.
    Lossy,
}

type Troubles = HashMap<Link, Trouble>;

/// What decides what a lossy link loses: each pump draws from the run's seed, its link, and how many there were on it before.
struct Luck {
    seed: u64,
    pumps: Mutex<HashMap<Link, u64>>,
}

impl Luck {
    fn new(seed: u64) -> Self {
        Self { seed, pumps: Mutex::default() }
    }

    /// The next pump's.
    fn draw(&self, (from, to): Link) -> StdRng {
        let mut pumps = self.pumps.lock().unwrap_or_else(PoisonError::into_inner);
        let nth = pumps.entry((from, to)).or_insert(0);
        *nth += 1;
        StdRng::seed_from_u64(self.seed.rotate_left(32) ^ *nth << 16 ^ (from as u64) << 8 ^ to as u64)
    }
}

/// What all connections of a cluster share.
#[derive(Clone)]
struct Shared {
    cluster: Arc<Cluster>,
    troubles: watch::Sender<Troubles>,
    luck: Arc<Luck>,
}

/// The proxies of a cluster; they end when this is dropped.
pub struct Links {
    troubles: watch::Sender<Troubles>,
    _proxies: JoinSet<()>,
}

impl Links {
    /// Listens for all nodes of a cluster, also those that may join it. The seed decides what lossy links lose.
    pub async fn open(cluster: &Cluster, seed: u64) -> Result<Self> {
        let troubles = watch::Sender::new(Troubles::new());
        let mut proxies = JoinSet::new();
        let (cluster, luck) = (Arc::new(cluster.clone()), Arc::new(Luck::new(seed)));
        let shared = Shared { cluster, troubles: troubles.clone(), luck };
        for node in shared.cluster.numbers() {
            let port = shared.cluster.proxy_port(node);
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .await
                .with_context(|| format!("listening on port {port} for node {node}"))?;
            proxies.spawn(serve(listener, shared.clone(), node));
        }
        Ok(Self { troubles, _proxies: proxies })
    }

    /// From now on these links, and no others, are in trouble.
    pub fn set(&self, troubles: impl IntoIterator<Item = (Link, Trouble)>) {
        self.troubles.send_replace(troubles.into_iter().collect());
    }
}

async fn serve(listener: TcpListener, shared: Shared, to: usize) {
    // The connections end with the proxy.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, peer)) = accepted {
                    connections.spawn(connection(stream, peer, shared.clone(), to));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(near: TcpStream, peer: SocketAddr, shared: Shared, to: usize) {
    let Shared { cluster, troubles, luck } = shared;
    // Whose connection it is can't be told if its maker is dead. A stranger's isn't passed on: it could not be cut.
    let Some(from) = source(&cluster, peer.port()) else { return };
    let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, cluster.rpc_port(to))).await else { return };
    // Without this, each small message would wait for the one before to be acknowledged.
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    // One side's end is the other's.
    tokio::select! {
        () = pump(near_read, far_write, (from, to), troubles.subscribe(), luck.draw((from, to))) => {}
        () = pump(far_read, near_write, (to, from), troubles.subscribe(), luck.draw((to, from))) => {}
    }
}

/// Passes bytes on, if and when the link lets them through.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    link: Link,
    mut troubles: watch::Receiver<Troubles>,
    mut luck: StdRng,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        let trouble = troubles.borrow().get(&link).copied();
        match trouble {
            Some(Trouble::Slow(delay)) => sleep(delay).await,
            Some(Trouble::Lossy) => match luck.random_range(0..1_000) {
                0..BROKEN_PER_MILLE => break,
                n if n < HELD_UP_PER_MILLE => {
                    sleep(Duration::from_millis(luck.random_range(RESEND_MS))).await
                }
                _ => {}
            },
            Some(Trouble::Cut) | None => {}
        }
        // An end of the harness lets everything go.
        if troubles.wait_for(|all| all.get(&link) != Some(&Trouble::Cut)).await.is_err() {
            break;
        }
        if to.write_all(&chunk[..count]).await.is_err() {
            break;
        }
    }
    // That the other side has ended is news, too, and doesn't pass a cut.
    let _ = troubles.wait_for(|all| all.get(&link) != Some(&Trouble::Cut)).await;
}

/// The node whose socket has this local port.
fn source(cluster: &Cluster, port: u16) -> Option<usize> {
    let inode = inode_of(&std::fs::read_to_string("/proc/net/tcp").ok()?, port)?;
    let wanted = format!("socket:[{inode}]");
    cluster.numbers().find(|node| {
        let pid = std::fs::read_to_string(cluster.pid_file(*node)).unwrap_or_default();
        let descriptors = std::fs::read_dir(Path::new("/proc").join(pid.trim()).join("fd"));
        descriptors.into_iter().flatten().flatten().any(|descriptor| {
            std::fs::read_link(descriptor.path()).is_ok_and(|target| target.to_str() == Some(&wanted))
        })
    })
}

/// In the kernel's list of sockets: that of a local port, which isn't listening.
fn inode_of(table: &str, port: u16) -> Option<u64> {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? != "0A";
        is_it.then(|| fields.get(9)?.parse().ok())?
    })
}

/// All links between two sets of nodes, both ways.
pub fn between(one: &[usize], other: &[usize]) -> Vec<Link> {
    let pairs = one.iter().flat_map(|a| other.iter().flat_map(move |b| [(*a, *b), (*b, *a)]));
    let links: HashSet<Link> = pairs.filter(|(a, b)| a != b).collect();
    let mut links: Vec<Link> = links.into_iter().collect();
    links.sort_unstable();
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_local_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:6590 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0100007F:C350 0100007F:6590 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0 20 4 30 10 -1
   2: 0100007F:6590 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 20 4 30 10 -1";
        assert_eq!(inode_of(table, 0xC350), Some(12));
        assert_eq!(inode_of(table, 0x6590), Some(13));
        assert_eq!(inode_of(table, 1), None);
    }

    #[test]
    fn links_between_sets_go_both_ways_and_never_to_oneself() {
        assert_eq!(between(&[1], &[2, 3]), [(1, 2), (1, 3), (2, 1), (3, 1)]);
        assert_eq!(between(&[1, 2], &[1, 2]), [(1, 2), (2, 1)]);
    }

    #[test]
    fn what_a_link_loses_follows_from_the_seed() {
        let drawn = |seed: u64| -> Vec<u64> {
            let luck = Luck::new(seed);
            [(1, 2), (1, 2), (2, 1), (1, 3)].map(|link| luck.draw(link).random()).to_vec()
        };
        assert_eq!(drawn(7), drawn(7));
        let all: HashSet<u64> = drawn(7).into_iter().chain(drawn(8)).collect();
        assert_eq!(all.len(), 8, "each pump has luck of its own");
    }

    #[tokio::test]
    async fn a_cut_link_holds_bytes_until_it_is_whole() {
        let troubles = watch::Sender::new(Troubles::from([((1, 2), Trouble::Cut)]));
        let (mut near, near_end) = tokio::io::duplex(64);
        let (mut far, far_end) = tokio::io::duplex(64);
        let pumping = pump(near_end, far_end, (1, 2), troubles.subscribe(), Luck::new(1).draw((1, 2)));
        let talking = async {
            near.write_all(b"hello").await.unwrap();
            let mut heard = [0; 5];
            let early = tokio::time::timeout(Duration::from_millis(50), far.read_exact(&mut heard)).await;
            assert!(early.is_err(), "a cut link let something through");
            troubles.send_replace(Troubles::new());
            far.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hello");
            drop(near);
        };
        futures::join!(pumping, talking);
    }
}
