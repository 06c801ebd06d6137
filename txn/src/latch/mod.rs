//! Latches: who may evaluate and propose on which keys, right now.
//!
//! A command that writes holds exclusive latches on the keys it writes (and shared ones on what it read) from before
//! it looks at the state, and before its commit timestamp is drawn, until its effects are applied. They are short:
//! one oracle draw and one replication. They are fair: a request waits for all conflicting requests that came before
//! it, so nobody starves, and, since everybody asks for all spans at once, nobody deadlocks.
//!
//! A **read** doesn't hold latches. It waits for the exclusive ones that were there when it came and then takes its
//! snapshot. A writer that comes later draws its timestamp later than the read's timestamp existed, so the read need
//! not see it, and need not hold it up.
//!
//! [`LatchTable`] is the pure part: requests in, "may go" out. [`Latches`] puts tasks to sleep and wakes them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use storage::ids::KeyRange;
use tokio::sync::oneshot;

/// How a span is latched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Together with other shared latches.
    Shared,
    /// Alone.
    Exclusive,
}

impl Mode {
    fn conflicts(self, other: Mode) -> bool {
        self == Mode::Exclusive || other == Mode::Exclusive
    }
}

/// What is latched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// One key.
    Key(Bytes),
    /// A range.
    Range(KeyRange),
}

impl Span {
    fn overlaps_range(&self, range: &KeyRange) -> bool {
        match self {
            Span::Key(key) => range.contains(key),
            Span::Range(own) => own.overlaps(range),
        }
    }
}

/// A request's place in the queue.
pub type Ticket = u64;

#[derive(Debug, Default)]
struct Holder {
    spans: Vec<(Span, Mode)>,
    /// Earlier requests that are in the way.
    waits_for: usize,
    /// Later requests that this one is in the way of.
    in_the_way_of: Vec<Ticket>,
}

/// Who holds or awaits which spans.
///
/// Invariants: a request waits only for requests with lower tickets; of two requests that conflict, the later one
/// goes only when the earlier one is released.
#[derive(Debug, Default)]
pub struct LatchTable {
    next: Ticket,
    holders: HashMap<Ticket, Holder>,
    keys: BTreeMap<(Bytes, Ticket), Mode>,
    /// Requests that latch at least one range; there are few at any time.
    with_ranges: BTreeMap<Ticket, Vec<(KeyRange, Mode)>>,
}

impl LatchTable {
    /// Queues a request for all of `spans` at once. Returns its ticket, and whether it may go now.
    pub fn acquire(&mut self, spans: Vec<(Span, Mode)>) -> (Ticket, bool) {
        let blockers = self.conflicts(&spans);
        let (ticket, ready) = self.enqueue(&blockers);
        for (span, mode) in &spans {
            match span {
                Span::Key(key) => {
                    // The same key twice in one request: the stronger mode counts.
                    let entry = self.keys.entry((key.clone(), ticket)).or_insert(*mode);
                    if *mode == Mode::Exclusive {
                        *entry = Mode::Exclusive;
                    }
                }
                Span::Range(range) => {
                    self.with_ranges.entry(ticket).or_default().push((range.clone(), *mode));
                }
            }
        }
        self.holders.entry(ticket).or_default().spans = spans;
        (ticket, ready)
    }

    /// Queues a request that will hold nothing: it only waits for what is in the way of reading `spans` now.
    /// `None`: nothing is.
    pub fn wait(&mut self, spans: &[(Span, Mode)]) -> Option<Ticket> {
        let blockers = self.conflicts(spans);
        if blockers.is_empty() {
            return None;
        }
        Some(self.enqueue(&blockers).0)
    }

    /// Ends a request, whether it held its latches or still waited. Returns the tickets that may go now.
    pub fn release(&mut self, ticket: Ticket) -> Vec<Ticket> {
        let Some(holder) = self.holders.remove(&ticket) else {
            return Vec::new();
        };
        for (span, _) in holder.spans {
            if let Span::Key(key) = span {
                self.keys.remove(&(key, ticket));
            }
        }
        self.with_ranges.remove(&ticket);
        let mut ready = Vec::new();
        for later in holder.in_the_way_of {
            // A later one that gave up waiting is gone.
            if let Some(waiting) = self.holders.get_mut(&later) {
                waiting.waits_for -= 1;
                if waiting.waits_for == 0 {
                    ready.push(later);
                }
            }
        }
        ready
    }

