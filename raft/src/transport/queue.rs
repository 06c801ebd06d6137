//! What waits to be sent to one node, and in which order it leaves.
//!
//! Requests of one group leave in the order in which they came: appends must ([`super::intake`]). But
//!
//! - *pulses, elections, and what lays groups to rest go first*. A node that was away is sent all that it lacks, and a pulse behind a hundred megabytes of entries
//!   comes too late: its receiver would be taken for unreachable, and requests to it would fail, though it answers. And an election that
//!   passed the word that its group rests would wake it again;
//! - *groups take turns*, so that one of which the receiver lacks a lot delays the others by one request at a time.
//!
//! Elections may pass appends: a vote is of a later term than whatever its candidate has sent as a leader.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use proto::raft as wire;

/// Requests of groups that may wait, and as many that are urgent.
const REQUESTS_MAX: usize = 8192;

/// A request that waits.
pub(super) struct Queued {
    pub request: wire::Request,
    /// About how much it takes.
    pub bytes: usize,
}

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    urgent: VecDeque<Queued>,
    /// By group; of a group without requests there is nothing.
    groups: HashMap<u64, VecDeque<Queued>>,
    /// The groups that have requests, each once, in the order of their turns.
    turns: VecDeque<u64>,
    /// Requests of groups.
    count: usize,
    /// … and their bytes.
    bytes: usize,
    /// Of the stream that has found nothing here.
    idle: Option<Waker>,
}

impl Queue {
    /// Takes a request in. False: there are too many, or they would have more bytes than this. (What is urgent is small: of that, only
    /// the number is bounded.)
    pub fn push(&mut self, queued: Queued, bytes_max: usize) -> bool {
        if is_urgent(&queued.request) {
            if self.urgent.len() >= REQUESTS_MAX {
                return false;
            }
            self.urgent.push_back(queued);
        } else {
            if self.count >= REQUESTS_MAX || self.bytes + queued.bytes > bytes_max {
                return false;
            }
            self.count += 1;
            self.bytes += queued.bytes;
            let group = queued.request.group;
            let waiting = self.groups.entry(group).or_default();
            if waiting.is_empty() {
                self.turns.push_back(group);
            }
            waiting.push_back(queued);
        }
        if let Some(idle) = self.idle.take() {
            idle.wake();
        }
        true
    }

    /// The next one to be sent.
    pub fn pop(&mut self) -> Option<Queued> {
        if let Some(urgent) = self.urgent.pop_front() {
            return Some(urgent);
        }
        let group = self.turns.pop_front()?;
        let waiting = self.groups.get_mut(&group);
        debug_assert!(
            waiting.as_ref().is_some_and(|waiting| !waiting.is_empty()),
            "whose turn it is has some"
        );
        let waiting = waiting?;
        let queued = waiting.pop_front()?;
        if waiting.is_empty() {
            self.groups.remove(&group);
        } else {
            self.turns.push_back(group);
        }
        self.count -= 1;
        self.bytes -= queued.bytes;
        Some(queued)
    }

    /// Whoever has found nothing is woken by the next request.
    pub fn wake_when_filled(&mut self, stream: &Waker) {
        self.idle = Some(stream.clone());
    }
}

/// It must not wait for what others have to say.
fn is_urgent(request: &wire::Request) -> bool {
    use wire::request::Body;
    matches!(request.body, Some(Body::Pulse(_) | Body::PreVote(_) | Body::Vote(_) | Body::Rest(_)))
}

#[cfg(test)]
mod tests {
    use wire::request::Body;

    use super::*;

    const ROOM: usize = 1000;

    fn queued(id: u64, group: u64, bytes: usize, body: Body) -> Queued {
        let request = wire::Request { id, group, body: Some(body), ..wire::Request::default() };
        Queued { request, bytes }
    }

    fn append(id: u64, group: u64, bytes: usize) -> Queued {
        queued(id, group, bytes, Body::Append(wire::Append::default()))
    }

    fn pulse(id: u64) -> Queued {
        queued(id, 0, 32, Body::Pulse(wire::Pulse::default()))
    }

    fn leaving(queue: &mut Queue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).map(|queued| queued.request.id).collect()
    }

    #[test]
    fn pulses_and_elections_wait_for_no_entries() {
        let mut queue = Queue::default();
        assert!(queue.push(append(1, 7, 900), ROOM));
        assert!(queue.push(append(2, 7, 100), ROOM));
        assert!(!queue.push(append(3, 7, 1), ROOM), "there is no room left");
        assert!(queue.push(pulse(4), ROOM), "and yet for this");
        assert!(queue.push(queued(5, 7, 64, Body::Rest(wire::Rest::default())), ROOM));
        assert!(queue.push(queued(6, 7, 64, Body::PreVote(wire::VoteRequest::default())), ROOM));
        assert!(queue.push(queued(7, 7, 64, Body::Vote(wire::VoteRequest::default())), ROOM));
        assert_eq!(leaving(&mut queue), [4, 5, 6, 7, 1, 2]);
        assert!(queue.push(append(8, 7, 1000), ROOM), "there is room again");
    }

    #[test]
    fn groups_take_turns_and_each_keeps_its_order() {
        let mut queue = Queue::default();
        for id in 1..=4 {
            assert!(queue.push(append(id, 7, 1), ROOM));
        }
        for (id, group) in [(5, 8), (6, 8), (7, 9)] {
            assert!(queue.push(append(id, group, 1), ROOM));
        }
        assert_eq!(queue.pop().map(|queued| queued.request.id), Some(1));
        assert_eq!(queue.pop().map(|queued| queued.request.id), Some(5));
        assert!(queue.push(append(8, 7, 1), ROOM));
        assert_eq!(leaving(&mut queue), [7, 2, 6, 3, 4, 8]);
        assert!(queue.groups.is_empty() && queue.turns.is_empty());
        assert_eq!((queue.count, queue.bytes), (0, 0));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut queue = Queue::default();
        let taken =
            (0..REQUESTS_MAX as u64 + 5).filter(|id| queue.push(append(*id, id % 3, 0), ROOM)).count();
        assert_eq!(taken, REQUESTS_MAX);
        assert!(queue.push(pulse(1), ROOM));
    }
}
