//! Where everything is in the cluster's one keyspace. This is a disk format.
//!
//! ```text
//! table rows      db:u32 table:u32 (storage:u32 | TOP) [(bucket:u16 | TOP)] key columns, or a hidden row id
//! index entries   db:u32 table:u32 (index:u32 | TOP) indexed columns      (of UNIQUE constraints; the value is the row's key
//!                                                                         without its `db table`)
//! links           db:u32 table:u32 (index:u32 | TOP) referenced columns   (of foreign keys, the values as the referenced table
//!                     the row's key without its `db table`                has them; the value is the row's key once more)
//! catalog rows    1:u32  kind:u32  …                    (see the functions below)
//! advisory locks  db:u32 0:u32 (1 bigint | 2 int int)   nothing is stored there: the keys are locked, no more. No table has the
//!                                                       id 0, and shards are cut at tables, so all of a database's are in one shard
//! ```
//!
//! All integers are big-endian. The top bit of the storage id and of the bucket is always set: shards keep a table's
//! fence under `max(shard.start, prefix) ++ 0x00`, so no row's key may continue such a prefix with a zero byte. Key
//! columns never begin with one either (`types::key`), nor do row ids.
//!
//! The hash bucket of a row is `fnv1a64(encoded hashed columns) folded to 32 bits, times shards, shifted right by 32`;
//! see [`bucket_of`]. It must never change: it says where rows are.

use bytes::{BufMut, Bytes, BytesMut};
use txn::api::{Fence, Key};
use txn::ids::KeyRange;

use super::TableDescriptor;
use crate::function::effect::AdvisoryKey;
use crate::ir::Sharding;

/// The system database, which holds the catalog.
pub const SYSTEM_DATABASE: u32 = 1;
/// The database that every cluster begins with.
pub const DEFAULT_DATABASE: u32 = 2;
/// The first id that is handed out to databases, schemas, tables and storages. Below are PostgreSQL's own OIDs.
pub const FIRST_OID: u32 = 16384;

/// Set in storage ids and buckets within keys.
const STORAGE_TOP: u32 = 1 << 31;
const BUCKET_TOP: u16 = 1 << 15;
/// The length of `db table`.
const TABLE_PREFIX_BYTES: usize = 8;
/// The length of `db table storage`.
pub const STORAGE_PREFIX_BYTES: usize = 12;

/// The kinds of catalog rows: the second word of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Databases = 1,
    Schemas = 2,
    Tables = 3,
    TableNames = 4,
    Counter = 5,
    Garbage = 6,
    Settings = 7,
}

fn catalog_prefix(kind: Kind) -> BytesMut {
    let mut key = BytesMut::with_capacity(64);
    key.put_u32(SYSTEM_DATABASE);
    key.put_u32(kind as u32);
    key
}

/// All keys of a database.
pub fn database_range(database: u32) -> KeyRange {
    KeyRange::new(
        Bytes::copy_from_slice(&database.to_be_bytes()),
        database.checked_add(1).map_or_else(Bytes::new, |next| Bytes::copy_from_slice(&next.to_be_bytes())),
    )
}

/// `databases`: by name, so that a name is given once.
pub fn database_key(name: &str) -> Key {
    let mut key = catalog_prefix(Kind::Databases);
    key.put_slice(name.as_bytes());
    key.freeze()
}

/// All databases.
pub fn databases_range() -> KeyRange {
    KeyRange::prefix(&catalog_prefix(Kind::Databases))
}

/// `schemas`: by database and name.
pub fn schema_key(database: u32, name: &str) -> Key {
    let mut key = catalog_prefix(Kind::Schemas);
    key.put_u32(database);
    key.put_slice(name.as_bytes());
    key.freeze()
}

/// A database's schemas.
pub fn schemas_range(database: u32) -> KeyRange {
    let mut key = catalog_prefix(Kind::Schemas);
    key.put_u32(database);
    KeyRange::prefix(&key)
}

/// `tables`: by database and id.
pub fn table_key(database: u32, table: u32) -> Key {
    let mut key = catalog_prefix(Kind::Tables);
    key.put_u32(database);
    key.put_u32(table);
    key.freeze()
}

/// A database's tables.
pub fn tables_range(database: u32) -> KeyRange {
    let mut key = catalog_prefix(Kind::Tables);
    key.put_u32(database);
    KeyRange::prefix(&key)
}

