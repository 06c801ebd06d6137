//! Schema changes.
//!
//! Each is carried out as catalog writes and fences of the statement's transaction (`catalog::Changes`), where needed after
//! rows were rewritten (`exec::rewrite`). Splits are made before, outside the transaction: if it is rolled back, some
//! empty shards stay, which is harmless.

mod columns;
mod place;

use std::sync::Arc;

use txn::api::Key;
use txn::ids::prefix_end;

use self::columns::{add_column, checks_still_bind, drop_column, duplicate_column};
use super::constraint::Constraints;
use super::write::RowWriter;
use super::{Outcome, StatementContext, query, references, rewrite};
use crate::catalog::{
    Changes, CheckConstraint, ColumnDescriptor, ForeignKey, Placement, PrimaryKey, TableDescriptor,
    UniqueConstraint,
};
use crate::error::{Result, SqlError, SqlState};
use crate::eval::{self, Env};
use crate::ir::{Cascade, Ddl, Expr, NewForeignKey, Sharding};
use crate::types::key;

/// Shards of one table, at most, as asked for in CREATE TABLE.
const SHARDS_MAX: u16 = 256;

/// Columns of a table, at most, as in PostgreSQL.
const COLUMNS_MAX: usize = 1600;

fn done(tag: impl Into<String>) -> Result<Outcome> {
    Ok(Outcome::Done { tag: tag.into(), notices: Vec::new() })
}

fn skipped(tag: &str, notice: String) -> Result<Outcome> {
    Ok(Outcome::Done { tag: tag.into(), notices: vec![notice] })
}

