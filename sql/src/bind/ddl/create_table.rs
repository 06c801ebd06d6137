//! CREATE TABLE: columns, their options, and how the table is sharded.

use sqlparser::ast::{self, ColumnOption, CreateTableOptions, SqlOption};

use super::constraint::unique;
use crate::bind::scope::{fold, table_name};
use crate::bind::{Binder, LevelKind, refuse};
use crate::catalog::Placement;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Ddl, Expr, NewColumn, NewForeignKey, Sharding, Statement};
use crate::types::Type;

/// Replicas of a shard, at most.
const REPLICAS_MAX: u16 = 9;
/// PostgreSQL's limit.
const COLUMNS_MAX: usize = 1600;
const SHARDS_MAX: u16 = 1024;

/// A table under construction.
#[derive(Default)]
pub(super) struct NewTable {
    pub columns: Vec<NewColumn>,
    pub primary_key: Option<(Vec<usize>, String)>,
    pub unique: Vec<(Vec<usize>, String)>,
    pub checks: Vec<(String, String, Expr)>,
    /// Foreign keys, to be bound when the rest is known …
    pub references: Vec<ast::ForeignKeyConstraint>,
    /// … and those that were.
    pub foreign_keys: Vec<NewForeignKey>,
    /// All constraints' names so far.
    pub names: Vec<String>,
}