/// `table names`: by database, schema and name; what makes them unique. Names have no NUL.
pub fn table_name_key(database: u32, schema: &str, name: &str) -> Key {
    let mut key = catalog_prefix(Kind::TableNames);
    key.put_u32(database);
    key.put_slice(schema.as_bytes());
    key.put_u8(0);
    key.put_slice(name.as_bytes());
    key.freeze()
}

/// A database's table names.
pub fn table_names_range(database: u32) -> KeyRange {
    let mut key = catalog_prefix(Kind::TableNames);
    key.put_u32(database);
    KeyRange::prefix(&key)
}

/// The counter of ids.
pub fn counter_key() -> Key {
    catalog_prefix(Kind::Counter).freeze()
}

/// `garbage`: ranges that no new snapshot can see, by their start.
pub fn garbage_key(range: &KeyRange) -> Key {
    let mut key = catalog_prefix(Kind::Garbage);
    key.put_slice(&range.start);
    key.freeze()
}

/// All garbage.
pub fn garbage_range() -> KeyRange {
    KeyRange::prefix(&catalog_prefix(Kind::Garbage))
}

/// `settings`: of all sessions, or by database (0: any) and role (none: any).
pub fn settings_key(system: bool, database: u32, role: &str) -> Key {
    let mut key = catalog_prefix(Kind::Settings);
    key.put_u8(if system { 1 } else { 2 });
    key.put_u32(database);
    key.put_slice(role.as_bytes());
    key.freeze()
}

/// The settings of a database's sessions.
pub fn settings_range(database: u32) -> KeyRange {
    KeyRange::prefix(&settings_key(false, database, ""))
}

/// What a catalog key is about, to explain a conflict on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogKey {
    /// A database's name.
    Database(String),
    /// A schema's name.
    Schema(String),
    /// A table's name.
    TableName(String),
    /// Anything else.
    Other,
}

/// Reads a key of the system database; `None` for keys of other databases.
pub fn parse_catalog_key(key: &[u8]) -> Option<CatalogKey> {
    let rest = key.strip_prefix(&SYSTEM_DATABASE.to_be_bytes()[..])?;
    let (kind, rest) = rest.split_at_checked(4)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(match u32::from_be_bytes(kind.try_into().ok()?) {
        k if k == Kind::Databases as u32 => CatalogKey::Database(text(rest)),
        k if k == Kind::Schemas as u32 => CatalogKey::Schema(text(rest.get(4..)?)),
        k if k == Kind::TableNames as u32 => {
            let name = rest.get(4..)?;
            let at = name.iter().position(|&b| b == 0)?;
            CatalogKey::TableName(text(&name[at + 1..]))
        }
        _ => CatalogKey::Other,
    })
}

/// The database and the table that a row's key belongs to.
pub fn parse_table_key(key: &[u8]) -> Option<(u32, u32)> {
    let database = u32::from_be_bytes(key.get(..4)?.try_into().ok()?);
    let table = u32::from_be_bytes(key.get(4..8)?.try_into().ok()?);
    (database > SYSTEM_DATABASE).then_some((database, table))
}

/// The key by which an advisory lock is taken.
pub fn advisory_key(database: u32, key: AdvisoryKey) -> Key {
    let mut out = BytesMut::with_capacity(17);
    out.put_u32(database);
    out.put_u32(0);
    match key {
        AdvisoryKey::One(n) => {
            out.put_u8(1);
            out.put_i64(n);
        }
        AdvisoryKey::Two(a, b) => {
            out.put_u8(2);
            out.put_i32(a);
            out.put_i32(b);
        }
    }
    out.freeze()
}

/// The database and the key of an advisory lock.
pub fn parse_advisory_key(key: &[u8]) -> Option<(u32, AdvisoryKey)> {
    let (database, rest) = key.split_first_chunk::<4>()?;
    let rest = rest.strip_prefix(&[0; 4])?;
    let (kind, rest) = rest.split_first()?;
    let value = i64::from_be_bytes(rest.try_into().ok()?);
    let key = match kind {
        1 => AdvisoryKey::One(value),
        2 => AdvisoryKey::Two((value >> 32) as i32, value as i32),
        _ => return None,
    };
    Some((u32::from_be_bytes(*database), key))
}

/// The key of the row that an index entry of the table with this prefix leads to.
pub fn row_of_entry(prefix: &[u8], value: &[u8]) -> Key {
    let mut key = BytesMut::with_capacity(prefix.len() + value.len());
    key.put_slice(prefix);
    key.put_slice(value);
    key.freeze()
}

impl TableDescriptor {
    /// What all of the table's keys begin with, whatever storage they are in.
    pub fn prefix(&self) -> Key {
        let mut key = BytesMut::with_capacity(8);
        key.put_u32(self.database);
        key.put_u32(self.id);
        key.freeze()
    }

