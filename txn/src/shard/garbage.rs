//! When a shard is worth collecting: memory only, and nothing that is applied depends on it.
//!
//! A pass looks at every version of the shard, so its cost has to be in proportion to what was written since the last
//! one: a pass is due when a twentieth of what it will look at is new, or after [`ANYWAY`]. What was written lately is
//! garbage only when the safe point has passed it, so a shard that has fallen silent is passed once more, and then rests.
//!
//! Of a shard that holds nothing a twentieth is nothing, too: it is not due before something was written to it, or [`ANYWAY`].
//! (Otherwise an empty one would be passed at each look until the safe point has passed the first pass, and be woken for it.)
//!
//! What an earlier process has left is not known: the first pass comes when the safe point has passed something that was written
//! by this one, or after [`ANYWAY`].

use std::time::{Duration, Instant};

use storage::ids::Timestamp;

/// Versions looked at for one that was written.
const LOOKED_AT_PER_WRITE: u64 = 20;
/// A pass with something to collect waits no longer than this.
const ANYWAY: Duration = Duration::from_secs(600);

/// What is known of a shard's garbage.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Versions written since the last pass began, and those that it left because they were too young.
    written: u64,
    /// The oldest version that this process wrote.
    oldest: Option<Timestamp>,
    /// The newest version that is known of.
    newest: Timestamp,
    /// When it was first asked whether a pass is due.
    looked_at: Option<Instant>,
    last: Option<Pass>,
}

#[derive(Clone, Copy, Debug)]
struct Pass {
    began: Instant,
    safe_point: Timestamp,
    /// Versions that stay: so many will the next one look at.
    kept: u64,
}

impl Garbage {
    /// Versions at `at` were applied.
    pub fn wrote(&mut self, versions: usize, at: Timestamp) {
        // Intents that vanished have left no version.
        if at == Timestamp::ZERO {
            return;
        }
        self.written += versions as u64;
        self.oldest.get_or_insert(at);
        self.newest = self.newest.max(at);
    }

    /// Whether a pass with this safe point is worth while.
    pub fn is_due(&mut self, safe_point: Timestamp, now: Instant) -> bool {
        let since = *self.looked_at.get_or_insert(now);
        let Some(last) = self.last else {
            let passed = self.oldest.is_some_and(|oldest| oldest <= safe_point);
            let left = safe_point > Timestamp::ZERO && now.saturating_duration_since(since) >= ANYWAY;
            return passed || left;
        };
        let more = self.newest.min(safe_point) > last.safe_point;
        let enough = self.written > 0 && self.written.saturating_mul(LOOKED_AT_PER_WRITE) >= last.kept;
        more && (enough || now.saturating_duration_since(last.began) >= ANYWAY)
    }

    /// A pass begins. `now` is a timestamp above all versions there are: what an earlier process wrote is not known.
    pub fn begin(&mut self, now: Timestamp) {
        if self.last.is_none() {
            self.newest = self.newest.max(now);
        }
        self.written = 0;
    }

    /// A pass has looked at all of the shard, and has left `kept` versions, of which `pending` will be garbage.
    pub fn ended(&mut self, began: Instant, safe_point: Timestamp, kept: u64, pending: u64) {
        self.written += pending;
        self.last = Some(Pass { began, safe_point, kept });
    }
}

#[cfg(test)]
mod tests {
    use storage::seam::{Clock, SystemClock};

    use super::*;

    #[test]
    fn a_pass_is_due_for_what_the_safe_point_has_passed() {
        let now = SystemClock.now();
        let mut garbage = Garbage::default();
        assert!(!garbage.is_due(Timestamp::ZERO, now));
        assert!(!garbage.is_due(Timestamp(10), now), "nothing of this process's can be garbage yet");
        assert!(garbage.is_due(Timestamp(10), now + ANYWAY), "an earlier process may have left something");
        garbage.wrote(1, Timestamp(9));
        assert!(!garbage.is_due(Timestamp(8), now), "not below the safe point yet");
        assert!(garbage.is_due(Timestamp(10), now));
        garbage.begin(Timestamp(15));
        garbage.ended(now, Timestamp(10), 100, 0);
        assert!(!garbage.is_due(Timestamp(11), now), "too little for its cost");
        assert!(garbage.is_due(Timestamp(11), now + ANYWAY));
        garbage.begin(Timestamp(30));
        garbage.ended(now, Timestamp(12), 100, 5);
        assert!(garbage.is_due(Timestamp(20), now), "what the pass has left");
        garbage.begin(Timestamp(30));
        garbage.ended(now, Timestamp(30), 100, 0);
        assert!(!garbage.is_due(Timestamp(40), now + ANYWAY), "nothing was written since");
        garbage.wrote(5, Timestamp(35));
        assert!(garbage.is_due(Timestamp(40), now));
        assert!(!garbage.is_due(Timestamp(30), now), "not below the safe point yet");
    }

    #[test]
    fn an_empty_shard_is_passed_seldom_and_in_the_end_never() {
        let now = SystemClock.now();
        let mut garbage = Garbage::default();
        assert!(!garbage.is_due(Timestamp(10), now));
        assert!(garbage.is_due(Timestamp(10), now + ANYWAY));
        garbage.begin(Timestamp(15));
        garbage.ended(now, Timestamp(10), 0, 0);
        assert!(!garbage.is_due(Timestamp(12), now), "there is nothing that could be garbage");
        assert!(garbage.is_due(Timestamp(20), now + ANYWAY));
        garbage.begin(Timestamp(30));
        garbage.ended(now, Timestamp(20), 0, 0);
        assert!(!garbage.is_due(Timestamp(40), now + ANYWAY));
        garbage.wrote(1, Timestamp(35));
        assert!(garbage.is_due(Timestamp(40), now), "the first row");
    }
}
