//! Checks a bank's history: money is neither made nor lost, and nobody sees it in transit.

use std::fmt;

/// One client's view of all accounts, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When it was asked for and answered, in microseconds since the run began.
    pub span_micros: (u64, u64),
    /// The balances, by account.
    pub balances: Vec<i64>,
    /// The count of transfers that the bank keeps in a row of its own: it grows by one with each.
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

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Anomaly::WrongTotal { at, found } => write!(f, "observation {at} adds up to {found}"),
            Anomaly::WentBack { earlier, later } => {
                write!(f, "observation {later} began after {earlier} had ended, and saw an older bank")
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

/// The anomalies of a history. `transfers` is what the last observation must agree with: acknowledged and unknown ones.
pub fn check(total: i64, observations: &[Observation], acknowledged: i64, unknown: i64) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (at, seen) in observations.iter().enumerate() {
        let found = seen.balances.iter().sum();
        if found != total {
            anomalies.push(Anomaly::WrongTotal { at, found });
        }
    }
    // Sweep by time: among observations that ended before this one began, the greatest count is a lower bound.
    let mut by_end: Vec<usize> = (0..observations.len()).collect();
    by_end.sort_by_key(|i| observations[*i].span_micros.1);
    let mut by_start: Vec<usize> = (0..observations.len()).collect();
    by_start.sort_by_key(|i| observations[*i].span_micros.0);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<usize> = None;
    for later in by_start {
        while let Some(earlier) =
            ended.next_if(|i| observations[*i].span_micros.1 < observations[later].span_micros.0)
        {
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
    if let Some(last) = observations.iter().max_by_key(|o| o.span_micros.1)
        && !(acknowledged..=acknowledged + unknown).contains(&last.transfers)
    {
        anomalies.push(Anomaly::WrongCount { found: last.transfers, acknowledged, unknown });
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(span_micros: (u64, u64), balances: &[i64], transfers: i64) -> Observation {
        Observation { span_micros, balances: balances.to_vec(), transfers }
    }

    #[test]
    fn a_clean_history_has_no_anomalies() {
        let history = [seen((0, 5), &[50, 50], 0), seen((3, 9), &[40, 60], 1), seen((10, 12), &[45, 55], 2)];
        assert_eq!(check(100, &history, 2, 0), []);
    }

    #[test]
    fn money_in_transit_is_a_wrong_total() {
        assert_eq!(
            check(100, &[seen((0, 1), &[40, 50], 0)], 0, 0),
            [Anomaly::WrongTotal { at: 0, found: 90 }]
        );
    }

    #[test]
    fn a_stale_read_goes_back_and_a_concurrent_one_does_not() {
        let concurrent = [seen((0, 10), &[100], 2), seen((5, 12), &[100], 1), seen((20, 21), &[100], 2)];
        assert_eq!(check(100, &concurrent, 2, 0), []);
        let stale = [seen((0, 10), &[100], 2), seen((11, 12), &[100], 1), seen((20, 21), &[100], 2)];
        assert_eq!(check(100, &stale, 2, 0), [Anomaly::WentBack { earlier: 0, later: 1 }]);
    }

    #[test]
    fn a_lost_acknowledged_transfer_is_a_wrong_count() {
        let history = [seen((0, 1), &[100], 4)];
        assert_eq!(
            check(100, &history, 5, 3),
            [Anomaly::WrongCount { found: 4, acknowledged: 5, unknown: 3 }]
        );
        assert_eq!(check(100, &history, 2, 2), []);
    }
}
