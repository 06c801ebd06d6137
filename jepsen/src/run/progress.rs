//! A line every few seconds while a run goes on.

use std::time::Duration;

use super::sleep;
use crate::history::Recorder;

const EVERY: Duration = Duration::from_secs(10);

/// Tells how far the run is, until it is dropped.
#[allow(clippy::print_stderr, reason = "progress is for whoever watches")]
pub(super) async fn tell(recorder: &Recorder, time: Duration) {
    loop {
        sleep(EVERY).await;
        let tally = recorder.tally();
        let now = recorder.clock().elapsed().as_secs();
        let faults = match &tally.under_way[..] {
            [] => String::new(),
            names => format!("; now {}", names.join(", ")),
        };
        eprintln!(
            "  {now:>4} of {} s: {} ok, {} failed, {} unknown; {} faults, {} refused{faults}",
            time.as_secs(),
            tally.ok,
            tally.failed,
            tally.unknown,
            tally.faults,
            tally.refused
        );
    }
}
