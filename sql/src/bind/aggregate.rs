//! GROUP BY and aggregates.

use std::collections::HashMap;
use std::sync::Arc;

use sqlparser::ast;

use super::function::Call;
use super::scope::Scope;
use super::select::direction;
use super::{AGGREGATE, Binder, Clause};
use crate::error::{Result, SqlError, SqlState};
use crate::function::resolve;
use crate::ir::{AggregateCall, Expr, OutputColumn, Plan, SortKey, lift};
use crate::types::{ColumnType, Type};

impl Binder<'_> {
    /// An aggregate: collected in the level, which gives a placeholder.
    pub(super) fn aggregate_call(&mut self, call: Call<'_>) -> Result<Expr> {
        let at = call.position;
        let clause = self.level().clause;
        if !clause.aggregates_allowed() {
            let message = match clause {
                Clause::AggregateArgument => "aggregate function calls cannot be nested".to_owned(),
                clause => format!("aggregate functions are not allowed in {}", clause.name()),
            };
            return Err(SqlError::new(SqlState::GROUPING_ERROR, message).at(at));
        }
        let aggregate = self.aggregate_parts(call)?;
        let outer = |e: &Expr| e.any(&mut |e| matches!(e, Expr::Outer { .. }));
        let own = |e: &Expr| e.any(&mut |e| matches!(e, Expr::Column(..)));
        if aggregate.args.iter().any(outer) && !aggregate.args.iter().any(own) {
            return Err(SqlError::unsupported("an aggregate over an outer query's columns").at(at));
        }
        let ty = aggregate.ty;
        let text = format!("{aggregate:?}");
        let level = self.level();
        let index = match level.aggregates.iter().position(|a| format!("{a:?}") == text) {
            Some(index) => index,
            None => {
                level.aggregates.push(aggregate);
                level.aggregates.len() - 1
            }
        };
        Ok(Expr::Column(AGGREGATE + index, ty))
    }

    fn aggregate_parts(&mut self, call: Call<'_>) -> Result<AggregateCall> {
        let outside = self.level().in_aggregate;
        self.level().in_aggregate = true;
        let result = self.in_clause(Clause::AggregateArgument, |this| this.aggregate_inner(&call));
        self.level().in_aggregate = outside;
        result.map_err(|e| e.at(call.position))
    }

    fn aggregate_inner(&mut self, call: &Call<'_>) -> Result<AggregateCall> {
        let positions: Vec<Option<u32>> = call.args.iter().map(|a| self.position(*a)).collect();
        if call.args.is_empty() && !call.star {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("{}(*) must be used to call a parameterless aggregate function", call.name),
            ));
        }
        let args = self.exprs(&call.args)?;
        let types: Vec<Type> = args.iter().map(|a| a.ty().ty).collect();
        let resolved = resolve::aggregate(&call.name, &types)?;
        let args = self.arguments_as(args, &resolved.args, &positions)?;
        let filter = match call.filter {
            Some(filter) => Some(self.in_clause(Clause::Filter, |this| this.condition(filter, "FILTER"))?),
            None => None,
        };
        let order_by = self.plain_sort_keys(call.order_by)?;
        if call.distinct {
            let given: Vec<String> = args.iter().map(|a| format!("{a:?}")).collect();
            if order_by.iter().any(|key| !given.contains(&format!("{:?}", key.expr))) {
                return Err(SqlError::new(
                    SqlState::INVALID_COLUMN_REFERENCE,
                    "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
                ));
            }
            if args.is_empty() {
                return Err(SqlError::new(
                    SqlState::WRONG_OBJECT_TYPE,
                    "DISTINCT specified, but there is nothing to be distinct",
                ));
            }
        }
        let ty = match resolved.function.returns {
            // The result is of the argument's type.
            Type::Unknown => {
                args.first().map_or(ColumnType::plain(Type::Text), |a| ColumnType::plain(a.ty().ty))
            }
            ty => ColumnType::plain(ty),
        };
        Ok(AggregateCall { function: resolved.function, args, distinct: call.distinct, filter, order_by, ty })
    }

    /// ORDER BY inside a call or a window: expressions, neither names nor numbers of output columns.
    pub(super) fn plain_sort_keys(&mut self, keys: &[ast::OrderByExpr]) -> Result<Vec<SortKey>> {
        let mut out = Vec::with_capacity(keys.len());
        for ast::OrderByExpr { expr, options, with_fill } in keys {
            super::refuse(with_fill.is_some(), "WITH FILL")?;
            let position = self.position(expr);
            let bound = self.expr(expr)?;
            let expr = self.known(bound, position)?;
            let (descending, nulls_first) = direction(options);
            out.push(SortKey { expr, descending, nulls_first });
        }
        Ok(out)
    }
}

/// Rewrites what stands above GROUP BY from FROM's row to the row of group keys and aggregates.
pub(super) struct Grouping<'s> {
    keys: Vec<Expr>,
    /// The keys' texts, by how many subqueries lie between.
    texts: HashMap<usize, Vec<String>>,
    aggregates: Vec<AggregateCall>,
    scope: &'s Scope,
    references: HashMap<usize, Option<u32>>,
}

