//! The simulated network: connections that are ordered and reliable as TCP's are, over links that are not.
//!
//! What is written arrives after a latency that is drawn for each write; pieces of one connection stay in order, those of
//! different ones don't. A link that is cut (in one direction) holds back what arrives until it is healed, and connections can't
//! be made over it. A node whose process died says so, as kernels do; one whose power failed does not, and what is sent to its
//! old connections after it has come back is answered with a reset.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use futures::Stream;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use storage::seam::{Connecting, Connection, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::host;
use super::world::{Place, Purpose, World, generator};

/// What may be under way or unread in one direction of a connection; more waits.
const WINDOW_BYTES: usize = 1 << 20;
/// Between attempts to connect to where nobody answers.
const SYN_RETRY_NS: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// One direction of the link between two nodes.
#[derive(Clone, Copy, Debug)]
struct Link {
    base_ns: u64,
    /// On top of it, up to.
    slow_ns: u64,
    /// Of a thousand pieces, so many are lost and sent again.
    lost_permille: u64,
    /// By so many faults at once.
    cuts: u32,
}

enum Piece {
    Data(Bytes),
    End,
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Reset,
}

/// One direction of a connection.
struct Pipe {
    from: Place,
    to: Place,
    ready: VecDeque<Bytes>,
    /// Bytes in `ready` and under way.
    outstanding: usize,
    last_arrival: u64,
    /// Arrived at a cut.
    stalled: VecDeque<Piece>,
    /// What comes after `ready`.
    end: Option<End>,
    ended: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn new(from: Place, to: Place) -> Self {
        Self {
            from,
            to,
            ready: VecDeque::new(),
            outstanding: 0,
            last_arrival: 0,
            stalled: VecDeque::new(),
            end: None,
            ended: false,
            reader_gone: false,
            reader: None,
            writer: None,
        }
    }
}

/// A connection: what the one who asked for it writes, and what the other writes.
type Pipes = [Pipe; 2];

#[derive(Default)]
struct Port {
    open: bool,
    waiting: VecDeque<SimStream>,
    waker: Option<Waker>,
}

struct Inner {
    random: StdRng,
    links: Vec<Vec<Link>>,
    ports: Vec<Port>,
    /// The kernel answers.
    powered: Vec<bool>,
    connections: BTreeMap<u64, Pipes>,
    next: u64,
}

/// All links.
pub struct Net {
    world: Arc<World>,
    inner: Mutex<Inner>,
}

/// Where a node is reached.
pub fn address(place: Place) -> String {
    format!("node{}:1", place + 1)
}

fn place_of(address: &str) -> Option<Place> {
    address.strip_prefix("node")?.strip_suffix(":1")?.parse::<usize>().ok()?.checked_sub(1)
}

impl Net {
    /// Between so many nodes.
    pub fn new(seed: u64, nodes: usize, world: Arc<World>) -> Arc<Self> {
        let mut random = generator(seed, Purpose::Network);
        // In one room, or in one region.
        let (least, most) = if random.random_bool(0.7) { (30_000, 300_000) } else { (300_000, 3_000_000) };
        let mut link =
            || Link { base_ns: random.random_range(least..most), slow_ns: 0, lost_permille: 0, cuts: 0 };
        let links = (0..nodes).map(|_| (0..nodes).map(|_| link()).collect()).collect();
        let ports = (0..nodes).map(|_| Port::default()).collect();
        let powered = vec![true; nodes];
        let inner = Inner { random, links, ports, powered, connections: BTreeMap::new(), next: 1 };
        Arc::new(Self { world, inner: Mutex::new(inner) })
    }

    /// The way of one node to the others.
    pub fn seam(self: &Arc<Self>, place: Place) -> Arc<dyn Network> {
        Arc::new(Way { net: self.clone(), place })
    }

