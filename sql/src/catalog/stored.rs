//! How descriptors are kept in catalog rows: one version byte, then JSON.
//!
//! JSON is chosen for what it allows: fields can be added with a default, and an operator can read a dump. Catalog rows
//! are few and read seldom. Types are kept by PostgreSQL's OID and modifier, which never change.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{
    CheckConstraint, ColumnDescriptor, ForeignKey, Missing, Placement, PrimaryKey, ReferentialAction,
    TableDescriptor, UniqueConstraint,
};
use crate::error::{Result, SqlError, SqlState};
use crate::ir::Sharding;
use crate::types::{ColumnType, Type, row};

/// The version of the format that this code writes …
const FORMAT: u8 = 1;
/// … and the newest that it reads: of tables of which some rows lack a column that is not NULL there. A program that doesn't know
/// of that must not read them.
const FORMAT_MISSING: u8 = 2;

/// A database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseDescriptor {
    /// Its OID; also the first word of its keys.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// A schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaDescriptor {
    /// Its OID.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// A range to be cleared once no snapshot can see it any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredGarbage {
    /// The first key, in hexadecimal.
    pub start: String,
    /// The end, in hexadecimal; empty: unbounded.
    pub end: String,
    /// When it became garbage, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredColumn {
    id: u32,
    name: String,
    type_oid: u32,
    typmod: i32,
    not_null: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    /// The column alone as a row, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    name: String,
    columns: Vec<usize>,
}

