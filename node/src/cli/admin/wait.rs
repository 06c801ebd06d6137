//! Waiting for what takes its time, with its progress on standard error if that is a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use proto::meta::DescribeResponse;
use storage::seam::{Clock, SystemClock};

use crate::exit::Failure;

/// Between two looks.
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
    let clock = SystemClock;
    let deadline = clock.now() + limit;
    let mut stderr = std::io::stderr();
    let interactive = stderr.is_terminal();
    let mut shown = String::new();
    loop {
        // While the meta-group elects, nobody answers.
        let looked = match kind {
            Look::Plain => super::cluster(host).await,
            Look::Planned => super::planned(host).await,
        };
        let outcome = match looked {
            Ok(cluster) => look(&cluster)?,
            Err(failure) if clock.now() >= deadline => return Err(failure),
            Err(failure) => Progress::Going(failure.to_string()),
        };
        let going = match outcome {
            Progress::Ended(text) => {
                if interactive && !shown.is_empty() {
                    let _ = write!(stderr, "\r\x1b[K");
                }
                return Ok(text);
            }
            Progress::Going(text) => text,
        };
        if clock.now() >= deadline {
            return Err(Failure::Unreachable(format!(
                "not yet, after {} s: {going}. It goes on by itself; `flotilla admin operations` shows how far it is",
                limit.as_secs()
            )));
        }
        if interactive && going != shown {
            let _ = write!(stderr, "\r\x1b[K{going}");
            let _ = stderr.flush();
            shown = going;
        }
        clock.sleep(if kind == Look::Planned { PAUSE_PLANNED } else { PAUSE }).await;
    }
}
