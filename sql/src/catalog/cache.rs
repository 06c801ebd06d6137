//! [`Catalog`]: a node's hold on the catalog.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use txn::api::{BeginOptions, Database, Expect, Isolation, Transaction, Write};
use txn::seam::Seams;
use txn::{Error, Remedy};

use super::image::PUBLIC_OID;
use super::stored::{self, DatabaseDescriptor, SchemaDescriptor};
use super::{CatalogImage, TransactionCatalog, layout};
use crate::error::{Result, SqlError, SqlState};

/// How many ids a node takes at once.
const ID_BLOCK: u32 = 16;
/// How often a small catalog transaction is tried before the error goes up.
const ATTEMPTS_MAX: u32 = 10;
/// The pause before the second attempt; doubled each time.
const BACKOFF_MS: u64 = 5;

/// A node's hold on the catalog: the newest image it knows of each database, and a block of unused ids.
///
/// Images are never invalidated by messages. A stale one is found out by the fences of the shards (`FenceMismatch`), or
/// by a name that it doesn't know; then whoever noticed calls [`Catalog::refresh`].
pub struct Catalog {
    database: Arc<dyn Database>,
    seams: Seams,
    images: Mutex<HashMap<String, Arc<CatalogImage>>>,
    ids: tokio::sync::Mutex<Range<u32>>,
    /// Whether the sweeper was started.
    pub(super) sweeping: AtomicBool,
}

