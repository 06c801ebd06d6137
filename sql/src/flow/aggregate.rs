//! GROUP BY: DataFusion's hash aggregation, with our accumulators in it.
//!
//! Groups are formed by keys (see [`super::types`]); of a keyed type's values the first one of the group is shown. Counting, and
//! sums, minima and maxima that cannot go wrong, are DataFusion's own, and if all calls are such, they run in two phases.
//! All other calls go through [`Ours`], row by row, in one phase: accumulators have no partial states.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator as DfAccumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature,
    Volatility,
};
use datafusion::physical_expr::PhysicalExprRef;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_plan::ExecutionPlanProperties;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};

use super::lower::{Lowering, Physical, hashed, projection, single, types_of_exprs};
use super::stream::{from_datafusion, to_datafusion};
use super::types::{ColumnBuilder, ColumnReader, arrow_type, batch_of, datum_bytes, is_keyed, schema_of};
use super::{expr, scan};
use crate::error::{Result, SqlError};
use crate::function::{Accumulator, Aggregate};
use crate::ir::{AggregateCall, Expr, OutputColumn, Plan, walk};
use crate::types::{ColumnType, Datum, RowKey, Type, compare};

type DfResult<T> = datafusion::error::Result<T>;

/// Lowers GROUP BY.
pub(super) async fn lower(
    lowering: &Lowering,
    input: &Plan,
    group_by: &[Expr],
    calls: &[AggregateCall],
    columns: &[OutputColumn],
) -> Result<Physical> {
    if group_by.is_empty() && calls.is_empty() {
        // One row without columns, whatever the input.
        let schema = schema_of([]);
        let row: [Vec<Datum>; 1] = [Vec::new()];
        let batch = batch_of(&row, &[], &schema)?;
        return Ok(scan::batches("OneRow", Arc::new(vec![batch]), schema));
    }
    // Subqueries anywhere become columns first.
    let mut exprs: Vec<&Expr> = group_by.iter().collect();
    for call in calls {
        exprs.extend(call.args.iter().chain(&call.filter));
        exprs.extend(call.order_by.iter().map(|key| &key.expr));
    }
    let (physical, exprs) = lowering.prepare(input, exprs.into_iter()).await?;
    let mut exprs = exprs.into_iter();
    let mut next = |_: &Expr| exprs.next().unwrap_or(Expr::Const(Datum::Null, Type::Unknown.into()));
    let group_by: Vec<Expr> = group_by.iter().map(&mut next).collect();
    let calls: Vec<AggregateCall> = calls.iter().map(|call| walk::map_aggregate(call, &mut next)).collect();

    let schema = physical.schema();
    let ctx = &lowering.ctx;
    let mut groups = Vec::with_capacity(group_by.len());
    let mut built = Vec::new();
    for call in &calls {
        built.push(aggregate(lowering, call, &schema, built.len())?);
    }
    // The shown value of a keyed group.
    let mut shown = vec![None; group_by.len()];
    for (i, key) in group_by.iter().enumerate() {
        let value = expr::lower(key, &schema, ctx)?;
        let ty = key.ty();
        if is_keyed(ty.ty) {
            shown[i] = Some(group_by.len() + built.len());
            let first = first_of(Arc::clone(&value), ty, &schema, built.len())?;
            built.push(Built { expr: first, filter: None, native: false });
        }
        groups.push((expr::key_of(value, ty.ty)?, format!("key{i}")));
    }
    let aggregated = execute(lowering, physical, groups, built)?;
    let schema = aggregated.schema();
    let exprs = (0..columns.len())
        .map(|i| expr::column(shown.get(i).copied().flatten().unwrap_or(i), &schema))
        .collect::<Result<Vec<_>>>()?;
    projection(aggregated, exprs, columns)
}

/// A call, ready for DataFusion.
struct Built {
    expr: Arc<AggregateFunctionExpr>,
    filter: Option<PhysicalExprRef>,
    /// Whether it has partial states.
    native: bool,
}

