//! Out of DataFusion: errors and rows.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use super::types::rows_of;
use crate::error::{Result, SqlError, SqlState};
use crate::exec::{Row, RowStream};
use crate::types::Type;

/// Sends an error through DataFusion; [`from_datafusion`] takes it out again.
pub(super) fn to_datafusion(error: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// What an error of DataFusion means to a client: our own error if it carries one, whatever is wrapped around it.
pub(super) fn from_datafusion(error: DataFusionError) -> SqlError {
    match find_own(&error) {
        Some(own) => own.clone(),
        None => foreign(&error),
    }
}

fn find_own<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a SqlError> {
    if let Some(own) = error.downcast_ref::<SqlError>() {
        return Some(own);
    }
    match error.downcast_ref::<DataFusionError>() {
        Some(DataFusionError::External(inner)) => find_own(&**inner),
        Some(DataFusionError::Context(_, inner)) => find_own(&**inner),
        Some(DataFusionError::Diagnostic(_, inner)) => find_own(&**inner),
        Some(DataFusionError::Shared(inner)) => find_own(&**inner),
        Some(DataFusionError::Collection(errors)) => errors.iter().find_map(|e| find_own(e)),
        Some(DataFusionError::ArrowError(inner, _)) => match &**inner {
            ArrowError::ExternalError(inner) => find_own(&**inner),
            _ => None,
        },
        Some(_) => None,
        None => match error.downcast_ref::<Arc<DataFusionError>>() {
            Some(shared) => find_own(&**shared),
            None => error.source().and_then(find_own),
        },
    }
}

fn foreign(error: &DataFusionError) -> SqlError {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(detail) => out_of_memory().detail(detail.clone()),
        root => {
            tracing::error!(error = %error, "DataFusion failed");
            SqlError::internal(root.strip_backtrace())
        }
    }
}

/// `53200`.
pub(super) fn out_of_memory() -> SqlError {
    SqlError::new(SqlState::OUT_OF_MEMORY, "out of memory")
        .hint("The statement needs more memory than a statement may use.")
}

/// `57014`.
pub(super) fn canceled() -> SqlError {
    SqlError::new(SqlState::QUERY_CANCELED, "canceling statement due to user request")
}

/// An assertion that fails in an operator is that statement's error, not the connection's end.
pub(super) async fn guarded<T>(future: impl Future<Output = T>) -> Result<T> {
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(value) => Ok(value),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            tracing::error!(panic = %text, "an operator panicked");
            Err(SqlError::internal(format!("an operator failed: {text}")))
        }
    }
}

/// The rows of a physical plan.
pub(super) struct Rows {
    /// Dropped at the end and at an error, which ends all that runs for it.
    pub(super) batches: Option<SendableRecordBatchStream>,
    pub(super) types: Vec<Type>,
    pub(super) cancel: CancellationToken,
}

#[async_trait]
impl RowStream for Rows {
    async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        while let Some(batches) = &mut self.batches {
            let batch = tokio::select! {
                biased;
                () = self.cancel.cancelled() => Some(Err(to_datafusion(canceled()))),
                batch = guarded(batches.next()) => match batch {
                    Ok(batch) => batch,
                    Err(error) => Some(Err(to_datafusion(error))),
                },
            };
            match batch {
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                Some(Ok(batch)) => return rows_of(&batch, &self.types).map(Some),
                Some(Err(error)) => {
                    self.batches = None;
                    return Err(from_datafusion(error));
                }
                None => self.batches = None,
            }
        }
        Ok(None)
    }
}
