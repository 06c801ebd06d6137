//! CREATE, DROP, ALTER, TRUNCATE.

use std::sync::Arc;

use sqlparser::ast::{
    self, AlterTableOperation, ColumnOption, CreateTableOptions, ObjectType, SqlOption, TableConstraint,
};

use super::insert::column_index;
use super::scope::{Scope, fold, table_name};
use super::{Binder, Clause, LevelKind, refuse};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Ddl, Expr, NewColumn, OutputColumn, Sharding, Statement};
use crate::types::{ColumnType, Type};

/// PostgreSQL's limit.
const COLUMNS_MAX: usize = 1600;
const SHARDS_MAX: u16 = 1024;
const IDENTIFIER_BYTES_MAX: usize = 63;

/// A table under construction.
#[derive(Default)]
struct NewTable {
    columns: Vec<NewColumn>,
    primary_key: Option<(Vec<usize>, String)>,
    unique: Vec<(Vec<usize>, String)>,
    checks: Vec<(String, String, Expr)>,
    /// All constraints' names so far.
    names: Vec<String>,
}

impl Binder<'_> {
    pub(super) fn ddl(&mut self, statement: &ast::Statement) -> Result<Statement> {
        match statement {
            ast::Statement::CreateTable(create) => self.create_table(create, &[]),
            ast::Statement::Drop {
                object_type,
                if_exists,
                names,
                cascade,
                restrict: _,
                purge,
                temporary,
                table,
            } => {
                refuse(*purge || *temporary || table.is_some(), "this form of DROP")?;
                self.drop(*object_type, *if_exists, names, *cascade)
            }
            ast::Statement::AlterTable(alter) => self.alter_table(alter),
            ast::Statement::CreateIndex(create) => self.create_index(create),
            ast::Statement::CreateSchema {
                schema_name,
                if_not_exists,
                with,
                options,
                default_collate_spec,
                clone,
            } => {
                refuse(
                    with.is_some() || options.is_some() || default_collate_spec.is_some() || clone.is_some(),
                    "an option of CREATE SCHEMA",
                )?;
                let ast::SchemaName::Simple(name) = schema_name else {
                    return Err(SqlError::unsupported("AUTHORIZATION in CREATE SCHEMA"));
                };
                let (_, name) = table_name(name)?;
                if name.starts_with("pg_") {
                    return Err(SqlError::new(
                        SqlState("42939"),
                        format!("unacceptable schema name \"{name}\""),
                    )
                    .detail("The prefix \"pg_\" is reserved for system schemas."));
                }
                Ok(Statement::Ddl(Ddl::CreateSchema { name, if_not_exists: *if_not_exists }))
            }
            other => {
                let text = other.to_string();
                let words: Vec<&str> = text
                    .split_whitespace()
                    .take_while(|w| w.bytes().all(|b| b.is_ascii_uppercase()))
                    .take(3)
                    .collect();
                let what = if words.is_empty() { "this statement".to_owned() } else { words.join(" ") };
                Err(SqlError::unsupported(what))
            }
        }
    }

    /// Where a new table goes.
    fn new_name(&self, name: &ast::ObjectName) -> Result<(String, String)> {
        let position = self.position(name);
        let (schema, table) = table_name(name).map_err(|e| e.at(position))?;
        let schema = match schema {
            Some(schema) => match self.catalog.has_schema(&schema) {
                true => schema,
                false => {
                    return Err(SqlError::new(
                        SqlState::INVALID_SCHEMA_NAME,
                        format!("schema \"{schema}\" does not exist"),
                    )
                    .at(position));
                }
            },
            None => {
                let path = self.catalog.search_path();
                path.iter().find(|s| self.catalog.has_schema(s) && *s != "pg_catalog").cloned().ok_or_else(
                    || {
                        SqlError::new(
                            SqlState::INVALID_SCHEMA_NAME,
                            "no schema has been selected to create in",
                        )
                        .at(position)
                    },
                )?
            }
        };
        if matches!(schema.as_str(), "pg_catalog" | "information_schema" | "flotilla") {
            return Err(SqlError::new(
                SqlState::INSUFFICIENT_PRIVILEGE,
                format!("permission denied to create \"{schema}.{table}\""),
            )
            .detail("System catalog modifications are currently disallowed."));
        }
        Ok((schema, table))
    }

    /// CREATE TABLE; `names` are those of CREATE TABLE t (a, b) AS.
    pub(super) fn create_table(&mut self, create: &ast::CreateTable, names: &[String]) -> Result<Statement> {
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
        let sharding = self.table_options(table_options, &table)?;
        Ok(Statement::Ddl(Ddl::CreateTable {
            schema,
            name,
            if_not_exists: *if_not_exists,
            columns: table.columns,
            primary_key: table.primary_key,
            unique: table.unique,
            checks: table.checks,
            sharding,
            source,
        }))
    }

    fn new_column(&mut self, name: &ast::Ident, data_type: &ast::DataType) -> Result<NewColumn> {
        // The type has no position of its own; it follows the name.
        let position = self.source.position(name.span.end).map(|p| p + 1);
        let shown = fold(name);
        if super::data_type::is_serial(data_type) {
            return Err(SqlError::unsupported(format!("type {data_type}"))
                .hint("Keys that count up are all written to one place; gen_random_uuid() spreads them.")
                .at(position));
        }
        let ty = super::data_type::resolve(data_type).map_err(|e| e.at(position))?;
        if matches!(ty.ty, Type::Void | Type::Unknown) {
            return Err(SqlError::new(
                SqlState::INVALID_TABLE_DEFINITION,
                format!("column \"{shown}\" has pseudo-type {}", ty.ty),
            ));
        }
        Ok(NewColumn { name: shown, ty, not_null: false, default: None })
    }

    fn column_options(
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
                ColumnOption::ForeignKey(_) => {
                    return Err(SqlError::unsupported("a foreign key (REFERENCES)"));
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

    /// A default as text and as what it means: both come from the text that is kept.
    fn new_default(&mut self, expr: &ast::Expr, column: &str, ty: ColumnType) -> Result<(String, Expr)> {
        let position = self.position(expr);
        // Errors are reported where the statement has them.
        self.default_expr(expr, column, ty)?;
        let text = expr.to_string();
        let bound = super::bind_default(&text, column, ty, self.catalog, self.eval).map_err(|mut e| {
            e.position = None;
            e.at(position)
        })?;
        Ok((text, bound))
    }

    /// Binds a DEFAULT expression.
    pub(super) fn default_expr(&mut self, expr: &ast::Expr, column: &str, ty: ColumnType) -> Result<Expr> {
        let position = self.position(expr);
        self.in_level(LevelKind::Root, |this| {
            this.level().clause = Clause::Default;
            let bound = this.expr(expr).map_err(|e| match e.state {
                SqlState::UNDEFINED_COLUMN => SqlError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "cannot use column reference in DEFAULT expression",
                )
                .at(e.position),
                _ => e,
            })?;
            no_subquery(&bound, "DEFAULT expression").map_err(|e| e.at(position))?;
            let from = bound.ty().ty;
            this.assign(bound, column, ty, position).map_err(|e| match e.state {
                SqlState::DATATYPE_MISMATCH => SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!(
                        "column \"{column}\" is of type {} but default expression is of type {from}",
                        ty.ty
                    ),
                )
                .hint("You will need to rewrite or cast the expression."),
                _ => e,
            })
        })
    }

    /// Binds a CHECK expression over a table's row.
    pub(super) fn check_expr(
        &mut self,
        expr: &ast::Expr,
        table: &str,
        columns: &[OutputColumn],
    ) -> Result<Expr> {
        let position = self.position(expr);
        self.in_level(LevelKind::Root, |this| {
            this.level().scope = Scope::of(table, None, columns);
            this.level().clause = Clause::Check;
            let bound = this.condition(expr, "CHECK")?;
            no_subquery(&bound, "check constraint").map_err(|e| e.at(position))?;
            Ok(bound)
        })
    }

    fn check(
        &mut self,
        table: &mut NewTable,
        name: &str,
        expr: &ast::Expr,
        given: Option<String>,
    ) -> Result<()> {
        let columns: Vec<OutputColumn> = table
            .columns
            .iter()
            .map(|c| OutputColumn { name: c.name.clone(), ty: c.ty, origin: None })
            .collect();
        let bound = self.check_expr(expr, name, &columns)?;
        let mut used = Vec::new();
        bound.any(&mut |e| {
            if let Expr::Column(i, _) = e
                && !used.contains(i)
            {
                used.push(*i);
            }
            false
        });
        let constraint = match (given, used.as_slice()) {
            (Some(given), _) => given,
            (None, [one]) => fresh(&table.names, &[name, &columns[*one].name, "check"]),
            (None, _) => fresh(&table.names, &[name, "check"]),
        };
        self.new_constraint(table, name, &constraint)?;
        table.checks.push((constraint, expr.to_string(), bound));
        Ok(())
    }

    fn new_constraint(&self, table: &mut NewTable, name: &str, constraint: &str) -> Result<()> {
        if table.names.iter().any(|n| n == constraint) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_OBJECT,
                format!("constraint \"{constraint}\" for relation \"{name}\" already exists"),
            ));
        }
        table.names.push(constraint.to_owned());
        Ok(())
    }

    fn primary_key(
        &mut self,
        table: &mut NewTable,
        name: &str,
        columns: Vec<usize>,
        given: Option<String>,
    ) -> Result<()> {
        if table.primary_key.is_some() {
            return Err(multiple_keys(name));
        }
        let constraint = given.unwrap_or_else(|| fresh(&table.names, &[name, "pkey"]));
        self.new_constraint(table, name, &constraint)?;
        table.primary_key = Some((columns, constraint));
        Ok(())
    }

    fn table_constraint(
        &mut self,
        table: &mut NewTable,
        name: &str,
        constraint: &TableConstraint,
    ) -> Result<()> {
        match constraint {
            TableConstraint::PrimaryKey(key) => {
                let (columns, given) =
                    self.key_parts(key, |column| table.columns.iter().position(|c| c.name == column))?;
                self.primary_key(table, name, columns, given)
            }
            TableConstraint::Unique(key) => {
                let (columns, given) =
                    self.unique_parts(key, |column| table.columns.iter().position(|c| c.name == column))?;
                unique(table, name, columns, given)
            }
            TableConstraint::Check(ast::CheckConstraint { name: given, expr, enforced }) => {
                refuse(enforced.is_some(), "ENFORCED")?;
                self.check(table, name, expr, given.as_ref().map(fold))
            }
            TableConstraint::ForeignKey(_) => Err(SqlError::unsupported("a foreign key")),
            TableConstraint::Index(_)
            | TableConstraint::FulltextOrSpatial(_)
            | TableConstraint::PrimaryKeyUsingIndex(_)
            | TableConstraint::UniqueUsingIndex(_) => Err(SqlError::unsupported("this constraint")),
        }
    }

    /// The columns and the name of PRIMARY KEY (…).
    fn key_parts(
        &self,
        key: &ast::PrimaryKeyConstraint,
        find: impl Fn(&str) -> Option<usize>,
    ) -> Result<(Vec<usize>, Option<String>)> {
        let ast::PrimaryKeyConstraint {
            name,
            index_name,
            index_type,
            columns,
            index_options,
            characteristics,
        } = key;
        refuse(index_name.is_some() || index_type.is_some() || !index_options.is_empty(), "an index option")?;
        refuse(characteristics.is_some(), "DEFERRABLE")?;
        Ok((self.key_columns(columns, "primary key", find)?, name.as_ref().map(fold)))
    }

    /// The columns and the name of UNIQUE (…).
    fn unique_parts(
        &self,
        key: &ast::UniqueConstraint,
        find: impl Fn(&str) -> Option<usize>,
    ) -> Result<(Vec<usize>, Option<String>)> {
        let ast::UniqueConstraint {
            name,
            index_name,
            index_type_display: _,
            index_type,
            columns,
            index_options,
            characteristics,
            nulls_distinct,
        } = key;
        refuse(index_name.is_some() || index_type.is_some() || !index_options.is_empty(), "an index option")?;
        refuse(characteristics.is_some(), "DEFERRABLE")?;
        refuse(!matches!(nulls_distinct, ast::NullsDistinctOption::None), "NULLS NOT DISTINCT")?;
        Ok((self.key_columns(columns, "unique", find)?, name.as_ref().map(fold)))
    }

    /// The columns of a key; `kind` says of what constraint.
    fn key_columns(
        &self,
        columns: &[ast::IndexColumn],
        kind: &str,
        find: impl Fn(&str) -> Option<usize>,
    ) -> Result<Vec<usize>> {
        let mut out = Vec::with_capacity(columns.len());
        for ast::IndexColumn { column, operator_class } in columns {
            let ast::OrderByExpr { expr, options, with_fill } = column;
            let position = self.position(expr);
            let plain = operator_class.is_none()
                && options.asc.is_none()
                && options.nulls_first.is_none()
                && with_fill.is_none();
            let ast::Expr::Identifier(ident) = expr else {
                return Err(self.syntax_error(&expr.to_string(), position));
            };
            if !plain {
                return Err(self.syntax_error("asc", position));
            }
            let name = fold(ident);
            let index = find(&name).ok_or_else(|| {
                SqlError::new(
                    SqlState::UNDEFINED_COLUMN,
                    format!("column \"{name}\" named in key does not exist"),
                )
                .at(position)
            })?;
            if out.contains(&index) {
                return Err(SqlError::new(
                    SqlState::DUPLICATE_COLUMN,
                    format!("column \"{name}\" appears twice in {kind} constraint"),
                )
                .at(position));
            }
            out.push(index);
        }
        Ok(out)
    }

    /// `WITH (sharding = …, shards = …, shard_key = …)`
    fn table_options(&mut self, options: &CreateTableOptions, table: &NewTable) -> Result<Sharding> {
        let options: &[SqlOption] = match options {
            CreateTableOptions::None => &[],
            CreateTableOptions::With(options) => options,
            CreateTableOptions::Plain(options) if options.is_empty() => &[],
            CreateTableOptions::Plain(_)
            | CreateTableOptions::Options(_)
            | CreateTableOptions::TableProperties(_) => return Err(SqlError::unsupported("a table option")),
        };
        let (mut sharding, mut shards, mut key) = (None, None, None);
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
        Ok(result)
    }

    fn drop(
        &mut self,
        object_type: ObjectType,
        if_exists: bool,
        names: &[ast::ObjectName],
        cascade: bool,
    ) -> Result<Statement> {
        let one = || -> Result<String> {
            match names {
                [name] => table_name(name).map(|(_, name)| name),
                _ => Err(SqlError::unsupported("DROP of several at once")),
            }
        };
        match object_type {
            ObjectType::Table => {
                let mut tables: Vec<Arc<TableDescriptor>> = Vec::with_capacity(names.len());
                let mut notice = None;
                for name in names {
                    let (schema, table) = table_name(name)?;
                    match self.catalog.table(schema.as_deref(), &table) {
                        Some(found) if tables.iter().any(|t| t.id == found.id) => {}
                        Some(found) => tables.push(found),
                        None if self.catalog.virtual_table(schema.as_deref(), &table).is_some() => {
                            return Err(SqlError::new(
                                SqlState::INSUFFICIENT_PRIVILEGE,
                                format!("permission denied: \"{table}\" is a system catalog"),
                            ));
                        }
                        None if if_exists => {
                            notice = Some(format!("table \"{table}\" does not exist, skipping"));
                        }
                        None => {
                            return Err(SqlError::new(
                                SqlState::UNDEFINED_TABLE,
                                format!("table \"{table}\" does not exist"),
                            ));
                        }
                    }
                }
                Ok(Statement::Ddl(match tables.is_empty() {
                    true => Ddl::Nothing { tag: "DROP TABLE", notice },
                    false => Ddl::DropTable { tables },
                }))
            }
            ObjectType::Database => {
                refuse(cascade, "CASCADE in DROP DATABASE")?;
                Ok(Statement::Ddl(Ddl::DropDatabase { name: one()?, if_exists }))
            }
            ObjectType::Schema => {
                refuse(cascade, "CASCADE in DROP SCHEMA")?;
                Ok(Statement::Ddl(Ddl::DropSchema { name: one()?, if_exists }))
            }
            // What cannot be created cannot be there.
            ObjectType::View | ObjectType::Index | ObjectType::Sequence | ObjectType::MaterializedView
                if if_exists =>
            {
                let (word, tag) = match object_type {
                    ObjectType::View => ("view", "DROP VIEW"),
                    ObjectType::Index => ("index", "DROP INDEX"),
                    ObjectType::Sequence => ("sequence", "DROP SEQUENCE"),
                    _ => ("materialized view", "DROP MATERIALIZED VIEW"),
                };
                let notice = Some(format!("{word} \"{}\" does not exist, skipping", one()?));
                Ok(Statement::Ddl(Ddl::Nothing { tag, notice }))
            }
            other => Err(SqlError::unsupported(format!("DROP {other}"))),
        }
    }

    pub(super) fn truncate(&mut self, names: &[ast::ObjectName]) -> Result<Statement> {
        let mut tables: Vec<Arc<TableDescriptor>> = Vec::with_capacity(names.len());
        for name in names {
            // TRUNCATE's errors have no position.
            let table = self.stored_table(name).map_err(|mut e| {
                e.position = None;
                e
            })?;
            if !tables.iter().any(|t| t.id == table.id) {
                tables.push(table);
            }
        }
        Ok(Statement::Ddl(Ddl::Truncate { tables }))
    }

    fn alter_table(&mut self, alter: &ast::AlterTable) -> Result<Statement> {
        let ast::AlterTable {
            name,
            if_exists,
            only: _,
            operations,
            location,
            on_cluster,
            table_type,
            end_token: _,
        } = alter;
        refuse(
            location.is_some() || on_cluster.is_some() || table_type.is_some(),
            "this form of ALTER TABLE",
        )?;
        let (schema, shown) = table_name(name)?;
        if *if_exists && self.catalog.table(schema.as_deref(), &shown).is_none() {
            let notice = Some(format!("relation \"{shown}\" does not exist, skipping"));
            return Ok(Statement::Ddl(Ddl::Nothing { tag: "ALTER TABLE", notice }));
        }
        let table = self.stored_table(name)?;
        let [operation] = operations.as_slice() else {
            return Err(SqlError::unsupported("ALTER TABLE with several actions"));
        };
        let find = |column: &ast::Ident| column_index(&table, &fold(column));
        let ddl = match operation {
            AlterTableOperation::AddConstraint { constraint, not_valid } => {
                refuse(*not_valid, "NOT VALID")?;
                let find = |column: &str| table.columns.iter().position(|c| c.name == column);
                match constraint {
                    TableConstraint::PrimaryKey(key) => {
                        let (columns, name) = self.key_parts(key, find)?;
                        if table.primary_key.is_some() {
                            return Err(multiple_keys(&table.name));
                        }
                        Ddl::AddPrimaryKey { table, columns, name }
                    }
                    TableConstraint::Unique(unique) => {
                        let (columns, name) = self.unique_parts(unique, find)?;
                        super::index::add_unique(table, columns, name, "key", "ALTER TABLE")?
                    }
                    _ => return Err(SqlError::unsupported("ALTER TABLE ADD of this constraint")),
                }
            }
            AlterTableOperation::AddColumn {
                column_keyword: _,
                if_not_exists,
                column_def,
                column_position,
            } => {
                refuse(column_position.is_some(), "a column's position")?;
                let ast::ColumnDef { name, data_type, options } = column_def;
                let column = self.new_column(name, data_type)?;
                if table.columns.iter().any(|c| c.name == column.name) {
                    let message =
                        format!("column \"{}\" of relation \"{}\" already exists", column.name, table.name);
                    if *if_not_exists {
                        let notice = Some(format!("{message}, skipping"));
                        return Ok(Statement::Ddl(Ddl::Nothing { tag: "ALTER TABLE", notice }));
                    }
                    return Err(SqlError::new(SqlState::DUPLICATE_COLUMN, message));
                }
                let mut new = NewTable { columns: vec![column], ..NewTable::default() };
                self.column_options(&mut new, &table.name, 0, options)?;
                refuse(new.primary_key.is_some() || !new.unique.is_empty(), "a key on an added column")?;
                refuse(!new.checks.is_empty(), "CHECK on an added column")?;
                Ddl::AddColumn { table, column: new.columns.remove(0), if_not_exists: *if_not_exists }
            }
            AlterTableOperation::DropColumn {
                has_column_keyword: _,
                column_names,
                if_exists,
                drop_behavior: _,
            } => {
                let [name] = column_names.as_slice() else {
                    return Err(SqlError::unsupported("DROP of several columns"));
                };
                match find(name) {
                    Ok(column) => {
                        if table.primary_key.as_ref().is_some_and(|key| key.columns.contains(&column)) {
                            return Err(SqlError::unsupported("DROP of a primary key's column"));
                        }
                        Ddl::DropColumn { table, column }
                    }
                    Err(e) if *if_exists => {
                        let notice = Some(format!("{}, skipping", e.message));
                        Ddl::Nothing { tag: "ALTER TABLE", notice }
                    }
                    Err(e) => return Err(e),
                }
            }
            AlterTableOperation::DropConstraint { if_exists, name, drop_behavior: _ } => {
                let name = fold(name);
                match table.unique.iter().position(|unique| unique.name == name) {
                    Some(at) => Ddl::DropUnique { table, at },
                    None if super::index::taken(&table).contains(&name) => {
                        return Err(SqlError::unsupported("DROP of a constraint that is not UNIQUE"));
                    }
                    None => {
                        let message =
                            format!("constraint \"{name}\" of relation \"{}\" does not exist", table.name);
                        if !*if_exists {
                            return Err(SqlError::new(SqlState::UNDEFINED_OBJECT, message));
                        }
                        let notice = Some(format!("{message}, skipping"));
                        Ddl::Nothing { tag: "ALTER TABLE", notice }
                    }
                }
            }
            AlterTableOperation::RenameColumn { old_column_name, new_column_name } => {
                let column = match find(old_column_name) {
                    Ok(column) => column,
                    Err(_) => {
                        return Err(SqlError::new(
                            SqlState::UNDEFINED_COLUMN,
                            format!("column \"{}\" does not exist", fold(old_column_name)),
                        ));
                    }
                };
                let to = fold(new_column_name);
                if table.columns.iter().any(|c| c.name == to) {
                    return Err(SqlError::new(
                        SqlState::DUPLICATE_COLUMN,
                        format!("column \"{to}\" of relation \"{}\" already exists", table.name),
                    ));
                }
                if !table.checks.is_empty() {
                    // Their texts name columns.
                    return Err(SqlError::unsupported(
                        "RENAME of a column of a table with CHECK constraints",
                    ));
                }
                Ddl::RenameColumn { table, column, to }
            }
            AlterTableOperation::RenameTable { table_name: to } => {
                let (ast::RenameTableNameKind::As(to) | ast::RenameTableNameKind::To(to)) = to;
                let (schema, to) = super::scope::table_name(to)?;
                refuse(schema.is_some(), "a schema in RENAME TO")?;
                Ddl::RenameTable { table, to }
            }
            other => {
                let text = other.to_string();
                let words: Vec<&str> = text
                    .split_whitespace()
                    .take_while(|w| w.bytes().all(|b| b.is_ascii_uppercase()))
                    .take(3)
                    .collect();
                return Err(SqlError::unsupported(format!("ALTER TABLE {}", words.join(" "))));
            }
        };
        Ok(Statement::Ddl(ddl))
    }

    /// ALTER TABLE … SPLIT AT VALUES
    pub(super) fn split_at(
        &mut self,
        name: &ast::ObjectName,
        points: &[Vec<ast::Expr>],
    ) -> Result<Statement> {
        let table = self.stored_table(name)?;
        let Some(key) = &table.primary_key else {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("\"{}\" has no primary key to split at", table.name),
            )
            .hint(
                "A table without a primary key is spread by WITH (sharding = 'round_robin', shards = …).",
            ));
        };
        if table.sharding != Sharding::Range {
            return Err(SqlError::unsupported("SPLIT AT for a table that is not sharded by range"));
        }
        let mut out = Vec::with_capacity(points.len());
        for point in points {
            if point.len() > key.columns.len() {
                return Err(SqlError::new(
                    SqlState::SYNTAX_ERROR,
                    "a split point has more values than the primary key has columns",
                )
                .at(point.first().and_then(|e| self.position(e))));
            }
            let mut values = Vec::with_capacity(point.len());
            for (expr, column) in point.iter().zip(&key.columns) {
                let column = table.columns[*column].clone();
                let position = self.position(expr);
                let value = self.in_level(LevelKind::Root, |this| {
                    this.level().clause = Clause::Split;
                    let bound = this.expr(expr)?;
                    no_subquery(&bound, "SPLIT AT").map_err(|e| e.at(position))?;
                    this.assign(bound, &column.name, column.ty, position)
                })?;
                values.push(value);
            }
            out.push(values);
        }
        Ok(Statement::Ddl(Ddl::SplitAt { table, points: out }))
    }

    /// EXECUTE's arguments.
    pub(super) fn arguments(&mut self, exprs: &[ast::Expr], types: &[Type]) -> Result<Vec<Expr>> {
        if exprs.len() != types.len() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "wrong number of parameters for prepared statement",
            )
            .detail(format!("Expected {} parameters but got {}.", types.len(), exprs.len())));
        }
        let mut out = Vec::with_capacity(exprs.len());
        for (i, (expr, ty)) in exprs.iter().zip(types).enumerate() {
            let position = self.position(expr);
            let value = self.in_level(LevelKind::Root, |this| {
                this.level().clause = Clause::Execute;
                this.expr(expr)
            })?;
            no_subquery(&value, "EXECUTE parameter").map_err(|e| e.at(position))?;
            let from = value.ty().ty;
            let value = self
                .coerce(value, *ty, crate::function::CastContext::Assignment, position)?
                .ok_or_else(|| {
                    SqlError::new(
                        SqlState::DATATYPE_MISMATCH,
                        format!(
                            "parameter ${} of type {from} cannot be coerced to the expected type {ty}",
                            i + 1
                        ),
                    )
                    .hint("You will need to rewrite or cast the expression.")
                    .at(position)
                })?;
            out.push(value);
        }
        Ok(out)
    }
}