fn execute(
    lowering: &Lowering,
    input: Physical,
    groups: Vec<(PhysicalExprRef, String)>,
    built: Vec<Built>,
) -> Result<Physical> {
    let schema = input.schema();
    let several = input.output_partitioning().partition_count() > 1;
    let two_phases = several && built.iter().all(|b| b.native);
    let keys: Vec<PhysicalExprRef> = groups.iter().map(|(key, _)| Arc::clone(key)).collect();
    let names: Vec<String> = groups.iter().map(|(_, name)| name.clone()).collect();
    let group_by = Arc::new(PhysicalGroupBy::new_single(groups));
    let filters: Vec<_> = built.iter().map(|b| b.filter.clone()).collect();
    let none = vec![None; built.len()];
    let exprs: Vec<_> = built.into_iter().map(|b| b.expr).collect();
    let of = |mode, group_by: Arc<PhysicalGroupBy>, filters, input| {
        let exec = AggregateExec::try_new(mode, group_by, exprs.clone(), filters, input, Arc::clone(&schema));
        exec.map(|exec| Arc::new(exec) as Physical).map_err(from_datafusion)
    };
    if !two_phases {
        return match keys.is_empty() || !several {
            true => of(AggregateMode::Single, group_by, filters, single(input)),
            false => of(AggregateMode::SinglePartitioned, group_by, filters, hashed(lowering, input, keys)?),
        };
    }
    let partial = of(AggregateMode::Partial, group_by, filters, input)?;
    let columns: Vec<(PhysicalExprRef, String)> = names
        .into_iter()
        .enumerate()
        .map(|(i, name)| (Arc::new(Column::new(&name, i)) as PhysicalExprRef, name))
        .collect();
    let keys: Vec<_> = columns.iter().map(|(key, _)| Arc::clone(key)).collect();
    let group_by = Arc::new(PhysicalGroupBy::new_single(columns));
    match keys.is_empty() {
        true => of(AggregateMode::Final, group_by, none, single(partial)),
        false => of(AggregateMode::FinalPartitioned, group_by, none, hashed(lowering, partial, keys)?),
    }
}

fn build(
    udaf: Arc<AggregateUDF>,
    args: Vec<PhysicalExprRef>,
    schema: &SchemaRef,
    at: usize,
) -> Result<Arc<AggregateFunctionExpr>> {
    let name = format!("{}{at}", udaf.name());
    let built = AggregateExprBuilder::new(udaf, args).schema(Arc::clone(schema)).alias(name).build();
    built.map(Arc::new).map_err(from_datafusion)
}

fn aggregate(lowering: &Lowering, call: &AggregateCall, schema: &SchemaRef, at: usize) -> Result<Built> {
    let ctx = &lowering.ctx;
    let filter = call.filter.as_ref().map(|f| expr::lower(f, schema, ctx)).transpose()?;
    // DataFusion evaluates arguments before it filters. One that might fail is only looked at where the filter holds.
    let guarded = |arg: &Expr| -> Result<PhysicalExprRef> {
        match &call.filter {
            Some(filter) if expr::native(arg, schema, ctx)?.is_none() => {
                let case = Expr::Case {
                    branches: vec![(filter.clone(), arg.clone())],
                    otherwise: Box::new(Expr::Const(Datum::Null, arg.ty())),
                    ty: arg.ty(),
                };
                expr::lower(&case, schema, ctx)
            }
            _ => expr::lower(arg, schema, ctx),
        }
    };
    let args = call.args.iter().map(guarded).collect::<Result<Vec<_>>>()?;
    if let Some((udaf, args)) = native(call, &args) {
        return Ok(Built { expr: build(udaf, args, schema, at)?, filter, native: true });
    }
    let mut all = args;
    let mut order = Vec::with_capacity(call.order_by.len());
    for key in &call.order_by {
        all.push(guarded(&key.expr)?);
        order.push((key.descending, key.nulls_first));
    }
    let mut types = types_of_exprs(&call.args);
    types.extend(call.order_by.iter().map(|key| key.expr.ty().ty));
    let ours = Ours::new(Body::Call(call.function), call.args.len(), types, order, call.distinct, call.ty);
    let expr = build(ours.udaf(), at_least_one(all), schema, at)?;
    Ok(Built { expr, filter, native: false })
}

