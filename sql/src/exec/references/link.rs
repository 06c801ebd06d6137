//! Links, and the keys that they lead to.
//!
//! A link lies under the values that its row refers by, in a form that both tables have in common (integers of all sizes are one,
//! strings are one), followed by the row's key. So all links to a key are one range, whatever the types on either side.

use std::borrow::{Borrow, Cow};

use bytes::Bytes;
use txn::api::Key;
use txn::ids::KeyRange;

use super::dangling;
use crate::catalog::{ForeignKey, TableDescriptor, TableKey};
use crate::error::{Result, SqlError, SqlState};
use crate::exec::Row;
use crate::exec::key::key_of_values;
use crate::types::{ColumnType, Datum, Type, coerce, key};

/// A value in the form that links have it.
fn common(value: &Datum) -> Cow<'_, Datum> {
    match value {
        Datum::Int2(v) => Cow::Owned(Datum::Int8(i64::from(*v))),
        Datum::Int4(v) => Cow::Owned(Datum::Int8(i64::from(*v))),
        other => Cow::Borrowed(other),
    }
}

/// Values as links have them. No such encoding is the beginning of another.
pub fn encoded<D: Borrow<Datum>>(values: impl IntoIterator<Item = D>) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    for value in values {
        key::encode(&common(value.borrow()), &mut out);
    }
    out
}

/// Where the links of a foreign key begin that refer by these values.
fn prefix(child: &TableDescriptor, fk: &ForeignKey, values: &[u8]) -> Vec<u8> {
    let mut key = child.index_prefix(fk.index_id).to_vec();
    key.extend_from_slice(values);
    key
}

/// The links to one key.
pub fn range(child: &TableDescriptor, fk: &ForeignKey, values: &[u8]) -> KeyRange {
    KeyRange::prefix(&prefix(child, fk, values))
}

/// The values that a link refers by, as they are encoded in it. `None`: it isn't one.
pub fn values_in<'k>(
    child: &TableDescriptor,
    fk: &ForeignKey,
    key: &'k Key,
    value: &Bytes,
) -> Option<&'k [u8]> {
    let start = child.index_prefix(fk.index_id).len();
    key.get(start..key.len().checked_sub(value.len())?)
}

/// The link of a row; `None` where a NULL refers to nothing.
pub fn link_of(child: &TableDescriptor, fk: &ForeignKey, row_key: &Key, row: &[Datum]) -> Option<Key> {
    if fk.columns.iter().any(|&column| row[column].is_null()) {
        return None;
    }
    let mut key = prefix(child, fk, &encoded(fk.columns.iter().map(|&column| &row[column])));
    key.extend_from_slice(&TableDescriptor::entry_value(row_key));
    Some(key.into())
}

/// The links of a row.
pub fn links_of(table: &TableDescriptor, row_key: &Key, row: &[Datum]) -> Vec<Key> {
    table.foreign_keys.iter().filter_map(|fk| link_of(table, fk, row_key, row)).collect()
}

/// The links that a row had and hasn't any more, and those that it has now.
pub fn set_links(
    table: &TableDescriptor,
    (old_key, old): (&Key, &[Datum]),
    (new_key, new): (&Key, &[Datum]),
) -> (Vec<Key>, Vec<Key>) {
    let (mut before, mut after) = (links_of(table, old_key, old), links_of(table, new_key, new));
    let same: Vec<Key> = before.iter().filter(|link| after.contains(link)).cloned().collect();
    before.retain(|link| !same.contains(link));
    after.retain(|link| !same.contains(link));
    (before, after)
}

/// The key of a table that a foreign key refers to.
pub struct Target<'a> {
    parent: &'a TableDescriptor,
    key: TableKey<'a>,
    /// For each of the key's columns, its place among the foreign key's.
    order: Vec<usize>,
}

impl<'a> Target<'a> {
    /// For a foreign key that refers to it.
    pub fn of(parent: &'a TableDescriptor, fk: &ForeignKey) -> Result<Self> {
        let columns = parent.referenced_by(fk).ok_or_else(|| dangling(fk))?;
        let key = parent.key_over(&columns).ok_or_else(|| dangling(fk))?;
        let place = |column: &usize| columns.iter().position(|other| other == column);
        let order = key.columns.iter().map(place).collect::<Option<_>>().ok_or_else(|| dangling(fk))?;
        Ok(Self { parent, key, order })
    }

