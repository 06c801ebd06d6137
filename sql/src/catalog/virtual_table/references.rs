//! What views say of foreign keys: rows of `pg_constraint`, and `information_schema.referential_constraints`.

use super::{Source, VirtualTable, text};
use crate::catalog::{ForeignKey, ReferentialAction, TableDescriptor};
use crate::exec::Row;
use crate::types::{Datum, Type};

pub(super) const REFERENTIAL_CONSTRAINTS: VirtualTable = VirtualTable {
    schema: "information_schema",
    name: "referential_constraints",
    columns: &[
        ("constraint_catalog", Type::Name),
        ("constraint_schema", Type::Name),
        ("constraint_name", Type::Name),
        ("unique_constraint_catalog", Type::Name),
        ("unique_constraint_schema", Type::Name),
        ("unique_constraint_name", Type::Name),
        ("match_option", Type::Varchar),
        ("update_rule", Type::Varchar),
        ("delete_rule", Type::Varchar),
    ],
    rows: referential_constraints,
};

/// A foreign key with the table that it refers to.
fn parent<'a>(source: &Source<'a>, key: &ForeignKey) -> Option<&'a TableDescriptor> {
    source.image.table_by_id(key.parent).map(|table| &**table)
}

fn rule(action: ReferentialAction) -> &'static str {
    match action {
        ReferentialAction::NoAction => "NO ACTION",
        ReferentialAction::Restrict => "RESTRICT",
        ReferentialAction::Cascade => "CASCADE",
        ReferentialAction::SetNull => "SET NULL",
        ReferentialAction::SetDefault => "SET DEFAULT",
    }
}

fn letter(action: ReferentialAction) -> &'static str {
    match action {
        ReferentialAction::NoAction => "a",
        ReferentialAction::Restrict => "r",
        ReferentialAction::Cascade => "c",
        ReferentialAction::SetNull => "n",
        ReferentialAction::SetDefault => "d",
    }
}

fn referential_constraints(source: &Source<'_>) -> Vec<Row> {
    let catalog = text(&source.image.database().name);
    let mut rows = Vec::new();
    for table in source.image.tables() {
        for key in &table.foreign_keys {
            let Some(parent) = parent(source, key) else { continue };
            let columns = parent.referenced_by(key).unwrap_or_default();
            rows.push(vec![
                catalog.clone(),
                text(&table.schema),
                text(&key.name),
                catalog.clone(),
                text(&parent.schema),
                match parent.key_over(&columns) {
                    Some(key) if !key.index_only => text(key.name),
                    _ => Datum::Null,
                },
                text(if key.full { "FULL" } else { "NONE" }),
                text(rule(key.on_update)),
                text(rule(key.on_delete)),
            ]);
        }
    }
    rows
}

/// `confrelid`, `confupdtype`, `confdeltype` and `confmatchtype` of `pg_constraint`.
pub(super) fn referred(key: Option<&ForeignKey>) -> [Datum; 4] {
    match key {
        None => [Datum::Oid(0), text(" "), text(" "), text(" ")],
        Some(key) => [
            Datum::Oid(key.parent),
            text(letter(key.on_update)),
            text(letter(key.on_delete)),
            text(if key.full { "f" } else { "s" }),
        ],
    }
}

/// The places that a foreign key's columns have in the constraint that they refer to.
pub(super) fn places(source: &Source<'_>, key: &ForeignKey) -> Vec<Option<usize>> {
    let found = || {
        let parent = parent(source, key)?;
        let columns = parent.referenced_by(key)?;
        let target = parent.key_over(&columns)?;
        Some(columns.iter().map(|column| target.columns.iter().position(|c| c == column)).collect())
    };
    found().unwrap_or_else(|| vec![None; key.columns.len()])
}

/// The index of the constraint that a foreign key refers to: its name's place among the parent's keys.
pub(super) fn target<'a>(
    source: &Source<'a>,
    key: &ForeignKey,
) -> Option<(&'a TableDescriptor, Option<usize>)> {
    let parent = parent(source, key)?;
    let columns = parent.referenced_by(key)?;
    parent.key_over(&columns).map(|key| (parent, key.unique))
}
