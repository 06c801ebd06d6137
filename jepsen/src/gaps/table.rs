//! The trials as a table.

use std::fmt::Write as _;
use std::time::Duration;

/// One fault.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What kind of fault.
    pub kind: &'static str,
    /// Whether it hit the node that leads the meta-group.
    pub meta: bool,
    /// The longest time without a read.
    pub reads: Duration,
    /// … without a write.
    pub writes: Duration,
    /// The longest time without one of them before the fault.
    pub before: Duration,
    /// The machine's load.
    pub load: f64,
}

impl Trial {
    /// Of both.
    pub fn gap(&self) -> Duration {
        self.reads.max(self.writes)
    }

    /// As a line, while trials go on.
    pub fn line(&self) -> String {
        let of = if self.meta { "meta leader" } else { "shard leader" };
        format!(
            "{:<14} {of:<13} reads {:>5} ms, writes {:>5} ms (before: {} ms, load {:.1})",
            self.kind,
            self.reads.as_millis(),
            self.writes.as_millis(),
            self.before.as_millis(),
            self.load
        )
    }
}

/// The trials of a kind.
#[derive(Clone, Debug)]
pub struct Line {
    /// What kind of fault.
    pub kind: &'static str,
    /// Whether it hit the node that leads the meta-group.
    pub meta: bool,
    /// One after the other.
    pub trials: Vec<Trial>,
}

/// The value that a share of all, in per cent, does not exceed; of none, zero.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// All lines.
pub fn markdown(lines: &[Line]) -> String {
    let mut text =
        "| fault | of the node that leads | trials | gap p50 | p99 | max | reads max | writes max | load |\n\
                    |---|---|--:|--:|--:|--:|--:|--:|--:|\n"
            .to_owned();
    for line in lines {
        let mut gaps: Vec<Duration> = line.trials.iter().map(Trial::gap).collect();
        gaps.sort_unstable();
        let most =
            |of: fn(&Trial) -> Duration| line.trials.iter().map(of).max().unwrap_or_default().as_millis();
        let load = line.trials.iter().map(|trial| trial.load).sum::<f64>() / line.trials.len().max(1) as f64;
        // A String takes everything.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {load:.1} |",
            line.kind,
            if line.meta { "the meta-group, too" } else { "the shards" },
            gaps.len(),
            percentile(&gaps, 50).as_millis(),
            percentile(&gaps, 99).as_millis(),
            percentile(&gaps, 100).as_millis(),
            most(|trial| trial.reads),
            most(|trial| trial.writes),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<Duration> = (1..=20).map(Duration::from_millis).collect();
        let found = [50, 99, 100].map(|percent| percentile(&sorted, percent).as_millis());
        assert_eq!(found, [10, 20, 20]);
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