fn no_subquery(expr: &Expr, what: &str) -> Result<()> {
    match expr.any(&mut |e| matches!(e, Expr::Subquery { .. })) {
        true => Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, format!("cannot use subquery in {what}"))),
        false => Ok(()),
    }
}

fn multiple_keys(name: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_TABLE_DEFINITION,
        format!("multiple primary keys for table \"{name}\" are not allowed"),
    )
}

fn unique(table: &mut NewTable, name: &str, columns: Vec<usize>, given: Option<String>) -> Result<()> {
    let constraint = match given {
        Some(given) if table.names.contains(&given) => return Err(crate::catalog::duplicate_table(&given)),
        Some(given) => given,
        None => {
            let mut parts = vec![name];
            parts.extend(columns.iter().map(|i| table.columns[*i].name.as_str()));
            parts.push("key");
            fresh(&table.names, &parts)
        }
    };
    table.names.push(constraint.clone());
    table.unique.push((columns, constraint));
    Ok(())
}

/// A constraint's name that is not taken yet: `t_a_check`, `t_a_check1` …
pub(super) fn fresh(taken: &[String], parts: &[&str]) -> String {
    let mut base = parts.join("_");
    while base.len() > IDENTIFIER_BYTES_MAX {
        base.pop();
    }
    let mut name = base.clone();
    let mut n = 0;
    while taken.contains(&name) {
        n += 1;
        name = format!("{base}{n}");
    }
    name
}

fn check_columns(columns: &[NewColumn]) -> Result<()> {
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
fn option_text(value: &ast::Expr) -> String {
    match value {
        ast::Expr::Value(ast::ValueWithSpan { value, .. }) => match value {
            ast::Value::SingleQuotedString(s) | ast::Value::Number(s, _) => s.clone(),
            other => other.to_string(),
        },
        ast::Expr::Identifier(ident) => fold(ident),
        other => other.to_string(),
    }
}
