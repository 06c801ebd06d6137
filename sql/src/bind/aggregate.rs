//! GROUP BY and aggregates.

use std::collections::HashMap;
use std::sync::Arc;

use sqlparser::ast;

use super::function::Call;
use super::scope::Scope;
use super::select::direction;
use super::{AGGREGATE, Binder, Clause, GROUPING};
use crate::error::{Result, SqlError, SqlState};
use crate::function::resolve;
use crate::ir::{AggregateCall, Cte, Expr, OutputColumn, Plan, SetOp, SortKey, lift};
use crate::types::{ColumnType, Datum, Type};

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
    /// The keys that GROUP BY names; those after them depend on them.
    named: usize,
    /// With GROUPING SETS: the keys of each set.
    sets: Option<Vec<Vec<usize>>>,
    /// For each call of GROUPING, the keys it asks about.
    groupings: Vec<Vec<usize>>,
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
        let named = keys.len();
        let (texts, sets, groupings) = (HashMap::new(), None, Vec::new());
        Self { keys, texts, aggregates, named, sets, groupings, scope, references }
    }

    /// Says what the sets of keys are, if there are several, and what GROUPING is asked. Called once, before anything is
    /// rewritten.
    pub fn in_sets(
        &mut self,
        sets: Option<Vec<Vec<usize>>>,
        groupings: Vec<Vec<(Expr, Option<u32>)>>,
    ) -> Result<()> {
        for args in groupings {
            let mut asked = Vec::with_capacity(args.len());
            for (arg, position) in args {
                let text = format!("{arg:?}");
                let key = self.keys.iter().position(|key| format!("{key:?}") == text);
                asked.push(key.ok_or_else(|| {
                    SqlError::new(
                        SqlState::GROUPING_ERROR,
                        "arguments to GROUPING must be grouping expressions of the associated query level",
                    )
                    .at(position)
                })?);
            }
            self.groupings.push(asked);
        }
        self.sets = sets;
        self.add_dependent();
        Ok(())
    }

    /// Where a whole primary key is grouped by, the table's other columns are as good as keys.
    fn add_dependent(&mut self) {
        for relation in &self.scope.relations {
            let Some((table, first)) = &relation.table else { continue };
            let Some(key) = &table.primary_key else { continue };
            // By every set, that is.
            let in_all = |key: usize| self.sets.iter().flatten().all(|set| set.contains(&key));
            let grouped = |index: usize| {
                let key = self.keys.iter().position(|k| matches!(k, Expr::Column(i, _) if *i == index));
                key.is_some_and(in_all)
            };
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
                if index >= GROUPING {
                    *expr = Expr::Column(self.keys.len() + self.aggregates.len() + (index - GROUPING), ty);
                    if depth > 0 {
                        lift(expr, depth);
                    }
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

    /// The aggregation over FROM's plan. `next_cte` numbers what is made for several sets.
    pub fn plan(mut self, input: Plan, next_cte: &mut usize) -> Plan {
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
        if self.sets.is_none() && self.groupings.is_empty() {
            let (group_by, aggregates) = (self.keys, self.aggregates);
            return Plan::Aggregate { input: Box::new(input), group_by, aggregates, columns };
        }
        for _ in &self.groupings {
            let ty = ColumnType::plain(Type::Int4);
            columns.push(OutputColumn { name: "grouping".into(), ty, origin: None });
        }
        let sets = self.sets.take().unwrap_or_else(|| vec![(0..self.named).collect()]);
        if let [set] = sets.as_slice() {
            return self.one_set(input, set, &columns);
        }
        // FROM's rows are computed once; each set aggregates all of them.
        let id = *next_cte;
        *next_cte += 1;
        let from = Plan::CteScan { id, columns: input.columns().to_vec() };
        let body = sets.iter().map(|set| self.one_set(from.clone(), set, &columns)).reduce(|left, right| {
            let (left, right) = (Box::new(left), Box::new(right));
            Plan::SetOp { op: SetOp::Union, all: true, left, right, columns: columns.clone() }
        });
        let cte = Cte { id, name: "grouped".into(), plan: input, recursive: None };
        match body {
            Some(body) => Plan::With { ctes: vec![Arc::new(cte)], body: Box::new(body) },
            None => cte.plan,
        }
    }

    /// The aggregation by one set: keys that are not in it are NULL.
    fn one_set(&self, input: Plan, set: &[usize], columns: &[OutputColumn]) -> Plan {
        let members: Vec<usize> = set.iter().copied().chain(self.named..self.keys.len()).collect();
        let group_by: Vec<Expr> = members.iter().map(|&key| self.keys[key].clone()).collect();
        let width = self.keys.len() + self.aggregates.len();
        let inner: Vec<OutputColumn> =
            members.iter().copied().chain(self.keys.len()..width).map(|i| columns[i].clone()).collect();
        let mut exprs = Vec::with_capacity(columns.len());
        for (key, expr) in self.keys.iter().enumerate() {
            exprs.push(match members.iter().position(|member| *member == key) {
                Some(at) => Expr::Column(at, expr.ty()),
                None => Expr::Const(Datum::Null, expr.ty()),
            });
        }
        exprs.extend((members.len()..inner.len()).map(|i| Expr::Column(i, inner[i].ty)));
        for asked in &self.groupings {
            let bits = asked.iter().fold(0, |bits, key| bits << 1 | i32::from(!members.contains(key)));
            exprs.push(Expr::Const(Datum::Int4(bits), ColumnType::plain(Type::Int4)));
        }
        let aggregates = self.aggregates.clone();
        let plan = Plan::Aggregate { input: Box::new(input), group_by, aggregates, columns: inner };
        Plan::Project { input: Box::new(plan), exprs, columns: columns.to_vec() }
    }
}
