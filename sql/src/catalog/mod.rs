//! The catalog: what tables there are, as data in the system shard.
//!
//! ```text
//!              session                          exec::ddl
//!                 │ begin, reload, committed        │ create_table, …
//!                 ▼                                 ▼
//!   Catalog ─► TransactionCatalog ─► CatalogView   changes: catalog rows + fences + the transaction's image
//!  (per node)   (per transaction)    (per statement)
//! ```
//!
//! Descriptors are ordinary rows of the system database (`layout`, `stored`), written by ordinary transactions. A
//! [`CatalogImage`] is all of one database's descriptors as of one snapshot. Nodes keep the newest image they have
//! seen and use it without asking: each table's shards keep the table's version as a *fence*, and refuse what was planned
//! against another one.
//!
//! **Must never**: reuse an id, or change where the rows of a table are without raising its version.
//!
//! **Caveats.** A cached image may hide a table that another node has just created in a schema that comes earlier on the
//! search path than one with a table of the same name. System views read the catalog anew each time.

mod cache;
mod changes;
pub mod defaults;
mod descriptor;
pub(crate) mod garbage;
mod image;
pub mod layout;
mod stored;
mod transaction;
pub mod virtual_table;

pub use cache::Catalog;
pub use changes::Changes;
pub(crate) use changes::duplicate_table;
pub use descriptor::{
    CatalogReader, CheckConstraint, ColumnDescriptor, ForeignKey, Missing, Placement, PrimaryKey,
    ReferentialAction, TableDescriptor, TableKey, UniqueConstraint,
};
pub use image::{CatalogImage, PUBLIC_OID};
pub use stored::{DatabaseDescriptor, SchemaDescriptor};
pub use transaction::{CatalogMark, CatalogView, TransactionCatalog};