/// Runs a schema change.
pub async fn run(change: &Ddl, ctx: Arc<StatementContext>) -> Result<Outcome> {
    let catalog = Arc::clone(ctx.catalog.transaction());
    let transaction = Arc::clone(&ctx.transaction);
    let changes = Changes::new(&catalog, &*transaction);
    match change {
        Ddl::CreateTable { .. } => create_table(change, &changes, &ctx).await,
        Ddl::DropTable { tables, cascade } => {
            drop_dependents(cascade, &changes, &ctx).await?;
            for table in tables {
                // (What is wanted of its shards is forgotten when they are swept: this may be rolled back.)
                changes.drop_table(&now(table, &ctx)).await?;
            }
            Ok(Outcome::Done { tag: "DROP TABLE".into(), notices: cascade.notices.clone() })
        }
        Ddl::Truncate { tables, notices } => {
            for table in tables {
                let mut new = TableDescriptor::clone(table);
                new.storage_id = changes.allocate_id().await?;
                for unique in &mut new.unique {
                    unique.index_id = changes.allocate_id().await?;
                }
                for key in &mut new.foreign_keys {
                    key.index_id = changes.allocate_id().await?;
                }
                presplit(&new, &ctx).await?;
                changes.replace_table(table, new).await?;
            }
            Ok(Outcome::Done { tag: "TRUNCATE TABLE".into(), notices: notices.clone() })
        }
        Ddl::AddPrimaryKey { table, columns, name } => {
            rewrite::add_primary_key(table, columns, name.as_deref(), &changes, &ctx).await?;
            done("ALTER TABLE")
        }
        Ddl::AddUnique { table, columns, name, index_only } => {
            rewrite::add_unique(table, columns, name, *index_only, &changes, &ctx).await?;
            done(change.command())
        }
        Ddl::DropUnique { table, at, tag, cascade } => {
            drop_dependents(cascade, &changes, &ctx).await?;
            let table = &now(table, &ctx);
            let mut new = TableDescriptor::clone(table);
            new.unique.remove(*at);
            changes.replace_table(table, new).await?;
            Ok(Outcome::Done { tag: (*tag).into(), notices: cascade.notices.clone() })
        }
        Ddl::AddForeignKey { table, key } => {
            let key = foreign_key(key, table, &changes).await?;
            references::add_constraint(table, key, &changes, &ctx).await?;
            done("ALTER TABLE")
        }
        Ddl::DropForeignKey(key) => {
            references::drop_constraints(&[(Arc::clone(&key.table), key.name.clone())], &changes, &ctx)
                .await?;
            done("ALTER TABLE")
        }
        Ddl::SetPlacement { table, placement } => {
            place::set_placement(table, placement, &changes, &ctx).await
        }
        Ddl::SplitAt { table, points } => split_at(table, points, &changes, &ctx).await,
        Ddl::AddColumn { table, column, if_not_exists } => {
            add_column(table, column, *if_not_exists, &changes, &ctx).await
        }
        Ddl::DropColumn { table, column, cascade } => {
            drop_column(table, *column, cascade, &changes, &ctx).await
        }
        Ddl::RenameColumn { table, column, to } => {
            if table.columns.iter().any(|c| c.name == *to) {
                return Err(duplicate_column(table, to));
            }
            let mut new = TableDescriptor::clone(table);
            new.columns[*column].name.clone_from(to);
            checks_still_bind(&new, &ctx)?;
            changes.replace_table(table, new).await?;
            done("ALTER TABLE")
        }
        Ddl::RenameTable { table, to } => {
            let mut new = TableDescriptor::clone(table);
            new.name.clone_from(to);
            checks_still_bind(&new, &ctx)?;
            changes.replace_table(table, new).await?;
            done("ALTER TABLE")
        }
        Ddl::CreateDatabase { name } => {
            outside_block("CREATE DATABASE", &ctx)?;
            changes.create_database(name).await?;
            done("CREATE DATABASE")
        }
        Ddl::DropDatabase { name, if_exists } => {
            outside_block("DROP DATABASE", &ctx)?;
            if ctx.catalog.image().database().name == *name {
                return Err(SqlError::new(
                    SqlState::OBJECT_IN_USE,
                    "cannot drop the currently open database",
                ));
            }
            match (changes.drop_database(name).await?, if_exists) {
                (true, _) => done("DROP DATABASE"),
                (false, true) => {
                    skipped("DROP DATABASE", format!("database \"{name}\" does not exist, skipping"))
                }
                (false, false) => Err(SqlError::new(
                    SqlState::INVALID_CATALOG_NAME,
                    format!("database \"{name}\" does not exist"),
                )),
            }
        }
        Ddl::CreateSchema { name, if_not_exists } => {
            if name.starts_with("pg_") || crate::catalog::virtual_table::SCHEMAS.contains(&name.as_str()) {
                return Err(SqlError::new(SqlState("42939"), format!("unacceptable schema name \"{name}\""))
                    .detail("The prefix \"pg_\" is reserved for system schemas."));
            }
            match (changes.create_schema(ctx.catalog.image().database().id, name).await?, if_not_exists) {
                (true, _) => done("CREATE SCHEMA"),
                (false, true) => {
                    skipped("CREATE SCHEMA", format!("schema \"{name}\" already exists, skipping"))
                }
                (false, false) => Err(SqlError::new(
                    SqlState::DUPLICATE_SCHEMA,
                    format!("schema \"{name}\" already exists"),
                )),
            }
        }
        Ddl::DropSchema { name, if_exists } => {
            match (changes.drop_schema(ctx.catalog.image().database().id, name).await?, if_exists) {
                (true, _) => done("DROP SCHEMA"),
                (false, true) => {
                    skipped("DROP SCHEMA", format!("schema \"{name}\" does not exist, skipping"))
                }
                (false, false) => Err(SqlError::new(
                    SqlState::INVALID_SCHEMA_NAME,
                    format!("schema \"{name}\" does not exist"),
                )),
            }
        }
        Ddl::Nothing { tag, notice } => {
            Ok(Outcome::Done { tag: (*tag).into(), notices: notice.iter().cloned().collect() })
        }
    }
}

/// Drops the foreign keys that go with something else.
async fn drop_dependents(cascade: &Cascade, changes: &Changes<'_>, ctx: &StatementContext) -> Result<()> {
    let keys: Vec<_> = cascade.keys.iter().map(|key| (Arc::clone(&key.table), key.name.clone())).collect();
    references::drop_constraints(&keys, changes, ctx).await
}

