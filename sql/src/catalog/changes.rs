//! [`Changes`]: schema changes as operations of a transaction.
//!
//! Each change writes the catalog rows and the table's fence through the transaction, and changes the transaction's own
//! image. What decides about a change (names, the current descriptor) is read through the transaction too, and so
//! validated when it commits: of two rivals one gets a conflict, runs again, and then sees what the other did.

use std::sync::Arc;

use bytes::Bytes;
use txn::api::{Expect, Key, Transaction, Write};
use txn::ids::KeyRange;

use super::garbage;
use super::stored::{self, DatabaseDescriptor, SchemaDescriptor};
use super::{PUBLIC_OID, TableDescriptor, TransactionCatalog, layout};
use crate::error::{Result, SqlError, SqlState};

/// Schema changes of one transaction.
pub struct Changes<'a> {
    catalog: &'a TransactionCatalog,
    transaction: &'a dyn Transaction,
}

fn put(key: Key, value: Bytes) -> Write {
    Write { key, value: Some(value), expect: Expect::Any }
}

fn delete(key: Key) -> Write {
    Write { key, value: None, expect: Expect::Any }
}

impl<'a> Changes<'a> {
    /// Changes to be made in a transaction.
    pub fn new(catalog: &'a TransactionCatalog, transaction: &'a dyn Transaction) -> Self {
        Self { catalog, transaction }
    }

    /// An id for a new table, storage, schema or database.
    pub async fn allocate_id(&self) -> Result<u32> {
        self.catalog.catalog().allocate_id().await
    }

    async fn exists(&self, key: &Key) -> Result<bool> {
        let values = self.transaction.get(std::slice::from_ref(key), &[]).await?;
        Ok(values.first().is_some_and(Option::is_some))
    }

    /// Whether a table or other relation has this name, as of the transaction.
    pub async fn table_exists(&self, database: u32, schema: &str, name: &str) -> Result<bool> {
        self.exists(&layout::table_name_key(database, schema, name)).await
    }

    /// Creates a table. Its shards must have been split off before: the fence goes to the shards there are.
    pub async fn create_table(&self, table: TableDescriptor) -> Result<Arc<TableDescriptor>> {
        if !self.exists(&layout::schema_key(table.database, &table.schema)).await? {
            return Err(no_schema(&table.schema));
        }
        let name_key = layout::table_name_key(table.database, &table.schema, &table.name);
        if self.exists(&name_key).await? {
            return Err(duplicate_table(&table.name));
        }
        let writes = vec![
            put(name_key, Bytes::copy_from_slice(&table.id.to_be_bytes())),
            put(layout::table_key(table.database, table.id), stored::encode_table(&table)?),
        ];
        self.transaction.write(writes, &[]).await?;
        self.transaction.write_fence(table.prefix(), Some(table.version)).await?;
        let table = Arc::new(table);
        self.catalog.change(Some(table.id), |image| image.put_table(Arc::clone(&table)));
        Ok(table)
    }

    /// Fails with `FenceMismatch` unless `table` is what the transaction's snapshot has: the statement was bound against an
    /// older or newer image.
    pub async fn check_current(&self, table: &TableDescriptor) -> Result<()> {
        let key = layout::table_key(table.database, table.id);
        let values = self.transaction.get(std::slice::from_ref(&key), &[]).await?;
        let current = match values.into_iter().next().flatten() {
            Some(value) => Some(stored::decode_table(&value)?.version),
            None => None,
        };
        if current == Some(table.version) {
            return Ok(());
        }
        Err(txn::Error::FenceMismatch { prefix: table.prefix() }.into())
    }

    /// Replaces a table's descriptor by a changed one; raises the version, moves the name.
    pub async fn replace_table(
        &self,
        old: &TableDescriptor,
        mut new: TableDescriptor,
    ) -> Result<Arc<TableDescriptor>> {
        self.check_current(old).await?;
        new.version = old.version + 1;
        let mut writes = Vec::new();
        if (&old.schema, &old.name) != (&new.schema, &new.name) {
            let name_key = layout::table_name_key(new.database, &new.schema, &new.name);
            if self.exists(&name_key).await? {
                return Err(duplicate_table(&new.name));
            }
            writes.push(delete(layout::table_name_key(old.database, &old.schema, &old.name)));
            writes.push(put(name_key, Bytes::copy_from_slice(&new.id.to_be_bytes())));
        }
        writes.push(put(layout::table_key(new.database, new.id), stored::encode_table(&new)?));
        self.transaction.write(writes, &[]).await?;
        self.transaction.write_fence(new.prefix(), Some(new.version)).await?;
        if old.storage_id != new.storage_id {
            self.discard(old.storage_range()).await?;
        }
        for index in old.index_ids() {
            if new.index_ids().all(|id| id != index) {
                self.discard(KeyRange::prefix(&old.index_prefix(index))).await?;
            }
        }
        let new = Arc::new(new);
        self.catalog.change(Some(new.id), |image| image.put_table(Arc::clone(&new)));
        Ok(new)
    }

