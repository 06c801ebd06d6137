//! Which keys a scan has to look at: from filters on key columns to points and ranges, or to entries of an index.
//!
//! Conjuncts that compare a key column with something that doesn't depend on the row (`=`, `<`, `<=`, `>`, `>=`, `IN`) narrow
//! down the spans; all else is ignored here, since every filter is checked on each row anyway. A comparison with a type
//! that the column was widened to (`int_column = 1::bigint`) is followed through the cast where the cast keeps the order.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use txn::api::Key;
use txn::ids::{KeyRange, prefix_end};

use super::StatementContext;
use crate::catalog::{TableDescriptor, UniqueConstraint, layout::bucket_of};
use crate::error::Result;
use crate::eval::{self, Env};
use crate::ir::{CallKind, Expr, Sharding};
use crate::types::{Datum, Type, compare, key};

/// More entries of an index than this are not looked up; they are read at once.
pub const ENTRIES_MAX: usize = 500;
/// More points or ranges than this are not made; the rest of the key is then not narrowed down.
const SPANS_MAX: usize = 2000;

/// What to read, in key order and without overlaps.
#[derive(Clone, Debug, PartialEq)]
pub enum Spans {
    /// Single rows.
    Points(Vec<Key>),
    /// Ranges.
    Ranges(Vec<KeyRange>),
    /// The rows that these entries of a UNIQUE constraint's index lead to.
    Entries {
        /// The index.
        index: u32,
        /// The entries.
        keys: Vec<Key>,
    },
}

impl Spans {
    /// All rows of a table.
    pub fn all(table: &TableDescriptor) -> Self {
        Spans::Ranges(vec![table.storage_range()])
    }

    /// Whether nothing is to be read.
    pub fn is_empty(&self) -> bool {
        match self {
            Spans::Points(keys) => keys.is_empty(),
            Spans::Ranges(ranges) => ranges.is_empty(),
            Spans::Entries { keys, .. } => keys.is_empty(),
        }
    }
}

/// What is known of one column.
#[derive(Clone, Default)]
struct Bounds {
    /// It is one of these.
    any_of: Option<Vec<Datum>>,
    /// At least, or above.
    lower: Option<(Datum, bool)>,
    /// At most, or below.
    upper: Option<(Datum, bool)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Comparison {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "=" => Comparison::Equal,
            "<" => Comparison::Less,
            "<=" => Comparison::LessEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterEqual,
            _ => return None,
        })
    }

    fn mirrored(self) -> Self {
        match self {
            Comparison::Equal => Comparison::Equal,
            Comparison::Less => Comparison::Greater,
            Comparison::LessEqual => Comparison::GreaterEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterEqual => Comparison::LessEqual,
        }
    }
}

/// What a filter says about one key column.
enum Fact {
    Compare(Comparison, Datum),
    AnyOf(Vec<Datum>),
    /// No row passes.
    Never,
}

/// The key columns that filters compare with something independent of the row, without evaluating anything: for plans and
/// EXPLAIN. Returns, for each key column in order, whether it is fixed by `=` or `IN`, up to the first that isn't, and whether
/// that one has a bound.
pub fn shape(table: &TableDescriptor, filters: &[Expr]) -> (usize, bool) {
    let Some(primary) = &table.primary_key else { return (0, false) };
    let mut conjuncts = Vec::new();
    filters.iter().for_each(|f| flatten(f, &mut conjuncts));
    let fixed = primary.columns.iter().take_while(|&&column| says(&conjuncts, column, true)).count();
    let bounded = primary.columns.get(fixed).is_some_and(|&column| says(&conjuncts, column, false));
    (fixed, bounded)
}

/// Whether filters fix all columns of a UNIQUE constraint, as [`shape`] sees it.
pub fn by_unique(table: &TableDescriptor, filters: &[Expr]) -> bool {
    if table.unique.is_empty() {
        return false;
    }
    let mut conjuncts = Vec::new();
    filters.iter().for_each(|f| flatten(f, &mut conjuncts));
    table.unique.iter().any(|unique| unique.columns.iter().all(|&column| says(&conjuncts, column, true)))
}

/// Whether one of the conjuncts compares a column, by equality or otherwise, with something independent of the row.
fn says(conjuncts: &[&Expr], column: usize, equality: bool) -> bool {
    conjuncts.iter().any(|conjunct| match conjunct {
        Expr::Call { function, args, .. } => {
            let Some(comparison) = Comparison::of(function.name) else { return false };
            let [left, right] = &args[..] else { return false };
            (comparison == Comparison::Equal) == equality
                && ((column_of(left) == Some(column) && is_independent(right))
                    || (column_of(right) == Some(column) && is_independent(left)))
        }
        Expr::InList { input, list, negated: false, .. } => {
            equality && column_of(input) == Some(column) && list.iter().all(is_independent)
        }
        _ => false,
    })
}

