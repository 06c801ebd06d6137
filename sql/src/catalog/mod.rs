//! The catalog: what tables there are, as data in the system shard.

mod descriptor;

pub use descriptor::{CatalogReader, CheckConstraint, ColumnDescriptor, PrimaryKey, TableDescriptor};