    /// Drops a table. Its rows become garbage.
    pub async fn drop_table(&self, table: &TableDescriptor) -> Result<()> {
        self.check_current(table).await?;
        self.remove_table(table).await?;
        self.discard(KeyRange::prefix(&table.prefix())).await
    }

    async fn remove_table(&self, table: &TableDescriptor) -> Result<()> {
        let writes = vec![
            delete(layout::table_name_key(table.database, &table.schema, &table.name)),
            delete(layout::table_key(table.database, table.id)),
        ];
        self.transaction.write(writes, &[]).await?;
        self.transaction.write_fence(table.prefix(), None).await?;
        self.catalog.change(None, |image| image.remove_table(table.id));
        Ok(())
    }

    /// Creates a schema; `false` if there is one of this name.
    pub async fn create_schema(&self, database: u32, name: &str) -> Result<bool> {
        let key = layout::schema_key(database, name);
        if self.exists(&key).await? {
            return Ok(false);
        }
        let schema = SchemaDescriptor { id: self.allocate_id().await?, name: name.to_owned() };
        self.transaction.write(vec![put(key, stored::encode("schema", &schema)?)], &[]).await?;
        self.catalog.change(None, |image| image.put_schema(schema));
        Ok(true)
    }

    /// Drops an empty schema; `false` if there is none of this name.
    pub async fn drop_schema(&self, database: u32, name: &str) -> Result<bool> {
        let key = layout::schema_key(database, name);
        if !self.exists(&key).await? {
            return Ok(false);
        }
        let mut tables = layout::table_name_key(database, name, "").to_vec();
        let inside = super::image::scan_all(self.transaction, KeyRange::prefix(&tables)).await?;
        tables.clear();
        if let Some((first, _)) = inside.first() {
            let layout::CatalogKey::TableName(table) =
                layout::parse_catalog_key(first).unwrap_or(layout::CatalogKey::Other)
            else {
                return Err(SqlError::internal("a key of a table's name cannot be read"));
            };
            return Err(SqlError::new(
                SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
                format!("cannot drop schema {name} because other objects depend on it"),
            )
            .detail(format!("table {name}.{table} depends on schema {name}"))
            .hint("Drop its tables first."));
        }
        self.transaction.write(vec![delete(key)], &[]).await?;
        self.catalog.change(None, |image| image.remove_schema(name));
        Ok(true)
    }

    /// Creates a database with the schema `public`; its keys get a shard of their own.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let key = layout::database_key(name);
        if self.exists(&key).await? {
            return Err(SqlError::new(
                SqlState::DUPLICATE_DATABASE,
                format!("database \"{name}\" already exists"),
            ));
        }
        let database = DatabaseDescriptor { id: self.allocate_id().await?, name: name.to_owned() };
        let public = SchemaDescriptor { id: PUBLIC_OID, name: "public".into() };
        let range = layout::database_range(database.id);
        self.catalog.catalog().cluster().split(&[range.start, range.end], false).await?;
        let writes = vec![
            put(key, stored::encode("database", &database)?),
            put(layout::schema_key(database.id, "public"), stored::encode("schema", &public)?),
        ];
        self.transaction.write(writes, &[]).await?;
        self.catalog.change(None, |image| image.put_database(database));
        Ok(())
    }

    /// Drops a database with everything in it; `false` if there is none of this name.
    pub async fn drop_database(&self, name: &str) -> Result<bool> {
        let key = layout::database_key(name);
        let values = self.transaction.get(std::slice::from_ref(&key), &[]).await?;
        let Some(value) = values.into_iter().next().flatten() else { return Ok(false) };
        let database: DatabaseDescriptor = stored::decode("database", &value)?;
        if database.id <= layout::DEFAULT_DATABASE {
            return Err(SqlError::new(
                SqlState::OBJECT_IN_USE,
                format!("cannot drop the database \"{name}\", which every cluster has"),
            ));
        }
        for (_, row) in super::image::scan_all(self.transaction, layout::tables_range(database.id)).await? {
            self.remove_table(&stored::decode_table(&row)?).await?;
        }
        let mut writes = vec![delete(key)];
        for (key, _) in super::image::scan_all(self.transaction, layout::settings_range(database.id)).await? {
            writes.push(delete(key));
        }
        for (key, _) in super::image::scan_all(self.transaction, layout::schemas_range(database.id)).await? {
            writes.push(delete(key));
        }
        self.transaction.write(writes, &[]).await?;
        self.discard(layout::database_range(database.id)).await?;
        self.catalog.change(None, |image| image.remove_database(name));
        Ok(true)
    }

    /// Notes that a range can be cleared when no snapshot can see it any more.
    async fn discard(&self, range: KeyRange) -> Result<()> {
        let since_ms = self.catalog.catalog().seams().clock.wall_ms();
        self.transaction.write(vec![garbage::note(range, since_ms)?], &[]).await?;
        Ok(())
    }
}

/// `42P07`
pub(crate) fn duplicate_table(name: &str) -> SqlError {
    SqlError::new(SqlState::DUPLICATE_TABLE, format!("relation \"{name}\" already exists"))
}

/// `3F000`
pub(crate) fn no_schema(name: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_SCHEMA_NAME, format!("schema \"{name}\" does not exist"))
}
