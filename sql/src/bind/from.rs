//! FROM: tables, joins, and the names they make.

use sqlparser::ast::{self, JoinConstraint, JoinOperator, Spanned, TableFactor, TableWithJoins};

use super::locking::Lockable;
use super::operator::and;
use super::scope::{Named, Relation, Scope, fold, fold_part, table_name};
use super::{Binder, Clause, LevelKind, function, no_such_table, place, refuse};
use crate::error::{Result, SqlError, SqlState};
use crate::function::resolve;
use crate::ir::{CallKind, Expr, JoinKind, OutputColumn, Plan, TableScan};
use crate::types::ColumnType;

impl Binder<'_> {
    /// FROM a, b JOIN c …
    pub(super) fn from(&mut self, from: &[TableWithJoins]) -> Result<(Plan, Scope)> {
        let mut whole: Option<(Plan, Scope)> = None;
        for item in from {
            let (plan, scope) = self.table_with_joins(item)?;
            whole = Some(match whole {
                None => (plan, scope),
                Some((left, left_scope)) => {
                    let scope = concatenate(left_scope, scope)?;
                    (place::join(JoinKind::Inner, left, plan, None), scope)
                }
            });
            // For messages only: what is on the left cannot be seen from what follows.
            if let Some((_, scope)) = &whole {
                self.level().scope.relations = scope.relations.clone();
            }
        }
        Ok(whole.unwrap_or_else(|| (Plan::Values { rows: vec![vec![]], columns: vec![] }, Scope::default())))
    }

    fn table_with_joins(&mut self, item: &TableWithJoins) -> Result<(Plan, Scope)> {
        self.deeper(|this| {
            let TableWithJoins { relation, joins } = item;
            let mut whole = this.factor(relation)?;
            for ast::Join { relation, global, join_operator } in joins {
                refuse(*global, "GLOBAL JOIN")?;
                let right = this.factor(relation)?;
                whole = this.join(whole, right, join_operator, relation)?;
            }
            Ok(whole)
        })
    }

    /// A table with its alias, or something that looks like one.
    fn factor(&mut self, factor: &TableFactor) -> Result<(Plan, Scope)> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                refuse(!with_hints.is_empty() || !index_hints.is_empty(), "a table hint")?;
                refuse(version.is_some(), "a table version")?;
                refuse(!partitions.is_empty(), "PARTITION")?;
                refuse(json_path.is_some(), "a path after a table")?;
                refuse(sample.is_some(), "TABLESAMPLE")?;
                refuse(*with_ordinality, "WITH ORDINALITY")?;
                match args {
                    None => self.table(name, alias.as_ref()),
                    Some(ast::TableFunctionArgs { args, settings }) => {
                        refuse(settings.is_some(), "SETTINGS")?;
                        self.table_function(name, args, alias.as_ref())
                    }
                }
            }
            TableFactor::Derived { lateral, subquery, alias, sample } => {
                refuse(sample.is_some(), "TABLESAMPLE")?;
                if *lateral {
                    return Err(SqlError::unsupported("LATERAL").at(self.position(subquery.as_ref())));
                }
                let Some(alias) = alias else {
                    let values = matches!(subquery.body.as_ref(), ast::SetExpr::Values(_));
                    let (what, example) = match values {
                        true => ("VALUES", "VALUES ..."),
                        false => ("subquery", "SELECT ..."),
                    };
                    let at = self.position(subquery.as_ref()).map(|p| p.saturating_sub(1).max(1));
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        format!("{what} in FROM must have an alias"),
                    )
                    .hint(format!("For example, FROM ({example}) [AS] foo."))
                    .at(at));
                };
                let lock = self.locked_as(&fold(&alias.name), Lockable::Subquery)?;
                let plan = self.locked_subquery(subquery, lock)?;
                let mut scope = Scope::of(&fold(&alias.name), None, plan.columns());
                self.rename(&mut scope, alias)?;
                Ok((plan, scope))
            }
            TableFactor::Function { lateral: _, name, args, with_ordinality, alias } => {
                // A function's arguments may refer to what is on the left; those that do are refused there.
                refuse(*with_ordinality, "WITH ORDINALITY")?;
                self.table_function(name, args, alias.as_ref())
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                let (plan, scope) = self.table_with_joins(table_with_joins)?;
                let Some(alias) = alias else { return Ok((plan, scope)) };
                self.locked_as(&fold(&alias.name), Lockable::Other("a join"))?;
                let relation = Relation {
                    schema: None,
                    name: fold(&alias.name),
                    columns: scope.visible.clone(),
                    table: None,
                };
                let mut scope =
                    Scope { relations: vec![relation], visible: scope.visible, columns: scope.columns };
                self.rename(&mut scope, alias)?;
                Ok((plan, scope))
            }
            TableFactor::TableFunction { .. }
            | TableFactor::UNNEST { .. }
            | TableFactor::JsonTable { .. }
            | TableFactor::OpenJsonTable { .. }
            | TableFactor::Pivot { .. }
            | TableFactor::Unpivot { .. }
            | TableFactor::MatchRecognize { .. }
            | TableFactor::XmlTable { .. }
            | TableFactor::SemanticView { .. } => {
                Err(SqlError::unsupported("this kind of table").at(self.position(factor)))
            }
        }
    }

    /// A table, a view or a CTE by its name.
    pub(super) fn table(
        &mut self,
        name: &ast::ObjectName,
        alias: Option<&ast::TableAlias>,
    ) -> Result<(Plan, Scope)> {
        let position = self.position(name);
        let (schema, table) = table_name(name).map_err(|e| e.at(position))?;
        let shown = alias.map_or_else(|| table.clone(), |a| fold(&a.name));
        let (plan, qualified, stored) = if let Some(plan) = self.cte(schema.as_deref(), &table) {
            self.locked_as(&shown, Lockable::Other("a WITH query"))?;
            (plan?, None, None)
        } else if let Some(found) = self.catalog.table(schema.as_deref(), &table) {
            let mut scan = scan_of(&found, false);
            scan.lock = self.locked_as(&shown, Lockable::Table)?;
            let plan = Plan::Scan(scan);
            (plan, Some(found.schema.clone()), Some(found))
        } else if let Some((schema, columns)) = self.catalog.virtual_table(schema.as_deref(), &table) {
            let columns =
                columns.into_iter().map(|(name, ty)| OutputColumn { name, ty, origin: None }).collect();
            (Plan::VirtualScan { name: (schema.clone(), table.clone()), columns }, Some(schema), None)
        } else {
            return Err(no_such_table(schema.as_deref(), &table).at(position));
        };
        let schema = if alias.is_some() { None } else { qualified };
        let mut scope = Scope::of(&shown, schema, plan.columns());
        if let (Some(stored), Some(relation)) = (stored, scope.relations.first_mut()) {
            relation.table = Some((stored, 0));
        }
        if let Some(alias) = alias {
            self.rename(&mut scope, alias)?;
        }
        Ok((plan, scope))
    }

    /// `generate_series(…)` in FROM.
    fn table_function(
        &mut self,
        name: &ast::ObjectName,
        args: &[ast::FunctionArg],
        alias: Option<&ast::TableAlias>,
    ) -> Result<(Plan, Scope)> {
        let position = self.position(name);
        let parts = name.0.iter().map(fold_part).collect::<Result<Vec<_>>>()?;
        let called = match parts.as_slice() {
            [name] => name.clone(),
            [schema, name] if schema == "pg_catalog" => name.clone(),
            _ => parts.join("."),
        };
        let mut call = function::Call {
            name: called,
            position,
            args: Vec::new(),
            names: Vec::new(),
            star: false,
            distinct: false,
            order_by: &[],
            filter: None,
            over: None,
        };
        for arg in args {
            match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => call.args.push(expr),
                _ => return Err(SqlError::unsupported("this argument of a function in FROM").at(position)),
            }
        }
        if call.name != "generate_series" {
            return self.scalar_in_from(&call, alias);
        }
        if !(2..=3).contains(&call.args.len()) {
            return Err(SqlError::unsupported("this call of generate_series in FROM").at(position));
        }
        let plan = self.in_level(LevelKind::Derived, |this| {
            this.level().clause = Clause::From;
            let bound = this.exprs(&call.args)?;
            this.series(bound, &call)
        })?;
        let Plan::Series { args, mut columns } = plan else { return Err(SqlError::internal("a series")) };
        let shown = alias.map_or_else(|| "generate_series".into(), |a| fold(&a.name));
        self.locked_as(&shown, Lockable::Other("a function"))?;
        // The column of a function that returns one value is called like the alias.
        columns[0].name = shown.clone();
        let plan = Plan::Series { args, columns };
        let mut scope = Scope::of(&shown, None, plan.columns());
        if let Some(alias) = alias {
            self.rename(&mut scope, alias)?;
        }
        Ok((plan, scope))
    }

    /// `FROM f(…)` of a function that returns one value: one row.
    fn scalar_in_from(
        &mut self,
        call: &function::Call<'_>,
        alias: Option<&ast::TableAlias>,
    ) -> Result<(Plan, Scope)> {
        let at = call.position;
        if crate::function::functions(&call.name).is_empty() {
            return Err(SqlError::unsupported(format!("the function {} in FROM", call.name)).at(at));
        }
        let value = self.in_level(LevelKind::Derived, |this| {
            this.level().clause = Clause::From;
            let args = this.exprs(&call.args)?;
            let positions: Vec<Option<u32>> = call.args.iter().map(|a| this.position(*a)).collect();
            this.function_call(&call.name, args, &positions).map_err(|e| e.at(at))
        })?;
        if !value.is_local() {
            return Err(SqlError::unsupported("a subquery in a function in FROM").at(at));
        }
        let shown = alias.map_or_else(|| call.name.clone(), |a| fold(&a.name));
        self.locked_as(&shown, Lockable::Other("a function"))?;
        let columns = vec![OutputColumn { name: shown.clone(), ty: value.ty(), origin: None }];
        let plan = Plan::Values { rows: vec![vec![value]], columns };
        let mut scope = Scope::of(&shown, None, plan.columns());
        if let Some(alias) = alias {
            self.rename(&mut scope, alias)?;
        }
        Ok((plan, scope))
    }

    /// `AS t (a, b)`: new names for the first columns.
    pub(super) fn rename(&self, scope: &mut Scope, alias: &ast::TableAlias) -> Result<()> {
        let ast::TableAlias { explicit: _, name, columns, at } = alias;
        refuse(at.is_some(), "AT after an alias")?;
        super::scope::alias(name).map_err(|e| e.at(self.source.start(name.span)))?;
        let available = scope.visible.len();
        if columns.len() > available {
            return Err(SqlError::new(
                SqlState::INVALID_COLUMN_REFERENCE,
                format!(
                    "table \"{}\" has {available} columns available but {} columns specified",
                    fold(name),
                    columns.len()
                ),
            )
            .at(self.source.start(name.span)));
        }
        for (i, ast::TableAliasColumnDef { name, data_type }) in columns.iter().enumerate() {
            refuse(data_type.is_some(), "a column definition list")?;
            let name = fold(name);
            scope.visible[i].name = name.clone();
            if let Some(relation) = scope.relations.first_mut() {
                relation.columns[i].name = name.clone();
            }
            // Without an alias of its own, an output column is called so.
            if let Expr::Column(index, _) = scope.visible[i].expr {
                scope.columns[index].name = name;
            }
        }
        Ok(())
    }

    fn join(
        &mut self,
        left: (Plan, Scope),
        right: (Plan, Scope),
        operator: &JoinOperator,
        relation: &TableFactor,
    ) -> Result<(Plan, Scope)> {
        let (kind, constraint) = match operator {
            JoinOperator::Join(c) | JoinOperator::Inner(c) => (JoinKind::Inner, c),
            JoinOperator::Left(c) | JoinOperator::LeftOuter(c) => (JoinKind::Left, c),
            JoinOperator::Right(c) | JoinOperator::RightOuter(c) => (JoinKind::Right, c),
            JoinOperator::FullOuter(c) => (JoinKind::Full, c),
            JoinOperator::CrossJoin(c @ JoinConstraint::None) => (JoinKind::Inner, c),
            JoinOperator::CrossJoin(_)
            | JoinOperator::Semi(_)
            | JoinOperator::LeftSemi(_)
            | JoinOperator::RightSemi(_)
            | JoinOperator::Anti(_)
            | JoinOperator::LeftAnti(_)
            | JoinOperator::RightAnti(_)
            | JoinOperator::CrossApply
            | JoinOperator::OuterApply
            | JoinOperator::AsOf { .. }
            | JoinOperator::StraightJoin(_)
            | JoinOperator::ArrayJoin
            | JoinOperator::LeftArrayJoin
            | JoinOperator::InnerArrayJoin => {
                return Err(SqlError::unsupported("this kind of join").at(self.position(relation)));
            }
        };
        let (left_plan, left_scope) = left;
        let (right_plan, right_scope) = right;
        let width = left_plan.columns().len();
        let names: Vec<(String, Option<u32>)> = match constraint {
            JoinConstraint::Using(names) => names
                .iter()
                .map(|name| match name.0.as_slice() {
                    [part] => Ok((fold_part(part)?, self.position(name))),
                    _ => Err(SqlError::unsupported("a qualified name in USING")),
                })
                .collect::<Result<Vec<_>>>()?,
            JoinConstraint::Natural => left_scope
                .visible
                .iter()
                .filter(|l| right_scope.visible.iter().any(|r| r.name == l.name))
                .map(|l| (l.name.clone(), None))
                .collect(),
            JoinConstraint::On(_) => Vec::new(),
            JoinConstraint::None => match operator {
                JoinOperator::CrossJoin(_) => Vec::new(),
                _ => {
                    let end = relation.span().end;
                    let _ = end;
                    return Err(SqlError::new(SqlState::SYNTAX_ERROR, "a join without a condition")
                        .hint("Write ON, USING, NATURAL or CROSS JOIN.")
                        .at(self.position(relation)));
                }
            },
        };
        for (i, (name, _)) in names.iter().enumerate() {
            if names[..i].iter().any(|(n, _)| n == name) {
                return Err(SqlError::new(
                    SqlState::DUPLICATE_COLUMN,
                    format!("column name \"{name}\" appears more than once in USING clause"),
                ));
            }
        }
        let mut scope = concatenate(left_scope.clone(), right_scope.clone())?;
        let mut on = match constraint {
            JoinConstraint::On(condition) => {
                let around = std::mem::replace(&mut self.level().scope, scope.clone());
                let bound = self.in_clause(Clause::JoinOn, |this| this.condition(condition, "JOIN/ON"));
                self.level().scope = around;
                Some(bound?)
            }
            _ => None,
        };
        if !names.is_empty() {
            let mut merged = Vec::with_capacity(names.len());
            let mut tests = Vec::with_capacity(names.len());
            for (name, position) in &names {
                let l = common_column(&left_scope, name, "left")?;
                let mut r = common_column(&right_scope, name, "right")?;
                r.replace_columns(&mut |i, ty| Expr::Column(i + width, ty));
                let resolved =
                    resolve::operator("=", &[l.ty().ty, r.ty().ty]).map_err(|e| e.at(*position))?;
                let args = vec![
                    self.implicit(l.clone(), resolved.args[0], *position)?,
                    self.implicit(r.clone(), resolved.args[1], *position)?,
                ];
                tests.push(self.call(resolved.function, CallKind::Operator, args));
                let (mut pair, ty) = self.unify("JOIN/USING", vec![l, r], &[*position, *position])?;
                let (r, l) = (pair.pop(), pair.pop());
                let (Some(l), Some(r)) = (l, r) else { return Err(SqlError::internal("two columns")) };
                let expr = match kind {
                    JoinKind::Right => r,
                    JoinKind::Full => Expr::Coalesce(vec![l, r], ty),
                    // Whichever needs no conversion.
                    JoinKind::Inner if !matches!(l, Expr::Column(..)) && matches!(r, Expr::Column(..)) => r,
                    _ => l,
                };
                merged.push(Named { name: name.clone(), expr });
            }
            let used = |c: &Named| !names.iter().any(|(n, _)| *n == c.name);
            scope.visible.retain(used);
            merged.append(&mut scope.visible);
            scope.visible = merged;
            on = Some(and(tests));
        }
        Ok((place::join(kind, left_plan, right_plan, on), scope))
    }
}

