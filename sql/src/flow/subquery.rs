//! Expressions with subqueries in them.
//!
//! They may stand anywhere in a query. [`apply`] puts an operator below the node that needs them: it computes each such expression
//! for each row, as a further column. Evaluation is lazy as always, so that a subquery in a branch that is not taken is
//! never run. An answer depends on nothing but the values that the subquery refers to in the row around it; it is kept under
//! these in a [`Memo`], and so a subquery that refers to nothing runs once.
//!
//! ```text
//!   SELECT … FROM t WHERE t.a > (SELECT avg(b) FROM u WHERE u.k = t.k)
//!
//!   Filter  #2          the column that Apply added
//!     Apply  t.a > (…)  for each row: the answer for this t.k, or run the plan with t.k put in as a constant
//!       Scan t
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::expr::{Shown, as_equality, env_of};
use super::lower::{Lowering, Physical};
use super::operator::{Batches, Node, Operator};
use super::stream::{canceled, from_datafusion};
use super::types::{ColumnBuilder, ColumnReader, arrow_type, batch_with_rows, row_bytes, rows_of, types_of};
use crate::error::{Result, SqlError, SqlState};
use crate::exec::Row;
use crate::ir::{Expr, Plan, SubqueryKind, walk};
use crate::types::{ColumnType, Datum, RowKey, Type};

/// Answers kept in one memo; past that it starts afresh.
const ANSWERS_MAX: usize = 100_000;

// ---- The operator ----

/// Has those of `exprs` that contain subqueries computed below: the input with their values as further columns, and the expressions
/// over it.
pub(super) fn apply<'a>(
    lowering: &Lowering,
    input: Physical,
    types: &[Type],
    exprs: impl Iterator<Item = &'a Expr>,
) -> Result<(Physical, Vec<Expr>)> {
    let mut out: Vec<Expr> = exprs.cloned().collect();
    let schema = input.schema();
    let width = schema.fields().len();
    let mut applied = Vec::new();
    for expr in &mut out {
        if expr.has_subquery() {
            let column = Expr::Column(width + applied.len(), expr.ty());
            applied.push(std::mem::replace(expr, column));
        }
    }
    if applied.is_empty() {
        return Ok((input, out));
    }
    let mut used = BTreeSet::new();
    applied.iter().for_each(|e| walk::columns_used(e, &mut used));
    let used: Vec<usize> = used.into_iter().collect();
    let mut input_types = Vec::with_capacity(used.len());
    for index in &used {
        let ty = types.get(*index);
        input_types.push(*ty.ok_or_else(|| SqlError::internal("a subquery refers to no column"))?);
    }
    let exprs: Vec<Expr> = applied
        .iter()
        .map(|e| walk::renumber(e, &|i| used.binary_search(&i).unwrap_or(usize::MAX)))
        .collect();
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| Field::clone(f)).collect();
    fields.extend(
        applied.iter().enumerate().map(|(i, e)| Field::new(format!("apply{i}"), arrow_type(e.ty().ty), true)),
    );
    let schema = Arc::new(Schema::new(fields));
    let operator =
        Apply { lowering: lowering.clone(), exprs, used, input_types, schema: Arc::clone(&schema) };
    Ok((Node::over(operator, vec![input], schema), out))
}

#[derive(Clone, Debug)]
struct Apply {
    lowering: Lowering,
    /// Over `used`.
    exprs: Vec<Expr>,
    used: Vec<usize>,
    input_types: Vec<Type>,
    schema: Arc<Schema>,
}

impl Operator for Apply {
    fn name(&self) -> &'static str {
        "Apply"
    }

    fn detail(&self) -> String {
        self.exprs.iter().map(|e| Shown(e).to_string()).collect::<Vec<_>>().join(", ")
    }

    fn run(
        &self,
        _: usize,
        mut inputs: Vec<SendableRecordBatchStream>,
        _: &Arc<TaskContext>,
    ) -> Result<Batches> {
        let input = inputs.remove(0);
        let state = (input, self.clone());
        Ok(stream::try_unfold(state, |(mut input, mut this)| async move {
            match input.next().await {
                Some(batch) => {
                    let batch = this.batch(&batch.map_err(from_datafusion)?).await?;
                    Ok(Some((batch, (input, this))))
                }
                None => Ok(None),
            }
        })
        .boxed())
    }
}