/// A table as the statement has left it so far.
fn now(table: &Arc<TableDescriptor>, ctx: &StatementContext) -> Arc<TableDescriptor> {
    let image = ctx.catalog.transaction().image();
    Arc::clone(image.table_by_id(table.id).unwrap_or(table))
}

/// A foreign key of `table`, with an index of its own.
async fn foreign_key(
    key: &NewForeignKey,
    table: &TableDescriptor,
    changes: &Changes<'_>,
) -> Result<ForeignKey> {
    let parent = key.parent.as_deref().unwrap_or(table);
    Ok(ForeignKey {
        name: key.name.clone(),
        columns: key.columns.clone(),
        parent: parent.id,
        parent_columns: key.parent_columns.iter().map(|&column| parent.columns[column].id).collect(),
        full: key.full,
        on_delete: key.on_delete,
        on_update: key.on_update,
        index_id: changes.allocate_id().await?,
    })
}

fn outside_block(what: &str, ctx: &StatementContext) -> Result<()> {
    if ctx.auto_commit {
        return Ok(());
    }
    Err(SqlError::new(
        SqlState::ACTIVE_SQL_TRANSACTION,
        format!("{what} cannot run inside a transaction block"),
    ))
}

async fn create_table(change: &Ddl, changes: &Changes<'_>, ctx: &Arc<StatementContext>) -> Result<Outcome> {
    let Ddl::CreateTable {
        schema,
        name,
        if_not_exists,
        columns,
        primary_key,
        unique,
        checks,
        foreign_keys,
        sharding,
        placement,
        source,
    } = change
    else {
        return Err(SqlError::internal("not a CREATE TABLE"));
    };
    let database = ctx.catalog.image().database().id;
    if *if_not_exists && changes.table_exists(database, schema, name).await? {
        let tag = if source.is_some() { "CREATE TABLE AS" } else { "CREATE TABLE" };
        return skipped(tag, format!("relation \"{name}\" already exists, skipping"));
    }
    if columns.len() > COLUMNS_MAX {
        return Err(SqlError::new(
            SqlState("54011"),
            format!("tables can have at most {COLUMNS_MAX} columns"),
        ));
    }
    check_sharding(sharding, primary_key.as_ref().map(|(columns, _)| columns.len()))?;
    let in_key = |i: usize| primary_key.as_ref().is_some_and(|(key, _)| key.contains(&i));
    let described = columns.iter().zip(1..).enumerate().map(|(i, (column, id))| ColumnDescriptor {
        id,
        name: column.name.clone(),
        ty: column.ty,
        not_null: column.not_null || in_key(i),
        default: column.default.as_ref().map(|(text, _)| text.clone()),
        missing: None,
    });
    let columns: Vec<ColumnDescriptor> = described.collect();
    let mut table = TableDescriptor {
        id: changes.allocate_id().await?,
        database,
        schema: schema.clone(),
        name: name.clone(),
        version: 1,
        next_column_id: columns.last().map_or(1, |c| c.id + 1),
        columns,
        storage_id: changes.allocate_id().await?,
        primary_key: primary_key
            .as_ref()
            .map(|(columns, name)| PrimaryKey { name: name.clone(), columns: columns.clone() }),
        unique: Vec::with_capacity(unique.len()),
        checks: checks
            .iter()
            .map(|(name, text, _)| CheckConstraint { name: name.clone(), expr: text.clone() })
            .collect(),
        foreign_keys: Vec::with_capacity(foreign_keys.len()),
        sharding: sharding.clone(),
        placement: Placement::clone(placement),
    };
    // After the storage's id: of several violated constraints the first by key is reported, as PostgreSQL does the primary key.
    for (columns, name) in unique {
        let index_id = changes.allocate_id().await?;
        table.unique.push(UniqueConstraint {
            name: name.clone(),
            columns: columns.clone(),
            index_id,
            index_only: false,
        });
    }
    for key in foreign_keys {
        let key = foreign_key(key, &table, changes).await?;
        table.foreign_keys.push(key);
    }
    if changes.table_exists(database, schema, name).await? {
        // Asked before the shards are split off, too.
        return Err(crate::catalog::duplicate_table(name));
    }
    let mut notices = Vec::new();
    if !placement.is_default() {
        notices.extend(place::place(&table, placement, ctx).await?);
    }
    presplit(&table, ctx).await?;
    let table = changes.create_table(table).await?;
    let parents = table.foreign_keys.iter().map(|key| key.parent).collect();
    references::touch_parents(&parents, table.id, changes, ctx).await?;
    let Some(source) = source else { return Ok(Outcome::Done { tag: "CREATE TABLE".into(), notices }) };
    let mut rows = query::rows(source, ctx).await?;
    let constraints = Constraints::with_checks(&table, Vec::new());
    let mut writer = RowWriter::with_constraints(&table, constraints, ctx).fresh(Vec::new());
    let mut count = 0u64;
    while let Some(batch) = rows.next().await? {
        count += batch.len() as u64;
        for row in &batch {
            writer.insert(row).await?;
        }
    }
    writer.flush().await?;
    Ok(Outcome::Done { tag: format!("SELECT {count}"), notices })
}

