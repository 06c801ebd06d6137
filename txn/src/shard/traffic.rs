//! What a shard's leader has been asked, for placement: load is what moves leaders and splits shards.
//!
//! Of some requests a key is kept: where a shard that is asked too much is to be cut, so that each half gets about half of
//! the requests. One request in [`SAMPLED`] pays for it with a short lock, which it doesn't wait for.
//!
//! A second sample is of processor time: whoever is at work when another [`QUANTUM`] of it has gone has its key kept, with as many
//! quanta as have gone meanwhile. So few requests that take long weigh as much as many that don't.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::shard::request::Body as Ask;

/// One request in so many has its key remembered.
const SAMPLED: u64 = 16;
/// So much processor time has a key remembered.
const QUANTUM: Duration = Duration::from_millis(10);
/// So many keys are kept, the last ones.
const SAMPLES_MAX: usize = 256;
/// Fewer say nothing.
const SAMPLES_MIN: usize = 64;
/// Of what the remembered requests weigh at least this part must lie on either side of a cut, in hundredths: else it is one
/// key, or a few neighbours, that get them all, and a cut doesn't help.
const SIDE_MIN: u64 = 25;
/// Of a longer key so much is kept. (A cut may be anywhere.)
const KEY_BYTES_MAX: usize = 128;

/// Requests since the shard was opened.
#[derive(Debug, Default)]
pub struct Traffic {
    reads: AtomicU64,
    writes: AtomicU64,
    /// Processor time that went into them, in nanoseconds.
    cpu_ns: AtomicU64,
    /// Of requests, each of which weighs 1.
    requests: Mutex<Sample>,
    /// Of processor time, in quanta.
    times: Mutex<Sample>,
}

/// The last keys with their weights, in the order in which they came round.
#[derive(Debug, Default)]
struct Sample {
    keys: Vec<(Bytes, u64)>,
    next: usize,
}

impl Traffic {
    /// Counts a request, and tells the key for which its processor time counts. What only keeps house is not counted.
    pub(crate) fn count(&self, ask: &Ask) -> Option<Bytes> {
        let counter = match ask {
            Ask::Read(_) | Ask::Scan(_) | Ask::Validate(_) => &self.reads,
            Ask::Commit(_)
            | Ask::Prewrite(_)
            | Ask::CommitPrimary(_)
            | Ask::Resolve(_)
            | Ask::LockRows(_) => &self.writes,
            _ => return None,
        };
        let key = key_of(ask).cloned();
        let count = counter.fetch_add(1, Ordering::Relaxed);
        // Scattered: requests come in patterns, and every sixteenth might always be of the same kind.
        if count.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32 & (SAMPLED - 1) == 0
            && let Some(key) = &key
        {
            remember(&self.requests, key, 1);
        }
        key
    }

    /// The leader has evaluated a request that was counted.
    pub(crate) fn spent(&self, key: &Bytes, time: Duration) {
        let quanta = self.add(time);
        if quanta > 0 {
            remember(&self.times, key, quanta);
        }
    }

    /// The leader has applied what a request has come to. (Of which keys is not looked at: those that are written have been
    /// evaluated as well.)
    pub(crate) fn applied(&self, time: Duration) {
        self.add(time);
    }

    /// How many quanta have come to their end with it.
    fn add(&self, time: Duration) -> u64 {
        let (time, quantum) = (time.as_nanos() as u64, QUANTUM.as_nanos() as u64);
        let before = self.cpu_ns.fetch_add(time, Ordering::Relaxed);
        (before + time) / quantum - before / quantum
    }

    /// Those that only read, and those that write.
    pub fn counted(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.writes.load(Ordering::Relaxed))
    }

    /// The processor time that went into them, here and while this replica led.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Ordering::Relaxed))
    }

    /// A key that has about half of the requests before it; `None` if there is none, or too little is known.
    pub(crate) fn middle(&self) -> Option<Bytes> {
        middle(&self.requests)
    }

    /// A key that has about half of the processor time before it.
    pub(crate) fn middle_of_cpu(&self) -> Option<Bytes> {
        middle(&self.times)
    }

    /// The shard is another than it was: what was remembered of the part that it doesn't hold any more says nothing.
    pub(crate) fn forget_keys(&self) {
        *self.requests.lock() = Sample::default();
        *self.times.lock() = Sample::default();
    }
}

