//! UPDATE.

use std::sync::Arc;

use sqlparser::ast::{self, AssignmentTarget, UpdateTableFromKind};

use super::from::{concatenate, scan_of};
use super::insert::{column_index, is_default, table_scope};
use super::operator::row_of;
use super::scope::{Scope, fold, fold_part};
use super::{Binder, Clause, LevelKind, place, refuse};
use crate::catalog::TableDescriptor;
use crate::error::{Result, SqlError, SqlState};
use crate::ir::{Expr, JoinKind, OutputColumn, Plan, Statement, SubqueryKind, Update};

/// The plan of an UPDATE's or DELETE's target, its key included, joined with FROM or USING.
pub(super) struct Target {
    pub table: Arc<TableDescriptor>,
    pub alias: String,
    pub plan: Plan,
    pub scope: Scope,
    /// The target's columns and its key.
    pub width: usize,
}

impl Binder<'_> {
    /// The target and what it is joined with; the level's scope is set.
    pub(super) fn target(
        &mut self,
        factor: &ast::TableFactor,
        from: &[ast::TableWithJoins],
        selection: Option<&ast::Expr>,
    ) -> Result<Target> {
        let ast::TableFactor::Table {
            name,
            alias,
            args: None,
            with_hints,
            version: None,
            with_ordinality: false,
            partitions,
            json_path: None,
            sample: None,
            index_hints,
        } = factor
        else {
            return Err(SqlError::unsupported("this target").at(self.position(factor)));
        };
        refuse(!with_hints.is_empty() || !index_hints.is_empty() || !partitions.is_empty(), "a table hint")?;
        let table = self.stored_table(name)?;
        let alias = match alias {
            Some(alias) => {
                refuse(!alias.columns.is_empty(), "column aliases of a target")?;
                fold(&alias.name)
            }
            None => table.name.clone(),
        };
        let scan = scan_of(&table, true);
        let width = scan.columns.len();
        let mut scope = table_scope(&table, &alias);
        scope.columns = scan.columns.clone();
        let mut plan = Plan::Scan(scan);
        if !from.is_empty() {
            self.level().scope.relations = scope.relations.clone();
            let (right, right_scope) = self.from(from)?;
            scope = concatenate(scope, right_scope)?;
            plan = place::join(JoinKind::Inner, plan, right, None);
        }
        self.level().scope = scope.clone();
        if let Some(selection) = selection {
            let condition = self.in_clause(Clause::Where, |this| this.condition(selection, "WHERE"))?;
            plan = place::filter(plan, condition);
        }
        Ok(Target { table, alias, plan, scope, width })
    }

    pub(super) fn update(&mut self, update: &ast::Update) -> Result<Statement> {
        let ast::Update {
            update_token: _,
            optimizer_hints: _,
            table,
            assignments,
            from,
            selection,
            returning,
            output,
            or,
            order_by,
            limit,
        } = update;
        refuse(output.is_some(), "OUTPUT")?;
        refuse(or.is_some(), "UPDATE OR")?;
        refuse(!order_by.is_empty() || limit.is_some(), "ORDER BY or LIMIT in UPDATE")?;
        refuse(!table.joins.is_empty(), "a join as a target")?;
        let from: &[ast::TableWithJoins] = match from {
            None => &[],
            Some(UpdateTableFromKind::AfterSet(from)) => from,
            Some(UpdateTableFromKind::BeforeSet(_)) => return Err(SqlError::unsupported("FROM before SET")),
        };
        self.in_level(LevelKind::Root, |this| {
            let target = this.target(&table.relation, from, selection.as_ref())?;
            this.level().clause = Clause::Update;
            let assignments = this.assignments(&target.table, &target.alias, assignments)?;
            let width = target.width;
            let row = target.plan.columns().to_vec();
            let mut exprs: Vec<Expr> =
                row.iter().take(width).enumerate().map(|(i, c)| Expr::Column(i, c.ty)).collect();
            let mut columns: Vec<OutputColumn> = row.iter().take(width).cloned().collect();
            let mut assigned = Vec::with_capacity(assignments.len());
            for (column, expr) in assignments {
                columns.push(OutputColumn {
                    name: target.table.columns[column].name.clone(),
                    ty: expr.ty(),
                    origin: None,
                });
                exprs.push(expr);
                assigned.push(column);
            }
            let returning = match returning {
                None => None,
                Some(items) => {
                    let scope = after_target(target.scope.clone(), width);
                    for (i, column) in row.iter().enumerate().skip(width) {
                        exprs.push(Expr::Column(i, column.ty));
                        columns.push(column.clone());
                    }
                    Some(this.returning(scope, items)?)
                }
            };
            let source = Plan::Project { input: Box::new(target.plan), exprs, columns };
            Ok(Statement::Update(Update { table: target.table, source, assigned, returning }))
        })
    }

    /// SET a = 1, (b, c) = (2, 3)
    pub(super) fn assignments(
        &mut self,
        table: &Arc<TableDescriptor>,
        alias: &str,
        assignments: &[ast::Assignment],
    ) -> Result<Vec<(usize, Expr)>> {
        let mut out: Vec<(usize, Expr)> = Vec::with_capacity(assignments.len());
        for ast::Assignment { target, value } in assignments {
            match target {
                AssignmentTarget::ColumnName(name) => {
                    let column = self.assigned_column(table, alias, name, &out)?;
                    let value = match is_default(value) {
                        true => self.default_of(table, column)?,
                        false => {
                            let position = self.position(value);
                            let bound = self.expr(value)?;
                            let column = &table.columns[column];
                            self.assign(bound, &column.name, column.ty, position)?
                        }
                    };
                    out.push((column, value));
                }
                AssignmentTarget::Tuple(names) => {
                    let values = self.row_values(value, names.len())?;
                    for (name, (value, position)) in names.iter().zip(values) {
                        let column = self.assigned_column(table, alias, name, &out)?;
                        let value = match value {
                            None => self.default_of(table, column)?,
                            Some(value) => {
                                let column = &table.columns[column];
                                self.assign(value, &column.name, column.ty, position)?
                            }
                        };
                        out.push((column, value));
                    }
                }
            }
        }
        Ok(out)
    }

    fn assigned_column(
        &mut self,
        table: &Arc<TableDescriptor>,
        alias: &str,
        name: &ast::ObjectName,
        before: &[(usize, Expr)],
    ) -> Result<usize> {
        let position = self.position(name);
        let parts = name.0.iter().map(fold_part).collect::<Result<Vec<_>>>()?;
        let [name] = parts.as_slice() else {
            // PostgreSQL takes the first part as the column.
            let first = parts.first().map(String::as_str).unwrap_or_default();
            return Err(match column_index(table, first) {
                Ok(_) => SqlError::unsupported("an assignment to a field"),
                Err(e) if first == alias => {
                    e.hint("SET target columns cannot be qualified with the relation name.")
                }
                Err(e) => e,
            }
            .at(position));
        };
        let column = column_index(table, name).map_err(|e| e.at(position))?;
        if before.iter().any(|(c, _)| *c == column) {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("multiple assignments to same column \"{name}\""),
            ));
        }
        Ok(column)
    }

    /// The right side of `(a, b) = …`; `None` is DEFAULT.
    fn row_values(&mut self, value: &ast::Expr, count: usize) -> Result<Vec<(Option<Expr>, Option<u32>)>> {
        let position = self.position(value);
        let mismatch = || {
            SqlError::new(SqlState::SYNTAX_ERROR, "number of columns does not match number of values")
                .at(position)
        };
        if let ast::Expr::Subquery(query) = value {
            let plan = self.query(query, LevelKind::Subquery)?;
            if plan.columns().len() != count {
                return Err(mismatch());
            }
            // One scalar subquery for each column.
            return Ok((0..count)
                .map(|i| {
                    let column = plan.columns()[i].clone();
                    let ty = column.ty;
                    let plan = Plan::Project {
                        input: Box::new(plan.clone()),
                        exprs: vec![Expr::Column(i, ty)],
                        columns: vec![column],
                    };
                    (Some(Expr::Subquery { kind: SubqueryKind::Scalar, plan: Arc::new(plan), ty }), position)
                })
                .collect());
        }
        let row = match row_of(value) {
            Some(row) => row,
            None if count == 1 => vec![value],
            None => {
                return Err(SqlError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "source for a multiple-column UPDATE item must be a sub-SELECT or ROW() expression",
                )
                .at(position));
            }
        };
        if row.len() != count {
            return Err(mismatch());
        }
        row.into_iter()
            .map(|expr| {
                let position = self.position(expr);
                Ok(match is_default(expr) {
                    true => (None, position),
                    false => (Some(self.expr(expr)?), position),
                })
            })
            .collect()
    }
}

/// The scope of RETURNING: the target's columns, without its key, then those of other tables.
pub(super) fn after_target(mut scope: Scope, width: usize) -> Scope {
    let shift = |expr: &mut Expr| {
        expr.replace_columns(&mut |i, ty| Expr::Column(if i >= width { i - 1 } else { i }, ty));
    };
    scope.visible.iter_mut().for_each(|c| shift(&mut c.expr));
    for relation in &mut scope.relations {
        relation.columns.iter_mut().for_each(|c| shift(&mut c.expr));
    }
    if scope.columns.len() >= width {
        scope.columns.remove(width - 1);
    }
    scope
}
