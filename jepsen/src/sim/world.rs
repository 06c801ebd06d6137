//! What happens when: the queue of events, the order in which nodes are run, and the trace.
//!
//! A simulation is one thread. It runs every node that has something to do until none has, then moves the clock to the next event
//! or to the next timer of a node, and so on. Whatever is left to chance is drawn from generators that the seed seeds, one for each
//! purpose, so that leaving out a fault does not change what else is drawn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::host;

/// A node's place in a simulation: 0 is the first.
pub type Place = usize;

type Action = Box<dyn FnOnce() + Send>;

struct Event {
    at: u64,
    /// Those of one moment happen in the order in which they were made.
    order: u64,
    action: Action,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What all parts of a simulation share.
pub struct World {
    inner: Mutex<Inner>,
    trace: Mutex<Trace>,
}

struct Inner {
    events: BinaryHeap<Reverse<Event>>,
    made: u64,
    /// Which nodes have something to do.
    due: Vec<bool>,
    order: StdRng,
}

impl World {
    /// With so many nodes.
    pub fn new(seed: u64, nodes: usize, text: Option<Box<dyn Write + Send>>) -> Arc<Self> {
        let inner = Inner {
            events: BinaryHeap::new(),
            made: 0,
            due: vec![false; nodes],
            order: generator(seed, Purpose::Order),
        };
        Arc::new(Self { inner: Mutex::new(inner), trace: Mutex::new(Trace::new(text)) })
    }

    /// Something happens in `after_ns`.
    pub fn after(&self, after_ns: u64, action: impl FnOnce() + Send + 'static) {
        let mut inner = self.inner.lock();
        let order = inner.made;
        inner.made += 1;
        let at = host::now_ns() + after_ns;
        inner.events.push(Reverse(Event { at, order, action: Box::new(action) }));
    }

    /// The moment of the next event.
    pub fn next_event(&self) -> Option<u64> {
        self.inner.lock().events.peek().map(|event| event.0.at)
    }

    /// Lets happen what is to happen now.
    pub fn happen(&self) {
        loop {
            let action = {
                let mut inner = self.inner.lock();
                let due = inner.events.peek().is_some_and(|event| event.0.at <= host::now_ns());
                due.then(|| inner.events.pop()).flatten().map(|event| event.0.action)
            };
            let Some(action) = action else { return };
            action();
        }
    }

    /// A node has something to do.
    pub fn touch(&self, place: Place) {
        self.inner.lock().due[place] = true;
    }

    /// Wakes a task of a node.
    pub fn wake(&self, place: Place, waker: Option<Waker>) {
        if let Some(waker) = waker {
            self.touch(place);
            waker.wake();
        }
    }

    /// One of those that have something to do, at random, and no longer counted among them.
    pub fn next_due(&self, runnable: impl Fn(Place) -> bool) -> Option<Place> {
        let inner = &mut *self.inner.lock();
        let due: Vec<Place> = (0..inner.due.len()).filter(|n| inner.due[*n] && runnable(*n)).collect();
        let chosen = match due.len() {
            0 => return None,
            1 => due[0],
            n => due[inner.order.random_range(0..n)],
        };
        inner.due[chosen] = false;
        Some(chosen)
    }

    /// Sleeps, to the nanosecond; for tasks of a node.
    pub fn sleep(self: &Arc<Self>, place: Place, duration_ns: u64) -> Sleep {
        let state = Arc::new(Mutex::new((false, None::<Waker>)));
        let (world, at_end) = (self.clone(), state.clone());
        self.after(duration_ns, move || {
            let waker = {
                let mut state = at_end.lock();
                state.0 = true;
                state.1.take()
            };
            world.wake(place, waker);
        });
        Sleep { state }
    }

    /// Notes what has happened. `text` is made only if somebody reads it.
    pub fn note(&self, kind: &'static str, numbers: &[u64], text: impl FnOnce() -> String) {
        self.trace.lock().note(kind, numbers, text);
    }

    /// What has happened until now, as a number, and how much it was. The text is complete up to here.
    pub fn digest(&self) -> (u64, u64) {
        let mut trace = self.trace.lock();
        if trace.text.as_mut().is_some_and(|text| text.flush().is_err()) {
            trace.text = None;
        }
        (trace.hash, trace.count)
    }
}

/// See [`World::sleep`].
pub struct Sleep {
    state: Arc<Mutex<(bool, Option<Waker>)>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// What random numbers are drawn for.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Purpose {
    /// Shape of the cluster and faults.
    Plan = 1,
    /// Who runs first.
    Order,
    /// Latencies and losses.
    Network,
    /// Latencies of disks, and what a crash leaves.
    Disk,
    /// What clients ask.
    Clients,
    /// The seams' own generator, one per start of a node.
    Seams,
    /// Everything that draws from the operating system.
    System,
    /// What becomes of nodes and shards beside faults.
    Changes,
}

/// The generator for a purpose.
pub fn generator(seed: u64, purpose: Purpose) -> StdRng {
    generator_of(seed, purpose, 0)
}

/// One of several for a purpose.
pub fn generator_of(seed: u64, purpose: Purpose, number: u64) -> StdRng {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((purpose as u64) << 56) ^ (number << 32);
    StdRng::seed_from_u64(mixed)
}

/// A running hash (FNV-1a over words) of everything that happens, and optionally its text.
struct Trace {
    hash: u64,
    count: u64,
    text: Option<Box<dyn Write + Send>>,
}

impl Trace {
    fn new(text: Option<Box<dyn Write + Send>>) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, count: 0, text }
    }

    fn word(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }

    fn note(&mut self, kind: &'static str, numbers: &[u64], text: impl FnOnce() -> String) {
        let now = host::now_ns();
        self.word(now);
        for byte in kind.bytes() {
            self.word(byte.into());
        }
        for number in numbers {
            self.word(*number);
        }
        self.count += 1;
        if let Some(out) = &mut self.text {
            let line = writeln!(
                out,
                "{:>6}.{:09} {kind} {numbers:?} {}",
                now / 1_000_000_000,
                now % 1_000_000_000,
                text()
            );
            // A trace that can't be written is no longer written.
            if line.is_err() {
                self.text = None;
            }
        }
    }
}