    /// The storage key that stands for these values (in the foreign key's order). `None`: the columns cannot have them.
    pub fn key(&self, values: &[Datum]) -> Option<Key> {
        let fitted = self.order.iter().zip(self.key.columns);
        let fitted: Row = fitted
            .map(|(&place, &column)| fit(values.get(place)?, self.parent.columns[column].ty.ty))
            .collect::<Option<_>>()?;
        match self.key.unique {
            None => Some(key_of_values(self.parent, &fitted)),
            Some(at) => {
                let mut out = self.parent.index_prefix(self.parent.unique[at].index_id).to_vec();
                fitted.iter().for_each(|value| key::encode(value, &mut out));
                Some(out.into())
            }
        }
    }
}

/// A value as a column of another type has it.
fn fit(value: &Datum, ty: Type) -> Option<Datum> {
    let wide = match value {
        Datum::Int2(v) => i64::from(*v),
        Datum::Int4(v) => i64::from(*v),
        Datum::Int8(v) => *v,
        other => return Some(other.clone()),
    };
    Some(match ty {
        Type::Int2 => Datum::Int2(i16::try_from(wide).ok()?),
        Type::Int4 => Datum::Int4(i32::try_from(wide).ok()?),
        _ => Datum::Int8(wide),
    })
}

/// A referenced value as it is assigned to a column that follows it (ON UPDATE CASCADE).
pub fn follow(value: &Datum, ty: ColumnType) -> Result<Datum> {
    let fitted = fit(value, ty.ty).ok_or_else(|| {
        SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, format!("{} out of range", ty.ty.name()))
    })?;
    coerce(fitted, ty, false)
}

/// Whether values of two types can be told equal by a foreign key. PostgreSQL has more pairs: `None` are those.
pub fn comparable(child: Type, parent: Type) -> Option<bool> {
    use Type as T;
    let integer = |ty| matches!(ty, T::Int2 | T::Int4 | T::Int8);
    let string = |ty| matches!(ty, T::Text | T::Varchar);
    let number = |ty| integer(ty) || matches!(ty, T::Float4 | T::Float8 | T::Numeric);
    let moment = |ty| matches!(ty, T::Date | T::Timestamp | T::Timestamptz);
    let text = |ty| string(ty) || matches!(ty, T::Bpchar | T::Name);
    Some(match (child, parent) {
        (a, b) if a == b => true,
        (a, b) if integer(a) && integer(b) => true,
        (a, b) if string(a) && string(b) => true,
        (T::Bpchar, b) if string(b) => true,
        (a, T::Numeric | T::Float4 | T::Float8)
            if number(a) && !(matches!(a, T::Float4 | T::Float8) && parent == T::Numeric) =>
        {
            return None;
        }
        (a, b) if text(a) && text(b) => return None,
        (a, b) if moment(a) && moment(b) => return None,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_all_sizes_and_strings_of_all_kinds_have_one_link() {
        let of = |value: Datum| encoded([value]);
        assert_eq!(of(Datum::Int2(-7)), of(Datum::Int8(-7)));
        assert_eq!(of(Datum::Int4(7)), of(Datum::Int8(7)));
        assert_ne!(of(Datum::Int4(7)), of(Datum::text("7")));
        assert!(fit(&Datum::Int8(40_000), Type::Int2).is_none());
        assert!(matches!(fit(&Datum::Int8(-3), Type::Int4), Some(Datum::Int4(-3))));
    }

    #[test]
    fn types_are_told_apart_as_postgresql_does() {
        for (child, parent, expected) in [
            (Type::Int2, Type::Int8, Some(true)),
            (Type::Int8, Type::Int2, Some(true)),
            (Type::Varchar, Type::Text, Some(true)),
            (Type::Uuid, Type::Uuid, Some(true)),
            (Type::Int4, Type::Text, Some(false)),
            (Type::Numeric, Type::Int4, Some(false)),
            (Type::Float8, Type::Numeric, Some(false)),
            // PostgreSQL has them, we don't.
            (Type::Int4, Type::Numeric, None),
            (Type::Date, Type::Timestamp, None),
            (Type::Text, Type::Bpchar, None),
        ] {
            assert_eq!(comparable(child, parent), expected, "{child} to {parent}");
        }
    }
}
