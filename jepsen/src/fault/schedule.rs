//! When what is done to whom: a pure function of the seed and the workload's name.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};

use super::Fault;
use crate::checker::availability::REPLICAS;

/// Before the first fault, clients have this long to warm up; of a short run, a quarter.
const CALM_FIRST: Duration = Duration::from_secs(3);
/// After the last one they work for so long.
const CALM_LAST: Duration = Duration::from_secs(1);
/// Between the end of one fault and the beginning of the next.
const CALM_MS: std::ops::Range<u64> = 2_000..6_000;

/// One fault, planned.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Since the clients began.
    pub at: Duration,
    /// How long until it is undone.
    pub lasts: Duration,
    /// What.
    pub fault: &'static Fault,
    /// Whom: a node that was replaced meanwhile stands for the one in its place.
    pub victims: Vec<usize>,
    /// Whether a majority stays whole.
    pub minority: bool,
    /// What the fault itself leaves to chance.
    pub dice: u64,
}

impl Planned {
    /// For `schedule.json`.
    pub fn json(&self) -> Json {
        json!({
            "at_ms": self.at.as_millis() as u64,
            "lasts_ms": self.lasts.as_millis() as u64,
            "fault": self.fault.name,
            "nodes": self.victims,
            "dice": self.dice,
        })
    }
}

/// The schedules of a run: one, or if mixed one of processes and one of the network. Each workload has others: of many kinds of faults a
/// run has time for some, and all workloads together are to meet all of them.
pub fn plans(
    seed: u64,
    workload: &str,
    faults: &[&'static Fault],
    nodes: usize,
    time: Duration,
    mixed: bool,
) -> Vec<Vec<Planned>> {
    // FNV-1a.
    let name = workload.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let seed = seed ^ name;
    if !mixed {
        return vec![draw(seed, faults, nodes, time)];
    }
    let (network, processes): (Vec<_>, Vec<_>) = faults.iter().partition(|fault| fault.needs_links());
    // (Two faults at a time may take a majority together: whoever judges availability adds them up.)
    vec![draw(seed, &processes, nodes, time), draw(!seed, &network, nodes, time)]
}

/// Faults of these kinds, one after the other, all undone before the end.
pub fn draw(seed: u64, faults: &[&'static Fault], nodes: usize, time: Duration) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut plan = Vec::new();
    let mut at = CALM_FIRST.min(time / 4);
    let mut bag: Vec<&'static Fault> = Vec::new();
    let mut too_long = 0;
    // Until none of them fits in.
    while too_long < faults.len() && at + CALM_LAST < time {
        // Each kind comes once before any comes again.
        if bag.is_empty() {
            bag = faults.choose_multiple(&mut rng, faults.len()).copied().collect();
        }
        let Some(fault) = bag.pop() else { break };
        let (min, max) = fault.lasts;
        let left = time.saturating_sub(at + CALM_LAST);
        if left < min {
            too_long += 1;
            continue;
        }
        too_long = 0;
        let millis = min.as_millis() as u64..=max.min(left).as_millis() as u64;
        let lasts = Duration::from_millis(rng.random_range(millis));
        let everyone: Vec<usize> = (1..=nodes).collect();
        let count = fault.victims.count(nodes).min(nodes);
        let mut victims: Vec<usize> = everyone.choose_multiple(&mut rng, count).copied().collect();
        victims.sort_unstable();
        plan.push(Planned {
            at,
            lasts,
            fault,
            // Of larger clusters, the nodes may be all but one of a shard's replicas.
            minority: 2 * victims.len() < nodes.min(REPLICAS),
            victims,
            dice: rng.random(),
        });
        at += lasts + Duration::from_millis(rng.random_range(CALM_MS));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_schedule() {
        let faults: Vec<&Fault> = super::super::ALL.iter().collect();
        let shown = |seed| format!("{:?}", draw(seed, &faults, 3, Duration::from_secs(60)));
        assert_eq!(shown(7), shown(7));
        assert_ne!(shown(7), shown(8));
    }

    #[test]
    fn all_workloads_together_meet_all_faults() {
        for family in super::super::Family::ALL {
            let faults: Vec<&Fault> = super::super::ALL.iter().filter(|f| f.family() == family).collect();
            let drawn =
                |workload: &str| plans(7, workload, &faults, 5, Duration::from_secs(60), false).concat();
            let workloads = crate::workload::ALL.iter();
            let all: Vec<Planned> = workloads.flat_map(|entry| drawn(entry.name)).collect();
            for fault in &faults {
                assert!(all.iter().any(|planned| planned.fault.name == fault.name), "{}", fault.name);
            }
        }
    }

    #[test]
    fn mixed_faults_are_drawn_apart() {
        let faults: Vec<&Fault> = super::super::ALL.iter().collect();
        let plans = plans(3, "bank", &faults, 3, Duration::from_secs(60), true);
        assert_eq!(plans.len(), 2);
        assert!(plans[0].iter().all(|p| !p.fault.needs_links()) && !plans[0].is_empty());
        assert!(plans[1].iter().all(|p| p.fault.needs_links()) && !plans[1].is_empty());
    }

    #[test]
    fn faults_follow_each_other_and_end_in_time() {
        let faults: Vec<&Fault> = super::super::ALL.iter().collect();
        let plan = draw(1, &faults, 5, Duration::from_secs(400));
        assert!(plan.len() >= faults.len(), "{plan:?}");
        assert!(plan.windows(2).all(|pair| pair[0].at + pair[0].lasts < pair[1].at));
        assert!(plan.iter().all(|p| p.at + p.lasts < Duration::from_secs(400)));
        assert!(plan.iter().all(|p| !p.victims.is_empty() && p.victims.len() <= 5));
        assert!(draw(1, &[], 3, Duration::from_secs(60)).is_empty());
    }

    #[test]
    fn a_short_run_has_a_fault_too() {
        for fault in super::super::ALL {
            // But for those that take long to show anything.
            let plan = draw(5, &[fault], 5, Duration::from_secs(7));
            let fits = fault.lasts.0 <= Duration::from_millis(4_250);
            assert_eq!(!plan.is_empty(), fits, "{}", fault.name);
        }
    }
}
