//! System views: tables that are computed from the catalog and the cluster when they are read.
//!
//! *To add one*: a [`VirtualTable`] in the file of its schema (its name, its columns, its rows), and a place in that
//! file's `TABLES`. A view that PostgreSQL has keeps PostgreSQL's column names and order; columns that mean nothing here
//! may be left out.

mod cluster;
mod information_schema;
mod locks;
mod pg_catalog;
mod pg_fixed;
mod references;

use txn::api::{NodeInfo, OperationInfo, SettingInfo, ShardInfo};
use txn::ids::KeyRange;
use txn::order::Observed;

use super::{CatalogImage, CatalogReader};
use crate::error::{Result, SqlError, SqlState};
use crate::exec::{Row, StatementContext};
use crate::types::{ColumnType, Datum, Type};

/// The schemas that hold system views.
pub const SCHEMAS: [&str; 3] = ["pg_catalog", "information_schema", "flotilla"];

/// A system view.
pub struct VirtualTable {
    /// Its schema.
    pub schema: &'static str,
    /// Its name.
    pub name: &'static str,
    columns: &'static [(&'static str, Type)],
    rows: fn(&Source<'_>) -> Vec<Row>,
}

/// What rows are made of.
struct Source<'a> {
    image: &'a CatalogImage,
    search_path: &'a [String],
    shards: Vec<ShardInfo>,
    nodes: Vec<NodeInfo>,
    locks: locks::Locks,
    operations: Vec<OperationInfo>,
    settings: Vec<SettingInfo>,
    observed: Observed,
}

impl VirtualTable {
    /// The columns.
    pub fn columns(&self) -> Vec<(String, ColumnType)> {
        self.columns.iter().map(|&(name, ty)| (name.to_owned(), ty.into())).collect()
    }
}

/// All system views.
pub fn all() -> impl Iterator<Item = &'static VirtualTable> {
    static OTHERS: &[VirtualTable] = &[locks::PG_LOCKS, locks::FLOTILLA, references::REFERENTIAL_CONSTRAINTS];
    let postgres = pg_catalog::TABLES.iter().chain(pg_fixed::TABLES).chain(information_schema::TABLES);
    postgres.chain(cluster::TABLES).chain(OTHERS)
}

/// A system view by name; without a schema, `pg_catalog` is searched.
pub fn find(schema: Option<&str>, name: &str) -> Option<&'static VirtualTable> {
    let schema = schema.unwrap_or("pg_catalog");
    all().find(|table| table.schema == schema && table.name == name)
}

/// The rows of a system view. The catalog is read through the statement's transaction, not from the cached image: what other
/// nodes have committed is seen, and so are the transaction's own changes.
pub async fn rows(schema: &str, name: &str, ctx: &StatementContext) -> Result<Vec<Row>> {
    let table = find(Some(schema), name).ok_or_else(|| {
        SqlError::new(SqlState::UNDEFINED_TABLE, format!("relation \"{schema}.{name}\" does not exist"))
    })?;
    let image = CatalogImage::load(&*ctx.transaction, &ctx.catalog.image().database().name).await?;
    let mut source = Source {
        image: &image,
        search_path: ctx.catalog.search_path(),
        shards: Vec::new(),
        nodes: Vec::new(),
        locks: locks::Locks::default(),
        operations: Vec::new(),
        settings: Vec::new(),
        observed: Observed::default(),
    };
    if matches!(table.name, "locks" | "pg_locks") {
        source.locks = locks::Locks::load(ctx).await?;
    }
    if matches!((table.schema, table.name), (cluster::SCHEMA, "nodes" | "shards")) {
        source.shards = ctx.database.shards(&KeyRange::all()).await?;
        source.nodes = ctx.database.nodes().await?;
        // What nobody can tell now is null.
        source.observed = ctx.database.observed().await.unwrap_or_default();
    }
    match (table.schema, table.name) {
        (cluster::SCHEMA, "operations") => source.operations = ctx.database.operations().await?,
        (cluster::SCHEMA, "settings") => source.settings = ctx.database.settings().await?,
        _ => {}
    }
    let rows = (table.rows)(&source);
    debug_assert!(rows.iter().all(|row| row.len() == table.columns.len()), "{schema}.{name}");
    Ok(rows)
}

fn text(s: impl AsRef<str>) -> Datum {
    Datum::text(s.as_ref())
}

fn yes_or_no(yes: bool) -> Datum {
    text(if yes { "YES" } else { "NO" })
}

fn none(_: &Source<'_>) -> Vec<Row> {
    Vec::new()
}

/// What follows the columns' modifiers: the `n` of `varchar(n)` and `char(n)`.
fn length_of(ty: ColumnType) -> Option<i32> {
    (matches!(ty.ty, Type::Varchar | Type::Bpchar) && ty.typmod >= 4).then(|| ty.typmod - 4)
}

fn or_null<T>(value: Option<T>, datum: impl FnOnce(T) -> Datum) -> Datum {
    value.map_or(Datum::Null, datum)
}
