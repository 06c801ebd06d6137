//! Faults: what is done to a cluster, and undone.
//!
//! A fault is a way to choose victims, to harm them and to heal them. Which, when and whom is drawn from the run's seed
//! beforehand ([`schedule`]), so that a run can be done again, as far as real processes allow.
//!
//! To add one: a line in [`ALL`], and commands of the cluster script for harm and healing.

pub mod schedule;

use std::time::Duration;

use anyhow::Result;

use crate::cluster::Cluster;

/// How many nodes are hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    /// One of them.
    One,
    /// The smallest majority.
    Majority,
    /// All.
    All,
}

impl Victims {
    /// Of so many nodes.
    pub fn count(self, nodes: usize) -> usize {
        match self {
            Victims::One => 1,
            Victims::Majority => nodes / 2 + 1,
            Victims::All => nodes,
        }
    }
}

/// An entry of the registry.
#[derive(Debug)]
pub struct Fault {
    /// What it is called.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Whom it hits.
    pub victims: Victims,
    /// The cluster script's command that does it …
    harm: &'static str,
    /// … and the one that undoes it.
    heal: &'static str,
    /// How long it lasts, at least and at most.
    pub lasts: (Duration, Duration),
}

impl Fault {
    /// Does it.
    pub async fn harm(&self, cluster: &Cluster, victims: &[usize]) -> Result<()> {
        cluster.each(self.harm, victims).await
    }

    /// Undoes it.
    pub async fn heal(&self, cluster: &Cluster, victims: &[usize]) -> Result<()> {
        cluster.each(self.heal, victims).await
    }
}

const fn between(min_ms: u64, max_ms: u64) -> (Duration, Duration) {
    (Duration::from_millis(min_ms), Duration::from_millis(max_ms))
}

/// All faults.
pub const ALL: &[Fault] = &[
    Fault {
        name: "kill",
        about: "kill -9 of one node, started again",
        victims: Victims::One,
        harm: "kill",
        heal: "start",
        lasts: between(500, 5_000),
    },
    Fault {
        name: "kill-majority",
        about: "kill -9 of a majority at once",
        victims: Victims::Majority,
        harm: "kill",
        heal: "start",
        lasts: between(200, 3_000),
    },
    Fault {
        name: "kill-all",
        about: "kill -9 of all nodes at once: a power cut",
        victims: Victims::All,
        harm: "kill",
        heal: "start",
        lasts: between(100, 2_000),
    },
    Fault {
        name: "pause",
        about: "SIGSTOP of one node, shorter and longer than an election takes",
        victims: Victims::One,
        harm: "pause",
        heal: "resume",
        lasts: between(200, 6_000),
    },
    Fault {
        name: "pause-majority",
        about: "SIGSTOP of a majority",
        victims: Victims::Majority,
        harm: "pause",
        heal: "resume",
        lasts: between(200, 4_000),
    },
    Fault {
        name: "pause-all",
        about: "SIGSTOP of all nodes: all leases end at once",
        victims: Victims::All,
        harm: "pause",
        heal: "resume",
        lasts: between(200, 4_000),
    },
    Fault {
        name: "restart",
        about: "one node stopped gently and started again",
        victims: Victims::One,
        harm: "stop",
        heal: "start",
        lasts: between(0, 2_000),
    },
];

/// By name.
pub fn find(name: &str) -> Option<&'static Fault> {
    ALL.iter().find(|fault| fault.name == name)
}