#[derive(Serialize, Deserialize)]
struct StoredUnique {
    name: String,
    columns: Vec<usize>,
    index_id: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    index_only: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredCheck {
    name: String,
    expr: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredAction {
    NoAction,
    Restrict,
    Cascade,
    SetNull,
    SetDefault,
}

impl From<ReferentialAction> for StoredAction {
    fn from(action: ReferentialAction) -> Self {
        match action {
            ReferentialAction::NoAction => StoredAction::NoAction,
            ReferentialAction::Restrict => StoredAction::Restrict,
            ReferentialAction::Cascade => StoredAction::Cascade,
            ReferentialAction::SetNull => StoredAction::SetNull,
            ReferentialAction::SetDefault => StoredAction::SetDefault,
        }
    }
}

impl From<StoredAction> for ReferentialAction {
    fn from(action: StoredAction) -> Self {
        match action {
            StoredAction::NoAction => ReferentialAction::NoAction,
            StoredAction::Restrict => ReferentialAction::Restrict,
            StoredAction::Cascade => ReferentialAction::Cascade,
            StoredAction::SetNull => ReferentialAction::SetNull,
            StoredAction::SetDefault => ReferentialAction::SetDefault,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredForeignKey {
    name: String,
    columns: Vec<usize>,
    parent: u32,
    parent_columns: Vec<u32>,
    full: bool,
    on_delete: StoredAction,
    on_update: StoredAction,
    index_id: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum StoredSharding {
    Range,
    Hash { shards: u16, key_columns: usize },
    RoundRobin { shards: u16 },
}

#[derive(Serialize, Deserialize)]
struct StoredTable {
    id: u32,
    database: u32,
    schema: String,
    name: String,
    version: u64,
    columns: Vec<StoredColumn>,
    storage_id: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    primary_key: Option<StoredKey>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unique: Vec<StoredUnique>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    checks: Vec<StoredCheck>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    foreign_keys: Vec<StoredForeignKey>,
    sharding: StoredSharding,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replication_factor: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placement: Option<String>,
    next_column_id: u32,
}

fn corrupt(what: &str, why: impl std::fmt::Display) -> SqlError {
    SqlError::new(SqlState::DATA_CORRUPTED, format!("catalog row of a {what} cannot be read: {why}"))
}

/// Writes a catalog row.
pub(super) fn encode<T: Serialize>(what: &str, value: &T) -> Result<bytes::Bytes> {
    encode_as(FORMAT, what, value)
}

fn encode_as<T: Serialize>(format: u8, what: &str, value: &T) -> Result<bytes::Bytes> {
    let mut out = vec![format];
    serde_json::to_writer(&mut out, value).map_err(|e| corrupt(what, e))?;
    Ok(out.into())
}

/// Reads a catalog row.
pub(super) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&(FORMAT | FORMAT_MISSING), rest)) => {
            serde_json::from_slice(rest).map_err(|e| corrupt(what, e))
        }
        Some((version, _)) => Err(corrupt(what, format_args!("format {version} is newer than this program"))),
        None => Err(corrupt(what, "it is empty")),
    }
}

/// Writes a table's row.
pub(super) fn encode_table(table: &TableDescriptor) -> Result<bytes::Bytes> {
    let stored = StoredTable {
        id: table.id,
        database: table.database,
        schema: table.schema.clone(),
        name: table.name.clone(),
        version: table.version,
        columns: table
            .columns
            .iter()
            .map(|c| StoredColumn {
                id: c.id,
                name: c.name.clone(),
                type_oid: c.ty.ty.oid(),
                typmod: c.ty.typmod,
                not_null: c.not_null,
                default: c.default.clone(),
                missing: c.missing.as_ref().map(|m| hex::encode(row::encode([(c.id, &m.0, true)]))),
            })
            .collect(),
        storage_id: table.storage_id,
        primary_key: table
            .primary_key
            .as_ref()
            .map(|k| StoredKey { name: k.name.clone(), columns: k.columns.clone() }),
        unique: table
            .unique
            .iter()
            .map(|u| StoredUnique {
                name: u.name.clone(),
                columns: u.columns.clone(),
                index_id: u.index_id,
                index_only: u.index_only,
            })
            .collect(),
        checks: table
            .checks
            .iter()
            .map(|c| StoredCheck { name: c.name.clone(), expr: c.expr.clone() })
            .collect(),
        foreign_keys: table
            .foreign_keys
            .iter()
            .map(|f| StoredForeignKey {
                name: f.name.clone(),
                columns: f.columns.clone(),
                parent: f.parent,
                parent_columns: f.parent_columns.clone(),
                full: f.full,
                on_delete: f.on_delete.into(),
                on_update: f.on_update.into(),
                index_id: f.index_id,
            })
            .collect(),
        sharding: match table.sharding {
            Sharding::Range => StoredSharding::Range,
            Sharding::Hash { shards, key_columns } => StoredSharding::Hash { shards, key_columns },
            Sharding::RoundRobin { shards } => StoredSharding::RoundRobin { shards },
        },
        replication_factor: Some(table.placement.replicas).filter(|replicas| *replicas > 0),
        placement: Some(table.placement.places.clone()).filter(|places| !places.is_empty()),
        next_column_id: table.next_column_id,
    };
    let format = match table.columns.iter().any(|c| c.missing.is_some()) {
        true => FORMAT_MISSING,
        false => FORMAT,
    };
    encode_as(format, "table", &stored)
}

fn missing(column: u32, text: &str) -> Result<Missing> {
    let row = hex::decode(text).map_err(|e| corrupt("table", e))?;
    let value = row::decode(&row, &[column])?.pop();
    value.map(Missing).ok_or_else(|| corrupt("table", "a column's value in old rows is not there"))
}

/// Reads a table's row, and asserts what the rest of the code relies on.
pub(super) fn decode_table(bytes: &[u8]) -> Result<TableDescriptor> {
    let stored: StoredTable = decode("table", bytes)?;
    let width = stored.columns.len();
    let keys = stored.primary_key.iter().map(|k| &k.columns).chain(stored.unique.iter().map(|u| &u.columns));
    let keys = keys.chain(stored.foreign_keys.iter().map(|f| &f.columns));
    if keys.flatten().any(|&column| column >= width) {
        return Err(corrupt("table", format_args!("a key of it names a column beyond the {width}th")));
    }
    let columns = stored
        .columns
        .into_iter()
        .map(|c| {
            let ty = Type::from_oid(c.type_oid)
                .ok_or_else(|| corrupt("table", format_args!("there is no type with OID {}", c.type_oid)))?;
            Ok(ColumnDescriptor {
                id: c.id,
                name: c.name,
                ty: ColumnType { ty, typmod: c.typmod },
                not_null: c.not_null,
                default: c.default,
                missing: c.missing.map(|text| missing(c.id, &text)).transpose()?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(TableDescriptor {
        id: stored.id,
        database: stored.database,
        schema: stored.schema,
        name: stored.name,
        version: stored.version,
        columns,
        storage_id: stored.storage_id,
        primary_key: stored.primary_key.map(|k| PrimaryKey { name: k.name, columns: k.columns }),
        unique: stored
            .unique
            .into_iter()
            .map(|u| UniqueConstraint {
                name: u.name,
                columns: u.columns,
                index_id: u.index_id,
                index_only: u.index_only,
            })
            .collect(),
        checks: stored.checks.into_iter().map(|c| CheckConstraint { name: c.name, expr: c.expr }).collect(),
        foreign_keys: stored
            .foreign_keys
            .into_iter()
            .map(|f| ForeignKey {
                name: f.name,
                columns: f.columns,
                parent: f.parent,
                parent_columns: f.parent_columns,
                full: f.full,
                on_delete: f.on_delete.into(),
                on_update: f.on_update.into(),
                index_id: f.index_id,
            })
            .collect(),
        sharding: match stored.sharding {
            StoredSharding::Range => Sharding::Range,
            StoredSharding::Hash { shards, key_columns } => Sharding::Hash { shards, key_columns },
            StoredSharding::RoundRobin { shards } => Sharding::RoundRobin { shards },
        },
        placement: Placement {
            replicas: stored.replication_factor.unwrap_or(0),
            places: stored.placement.unwrap_or_default(),
        },
        next_column_id: stored.next_column_id,
    })
}
