//! What came of the rounds, as tables.

use std::fmt::Write as _;
use std::time::Duration;

use super::bulk::megabytes;
use super::{Phase, Round, Served};

/// What a line is called, and what it says of a round.
type Line = (&'static str, fn(&Round) -> String);

/// The tables, and what is wrong.
pub fn markdown(rounds: &[Round]) -> String {
    let mut text = String::from("| what |");
    for round in rounds {
        text += if round.interrupted { " killed again on its way back |" } else { " killed once |" };
    }
    text += "\n|---|";
    text += &"--:|".repeat(rounds.len());
    text.push('\n');
    let lines: [Line; 12] = [
        ("written while the node was away", |round| mb(round.written_bytes as f64)),
        ("the node was away for", |round| seconds(round.away)),
        ("statements that were not acknowledged", |round| round.refused.to_string()),
        ("`snapshot_mib_per_second`", |round| round.snapshot_rate.clone()),
        ("**until it had caught up**", |round| round.caught_up.map_or("never".to_owned(), seconds)),
        ("… of what was written, per second", per_second),
        ("came as snapshots", |round| mb(round.arrived.snapshot_bytes)),
        ("went to its log", |round| mb(round.arrived.log_bytes)),
        ("the others sent of snapshots", |round| mb(round.sent.bytes)),
        ("snapshots that went on after a break", |round| format!("{:.0}", round.sent.resumes)),
        ("… and what was not sent again", |round| mb(round.sent.spared_bytes)),
        ("the most memory that the node took", |round| mb(round.arrived.peak_kilobytes * 1_024.0)),
    ];
    for (what, of) in lines {
        let values: Vec<String> = rounds.iter().map(of).collect();
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "| {what} | {} |", values.join(" | "));
    }
    text += "\n| round | phase | calls | due | unanswered | late | p50 | p99 | longest gap |\n\
             |---|---|---|--:|--:|--:|--:|--:|--:|\n";
    for (n, round) in rounds.iter().enumerate() {
        for (phase, served) in &round.served {
            let _ = writeln!(text, "| {} | {} | {} |", n + 1, name(*phase), cells(served));
        }
    }
    for (n, round) in rounds.iter().enumerate() {
        if round.is_well() {
            let _ = writeln!(
                text,
                "\nRound {}: every acknowledged row was there, and `flotilla admin check` found nothing.",
                n + 1
            );
        }
        for failure in &round.failures {
            let _ = writeln!(text, "\nRound {}, NOT AS IT SHOULD BE: {failure}", n + 1);
        }
        if !round.errors.is_empty() {
            let told =
                |(phase, why, count): &(Phase, String, usize)| format!("{}: {why} ({count})", name(*phase));
            let told: Vec<String> = round.errors.iter().map(told).collect();
            let _ = writeln!(text, "\nRound {}, what clients were told: {}", n + 1, told.join("; "));
        }
    }
    text
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Before => "before",
        Phase::Away => "the node is away, others write",
        Phase::Back => "it catches up",
        Phase::After => "it has caught up",
    }
}

fn cells(served: &Served) -> String {
    format!(
        "{} | {} | {} | {} | {} | {} | {}",
        if served.writes { "writes" } else { "reads" },
        served.due,
        served.due - served.answered,
        served.late,
        ms(served.p50),
        ms(served.p99),
        ms(served.gap)
    )
}

fn per_second(round: &Round) -> String {
    match round.caught_up {
        Some(took) if !took.is_zero() => {
            format!("{:.1} MB", megabytes(round.written_bytes) / took.as_secs_f64())
        }
        _ => "–".to_owned(),
    }
}

fn mb(bytes: f64) -> String {
    format!("{:.1} MB", megabytes(bytes as u64))
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::super::{Arrived, Sent};
    use super::*;

    fn round(interrupted: bool, caught_up: Option<Duration>) -> Round {
        let served = Served {
            writes: true,
            due: 40,
            answered: 38,
            late: 3,
            p50: Duration::from_micros(2_500),
            p99: Duration::from_millis(31),
            gap: Duration::from_millis(600),
        };
        Round {
            interrupted,
            written_bytes: 1_000_000_000,
            refused: 0,
            away: Duration::from_secs(60),
            snapshot_rate: "64".to_owned(),
            arrived: Arrived { snapshot_bytes: 9e8, log_bytes: 1e8, peak_kilobytes: 1e6 },
            sent: Sent { bytes: 9e8, resumes: 2.0, spared_bytes: 1e8 },
            caught_up,
            served: vec![(Phase::Away, served)],
            errors: vec![(Phase::Away, "40003: n3 has not answered".to_owned(), 2)],
            failures: caught_up.is_none().then(|| "it is late".to_owned()).into_iter().collect(),
        }
    }

    #[test]
    fn each_line_has_a_cell_for_each_round() {
        let text = markdown(&[round(false, Some(Duration::from_secs(20))), round(true, None)]);
        let first: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
        assert!(first.iter().all(|line| line.matches('|').count() == 4), "{text}");
        assert!(text.contains("| **until it had caught up** | 20.0 s | never |"), "{text}");
        assert!(text.contains("per second | 50.0 MB | – |"), "{text}");
        assert!(
            text.contains(
                "| 2 | the node is away, others write | writes | 40 | 2 | 3 | 2.5 ms | 31.0 ms | 600.0 ms |"
            ),
            "{text}"
        );
        let told = "what clients were told: the node is away, others write: 40003: n3 has not answered (2)";
        assert!(text.contains(told), "{text}");
        assert!(text.contains("Round 1: every acknowledged row was there"), "{text}");
        assert!(text.contains("Round 2, NOT AS IT SHOULD BE: it is late"), "{text}");
    }
}
