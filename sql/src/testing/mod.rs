//! What the crate's tests share: a cluster in memory, and contexts to run statements in.

mod clock;
mod memory;
mod script;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use txn::api::{BeginOptions, Database, Transaction};
use txn::seam::Seams;

pub use memory::MemoryDatabase;

use crate::catalog::garbage::Seen;
use crate::catalog::{Catalog, CatalogImage, CatalogView, TableDescriptor, TransactionCatalog};
use crate::error::Result;
use crate::exec::{RowStream, StatementContext};
use crate::function::EvalContext;
use crate::types::{Datum, TimeZone};

/// A cluster with its catalog, bootstrapped.
pub struct TestCluster {
    /// The cluster.
    pub database: Arc<MemoryDatabase>,
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// What the catalog takes for time.
    pub clock: Arc<clock::TestClock>,
    /// What the sweeper has seen.
    pub seen: tokio::sync::Mutex<Seen>,
}

/// A transaction of a test, with its catalog.
pub struct TestTransaction {
    /// The transaction.
    pub transaction: Arc<dyn Transaction>,
    /// Its catalog.
    pub catalog: Arc<TransactionCatalog>,
    database: Arc<MemoryDatabase>,
}

impl TestCluster {
    /// A new cluster.
    pub async fn new() -> Self {
        let database = Arc::new(MemoryDatabase::default());
        let clock = Arc::new(clock::TestClock::default());
        let mut seams = Seams::real();
        seams.clock = Arc::clone(&clock) as Arc<dyn txn::seam::Clock>;
        let catalog = Catalog::new(Arc::clone(&database) as Arc<dyn Database>, seams);
        catalog.bootstrap().await.expect("bootstrap");
        Self { database, catalog, clock, seen: tokio::sync::Mutex::default() }
    }

    /// A transaction in the database `postgres`.
    pub async fn begin(&self) -> TestTransaction {
        TestTransaction {
            transaction: self.database.begin(BeginOptions::default()),
            catalog: self.catalog.begin("postgres").await.expect("the database exists"),
            database: Arc::clone(&self.database),
        }
    }
}

impl TestCluster {
    /// A transaction that knows tables by their columns and storage only: what it writes keeps no constraint, and no index.
    pub async fn begin_unguarded(&self) -> TestTransaction {
        let open = self.begin().await;
        let image = self.catalog.refresh("postgres").await.expect("the database exists");
        let database = image.database().clone();
        let tables = image.tables().map(|table| {
            let mut table = TableDescriptor::clone(table);
            table.columns.iter_mut().for_each(|column| column.not_null = false);
            table.primary_key = None;
            (table.unique, table.checks, table.foreign_keys) = Default::default();
            table
        });
        let image = CatalogImage::of(database, tables);
        TestTransaction { catalog: self.catalog.over(Arc::new(image)), ..open }
    }
}

impl TestTransaction {
    /// What a statement is bound against.
    pub fn view(&self) -> Arc<CatalogView> {
        self.catalog.view(Arc::from(["public".to_owned()]))
    }

    /// What a statement runs in. Time stands at 2024-01-01 12:00 UTC.
    pub fn context(&self, auto_commit: bool, params: Vec<Datum>) -> Arc<StatementContext> {
        Arc::new(StatementContext {
            lock_timeout: None,
            database: Arc::clone(&self.database) as Arc<dyn Database>,
            transaction: Arc::clone(&self.transaction),
            catalog: self.view(),
            auto_commit,
            eval: eval_context(),
            params,
            cancel: CancellationToken::new(),
            memory_bytes_max: 64 << 20,
        })
    }
}

/// What kernels know in tests.
pub fn eval_context() -> EvalContext {
    let noon = 757_425_600_000_000;
    EvalContext {
        transaction_time: noon,
        statement_time: noon,
        time_zone: TimeZone::default(),
        user: "tester".into(),
        database: "postgres".into(),
        schema: "public".into(),
        pid: 1,
        performer: None,
        seams: Seams::real(),
    }
}

/// All rows of a stream.
pub async fn collect(mut rows: Box<dyn RowStream>) -> Result<Vec<Vec<Datum>>> {
    let mut out = Vec::new();
    while let Some(batch) = rows.next().await? {
        out.extend(batch);
    }
    Ok(out)
}