impl Binder<'_> {
    /// CREATE TABLE; `names` are those of CREATE TABLE t (a, b) AS.
    pub(in crate::bind) fn create_table(
        &mut self,
        create: &ast::CreateTable,
        names: &[String],
    ) -> Result<Statement> {
        let ast::CreateTable {
            or_replace,
            temporary,
            external,
            dynamic,
            global,
            if_not_exists,
            transient,
            volatile,
            iceberg,
            snapshot,
            name,
            columns,
            constraints,
            hive_distribution,
            hive_formats,
            table_options,
            file_format,
            location,
            query,
            without_rowid,
            like,
            clone,
            version,
            comment,
            on_commit,
            on_cluster,
            primary_key,
            order_by,
            partition_by,
            cluster_by,
            clustered_by,
            inherits,
            partition_of,
            for_values,
            strict,
            copy_grants,
            enable_schema_evolution,
            change_tracking,
            data_retention_time_in_days,
            max_data_extension_time_in_days,
            default_ddl_collation,
            with_aggregation_policy,
            with_row_access_policy,
            with_storage_lifecycle_policy,
            with_tags,
            external_volume,
            base_location,
            catalog,
            catalog_sync,
            storage_serialization_policy,
            target_lag,
            warehouse,
            refresh_mode,
            initialize,
            require_user,
            diststyle,
            distkey,
            sortkey,
            backup,
        } = create;
        // Clauses of other systems.
        refuse(
            *or_replace
                || *external
                || *dynamic
                || *transient
                || *volatile
                || *iceberg
                || *snapshot
                || !matches!(hive_distribution, ast::HiveDistributionStyle::NONE)
                || hive_formats.is_some()
                || file_format.is_some()
                || location.is_some()
                || *without_rowid
                || clone.is_some()
                || version.is_some()
                || comment.is_some()
                || on_cluster.is_some()
                || primary_key.is_some()
                || order_by.is_some()
                || cluster_by.is_some()
                || clustered_by.is_some()
                || *strict
                || *copy_grants
                || enable_schema_evolution.is_some()
                || change_tracking.is_some()
                || data_retention_time_in_days.is_some()
                || max_data_extension_time_in_days.is_some()
                || default_ddl_collation.is_some()
                || with_aggregation_policy.is_some()
                || with_row_access_policy.is_some()
                || with_storage_lifecycle_policy.is_some()
                || with_tags.is_some()
                || external_volume.is_some()
                || base_location.is_some()
                || catalog.is_some()
                || catalog_sync.is_some()
                || storage_serialization_policy.is_some()
                || target_lag.is_some()
                || warehouse.is_some()
                || refresh_mode.is_some()
                || initialize.is_some()
                || *require_user
                || diststyle.is_some()
                || distkey.is_some()
                || sortkey.is_some()
                || backup.is_some(),
            "this clause of CREATE TABLE",
        )?;
        refuse(*temporary || global.is_some(), "a temporary table")?;
        if let Some(like) = like {
            let _ = like;
            return Err(SqlError::unsupported("LIKE in CREATE TABLE"));
        }
        refuse(inherits.is_some(), "INHERITS")?;
        refuse(partition_by.is_some() || partition_of.is_some() || for_values.is_some(), "PARTITION BY")?;
        refuse(on_commit.is_some(), "ON COMMIT")?;
        let (schema, name) = self.new_name(name)?;
        let mut table = NewTable::default();
        let source = match query {
            Some(query) => {
                refuse(!columns.is_empty() || !constraints.is_empty(), "a column list in CREATE TABLE AS")?;
                let plan = self.query(query, LevelKind::Root)?;
                if names.len() > plan.columns().len() {
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        "too many column names were specified",
                    ));
                }
                for (i, column) in plan.columns().iter().enumerate() {
                    table.columns.push(NewColumn {
                        name: names.get(i).unwrap_or(&column.name).clone(),
                        ty: column.ty,
                        not_null: false,
                        default: None,
                    });
                }
                Some(plan)
            }
            None => None,
        };
        for column in columns {
            let new = self.new_column(&column.name, &column.data_type)?;
            table.columns.push(new);
        }
        check_columns(&table.columns)?;
        for (i, column) in columns.iter().enumerate() {
            self.column_options(&mut table, &name, i, &column.options)?;
        }
        for constraint in constraints {
            self.table_constraint(&mut table, &name, constraint)?;
        }
        if let Some((key, _)) = &table.primary_key {
            for i in key {
                table.columns[*i].not_null = true;
            }
        }
        // One key is kept, not two, as in PostgreSQL.
        let primary = table.primary_key.as_ref().map(|(columns, _)| columns.clone());
        let mut kept: Vec<(Vec<usize>, String)> = Vec::with_capacity(table.unique.len());
        for (columns, name) in std::mem::take(&mut table.unique) {
            if primary.as_ref() != Some(&columns) && kept.iter().all(|(other, _)| *other != columns) {
                kept.push((columns, name));
            }
        }
        table.unique = kept;
        self.foreign_keys(&schema, &name, &mut table)?;
        let (sharding, placement) = self.table_options(table_options, &table)?;
        Ok(Statement::Ddl(Ddl::CreateTable {
            schema,
            name,
            if_not_exists: *if_not_exists,
            columns: table.columns,
            primary_key: table.primary_key,
            unique: table.unique,
            checks: table.checks,
            foreign_keys: table.foreign_keys,
            sharding,
            placement: Box::new(placement),
            source,
        }))
    }

    pub(super) fn new_column(&mut self, name: &ast::Ident, data_type: &ast::DataType) -> Result<NewColumn> {
        // The type has no position of its own; it follows the name.
        let position = self.source.position(name.span.end).map(|p| p + 1);
        let shown = fold(name);
        if crate::bind::data_type::is_serial(data_type) {
            return Err(SqlError::unsupported(format!("type {data_type}"))
                .hint("Keys that count up are all written to one place; gen_random_uuid() spreads them.")
                .at(position));
        }
        let ty = crate::bind::data_type::resolve(data_type).map_err(|e| e.at(position))?;
        if matches!(ty.ty, Type::Void | Type::Unknown) {
            return Err(SqlError::new(
                SqlState::INVALID_TABLE_DEFINITION,
                format!("column \"{shown}\" has pseudo-type {}", ty.ty),
            ));
        }
        Ok(NewColumn { name: shown, ty, not_null: false, default: None })
    }

    pub(super) fn column_options(
        &mut self,
        table: &mut NewTable,
        name: &str,
        index: usize,
        options: &[ast::ColumnOptionDef],
    ) -> Result<()> {
        let mut null = None;
        for ast::ColumnOptionDef { name: constraint, option } in options {
            let constraint_name = constraint.as_ref().map(fold);
            match option {
                ColumnOption::Null | ColumnOption::NotNull => {
                    let not_null = matches!(option, ColumnOption::NotNull);
                    if null.is_some_and(|before| before != not_null) {
                        return Err(SqlError::new(
                            SqlState::SYNTAX_ERROR,
                            format!(
                                "conflicting NULL/NOT NULL declarations for column \"{}\" of table \"{name}\"",
                                table.columns[index].name
                            ),
                        ));
                    }
                    null = Some(not_null);
                    table.columns[index].not_null |= not_null;
                }
                ColumnOption::Default(expr) => {
                    let (column, ty) = (table.columns[index].name.clone(), table.columns[index].ty);
                    if table.columns[index].default.is_some() {
                        return Err(SqlError::new(
                            SqlState::SYNTAX_ERROR,
                            format!(
                                "multiple default values specified for column \"{column}\" of table \"{name}\""
                            ),
                        ));
                    }
                    table.columns[index].default = Some(self.new_default(expr, &column, ty)?);
                }
                ColumnOption::PrimaryKey(ast::PrimaryKeyConstraint {
                    name: inner,
                    index_name,
                    index_type,
                    columns: _,
                    index_options,
                    characteristics,
                }) => {
                    refuse(
                        index_name.is_some() || index_type.is_some() || !index_options.is_empty(),
                        "an index option",
                    )?;
                    refuse(characteristics.is_some(), "DEFERRABLE")?;
                    let given = constraint_name.or_else(|| inner.as_ref().map(fold));
                    self.primary_key(table, name, vec![index], given)?;
                }
                ColumnOption::Unique(ast::UniqueConstraint {
                    name: inner,
                    index_name,
                    index_type_display: _,
                    index_type,
                    columns: _,
                    index_options,
                    characteristics,
                    nulls_distinct,
                }) => {
                    refuse(
                        index_name.is_some() || index_type.is_some() || !index_options.is_empty(),
                        "an index option",
                    )?;
                    refuse(characteristics.is_some(), "DEFERRABLE")?;
                    refuse(!matches!(nulls_distinct, ast::NullsDistinctOption::None), "NULLS NOT DISTINCT")?;
                    let given = constraint_name.or_else(|| inner.as_ref().map(fold));
                    unique(table, name, vec![index], given)?;
                }
                ColumnOption::Check(ast::CheckConstraint { name: inner, expr, enforced }) => {
                    refuse(enforced.is_some(), "ENFORCED")?;
                    let given = constraint_name.or_else(|| inner.as_ref().map(fold));
                    self.check(table, name, expr, given)?;
                }
                ColumnOption::ForeignKey(key) => {
                    let column = ast::Ident::with_quote('"', table.columns[index].name.clone());
                    let name = constraint.clone().or_else(|| key.name.clone());
                    let columns = vec![column];
                    table.references.push(ast::ForeignKeyConstraint { name, columns, ..key.clone() });
                }
                ColumnOption::Generated { .. } => return Err(SqlError::unsupported("a generated column")),
                ColumnOption::Collation(collation) => {
                    let (_, collation) = table_name(collation)?;
                    if !matches!(collation.as_str(), "C" | "POSIX" | "default" | "ucs_basic") {
                        return Err(SqlError::unsupported(format!("the collation \"{collation}\"")));
                    }
                }
                other => return Err(SqlError::unsupported(format!("the column option {other}"))),
            }
        }
        Ok(())
    }

    /// `WITH (sharding = …, shards = …, shard_key = …, replication_factor = …, placement = …)`
    pub(super) fn table_options(
        &mut self,
        options: &CreateTableOptions,
        table: &NewTable,
    ) -> Result<(Sharding, Placement)> {
        let options: &[SqlOption] = match options {
            CreateTableOptions::None => &[],
            CreateTableOptions::With(options) => options,
            CreateTableOptions::Plain(options) if options.is_empty() => &[],
            CreateTableOptions::Plain(_)
            | CreateTableOptions::Options(_)
            | CreateTableOptions::TableProperties(_) => return Err(SqlError::unsupported("a table option")),
        };
        let (mut sharding, mut shards, mut key) = (None, None, None);
        let mut placement = Placement::default();
        let invalid = |message: String| SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message);
        for option in options {
            let SqlOption::KeyValue { key: name, value } = option else {
                return Err(SqlError::unsupported(format!("the table option {option}")));
            };
            let position = self.source.start(name.span);
            let text = option_text(value);
            match fold(name).as_str() {
                "sharding" => sharding = Some((text.to_ascii_lowercase(), position)),
                "shards" => {
                    let n = text.parse::<u16>().ok().filter(|n| (1..=SHARDS_MAX).contains(n));
                    shards = Some(n.ok_or_else(|| {
                        invalid(format!("invalid value for \"shards\": \"{text}\""))
                            .detail(format!("It is a number from 1 to {SHARDS_MAX}."))
                            .at(position)
                    })?);
                }
                "replication_factor" | "placement" => {
                    place_option(&mut placement, &fold(name), &text).map_err(|e| e.at(position))?;
                }
                "shard_key" => key = Some((text, position)),
                // Of PostgreSQL's storage; there is nothing here that they could change.
                "fillfactor" | "toast_tuple_target" | "parallel_workers" => {}
                other if other.starts_with("autovacuum_") => {}
                other => {
                    return Err(invalid(format!("unrecognized parameter \"{other}\"")).at(position));
                }
            }
        }
        let prefix = |names: &str| -> Result<usize> {
            let names: Vec<String> = names.split(',').map(|n| n.trim().to_owned()).collect();
            let primary = table.primary_key.as_ref().map(|(key, _)| key.as_slice()).unwrap_or_default();
            let fits = names.len() <= primary.len()
                && names.iter().zip(primary).all(|(name, i)| table.columns[*i].name == *name);
            if !fits {
                return Err(invalid("the shard key must be a prefix of the primary key".into()));
            }
            Ok(names.len())
        };
        let chosen = match &sharding {
            None if shards.is_some() && table.primary_key.is_some() => "hash",
            None if shards.is_some() => "round_robin",
            None => "range",
            Some((text, _)) => text.as_str(),
        };
        let position = sharding.as_ref().and_then(|(_, p)| *p);
        let result = match chosen {
            "range" => {
                if shards.is_some_and(|n| n > 1) {
                    return Err(invalid("a table sharded by range starts as one shard".into())
                        .hint("Use ALTER TABLE … SPLIT AT VALUES (…).")
                        .at(position));
                }
                Sharding::Range
            }
            "hash" => {
                let Some((primary, _)) = &table.primary_key else {
                    return Err(invalid("sharding by hash needs a primary key".into())
                        .hint("Use sharding = 'round_robin' for a table without one.")
                        .at(position));
                };
                let key_columns = match &key {
                    Some((names, position)) => prefix(names).map_err(|e| e.at(*position))?,
                    None => primary.len(),
                };
                Sharding::Hash { shards: shards.unwrap_or(1), key_columns }
            }
            "round_robin" => {
                if table.primary_key.is_some() {
                    return Err(invalid("round-robin sharding is for tables without a primary key".into())
                        .hint("Use sharding = 'hash'.")
                        .at(position));
                }
                Sharding::RoundRobin { shards: shards.unwrap_or(1) }
            }
            other => {
                return Err(invalid(format!("invalid value for \"sharding\": \"{other}\""))
                    .detail("Valid values are \"range\", \"hash\" and \"round_robin\".")
                    .at(position));
            }
        };
        if let (Some((_, position)), false) = (&key, matches!(result, Sharding::Hash { .. })) {
            return Err(invalid("a shard key is for sharding by hash".into()).at(*position));
        }
        Ok((result, placement))
    }
}