fn first_of(
    value: PhysicalExprRef,
    ty: ColumnType,
    schema: &SchemaRef,
    at: usize,
) -> Result<Arc<AggregateFunctionExpr>> {
    build(Ours::new(Body::First, 1, vec![ty.ty], Vec::new(), false, ty).udaf(), vec![value], schema, at)
}

/// DataFusion wants an argument, also of `count(*)`.
fn at_least_one(mut args: Vec<PhysicalExprRef>) -> Vec<PhysicalExprRef> {
    if args.is_empty() {
        args.push(Arc::new(Literal::new(ScalarValue::Int64(Some(1)))));
    }
    args
}

/// DataFusion's own aggregate, where it is proved equal.
fn native(
    call: &AggregateCall,
    args: &[PhysicalExprRef],
) -> Option<(Arc<AggregateUDF>, Vec<PhysicalExprRef>)> {
    if call.distinct || !call.order_by.is_empty() {
        return None;
    }
    let ty = call.args.first().map(|arg| arg.ty().ty);
    match (call.function.name, ty) {
        ("count", _) if args.len() <= 1 => Some((count_udaf(), at_least_one(args.to_vec()))),
        // An eight-byte sum of four-byte numbers cannot overflow before there are two thousand million of them.
        ("sum", Some(Type::Int2 | Type::Int4)) if call.ty.ty == Type::Int8 => {
            let wide = CastExpr::new(Arc::clone(&args[0]), DataType::Int64, None);
            Some((sum_udaf(), vec![Arc::new(wide)]))
        }
        ("min" | "max", Some(ty)) if args.len() == 1 && has_native_order(ty) && call.ty.ty == ty => {
            let udaf = if call.function.name == "min" { min_udaf() } else { max_udaf() };
            Some((udaf, args.to_vec()))
        }
        _ => None,
    }
}

fn has_native_order(ty: Type) -> bool {
    matches!(
        ty,
        Type::Int2
            | Type::Int4
            | Type::Int8
            | Type::Oid
            | Type::Date
            | Type::Time
            | Type::Timestamp
            | Type::Timestamptz
            | Type::Text
            | Type::Varchar
            | Type::Bpchar
    )
}

// ---- Our accumulators as DataFusion's ----

#[derive(Clone, Copy, Debug)]
enum Body {
    Call(&'static Aggregate),
    /// The first value of the group.
    First,
}

/// An aggregate of the catalogue. Its arguments are followed by the keys of ORDER BY.
#[derive(Clone, Debug)]
struct Ours {
    /// Tells calls apart: no two are ever the same.
    id: u64,
    body: Body,
    args: usize,
    /// Of the arguments and the keys.
    types: Vec<Type>,
    /// Descending, NULLs first.
    order: Vec<(bool, bool)>,
    distinct: bool,
    ty: ColumnType,
    signature: Signature,
}

impl Ours {
    fn new(
        body: Body,
        args: usize,
        types: Vec<Type>,
        order: Vec<(bool, bool)>,
        distinct: bool,
        ty: ColumnType,
    ) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let signature = Signature::variadic_any(Volatility::Volatile);
        Self { id: IDS.fetch_add(1, Atomic::Relaxed), body, args, types, order, distinct, ty, signature }
    }

    fn udaf(self) -> Arc<AggregateUDF> {
        Arc::new(AggregateUDF::new_from_impl(self))
    }

