//! Scalar expressions as DataFusion's physical expressions.
//!
//! What is *native* can be computed for a whole column, cannot fail and means the same to DataFusion as to PostgreSQL:
//! columns, constants, comparisons of equal types, IS NULL, AND, OR and NOT of these. Everything else becomes one
//! [`Kernel`], which evaluates the whole tree row by row with [`crate::eval`]: lazily where PostgreSQL is lazy, with
//! checked arithmetic and PostgreSQL's errors.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{
    BinaryExpr, Column, IsNotNullExpr, IsNullExpr, Literal, NotExpr,
};
use datafusion::physical_expr::{PhysicalExpr, PhysicalExprRef};

use super::stream::{canceled, to_datafusion};
use super::types::{ColumnBuilder, ColumnReader, arrow_type, is_keyed, key_array, scalar_of};
use crate::error::{Result, SqlError};
use crate::eval::{Env, eval};
use crate::exec::StatementContext;
use crate::ir::{Expr, walk};
use crate::types::{Datum, Type};

/// What expressions may refer to besides their row.
pub(super) fn env_of(ctx: &StatementContext) -> Env<'_> {
    Env { ctx: &ctx.eval, params: &ctx.params, outer: &[] }
}

/// An expression that is evaluated row by row.
pub(super) struct Kernel {
    /// Its columns are `inputs` by index.
    expr: Expr,
    inputs: Vec<PhysicalExprRef>,
    input_types: Vec<Type>,
    ty: Type,
    ctx: Arc<StatementContext>,
}

impl Kernel {
    fn new(expr: &Expr, schema: &Schema, ctx: &Arc<StatementContext>) -> Result<Self> {
        let mut used = BTreeSet::new();
        walk::columns_used(expr, &mut used);
        let used: Vec<usize> = used.into_iter().collect();
        let mut input_types = vec![Type::Unknown; used.len()];
        column_types(expr, &mut |index, ty| {
            if let Ok(at) = used.binary_search(&index) {
                input_types[at] = ty;
            }
        });
        let inputs = used.iter().map(|index| column(*index, schema)).collect::<Result<_>>()?;
        let expr = walk::renumber(expr, &|index| used.binary_search(&index).unwrap_or(usize::MAX));
        let ty = expr.ty().ty;
        Ok(Self { expr, inputs, input_types, ty, ctx: Arc::clone(ctx) })
    }

    fn evaluate_rows(&self, batch: &RecordBatch) -> Result<ColumnarValue, SqlError> {
        if self.ctx.cancel.is_cancelled() {
            return Err(canceled());
        }
        let rows = batch.num_rows();
        let arrays = self
            .inputs
            .iter()
            .map(|input| input.evaluate(batch)?.into_array(rows))
            .collect::<datafusion::error::Result<Vec<_>>>()
            .map_err(super::stream::from_datafusion)?;
        let readers = arrays
            .iter()
            .zip(&self.input_types)
            .map(|(array, ty)| ColumnReader::new(array, *ty))
            .collect::<Result<Vec<_>>>()?;
        let env = env_of(&self.ctx);
        let mut row = Vec::with_capacity(readers.len());
        let mut builder = ColumnBuilder::new(self.ty, rows);
        for at in 0..rows {
            row.clear();
            for reader in &readers {
                row.push(reader.get(at)?);
            }
            builder.push(&eval(&self.expr, &row, &env)?)?;
        }
        Ok(ColumnarValue::Array(builder.finish()))
    }
}

fn column_types(expr: &Expr, f: &mut dyn FnMut(usize, Type)) {
    if let Expr::Column(index, ty) = expr {
        f(*index, ty.ty);
    }
    expr.operands(&mut |child| column_types(child, f));
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(&self.expr, &self.inputs, f)
    }
}

/// Kernels are never compared for their meaning: nothing of DataFusion's that looks for equal expressions shall merge two calls.
impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Kernel {}

