//! The oracle's window: a pure piece.
//!
//! The leader of the meta-group hands timestamps out of a window whose end is replicated *before* anything in it is
//! handed out. A later leader starts at that end. So no timestamp is handed out twice, and none goes back, whatever
//! clocks do; the wall clock only keeps timestamps close to what people call time.
//!
//! ```text
//!            handed out           last                      end (replicated)
//!   ──────────────────────────────●─────────────────────────┤
//!                                  free: granted at once      beyond: replicate a new end first
//! ```

use storage::ids::Timestamp;

/// How far ahead of the clock the window reaches. Longer: fewer replicated extensions; shorter: less far from the
/// wall clock after a failover.
pub const WINDOW_MS: u64 = 3_000;

/// So much is left out after a recovery by hand: the end that was replicated last may be lost. What was handed out below it lies
/// [`WINDOW_MS`] above the clock of whoever led then at most; this is by how much the clock here may be behind that one.
pub const SKIPPED_MS: u64 = 60_000;

/// At most this many timestamps in one draw.
pub const DRAW_MAX: u32 = 65_536;

/// One leader's window.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The last one handed out.
    last: Timestamp,
    /// The first one that must not be.
    end: Timestamp,
}

/// What came of a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// `first`, `first + 1`, … are the caller's, as soon as the leadership is confirmed.
    Granted {
        /// The first.
        first: Timestamp,
        /// The window is half used up: extend it now, before anybody has to wait for it.
        low: bool,
    },
    /// Nothing: replicate an end beyond first.
    Exhausted,
}

impl Window {
    /// A new leader's window: empty, above everything handed out by its predecessors.
    pub fn empty(replicated_end: Timestamp) -> Self {
        // The first draw gives `last + 1`, which must not be below the end.
        Self { last: Timestamp(replicated_end.0.saturating_sub(1)), end: replicated_end }
    }

    /// Takes `count` timestamps.
    pub fn draw(&mut self, wall_ms: u64, count: u32) -> Draw {
        let count = u64::from(count.clamp(1, DRAW_MAX));
        let first = (self.last.0 + 1).max(wall_ms << Timestamp::COUNTER_BITS);
        let last = first + (count - 1);
        if last >= self.end.0 {
            return Draw::Exhausted;
        }
        debug_assert!(first > self.last.0);
        self.last = Timestamp(last);
        let low = self.end.0 - last < (WINDOW_MS / 2) << Timestamp::COUNTER_BITS;
        Draw::Granted { first: Timestamp(first), low }
    }

    /// The last one handed out.
    pub fn last(&self) -> Timestamp {
        self.last
    }

    /// Whether the largest draw would be granted now.
    pub fn has_room(&self, wall_ms: u64) -> bool {
        let mut probe = *self;
        matches!(probe.draw(wall_ms, DRAW_MAX), Draw::Granted { .. })
    }

    /// The end to replicate next.
    pub fn wanted_end(&self, wall_ms: u64) -> Timestamp {
        let now = self.last.0.max(wall_ms << Timestamp::COUNTER_BITS);
        Timestamp(now + (WINDOW_MS << Timestamp::COUNTER_BITS))
    }

    /// The end to replicate if the one that counted may be lost.
    pub fn end_beyond_loss(&self, wall_ms: u64) -> Timestamp {
        let now = self.last.0.max(wall_ms << Timestamp::COUNTER_BITS);
        Timestamp(now + (SKIPPED_MS << Timestamp::COUNTER_BITS))
    }

    /// An end has been replicated, and nothing below it is to be handed out.
    pub fn skip_to(&mut self, end: Timestamp) {
        self.last = self.last.max(Timestamp(end.0.saturating_sub(1)));
        self.end = self.end.max(end);
    }

    /// An end has been replicated.
    pub fn extended(&mut self, end: Timestamp) {
        self.end = self.end.max(end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn after_a_loss_it_goes_on_above_what_a_clock_ahead_of_this_one_has_allowed() {
        let at = |ms: u64| Timestamp(ms << Timestamp::COUNTER_BITS);
        // Whoever led was ahead by half a minute, and the last end that was replicated then is lost.
        let lost = at(100_000 + 30_000 + WINDOW_MS);
        let mut window = Window::empty(at(90_000));
        let end = window.end_beyond_loss(100_000);
        window.skip_to(end);
        assert_eq!(
            window.draw(100_000, 1),
            Draw::Exhausted,
            "nothing is handed out before an end beyond is replicated"
        );
        window.extended(window.wanted_end(100_000));
        assert!(matches!(window.draw(100_000, 1), Draw::Granted { first, .. } if first >= end && end > lost));
        // Said again, late, it takes nothing back.
        let last = window.last();
        window.skip_to(at(1));
        assert_eq!(window.last(), last);
    }

    proptest! {
        /// Whatever the clocks of successive leaders say, what they hand out only grows.
        #[test]
        fn draws_across_leaders_only_grow(
            steps in prop::collection::vec((0u64..10_000, 1u32..200, any::<bool>(), any::<bool>()), 1..200)
        ) {
            let mut replicated = Timestamp::ZERO;
            let mut window = Window::empty(replicated);
            let mut highest = Timestamp::ZERO;
            for (wall_ms, count, failover, told) in steps {
                if failover {
                    window = Window::empty(replicated);
                }
                match window.draw(wall_ms, count) {
                    Draw::Granted { first, .. } => {
                        prop_assert!(first > highest);
                        highest = Timestamp(first.0 + u64::from(count - 1));
                        prop_assert!(highest < replicated);
                    }
                    Draw::Exhausted => {
                        let end = window.wanted_end(wall_ms);
                        replicated = replicated.max(end);
                        // The leader may fail between replicating the end and hearing of it.
                        if told {
                            window.extended(end);
                        }
                    }
                }
            }
        }
    }
}