impl Apply {
    async fn batch(&mut self, batch: &arrow::array::RecordBatch) -> Result<arrow::array::RecordBatch> {
        let rows = self.rows(batch)?;
        let mut columns = batch.columns().to_vec();
        for expr in &mut self.exprs {
            let mut builder = ColumnBuilder::new(expr.ty().ty, rows.len());
            // What has been answered once and for all is a constant from the next batch on.
            *expr = with_answers(expr, &self.lowering);
            if expr.has_subquery() {
                for row in &rows {
                    builder.push(&eval(&self.lowering, expr, row).await?)?;
                }
            } else {
                let env = env_of(&self.lowering.ctx);
                for row in &rows {
                    builder.push(&crate::eval::eval(expr, row, &env)?)?;
                }
            }
            columns.push(builder.finish());
        }
        batch_with_rows(columns, &self.schema, batch.num_rows())
    }

    fn rows(&self, batch: &arrow::array::RecordBatch) -> Result<Vec<Row>> {
        let readers = self
            .used
            .iter()
            .zip(&self.input_types)
            .map(|(index, ty)| ColumnReader::new(batch.column(*index), *ty))
            .collect::<Result<Vec<_>>>()?;
        (0..batch.num_rows()).map(|row| readers.iter().map(|r| r.get(row)).collect()).collect()
    }
}

fn with_answers(expr: &Expr, lowering: &Lowering) -> Expr {
    if let Expr::Subquery { kind, plan, ty } = expr
        && let Some(answer) = lowering.known(kind, plan)
    {
        return Expr::Const(answer, *ty);
    }
    walk::map_children(expr, &mut |child| with_answers(child, lowering))
}

// ---- Evaluation ----

/// Evaluates an expression that may have subqueries in it.
pub(super) fn eval<'a>(
    lowering: &'a Lowering,
    expr: &'a Expr,
    row: &'a [Datum],
) -> BoxFuture<'a, Result<Datum>> {
    if !expr.has_subquery() {
        let value = crate::eval::eval(expr, row, &env_of(&lowering.ctx));
        return futures::future::ready(value).boxed();
    }
    async move {
        match expr {
            Expr::Subquery { kind, plan, .. } => lowering.ask(kind, plan, row).await,
            Expr::And(args) => connective(lowering, args, row, false).await,
            Expr::Or(args) => connective(lowering, args, row, true).await,
            Expr::Case { branches, otherwise, .. } => {
                for (condition, value) in branches {
                    if matches!(eval(lowering, condition, row).await?, Datum::Bool(true)) {
                        return eval(lowering, value, row).await;
                    }
                }
                eval(lowering, otherwise, row).await
            }
            Expr::Coalesce(args, _) => {
                for arg in args {
                    let value = eval(lowering, arg, row).await?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                Ok(Datum::Null)
            }
            // All else looks at all of its arguments: these first, then itself over constants.
            other => {
                let mut args = Vec::new();
                other.operands(&mut |child| args.push(child));
                let mut values = Vec::with_capacity(args.len());
                for arg in args {
                    values.push(Expr::Const(eval(lowering, arg, row).await?, arg.ty()));
                }
                let mut values = values.into_iter();
                let expr =
                    walk::map_children(other, &mut |child| values.next().unwrap_or_else(|| child.clone()));
                crate::eval::eval(&expr, row, &env_of(&lowering.ctx))
            }
        }
    }
    .boxed()
}