    /// Opens a node's port; connections come out of the stream.
    pub fn listen(self: &Arc<Self>, place: Place) -> Incoming {
        let mut inner = self.inner.lock();
        inner.ports[place].open = true;
        inner.powered[place] = true;
        Incoming { net: self.clone(), place }
    }

    /// Closes a node's port. With `silent`, nothing that belonged to the node will say so.
    pub fn close(&self, place: Place, silent: bool) {
        let port = {
            let mut inner = self.inner.lock();
            inner.powered[place] = !silent;
            std::mem::take(&mut inner.ports[place])
        };
        // Its connections say goodbye, which takes the lock.
        drop(port);
    }

    /// Cuts one direction.
    pub fn cut(&self, from: Place, to: Place) {
        self.inner.lock().links[from][to].cuts += 1;
    }

    /// Undoes one cut. What was held back comes through a while later, as senders try again.
    pub fn heal(self: &Arc<Self>, from: Place, to: Place) {
        let mut inner = self.inner.lock();
        let link = &mut inner.links[from][to];
        link.cuts = link.cuts.saturating_sub(1);
        if link.cuts > 0 {
            return;
        }
        let held: Vec<(u64, usize)> = inner
            .connections
            .iter()
            .flat_map(|(id, pipes)| pipes.iter().enumerate().map(move |(side, pipe)| (*id, side, pipe)))
            .filter(|(_, _, pipe)| (pipe.from, pipe.to) == (from, to) && !pipe.stalled.is_empty())
            .map(|(id, side, _)| (id, side))
            .collect();
        for (id, side) in held {
            let net = self.clone();
            let after = inner.random.random_range(MS..200 * MS);
            self.world.after(after, move || net.release(id, side));
        }
    }

    /// Makes one direction slow (by up to `slow_ns`) and lossy; zeros undo it.
    pub fn impair(&self, from: Place, to: Place, slow_ns: u64, lost_permille: u64) {
        let link = &mut self.inner.lock().links[from][to];
        (link.slow_ns, link.lost_permille) = (slow_ns, lost_permille);
    }

    /// Resets all connections between two nodes.
    pub fn reset(self: &Arc<Self>, a: Place, b: Place) {
        let hit: Vec<u64> = {
            let inner = self.inner.lock();
            let between = |pipes: &Pipes| {
                let ends = (pipes[0].from, pipes[0].to);
                ends == (a, b) || ends == (b, a)
            };
            inner.connections.iter().filter(|(_, pipes)| between(pipes)).map(|(id, _)| *id).collect()
        };
        for id in hit {
            self.arrive(id, 0, Piece::Reset);
            self.arrive(id, 1, Piece::Reset);
        }
    }

    fn latency(inner: &mut Inner, from: Place, to: Place) -> u64 {
        let link = inner.links[from][to];
        let random = &mut inner.random;
        let mut latency = link.base_ns + random.random_range(0..=link.base_ns);
        if random.random_ratio(1, 50) {
            latency += random.random_range(MS..10 * MS);
        }
        if link.slow_ns > 0 {
            latency += random.random_range(link.slow_ns / 4..=link.slow_ns);
        }
        if link.lost_permille > random.random_range(0..1000) {
            latency += random.random_range(200 * MS..400 * MS);
        }
        latency
    }

    fn send(self: &Arc<Self>, inner: &mut Inner, id: u64, side: usize, piece: Piece) {
        let Some(pipes) = inner.connections.get(&id) else { return };
        let (from, to) = (pipes[side].from, pipes[side].to);
        let arrival = host::now_ns() + Self::latency(inner, from, to);
        let Some(pipes) = inner.connections.get_mut(&id) else { return };
        // In order.
        let arrival = arrival.max(pipes[side].last_arrival + 1);
        pipes[side].last_arrival = arrival;
        let net = self.clone();
        self.world.after(arrival - host::now_ns(), move || net.arrive(id, side, piece));
    }

