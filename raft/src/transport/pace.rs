//! How fast snapshots leave a node: all of them together, so that moves don't take the disk and the network from clients.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use storage::seam::Seams;

/// What was not used may be made up for, by this much.
const BURST: Duration = Duration::from_millis(100);

/// Lets bytes pass at a rate.
pub(crate) struct Pace {
    bytes_per_second: AtomicU64,
    /// When what was let pass will have left, at that rate.
    booked: Mutex<Option<Instant>>,
}

impl Pace {
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: AtomicU64::new(bytes_per_second), booked: Mutex::new(None) }
    }

    /// From now on.
    pub fn set(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Waits until so many bytes may pass.
    pub async fn pass(&self, bytes: usize, seams: &Seams) {
        let pause = self.book(bytes, seams.clock.now());
        if !pause.is_zero() {
            seams.sleep(pause).await;
        }
    }

    fn book(&self, bytes: usize, now: Instant) -> Duration {
        let rate = self.bytes_per_second.load(Ordering::Relaxed).max(1);
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut booked = self.booked.lock();
        let from = booked.map_or(now, |until| until.max(now.checked_sub(BURST).unwrap_or(now)));
        let until = from + takes;
        *booked = Some(until);
        until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_at_the_rate_whoever_sends_them() {
        let pace = Pace::new(1_000_000);
        let now = Seams::real().clock.now();
        let ms = Duration::from_millis;
        assert_eq!(pace.book(200_000, now), ms(200));
        assert_eq!(pace.book(200_000, now), ms(400), "two at once share it");
        assert_eq!(pace.book(100_000, now + ms(1_000)), ms(0), "a pause is made up for, a little");
        assert_eq!(pace.book(100_000, now + ms(1_000)), ms(100));
        pace.set(100_000);
        assert_eq!(pace.book(10_000, now + ms(2_000)), ms(0));
    }
}