/// AND (`decisive` is false) or OR (`decisive` is true), left to right.
async fn connective(lowering: &Lowering, args: &[Expr], row: &[Datum], decisive: bool) -> Result<Datum> {
    let mut unknown = false;
    for arg in args {
        match eval(lowering, arg, row).await? {
            Datum::Bool(value) if value == decisive => return Ok(Datum::Bool(decisive)),
            Datum::Bool(_) => {}
            _ => unknown = true,
        }
    }
    Ok(if unknown { Datum::Null } else { Datum::Bool(!decisive) })
}

// ---- Answers ----

/// What subqueries have answered.
#[derive(Default)]
pub(super) struct Memo {
    shapes: Mutex<HashMap<usize, Arc<Shape>>>,
    answers: Mutex<HashMap<Question, Cell>>,
}

/// A subquery's name, and the encoded values of the row around it that it depends on.
type Question = (usize, Vec<u8>);
type Cell = Arc<OnceCell<Result<Answer>>>;

/// What is known of a subquery's plan. It also keeps the plan alive, whose address is its name in the memo.
struct Shape {
    _plan: Arc<Plan>,
    /// What it refers to in the row around it.
    outer: Vec<(usize, ColumnType)>,
    /// Whether it depends on the CTEs in scope.
    free_cte: bool,
}

#[derive(Clone)]
enum Answer {
    Value(Datum),
    Rows(Arc<Inner>),
}

/// The rows of a quantified subquery.
struct Inner {
    rows: Vec<Row>,
    index: Option<Index>,
    _memory: MemoryReservation,
}

/// For `=`: what the rows' keys are. Keys with a NULL in them are looked at one by one.
struct Index {
    /// The sides of the equalities: over the left values, over the subquery's columns.
    left: Vec<Expr>,
    keys: HashSet<RowKey>,
    with_null: Vec<usize>,
}

impl Memo {
    fn shape(&self, plan: &Arc<Plan>) -> Arc<Shape> {
        let address = Arc::as_ptr(plan) as usize;
        let mut shapes = self.shapes.lock();
        let shape = shapes.entry(address).or_insert_with(|| {
            Arc::new(Shape {
                _plan: Arc::clone(plan),
                outer: walk::outer_references(plan),
                free_cte: walk::has_free_cte(plan),
            })
        });
        Arc::clone(shape)
    }

    fn cell(&self, key: Question) -> Cell {
        let mut answers = self.answers.lock();
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        Arc::clone(answers.entry(key).or_default())
    }
}

impl Lowering {
    /// The answer to a scalar or EXISTS subquery that depends on no row, if it has been found.
    fn known(&self, kind: &SubqueryKind, plan: &Arc<Plan>) -> Option<Datum> {
        if matches!(kind, SubqueryKind::Quantified { .. }) {
            return None;
        }
        let shape = self.memo.shape(plan);
        if !shape.outer.is_empty() {
            return None;
        }
        let key = (Arc::as_ptr(plan) as usize, Vec::new());
        match self.memo_for(&shape).cell(key).get() {
            Some(Ok(Answer::Value(value))) => Some(value.clone()),
            _ => None,
        }
    }

    fn memo_for(&self, shape: &Shape) -> &Memo {
        if shape.outer.is_empty() && !shape.free_cte { &self.root } else { &self.memo }
    }

    async fn ask(&self, kind: &SubqueryKind, plan: &Arc<Plan>, row: &[Datum]) -> Result<Datum> {
        if self.ctx.cancel.is_cancelled() {
            return Err(canceled());
        }
        let shape = self.memo.shape(plan);
        let mut key = Vec::new();
        for (index, _) in &shape.outer {
            exact(row.get(*index).unwrap_or(&Datum::Null), &mut key);
        }
        let memo = self.memo_for(&shape);
        // The memo of the root is asked by address, too, so it must keep the plan.
        memo.shape(plan);
        let cell = memo.cell((Arc::as_ptr(plan) as usize, key));
        let answer = cell
            .get_or_init(|| async {
                let plan = match shape.outer.is_empty() {
                    true => Arc::clone(plan),
                    false => Arc::new(walk::bind_outer(plan, row)),
                };
                self.answer(kind, &plan).await
            })
            .await
            .clone()?;
        match (kind, answer) {
            (_, Answer::Value(value)) => Ok(value),
            (SubqueryKind::Quantified { left, compare, all }, Answer::Rows(inner)) => {
                let mut values = Vec::with_capacity(left.len());
                for value in left {
                    values.push(eval(self, value, row).await?);
                }
                self.verdict(values, compare, *all, &inner)
            }
            _ => Err(SqlError::internal("a subquery has been asked in two ways")),
        }
    }

