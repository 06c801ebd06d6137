//! What a shard's leader has been asked, for placement: load is what moves leaders and splits shards.
//!
//! Of some requests a key is kept: where a shard that is asked too much is to be cut, so that each half gets about half of
//! the requests. One request in [`SAMPLED`] pays for it with a short lock, which it doesn't wait for.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::shard::request::Body as Ask;

/// One request in so many has its key remembered.
const SAMPLED: u64 = 16;
/// So many keys are kept, the last ones.
const SAMPLES_MAX: usize = 256;
/// Fewer say nothing.
const SAMPLES_MIN: usize = 64;
/// Of the remembered requests at least this part must lie on either side of a cut, in hundredths: else it is one key, or a
/// few neighbours, that get them all, and a cut doesn't help.
const SIDE_MIN: usize = 25;
/// Of a longer key so much is kept. (A cut may be anywhere.)
const KEY_BYTES_MAX: usize = 128;

/// Requests since the shard was opened.
#[derive(Debug, Default)]
pub struct Traffic {
    reads: AtomicU64,
    writes: AtomicU64,
    sample: Mutex<Sample>,
}

/// The last keys, in the order in which they came round.
#[derive(Debug, Default)]
struct Sample {
    keys: Vec<Bytes>,
    next: usize,
}

impl Traffic {
    /// Counts a request. What only keeps house is not counted.
    pub(crate) fn count(&self, ask: &Ask) {
        let counter = match ask {
            Ask::Read(_) | Ask::Scan(_) | Ask::Validate(_) => &self.reads,
            Ask::Commit(_)
            | Ask::Prewrite(_)
            | Ask::CommitPrimary(_)
            | Ask::Resolve(_)
            | Ask::LockRows(_) => &self.writes,
            _ => return,
        };
        let count = counter.fetch_add(1, Ordering::Relaxed);
        // Scattered: requests come in patterns, and every sixteenth might always be of the same kind.
        if count.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32 & (SAMPLED - 1) == 0
            && let Some(key) = key_of(ask)
        {
            self.remember(key);
        }
    }

    fn remember(&self, key: &Bytes) {
        let Some(mut sample) = self.sample.try_lock() else { return };
        // A copy: a slice of the request would keep all of it.
        let key = Bytes::copy_from_slice(&key[..key.len().min(KEY_BYTES_MAX)]);
        let next = sample.next;
        match sample.keys.get_mut(next) {
            Some(oldest) => *oldest = key,
            None => sample.keys.push(key),
        }
        sample.next = (next + 1) % SAMPLES_MAX;
    }

    /// Those that only read, and those that write.
    pub fn counted(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.writes.load(Ordering::Relaxed))
    }

    /// A key that has about half of the requests before it; `None` if there is none, or too little is known.
    pub(crate) fn middle(&self) -> Option<Bytes> {
        let mut keys = self.sample.lock().keys.clone();
        keys.sort();
        if keys.len() < SAMPLES_MIN {
            return None;
        }
        // Before a cut lies what is below it: the places where one key ends and the next begins.
        let cuts = (1..keys.len()).filter(|at| keys[at - 1] != keys[*at]);
        let side = |at: &usize| (*at).min(keys.len() - at);
        let best = cuts.max_by_key(side)?;
        (side(&best) * 100 >= keys.len() * SIDE_MIN).then(|| keys[best].clone())
    }

    /// The shard is another than it was: what was remembered of the part that it doesn't hold any more says nothing.
    pub(crate) fn forget_keys(&self) {
        *self.sample.lock() = Sample::default();
    }
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
        keys.for_each(|key| traffic.count(&ask(key)));
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
}
