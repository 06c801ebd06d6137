//! Row keys: from rows to keys, and from keys back to what an error message says.

use bytes::{BufMut, BytesMut};
use txn::api::Key;
use txn::seam::Seams;

use super::Row;
use crate::catalog::layout::bucket_of;
use crate::catalog::{CatalogImage, TableDescriptor, UniqueConstraint, layout};
use crate::error::{ErrorObject, SqlError, SqlState};
use crate::ir::Sharding;
use crate::types::{ColumnType, Datum, TimeZone, io, key};

/// Marks a hidden row id; like key columns, row ids don't begin with a zero byte.
const ROW_ID_MARK: u8 = 1;

/// Makes hidden row ids: unique without coordination, ascending within one maker, so that a bulk load appends.
///
/// An id is the milliseconds of the clock when the maker was made, 64 random bits, and a counter. It need only be unique;
/// nothing depends on the clock being right.
#[derive(Debug)]
pub struct RowIds {
    wall_ms: u64,
    random: u64,
    next: u32,
}

impl RowIds {
    /// A maker for one statement.
    pub fn new(seams: &Seams) -> Self {
        Self { wall_ms: seams.clock.wall_ms(), random: seams.random_u64(), next: 0 }
    }

    fn put(&mut self, seams: &Seams, out: &mut BytesMut) {
        out.put_u8(ROW_ID_MARK);
        out.put_slice(&self.wall_ms.to_be_bytes()[2..]);
        out.put_u64(self.random);
        out.put_u32(self.next);
        self.next = self.next.wrapping_add(1);
        if self.next == 0 {
            self.random = seams.random_u64();
        }
    }

    /// The key of a new row of a table without a primary key.
    pub fn key(&mut self, table: &TableDescriptor, seams: &Seams) -> Key {
        // Round robin by the counter: each statement starts in a bucket of its own.
        let bucket = table.buckets().map(|n| ((u64::from(self.next) + self.random) % u64::from(n)) as u16);
        let mut out = table.bucket_prefix(bucket);
        self.put(seams, &mut out);
        out.freeze()
    }
}

/// The bucket of a row with these encoded key columns, where `ends[i]` is the end of the i-th.
fn hashed_bucket(table: &TableDescriptor, encoded: &[u8], ends: &[usize]) -> Option<u16> {
    match table.sharding {
        Sharding::Range => None,
        Sharding::RoundRobin { shards } => Some(bucket_of(encoded, shards)),
        Sharding::Hash { shards, key_columns } => {
            let columns = key_columns.clamp(1, ends.len().max(1));
            let end = ends.get(columns - 1).copied().unwrap_or(encoded.len());
            Some(bucket_of(&encoded[..end], shards))
        }
    }
}

/// The key of a row of a table with a primary key; `values` are the key columns' values in the key's order.
pub fn key_of_values<'a>(table: &TableDescriptor, values: impl IntoIterator<Item = &'a Datum>) -> Key {
    let mut encoded = Vec::with_capacity(32);
    let mut ends = Vec::with_capacity(4);
    for value in values {
        key::encode(value, &mut encoded);
        ends.push(encoded.len());
    }
    let mut out = table.bucket_prefix(hashed_bucket(table, &encoded, &ends));
    out.put_slice(&encoded);
    out.freeze()
}

/// The key of a row of a table with a primary key.
pub fn key_of_row(table: &TableDescriptor, primary: &[usize], row: &[Datum]) -> Key {
    key_of_values(table, primary.iter().map(|&column| &row[column]))
}

/// The key of a row's entry for a UNIQUE constraint; `None` where a NULL makes it unlike all others.
pub fn key_of_unique(table: &TableDescriptor, unique: &UniqueConstraint, row: &[Datum]) -> Option<Key> {
    if unique.columns.iter().any(|&column| row[column].is_null()) {
        return None;
    }
    let mut encoded = table.index_prefix(unique.index_id).to_vec();
    for &column in &unique.columns {
        key::encode(&row[column], &mut encoded);
    }
    Some(encoded.into())
}

/// The keys of a row's entries for all UNIQUE constraints.
pub fn entries_of(table: &TableDescriptor, row: &[Datum]) -> Vec<Key> {
    table.unique.iter().filter_map(|unique| key_of_unique(table, unique, row)).collect()
}

/// A constraint's name and columns, with the values that a key has for them.
pub struct KeyOf<'a> {
    constraint: &'a str,
    columns: &'a [usize],
    values: Row,
}

impl<'a> KeyOf<'a> {
    /// Reads a key of the primary key or of a UNIQUE constraint; `None` for a hidden row id, and for keys of storages that
    /// the table no longer has.
    pub fn read(table: &'a TableDescriptor, key: &[u8]) -> Option<Self> {
        let storage = table.storage_of(key)?;
        let (constraint, columns, offset) = match table.unique.iter().find(|u| u.index_id == storage) {
            Some(unique) => (unique.name.as_str(), &unique.columns[..], layout::STORAGE_PREFIX_BYTES),
            // The links of foreign keys are no keys of the table.
            None if table.foreign_keys.iter().any(|key| key.index_id == storage) => return None,
            None => {
                let primary = table.primary_key.as_ref()?;
                (primary.name.as_str(), &primary.columns[..], table.key_offset())
            }
        };
        let mut rest = key.get(offset..)?;
        let mut value = |&column: &usize| key::decode(&mut rest, table.columns[column].ty.ty).ok();
        let values = columns.iter().map(&mut value).collect::<Option<Row>>()?;
        Some(Self { constraint, columns, values })
    }

