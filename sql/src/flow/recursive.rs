//! WITH: common table expressions that are computed once, and recursive ones.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::OnceCell;

use super::lower::{Binding, Lowering, Physical, collect, single};
use super::operator::{Batches, Node, Operator};
use super::scan;
use super::set_op::Seen;
use super::stream::{canceled, from_datafusion};
use super::types::{batch_with_rows, schema_of_columns, types_of};
use crate::error::Result;
use crate::ir::{Cte, Plan, walk};

/// Whether a CTE refers to another one.
pub(super) fn refers(cte: &Cte, id: usize) -> bool {
    let term = cte.recursive.as_ref().map_or(0, |(term, _)| walk::cte_references(term, id));
    walk::cte_references(&cte.plan, id) + term > 0
}

/// What references to `cte` read. `streamed`: there is exactly one, which is run once.
pub(super) async fn bind(scope: &Lowering, cte: &Arc<Cte>, streamed: bool) -> Result<Binding> {
    if cte.recursive.is_none() {
        let plan = single(scope.lower(&cte.plan).await?);
        return Ok(Binding::Shared(Arc::new(Shared::new(cte, plan))));
    }
    let recursion = Arc::new(Recursion { scope: scope.clone(), cte: Arc::clone(cte) });
    if streamed {
        return Ok(Binding::Stream(recursion));
    }
    let plan = Recursion::node(recursion, schema_of_columns(cte.plan.columns()));
    Ok(Binding::Shared(Arc::new(Shared::new(cte, plan))))
}

// ---- Computed once ----

/// A CTE's rows, computed by whoever asks first and kept until the statement ends.
#[derive(Debug)]
pub(super) struct Shared {
    name: String,
    plan: Physical,
    /// An error is kept, too: a plan must not be started twice.
    rows: OnceCell<Result<Kept>>,
}

#[derive(Debug)]
struct Kept {
    batches: Arc<Vec<RecordBatch>>,
    _memory: MemoryReservation,
}

impl Shared {
    fn new(cte: &Cte, plan: Physical) -> Self {
        Self { name: cte.name.clone(), plan, rows: OnceCell::new() }
    }

    async fn batches(&self, task: &Arc<TaskContext>) -> Result<Arc<Vec<RecordBatch>>> {
        let kept = self
            .rows
            .get_or_init(|| async {
                let memory = MemoryConsumer::new("CTE").register(task.memory_pool());
                let stream = self.plan.execute(0, Arc::clone(task)).map_err(from_datafusion)?;
                let batches = Arc::new(collect(stream, &memory).await?);
                Ok(Kept { batches, _memory: memory })
            })
            .await;
        match kept {
            Ok(kept) => Ok(Arc::clone(&kept.batches)),
            Err(error) => Err(error.clone()),
        }
    }
}

/// A reference to a [`Shared`].
#[derive(Debug)]
pub(super) struct SharedScan(Arc<Shared>);

impl SharedScan {
    pub(super) fn node(shared: Arc<Shared>, schema: SchemaRef) -> Physical {
        // The plan below is shown with each reference, but run by none: it is not an input of this node.
        Node::over(SharedScan(shared), Vec::new(), schema)
    }
}

impl Operator for SharedScan {
    fn name(&self) -> &'static str {
        "CteScan"
    }

    fn detail(&self) -> String {
        self.0.name.clone()
    }

    fn run(&self, _: usize, _: Vec<SendableRecordBatchStream>, task: &Arc<TaskContext>) -> Result<Batches> {
        let (shared, task) = (Arc::clone(&self.0), Arc::clone(task));
        let batches = async move { shared.batches(&task).await.map(scan::ready) };
        Ok(stream::once(batches).try_flatten().boxed())
    }
}

// ---- Recursion ----

/// A recursive CTE: the first term's rows, then the recursive term over the rows of the round before, until a round
/// has none. Rows are put out as they come, so that a LIMIT above can end what would never end.
#[derive(Debug)]
pub(super) struct Recursion {
    scope: Lowering,
    cte: Arc<Cte>,
}

impl Recursion {
    pub(super) fn node(recursion: Arc<Self>, schema: SchemaRef) -> Physical {
        Node::over(RecursionNode(recursion), Vec::new(), schema)
    }

    async fn start(&self, plan: &Plan, scope: &Lowering) -> Result<SendableRecordBatchStream> {
        let physical = single(scope.lower(plan).await?);
        physical.execute(0, Arc::clone(&scope.task)).map_err(from_datafusion)
    }
}

#[derive(Debug)]
struct RecursionNode(Arc<Recursion>);

impl Operator for RecursionNode {
    fn name(&self) -> &'static str {
        "Recursion"
    }

    fn detail(&self) -> String {
        self.0.cte.name.clone()
    }

    fn run(&self, _: usize, _: Vec<SendableRecordBatchStream>, task: &Arc<TaskContext>) -> Result<Batches> {
        let columns = self.0.cte.plan.columns();
        let types = types_of(columns);
        let distinct = matches!(self.0.cte.recursive, Some((_, true)));
        let round = Round {
            seen: distinct.then(|| Seen::new(&types, task)).transpose()?,
            memory: MemoryConsumer::new("Recursion").register(task.memory_pool()),
            recursion: Arc::clone(&self.0),
            schema: schema_of_columns(columns),
            current: None,
            produced: Vec::new(),
            first: true,
        };
        Ok(stream::try_unfold(round, |mut round| async move {
            Ok(round.next().await?.map(|batch| (batch, round)))
        })
        .boxed())
    }
}

struct Round {
    recursion: Arc<Recursion>,
    schema: SchemaRef,
    current: Option<SendableRecordBatchStream>,
    /// What this round has put out: the working table of the next.
    produced: Vec<RecordBatch>,
    memory: MemoryReservation,
    seen: Option<Seen>,
    first: bool,
}

impl Round {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if self.recursion.scope.ctx.cancel.is_cancelled() {
                return Err(canceled());
            }
            if let Some(current) = &mut self.current {
                let Some(batch) = current.next().await else {
                    self.current = None;
                    continue;
                };
                let batch = batch.map_err(from_datafusion)?;
                let rows = batch.num_rows();
                let mut batch = batch_with_rows(batch.columns().to_vec(), &self.schema, rows)?;
                if let Some(seen) = &mut self.seen {
                    batch = seen.fresh(&batch)?;
                }
                if batch.num_rows() == 0 {
                    continue;
                }
                self.memory.try_grow(batch.get_array_memory_size()).map_err(from_datafusion)?;
                self.produced.push(batch.clone());
                return Ok(Some(batch));
            }
            if !self.begin_round().await? {
                return Ok(None);
            }
        }
    }

    /// Whether there is another round.
    async fn begin_round(&mut self) -> Result<bool> {
        let recursion = Arc::clone(&self.recursion);
        if std::mem::take(&mut self.first) {
            self.current = Some(recursion.start(&recursion.cte.plan, &recursion.scope).await?);
            return Ok(true);
        }
        let Some((term, _)) = &recursion.cte.recursive else { return Ok(false) };
        if self.produced.is_empty() {
            return Ok(false);
        }
        let working = std::mem::take(&mut self.produced);
        // From here on the working table's memory is that of the round that reads it, which is about to begin.
        self.memory.free();
        let bytes = working.iter().map(RecordBatch::get_array_memory_size).sum();
        self.memory.try_grow(bytes).map_err(from_datafusion)?;
        let scope = recursion.scope.with_cte(recursion.cte.id, Binding::Working(Arc::new(working)));
        self.current = Some(recursion.start(term, &scope).await?);
        Ok(true)
    }
}