/// The scan of a stored table.
pub(super) fn scan_of(table: &std::sync::Arc<crate::catalog::TableDescriptor>, with_key: bool) -> TableScan {
    let mut columns: Vec<OutputColumn> = table
        .columns
        .iter()
        .enumerate()
        .map(|(i, c)| OutputColumn { name: c.name.clone(), ty: c.ty, origin: Some((table.id, i as i16 + 1)) })
        .collect();
    if with_key {
        columns.push(OutputColumn {
            name: String::new(),
            ty: ColumnType::plain(crate::types::Type::Bytea),
            origin: None,
        });
    }
    TableScan { table: table.clone(), columns, with_key, filters: Vec::new(), lock: None }
}

/// Two scopes side by side.
pub(super) fn concatenate(mut left: Scope, mut right: Scope) -> Result<Scope> {
    for relation in &right.relations {
        let clash = left.relations.iter().any(|l| {
            l.name == relation.name
                && (l.schema == relation.schema || l.schema.is_none() || relation.schema.is_none())
        });
        if clash {
            return Err(SqlError::new(
                SqlState::DUPLICATE_ALIAS,
                format!("table name \"{}\" specified more than once", relation.name),
            ));
        }
    }
    right.shift(left.columns.len());
    left.relations.append(&mut right.relations);
    left.visible.append(&mut right.visible);
    left.columns.append(&mut right.columns);
    Ok(left)
}

/// The column of a USING clause.
fn common_column(scope: &Scope, name: &str, side: &str) -> Result<Expr> {
    let mut found = scope.visible.iter().filter(|c| c.name == name);
    match (found.next(), found.next()) {
        (Some(column), None) => Ok(column.expr.clone()),
        (Some(_), Some(_)) => Err(SqlError::new(
            SqlState::AMBIGUOUS_COLUMN,
            format!("common column name \"{name}\" appears more than once in {side} table"),
        )),
        (None, _) => Err(SqlError::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{name}\" specified in USING clause does not exist in {side} table"),
        )),
    }
}
