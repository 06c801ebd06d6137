//! Wrong wall clocks: set by the library of [`disk`](super::disk), and asked for afterwards.
//!
//! The victim itself must say what time it is, over SQL: a clock that was only thought to be wrong proves nothing.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use storage::seam::{Clock, SystemClock};

use super::Harm;
use crate::cluster::Cluster;
use crate::run::{connect, sleep};

/// A strobing clock is wrong for so long, and right for so long.
const STROBE: Duration = Duration::from_millis(150);
/// How often a victim is asked, and for how long.
const ASKED_MAX: usize = 12;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two questions: no multiple of what a strobe takes.
const ASKED_EVERY: Duration = Duration::from_millis(70);

/// Puts the clocks wrong, and asks the victims what time it is.
pub async fn put_wrong(cluster: &Cluster, nodes: &[usize], dice: u64, strobes: bool) -> Result<Harm> {
    let wrong_by = error_ns(dice);
    set(cluster, nodes, wrong_by, if strobes { STROBE } else { Duration::ZERO })?;
    let mut silent = Vec::new();
    for node in nodes {
        match has_changed(cluster, *node, wrong_by / 1_000_000).await {
            Some(true) => {}
            Some(false) => {
                bail!("the clock of node {node} was to be wrong by {} ms, and is not", wrong_by / 1_000_000)
            }
            // Others may keep it from answering.
            None => silent.push(*node),
        }
    }
    match silent.len() < nodes.len() {
        true => Ok(Harm::Done),
        false => Ok(Harm::Refused(format!("nodes {silent:?} do not say what time it is"))),
    }
}

/// From now on the nodes' wall clocks are wrong by so much; with a period, in every other one.
pub fn set(cluster: &Cluster, nodes: &[usize], wrong_by: i64, period: Duration) -> Result<()> {
    let period = i64::try_from(period.as_nanos()).unwrap_or(i64::MAX);
    let numbers = [wrong_by.to_ne_bytes(), period.to_ne_bytes()].concat();
    for node in nodes {
        let path = cluster.node_dir(*node).join("clock");
        // In place: the nodes look at this very file.
        let file = OpenOptions::new().write(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(&numbers));
        written.with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// From a tenth of a second to minutes, each size as likely, forward or back.
fn error_ns(dice: u64) -> i64 {
    let magnitude = 100_000_000_i64 << (dice % 12);
    if dice & (1 << 32) == 0 { magnitude } else { -magnitude }
}

/// Whether the node's clock is wrong by about so much; none if the node doesn't say.
async fn has_changed(cluster: &Cluster, node: usize, wrong_by_ms: i64) -> Option<bool> {
    let url = cluster.url(node);
    let asking = async {
        let session = connect(&url, false).await.ok()?;
        let mut answered = None;
        for _ in 0..ASKED_MAX {
            let before = SystemClock.wall_ms() as i64;
            let rows =
                session.read("SELECT (extract(epoch from clock_timestamp()) * 1000)::bigint::text").await;
            let after = SystemClock.wall_ms() as i64;
            let shown = rows.ok().and_then(|rows| rows.first()?.first()?.as_deref()?.parse::<i64>().ok());
            if let Some(shown) = shown {
                if is_wrong((before, after), shown, wrong_by_ms) {
                    return Some(true);
                }
                answered = Some(false);
            }
            sleep(ASKED_EVERY).await;
        }
        answered
    };
    tokio::time::timeout(ANSWER_TIMEOUT, asking).await.ok().flatten()
}

/// Whether a clock shows a time that is nearer to the wrong one than to the right one, between two looks at ours.
fn is_wrong((before, after): (i64, i64), shown: i64, wrong_by: i64) -> bool {
    let (least, most) = (shown - after, shown - before);
    match wrong_by > 0 {
        true => least > wrong_by / 2,
        false => most < wrong_by / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_if_it_shows_what_it_was_set_to() {
        assert!(is_wrong((1_000, 1_020), 1_110, 100));
        assert!(!is_wrong((1_000, 1_020), 1_010, 100), "it is right");
        assert!(is_wrong((1_000, 1_020), 910, -100));
        assert!(!is_wrong((1_000, 1_020), 1_010, -100), "it is right");
        // An answer that took so long says nothing.
        assert!(!is_wrong((1_000, 1_200), 1_210, 100));
    }
}