    /// PostgreSQL's `Key (a, b)=(1, 2)`.
    pub fn describe(&self, table: &TableDescriptor) -> String {
        let columns = self.columns.iter().map(|&c| &table.columns[c]);
        let names: Vec<&str> = columns.clone().map(|c| c.name.as_str()).collect();
        let texts: Vec<String> = columns.zip(&self.values).map(|(c, v)| display(v, c.ty)).collect();
        format!("Key ({})=({})", names.join(", "), texts.join(", "))
    }
}

/// A value as messages show it.
pub fn display(value: &Datum, ty: ColumnType) -> String {
    match value {
        Datum::Null => "null".into(),
        _ => io::format(value, ty, &TimeZone::default()).into_owned(),
    }
}

/// `23505` for a key of the primary key or of a UNIQUE constraint.
pub fn duplicate_key(table: &TableDescriptor, key: &[u8]) -> SqlError {
    let Some(of) = KeyOf::read(table, key) else {
        return SqlError::new(SqlState::UNIQUE_VIOLATION, "duplicate key value violates unique constraint");
    };
    let message = format!("duplicate key value violates unique constraint \"{}\"", of.constraint);
    SqlError::new(SqlState::UNIQUE_VIOLATION, message)
        .detail(format!("{} already exists.", of.describe(table)))
        .object(ErrorObject {
            schema: Some(table.schema.clone()),
            table: Some(table.name.clone()),
            column: None,
            constraint: Some(of.constraint.to_owned()),
        })
}

/// What a client is told about an error of the transaction layer: `AlreadyExists` becomes the violation of the constraint
/// that the key belongs to, and a conflict names its table.
///
/// For errors of `commit` as well as of reads and writes.
pub fn explain(error: txn::Error, image: &CatalogImage) -> SqlError {
    use txn::Error as E;
    let (E::AlreadyExists { key } | E::Conflict { key, .. } | E::Changed { key, .. }) = &error else {
        return explain_lock(error, image);
    };
    let (key, duplicate) = (key.clone(), matches!(error, txn::Error::AlreadyExists { .. }));
    let mut out = SqlError::from(error);
    let keep = out.source.take();
    if let Some(table) = layout::parse_table_key(&key)
        .filter(|&(database, _)| database == image.database().id)
        .and_then(|(_, id)| image.table_by_id(id))
    {
        if duplicate {
            out = duplicate_key(table, &key);
        } else {
            let what = KeyOf::read(table, &key).map(|of| format!("{} of ", of.describe(table)));
            let what = what.unwrap_or_default();
            out.detail = Some(format!("A concurrent transaction changed {what}table \"{}\".", table.name));
        }
    } else if let Some(of) = layout::parse_catalog_key(&key)
        && duplicate
    {
        use layout::CatalogKey as K;
        let (state, message) = match of {
            K::Database(name) => {
                (SqlState::DUPLICATE_DATABASE, format!("database \"{name}\" already exists"))
            }
            K::Schema(name) => (SqlState::DUPLICATE_SCHEMA, format!("schema \"{name}\" already exists")),
            K::TableName(name) => (SqlState::DUPLICATE_TABLE, format!("relation \"{name}\" already exists")),
            K::Other => (SqlState::DUPLICATE_OBJECT, "object already exists".into()),
        };
        out = SqlError::new(state, message);
    }
    out.source = keep;
    out
}

/// The same for locks: they name the relation.
fn explain_lock(error: txn::Error, image: &CatalogImage) -> SqlError {
    let (txn::Error::Locked { key, .. } | txn::Error::Deadlock { key }) = &error else {
        return error.into();
    };
    let table = layout::parse_table_key(key)
        .filter(|&(database, _)| database == image.database().id)
        .and_then(|(_, id)| image.table_by_id(id));
    let Some(table) = table else { return error.into() };
    let row = KeyOf::read(table, key).map_or_else(|| "?".to_owned(), |of| of.describe(table));
    let (deadlock, nowait) = (
        matches!(error, txn::Error::Deadlock { .. }),
        matches!(error, txn::Error::Locked { timed_out: false, .. }),
    );
    let mut out = SqlError::from(error);
    if nowait {
        out.message = format!("could not obtain lock on row in relation \"{}\"", table.name).into();
    }
    if deadlock {
        out.detail = Some(format!(
            "It waited for the row {row} of table \"{}\", in a circle of transactions, and was chosen to be ended.",
            table.name
        ));
    } else {
        out.detail =
            Some(format!("The row {row} of table \"{}\" is locked by another transaction.", table.name));
    }
    out
}
