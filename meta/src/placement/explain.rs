//! Plans with their reasons, in words: what `rebalance --dry-run` shows.

use std::fmt;

use storage::ids::NodeId;

use super::operation::Operation;

/// What should be done next, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The steps. At most one at a time per group, except that a group that lacks several replicas gets them at once.
    pub steps: Vec<Step>,
    /// Groups that need something that nobody can do now.
    pub stalled: Stalled,
    /// How even the cluster is, before anything of this is done.
    pub before: Evenness,
    /// … and when all of it has been done.
    pub after: Evenness,
}

impl Plan {
    /// The operations alone.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.steps.iter().map(|step| &step.operation)
    }

    /// How many bytes will be copied.
    pub fn bytes(&self) -> u64 {
        self.steps.iter().map(|step| step.bytes).sum()
    }
}

/// An operation and its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What.
    pub operation: Operation,
    /// What for.
    pub why: Why,
    /// How many bytes it copies, about.
    pub bytes: u64,
}

/// Groups that need something that nobody can do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalled {
    /// No leader is known, or it is on a node that is down.
    pub leaderless: usize,
    /// There is no node for a replica that is needed, or all that are good for it have enough to do.
    pub waiting: usize,
}

/// What a reason is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Replicas.
    Replicas,
    /// Bytes on the disk.
    Bytes,
    /// Requests per second that replicas stand for.
    Load,
    /// Leaders.
    Leaders,
    /// Requests per second to leaders.
    LedLoad,
}

/// Why a step is taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// Voters are on nodes that are gone for good; the group works as long as `margin` more don't fail.
    Repair {
        /// Voters that live.
        live: usize,
        /// All voters.
        of: usize,
    },
    /// There are fewer voters than wanted.
    Missing {
        /// What there is.
        have: usize,
        /// What is wanted.
        want: usize,
    },
    /// There are more voters than wanted.
    Surplus {
        /// What there is.
        have: usize,
        /// What is wanted.
        want: usize,
    },
    /// What was begun is ended: the new replicas have caught up.
    CaughtUp,
    /// A learner has lost its reason, or its node.
    NotNeeded,
    /// The node is going to be taken away.
    Leaving(NodeId),
    /// The replica on the node is not where the rule wants it.
    Misplaced(NodeId),
    /// Two replicas share a domain without need.
    Together {
        /// The distances' sum as it is.
        diversity: u32,
        /// As it will be.
        then: u32,
    },
    /// The disk is too full.
    Full(NodeId),
    /// One node has more than its share, or the other less.
    Uneven {
        /// Of what.
        measure: Measure,
        /// The node that gives, and what it has.
        from: (NodeId, u64),
        /// The node that takes, and what it has.
        to: (NodeId, u64),
        /// How much is moved.
        amount: u64,
    },
    /// The leaders of one table are spread.
    Family {
        /// The node that gives, and how many of the table's leaders it has.
        from: (NodeId, u64),
        /// The node that takes, and how many it has.
        to: (NodeId, u64),
    },
    /// Nothing shall be led from the node.
    MayNotLead(NodeId),
    /// The leader should be elsewhere, by the rule.
    LeadsElsewhere(NodeId),
    /// The shard is larger than it may be.
    Large {
        /// What it has.
        bytes: u64,
        /// What it may have.
        max: u64,
    },
    /// The shard is asked more than it may be.
    Hot {
        /// What it is asked.
        requests: u64,
        /// What it may be.
        max: u64,
    },
    /// What the shard is asked takes more of a processor than it may.
    Busy {
        /// What it takes, in milliseconds each second.
        cpu_ms: u64,
        /// What it may take.
        max: u64,
    },
    /// The neighbours are small and cold.
    Small {
        /// What they have together.
        bytes: u64,
        /// What they are asked together.
        requests: u64,
    },
}

/// The least and the most that a node in service has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evenness {
    /// Replicas.
    pub replicas: (u64, u64),
    /// Bytes.
    pub bytes: (u64, u64),
    /// Load of replicas.
    pub load: (u64, u64),
    /// Leaders.
    pub leaders: (u64, u64),
    /// Load of leaders.
    pub led_load: (u64, u64),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.operation, self.why)?;
        if self.bytes > 0 {
            write!(f, "; copies {}", Bytes(self.bytes))?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Repair { live, of } => write!(f, "{live} of {of} voters live"),
            Why::Missing { have, want } => write!(f, "{have} of {want} voters"),
            Why::Surplus { have, want } => write!(f, "{have} voters, {want} wanted"),
            Why::CaughtUp => f.write_str("caught up"),
            Why::NotNeeded => f.write_str("not needed any more"),
            Why::Leaving(node) => write!(f, "{node} is leaving"),
            Why::Misplaced(node) => write!(f, "its rule forbids {node} or wants another place"),
            Why::Together { diversity, then } => write!(f, "diversity {diversity}, then {then}"),
            Why::Full(node) => write!(f, "the disk of {node} is too full"),
            Why::Uneven { measure, from, to, amount } => {
                let after = (from.1.saturating_sub(*amount), to.1 + amount);
                let show = |n: u64| measure.show(n);
                write!(f, "{measure}: {} has {}, {} {}", from.0, show(from.1), to.0, show(to.1))?;
                write!(f, "; then {} and {}", show(after.0), show(after.1))
            }
            Why::Family { from, to } => {
                write!(f, "of the table's leaders {} has {}, {} {}", from.0, from.1, to.0, to.1)
            }
            Why::MayNotLead(node) => write!(f, "{node} is to lead nothing"),
            Why::LeadsElsewhere(node) => write!(f, "by its rule the leader is not wanted on {node}"),
            Why::Large { bytes, max } => write!(f, "{} of at most {}", Bytes(*bytes), Bytes(*max)),
            Why::Hot { requests, max } => write!(f, "{requests} requests/s of at most {max}"),
            Why::Busy { cpu_ms, max } => {
                write!(f, "{cpu_ms} ms of processor time each second, of at most {max}")
            }
            Why::Small { bytes, requests } => {
                write!(f, "together {} and {requests} requests/s", Bytes(*bytes))
            }
        }
    }
}

impl Measure {
    fn show(self, amount: u64) -> String {
        match self {
            Measure::Bytes => Bytes(amount).to_string(),
            Measure::Load | Measure::LedLoad => format!("{amount}/s"),
            Measure::Replicas | Measure::Leaders => amount.to_string(),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Measure::Replicas => "replicas",
            Measure::Bytes => "bytes",
            Measure::Load => "load",
            Measure::Leaders => "leaders",
            Measure::LedLoad => "requests",
        })
    }
}

impl fmt::Display for Evenness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |measure: Measure, (least, most): (u64, u64)| {
            format!("{measure} {}–{}", measure.show(least), measure.show(most))
        };
        let all = [
            range(Measure::Replicas, self.replicas),
            range(Measure::Bytes, self.bytes),
            range(Measure::Load, self.load),
            range(Measure::Leaders, self.leaders),
            range(Measure::LedLoad, self.led_load),
        ];
        f.write_str(&all.join(", "))
    }
}

/// Bytes for humans.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut amount = self.0 as f64;
        let mut unit = 0;
        while amount >= 1024.0 && unit + 1 < UNITS.len() {
            amount /= 1024.0;
            unit += 1;
        }
        match amount < 10.0 && unit > 0 {
            true => write!(f, "{amount:.1} {}", UNITS[unit]),
            false => write!(f, "{amount:.0} {}", UNITS[unit]),
        }
    }
}