impl<'s> Grouping<'s> {
    pub fn new(
        keys: Vec<Expr>,
        aggregates: Vec<AggregateCall>,
        scope: &'s Scope,
        references: HashMap<usize, Option<u32>>,
    ) -> Self {
        let mut grouping = Self { keys, texts: HashMap::new(), aggregates, scope, references };
        grouping.add_dependent();
        grouping
    }

    /// Where a whole primary key is grouped by, the table's other columns are as good as keys.
    fn add_dependent(&mut self) {
        for relation in &self.scope.relations {
            let Some((table, first)) = &relation.table else { continue };
            let Some(key) = &table.primary_key else { continue };
            let grouped =
                |index: usize| self.keys.iter().any(|k| matches!(k, Expr::Column(i, _) if *i == index));
            if !key.columns.iter().all(|c| grouped(first + c)) {
                continue;
            }
            for (i, column) in table.columns.iter().enumerate() {
                // Only those that are used.
                if !self.keys.iter().any(|k| matches!(k, Expr::Column(c, _) if *c == first + i))
                    && self.references.contains_key(&(first + i))
                {
                    self.keys.push(Expr::Column(first + i, column.ty));
                }
            }
        }
    }

    pub fn rewrite(&mut self, expr: &mut Expr) -> Result<()> {
        self.rewrite_at(expr, 0)
    }

    fn rewrite_at(&mut self, expr: &mut Expr, depth: usize) -> Result<()> {
        if matches!(expr, Expr::Const(..) | Expr::Param(..)) {
            return Ok(());
        }
        let reaches = match expr {
            Expr::Column(..) => depth == 0,
            Expr::Outer { depth: d, .. } => depth > 0 && *d == depth,
            _ => true,
        };
        if !reaches {
            return Ok(());
        }
        let text = format!("{expr:?}");
        let keys = self.texts.entry(depth).or_insert_with(|| {
            self.keys
                .iter()
                .map(|key| {
                    let mut key = key.clone();
                    if depth > 0 {
                        lift(&mut key, depth);
                    }
                    format!("{key:?}")
                })
                .collect()
        });
        if let Some(i) = keys.iter().position(|key| *key == text) {
            let mut column = Expr::Column(i, self.keys[i].ty());
            if depth > 0 {
                lift(&mut column, depth);
            }
            *expr = column;
            return Ok(());
        }
        match expr {
            Expr::Column(index, ty) | Expr::Outer { index, ty, .. } => {
                let (index, ty) = (*index, *ty);
                if index >= super::WINDOW {
                    return Ok(());
                }
                if index >= AGGREGATE {
                    let mut column = Expr::Column(self.keys.len() + (index - AGGREGATE), ty);
                    if depth > 0 {
                        lift(&mut column, depth);
                    }
                    *expr = column;
                    return Ok(());
                }
                let what = match depth {
                    0 => format!(
                        "column \"{}\" must appear in the GROUP BY clause or be used in an aggregate function",
                        self.scope.label(index)
                    ),
                    _ => format!(
                        "subquery uses ungrouped column \"{}\" from outer query",
                        self.scope.label(index)
                    ),
                };
                Err(SqlError::new(SqlState::GROUPING_ERROR, what).at(self
                    .references
                    .get(&index)
                    .copied()
                    .flatten()))
            }
            _ => {
                let mut result = Ok(());
                if let Expr::Subquery { plan, .. } = expr {
                    self.rewrite_plan(Arc::make_mut(plan), depth + 1)?;
                }
                expr.operands_mut(&mut |operand| {
                    if result.is_ok() {
                        result = self.rewrite_at(operand, depth);
                    }
                });
                result
            }
        }
    }

    fn rewrite_plan(&mut self, plan: &mut Plan, depth: usize) -> Result<()> {
        let mut result = Ok(());
        plan.exprs_mut(&mut |expr| {
            if result.is_ok() {
                result = self.rewrite_at(expr, depth);
            }
        });
        plan.inputs_mut(&mut |input| {
            if result.is_ok() {
                result = self.rewrite_plan(input, depth);
            }
        });
        result
    }

    /// The aggregation over FROM's plan.
    pub fn plan(self, input: Plan) -> Plan {
        let mut columns = Vec::with_capacity(self.keys.len() + self.aggregates.len());
        for key in &self.keys {
            let source = match key {
                Expr::Column(i, _) => self.scope.columns.get(*i),
                _ => None,
            };
            columns.push(OutputColumn {
                name: source.map_or_else(|| "group".into(), |c| c.name.clone()),
                ty: key.ty(),
                origin: source.and_then(|c| c.origin),
            });
        }
        for call in &self.aggregates {
            columns.push(OutputColumn { name: call.function.name.into(), ty: call.ty, origin: None });
        }
        Plan::Aggregate { input: Box::new(input), group_by: self.keys, aggregates: self.aggregates, columns }
    }
}
