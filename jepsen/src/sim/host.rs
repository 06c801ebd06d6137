//! The simulated operating system, as far as Rust code looks at it: clocks, random bytes, and idleness.
//!
//! `tokio`, `hyper`, `openraft` and the standard library read the clock and draw random bytes by themselves, below any seam of
//! ours. So the program `jepsen` defines `clock_gettime`, `getrandom` and `epoll_wait` itself (`interpose.rs`, in the binary only),
//! and asks here first. Everything is per thread: only the thread that runs a simulation lives in simulated time, RocksDB's own
//! threads and everyone else get the kernel's answers.
//!
//! A node's clocks are not the world's: each runs at its own rate, and its wall clock may jump.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// What the simulated clocks begin at: neither zero nor the present.
const MONOTONIC_START_NS: u64 = 1_000_000_000_000;
const WALL_START_NS: u64 = 1_800_000_000_000_000_000;
const MILLION: i128 = 1_000_000;

/// How a node's clocks deviate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lens {
    /// Parts per million that the monotonic clock is fast.
    pub drift_ppm: i64,
    /// What the wall clock is ahead by.
    pub wall_ahead_ms: i64,
    /// Since when it is fast by that.
    pub since_ns: u64,
    /// What the monotonic clock was ahead by then.
    pub ahead_ns: i64,
}

impl Lens {
    /// What the node's clock shows at a moment.
    fn local(self, now_ns: u64) -> u64 {
        let drift = i128::from(now_ns - self.since_ns) * i128::from(self.drift_ppm) / MILLION;
        (i128::from(now_ns) + i128::from(self.ahead_ns) + drift) as u64
    }

    /// The same clock, which runs at another rate from now on.
    pub fn bent(self, now_ns: u64, drift_ppm: i64) -> Self {
        let ahead_ns = self.local(now_ns) as i64 - now_ns as i64;
        Self { drift_ppm, since_ns: now_ns, ahead_ns, ..self }
    }

    /// How long a time on the node's clock takes.
    pub fn real_ns(self, local_ns: u64) -> u64 {
        (i128::from(local_ns) * MILLION / (MILLION + i128::from(self.drift_ppm))) as u64
    }
}

thread_local! {
    static SIMULATED: Cell<bool> = const { Cell::new(false) };
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
    static LENS: Cell<Lens> = const { Cell::new(Lens { drift_ppm: 0, wall_ahead_ms: 0, since_ns: 0, ahead_ns: 0 }) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
    /// The timeout of the `epoll_wait` that found nothing more to do.
    static IDLE: Cell<Option<i32>> = const { Cell::new(None) };
    static IDLE_WAKER: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// From now on this thread lives in simulated time. Before anything on it has drawn a random number.
pub fn begin(seed: u64) {
    RANDOM.set(seed);
    SIMULATED.set(true);
}

/// Whether the program has been linked so that this works.
#[allow(clippy::disallowed_methods, reason = "it is the interposed clock that is looked at")]
pub fn works() -> bool {
    let before = std::time::Instant::now();
    NOW_NS.set(NOW_NS.get() + 7);
    let passed = before.elapsed().as_nanos();
    NOW_NS.set(NOW_NS.get() - 7);
    passed == 7
}

/// Nanoseconds since the simulation began.
pub fn now_ns() -> u64 {
    NOW_NS.get()
}

/// Time goes on.
pub fn advance_to(now_ns: u64) {
    debug_assert!(now_ns >= NOW_NS.get(), "time does not go back");
    NOW_NS.set(now_ns);
}

/// Which clocks are looked at from now on.
pub fn look_through(lens: Lens) {
    LENS.set(lens);
}

/// Runs a runtime until it has nothing more to do at this moment; in how long, by its own clock, it will.
pub fn run_until_idle(runtime: &tokio::runtime::Runtime) -> Option<u64> {
    IDLE.set(None);
    runtime.block_on(poll_fn(|cx| {
        if IDLE.get().is_some() {
            return Poll::Ready(());
        }
        IDLE_WAKER.set(Some(cx.waker().clone()));
        Poll::Pending
    }));
    IDLE_WAKER.set(None);
    let timeout_ms = IDLE.take().and_then(|timeout| u64::try_from(timeout).ok());
    timeout_ms.map(|ms| ms * 1_000_000)
}

/// What a clock shows, in seconds and nanoseconds; `None`: ask the kernel.
pub fn clock(wall: bool) -> Option<(i64, i64)> {
    if !SIMULATED.get() {
        return None;
    }
    let lens = LENS.get();
    let ns = match wall {
        false => MONOTONIC_START_NS + lens.local(NOW_NS.get()),
        true => (WALL_START_NS + NOW_NS.get()).saturating_add_signed(lens.wall_ahead_ms * 1_000_000),
    };
    Some(((ns / 1_000_000_000) as i64, (ns % 1_000_000_000) as i64))
}

/// Fills with random bytes; false: ask the kernel.
pub fn random(bytes: &mut [u8]) -> bool {
    if !SIMULATED.get() {
        return false;
    }
    for chunk in bytes.chunks_mut(8) {
        let word = next_random().to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    true
}

/// SplitMix64.
fn next_random() -> u64 {
    let state = RANDOM.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    RANDOM.set(state);
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A runtime waits for events, of which there are none: no socket of a simulated node is real. False: ask the kernel.
pub fn idle(timeout_ms: i32) -> bool {
    if !SIMULATED.get() {
        return false;
    }
    if timeout_ms != 0 {
        IDLE.set(Some(timeout_ms));
        IDLE_WAKER.with_borrow(|waker| {
            if let Some(waker) = waker {
                waker.wake_by_ref();
            }
        });
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_whose_rate_changes_does_not_jump() {
        let lens = Lens { drift_ppm: 500_000, ..Lens::default() };
        assert_eq!(lens.local(1_000), 1_500);
        let slow = lens.bent(1_000, -500_000);
        assert_eq!((slow.local(1_000), slow.local(2_000)), (1_500, 2_000));
        let again = slow.bent(2_000, 0);
        assert_eq!((again.local(2_000), again.local(3_000)), (2_000, 3_000));
    }
}