    async fn answer(&self, kind: &SubqueryKind, plan: &Plan) -> Result<Answer> {
        match kind {
            SubqueryKind::Exists => {
                let rows = self.some_rows(plan, 1).await?;
                Ok(Answer::Value(Datum::Bool(!rows.is_empty())))
            }
            SubqueryKind::Scalar => {
                let mut rows = self.some_rows(plan, 2).await?;
                if rows.len() > 1 {
                    return Err(SqlError::new(
                        SqlState::CARDINALITY_VIOLATION,
                        "more than one row returned by a subquery used as an expression",
                    ));
                }
                let value = rows.pop().and_then(|row| row.into_iter().next());
                Ok(Answer::Value(value.unwrap_or(Datum::Null)))
            }
            SubqueryKind::Quantified { left, compare, all } => {
                let memory = MemoryConsumer::new("Subquery").register(self.task.memory_pool());
                let types = types_of(plan.columns());
                let mut batches = self.execute(plan).await?;
                let mut rows: Vec<Row> = Vec::new();
                while let Some(batch) = batches.next().await {
                    let more = rows_of(&batch.map_err(from_datafusion)?, &types)?;
                    // Once for the rows, once for their keys.
                    let bytes: usize = more.iter().map(|row| 2 * row_bytes(row)).sum();
                    memory.try_grow(bytes).map_err(from_datafusion)?;
                    rows.extend(more);
                }
                let index = self.index(&rows, left.len(), compare, *all)?;
                Ok(Answer::Rows(Arc::new(Inner { rows, index, _memory: memory })))
            }
        }
    }

    async fn some_rows(&self, plan: &Plan, limit: i64) -> Result<Vec<Row>> {
        let limit = Expr::Const(Datum::Int8(limit), ColumnType::plain(Type::Int8));
        let limited = Plan::Limit { input: Box::new(plan.clone()), limit: Some(limit), offset: None };
        let types = types_of(plan.columns());
        let mut batches = self.execute(&limited).await?;
        let mut rows = Vec::new();
        while let Some(batch) = batches.next().await {
            rows.extend(rows_of(&batch.map_err(from_datafusion)?, &types)?);
        }
        Ok(rows)
    }

    fn index(&self, rows: &[Row], left: usize, compare: &Expr, all: bool) -> Result<Option<Index>> {
        let Some((left_keys, right_keys)) = equalities(compare, left, all) else { return Ok(None) };
        let env = env_of(&self.ctx);
        let mut index = Index { left: left_keys, keys: HashSet::new(), with_null: Vec::new() };
        let mut row_of_both = vec![Datum::Null; left];
        for (at, row) in rows.iter().enumerate() {
            row_of_both.truncate(left);
            row_of_both.extend(row.iter().cloned());
            let key: Row =
                right_keys.iter().map(|e| crate::eval::eval(e, &row_of_both, &env)).collect::<Result<_>>()?;
            if key.iter().any(Datum::is_null) {
                index.with_null.push(at);
            } else {
                index.keys.insert(RowKey(key));
            }
        }
        Ok(Some(index))
    }

