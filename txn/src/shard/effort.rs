//! How much of a processor a piece of work takes.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::time::Duration;

use storage::seam::Clock;

/// Carries out `work`, and tells the processor time that it has taken on the threads that polled it: while it waits, it takes none.
pub(crate) async fn measured<T>(
    clock: &dyn Clock,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> (T, Duration) {
    let mut spent = Duration::ZERO;
    let output = poll_fn(|context| {
        let before = clock.thread_cpu();
        let polled = work.as_mut().poll(context);
        spent += clock.thread_cpu().saturating_sub(before);
        polled
    })
    .await;
    (output, spent)
}