    /// What the keys of the table's rows begin with.
    pub fn storage_prefix(&self) -> Key {
        let mut key = BytesMut::with_capacity(STORAGE_PREFIX_BYTES);
        key.put_u32(self.database);
        key.put_u32(self.id);
        key.put_u32(self.storage_id | STORAGE_TOP);
        key.freeze()
    }

    /// What the keys of an index's entries begin with.
    pub fn index_prefix(&self, index_id: u32) -> BytesMut {
        let mut key = BytesMut::with_capacity(48);
        key.put_u32(self.database);
        key.put_u32(self.id);
        key.put_u32(index_id | STORAGE_TOP);
        key
    }

    /// The ids of all indexes: of UNIQUE constraints and of foreign keys.
    pub fn index_ids(&self) -> impl Iterator<Item = u32> + '_ {
        let unique = self.unique.iter().map(|unique| unique.index_id);
        unique.chain(self.foreign_keys.iter().map(|key| key.index_id))
    }

    /// What an index entry of the row under `key` says: where the row is.
    pub fn entry_value(key: &Key) -> Bytes {
        key.slice(TABLE_PREFIX_BYTES.min(key.len())..)
    }

    /// The storage or index that a key of this table belongs to.
    pub fn storage_of(&self, key: &[u8]) -> Option<u32> {
        let word = key.get(8..STORAGE_PREFIX_BYTES)?.try_into().ok()?;
        Some(u32::from_be_bytes(word) & !STORAGE_TOP)
    }

    /// What the keys of the rows in one bucket begin with; for range sharding there is one bucket, without a mark.
    pub fn bucket_prefix(&self, bucket: Option<u16>) -> BytesMut {
        let mut key = BytesMut::with_capacity(48);
        key.put_u32(self.database);
        key.put_u32(self.id);
        key.put_u32(self.storage_id | STORAGE_TOP);
        if let Some(bucket) = bucket {
            key.put_u16(bucket | BUCKET_TOP);
        }
        key
    }

    /// How many buckets there are; `None` for range sharding.
    pub fn buckets(&self) -> Option<u16> {
        match self.sharding {
            Sharding::Range => None,
            Sharding::Hash { shards, .. } | Sharding::RoundRobin { shards } => Some(shards.max(1)),
        }
    }

    /// How many bytes precede the key columns.
    pub fn key_offset(&self) -> usize {
        STORAGE_PREFIX_BYTES + if self.buckets().is_some() { 2 } else { 0 }
    }

    /// All rows.
    pub fn storage_range(&self) -> KeyRange {
        KeyRange::prefix(&self.storage_prefix())
    }

    /// The schema version that statements carry.
    pub fn fence(&self) -> Fence {
        Fence { prefix: self.prefix(), version: self.version }
    }
}

/// The bucket of a row whose hashed columns have this encoding.
pub fn bucket_of(hashed: &[u8], buckets: u16) -> u16 {
    // FNV-1a, 64 bits, and a finalising multiplication: short keys that differ in their last byte only must differ in the
    // high bits, which choose the bucket.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for &byte in hashed {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    (((hash >> 32) * u64::from(buckets.max(1))) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Disk format: these values must never change.
    #[test]
    fn bucket_of_known_keys_stays() {
        let buckets: Vec<u16> = (0u64..8).map(|i| bucket_of(&i.to_be_bytes(), 8)).collect();
        assert_eq!(buckets, BUCKETS_OF_0_TO_7);
        let mut counts = [0; 8];
        for i in 0u64..8000 {
            counts[bucket_of(&i.to_be_bytes(), 8) as usize] += 1;
        }
        assert!(counts.iter().all(|&n| n > 800 && n < 1200), "{counts:?}");
    }

    #[test]
    fn advisory_keys_are_told_apart_and_read_back() {
        use AdvisoryKey::{One, Two};
        let all = [One(0), One(1), One(-1), One(i64::MIN), Two(0, 0), Two(0, 1), Two(-7, i32::MAX)];
        for key in all {
            assert_eq!(parse_advisory_key(&advisory_key(9, key)), Some((9, key)));
            assert!(database_range(9).contains(&advisory_key(9, key)));
        }
        assert!(advisory_key(9, One(i64::MAX)) < advisory_key(9, Two(0, 0)));
    }

    const BUCKETS_OF_0_TO_7: [u16; 8] = [1, 3, 3, 4, 6, 3, 6, 1];
}