impl Hash for Kernel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::from_ref(self).hash(state);
    }
}

impl PhysicalExpr for Kernel {
    fn data_type(&self, _: &Schema) -> datafusion::error::Result<DataType> {
        Ok(arrow_type(self.ty))
    }

    fn nullable(&self, _: &Schema) -> datafusion::error::Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> datafusion::error::Result<ColumnarValue> {
        self.evaluate_rows(batch).map_err(to_datafusion)
    }

    fn children(&self) -> Vec<&PhysicalExprRef> {
        self.inputs.iter().collect()
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<PhysicalExprRef>,
    ) -> datafusion::error::Result<PhysicalExprRef> {
        Ok(Arc::new(Kernel {
            expr: self.expr.clone(),
            inputs: children,
            input_types: self.input_types.clone(),
            ty: self.ty,
            ctx: Arc::clone(&self.ctx),
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }

    fn is_volatile_node(&self) -> bool {
        self.expr.is_volatile()
    }
}

/// What stands for a value of a keyed type wherever values are compared; see [`super::types`].
#[derive(Debug)]
struct Key {
    input: PhysicalExprRef,
    ty: Type,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.ty == other.ty && *self.input == *other.input
    }
}

impl Eq for Key {}

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.ty.hash(state);
        self.input.hash(state);
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key({})", self.input)
    }
}

impl PhysicalExpr for Key {
    fn data_type(&self, _: &Schema) -> datafusion::error::Result<DataType> {
        Ok(arrow_type(self.ty))
    }