    /// How many requests hold or wait.
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    fn enqueue(&mut self, blockers: &HashSet<Ticket>) -> (Ticket, bool) {
        self.next += 1;
        let ticket = self.next;
        for blocker in blockers {
            if let Some(holder) = self.holders.get_mut(blocker) {
                holder.in_the_way_of.push(ticket);
            }
        }
        self.holders.insert(ticket, Holder { waits_for: blockers.len(), ..Holder::default() });
        (ticket, blockers.is_empty())
    }

    fn conflicts(&self, spans: &[(Span, Mode)]) -> HashSet<Ticket> {
        let mut found = HashSet::new();
        if self.holders.is_empty() {
            return found;
        }
        for (span, mode) in spans {
            match span {
                Span::Key(key) => {
                    let from = (key.clone(), 0);
                    for ((held, ticket), held_mode) in self.keys.range(from..) {
                        if held != key {
                            break;
                        }
                        if mode.conflicts(*held_mode) {
                            found.insert(*ticket);
                        }
                    }
                }
                Span::Range(range) => {
                    for ((held, ticket), held_mode) in self.keys.range((range.start.clone(), 0)..) {
                        if !range.contains(held) {
                            break;
                        }
                        if mode.conflicts(*held_mode) {
                            found.insert(*ticket);
                        }
                    }
                }
            }
            for (ticket, ranges) in &self.with_ranges {
                if ranges.iter().any(|(range, held)| mode.conflicts(*held) && span.overlaps_range(range)) {
                    found.insert(*ticket);
                }
            }
        }
        found
    }
}

#[derive(Default)]
struct Shared {
    table: LatchTable,
    sleepers: HashMap<Ticket, oneshot::Sender<()>>,
}

/// The latches of one leadership.
#[derive(Default)]
pub struct Latches {
    shared: Mutex<Shared>,
}

impl Latches {
    /// Nobody holds one, and nobody waits.
    pub fn is_idle(&self) -> bool {
        self.shared.lock().table.len() == 0
    }

    /// Waits until all of `spans` are latched; they are held until the guard is dropped.
    pub async fn acquire(self: &Arc<Self>, spans: Vec<(Span, Mode)>) -> Guard {
        let (guard, wake) = {
            let mut shared = self.shared.lock();
            let (ticket, ready) = shared.table.acquire(spans);
            let guard = Guard { latches: self.clone(), ticket };
            (guard, (!ready).then(|| shared.sleep(ticket)))
        };
        if let Some(wake) = wake {
            // The sender lives as long as the ticket is in the table.
            let _ = wake.await;
        }
        guard
    }

    /// Waits for the exclusive latches that overlap `spans` at this moment.
    pub async fn wait(self: &Arc<Self>, spans: &[(Span, Mode)]) {
        let (guard, wake) = {
            let mut shared = self.shared.lock();
            let Some(ticket) = shared.table.wait(spans) else {
                return;
            };
            (Guard { latches: self.clone(), ticket }, shared.sleep(ticket))
        };
        let _ = wake.await;
        drop(guard);
    }

    fn release(&self, ticket: Ticket) {
        let mut shared = self.shared.lock();
        shared.sleepers.remove(&ticket);
        for ready in shared.table.release(ticket) {
            if let Some(sleeper) = shared.sleepers.remove(&ready) {
                let _ = sleeper.send(());
            }
        }
    }
}

impl Shared {
    fn sleep(&mut self, ticket: Ticket) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.sleepers.insert(ticket, sender);
        receiver
    }
}

impl std::fmt::Debug for Latches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Latches({})", self.shared.lock().table.len())
    }
}

/// Held latches (or a place in the queue, when the task that waited is gone). Dropping it releases them.
#[derive(Debug)]
pub struct Guard {
    latches: Arc<Latches>,
    ticket: Ticket,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.latches.release(self.ticket);
    }
}

#[cfg(test)]
mod tests;