    fn arrive(self: &Arc<Self>, id: u64, side: usize, piece: Piece) {
        let inner = &mut *self.inner.lock();
        let Some(pipes) = inner.connections.get_mut(&id) else { return };
        let pipe = &mut pipes[side];
        if inner.links[pipe.from][pipe.to].cuts > 0 || !pipe.stalled.is_empty() {
            pipe.stalled.push_back(piece);
            return;
        }
        self.deliver(inner, id, side, piece);
    }

    fn release(self: &Arc<Self>, id: u64, side: usize) {
        let inner = &mut *self.inner.lock();
        let Some(pipes) = inner.connections.get_mut(&id) else { return };
        let pipe = &mut pipes[side];
        if inner.links[pipe.from][pipe.to].cuts > 0 {
            return;
        }
        for piece in std::mem::take(&mut pipe.stalled) {
            self.deliver(inner, id, side, piece);
        }
    }

    fn deliver(self: &Arc<Self>, inner: &mut Inner, id: u64, side: usize, piece: Piece) {
        let Some(pipes) = inner.connections.get_mut(&id) else { return };
        let pipe = &mut pipes[side];
        let (from, to) = (pipe.from, pipe.to);
        match piece {
            Piece::Data(bytes) => {
                let crc = u64::from(crc32fast::hash(&bytes));
                let numbers = [id, side as u64, bytes.len() as u64, crc];
                self.world.note("data", &numbers, || format!("{} to {}", from + 1, to + 1));
                if pipe.reader_gone {
                    pipe.outstanding -= bytes.len();
                    // The kernel does not know the connection.
                    if inner.powered[to] {
                        self.send(inner, id, 1 - side, Piece::Reset);
                    }
                    return;
                }
                pipe.ready.push_back(bytes);
                let reader = pipe.reader.take();
                self.world.wake(to, reader);
            }
            Piece::End => {
                pipe.end.get_or_insert(End::Finished);
                let reader = pipe.reader.take();
                self.world.wake(to, reader);
            }
            Piece::Reset => {
                self.world.note("reset", &[id, side as u64], || format!("{} to {}", from + 1, to + 1));
                pipe.end = Some(End::Reset);
                pipe.ready.clear();
                let (reader, writer) = (pipe.reader.take(), pipes[1 - side].writer.take());
                self.world.wake(to, reader);
                self.world.wake(to, writer);
            }
        }
    }

    /// A request for a connection arrives.
    fn knock(self: &Arc<Self>, from: Place, to: Place, slot: Weak<Slot>) {
        let Some(wanted) = slot.upgrade() else { return };
        let inner = &mut *self.inner.lock();
        let whole = inner.links[from][to].cuts == 0 && inner.links[to][from].cuts == 0;
        if !whole || !inner.powered[to] {
            drop(wanted);
            let net = self.clone();
            return self.world.after(SYN_RETRY_NS, move || net.knock(from, to, slot));
        }
        let back = Self::latency(inner, to, from);
        let answer = if inner.ports[to].open {
            let id = inner.next;
            inner.next += 1;
            inner.connections.insert(id, [Pipe::new(from, to), Pipe::new(to, from)]);
            self.world.note("connect", &[id], || format!("{} to {}", from + 1, to + 1));
            let end = |place, side| SimStream { net: self.clone(), id, side, place };
            inner.ports[to].waiting.push_back(end(to, 1));
            let waker = inner.ports[to].waker.take();
            self.world.wake(to, waker);
            Ok(end(from, 0))
        } else {
            Err(io::ErrorKind::ConnectionRefused.into())
        };
        drop(wanted);
        let world = self.world.clone();
        self.world.after(back, move || {
            // Nobody waits any more: the connection, if there is one, is closed with the answer.
            let Some(slot) = slot.upgrade() else { return drop(answer) };
            let waker = {
                let mut slot = slot.lock();
                slot.0 = Some(answer);
                slot.1.take()
            };
            world.wake(from, waker);
        });
    }
}

type Slot = Mutex<(Option<io::Result<SimStream>>, Option<Waker>)>;

