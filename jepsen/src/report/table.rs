//! The table of a campaign: workloads down, families of faults across.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::checker::{Validity, Verdict};
use crate::history::Tally;
use crate::run::Outcome;

/// One run of a campaign.
#[derive(Clone, Debug)]
pub struct Row {
    /// What clients asked.
    pub workload: String,
    /// What was done to the cluster.
    pub faults: String,
    /// Of schedule and clients.
    pub seed: u64,
    /// What the checkers of safety say: all but that of availability.
    pub safety: Validity,
    /// What is wrong, or why nobody knows.
    pub wrong: Vec<String>,
    /// Calls and faults.
    pub tally: Tally,
    /// The longest time without an answer under faults of a minority, if there were any.
    pub gap: Option<Duration>,
    /// Whether that was too long.
    pub slow: bool,
    /// How long clients worked.
    pub worked: Duration,
}

/// The checker that is not about safety.
const AVAILABILITY: &str = "availability";

impl Row {
    /// Of a run that came to an end.
    pub fn new(workload: &str, faults: &str, seed: u64, worked: Duration, outcome: &Outcome) -> Self {
        let (slow, safety): (Vec<&Verdict>, Vec<&Verdict>) =
            outcome.verdicts.iter().partition(|verdict| verdict.checker == AVAILABILITY);
        let worst = safety.iter().map(|verdict| verdict.validity).max().unwrap_or(Validity::Unknown);
        let unsure = if outcome.troubles.is_empty() { Validity::Valid } else { Validity::Unknown };
        let mut wrong: Vec<String> = Vec::new();
        for verdict in safety.iter().filter(|verdict| verdict.validity != Validity::Valid) {
            match verdict.names()[..] {
                [] => wrong.push(format!("{}: {}", verdict.checker, verdict.notes.join("; "))),
                ref names => wrong.push(format!("{}: {}", verdict.checker, names.join(" "))),
            }
        }
        wrong.extend(outcome.troubles.iter().map(|trouble| format!("trouble: {trouble}")));
        Self {
            workload: workload.to_owned(),
            faults: faults.to_owned(),
            seed,
            safety: worst.max(unsure),
            wrong,
            tally: outcome.tally.clone(),
            gap: outcome.gap,
            slow: slow.iter().any(|verdict| verdict.validity == Validity::Invalid),
            worked,
        }
    }

    /// Of one that did not.
    pub fn failed(workload: &str, faults: &str, seed: u64, why: String) -> Self {
        Self {
            workload: workload.to_owned(),
            faults: faults.to_owned(),
            seed,
            safety: Validity::Unknown,
            wrong: vec![why],
            tally: Tally::default(),
            gap: None,
            slow: false,
            worked: Duration::ZERO,
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        format!(
            "{:<12} {:<10} seed {:<6} {:<7} {:>6} ok {:>5} failed {:>4} unknown {:>3} faults ({} refused), gap {}{} {}",
            self.workload,
            self.faults,
            self.seed,
            word(self.safety),
            self.tally.ok,
            self.tally.failed,
            self.tally.unknown,
            self.tally.faults,
            self.tally.refused,
            seconds(self.gap, 2),
            if self.slow { " (too long)" } else { "" },
            self.wrong.join("; ")
        )
    }
}

/// A dash: nobody looked.
fn seconds(gap: Option<Duration>, digits: usize) -> String {
    gap.map_or_else(|| "–".to_owned(), |gap| format!("{:.digits$} s", gap.as_secs_f64()))
}

fn word(validity: Validity) -> &'static str {
    match validity {
        Validity::Valid => "valid",
        Validity::Unknown => "UNKNOWN",
        Validity::Invalid => "INVALID",
    }
}

