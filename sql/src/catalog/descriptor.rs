//! Descriptors: the catalog's rows in memory.

use std::sync::Arc;

use crate::ir::Sharding;
use crate::types::{ColumnType, Datum, row};

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
    /// What the rows have in it that came before it; `None`: NULL. Rows that came later say what they have, NULL included.
    pub missing: Option<Missing>,
}

/// A column's value in rows that lack it.
#[derive(Clone, Debug)]
pub struct Missing(pub Datum);

impl PartialEq for Missing {
    fn eq(&self, other: &Self) -> bool {
        row::encode([(0, &self.0, true)]) == row::encode([(0, &other.0, true)])
    }
}

/// The primary key.
#[derive(Clone, Debug, PartialEq)]
pub struct PrimaryKey {
    /// The constraint's name.
    pub name: String,
    /// Indexes into the table's columns.
    pub columns: Vec<usize>,
}

/// A UNIQUE constraint beside the primary key, or a unique index without a constraint. Each row without a NULL in these columns has
/// an entry in an index of its own: under their values stands the row's key. (Of two NULLs neither is the other's duplicate, so such
/// rows need no entry.)
#[derive(Clone, Debug, PartialEq)]
pub struct UniqueConstraint {
    /// The constraint's name.
    pub name: String,
    /// Indexes into the table's columns.
    pub columns: Vec<usize>,
    /// Where the entries are: the index's OID, in keys at the place of the table's storage id. Changed by TRUNCATE.
    pub index_id: u32,
    /// Made by CREATE UNIQUE INDEX: it keeps rows apart like a constraint, but is none by name, and goes with DROP INDEX.
    pub index_only: bool,
}

/// A CHECK constraint.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckConstraint {
    /// The constraint's name.
    pub name: String,
    /// The expression as SQL text; bound when a statement needs it.
    pub expr: String,
}

/// What becomes of the rows that refer to one that goes, or whose key changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReferentialAction {
    /// It is refused, if they still refer to nothing at the end of the statement.
    #[default]
    NoAction,
    /// It is refused.
    Restrict,
    /// They go, too, or follow the key.
    Cascade,
    /// They refer to nothing.
    SetNull,
    /// They refer to what their columns' defaults say.
    SetDefault,
}

/// A foreign key: what a row has in these columns stands in the referenced columns of a row of another table, or of this one.
/// A NULL refers to nothing. Each row that refers has a *link* in an index of its own: under the values and the row's key stands
/// the row's key. So those who refer to a row are found, and validated, without a look at any others (`exec::references`).
#[derive(Clone, Debug, PartialEq)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// Indexes into the table's columns.
    pub columns: Vec<usize>,
    /// The OID of the table that is referred to.
    pub parent: u32,
    /// The ids of the columns there, in the order of `columns`: they are a key of that table.
    pub parent_columns: Vec<u32>,
    /// MATCH FULL: all of the columns are NULL, or none.
    pub full: bool,
    /// ON DELETE.
    pub on_delete: ReferentialAction,
    /// ON UPDATE.
    pub on_update: ReferentialAction,
    /// Where the links are: an OID, in keys at the place of the table's storage id. Changed by TRUNCATE.
    pub index_id: u32,
}

/// What is wanted of the replicas of a table's shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// How many. 0: as many as for all.
    pub replicas: u16,
    /// Where, in the meta-group's words. Empty: anywhere.
    pub places: String,
}

impl Placement {
    /// Whether it wants nothing in particular.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
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
    /// UNIQUE constraints beside the primary key, and unique indexes.
    pub unique: Vec<UniqueConstraint>,
    /// CHECK constraints.
    pub checks: Vec<CheckConstraint>,
    /// Foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// How the rows are spread.
    pub sharding: Sharding,
    /// What is wanted of its replicas.
    pub placement: Placement,
    /// The next column id.
    pub next_column_id: u32,
}

/// A key of a table: its primary key, a UNIQUE constraint or a unique index.
#[derive(Clone, Copy, Debug)]
pub struct TableKey<'a> {
    /// The constraint's name, which is its index's, too.
    pub name: &'a str,
    /// Indexes into the table's columns.
    pub columns: &'a [usize],
    /// Its place in the table's list; `None`: the primary key.
    pub unique: Option<usize>,
    /// It is an index, and no constraint.
    pub index_only: bool,
}

impl TableDescriptor {
    /// The primary key, the UNIQUE constraints and the unique indexes.
    pub fn keys(&self) -> impl Iterator<Item = TableKey<'_>> {
        let primary = self.primary_key.iter().map(|key| TableKey {
            name: &key.name,
            columns: &key.columns,
            unique: None,
            index_only: false,
        });
        let unique = self.unique.iter().enumerate().map(|(at, unique)| TableKey {
            name: &unique.name,
            columns: &unique.columns,
            unique: Some(at),
            index_only: unique.index_only,
        });
        primary.chain(unique)
    }

    /// The key over exactly these columns, in whatever order.
    pub fn key_over(&self, columns: &[usize]) -> Option<TableKey<'_>> {
        self.keys().find(|key| {
            key.columns.len() == columns.len() && key.columns.iter().all(|column| columns.contains(column))
        })
    }

    /// The columns of this table that a foreign key refers to; `None`: it refers to another version of the table.
    pub fn referenced_by(&self, key: &ForeignKey) -> Option<Vec<usize>> {
        let place = |id: &u32| self.columns.iter().position(|column| column.id == *id);
        key.parent_columns.iter().map(place).collect()
    }
}

/// What the binder asks of a catalog. One implementation is an immutable image of a database's catalog, pinned for a
/// transaction; golden tests have another.
pub trait CatalogReader: Send + Sync {
    /// The table `name` in `schema`, or on the search path.
    fn table(&self, schema: Option<&str>, name: &str) -> Option<Arc<TableDescriptor>>;
    /// The tables with an index of this name, in `schema` or in the first schema on the search path that has one.
    fn indexed_by(&self, schema: Option<&str>, name: &str) -> Vec<Arc<TableDescriptor>> {
        let _ = (schema, name);
        Vec::new()
    }
    /// The foreign keys that refer to a table: whose they are, and their places there.
    fn referring(&self, table: u32) -> Vec<(Arc<TableDescriptor>, usize)> {
        let _ = table;
        Vec::new()
    }
    /// Whether there is such a schema (virtual ones included).
    fn has_schema(&self, name: &str) -> bool;
    /// The columns of a virtual table (system view), with its resolved schema; `schema` `None`: `pg_catalog` is searched.
    fn virtual_table(&self, schema: Option<&str>, name: &str) -> Option<(String, Vec<(String, ColumnType)>)>;
    /// The database's name.
    fn database(&self) -> &str;
    /// The schemas on the search path, in order.
    fn search_path(&self) -> &[String];
}