struct Way {
    net: Arc<Net>,
    place: Place,
}

impl Network for Way {
    fn connect(&self, address: String) -> Connecting {
        let (net, from) = (self.net.clone(), self.place);
        Box::pin(async move {
            let to = place_of(&address).ok_or(io::ErrorKind::AddrNotAvailable)?;
            let slot = Arc::new(Slot::default());
            let there = Net::latency(&mut net.inner.lock(), from, to);
            let (knocking, weak) = (net.clone(), Arc::downgrade(&slot));
            net.world.after(there, move || knocking.knock(from, to, weak));
            let connected = poll_fn(|cx| {
                let mut slot = slot.lock();
                match slot.0.take() {
                    Some(answer) => Poll::Ready(answer),
                    None => {
                        slot.1 = Some(cx.waker().clone());
                        Poll::Pending
                    }
                }
            });
            connected.await.map(|stream| Box::new(stream) as Box<dyn Connection>)
        })
    }
}

/// Connections that others make to a node.
pub struct Incoming {
    net: Arc<Net>,
    place: Place,
}

impl Stream for Incoming {
    type Item = io::Result<SimStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let port = &mut self.net.inner.lock().ports[self.place];
        match port.waiting.pop_front() {
            Some(stream) => Poll::Ready(Some(Ok(stream))),
            None => {
                port.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// One end of a connection.
pub struct SimStream {
    net: Arc<Net>,
    id: u64,
    /// 0: of the one who asked for it. What this end writes goes through the pipe of that number.
    side: usize,
    place: Place,
}

impl Connected for SimStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.net.inner.lock();
        let Some(pipes) = inner.connections.get_mut(&self.id) else { return Poll::Ready(Ok(())) };
        let pipe = &mut pipes[1 - self.side];
        let mut taken = 0;
        while buffer.remaining() > 0
            && let Some(front) = pipe.ready.front_mut()
        {
            let n = front.len().min(buffer.remaining());
            buffer.put_slice(&front[..n]);
            front.advance(n);
            taken += n;
            if front.is_empty() {
                pipe.ready.pop_front();
            }
        }
        if taken > 0 {
            pipe.outstanding -= taken;
            let (from, writer) = (pipe.from, pipe.writer.take());
            self.net.world.wake(from, writer);
            return Poll::Ready(Ok(()));
        }
        match pipe.end {
            Some(End::Finished) => Poll::Ready(Ok(())),
            Some(End::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => {
                pipe.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut *self.net.inner.lock();
        let broken = || Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        let Some(pipes) = inner.connections.get_mut(&self.id) else { return broken() };
        if pipes[1 - self.side].end == Some(End::Reset) || pipes[self.side].ended {
            return broken();
        }
        let pipe = &mut pipes[self.side];
        let room = WINDOW_BYTES.saturating_sub(pipe.outstanding).min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.outstanding += room;
        let data = Piece::Data(Bytes::copy_from_slice(&bytes[..room]));
        self.net.send(inner, self.id, self.side, data);
        Poll::Ready(Ok(room))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end(&mut self.net.inner.lock());
        Poll::Ready(Ok(()))
    }
}

impl SimStream {
    fn end(&self, inner: &mut Inner) {
        let Some(pipes) = inner.connections.get_mut(&self.id) else { return };
        if !std::mem::replace(&mut pipes[self.side].ended, true) {
            self.net.send(inner, self.id, self.side, Piece::End);
        }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let inner = &mut *self.net.inner.lock();
        let Some(pipes) = inner.connections.get_mut(&self.id) else { return };
        let read = &mut pipes[1 - self.side];
        read.reader_gone = true;
        read.outstanding -= read.ready.drain(..).map(|bytes| bytes.len()).sum::<usize>();
        if pipes.iter().all(|pipe| pipe.reader_gone) {
            inner.connections.remove(&self.id);
        } else if inner.powered[self.place] {
            self.end(inner);
        }
    }
}
