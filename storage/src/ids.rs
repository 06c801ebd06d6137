//! Identifiers, timestamps and key ranges: the words all rooms share.

use std::fmt;

use bytes::Bytes;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A node of the cluster: assigned by the meta-group at join, kept in the store, never reused.
    NodeId, "n"
);
id!(
    /// A Raft group. Group 1 is the meta-group; a shard is one group.
    GroupId, "g"
);
id!(
    /// A replica of a group. Never used twice within its group: a replica that is removed and comes back gets a new one.
    ReplicaId, "r"
);
id!(
    /// A Raft term.
    Term, "t"
);
id!(
    /// An index into a group's log. The first entry has index 1 or 0, whatever the consensus library says; "none" is an `Option`.
    LogIndex, "i"
);
id!(
    /// The version of a shard's descriptor: raised by every split, merge, and change of replicas.
    Epoch, "e"
);

/// The meta-group.
pub const META_GROUP: GroupId = GroupId(1);

/// A transaction's identity: its gateway's id in the upper 32 bits, 96 random ones below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnId(pub u128);

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The upper bits are its gateway's.
        write!(f, "x{:08x}", self.0 as u32)
    }
}

/// A point in the cluster's one order of transactions: `milliseconds << 18 | counter`.
///
/// Drawn by shard leaders for commits and by gateways for snapshots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Below every commit.
    pub const ZERO: Timestamp = Timestamp(0);
    /// Above every commit.
    pub const MAX: Timestamp = Timestamp(u64::MAX);
    /// Bits of the counter below the milliseconds.
    pub const COUNTER_BITS: u32 = 18;

    /// The physical part, in milliseconds since the Unix epoch.
    pub fn physical_ms(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.physical_ms(), self.0 & ((1 << Self::COUNTER_BITS) - 1))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A half-open range of keys: `start <= key < end`. An empty `end` means "to the end of the keyspace".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyRange {
    /// The first key inside.
    pub start: Bytes,
    /// The first key outside; empty: unbounded.
    pub end: Bytes,
}

impl KeyRange {
    /// `start <= key < end`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// All keys.
    pub fn all() -> Self {
        Self::default()
    }

    /// Exactly one key.
    pub fn point(key: &[u8]) -> Self {
        let mut end = Vec::with_capacity(key.len() + 1);
        end.extend_from_slice(key);
        end.push(0);
        Self { start: Bytes::copy_from_slice(key), end: end.into() }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { start: Bytes::copy_from_slice(prefix), end: prefix_end(prefix) }
    }

    /// Whether `key` lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }

    /// Whether all of `other` lies inside.
    pub fn contains_range(&self, other: &KeyRange) -> bool {
        other.start >= self.start && (self.end.is_empty() || (!other.end.is_empty() && other.end <= self.end))
    }

    /// Whether the two have a key in common.
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        (other.end.is_empty() || self.start < other.end) && (self.end.is_empty() || other.start < self.end)
    }

    /// What the two have in common, if anything.
    pub fn intersection(&self, other: &KeyRange) -> Option<KeyRange> {
        let start = self.start.clone().max(other.start.clone());
        let end = match (self.end.is_empty(), other.end.is_empty()) {
            (true, _) => other.end.clone(),
            (_, true) => self.end.clone(),
            _ => self.end.clone().min(other.end.clone()),
        };
        (end.is_empty() || start < end).then_some(KeyRange { start, end })
    }

    /// What is left of it without the keys of `other`: before them, and after.
    pub fn without(&self, other: &KeyRange) -> Vec<KeyRange> {
        if !self.overlaps(other) {
            return vec![self.clone()];
        }
        // (An empty end would be no end.)
        let before = (!other.start.is_empty()).then(|| KeyRange::new("", other.start.clone()));
        let after = (!other.end.is_empty()).then(|| KeyRange::new(other.end.clone(), ""));
        [before, after].into_iter().flatten().filter_map(|side| self.intersection(&side)).collect()
    }

    /// Whether no key lies inside.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start.escape_ascii(), self.end.escape_ascii())
    }
}

/// The first key after all keys that begin with `prefix`; empty (unbounded) where there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_range_is_all_but_the_other() {
        let range = |start: &'static str, end: &'static str| KeyRange::new(start, end);
        let (all, middle) = (KeyRange::all(), range("c", "m"));
        assert_eq!(all.without(&middle), [range("", "c"), range("m", "")]);
        assert_eq!(middle.without(&all), []);
        assert_eq!(middle.without(&middle), []);
        assert_eq!(middle.without(&range("d", "f")), [range("c", "d"), range("f", "m")]);
        assert_eq!(middle.without(&range("a", "f")), [range("f", "m")]);
        assert_eq!(middle.without(&range("f", "")), [range("c", "f")]);
        for apart in [range("m", ""), range("", "c")] {
            assert_eq!(middle.without(&apart), std::slice::from_ref(&middle));
        }
    }
}
