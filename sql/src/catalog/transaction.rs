//! [`TransactionCatalog`]: the catalog as one transaction sees it, and [`CatalogView`]: as one statement does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use txn::api::Transaction;

use super::{Catalog, CatalogImage, CatalogReader, TableDescriptor, virtual_table};
use crate::error::Result;
use crate::types::ColumnType;

/// The catalog as one transaction sees it: a pinned image with the transaction's own schema changes.
///
/// The pinned image may be older or newer than the transaction's snapshot. That is found out, not prevented: each read and
/// commit carries the table's version, and a shard that knows another one refuses. Whoever gets `FenceMismatch`
///
/// - in an auto-commit statement: calls [`Catalog::refresh`] and begins a new transaction;
/// - in an explicit transaction: calls [`TransactionCatalog::reload`], which reads the catalog as of the
///   transaction's snapshot, and runs the statement again. A second mismatch is a real conflict (`40001`).
///
/// When binding fails because of an unknown name (42P01, 3F000, 42703), the same is done once before the error is
/// reported, since the image may be older than the object.
pub struct TransactionCatalog {
    catalog: Arc<Catalog>,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    /// How long before it began the transaction's snapshot was.
    back: Duration,
    image: Arc<CatalogImage>,
    /// Whether the transaction has changed the schema.
    changed: bool,
    /// The tables that it has created or changed.
    tables: Vec<u32>,
}

/// A point to go back to; see [`TransactionCatalog::mark`].
#[derive(Clone)]
pub struct CatalogMark(State);

impl TransactionCatalog {
    pub(super) fn new(catalog: Arc<Catalog>, image: Arc<CatalogImage>) -> Self {
        let begun = catalog.seams().clock.now();
        Self {
            catalog,
            begun,
            state: Mutex::new(State { back: Duration::ZERO, image, changed: false, tables: Vec::new() }),
        }
    }

    /// The node's catalog.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// How old the transaction is; its snapshot is no older.
    pub(super) fn age(&self) -> Duration {
        self.catalog.seams().clock.now().saturating_duration_since(self.begun) + self.state.lock().back
    }

    /// The transaction reads as of so long ago.
    pub fn date_back(&self, by: Duration) {
        self.state.lock().back = by;
    }

    /// The image that the next statement is bound against.
    pub fn image(&self) -> Arc<CatalogImage> {
        Arc::clone(&self.state.lock().image)
    }

    /// Whether the transaction has changed the schema.
    pub fn changed(&self) -> bool {
        self.state.lock().changed
    }

    /// Whether the transaction has created or changed this table. Then its shards don't know its version yet, and
    /// statements carry no fence; what they rely on is guarded by the table's catalog row, which the transaction has read and
    /// writes.
    pub fn has_changed(&self, table: u32) -> bool {
        self.state.lock().tables.contains(&table)
    }

    /// The view of one statement. `search_path` names schemas in order, without the implicit `pg_catalog`.
    pub fn view(self: &Arc<Self>, search_path: Arc<[String]>) -> Arc<CatalogView> {
        Arc::new(CatalogView { image: self.image(), search_path, transaction: Arc::clone(self) })
    }

    /// Reads the catalog as of the transaction's snapshot, with its own changes.
    pub async fn reload(&self, transaction: &dyn Transaction) -> Result<Arc<CatalogImage>> {
        let name = self.image().database().name.clone();
        let image = Arc::new(CatalogImage::load(transaction, &name).await?);
        self.state.lock().image = Arc::clone(&image);
        Ok(image)
    }

    /// Pins the node's newest image: for a transaction that has read and changed nothing yet.
    pub async fn refresh(&self) -> Result<Arc<CatalogImage>> {
        let name = self.image().database().name.clone();
        let image = self.catalog.refresh(&name).await?;
        self.state.lock().image = Arc::clone(&image);
        Ok(image)
    }

    /// A mark for SAVEPOINT.
    pub fn mark(&self) -> CatalogMark {
        CatalogMark(self.state.lock().clone())
    }

    /// Goes back to a mark, for ROLLBACK TO.
    pub fn rollback_to(&self, mark: &CatalogMark) {
        *self.state.lock() = mark.0.clone();
    }

    /// To be called after the transaction has committed, or may have (`Ambiguous`): the node's images don't have its
    /// changes, so they are dropped.
    pub fn committed(&self) {
        let state = self.state.lock().clone();
        if state.changed {
            for database in state.image.databases() {
                self.catalog.forget(&database.name);
            }
            self.catalog.forget(&state.image.database().name);
        }
    }

    /// Changes the transaction's image along with the catalog rows; `table` is the one that was created or changed.
    pub(super) fn change(&self, table: Option<u32>, change: impl FnOnce(&mut CatalogImage)) {
        let mut state = self.state.lock();
        let mut image = CatalogImage::clone(&state.image);
        change(&mut image);
        state.image = Arc::new(image);
        state.changed = true;
        state.tables.extend(table);
    }
}

/// The catalog as one statement sees it: an image and a search path.
pub struct CatalogView {
    image: Arc<CatalogImage>,
    search_path: Arc<[String]>,
    transaction: Arc<TransactionCatalog>,
}

impl CatalogView {
    /// The image.
    pub fn image(&self) -> &Arc<CatalogImage> {
        &self.image
    }

    /// The transaction's catalog, which schema changes go through.
    pub fn transaction(&self) -> &Arc<TransactionCatalog> {
        &self.transaction
    }
}

impl CatalogReader for CatalogView {
    fn table(&self, schema: Option<&str>, name: &str) -> Option<Arc<TableDescriptor>> {
        match schema {
            Some(schema) => self.image.table(schema, name).cloned(),
            None => self.search_path.iter().find_map(|schema| self.image.table(schema, name)).cloned(),
        }
    }

    fn indexed_by(&self, schema: Option<&str>, name: &str) -> Vec<Arc<TableDescriptor>> {
        let in_schema = |schema: &str| self.image.indexed_by(schema, name);
        match schema {
            Some(schema) => in_schema(schema),
            None => {
                let mut found = self.search_path.iter().map(|schema| in_schema(schema));
                found.find(|tables| !tables.is_empty()).unwrap_or_default()
            }
        }
    }

    fn referring(&self, table: u32) -> Vec<(Arc<TableDescriptor>, usize)> {
        self.image.referring(table)
    }

    fn has_schema(&self, name: &str) -> bool {
        self.image.schema(name).is_some() || virtual_table::SCHEMAS.contains(&name)
    }

    fn virtual_table(&self, schema: Option<&str>, name: &str) -> Option<(String, Vec<(String, ColumnType)>)> {
        virtual_table::find(schema, name).map(|table| (table.schema.to_owned(), table.columns()))
    }

    fn database(&self) -> &str {
        &self.image.database().name
    }

    fn search_path(&self) -> &[String] {
        &self.search_path
    }
}