    fn nullable(&self, _: &Schema) -> datafusion::error::Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> datafusion::error::Result<ColumnarValue> {
        let array = self.input.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(key_array(&array, self.ty).map_err(to_datafusion)?))
    }

    fn children(&self) -> Vec<&PhysicalExprRef> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<PhysicalExprRef>,
    ) -> datafusion::error::Result<PhysicalExprRef> {
        match children.pop() {
            Some(input) => Ok(Arc::new(Key { input, ty: self.ty })),
            None => Ok(self),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The n-th column of an input.
pub(super) fn column(index: usize, schema: &Schema) -> Result<PhysicalExprRef> {
    match schema.fields().get(index) {
        Some(field) => Ok(Arc::new(Column::new(field.name(), index))),
        None => Err(SqlError::internal(format!("there is no column {index} in the input"))),
    }
}

/// The expression by which values of `expr` are compared.
pub(super) fn key_of(expr: PhysicalExprRef, ty: Type) -> Result<PhysicalExprRef> {
    if !is_keyed(ty) {
        return Ok(expr);
    }
    if let Some(literal) = expr.downcast_ref::<Literal>() {
        let array = literal.value().to_array().map_err(super::stream::from_datafusion)?;
        let value = ScalarValue::try_from_array(&key_array(&array, ty)?, 0)
            .map_err(super::stream::from_datafusion)?;
        return Ok(Arc::new(Literal::new(value)));
    }
    Ok(Arc::new(Key { input: expr, ty }))
}

/// Lowers an expression over an input with `schema`. It has no subquery left in it.
pub(super) fn lower(expr: &Expr, schema: &SchemaRef, ctx: &Arc<StatementContext>) -> Result<PhysicalExprRef> {
    if expr.has_subquery() {
        return Err(SqlError::internal("a subquery was left in an expression"));
    }
    match native(expr, schema, ctx)? {
        Some(native) => Ok(native),
        None => Ok(Arc::new(Kernel::new(expr, schema, ctx)?)),
    }
}

/// [`lower`], then [`key_of`].
pub(super) fn lower_key(
    expr: &Expr,
    schema: &SchemaRef,
    ctx: &Arc<StatementContext>,
) -> Result<PhysicalExprRef> {
    key_of(lower(expr, schema, ctx)?, expr.ty().ty)
}

/// The native form of an expression, if all of it is native.
pub(super) fn native(
    expr: &Expr,
    schema: &SchemaRef,
    ctx: &Arc<StatementContext>,
) -> Result<Option<PhysicalExprRef>> {
    Ok(Some(match expr {
        Expr::Column(index, _) => column(*index, schema)?,
        Expr::Const(datum, ty) => Arc::new(Literal::new(scalar_of(datum, ty.ty)?)),
        Expr::Param(index, ty) => match ctx.params.get(*index) {
            Some(datum) => Arc::new(Literal::new(scalar_of(datum, ty.ty)?)),
            None => return Ok(None),
        },
        Expr::IsNull { input, negated } => match native(input, schema, ctx)? {
            Some(input) if *negated => Arc::new(IsNotNullExpr::new(input)),
            Some(input) => Arc::new(IsNullExpr::new(input)),
            None => return Ok(None),
        },
        Expr::Not(input) => match native(input, schema, ctx)? {
            Some(input) => Arc::new(NotExpr::new(input)),
            None => return Ok(None),
        },
        Expr::And(args) => return native_chain(args, Operator::And, schema, ctx),
        Expr::Or(args) => return native_chain(args, Operator::Or, schema, ctx),
        Expr::Call { args, .. } => {
            let (Some((operator, ty)), [left, right]) = (comparison(expr), args.as_slice()) else {
                return Ok(None);
            };
            match (native(left, schema, ctx)?, native(right, schema, ctx)?) {
                (Some(left), Some(right)) => {
                    Arc::new(BinaryExpr::new(key_of(left, ty)?, operator, key_of(right, ty)?))
                }
                _ => return Ok(None),
            }
        }
        _ => return Ok(None),
    }))
}

fn native_chain(
    args: &[Expr],
    operator: Operator,
    schema: &SchemaRef,
    ctx: &Arc<StatementContext>,
) -> Result<Option<PhysicalExprRef>> {
    let mut chain: Option<PhysicalExprRef> = None;
    for arg in args {
        let Some(arg) = native(arg, schema, ctx)? else { return Ok(None) };
        chain = Some(match chain {
            Some(chain) => Arc::new(BinaryExpr::new(chain, operator, arg)),
            None => arg,
        });
    }
    Ok(chain)
}

/// The operator and the type of its arguments, if the expression compares two values of one type.
fn comparison(expr: &Expr) -> Option<(Operator, Type)> {
    let Expr::Call { function, args, .. } = expr else { return None };
    let ([a, b], [left, right]) = (function.args, args.as_slice()) else { return None };
    // A type that stands for several (`unknown` for any) says nothing about how the values are carried.
    if a != b || !carried_alike(left.ty().ty, right.ty().ty) || function.returns != Type::Bool {
        return None;
    }
    let operator = match function.name {
        "=" => Operator::Eq,
        "<>" => Operator::NotEq,
        "<" => Operator::Lt,
        "<=" => Operator::LtEq,
        ">" => Operator::Gt,
        ">=" => Operator::GtEq,
        _ => return None,
    };
    Some((operator, left.ty().ty))
}

/// Whether the expression compares two values of one type, which cannot fail.
pub(super) fn is_comparison(expr: &Expr) -> bool {
    comparison(expr).is_some()
}

fn carried_alike(left: Type, right: Type) -> bool {
    left == right || (left.is_string() && right.is_string())
}

/// The two sides and their type, if `expr` says that two values of one type are equal.
pub(super) fn as_equality(expr: &Expr) -> Option<(&Expr, &Expr, Type)> {
    match (comparison(expr)?, expr) {
        ((Operator::Eq, ty), Expr::Call { args, .. }) => match args.as_slice() {
            [left, right] => Some((left, right, ty)),
            _ => None,
        },
        _ => None,
    }
}

/// The two sides, if `expr` says that two values of one type differ.
pub(super) fn as_inequality(expr: &Expr) -> Option<(&Expr, &Expr)> {
    match (comparison(expr)?, expr) {
        ((Operator::NotEq, _), Expr::Call { args, .. }) => match args.as_slice() {
            [left, right] => Some((left, right)),
            _ => None,
        },
        _ => None,
    }
}

/// EXPLAIN's form of an expression.
fn display(expr: &Expr, inputs: &[PhysicalExprRef], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let list = |exprs: &[Expr], separator: &str, f: &mut fmt::Formatter<'_>| {
        exprs.iter().enumerate().try_for_each(|(i, e)| {
            if i > 0 {
                f.write_str(separator)?;
            }
            display(e, inputs, f)
        })
    };
    match expr {
        Expr::Const(Datum::Null, _) => f.write_str("NULL"),
        Expr::Const(datum, ty) => {
            let text = crate::types::io::format(datum, *ty, &crate::types::TimeZone::default());
            write!(f, "{text:?}")
        }
        Expr::Column(index, _) => match inputs.get(*index) {
            Some(input) => write!(f, "{input}"),
            None => write!(f, "#{index}"),
        },
        Expr::Outer { depth, index, .. } => write!(f, "outer({depth}, {index})"),
        Expr::Param(index, _) => write!(f, "${}", index + 1),
        Expr::Call { function, args, .. } if args.len() == 2 && is_symbol(function.name) => {
            f.write_str("(")?;
            display(&args[0], inputs, f)?;
            write!(f, " {} ", function.name)?;
            display(&args[1], inputs, f)?;
            f.write_str(")")
        }
        Expr::Call { function, args, .. } => {
            write!(f, "{}(", function.name)?;
            list(args, ", ", f)?;
            f.write_str(")")
        }
        Expr::Coerce { input, ty, .. } => {
            display(input, inputs, f)?;
            write!(f, "::{}", ty.ty)
        }
        Expr::And(args) | Expr::Or(args) => {
            f.write_str("(")?;
            list(args, if matches!(expr, Expr::And(_)) { " AND " } else { " OR " }, f)?;
            f.write_str(")")
        }
        Expr::Not(input) => {
            f.write_str("NOT ")?;
            display(input, inputs, f)
        }
        Expr::IsNull { input, negated } => {
            display(input, inputs, f)?;
            f.write_str(if *negated { " IS NOT NULL" } else { " IS NULL" })
        }
        Expr::IsDistinct { left, right, negated, .. } => {
            display(left, inputs, f)?;
            f.write_str(if *negated { " IS NOT DISTINCT FROM " } else { " IS DISTINCT FROM " })?;
            display(right, inputs, f)
        }
        Expr::Case { branches, otherwise, .. } => {
            f.write_str("CASE")?;
            for (condition, value) in branches {
                f.write_str(" WHEN ")?;
                display(condition, inputs, f)?;
                f.write_str(" THEN ")?;
                display(value, inputs, f)?;
            }
            f.write_str(" ELSE ")?;
            display(otherwise, inputs, f)?;
            f.write_str(" END")
        }
        Expr::Coalesce(args, _) => {
            f.write_str("COALESCE(")?;
            list(args, ", ", f)?;
            f.write_str(")")
        }
        Expr::Extreme { args, greatest, .. } => {
            f.write_str(if *greatest { "GREATEST(" } else { "LEAST(" })?;
            list(args, ", ", f)?;
            f.write_str(")")
        }
        Expr::InList { input, list: candidates, negated, .. } => {
            display(input, inputs, f)?;
            f.write_str(if *negated { " NOT IN (" } else { " IN (" })?;
            list(candidates, ", ", f)?;
            f.write_str(")")
        }
        Expr::Subquery { .. } => f.write_str("(subquery)"),
    }
}

fn is_symbol(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// EXPLAIN's form of an expression over columns that have no names here.
pub(super) struct Shown<'a>(pub(super) &'a Expr);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(self.0, &[], f)
    }
}