impl Catalog {
    /// A cold cache.
    pub fn new(database: Arc<dyn Database>, seams: Seams) -> Arc<Self> {
        Arc::new(Self {
            database,
            seams,
            images: Mutex::default(),
            ids: tokio::sync::Mutex::new(0..0),
            sweeping: AtomicBool::new(false),
        })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Arc<dyn Database> {
        &self.database
    }

    /// Clock, randomness and tasks.
    pub fn seams(&self) -> &Seams {
        &self.seams
    }

    /// Writes the rows that every cluster has, where they are missing: the databases `system` and `postgres`, the schema
    /// `public`, the id counter. Run whenever a node is about to serve; it is one read when there is nothing to do.
    pub async fn bootstrap(&self) -> Result<()> {
        let marker = layout::database_key("postgres");
        if self.database.get_latest(std::slice::from_ref(&marker), &[]).await?[0].is_some() {
            return Ok(());
        }
        let absent = |key, value| Write { key, value: Some(value), expect: Expect::Absent };
        let mut writes = Vec::new();
        for (id, name) in [(layout::SYSTEM_DATABASE, "system"), (layout::DEFAULT_DATABASE, "postgres")] {
            let database = DatabaseDescriptor { id, name: name.into() };
            let public = SchemaDescriptor { id: PUBLIC_OID, name: "public".into() };
            writes.push(absent(layout::database_key(name), stored::encode("database", &database)?));
            writes.push(absent(layout::schema_key(id, "public"), stored::encode("schema", &public)?));
        }
        writes.push(absent(layout::counter_key(), encode_counter(layout::FIRST_OID)));
        let transaction = self.database.begin(BeginOptions::default());
        transaction.write(writes, &[]).await?;
        match transaction.commit().await {
            // Another node was faster: what stands there is the same.
            Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The newest known image of a database; read if there is none. `3D000` when there is no such database.
    pub async fn image(&self, database: &str) -> Result<Arc<CatalogImage>> {
        let known = self.images.lock().get(database).cloned();
        match known {
            Some(image) => Ok(image),
            None => self.refresh(database).await,
        }
    }

    /// Reads a database's catalog anew, in a transaction of its own.
    pub async fn refresh(&self, database: &str) -> Result<Arc<CatalogImage>> {
        let image = self
            .attempt(
                BeginOptions { read_only: true, isolation: Isolation::Snapshot, ..Default::default() },
                |transaction| async move { CatalogImage::load(&*transaction, database).await },
            )
            .await;
        match image {
            Ok(image) => Ok(self.learn(Arc::new(image))),
            Err(error) => {
                if error.state == SqlState::INVALID_CATALOG_NAME {
                    self.forget(database);
                }
                Err(error)
            }
        }
    }

    /// The catalog for a new transaction in a database.
    pub async fn begin(self: &Arc<Self>, database: &str) -> Result<Arc<TransactionCatalog>> {
        let image = self.image(database).await?;
        Ok(Arc::new(TransactionCatalog::new(Arc::clone(self), image)))
    }

    /// The catalog for a transaction that has read this image itself.
    pub fn over(self: &Arc<Self>, image: Arc<CatalogImage>) -> Arc<TransactionCatalog> {
        Arc::new(TransactionCatalog::new(Arc::clone(self), image))
    }

    /// Keeps an image if it is newer than the known one; gives back the newer of the two.
    fn learn(&self, image: Arc<CatalogImage>) -> Arc<CatalogImage> {
        let mut images = self.images.lock();
        match images.get(&image.database().name) {
            Some(known)
                if known.version() > image.version() && known.database().id == image.database().id =>
            {
                Arc::clone(known)
            }
            _ => {
                images.insert(image.database().name.clone(), Arc::clone(&image));
                image
            }
        }
    }

    /// Drops an image: the next use reads it anew.
    pub(super) fn forget(&self, database: &str) {
        self.images.lock().remove(database);
    }

    /// An id that was never used before, for a database, schema, table or storage.
    ///
    /// Ids are drawn from the cluster's counter in a transaction of their own, a block at a time, so that transactions
    /// with schema changes don't conflict on it. Those of a block that isn't used up are lost.
    pub async fn allocate_id(&self) -> Result<u32> {
        let mut ids = self.ids.lock().await;
        if ids.is_empty() {
            *ids = self
                .attempt(BeginOptions::default(), |transaction| async move {
                    let key = layout::counter_key();
                    let value = transaction.get(std::slice::from_ref(&key), &[]).await?;
                    let next = decode_counter(value.first().and_then(Option::as_deref))?;
                    let end = next.checked_add(ID_BLOCK).filter(|&end| end < 1 << 30).ok_or_else(|| {
                        SqlError::new(
                            SqlState::PROGRAM_LIMIT_EXCEEDED,
                            "the cluster has used up its object ids",
                        )
                    })?;
                    let write = Write { key, value: Some(encode_counter(end)), expect: Expect::Any };
                    transaction.write(vec![write], &[]).await?;
                    Ok(next..end)
                })
                .await?;
        }
        ids.next().ok_or_else(|| SqlError::internal("an empty block of ids was allocated"))
    }

    /// Runs a small transaction of the catalog's own, again after a conflict.
    pub(crate) async fn attempt<T, F>(
        &self,
        options: BeginOptions,
        body: impl Fn(Arc<dyn Transaction>) -> F + Send,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let mut attempt = 1;
        loop {
            let transaction = self.database.begin(options.clone());
            let result = match body(Arc::clone(&transaction)).await {
                Ok(value) => transaction.commit().await.map(|_| value).map_err(SqlError::from),
                Err(error) => {
                    transaction.rollback().await;
                    Err(error)
                }
            };
            match result {
                Err(error)
                    if attempt < ATTEMPTS_MAX
                        && error.source.as_ref().is_some_and(|e| e.remedy() == Remedy::Retry) =>
                {
                    let pause = BACKOFF_MS << attempt;
                    self.seams.sleep(std::time::Duration::from_millis(pause)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

fn encode_counter(next: u32) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&next.to_be_bytes())
}

fn decode_counter(value: Option<&[u8]>) -> Result<u32> {
    value
        .and_then(|v| v.try_into().ok())
        .map(u32::from_be_bytes)
        .ok_or_else(|| SqlError::new(SqlState::DATA_CORRUPTED, "the catalog's id counter is missing"))
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Catalog")
    }
}
