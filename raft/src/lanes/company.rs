//! Whether a lane's turn waits for company.
//!
//! Tokio runs a task that was woken next, on the thread that woke it. So if ten callers have their answers, the first one's next
//! proposal would go all the way through its lane, into a message of its own and into the socket, before the second caller is
//! run. Therefore a turn is put off until the thread has nothing else to do (and has looked at the network): then all ten
//! proposals are there.
//!
//! On a thread that has nothing else to do anyway that costs a look at the network, and whatever tokio does when a thread runs
//! out of tasks. So after a wait that has brought nobody, a few turns don't wait. On a thread that is kept busy by something
//! else, as by an analytic query, a wait could take long. One that has taken longer than a limit is therefore the last one for
//! [`PAUSE`].

use std::time::{Duration, Instant};

/// For so long no turn waits after one that has waited for too long.
const PAUSE: Duration = Duration::from_secs(1);
/// Fewer polls of tasks are a turn of one group, maybe two.
pub(super) const COMPANY_POLLS_MIN: u64 = 8;
/// So many turns don't wait after one that has waited for nobody.
const SKIPPED: u32 = 3;

/// When to wait.
#[derive(Debug)]
pub(super) struct Company {
    /// A wait may take so long; zero: none is made.
    wait_max: Duration,
    /// When the turn was put off that waits.
    since: Option<Instant>,
    /// None waits until then.
    pause_end: Option<Instant>,
    /// The turn that is now has waited.
    has_waited: bool,
    /// Turns to come that don't wait.
    skips: u32,
}

impl Company {
    pub fn new(wait_max: Duration) -> Self {
        Self { wait_max, since: None, pause_end: None, has_waited: false, skips: 0 }
    }

    /// Whether the turn that is to begin now is put off. Asked for the same one again it says no.
    pub fn is_awaited(&mut self, now: Instant) -> bool {
        if let Some(since) = self.since.take() {
            if now.saturating_duration_since(since) > self.wait_max {
                self.pause_end = Some(now + PAUSE);
            }
            self.has_waited = true;
            return false;
        }
        self.has_waited = false;
        if self.skips > 0 {
            self.skips -= 1;
            return false;
        }
        if self.wait_max.is_zero() || self.pause_end.is_some_and(|end| now < end) {
            return false;
        }
        self.since = Some(now);
        true
    }

    /// In the turn tasks were polled so many times.
    pub fn came(&mut self, polls: u64) {
        if self.has_waited && polls < COMPANY_POLLS_MIN {
            self.skips = SKIPPED;
        }
    }
}

#[cfg(test)]
mod tests {
    use storage::seam::Seams;

    use super::*;

    #[test]
    fn a_turn_waits_once() {
        let now = Seams::real().clock.now();
        let mut company = Company::new(Duration::from_millis(1));
        for _ in 0..3 {
            assert!(company.is_awaited(now));
            assert!(!company.is_awaited(now + Duration::from_micros(900)));
        }
    }

    #[test]
    fn the_next_ones_do_not_wait_if_nobody_came() {
        let now = Seams::real().clock.now();
        let mut company = Company::new(Duration::from_millis(1));
        assert!(company.is_awaited(now) && !company.is_awaited(now));
        company.came(COMPANY_POLLS_MIN);
        assert!(company.is_awaited(now) && !company.is_awaited(now));
        company.came(COMPANY_POLLS_MIN - 1);
        for _ in 0..SKIPPED {
            assert!(!company.is_awaited(now));
            company.came(1);
        }
        assert!(company.is_awaited(now));
    }

    #[test]
    fn none_waits_for_a_while_if_it_took_too_long() {
        let now = Seams::real().clock.now();
        let mut company = Company::new(Duration::from_millis(1));
        let late = now + Duration::from_millis(2);
        assert!(company.is_awaited(now));
        assert!(!company.is_awaited(late), "it begins");
        assert!(!company.is_awaited(late), "and the next one does not wait");
        assert!(!company.is_awaited(late + PAUSE / 2));
        assert!(company.is_awaited(late + PAUSE));
    }

    #[test]
    fn none_waits_if_it_may_take_no_time() {
        let now = Seams::real().clock.now();
        assert!(!Company::new(Duration::ZERO).is_awaited(now));
    }
}