/// The spans that hold every row for which all filters are true.
pub fn of(table: &TableDescriptor, filters: &[Expr], ctx: &StatementContext) -> Result<Spans> {
    let env = Env { ctx: &ctx.eval, params: &ctx.params, outer: &[] };
    let mut conjuncts = Vec::new();
    filters.iter().for_each(|f| flatten(f, &mut conjuncts));
    let mut bounds: BTreeMap<usize, Bounds> = BTreeMap::new();
    for conjunct in conjuncts {
        let Some((column, fact)) = fact_of(conjunct, table, &env)? else { continue };
        let bound = bounds.entry(column).or_default();
        match fact {
            Fact::Never => return Ok(Spans::Points(Vec::new())),
            Fact::AnyOf(values) => bound.restrict(values),
            Fact::Compare(Comparison::Equal, value) => bound.restrict(vec![value]),
            Fact::Compare(Comparison::Greater, value) => bound.raise(value, false),
            Fact::Compare(Comparison::GreaterEqual, value) => bound.raise(value, true),
            Fact::Compare(Comparison::Less, value) => bound.reduce(value, false),
            Fact::Compare(Comparison::LessEqual, value) => bound.reduce(value, true),
        }
    }
    let known = |column: &usize| bounds.get(column).cloned().unwrap_or_default();
    let spans = match &table.primary_key {
        Some(primary) => build(table, primary.columns.iter().map(known).collect()),
        None => Spans::all(table),
    };
    if matches!(spans, Spans::Points(_)) {
        return Ok(spans);
    }
    Ok(table.unique.iter().find_map(|unique| entries(table, unique, &bounds)).unwrap_or(spans))
}

/// The entries of a UNIQUE constraint for the values that its columns may have, if all are fixed. (A NULL equals nothing, so
/// that rows without an entry are not missed.)
fn entries(
    table: &TableDescriptor,
    unique: &UniqueConstraint,
    bounds: &BTreeMap<usize, Bounds>,
) -> Option<Spans> {
    let mut keys = vec![table.index_prefix(unique.index_id).to_vec()];
    for column in &unique.columns {
        let values = bounds.get(column)?.any_of.as_ref()?;
        if keys.len().saturating_mul(values.len()) > ENTRIES_MAX {
            return None;
        }
        let longer = |key: &Vec<u8>, value: &Datum| {
            let mut key = key.clone();
            key::encode(value, &mut key);
            key
        };
        keys = keys.iter().flat_map(|key| values.iter().map(move |value| longer(key, value))).collect();
    }
    keys.sort();
    keys.dedup();
    Some(Spans::Entries { index: unique.index_id, keys: keys.into_iter().map(Key::from).collect() })
}

impl Bounds {
    fn restrict(&mut self, values: Vec<Datum>) {
        self.any_of = Some(match self.any_of.take() {
            None => values,
            Some(old) => old.into_iter().filter(|v| values.iter().any(|w| compare(v, w).is_eq())).collect(),
        });
    }

    fn raise(&mut self, value: Datum, inclusive: bool) {
        let tighter = self.lower.as_ref().is_none_or(|(old, old_inclusive)| {
            let order = compare(&value, old);
            order.is_gt() || (order.is_eq() && *old_inclusive)
        });
        if tighter {
            self.lower = Some((value, inclusive));
        }
    }

    fn reduce(&mut self, value: Datum, inclusive: bool) {
        let tighter = self.upper.as_ref().is_none_or(|(old, old_inclusive)| {
            let order = compare(&value, old);
            order.is_lt() || (order.is_eq() && *old_inclusive)
        });
        if tighter {
            self.upper = Some((value, inclusive));
        }
    }
}

