//! Where nodes stand: failure domains within failure domains.
//!
//! Two nodes are as far apart as the largest domain in which they differ: racks of one zone, zones of one region,
//! regions. The *diversity* of a group is the sum of the distances between its replicas: it is greatest when they are
//! spread over as many regions as there are, within those over zones, within those over racks, and each evenly.
//! (CockroachDB scores pairs of nodes by the tiers of their localities in the same spirit; see `docs/placement.md`.)

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How many tiers there are: region, zone, rack.
pub const TIERS: usize = 3;
const NAMES: [&str; TIERS] = ["region", "zone", "rack"];
/// No name of a domain is longer.
const NAME_BYTES_MAX: usize = 63;

/// A node's place: `region=…,zone=…,rack=…`, any of which may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locality {
    names: [Option<Box<str>>; TIERS],
}

/// Not a locality.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a locality: it looks like region=eu,zone=a,rack=7, where each may be left out")]
pub struct LocalityError(String);

impl Locality {
    /// The name of its domain in a tier (0: region, 1: zone, 2: rack).
    pub fn name(&self, tier: usize) -> Option<&str> {
        self.names.get(tier)?.as_deref()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.names.iter().all(Option::is_none)
    }

    /// Whether all of `other` is true of this one, too.
    pub fn lies_in(&self, other: &Locality) -> bool {
        self.names.iter().zip(&other.names).all(|(own, wanted)| wanted.is_none() || own == wanted)
    }
}

impl FromStr for Locality {
    type Err = LocalityError;

    fn from_str(text: &str) -> Result<Self, LocalityError> {
        let mut locality = Locality::default();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let refused = || LocalityError(text.to_owned());
            let (tier, name) = part.split_once('=').ok_or_else(refused)?;
            let tier = NAMES.iter().position(|known| *known == tier.trim()).ok_or_else(refused)?;
            let name = name.trim();
            let printable = name.bytes().all(|b| b.is_ascii_graphic() && b != b'=');
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !printable || locality.names[tier].is_some()
            {
                return Err(refused());
            }
            locality.names[tier] = Some(name.into());
        }
        Ok(locality)
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = NAMES.iter().zip(&self.names).filter_map(|(tier, name)| Some((tier, name.as_ref()?)));
        for (place, (tier, name)) in known.enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{tier}={name}")?;
        }
        Ok(())
    }
}

/// A locality with numbers for names. A zone's number belongs to that zone of that region, so that two regions may
/// both have a zone `a`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Domain([u32; TIERS]);

impl Domain {
    /// From 0 (as near as can be) to [`TIERS`].
    pub fn distance(self, other: Domain) -> u32 {
        let shared = self.0.iter().zip(&other.0).take_while(|(a, b)| a == b).count();
        (TIERS - shared) as u32
    }

    /// The number of the zone: the domain in which another node is as good for diversity, racks aside.
    pub fn zone(self) -> u32 {
        self.0[1]
    }
}

/// Gives numbers to names.
#[derive(Default)]
pub(super) struct Domains<'a> {
    numbers: BTreeMap<[&'a str; TIERS], u32>,
    unknown: u32,
}

impl<'a> Domains<'a> {
    pub fn domain(&mut self, locality: &'a Locality) -> Domain {
        let mut path = [""; TIERS];
        let mut domain = Domain::default();
        for tier in 0..TIERS {
            path[tier] = locality.name(tier).unwrap_or("");
            let mut key = path;
            // What is not named still differs between tiers.
            if path[tier].is_empty() {
                key[tier] = ["\0", "\0\0", "\0\0\0"][tier];
            }
            let next = self.next();
            domain.0[tier] = *self.numbers.entry(key).or_insert(next);
        }
        domain
    }

    /// Of a node of which it is not known where it stands: a domain of its own.
    pub fn unknown(&mut self) -> Domain {
        let next = self.next();
        self.unknown += 1;
        Domain([next; TIERS])
    }

    /// A number that was not given yet: each that is given adds to one of the two.
    fn next(&self) -> u32 {
        self.numbers.len() as u32 + self.unknown
    }
}
