//! The bank: money is neither made nor lost, and nobody sees it in transit.
//!
//! Reads `:open total`, `:transfer` and `:read {:accounts {0 50, 1 50}, :transfers 7}`, where the bank counts its transfers in a row
//! of its own: the count orders all observations.

use std::fmt;

use super::Verdict;
use crate::history::{History, Kind, Value};

/// One client's view of all accounts, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The places of question and answer in the history.
    pub span: (usize, usize),
    /// The balances, by account.
    pub balances: Vec<i64>,
    /// How many transfers there have been.
    pub transfers: i64,
}

/// What no serializable execution allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// The balances do not add up.
    WrongTotal {
        /// Which observation.
        at: usize,
        /// Its sum.
        found: i64,
    },
    /// An observation that began after another had ended saw an older bank (a stale read).
    WentBack {
        /// The earlier observation.
        earlier: usize,
        /// The later one, which saw fewer transfers.
        later: usize,
    },
    /// Two observations after the same number of transfers differ.
    Differ {
        /// One.
        one: usize,
        /// The other.
        other: usize,
    },
    /// Fewer transfers are in the bank in the end than were acknowledged (a lost write), or more than were tried.
    WrongCount {
        /// In the bank.
        found: i64,
        /// Acknowledged.
        acknowledged: i64,
        /// Of unknown outcome.
        unknown: i64,
    },
}

impl Anomaly {
    fn name(&self) -> &'static str {
        match self {
            Anomaly::WrongTotal { .. } => "wrong-total",
            Anomaly::WentBack { .. } => "stale-read",
            Anomaly::Differ { .. } => "snapshots-differ",
            Anomaly::WrongCount { .. } => "lost-transfers",
        }
    }

    fn observations(&self) -> Vec<usize> {
        match self {
            Anomaly::WrongTotal { at, .. } => vec![*at],
            Anomaly::WentBack { earlier, later } => vec![*earlier, *later],
            Anomaly::Differ { one, other } => vec![*one, *other],
            Anomaly::WrongCount { .. } => Vec::new(),
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Anomaly::WrongTotal { found, .. } => write!(f, "an observation adds up to {found}"),
            Anomaly::WentBack { .. } => {
                f.write_str("the second began after the first had ended, and saw an older bank")
            }
            Anomaly::Differ { .. } => {
                f.write_str("two observations after the same number of transfers differ")
            }
            Anomaly::WrongCount { found, acknowledged, unknown } => {
                write!(
                    f,
                    "{found} transfers are there; {acknowledged} were acknowledged, {unknown} are unknown"
                )
            }
        }
    }
}

/// Checks a history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("bank");
    let mut observations = Vec::new();
    for call in history.calls_of("read") {
        if let Some(answer) = call.ok()
            && let Some(seen) = observation(call.invoke.index, answer.index, &answer.value)
        {
            observations.push(seen);
        }
    }
    let count = |kind| history.calls_of("transfer").filter(|call| call.outcome() == kind).count() as i64;
    let (acknowledged, unknown) = (count(Kind::Ok), count(Kind::Info));
    verdict.note(format!(
        "{} observations; {acknowledged} transfers acknowledged, {unknown} unknown, {} refused",
        observations.len(),
        count(Kind::Fail)
    ));
    let opened = history.calls_of("open").find_map(|call| call.invoke.value.as_int());
    let first = observations.first().map(|seen| seen.balances.iter().sum());
    let Some(total) = opened.or(first) else {
        verdict.unknown("nobody looked at the bank");
        return verdict;
    };
    for anomaly in find(total, &observations, acknowledged, unknown) {
        let seen = anomaly.observations();
        let mut about = anomaly.to_string();
        for at in &seen {
            about += &format!("\n{}", history.ops()[observations[*at].span.1]);
        }
        verdict.anomaly(anomaly.name(), about, seen.iter().map(|at| observations[*at].span.0).collect());
    }
    verdict
}

fn observation(asked: usize, answered: usize, value: &Value) -> Option<Observation> {
    let Value::Map(accounts) = value.get("accounts")? else { return None };
    let balances = accounts.iter().map(|(_, balance)| balance.as_int()).collect::<Option<_>>()?;
    Some(Observation { span: (asked, answered), balances, transfers: value.get("transfers")?.as_int()? })
}

/// The anomalies of observations. The last one must agree with the acknowledged and unknown transfers.
pub fn find(total: i64, observations: &[Observation], acknowledged: i64, unknown: i64) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (at, seen) in observations.iter().enumerate() {
        let found = seen.balances.iter().sum();
        if found != total {
            anomalies.push(Anomaly::WrongTotal { at, found });
        }
    }
    let mut by_count: Vec<usize> = (0..observations.len()).collect();
    by_count.sort_by_key(|i| observations[*i].transfers);
    for pair in by_count.windows(2) {
        let (one, other) = (&observations[pair[0]], &observations[pair[1]]);
        if one.transfers == other.transfers && one.balances != other.balances {
            anomalies.push(Anomaly::Differ { one: pair[0], other: pair[1] });
        }
    }
    // Sweep by time: among observations that ended before this one began, the greatest count is a lower bound.
    let mut by_end: Vec<usize> = (0..observations.len()).collect();
    by_end.sort_by_key(|i| observations[*i].span.1);
    let mut by_start: Vec<usize> = (0..observations.len()).collect();
    by_start.sort_by_key(|i| observations[*i].span.0);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<usize> = None;
    for later in by_start {
        while let Some(earlier) = ended.next_if(|i| observations[*i].span.1 < observations[later].span.0) {
            if newest.is_none_or(|n| observations[n].transfers < observations[earlier].transfers) {
                newest = Some(earlier);
            }
        }
        if let Some(earlier) = newest
            && observations[earlier].transfers > observations[later].transfers
        {
            anomalies.push(Anomaly::WentBack { earlier, later });
        }
    }
    if let Some(last) = observations.iter().max_by_key(|o| o.span.1)
        && !(acknowledged..=acknowledged + unknown).contains(&last.transfers)
    {
        anomalies.push(Anomaly::WrongCount { found: last.transfers, acknowledged, unknown });
    }
    anomalies
}