/// From bounds to keys.
fn build(table: &TableDescriptor, bounds: Vec<Bounds>) -> Spans {
    let hashed = match table.sharding {
        Sharding::Range => 0,
        Sharding::Hash { key_columns, .. } => key_columns.clamp(1, bounds.len()),
        Sharding::RoundRobin { .. } => bounds.len(),
    };
    // Encoded prefixes of the key, with the end of their hashed part.
    let mut prefixes: Vec<(Vec<u8>, Option<usize>)> = vec![(Vec::new(), (hashed == 0).then_some(0))];
    let mut fixed = 0;
    for bound in &bounds {
        let Some(values) = &bound.any_of else { break };
        if prefixes.len().saturating_mul(values.len()) > SPANS_MAX {
            break;
        }
        let mut next = Vec::with_capacity(prefixes.len() * values.len());
        for (prefix, hash_end) in &prefixes {
            for value in values {
                let mut longer = prefix.clone();
                key::encode(value, &mut longer);
                let hash_end = hash_end.or((fixed + 1 == hashed).then_some(longer.len()));
                next.push((longer, hash_end));
            }
        }
        prefixes = next;
        fixed += 1;
    }
    prefixes.sort();
    prefixes.dedup();
    if prefixes.is_empty() {
        return Spans::Points(Vec::new());
    }
    let buckets = table.buckets();
    if fixed == bounds.len() {
        let mut keys: Vec<Key> = prefixes
            .into_iter()
            .map(|(encoded, hash_end)| {
                let hash_end = hash_end.unwrap_or(encoded.len());
                let mut key = table.bucket_prefix(buckets.map(|n| bucket_of(&encoded[..hash_end], n)));
                key.put_slice(&encoded);
                key.freeze()
            })
            .collect();
        keys.sort();
        return Spans::Points(keys);
    }
    let bound = &bounds[fixed];
    if fixed == 0 && bound.lower.is_none() && bound.upper.is_none() {
        return Spans::all(table);
    }
    let mut ranges = Vec::new();
    for (encoded, hash_end) in &prefixes {
        let of_bucket = |bucket: Option<u16>| {
            let mut prefix = table.bucket_prefix(bucket).to_vec();
            prefix.extend_from_slice(encoded);
            range_within(prefix, bound)
        };
        match (buckets, hash_end) {
            (None, _) => ranges.push(of_bucket(None)),
            (Some(n), Some(end)) => ranges.push(of_bucket(Some(bucket_of(&encoded[..*end], n)))),
            (Some(n), None) if prefixes.len().saturating_mul(usize::from(n)) <= SPANS_MAX => {
                ranges.extend((0..n).map(|bucket| of_bucket(Some(bucket))));
            }
            (Some(_), None) => return Spans::all(table),
        }
    }
    ranges.retain(|range| !range.is_empty());
    ranges.sort();
    Spans::Ranges(ranges)
}

/// The keys that begin with `prefix` and go on with a value within the bounds. No value's encoding is a prefix of
/// another's, so all keys with one value are those that begin with its encoding.
fn range_within(prefix: Vec<u8>, bound: &Bounds) -> KeyRange {
    let with = |value: &Datum| {
        let mut key = prefix.clone();
        key::encode(value, &mut key);
        key
    };
    let start = match &bound.lower {
        None => Bytes::copy_from_slice(&prefix),
        Some((value, true)) => with(value).into(),
        Some((value, false)) => prefix_end(&with(value)),
    };
    let end = match &bound.upper {
        None => prefix_end(&prefix),
        Some((value, true)) => prefix_end(&with(value)),
        Some((value, false)) => with(value).into(),
    };
    KeyRange::new(start, end)
}

fn flatten<'a>(expr: &'a Expr, out: &mut Vec<&'a Expr>) {
    match expr {
        Expr::And(parts) => parts.iter().for_each(|part| flatten(part, out)),
        other => out.push(other),
    }
}

/// The column that an expression is, perhaps widened by a cast that keeps order and equality.
fn column_of(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Column(index, _) => Some(*index),
        // A string under another type's name (`varchar_column = 'x'` compares as text): the value is the same, and strings
        // of all types are ordered by their bytes. With a modifier it may be another value.
        Expr::Coerce { input, ty, .. } if ty.typmod == -1 && ty.ty.is_string() => match input.ty().ty {
            from if from.is_string() => column_of(input),
            _ => None,
        },
        Expr::Call { kind: CallKind::Implicit | CallKind::Cast, args, ty, .. } if args.len() == 1 => {
            let from = args[0].ty().ty;
            let strings = from.is_string() && matches!(ty.ty, Type::Text | Type::Varchar);
            let keeps = strings || (integer_rank(from) > 0 && integer_rank(from) <= integer_rank(ty.ty));
            if keeps { column_of(&args[0]) } else { None }
        }
        _ => None,
    }
}

fn integer_rank(ty: Type) -> u8 {
    match ty {
        Type::Int2 => 1,
        Type::Int4 => 2,
        Type::Int8 => 3,
        _ => 0,
    }
}

/// Whether an expression has the same value for all rows of a scan.
fn is_independent(expr: &Expr) -> bool {
    match expr {
        Expr::Const(..) | Expr::Param(..) => true,
        Expr::Call { function, args, .. } => {
            function.volatility != crate::function::Volatility::Volatile && args.iter().all(is_independent)
        }
        Expr::Coerce { input, .. } => is_independent(input),
        _ => false,
    }
}

