//! The order of values, as PostgreSQL's btree operator classes have it.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use super::{Datum, Interval};

/// Compares two values of the same type in PostgreSQL's total order: NaN is equal to itself and above everything
/// else, strings compare by bytes (the `C` collation). NULLs are equal to each other and above everything else,
/// which is where an ascending sort puts them.
pub fn compare(a: &Datum, b: &Datum) -> Ordering {
    use Datum as D;
    match (a, b) {
        (D::Null, D::Null) => Ordering::Equal,
        (D::Null, _) => Ordering::Greater,
        (_, D::Null) => Ordering::Less,
        (D::Bool(a), D::Bool(b)) => a.cmp(b),
        (D::Int2(a), D::Int2(b)) => a.cmp(b),
        (D::Int4(a), D::Int4(b)) => a.cmp(b),
        (D::Int8(a), D::Int8(b)) => a.cmp(b),
        (D::Float4(a), D::Float4(b)) => compare_floats(f64::from(*a), f64::from(*b)),
        (D::Float8(a), D::Float8(b)) => compare_floats(*a, *b),
        (D::Numeric(a), D::Numeric(b)) => a.cmp(b),
        (D::Text(a), D::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (D::Bytea(a), D::Bytea(b)) => a.cmp(b),
        (D::Date(a), D::Date(b)) => a.cmp(b),
        (D::Time(a), D::Time(b))
        | (D::Timestamp(a), D::Timestamp(b))
        | (D::Timestamptz(a), D::Timestamptz(b)) => a.cmp(b),
        (D::Interval(a), D::Interval(b)) => a.span().cmp(&b.span()),
        (D::Uuid(a), D::Uuid(b)) => a.cmp(b),
        (D::Oid(a), D::Oid(b)) => a.cmp(b),
        // Values of different types are never compared by a bound plan; an arbitrary but total order keeps sorts sound.
        _ => rank(a).cmp(&rank(b)),
    }
}

/// Whether two values of the same type are equal; NULL equals NULL.
pub fn equal(a: &Datum, b: &Datum) -> bool {
    compare(a, b) == Ordering::Equal
}

/// Compares floats in PostgreSQL's order: NaN is equal to itself and above everything else.
pub fn compare_floats(a: f64, b: f64) -> Ordering {
    match a.partial_cmp(&b) {
        Some(order) => order,
        None => a.is_nan().cmp(&b.is_nan()),
    }
}

fn rank(datum: &Datum) -> u8 {
    use Datum as D;
    match datum {
        D::Bool(_) => 0,
        D::Int2(_) => 1,
        D::Int4(_) => 2,
        D::Int8(_) => 3,
        D::Float4(_) => 4,
        D::Float8(_) => 5,
        D::Numeric(_) => 6,
        D::Text(_) => 7,
        D::Bytea(_) => 8,
        D::Date(_) => 9,
        D::Time(_) => 10,
        D::Timestamp(_) => 11,
        D::Timestamptz(_) => 12,
        D::Interval(_) => 13,
        D::Uuid(_) => 14,
        D::Oid(_) => 15,
        D::Null => 16,
    }
}

impl Interval {
    /// The length in microseconds with months of 30 days, by which intervals compare: `1 mon` equals `30 days`.
    pub fn span(self) -> i128 {
        const DAY: i128 = 86_400_000_000;
        i128::from(self.micros) + (i128::from(self.days) + i128::from(self.months) * 30) * DAY
    }
}

/// A value as a key of a map: equality, order and hash agree with [`compare`].
#[derive(Clone, Debug)]
pub struct DatumKey(pub Datum);

/// A row as a key of a map: GROUP BY, DISTINCT, hash joins (where the caller treats NULL as it must).
#[derive(Clone, Debug)]
pub struct RowKey(pub Vec<Datum>);

impl PartialEq for DatumKey {
    fn eq(&self, other: &Self) -> bool {
        equal(&self.0, &other.0)
    }
}

impl Eq for DatumKey {}

impl PartialOrd for DatumKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DatumKey {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl Hash for DatumKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(&self.0, state);
    }
}

impl PartialEq for RowKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| equal(a, b))
    }
}

impl Eq for RowKey {}

impl PartialOrd for RowKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RowKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0
            .iter()
            .zip(&other.0)
            .map(|(a, b)| compare(a, b))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| self.0.len().cmp(&other.0.len()))
    }
}

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for datum in &self.0 {
            hash(datum, state);
        }
    }
}

fn hash<H: Hasher>(datum: &Datum, state: &mut H) {
    use Datum as D;
    rank(datum).hash(state);
    match datum {
        D::Null => {}
        D::Bool(v) => v.hash(state),
        D::Int2(v) => v.hash(state),
        D::Int4(v) => v.hash(state),
        D::Int8(v) => v.hash(state),
        D::Float4(v) => hash_float(f64::from(*v), state),
        D::Float8(v) => hash_float(*v, state),
        D::Numeric(v) => v.hash(state),
        D::Text(v) => v.as_bytes().hash(state),
        D::Bytea(v) => v.hash(state),
        D::Date(v) => v.hash(state),
        D::Time(v) | D::Timestamp(v) | D::Timestamptz(v) => v.hash(state),
        D::Interval(v) => v.span().hash(state),
        D::Uuid(v) => v.hash(state),
        D::Oid(v) => v.hash(state),
    }
}

fn hash_float<H: Hasher>(v: f64, state: &mut H) {
    let canonical = if v == 0.0 {
        0.0
    } else if v.is_nan() {
        f64::NAN
    } else {
        v
    };
    canonical.to_bits().hash(state);
}