fn remember(sample: &Mutex<Sample>, key: &Bytes, weight: u64) {
    let Some(mut sample) = sample.try_lock() else { return };
    // A copy: a slice of the request would keep all of it.
    let key = Bytes::copy_from_slice(&key[..key.len().min(KEY_BYTES_MAX)]);
    let next = sample.next;
    match sample.keys.get_mut(next) {
        Some(oldest) => *oldest = (key, weight),
        None => sample.keys.push((key, weight)),
    }
    sample.next = (next + 1) % SAMPLES_MAX;
}

/// The key that halves the weights, if they can be halved.
fn middle(sample: &Mutex<Sample>) -> Option<Bytes> {
    let mut keys = sample.lock().keys.clone();
    if keys.len() < SAMPLES_MIN {
        return None;
    }
    keys.sort();
    let all: u64 = keys.iter().map(|(_, weight)| weight).sum();
    // Before a cut lies what is below it: the places where one key ends and the next begins.
    let (mut below, mut best): (u64, Option<(u64, &Bytes)>) = (0, None);
    for pair in keys.windows(2) {
        let ((key, weight), (next, _)) = (&pair[0], &pair[1]);
        below += weight;
        let side = below.min(all - below);
        if key != next && best.is_none_or(|(most, _)| side >= most) {
            best = Some((side, next));
        }
    }
    let (side, key) = best?;
    (side * 100 >= all * SIDE_MIN).then(|| key.clone())
}

/// One of the keys that a request is about.
fn key_of(ask: &Ask) -> Option<&Bytes> {
    match ask {
        Ask::Read(r) => r.keys.first(),
        Ask::Scan(r) => r.range.as_ref().map(|range| &range.start),
        Ask::Validate(r) => r.reads.first().map(|range| &range.start),
        Ask::Commit(r) => r.writes.first().map(|write| &write.key),
        Ask::Prewrite(r) => r.writes.first().map(|write| &write.key),
        Ask::CommitPrimary(r) => Some(&r.primary),
        Ask::Resolve(r) => r.keys.first(),
        Ask::LockRows(r) => r.keys.first(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proto::shard as pb;

    use super::*;

    fn ask(key: u32) -> Ask {
        Ask::Read(pb::Read { keys: vec![key.to_be_bytes().to_vec().into()], ..Default::default() })
    }

    fn middle(keys: impl Iterator<Item = u32>) -> Option<u32> {
        let traffic = Traffic::default();
        keys.for_each(|key| {
            traffic.count(&ask(key));
        });
        traffic.middle().map(|key| u32::from_be_bytes(key[..].try_into().unwrap()))
    }

    #[test]
    fn middle_halves_the_requests_and_not_the_keys() {
        // Two thirds of the requests go to the first hundredth of the keys.
        let skewed =
            (0..60_000u32).map(|n| if n % 3 == 0 { n.wrapping_mul(7_919) % 10_000 } else { n % 100 });
        let found = middle(skewed).expect("a middle");
        assert!((40..100).contains(&found), "{found}");
    }

    #[test]
    fn one_key_and_too_few_requests_have_no_middle() {
        assert_eq!(middle((0..100_000).map(|_| 7)), None);
        assert_eq!(middle((0..100_000).map(|n| if n % 10 == 0 { n } else { 50_000 })), None);
        assert_eq!(middle(0..100), None);
        // Two keys are cut apart.
        assert_eq!(middle((0..10_000).map(|n| n % 2)), Some(1));
    }

    #[test]
    fn few_requests_that_take_long_have_their_middle_among_them() {
        let traffic = Traffic::default();
        for n in 0..20_000u32 {
            // One request in a hundred goes to one of the last keys, and takes a thousand times as long.
            let (key, time) = match n % 100 {
                0 => (9_000 + n / 100, Duration::from_millis(20)),
                _ => (n % 9_000, Duration::from_micros(20)),
            };
            let key = traffic.count(&ask(key)).expect("a key");
            traffic.spent(&key, time);
        }
        let of = |key: Option<Bytes>| u32::from_be_bytes(key.expect("a middle")[..].try_into().unwrap());
        assert!((9_060..9_140).contains(&of(traffic.middle_of_cpu())), "{:?}", traffic.middle_of_cpu());
        assert!(of(traffic.middle()) < 9_000);
        assert_eq!(traffic.cpu(), Duration::from_millis(200 * 20) + Duration::from_micros(19_800 * 20));
        // What is applied counts, too, and is nobody's.
        traffic.applied(Duration::from_secs(1));
        assert_eq!(traffic.cpu(), Duration::from_micros(5_396_000));
        traffic.forget_keys();
        assert_eq!(traffic.middle_of_cpu(), None);
    }
}