/// What a conjunct says about a column.
fn fact_of(expr: &Expr, table: &TableDescriptor, env: &Env<'_>) -> Result<Option<(usize, Fact)>> {
    match expr {
        Expr::Call { function, args, .. } => {
            let (Some(comparison), [left, right]) = (Comparison::of(function.name), &args[..]) else {
                return Ok(None);
            };
            let (column, comparison, other) = match (column_of(left), column_of(right)) {
                (Some(column), None) if is_independent(right) => (column, comparison, right),
                (None, Some(column)) if is_independent(left) => (column, comparison.mirrored(), left),
                _ => return Ok(None),
            };
            let Some(ty) = table.columns.get(column).map(|c| c.ty.ty) else { return Ok(None) };
            // An error in here must be reported only if a row is there to be compared: leave it to the filter.
            let Ok(value) = eval::eval(other, &[], env) else { return Ok(None) };
            Ok(narrow(comparison, value, ty).map(|fact| (column, fact)))
        }
        Expr::InList { input, list, negated: false, .. } => {
            let Some(column) = column_of(input) else { return Ok(None) };
            let Some(ty) = table.columns.get(column).map(|c| c.ty.ty) else { return Ok(None) };
            if !list.iter().all(is_independent) {
                return Ok(None);
            }
            let mut values = Vec::with_capacity(list.len());
            for item in list {
                let Ok(value) = eval::eval(item, &[], env) else { return Ok(None) };
                match narrow(Comparison::Equal, value, ty) {
                    Some(Fact::Compare(_, value)) => values.push(value),
                    Some(Fact::Never) => {}
                    _ => return Ok(None),
                }
            }
            Ok(Some((column, Fact::AnyOf(values))))
        }
        _ => Ok(None),
    }
}

/// The comparison in the column's own type, where that is possible.
fn narrow(comparison: Comparison, value: Datum, ty: Type) -> Option<Fact> {
    use Comparison as C;
    let (wide, min, max) = match (&value, ty) {
        (Datum::Null, _) => return Some(Fact::Never),
        (Datum::Int2(v), Type::Int2 | Type::Int4 | Type::Int8) => (i64::from(*v), ty, ty),
        (Datum::Int4(v), Type::Int2 | Type::Int4 | Type::Int8) => (i64::from(*v), ty, ty),
        (Datum::Int8(v), Type::Int2 | Type::Int4 | Type::Int8) => (*v, ty, ty),
        _ => return same_storage(&value, ty).then_some(Fact::Compare(comparison, value)),
    };
    let (min, max) = match (min, max) {
        (Type::Int2, _) => (i64::from(i16::MIN), i64::from(i16::MAX)),
        (Type::Int4, _) => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    if wide < min || wide > max {
        let below = wide < min;
        return match comparison {
            C::Equal => Some(Fact::Never),
            C::Less | C::LessEqual if below => Some(Fact::Never),
            C::Greater | C::GreaterEqual if !below => Some(Fact::Never),
            // True for every value of the column.
            _ => None,
        };
    }
    let value = match ty {
        Type::Int2 => Datum::Int2(i16::try_from(wide).ok()?),
        Type::Int4 => Datum::Int4(i32::try_from(wide).ok()?),
        _ => Datum::Int8(wide),
    };
    Some(Fact::Compare(comparison, value))
}

/// Whether a value is stored as values of this type are.
fn same_storage(value: &Datum, ty: Type) -> bool {
    match value {
        Datum::Null => false,
        Datum::Bool(_) => ty == Type::Bool,
        Datum::Int2(_) => ty == Type::Int2,
        Datum::Int4(_) => ty == Type::Int4,
        Datum::Int8(_) => ty == Type::Int8,
        Datum::Float4(_) => ty == Type::Float4,
        Datum::Float8(_) => ty == Type::Float8,
        Datum::Numeric(_) => ty == Type::Numeric,
        Datum::Text(_) => ty.is_string(),
        Datum::Bytea(_) => ty == Type::Bytea,
        Datum::Date(_) => ty == Type::Date,
        Datum::Time(_) => ty == Type::Time,
        Datum::Timestamp(_) => ty == Type::Timestamp,
        Datum::Timestamptz(_) => ty == Type::Timestamptz,
        Datum::Interval(_) => ty == Type::Interval,
        Datum::Uuid(_) => ty == Type::Uuid,
        Datum::Oid(_) => ty == Type::Oid,
    }
}