    /// Combines the comparisons with all rows: by OR, or for ALL by AND, of three values.
    fn verdict(&self, values: Vec<Datum>, compare: &Expr, all: bool, inner: &Inner) -> Result<Datum> {
        let env = env_of(&self.ctx);
        // With `all` the index is of `<>`: a row that is equal decides, too.
        let decided = Datum::Bool(!all);
        let width = values.len();
        let mut row = values;
        let mut candidates: Box<dyn Iterator<Item = usize>> = Box::new(0..inner.rows.len());
        if let Some(index) = &inner.index {
            let key: Row =
                index.left.iter().map(|e| crate::eval::eval(e, &row, &env)).collect::<Result<_>>()?;
            if !key.iter().any(Datum::is_null) {
                if index.keys.contains(&RowKey(key)) {
                    return Ok(decided);
                }
                candidates = Box::new(index.with_null.iter().copied());
            } else if width == 1 {
                return Ok(if inner.rows.is_empty() { Datum::Bool(all) } else { Datum::Null });
            }
        }
        let mut unknown = false;
        for at in candidates {
            row.truncate(width);
            row.extend(inner.rows[at].iter().cloned());
            match crate::eval::eval(compare, &row, &env)? {
                Datum::Bool(value) if value != all => return Ok(decided),
                Datum::Bool(_) => {}
                _ => unknown = true,
            }
        }
        Ok(if unknown { Datum::Null } else { Datum::Bool(all) })
    }
}

/// The two sides of `compare`, if it is a conjunction of equalities between the left values and the subquery's columns; with
/// `all`, if it is one inequality.
fn equalities(compare: &Expr, left: usize, all: bool) -> Option<(Vec<Expr>, Vec<Expr>)> {
    let mut conjuncts = Vec::new();
    walk::conjuncts(compare.clone(), &mut conjuncts);
    if all && conjuncts.len() != 1 {
        return None;
    }
    let mut sides = (Vec::new(), Vec::new());
    for conjunct in &conjuncts {
        let (a, b) = match all {
            false => as_equality(conjunct).map(|(a, b, _)| (a, b))?,
            true => super::expr::as_inequality(conjunct)?,
        };
        if conjunct.is_volatile() {
            return None;
        }
        let of = |e: &Expr| {
            let mut used = BTreeSet::new();
            walk::columns_used(e, &mut used);
            (used.iter().all(|i| *i < left), used.iter().all(|i| *i >= left))
        };
        match (of(a), of(b)) {
            ((true, _), (_, true)) => {
                sides.0.push(a.clone());
                sides.1.push(b.clone());
            }
            ((_, true), (true, _)) => {
                sides.0.push(b.clone());
                sides.1.push(a.clone());
            }
            _ => return None,
        }
    }
    Some(sides)
}

/// Appends bytes that are the same for the same value, and for no other one that is shown or compares differently.
fn exact(datum: &Datum, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    match datum {
        Datum::Null => {
            out[start..].copy_from_slice(&u32::MAX.to_be_bytes());
            return;
        }
        Datum::Bool(v) => out.push(u8::from(*v)),
        Datum::Int2(v) => out.extend_from_slice(&v.to_be_bytes()),
        Datum::Int4(v) | Datum::Date(v) => out.extend_from_slice(&v.to_be_bytes()),
        Datum::Int8(v) | Datum::Time(v) | Datum::Timestamp(v) | Datum::Timestamptz(v) => {
            out.extend_from_slice(&v.to_be_bytes());
        }
        Datum::Float4(v) => out.extend_from_slice(&v.to_bits().to_be_bytes()),
        Datum::Float8(v) => out.extend_from_slice(&v.to_bits().to_be_bytes()),
        Datum::Numeric(_) | Datum::Interval(_) => super::types::encode_keyed(datum, out),
        Datum::Text(v) => out.extend_from_slice(v.as_bytes()),
        Datum::Bytea(v) => out.extend_from_slice(v),
        Datum::Uuid(v) => out.extend_from_slice(v),
        Datum::Oid(v) => out.extend_from_slice(&v.to_be_bytes()),
    }
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX - 1);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}
