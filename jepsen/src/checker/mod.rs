//! Checkers: pure functions from a history to a verdict.
//!
//! Each module says which operations it reads and what it holds against them. [`ALL`] is the registry that the command line
//! and the corpus go by.

pub mod availability;
pub mod bank;
pub mod comments;
pub mod counter;
pub mod faults;
pub mod foreign_key;
pub mod linear;
pub mod long_fork;
pub mod monotonic;
pub mod mutex;
pub mod progress;
pub mod schema;
pub mod sequential;
pub mod set;
pub mod txn;
pub mod write_skew;

use std::fmt;

use crate::history::History;

/// So many anomalies of a name are described; the rest is counted.
const DESCRIBED_MAX: usize = 10;

/// What a checker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Validity {
    /// Nothing was found that is not allowed.
    Valid,
    /// The checker gave up, or too little happened.
    Unknown,
    /// Something is not allowed.
    Invalid,
}

/// Something that no strictly serializable execution allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// Its name in the literature, or ours.
    pub name: String,
    /// What happened, for a reader; a cycle has one line per step.
    pub about: String,
    /// The operations that show it, by index.
    pub ops: Vec<usize>,
    /// If they are a cycle: how each comes before the next one, the last before the first (`ww`, `wr`, `rw`, `rt`, `process`).
    pub edges: Vec<&'static str>,
}

/// The answer of one checker.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which checker.
    pub checker: &'static str,
    /// The answer.
    pub validity: Validity,
    /// Why not, up to a bound.
    pub anomalies: Vec<Anomaly>,
    /// Anomalies beyond that bound.
    pub more: usize,
    /// What was looked at.
    pub notes: Vec<String>,
}

impl Verdict {
    /// A verdict without anomalies so far.
    pub fn new(checker: &'static str) -> Self {
        Self { checker, validity: Validity::Valid, anomalies: Vec::new(), more: 0, notes: Vec::new() }
    }

    /// Adds an anomaly.
    pub fn anomaly(&mut self, name: impl Into<String>, about: impl Into<String>, ops: Vec<usize>) {
        self.validity = Validity::Invalid;
        let name = name.into();
        if self.anomalies.iter().filter(|anomaly| anomaly.name == name).count() < DESCRIBED_MAX {
            self.anomalies.push(Anomaly { name, about: about.into(), ops, edges: Vec::new() });
        } else {
            self.more += 1;
        }
    }

    /// Adds an anomaly that is a cycle of operations.
    pub fn cycle(
        &mut self,
        name: impl Into<String>,
        about: impl Into<String>,
        ops: Vec<usize>,
        edges: Vec<&'static str>,
    ) {
        let described = self.anomalies.len();
        self.anomaly(name, about, ops);
        if let Some(anomaly) = self.anomalies.get_mut(described) {
            anomaly.edges = edges;
        }
    }

    /// The checker can't tell, unless it has found something.
    pub fn unknown(&mut self, why: impl Into<String>) {
        self.validity = self.validity.max(Validity::Unknown);
        self.notes.push(why.into());
    }

    /// Says what was looked at.
    pub fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// The anomalies' names, once each.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.anomalies.iter().map(|a| a.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.validity {
            Validity::Valid => "valid",
            Validity::Unknown => "UNKNOWN",
            Validity::Invalid => "INVALID",
        };
        write!(f, "{}: {word}", self.checker)?;
        for note in &self.notes {
            write!(f, "\n  {note}")?;
        }
        for anomaly in &self.anomalies {
            write!(f, "\n  {}: {}", anomaly.name, anomaly.about.replace('\n', "\n    "))?;
        }
        if self.more > 0 {
            write!(f, "\n  … and {} more", self.more)?;
        }
        Ok(())
    }
}

/// An entry of the registry.
pub struct Checker {
    /// What it is called.
    pub name: &'static str,
    /// What it holds against a history, in a line.
    pub about: &'static str,
    /// The checker.
    pub check: fn(&History) -> Verdict,
}

/// All checkers.
pub const ALL: &[Checker] = &[
    Checker {
        name: "linear",
        about: "registers (read, write, cas) and locks (acquire, release), per key: linearizable",
        check: linear::check,
    },
    Checker {
        name: "list-append",
        about: "transactions of appends and reads: no cycle of dependencies and real time",
        check: txn::append::check,
    },
    Checker {
        name: "rw-register",
        about: "transactions of writes and reads of registers: the same",
        check: txn::register::check,
    },
    Checker { name: "bank", about: "the total stays, and nobody sees an older bank", check: bank::check },
    Checker {
        name: "set",
        about: "what was acknowledged is read, on all nodes alike, and nothing else is",
        check: set::check,
    },
    Checker {
        name: "counter",
        about: "increments are neither lost nor made up, and reads don't go back",
        check: counter::check,
    },
    Checker {
        name: "monotonic",
        about: "many counters: snapshots of them are ordered, and in real time",
        check: monotonic::check,
    },
    Checker {
        name: "sequential",
        about: "what one process writes in order is seen in order",
        check: sequential::check,
    },
    Checker {
        name: "comments",
        about: "who sees a write sees those acknowledged before it began",
        check: comments::check,
    },
    Checker {
        name: "long-fork",
        about: "two readers don't see two writes in opposite orders",
        check: long_fork::check,
    },
    Checker {
        name: "write-skew",
        about: "of inserts that exclude each other, one succeeds, and its row stays",
        check: write_skew::check,
    },
    Checker {
        name: "foreign-key",
        about: "nobody refers to what is not there, and nothing goes that nobody has deleted",
        check: foreign_key::check,
    },
    Checker {
        name: "schema",
        about: "what an index has the table has, defaults are there, and statements are whole",
        check: schema::check,
    },
    Checker { name: "mutex", about: "no lock is held by two at a time", check: mutex::check },
    Checker {
        name: "availability",
        about: "after a fault of a minority no gap without an answer exceeds 1.5 s",
        check: availability::check,
    },
    Checker { name: "faults", about: "the faults that were asked for have happened", check: faults::check },
    Checker { name: "progress", about: "enough calls succeeded to mean anything", check: progress::check },
];

/// By name.
pub fn find(name: &str) -> Option<&'static Checker> {
    ALL.iter().find(|checker| checker.name == name)
}
