//! Leaves: stored tables, system views, and rows that are there already.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::{StreamExt, stream};

use super::expr::{Shown, env_of};
use super::lower::{Lowering, Physical};
use super::operator::{Batches, Node, Operator};
use super::types::{ColumnBuilder, batch_of, batch_with_rows, schema_of, schema_of_columns, types_of};
use super::{BATCH_ROWS, subquery};
use crate::catalog::{TableDescriptor, virtual_table};
use crate::error::Result;
use crate::eval::eval_bool;
use crate::exec::scan::{TableReader, partition};
use crate::exec::spans::{self, Spans};
use crate::exec::{Row, StatementContext};
use crate::ir::{Expr, OutputColumn, TableScan, walk};
use crate::types::Type;

/// A table's rows: `wanted` of the scan's columns, or all. No more than `fetch` rows are asked for.
pub(super) async fn lower(
    lowering: &Lowering,
    scan: &TableScan,
    wanted: Option<&[usize]>,
    fetch: Option<usize>,
) -> Result<Physical> {
    let all: Vec<usize> = (0..scan.columns.len()).collect();
    let wanted = wanted.unwrap_or(&all);
    // The filters' columns are read, too, but not put out.
    let mut read: BTreeSet<usize> = wanted.iter().copied().collect();
    scan.filters.iter().for_each(|f| walk::columns_used(f, &mut read));
    let read: Vec<usize> = read.into_iter().collect();
    let place = |index: usize| read.binary_search(&index).unwrap_or(usize::MAX);
    let filters = scan.filters.iter().map(|f| walk::renumber(f, &place)).collect();

    let spans = spans::of(&scan.table, &scan.filters, &lowering.ctx)?;
    let lots = partition(&lowering.ctx, spans, lowering.partitions).await?;
    let partitions = lots.len().max(1);
    let schema = schema_of(wanted.iter().map(|i| (scan.columns[*i].name.as_str(), scan.columns[*i].ty.ty)));
    let operator = Scan {
        ctx: Arc::clone(&lowering.ctx),
        table: Arc::clone(&scan.table),
        out: wanted.iter().map(|i| (place(*i), scan.columns[*i].ty.ty)).collect(),
        limit: fetch.filter(|_| scan.filters.is_empty()),
        shown: scan.filters.iter().map(|f| Shown(f).to_string()).collect::<Vec<_>>().join(" AND "),
        filters,
        read,
        lots,
        schema: Arc::clone(&schema),
    };
    Ok(Node::with_partitions(operator, Vec::new(), schema, partitions))
}

struct Scan {
    ctx: Arc<StatementContext>,
    table: Arc<TableDescriptor>,
    /// The table's columns that are read.
    read: Vec<usize>,
    /// Over what is read.
    filters: Vec<Expr>,
    shown: String,
    /// What is put out: where it stands in what is read, and its type.
    out: Vec<(usize, Type)>,
    limit: Option<usize>,
    /// What each partition reads.
    lots: Vec<Spans>,
    schema: SchemaRef,
}

impl Operator for Scan {
    fn name(&self) -> &'static str {
        "Scan"
    }

    fn detail(&self) -> String {
        let mut detail = format!("{}.{}", self.table.schema, self.table.name);
        if !self.shown.is_empty() {
            detail += &format!(", filter={}", self.shown);
        }
        match &self.lots[..] {
            [Spans::Entries { keys, .. }] => detail += &format!(", entries={}", keys.len()),
            [Spans::Points(keys)] => detail += &format!(", points={}", keys.len()),
            lots => {
                let ranges = lots.iter().map(|lot| match lot {
                    Spans::Points(keys) => keys.len(),
                    Spans::Ranges(ranges) => ranges.len(),
                    Spans::Entries { keys, .. } => keys.len(),
                });
                detail += &format!(", ranges={}", ranges.sum::<usize>());
            }
        }
        detail
    }

    fn run(&self, at: usize, _: Vec<SendableRecordBatchStream>, _: &Arc<TaskContext>) -> Result<Batches> {
        let Some(lot) = self.lots.get(at) else { return Ok(stream::empty().boxed()) };
        let mut reader = TableReader::new(Arc::clone(&self.ctx), &self.table, &self.read, lot.clone());
        if let Some(limit) = self.limit {
            reader = reader.limit(limit);
        }
        let ctx = Arc::clone(&self.ctx);
        let (filters, out) = (self.filters.clone(), self.out.clone());
        let schema = Arc::clone(&self.schema);
        Ok(stream::try_unfold(reader, move |mut reader| {
            let (ctx, filters, out) = (Arc::clone(&ctx), filters.clone(), out.clone());
            let schema = Arc::clone(&schema);
            async move {
                while let Some(page) = reader.next().await? {
                    let batch = batch_of_page(&page, &filters, &out, &schema, &ctx)?;
                    if batch.num_rows() > 0 {
                        return Ok(Some((batch, reader)));
                    }
                }
                Ok(None)
            }
        })
        .boxed())
    }
}