/// What the binder may have let through.
fn check_sharding(sharding: &Sharding, key_columns: Option<usize>) -> Result<()> {
    let invalid = |why: &str| Err(SqlError::new(SqlState::INVALID_TABLE_DEFINITION, why.to_owned()));
    let shards = match (sharding, key_columns) {
        (Sharding::Range, _) => return Ok(()),
        (Sharding::Hash { .. }, None) => return invalid("hash sharding needs a primary key"),
        (Sharding::Hash { key_columns, .. }, Some(width)) if *key_columns == 0 || *key_columns > width => {
            return invalid("the shard key must be a prefix of the primary key");
        }
        (Sharding::RoundRobin { .. }, Some(_)) => {
            return invalid("round-robin sharding is for tables without a primary key");
        }
        (Sharding::Hash { shards, .. } | Sharding::RoundRobin { shards }, _) => *shards,
    };
    if shards == 0 || shards > SHARDS_MAX {
        return Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("a table may have 1 to {SHARDS_MAX} shards, not {shards}"),
        ));
    }
    Ok(())
}

/// Gives a new storage that is sharded by hash or round robin its shards, one for each bucket.
pub async fn presplit(table: &TableDescriptor, ctx: &StatementContext) -> Result<()> {
    let Some(buckets) = table.buckets() else { return Ok(()) };
    let mut keys: Vec<Key> = (0..buckets).map(|bucket| table.bucket_prefix(Some(bucket)).freeze()).collect();
    // What follows the table must not grow into its last shard.
    keys.push(prefix_end(&table.storage_prefix()));
    Ok(ctx.database.split(&keys, true).await?)
}

async fn split_at(
    table: &TableDescriptor,
    points: &[Vec<Expr>],
    changes: &Changes<'_>,
    ctx: &StatementContext,
) -> Result<Outcome> {
    let Some(primary) = &table.primary_key else {
        return Err(SqlError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table \"{}\" has no primary key to split by", table.name),
        ));
    };
    if table.sharding != Sharding::Range {
        return Err(SqlError::unsupported("SPLIT AT on a table that is not sharded by range"));
    }
    changes.check_current(table).await?;
    let env = Env { ctx: &ctx.eval, params: &ctx.params, outer: &[] };
    let mut keys = Vec::with_capacity(points.len());
    for point in points {
        if point.is_empty() || point.len() > primary.columns.len() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("a split point has 1 to {} values", primary.columns.len()),
            ));
        }
        let mut encoded = table.storage_prefix().to_vec();
        for expr in point {
            let value = eval::eval(expr, &[], &env)?;
            if value.is_null() {
                return Err(SqlError::new(
                    SqlState::NULL_VALUE_NOT_ALLOWED,
                    "a split point must not be null",
                ));
            }
            key::encode(&value, &mut encoded);
        }
        keys.push(Key::from(encoded));
    }
    keys.sort();
    keys.dedup();
    ctx.database.split(&keys, true).await?;
    done("ALTER TABLE")
}
