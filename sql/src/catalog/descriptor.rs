//! Descriptors: the catalog's rows in memory.

use std::sync::Arc;

use crate::ir::Sharding;
use crate::types::ColumnType;

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDescriptor {
    /// Identifies the column's values in stored rows; never reused within a table.
    pub id: u32,
    /// The name.
    pub name: String,
    /// The type.
    pub ty: ColumnType,
    /// NOT NULL.
    pub not_null: bool,
    /// DEFAULT as SQL text; bound when a statement needs it.
    pub default: Option<String>,
}

/// The primary key.
#[derive(Clone, Debug, PartialEq)]
pub struct PrimaryKey {
    /// The constraint's name.
    pub name: String,
    /// Indexes into the table's columns.
    pub columns: Vec<usize>,
}

/// A UNIQUE constraint beside the primary key. Each row without a NULL in these columns has an entry in an index of its own:
/// under their values stands the row's key. (Of two NULLs neither is the other's duplicate, so such rows need no entry.)
#[derive(Clone, Debug, PartialEq)]
pub struct UniqueConstraint {
    /// The constraint's name.
    pub name: String,
    /// Indexes into the table's columns.
    pub columns: Vec<usize>,
    /// Where the entries are: the index's OID, in keys at the place of the table's storage id. Changed by TRUNCATE.
    pub index_id: u32,
}

/// A CHECK constraint.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckConstraint {
    /// The constraint's name.
    pub name: String,
    /// The expression as SQL text; bound when a statement needs it.
    pub expr: String,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableDescriptor {
    /// The table's OID, the same on every node; also its id in storage keys.
    pub id: u32,
    /// The database's id.
    pub database: u32,
    /// The schema's name.
    pub schema: String,
    /// The name.
    pub name: String,
    /// Raised by every change: the value of the table's fence.
    pub version: u64,
    /// The visible columns in order.
    pub columns: Vec<ColumnDescriptor>,
    /// Where the rows are: changed by TRUNCATE and by rewriting (ADD PRIMARY KEY).
    pub storage_id: u32,
    /// The primary key; `None`: rows are kept under a hidden row id.
    pub primary_key: Option<PrimaryKey>,
    /// UNIQUE constraints beside the primary key.
    pub unique: Vec<UniqueConstraint>,
    /// CHECK constraints.
    pub checks: Vec<CheckConstraint>,
    /// How the rows are spread.
    pub sharding: Sharding,
    /// The next column id.
    pub next_column_id: u32,
}

/// What the binder asks of a catalog. One implementation is an immutable image of a database's catalog, pinned for a
/// transaction; golden tests have another.
pub trait CatalogReader: Send + Sync {
    /// The table `name` in `schema`, or on the search path.
    fn table(&self, schema: Option<&str>, name: &str) -> Option<Arc<TableDescriptor>>;
    /// Whether there is such a schema (virtual ones included).
    fn has_schema(&self, name: &str) -> bool;
    /// The columns of a virtual table (system view), with its resolved schema; `schema` `None`: `pg_catalog` is searched.
    fn virtual_table(&self, schema: Option<&str>, name: &str) -> Option<(String, Vec<(String, ColumnType)>)>;
    /// The database's name.
    fn database(&self) -> &str;
    /// The schemas on the search path, in order.
    fn search_path(&self) -> &[String];
}
