//! A database's catalog: each table has its name, each name its table, and foreign keys have what they refer to.

use std::collections::HashMap;
use std::sync::Arc;

use super::source::Pages;
use super::{Kind, Report, StatementContext};
use crate::catalog::layout::{self, CatalogKey};
use crate::error::Result;
use crate::exec::references::Target;

/// Inspects it.
pub async fn inspect(ctx: &Arc<StatementContext>) -> Report {
    let mut report = Report::of_catalog(&ctx.catalog.image().database().name);
    if let Err(error) = look(ctx, &mut report).await {
        report.trouble = Some(error.to_string());
    }
    report
}

async fn look(ctx: &Arc<StatementContext>, report: &mut Report) -> Result<()> {
    let image = ctx.catalog.image();
    let mut named: HashMap<u32, u64> = HashMap::new();
    let mut pages = Pages::of(layout::table_names_range(image.database().id), Vec::new());
    while let Some(page) = pages.next(ctx).await? {
        for (key, value) in page {
            report.entries += 1;
            let name = match layout::parse_catalog_key(&key) {
                Some(CatalogKey::TableName(name)) => name,
                _ => hex::encode(&key),
            };
            let id = value[..].try_into().ok().map(u32::from_be_bytes);
            let table = id
                .and_then(|id| image.table_by_id(id))
                .filter(|table| layout::table_name_key(table.database, &table.schema, &table.name) == key);
            match table {
                Some(table) => *named.entry(table.id).or_default() += 1,
                None => report.find(Kind::Catalog, "names", format!("the name \"{name}\" is no table's")),
            }
        }
    }
    for table in image.tables() {
        report.rows += 1;
        if !named.contains_key(&table.id) {
            let text = format!("the table \"{}.{}\" has no name", table.schema, table.name);
            report.find(Kind::Catalog, "names", text);
        }
        if image.schema(&table.schema).is_none() {
            let text = format!("the schema of the table \"{}.{}\" is not there", table.schema, table.name);
            report.find(Kind::Catalog, "schemas", text);
        }
        for key in &table.foreign_keys {
            report.constraints += 1;
            let parent = if key.parent == table.id { Some(table) } else { image.table_by_id(key.parent) };
            if parent.is_none_or(|parent| Target::of(parent, key).is_err()) {
                let text = format!("of table \"{}\" refers to a key that is not there", table.name);
                report.find(Kind::Catalog, &key.name, text);
            }
        }
    }
    Ok(())
}