/// Markdown: the matrix, what was not valid, the longest gaps, sums. `preface` says what was run on what.
pub fn markdown(preface: &str, rows: &[Row]) -> String {
    let mut text = format!("{preface}\n\n");
    let mut columns: Vec<&str> = Vec::new();
    let mut cells: BTreeMap<&str, BTreeMap<&str, Vec<&Row>>> = BTreeMap::new();
    for row in rows {
        if !columns.contains(&&row.faults[..]) {
            columns.push(&row.faults);
        }
        cells.entry(&row.workload).or_default().entry(&row.faults).or_default().push(row);
    }
    columns.sort_unstable();
    // Writing to a string can't fail.
    let _ = writeln!(text, "| workload | {} |", columns.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
    for (workload, of) in &cells {
        let shown = columns.iter().map(|column| of.get(column).map_or_else(String::new, |rows| cell(rows)));
        let _ = writeln!(text, "| {workload} | {} |", shown.collect::<Vec<_>>().join(" | "));
    }
    let sum = |of: fn(&Tally) -> u64| rows.iter().map(|row| of(&row.tally)).sum::<u64>();
    let worked: Duration = rows.iter().map(|row| row.worked).sum();
    let _ = writeln!(
        text,
        "\n{} runs, in which clients worked for {:.0} minutes: {} calls happened, {} failed, {} ended unknown; {} faults.",
        rows.len(),
        worked.as_secs_f64() / 60.0,
        sum(|tally| tally.ok),
        sum(|tally| tally.failed),
        sum(|tally| tally.unknown),
        sum(|tally| tally.faults)
    );
    let of = |validity| rows.iter().filter(|row| row.safety == validity).count();
    let _ = writeln!(
        text,
        "Safety: {} valid, {} invalid, {} unknown. Gaps beyond the bound: in {} runs.",
        of(Validity::Valid),
        of(Validity::Invalid),
        of(Validity::Unknown),
        rows.iter().filter(|row| row.slow).count()
    );
    text += &kinds(rows);
    let bad: Vec<&Row> = rows.iter().filter(|row| row.safety != Validity::Valid).collect();
    if !bad.is_empty() {
        let _ = writeln!(text, "\nNot valid:\n");
    }
    for row in bad {
        let why = row.wrong.join("; ").replace('\n', " ");
        let why: String = why.chars().take(600).collect();
        let (workload, faults, seed) = (&row.workload, &row.faults, row.seed);
        let _ = writeln!(text, "- {workload}, {faults}, seed {seed}: {}: {why}", word(row.safety));
    }
    text
}

/// How often which fault was done: a row says only how many there were.
fn kinds(rows: &[Row]) -> String {
    let mut counts: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for (kind, of) in rows.iter().flat_map(|row| &row.tally.kinds) {
        let sum = counts.entry(kind).or_default();
        *sum = [sum[0] + of[0], sum[1] + of[1]];
    }
    let told = |(kind, [done, refused]): (&&str, &[u64; 2])| match refused {
        0 => format!("{kind} {done}"),
        _ => format!("{kind} {done} ({refused} refused)"),
    };
    let (done, never): (Vec<_>, Vec<_>) = counts.iter().partition(|(_, [done, _])| *done > 0);
    let list = |of: Vec<_>| of.into_iter().map(told).collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    if !done.is_empty() {
        text += &format!("\nFaults done: {}.\n", list(done));
    }
    if !never.is_empty() {
        text += &format!("\nFaults that were asked for and **never done**: {}.\n", list(never));
    }
    text
}

fn cell(rows: &[&Row]) -> String {
    let worst = rows.iter().map(|row| row.safety).max().unwrap_or(Validity::Unknown);
    let mark = match worst {
        Validity::Valid => "✓",
        Validity::Unknown => "**?**",
        Validity::Invalid => "**✗**",
    };
    let calls: u64 = rows.iter().map(|row| row.tally.ok).sum();
    let faults: u64 = rows.iter().map(|row| row.tally.faults).sum();
    let gap = rows.iter().filter_map(|row| row.gap).max();
    format!("{mark} {calls} / {faults} / {}", seconds(gap, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_sums_cells_up_and_names_what_is_wrong() {
        let mut good = Row::failed("bank", "disk", 1, String::new());
        good.safety = Validity::Valid;
        good.wrong.clear();
        let kinds = [("kill".to_owned(), [2, 0]), ("move".to_owned(), [0, 1])].into();
        good.tally = Tally { ok: 10, faults: 2, kinds, ..Tally::default() };
        good.gap = Some(Duration::from_millis(300));
        good.worked = Duration::from_secs(60);
        let more = Row { seed: 2, gap: Some(Duration::from_millis(900)), ..good.clone() };
        let bad = Row::failed("set", "clock", 1, "no cluster".to_owned());
        let text = markdown("# Soak", &[good, more, bad]);
        assert!(text.starts_with("# Soak\n\n| workload | clock | disk |\n|---|---|---|\n"), "{text}");
        assert!(text.contains("| bank |  | ✓ 20 / 4 / 0.9 s |\n"), "{text}");
        assert!(text.contains("| set | **?** 0 / 0 / – |  |\n"), "{text}");
        assert!(text.contains("3 runs, in which clients worked for 2 minutes: 20 calls happened"), "{text}");
        assert!(text.contains("Faults done: kill 4.\n"), "{text}");
        assert!(text.contains("**never done**: move 0 (2 refused).\n"), "{text}");
        assert!(text.contains("- set, clock, seed 1: UNKNOWN: no cluster\n"), "{text}");
    }
}