/// The rows of a page that pass the filters. They are evaluated in order, each only for rows that passed the ones before.
fn batch_of_page(
    page: &[Row],
    filters: &[Expr],
    out: &[(usize, Type)],
    schema: &SchemaRef,
    ctx: &StatementContext,
) -> Result<RecordBatch> {
    let env = env_of(ctx);
    let mut builders: Vec<_> = out.iter().map(|(_, ty)| ColumnBuilder::new(*ty, page.len())).collect();
    let mut rows = 0;
    'rows: for row in page {
        for filter in filters {
            if !eval_bool(filter, row, &env)? {
                continue 'rows;
            }
        }
        for (builder, (place, _)) in builders.iter_mut().zip(out) {
            builder.push(&row[*place])?;
        }
        rows += 1;
    }
    batch_with_rows(builders.iter_mut().map(ColumnBuilder::finish).collect(), schema, rows)
}

// ---- System views ----

/// A system view's rows.
pub(super) async fn lower_virtual(
    lowering: &Lowering,
    name: &(String, String),
    columns: &[OutputColumn],
) -> Result<Physical> {
    let operator = Virtual { ctx: Arc::clone(&lowering.ctx), name: name.clone(), columns: columns.to_vec() };
    Ok(Node::over(operator, Vec::new(), schema_of_columns(columns)))
}

struct Virtual {
    ctx: Arc<StatementContext>,
    name: (String, String),
    columns: Vec<OutputColumn>,
}

impl Operator for Virtual {
    fn name(&self) -> &'static str {
        "SystemView"
    }

    fn detail(&self) -> String {
        format!("{}.{}", self.name.0, self.name.1)
    }

    fn run(&self, _: usize, _: Vec<SendableRecordBatchStream>, _: &Arc<TaskContext>) -> Result<Batches> {
        let (ctx, name) = (Arc::clone(&self.ctx), self.name.clone());
        let (types, schema) = (types_of(&self.columns), schema_of_columns(&self.columns));
        let batches = async move {
            let rows = virtual_table::rows(&name.0, &name.1, &ctx).await?;
            let batches: Vec<Result<RecordBatch>> =
                rows.chunks(BATCH_ROWS).map(|rows| batch_of(rows, &types, &schema)).collect();
            Ok::<_, crate::SqlError>(stream::iter(batches))
        };
        Ok(futures::TryStreamExt::try_flatten(stream::once(batches)).boxed())
    }
}

// ---- VALUES ----

/// Rows of expressions, which are evaluated when they are asked for.
pub(super) fn values(lowering: &Lowering, rows: &[Vec<Expr>], columns: &[OutputColumn]) -> Physical {
    let operator =
        Values { lowering: lowering.clone(), rows: Arc::new(rows.to_vec()), columns: columns.to_vec() };
    Node::over(operator, Vec::new(), schema_of_columns(columns))
}

struct Values {
    lowering: Lowering,
    rows: Arc<Vec<Vec<Expr>>>,
    columns: Vec<OutputColumn>,
}

impl Operator for Values {
    fn name(&self) -> &'static str {
        "Values"
    }

    fn detail(&self) -> String {
        format!("rows={}", self.rows.len())
    }

    fn run(&self, _: usize, _: Vec<SendableRecordBatchStream>, _: &Arc<TaskContext>) -> Result<Batches> {
        let (lowering, rows) = (self.lowering.clone(), Arc::clone(&self.rows));
        let (types, schema) = (types_of(&self.columns), schema_of_columns(&self.columns));
        Ok(stream::try_unfold(0, move |at| {
            let (lowering, rows) = (lowering.clone(), Arc::clone(&rows));
            let (types, schema) = (types.clone(), Arc::clone(&schema));
            async move {
                let env = env_of(&lowering.ctx);
                let mut out = Vec::new();
                for row in rows.iter().skip(at).take(BATCH_ROWS) {
                    let mut values = Vec::with_capacity(row.len());
                    for value in row {
                        values.push(match value.has_subquery() {
                            true => subquery::eval(&lowering, value, &[]).await?,
                            false => crate::eval::eval(value, &[], &env)?,
                        });
                    }
                    out.push(values);
                }
                if out.is_empty() {
                    return Ok(None);
                }
                Ok(Some((batch_of(&out, &types, &schema)?, at + out.len())))
            }
        })
        .boxed())
    }
}

// ---- Rows that are there ----

/// Batches as a leaf.
pub(super) fn batches(name: &'static str, batches: Arc<Vec<RecordBatch>>, schema: SchemaRef) -> Physical {
    Node::over(Ready { name, batches }, Vec::new(), schema)
}

#[derive(Debug)]
struct Ready {
    name: &'static str,
    batches: Arc<Vec<RecordBatch>>,
}

impl Operator for Ready {
    fn name(&self) -> &'static str {
        self.name
    }

    fn detail(&self) -> String {
        format!("rows={}", self.batches.iter().map(RecordBatch::num_rows).sum::<usize>())
    }

    fn run(&self, _: usize, _: Vec<SendableRecordBatchStream>, _: &Arc<TaskContext>) -> Result<Batches> {
        Ok(ready(Arc::clone(&self.batches)))
    }
}

/// A stream of batches that are there.
pub(super) fn ready(batches: Arc<Vec<RecordBatch>>) -> Batches {
    let mut at = 0;
    stream::poll_fn(move |_| {
        let batch = batches.get(at).cloned().map(Ok);
        at += 1;
        std::task::Poll::Ready(batch)
    })
    .boxed()
}
