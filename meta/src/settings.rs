//! What operators may set for the whole cluster: names, defaults, bounds.
//!
//! Values are kept as they were written; [`Settings`] reads them. A value is checked before it is replicated
//! ([`check`]), and again when the command is applied.

use std::time::Duration;

use proto::meta as pb;

use crate::REPLICATION_FACTOR;

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What holds if nothing is set.
    pub default: &'static str,
    /// One line for operators.
    pub description: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    OneOf(&'static [&'static str]),
    Duration { min: Duration, max: Duration },
    Count { min: u64, max: u64 },
    Bytes { min: u64, max: u64 },
    Percent { min: u64, max: u64 },
    Switch,
}

const LEADER_MOVES: &str = "leader_moves_at_once";
const MOVES: &str = "moves_per_node";
const REPLACE_AFTER: &str = "node_down_replace_after";
const SNAPSHOT_RATE: &str = "snapshot_mib_per_second";
const SHARD_BYTES: &str = "shard_max_bytes";
const SHARD_CPU: &str = "shard_max_cpu";
const SHARD_LOAD: &str = "shard_max_requests_per_second";
const SHARD_MERGE: &str = "shard_merge";
const REBALANCE: &str = "rebalance";
const READS: &str = "read_consistency";
const REPLICATION: &str = "replication_factor";
const ASYNC_COMMIT: &str = "async_commit";
const CHECK_INTERVAL: &str = "consistency_check_interval";
const CHECK_RATE: &str = "consistency_check_mib_per_second";
const CLOSED_LAG: &str = "closed_timestamp_lag";
const GC_TTL: &str = "gc_ttl";
const GC_HOLD: &str = "gc_hold_max";
const COMPRESSION: &str = "log_compression";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// All there are, by name.
pub const ALL: &[Setting] = &[
    Setting {
        name: ASYNC_COMMIT,
        default: "on",
        description: "answer commits over several shards after one round of replication, where reads allow it",
        kind: Kind::Switch,
    },
    Setting {
        name: CLOSED_LAG,
        default: "3s",
        description: "how long ago AS OF SYSTEM TIME has to look for any replica to answer, without the leader; 0s: never",
        kind: Kind::Duration { min: Duration::ZERO, max: Duration::from_secs(3600) },
    },
    Setting {
        name: CHECK_INTERVAL,
        default: "1day",
        description: "how often the replicas of each group are compared, and one that differs is replaced",
        kind: Kind::Duration { min: Duration::from_secs(1), max: Duration::from_secs(3660 * 24 * 3600) },
    },
    Setting {
        name: CHECK_RATE,
        default: "16",
        description: "how much a replica reads in a second when it is compared by itself",
        kind: Kind::Count { min: 1, max: 100_000 },
    },
    Setting {
        name: GC_HOLD,
        default: "1day",
        description: "how long an open transaction can keep old versions from being collected",
        kind: Kind::Duration { min: Duration::from_secs(5), max: Duration::from_secs(366 * 24 * 3600) },
    },
    Setting {
        name: GC_TTL,
        default: "10min",
        description: "how long old versions are kept for reads in the past (AS OF SYSTEM TIME)",
        kind: Kind::Duration { min: Duration::from_secs(5), max: Duration::from_secs(366 * 24 * 3600) },
    },
    Setting {
        name: LEADER_MOVES,
        default: "8",
        description: "how many leaders are moved in one step, so that clients see few shards change hands at a time",
        kind: Kind::Count { min: 1, max: 1_024 },
    },
    Setting {
        name: COMPRESSION,
        default: "lz4",
        description: "how large commands are compressed in the log of each replica, and on their way there: lz4, or off",
        kind: Kind::OneOf(&["lz4", "off"]),
    },
    Setting {
        name: MOVES,
        default: "4",
        description: "how many replicas are built on a node at a time, and fed by the leaders on a node",
        kind: Kind::Count { min: 1, max: 1_024 },
    },
    Setting {
        name: REPLACE_AFTER,
        default: "5min",
        description: "a node that has been down for so long is not awaited any more: its replicas are rebuilt on others",
        kind: Kind::Duration { min: Duration::from_secs(5), max: Duration::from_secs(366 * 24 * 3600) },
    },
    Setting {
        name: READS,
        default: "lease",
        description: "what says that a leader still leads when it answers a read: its lease, or a majority each time (quorum)",
        kind: Kind::OneOf(&["lease", "quorum"]),
    },
    Setting {
        name: REBALANCE,
        default: "on",
        description: "move replicas and leaders so that nodes have their shares; repairs and drains go on without",
        kind: Kind::Switch,
    },
    Setting {
        name: REPLICATION,
        default: "3",
        description: "how many replicas a shard has",
        kind: Kind::Count { min: 1, max: 9 },
    },
    Setting {
        name: SHARD_BYTES,
        default: "256MB",
        description: "a shard that is larger is split",
        kind: Kind::Bytes { min: 64 << 10, max: 1 << 40 },
    },
    Setting {
        name: SHARD_CPU,
        default: "50%",
        description: "a shard whose requests take more of a processor's core at its leader is split, where that halves it",
        kind: Kind::Percent { min: 1, max: 10_000 },
    },
    Setting {
        name: SHARD_LOAD,
        default: "10000",
        description: "a shard that gets more requests is split, where that halves them",
        kind: Kind::Count { min: 10, max: 1_000_000_000 },
    },
    Setting {
        name: SHARD_MERGE,
        default: "on",
        description: "merge shards that were split by themselves, and are small and cold again",
        kind: Kind::Switch,
    },
    Setting {
        name: SNAPSHOT_RATE,
        default: "64",
        description: "how fast a node sends snapshots, all of them together, when replicas are built",
        kind: Kind::Count { min: 1, max: 100_000 },
    },
];

