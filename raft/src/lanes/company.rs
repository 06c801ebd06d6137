//! Whether a lane's turn waits for company.
//!
//! Tokio runs a task that was woken next, on the thread that woke it. So if ten callers have their answers, the first one's next proposal
//! would go all the way through its lane, into a message of its own and into the socket, before the second caller is run. Therefore a turn is
//! put off until the thread has nothing else to do (and has looked at the network): then all ten proposals are there.
//!
//! On a thread that has nothing else to do anyway that costs a look at the network. On one that is kept busy by something else, as by
//! an analytic query, it could take long. A wait that has taken longer than a limit is therefore the last one for [`PAUSE`].

use std::time::{Duration, Instant};

/// For so long no turn waits after one that has waited for too long.
const PAUSE: Duration = Duration::from_secs(1);

/// When to wait.
#[derive(Debug)]
pub(super) struct Company {
    /// A wait may take so long; zero: none is made.
    wait_max: Duration,
    /// When the turn was put off that waits.
    since: Option<Instant>,
    /// None waits until then.
    pause_end: Option<Instant>,
}

impl Company {
    pub fn new(wait_max: Duration) -> Self {
        Self { wait_max, since: None, pause_end: None }
    }

    /// Whether the turn that is to begin now is put off. Asked for the same one again it says no.
    pub fn is_awaited(&mut self, now: Instant) -> bool {
        if let Some(since) = self.since.take() {
            if now.saturating_duration_since(since) > self.wait_max {
                self.pause_end = Some(now + PAUSE);
            }
            return false;
        }
        if self.wait_max.is_zero() || self.pause_end.is_some_and(|end| now < end) {
            return false;
        }
        self.since = Some(now);
        true
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
