//! A clock that can be moved on.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use txn::seam::{Clock, SystemClock};

/// The system's clock, and what was added to it.
#[derive(Default)]
pub struct TestClock(Mutex<Duration>);

impl TestClock {
    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        SystemClock.now() + *self.0.lock()
    }

    fn wall_ms(&self) -> u64 {
        SystemClock.wall_ms()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        SystemClock.sleep(duration)
    }
}