/// The setting of that name.
pub fn find(name: &str) -> Result<&'static Setting, String> {
    ALL.iter().find(|setting| setting.name == name).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|setting| setting.name).collect();
        format!("there is no setting {name:?}; there are {}", names.join(", "))
    })
}

/// Whether `value` can be given to the setting `name`; the empty one brings the default back.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let setting = find(name)?;
    match setting.kind {
        _ if value.is_empty() => Ok(()),
        Kind::Duration { min, max } => {
            let parsed = humantime::parse_duration(value).map_err(|error| {
                format!("{name}: {value:?} is no duration, like \"10min\" or \"90s\": {error}")
            })?;
            match (min..=max).contains(&parsed) {
                true => Ok(()),
                false => Err(format!(
                    "{name} lies between {} and {}",
                    humantime::format_duration(min),
                    humantime::format_duration(max)
                )),
            }
        }
        Kind::Bytes { min, max } => match parse_bytes(value) {
            Some(parsed) if (min..=max).contains(&parsed) => Ok(()),
            _ => Err(format!(
                "{name} is a size between {} kB and {} MB, like \"256MB\", and not {value:?}",
                min >> 10,
                max >> 20
            )),
        },
        Kind::Percent { min, max } => match parse_percent(value) {
            Some(parsed) if (min..=max).contains(&parsed) => Ok(()),
            _ => Err(format!("{name} lies between {min}% and {max}%, like \"50%\", and is not {value:?}")),
        },
        Kind::OneOf(known) if known.contains(&value) => Ok(()),
        Kind::OneOf(known) => Err(format!("{name} is {}, and not {value:?}", known.join(" or "))),
        Kind::Switch if matches!(value, "on" | "off") => Ok(()),
        Kind::Switch => Err(format!("{name} is on or off, and not {value:?}")),
        Kind::Count { min, max } => match value.parse::<u64>() {
            Ok(parsed) if (min..=max).contains(&parsed) => Ok(()),
            _ => Err(format!("{name} is a number between {min} and {max}, and not {value:?}")),
        },
    }
}

/// A number with one of PostgreSQL's units of memory, which are powers of 1024; without one, of bytes.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A whole number of hundredths, like `50%`.
fn parse_percent(text: &str) -> Option<u64> {
    text.strip_suffix('%')?.trim_end().parse().ok()
}

/// The settings of a cluster, read.
#[derive(Clone, Debug, Default)]
pub struct Settings(pb::Settings);

impl Settings {
    /// Reads what is replicated.
    pub fn new(stored: pb::Settings) -> Self {
        Self(stored)
    }

    /// The value of a setting as it was written, or its default.
    pub fn value(&self, setting: &Setting) -> String {
        match self.0.values.get(setting.name) {
            Some(value) => value.clone(),
            // Since the first version it has a field of its own.
            None if setting.name == REPLICATION && self.0.replication_factor > 0 => {
                self.0.replication_factor.to_string()
            }
            None => setting.default.to_owned(),
        }
    }

    /// How many replicas a shard has.
    pub fn replication_factor(&self) -> usize {
        let value = find(REPLICATION).ok().and_then(|setting| self.value(setting).parse().ok());
        value.unwrap_or(REPLICATION_FACTOR as usize)
    }

    /// How many replicas are built on a node at a time.
    pub fn moves_per_node(&self) -> usize {
        let value = find(MOVES).ok().and_then(|setting| self.value(setting).parse().ok());
        value.unwrap_or(1)
    }

    /// How many leaders are moved in one step.
    pub fn leader_moves(&self) -> usize {
        let value = find(LEADER_MOVES).ok().and_then(|setting| self.value(setting).parse().ok());
        value.unwrap_or(1)
    }

    /// How large a shard may be.
    pub fn shard_bytes(&self) -> u64 {
        let value = find(SHARD_BYTES).ok().and_then(|setting| parse_bytes(&self.value(setting)));
        value.unwrap_or(256 << 20)
    }