/// Takes in one of the options that say what is wanted of a table's replicas.
pub(super) fn place_option(placement: &mut Placement, name: &str, text: &str) -> Result<()> {
    if name == "placement" {
        text.clone_into(&mut placement.places);
        return Ok(());
    }
    let replicas = text.parse::<u16>().ok().filter(|n| *n <= REPLICAS_MAX);
    placement.replicas = replicas.ok_or_else(|| {
        let message = format!("invalid value for \"replication_factor\": \"{text}\"");
        SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message).detail(format!(
            "It is a number from 1 to {REPLICAS_MAX}, or 0 for as many as other tables have."
        ))
    })?;
    Ok(())
}

pub(super) fn check_columns(columns: &[NewColumn]) -> Result<()> {
    if columns.len() > COLUMNS_MAX {
        return Err(SqlError::new(
            SqlState("54011"),
            format!("tables can have at most {COLUMNS_MAX} columns"),
        ));
    }
    for (i, column) in columns.iter().enumerate() {
        if columns[..i].iter().any(|c| c.name == column.name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{}\" specified more than once", column.name),
            ));
        }
    }
    Ok(())
}

/// An option's value as text.
pub(super) fn option_text(value: &ast::Expr) -> String {
    match value {
        ast::Expr::Value(ast::ValueWithSpan { value, .. }) => match value {
            ast::Value::SingleQuotedString(s) | ast::Value::Number(s, _) => s.clone(),
            other => other.to_string(),
        },
        ast::Expr::Identifier(ident) => fold(ident),
        other => other.to_string(),
    }
}
