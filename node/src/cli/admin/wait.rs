//! Waiting for what takes its time, with its progress on standard error.

use std::time::Duration;

use proto::meta::DescribeResponse;
use storage::seam::{Clock, SystemClock};

use super::progress::{Left, Meter};
use crate::exit::Failure;

/// Between the first two looks, and twice as long between the next ones: most of what is waited for takes a moment.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Between two looks, at most.
const PAUSE: Duration = Duration::from_millis(200);
/// … if a plan is asked for, too: at many shards it takes the leader a moment.
const PAUSE_PLANNED: Duration = Duration::from_millis(500);

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What is.
    Plain,
    /// And what placement would do.
    Planned,
}

/// How an operation stands.
pub enum Progress {
    /// It goes on; so it stands.
    Going(String),
    /// The same, and so much is left.
    Counted(String, Left),
    /// It has ended, as told.
    Ended(String),
}

/// Looks again and again until `look` says that it has ended. Interrupting it interrupts the waiting, not the operation.
pub async fn until(
    host: &str,
    kind: Look,
    limit: Duration,
    look: impl Fn(&DescribeResponse) -> Result<Progress, Failure>,
) -> Result<String, Failure> {
    let mut meter = Meter::new();
    let ended = looked_until(host, kind, limit, look, &mut meter).await;
    meter.clear();
    ended
}

async fn looked_until(
    host: &str,
    kind: Look,
    limit: Duration,
    look: impl Fn(&DescribeResponse) -> Result<Progress, Failure>,
    meter: &mut Meter,
) -> Result<String, Failure> {
    let clock = SystemClock;
    let deadline = clock.now() + limit;
    let pause_max = if kind == Look::Planned { PAUSE_PLANNED } else { PAUSE };
    let mut pause = PAUSE_MIN;
    loop {
        let looked = match kind {
            Look::Plain => super::cluster(host).await,
            Look::Planned => super::planned(host).await,
        };
        // While the meta-group elects, nobody answers.
        let outcome = match looked {
            Ok(cluster) => look(&cluster)?,
            Err(failure) if clock.now() >= deadline => return Err(failure),
            Err(failure) => Progress::Going(failure.to_string()),
        };
        let (going, left) = match outcome {
            Progress::Ended(text) => return Ok(text),
            Progress::Going(text) => (text, None),
            Progress::Counted(text, left) => (text, Some(left)),
        };
        if clock.now() >= deadline {
            return Err(Failure::Unreachable(format!(
                "not yet, after {} s: {going}. It goes on by itself; `flotilla admin operations` shows how far it is",
                limit.as_secs()
            )));
        }
        meter.show(&going, left);
        clock.sleep(pause).await;
        pause = (pause * 2).min(pause_max);
    }
}
