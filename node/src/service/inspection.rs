//! The gRPC service `Inspection`: whether tables keep what the catalog promises. What is looked at is for
//! [`sql::exec::inspect`] to say; this bounds it, and carries the answers.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use meta::consistency::BYTES_PER_SECOND;
use proto::consistency as pb;
use proto::consistency::finding::Kind as Said;
use proto::consistency::inspect_answer::{Begun, Reading, Step as Told};
use proto::consistency::inspection_server as service;
use sql::exec::inspect::{Finding, Kind, Options, Report, Step, inspect};
use sql::server::Phase;
use storage::seam::Seams;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Code, Request, Response, Status, async_trait};

/// Answers that wait for a slow reader.
const ANSWERS_AHEAD: usize = 16;
/// Names of tables in a request.
const TABLES_MAX: usize = 1000;

/// The service.
pub struct Inspection {
    sql: sql::server::Server,
    turn: Arc<Semaphore>,
    seams: Seams,
}

impl Inspection {
    /// The tonic service to mount.
    pub fn service(sql: sql::server::Server, seams: Seams) -> service::InspectionServer<Self> {
        service::InspectionServer::new(Self { sql, turn: Arc::new(Semaphore::new(1)), seams })
    }
}

#[async_trait]
impl service::Inspection for Inspection {
    type InspectStream = BoxStream<'static, Result<pb::InspectAnswer, Status>>;

    async fn inspect(
        &self,
        request: Request<pb::InspectRequest>,
    ) -> Result<Response<Self::InspectStream>, Status> {
        let request = request.into_inner();
        if self.sql.phase() == Phase::Starting {
            return Err(Status::unavailable("the node does not serve SQL yet; ask another one"));
        }
        if request.tables.len() > TABLES_MAX {
            return Err(Status::invalid_argument(format!("more than {TABLES_MAX} tables are named")));
        }
        let turn = self.turn.clone().try_acquire_owned();
        let turn = turn.map_err(|_| {
            Status::resource_exhausted("this node inspects tables already; ask another one, or wait")
        })?;
        let bytes_per_second = match request.bytes_per_second {
            0 => BYTES_PER_SECOND,
            asked => asked,
        };
        let options = Options { bytes_per_second, tables: request.tables };
        let (sender, receiver) = mpsc::channel(ANSWERS_AHEAD);
        let (steps, taken) = mpsc::channel(1);
        let catalog = self.sql.catalog().clone();
        self.seams.spawn("inspect tables", async move {
            let _turn = turn;
            let inspecting = inspect(&catalog, &options, steps);
            // Whoever wanted to know may go: then nobody takes the steps, and the inspection ends.
            let passing_on = async {
                let mut taken = taken;
                while let Some(step) = taken.recv().await {
                    if sender.send(Ok(answer(step))).await.is_err() {
                        return;
                    }
                }
            };
            let (ended, ()) = futures::join!(inspecting, passing_on);
            if let Err(error) = ended {
                let code = match error.state {
                    sql::SqlState::UNDEFINED_TABLE => Code::InvalidArgument,
                    sql::SqlState::DATA_CORRUPTED => Code::DataLoss,
                    _ => Code::Unavailable,
                };
                // If it has gone, it has gone.
                let _ = sender.send(Err(Status::new(code, error.to_string()))).await;
            }
        });
        let answers = futures::stream::unfold(receiver, async |mut receiver| {
            let answer = receiver.recv().await?;
            Some((answer, receiver))
        });
        Ok(Response::new(answers.boxed()))
    }
}

fn answer(step: Step) -> pb::InspectAnswer {
    let told = match step {
        Step::Begun { at, tables } => Told::Begun(Begun { at: at.0, tables: tables as u64 }),
        Step::Reading { table, read } => Told::Reading(Reading { table, read }),
        Step::Done(report) => Told::Table(told(report)),
    };
    pb::InspectAnswer { step: Some(told) }
}

fn told(report: Report) -> pb::TableReport {
    let finding = |Finding { kind, constraint, text }| {
        let kind = match kind {
            Kind::Row => Said::Row,
            Kind::Constraint => Said::Constraint,
            Kind::Duplicate => Said::Duplicate,
            Kind::Index => Said::Index,
            Kind::Reference => Said::Reference,
            Kind::Catalog => Said::Catalog,
        };
        pb::Finding { constraint, text, kind: kind as i32 }
    };
    pb::TableReport {
        database: report.database,
        schema: report.schema,
        table: report.table,
        rows: report.rows,
        entries: report.entries,
        constraints: report.constraints,
        found: report.found,
        findings: report.findings.into_iter().map(finding).collect(),
        trouble: report.trouble.unwrap_or_default(),
        gone: report.gone,
    }
}