    fn groups(&self) -> Groups {
        Groups { ours: Arc::new(self.clone()), groups: Vec::new(), bytes: 0 }
    }
}

impl PartialEq for Ours {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Ours {}

impl Hash for Ours {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl AggregateUDFImpl for Ours {
    fn name(&self) -> &str {
        match self.body {
            Body::Call(function) => function.name,
            Body::First => "first",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(arrow_type(self.ty.ty))
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> DfResult<Box<dyn DfAccumulator>> {
        Ok(Box::new(OneGroup(self.groups())))
    }

    fn state_fields(&self, _: StateFieldsArgs<'_>) -> DfResult<Vec<FieldRef>> {
        Ok(Vec::new())
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs<'_>) -> DfResult<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(self.groups()))
    }
}

/// One group of one call.
#[derive(Debug)]
enum Group {
    First(Option<Datum>),
    Running(Box<dyn Accumulator>),
    /// Kept until the end: DISTINCT, and ORDER BY within the call. Each row is the arguments, then the keys.
    Kept {
        rows: Vec<Vec<Datum>>,
        seen: HashSet<RowKey>,
    },
}

/// All groups of one call.
#[derive(Debug)]
struct Groups {
    ours: Arc<Ours>,
    groups: Vec<Group>,
    bytes: usize,
}

/// About what an accumulator takes.
const GROUP_BYTES: usize = 128;

impl Groups {
    fn fresh(&self) -> Group {
        match self.ours.body {
            Body::First => Group::First(None),
            Body::Call(_) if self.ours.distinct || !self.ours.order.is_empty() => {
                Group::Kept { rows: Vec::new(), seen: HashSet::new() }
            }
            Body::Call(function) => Group::Running((function.new)()),
        }
    }

    fn grow(&mut self, groups: usize) {
        while self.groups.len() < groups {
            let fresh = self.fresh();
            self.groups.push(fresh);
            self.bytes += GROUP_BYTES;
        }
    }

    fn update(
        &mut self,
        values: &[ArrayRef],
        indices: Option<&[usize]>,
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.grow(groups);
        let ours = Arc::clone(&self.ours);
        let rows = values.first().map_or(0, |v| v.len());
        let readers = values
            .iter()
            .zip(&ours.types)
            .map(|(array, ty)| ColumnReader::new(array, *ty))
            .collect::<Result<Vec<_>>>()?;
        let strict = matches!(ours.body, Body::Call(function) if function.strict);
        // What grows with the number of rows, unlike a sum.
        let collects = matches!(ours.body, Body::Call(function) if function.returns.is_string());
        let mut row: Vec<Datum> = Vec::with_capacity(readers.len());
        for at in 0..rows {
            if filter.is_some_and(|f| f.is_null(at) || !f.value(at)) {
                continue;
            }
            row.clear();
            for reader in &readers {
                row.push(reader.get(at)?);
            }
            if strict && row[..ours.args.min(row.len())].iter().any(Datum::is_null) {
                continue;
            }
            let group = &mut self.groups[indices.map_or(0, |indices| indices[at])];
            match group {
                Group::First(Some(_)) => {}
                Group::First(first) => {
                    *first = row.first().cloned();
                    self.bytes += row.first().map_or(0, datum_bytes);
                }
                Group::Running(accumulator) => {
                    if collects {
                        self.bytes += row.iter().map(datum_bytes).sum::<usize>();
                    }
                    accumulator.update(&row)?;
                }
                Group::Kept { rows, seen } => {
                    let distinct = ours.distinct;
                    if !distinct || seen.insert(RowKey(row[..ours.args].to_vec())) {
                        let bytes = super::types::row_bytes(&row);
                        self.bytes += if distinct { 2 * bytes } else { bytes };
                        rows.push(row.clone());
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let groups: Vec<Group> = match emit {
            EmitTo::All => std::mem::take(&mut self.groups),
            EmitTo::First(n) => self.groups.drain(..n.min(self.groups.len())).collect(),
        };
        if self.groups.is_empty() {
            self.bytes = 0;
        }
        let mut builder = ColumnBuilder::new(self.ours.ty.ty, groups.len());
        for group in groups {
            builder.push(&self.value(group)?)?;
        }
        Ok(builder.finish())
    }

    fn value(&self, group: Group) -> Result<Datum> {
        match (group, self.ours.body) {
            (Group::First(first), _) => Ok(first.unwrap_or(Datum::Null)),
            (Group::Running(accumulator), _) => accumulator.finish(),
            (Group::Kept { mut rows, .. }, Body::Call(function)) => {
                let args = self.ours.args;
                rows.sort_by(|a, b| self.ours.compare(a, b));
                let mut accumulator = (function.new)();
                for row in rows {
                    accumulator.update(&row[..args.min(row.len())])?;
                }
                accumulator.finish()
            }
            (Group::Kept { .. }, Body::First) => Err(SqlError::internal("a first value was sorted")),
        }
    }
}

impl Ours {
    /// The order in which kept rows are handed to the accumulator: ORDER BY's, then, for DISTINCT, that of the arguments, as
    /// PostgreSQL's sort leaves them.
    fn compare(&self, a: &[Datum], b: &[Datum]) -> std::cmp::Ordering {
        let (a_args, a_keys) = a.split_at(self.args.min(a.len()));
        let (b_args, b_keys) = b.split_at(self.args.min(b.len()));
        let by_keys = compare_keys(a_keys, b_keys, &self.order);
        if !self.distinct {
            return by_keys;
        }
        let by_args = || a_args.iter().zip(b_args).map(|(a, b)| compare(a, b)).find(|o| o.is_ne());
        by_keys.then_with(|| by_args().unwrap_or(std::cmp::Ordering::Equal))
    }
}

/// Compares by ORDER BY's keys, each (descending, NULLs first).
pub(super) fn compare_keys(a: &[Datum], b: &[Datum], order: &[(bool, bool)]) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    for ((a, b), (descending, nulls_first)) in a.iter().zip(b).zip(order) {
        let null = if *nulls_first { Ordering::Less } else { Ordering::Greater };
        let ordering = match (a.is_null(), b.is_null()) {
            (true, true) => Ordering::Equal,
            (true, false) => null,
            (false, true) => null.reverse(),
            (false, false) if *descending => compare(b, a),
            (false, false) => compare(a, b),
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
    Ordering::Equal
}

fn no_partial_state<T>() -> DfResult<T> {
    Err(DataFusionError::Internal("an accumulator has no partial state".to_owned()))
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> DfResult<()> {
        self.update(values, Some(group_indices), opt_filter, total_num_groups).map_err(to_datafusion)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> DfResult<ArrayRef> {
        self.finish(emit_to).map_err(to_datafusion)
    }

    fn state(&mut self, _: EmitTo) -> DfResult<Vec<ArrayRef>> {
        no_partial_state()
    }

    fn merge_batch(&mut self, _: &[ArrayRef], _: &[usize], _: usize) -> DfResult<()> {
        no_partial_state()
    }

    fn convert_to_state(&self, _: &[ArrayRef], _: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        no_partial_state()
    }

    fn size(&self) -> usize {
        self.bytes
    }
}

/// The one group of an aggregate without GROUP BY.
#[derive(Debug)]
struct OneGroup(Groups);

impl DfAccumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.0.update(values, None, None, 1).map_err(to_datafusion)
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        self.0.grow(1);
        let array = self.0.finish(EmitTo::All).map_err(to_datafusion)?;
        ScalarValue::try_from_array(&array, 0)
    }

    fn size(&self) -> usize {
        self.0.bytes
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        no_partial_state()
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> DfResult<()> {
        no_partial_state()
    }
}