    /// How many requests per second a shard may get.
    pub fn shard_load(&self) -> u64 {
        let value = find(SHARD_LOAD).ok().and_then(|setting| self.value(setting).parse().ok());
        value.unwrap_or(u64::MAX)
    }

    /// How many milliseconds of processor time the requests to a shard may take each second.
    pub fn shard_cpu_ms(&self) -> u64 {
        let value = find(SHARD_CPU).ok().and_then(|setting| parse_percent(&self.value(setting)));
        value.map_or(u64::MAX, |percent| percent.saturating_mul(10))
    }

    /// Whether shards are merged by themselves.
    pub fn shard_merge(&self) -> bool {
        find(SHARD_MERGE).is_ok_and(|setting| self.value(setting) == "on")
    }

    /// How many bytes of snapshots a node sends in a second.
    pub fn snapshot_rate(&self) -> u64 {
        let value = find(SNAPSHOT_RATE).ok().and_then(|setting| self.value(setting).parse::<u64>().ok());
        value.unwrap_or(64) << 20
    }

    /// After how long a node that is down is replaced.
    pub fn replace_after(&self) -> Duration {
        self.duration(REPLACE_AFTER)
    }

    /// How often the replicas of each group are compared.
    pub fn check_interval(&self) -> Duration {
        self.duration(CHECK_INTERVAL)
    }

    /// … and how many bytes each of them reads in a second.
    pub fn check_rate(&self) -> u64 {
        let value = find(CHECK_RATE).ok().and_then(|setting| self.value(setting).parse::<u64>().ok());
        value.unwrap_or(16) << 20
    }

    /// Whether reads are confirmed by a majority, instead of relying on leases.
    pub fn quorum_reads(&self) -> bool {
        find(READS).is_ok_and(|setting| self.value(setting) == "quorum")
    }

    /// Whether large commands are compressed in the log. A way of a later version is not known here, and not used.
    pub fn log_compression(&self) -> bool {
        find(COMPRESSION).is_ok_and(|setting| self.value(setting) == "lz4")
    }

    /// Whether replicas and leaders are moved for the sake of evenness.
    pub fn rebalance(&self) -> bool {
        find(REBALANCE).is_ok_and(|setting| self.value(setting) == "on")
    }

    /// How long old versions are kept.
    pub fn gc_ttl(&self) -> Duration {
        self.duration(GC_TTL)
    }

    /// How long an open snapshot holds back garbage collection.
    pub fn gc_hold(&self) -> Duration {
        self.duration(GC_HOLD)
    }

    /// Whether commits may be answered after one round of replication.
    pub fn async_commit(&self) -> bool {
        find(ASYNC_COMMIT).is_ok_and(|setting| self.value(setting) == "on")
    }

    /// How far behind the present timestamps are closed; zero: they aren't.
    pub fn closed_lag(&self) -> Duration {
        self.duration(CLOSED_LAG)
    }

    fn duration(&self, name: &str) -> Duration {
        let value = find(name).map(|setting| self.value(setting)).unwrap_or_default();
        // Checked when it was set; a value of a later version that doesn't read keeps everything.
        humantime::parse_duration(&value).unwrap_or(DAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_their_own_checks() {
        for setting in ALL {
            assert_eq!(check(setting.name, setting.default), Ok(()));
            assert_eq!(Settings::default().value(setting), setting.default);
        }
        assert!(ALL.is_sorted_by_key(|setting| setting.name));
    }

    #[test]
    fn the_log_is_compressed_unless_that_is_off_or_unknown() {
        let with = |value: &str| {
            let values = [(COMPRESSION.to_owned(), value.to_owned())].into();
            Settings::new(pb::Settings { values, ..Default::default() }).log_compression()
        };
        assert!(Settings::default().log_compression() && with("lz4"));
        assert!(!with("off") && !with("zstd"));
    }

    #[test]
    fn values_out_of_bounds_are_refused_by_name() {
        for (name, value) in [
            (LEADER_MOVES, "0"),
            (SHARD_BYTES, "1kB"),
            (SHARD_BYTES, "256 Mb"),
            (SHARD_LOAD, "0"),
            (SHARD_CPU, "0%"),
            (SHARD_CPU, "0.5"),
            (GC_TTL, "1s"),
            (GC_TTL, "soon"),
            (CLOSED_LAG, "2h"),
            (REPLICATION, "0"),
            (REPLICATION, "many"),
            ("read_consistency", "eventual"),
            (COMPRESSION, "on"),
            ("gc.ttl", "1h"),
        ] {
            let refused = check(name, value).expect_err(value);
            assert!(refused.contains(name), "{refused}");
        }
        assert_eq!(check(GC_TTL, ""), Ok(()));
        assert_eq!(check(SHARD_BYTES, "1 GB"), Ok(()));
        assert_eq!(check(SHARD_CPU, "200%"), Ok(()));
        assert_eq!(Settings::default().shard_cpu_ms(), 500);
        assert_eq!(check(CLOSED_LAG, "0s"), Ok(()));
    }
}
