//! [`CatalogImage`]: all descriptors of one database as of one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use txn::api::{ScanRequest, Transaction};
use txn::ids::KeyRange;

use super::stored::{self, DatabaseDescriptor, SchemaDescriptor};
use super::{TableDescriptor, layout};
use crate::error::{Result, SqlError, SqlState};

/// An immutable image of one database's catalog. Cloning shares the descriptors.
///
/// Invariants: `by_id` and `by_name` hold the same tables, and `children` the ids of those with a foreign key, under the ids of the
/// tables that they refer to.
#[derive(Clone, Debug)]
pub struct CatalogImage {
    database: DatabaseDescriptor,
    databases: Vec<DatabaseDescriptor>,
    schemas: BTreeMap<String, SchemaDescriptor>,
    by_name: BTreeMap<String, BTreeMap<String, Arc<TableDescriptor>>>,
    by_id: BTreeMap<u32, Arc<TableDescriptor>>,
    children: BTreeMap<u32, BTreeSet<u32>>,
    version: u64,
}

impl CatalogImage {
    /// An image of given tables, without a cluster: for tests. The schema `public` exists.
    pub fn of(database: DatabaseDescriptor, tables: impl IntoIterator<Item = TableDescriptor>) -> Self {
        let mut image = Self {
            databases: vec![database.clone()],
            database,
            schemas: BTreeMap::new(),
            by_name: BTreeMap::new(),
            by_id: BTreeMap::new(),
            children: BTreeMap::new(),
            version: 0,
        };
        image.put_schema(SchemaDescriptor { id: PUBLIC_OID, name: "public".into() });
        for table in tables {
            image.put_table(Arc::new(table));
        }
        image
    }

    /// Reads the catalog of the database `name` through a transaction: as of its snapshot, with its own writes.
    pub async fn load(transaction: &dyn Transaction, name: &str) -> Result<Self> {
        let mut databases = Vec::new();
        for (_, value) in scan_all(transaction, layout::databases_range()).await? {
            databases.push(stored::decode::<DatabaseDescriptor>("database", &value)?);
        }
        let Some(database) = databases.iter().find(|d| d.name == name).cloned() else {
            return Err(SqlError::new(
                SqlState::INVALID_CATALOG_NAME,
                format!("database \"{name}\" does not exist"),
            ));
        };
        let mut image = Self {
            database,
            databases,
            schemas: BTreeMap::new(),
            by_name: BTreeMap::new(),
            by_id: BTreeMap::new(),
            children: BTreeMap::new(),
            version: transaction.read_timestamp().await?.0,
        };
        for (_, value) in scan_all(transaction, layout::schemas_range(image.database.id)).await? {
            image.put_schema(stored::decode("schema", &value)?);
        }
        for (_, value) in scan_all(transaction, layout::tables_range(image.database.id)).await? {
            image.put_table(Arc::new(stored::decode_table(&value)?));
        }
        Ok(image)
    }

    /// The database.
    pub fn database(&self) -> &DatabaseDescriptor {
        &self.database
    }

    /// All databases of the cluster.
    pub fn databases(&self) -> &[DatabaseDescriptor] {
        &self.databases
    }

    /// The timestamp as of which the image was read: later images have higher ones.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A table by schema and name.
    pub fn table(&self, schema: &str, name: &str) -> Option<&Arc<TableDescriptor>> {
        self.by_name.get(schema)?.get(name)
    }

    /// A table by its OID.
    pub fn table_by_id(&self, id: u32) -> Option<&Arc<TableDescriptor>> {
        self.by_id.get(&id)
    }

    /// All tables, by schema and name.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableDescriptor>> {
        self.by_name.values().flat_map(BTreeMap::values)
    }

    /// The tables of a schema with an index of this name. More than one only if they were made at the same time.
    pub fn indexed_by(&self, schema: &str, name: &str) -> Vec<Arc<TableDescriptor>> {
        let tables = self.by_name.get(schema).into_iter().flat_map(BTreeMap::values);
        tables.filter(|table| table.keys().any(|key| key.name == name)).cloned().collect()
    }

    /// The foreign keys that refer to a table: whose they are, and their places there.
    pub fn referring(&self, table: u32) -> Vec<(Arc<TableDescriptor>, usize)> {
        let mut found = Vec::new();
        for child in self.children.get(&table).into_iter().flatten().filter_map(|id| self.by_id.get(id)) {
            let keys = child.foreign_keys.iter().enumerate().filter(|(_, key)| key.parent == table);
            found.extend(keys.map(|(at, _)| (Arc::clone(child), at)));
        }
        found
    }

    /// A schema by name; virtual schemas are not among them.
    pub fn schema(&self, name: &str) -> Option<&SchemaDescriptor> {
        self.schemas.get(name)
    }

    /// All stored schemas, by name.
    pub fn schemas(&self) -> impl Iterator<Item = &SchemaDescriptor> {
        self.schemas.values()
    }

    pub(super) fn put_table(&mut self, table: Arc<TableDescriptor>) {
        self.remove_table(table.id);
        self.by_name.entry(table.schema.clone()).or_default().insert(table.name.clone(), Arc::clone(&table));
        for key in &table.foreign_keys {
            self.children.entry(key.parent).or_default().insert(table.id);
        }
        self.by_id.insert(table.id, table);
    }

    pub(super) fn remove_table(&mut self, id: u32) {
        if let Some(old) = self.by_id.remove(&id)
            && let Some(tables) = self.by_name.get_mut(&old.schema)
        {
            tables.remove(&old.name);
            for children in self.children.values_mut() {
                children.remove(&id);
            }
        }
    }

    pub(super) fn put_schema(&mut self, schema: SchemaDescriptor) {
        self.schemas.insert(schema.name.clone(), schema);
    }

    pub(super) fn remove_schema(&mut self, name: &str) {
        self.schemas.remove(name);
    }

    pub(super) fn put_database(&mut self, database: DatabaseDescriptor) {
        self.databases.push(database);
    }

    pub(super) fn remove_database(&mut self, name: &str) {
        self.databases.retain(|d| d.name != name);
    }
}

/// PostgreSQL's OID of the schema `public`.
pub const PUBLIC_OID: u32 = 2200;

/// Rows of one catalog page.
const CATALOG_PAGE_ROWS_MAX: usize = 1000;

/// Reads a whole range. For catalog ranges, which are small.
pub(super) async fn scan_all(transaction: &dyn Transaction, range: KeyRange) -> Result<Vec<(Bytes, Bytes)>> {
    let mut rows = Vec::new();
    let mut rest = Some(range);
    while let Some(range) = rest {
        let page = transaction
            .scan(ScanRequest { range, reverse: false, rows_max: CATALOG_PAGE_ROWS_MAX }, &[])
            .await?;
        rows.extend(page.rows);
        rest = page.rest;
    }
    Ok(rows)
}
