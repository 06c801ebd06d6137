//! [`Node`]: our own operators among DataFusion's.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
    SendableRecordBatchStream,
};
use futures::stream::BoxStream;

use super::stream::to_datafusion;
use super::types::batch_with_rows;
use crate::error::Result;

/// What an operator's partition puts out.
pub(super) type Batches = BoxStream<'static, Result<RecordBatch>>;

/// An operator of ours: a function from input streams to an output stream.
pub(super) trait Operator: Send + Sync + 'static {
    /// For EXPLAIN.
    fn name(&self) -> &'static str;

    /// For EXPLAIN: what stands behind the name.
    fn detail(&self) -> String {
        String::new()
    }

    /// Starts one partition. The n-th partition of a node gets the n-th partition of each input.
    fn run(
        &self,
        partition: usize,
        inputs: Vec<SendableRecordBatchStream>,
        task: &Arc<TaskContext>,
    ) -> Result<Batches>;
}

/// An [`Operator`] as a node of a physical plan.
pub(super) struct Node {
    operator: Arc<dyn Operator>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl Node {
    /// A node with as many partitions as its first input has, or one without inputs.
    pub(super) fn over(
        operator: impl Operator,
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        schema: SchemaRef,
    ) -> Arc<dyn ExecutionPlan> {
        let partitions = inputs.first().map_or(1, |input| input.output_partitioning().partition_count());
        Self::with_partitions(operator, inputs, schema, partitions)
    }

    /// A node with a number of partitions; each of its inputs must have that many.
    pub(super) fn with_partitions(
        operator: impl Operator,
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        schema: SchemaRef,
        partitions: usize,
    ) -> Arc<dyn ExecutionPlan> {
        debug_assert!(inputs.iter().all(|i| i.output_partitioning().partition_count() == partitions));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Arc::new(Node { operator: Arc::new(operator), inputs, properties: Arc::new(properties) })
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.operator.name()).field("inputs", &self.inputs).finish()
    }
}

impl DisplayAs for Node {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = self.operator.detail();
        match detail.is_empty() {
            true => f.write_str(self.operator.name()),
            false => write!(f, "{}: {detail}", self.operator.name()),
        }
    }
}

impl ExecutionPlan for Node {
    fn name(&self) -> &str {
        self.operator.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> datafusion::error::Result<TreeNodeRecursion>,
    ) -> datafusion::error::Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Node {
            operator: Arc::clone(&self.operator),
            inputs: children,
            properties: Arc::clone(&self.properties),
        }))
    }

    fn execute(
        &self,
        partition: usize,
        task: Arc<TaskContext>,
    ) -> datafusion::error::Result<SendableRecordBatchStream> {
        let inputs = self
            .inputs
            .iter()
            .map(|input| input.execute(partition, Arc::clone(&task)))
            .collect::<Result<Vec<_>, DataFusionError>>()?;
        let batches = self.operator.run(partition, inputs, &task).map_err(to_datafusion)?;
        let schema = Arc::clone(self.properties.eq_properties.schema());
        let declared = Arc::clone(&schema);
        let batches = futures::StreamExt::map(batches, move |batch| {
            let batch = batch.map_err(to_datafusion)?;
            // Rows that were kept come under the names of the plan that made them, not under those of this reference.
            match Arc::ptr_eq(batch.schema_ref(), &declared) {
                true => Ok(batch),
                false => {
                    let rows = batch.num_rows();
                    batch_with_rows(batch.columns().to_vec(), &declared, rows).map_err(to_datafusion)
                }
            }
        });
        let stream = RecordBatchStreamAdapter::new(schema, batches);
        // A stream that is always ready would otherwise keep its thread from everything else.
        Ok(Box::pin(cooperative(stream)))
    }
}
