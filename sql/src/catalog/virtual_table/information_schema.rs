//! The schema `information_schema`: the SQL standard's views (PostgreSQL 15, chapter 37).

use super::{SCHEMAS, Source, VirtualTable, all, length_of, or_null, references, text, yes_or_no};
use crate::exec::Row;
use crate::types::{ColumnType, Datum, Type};

const SCHEMA: &str = "information_schema";

pub(super) const TABLES: &[VirtualTable] = &[
    VirtualTable {
        schema: SCHEMA,
        name: "schemata",
        columns: &[("catalog_name", Type::Name), ("schema_name", Type::Name), ("schema_owner", Type::Name)],
        rows: schemata,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "tables",
        columns: &[
            ("table_catalog", Type::Name),
            ("table_schema", Type::Name),
            ("table_name", Type::Name),
            ("table_type", Type::Varchar),
            ("self_referencing_column_name", Type::Name),
            ("reference_generation", Type::Varchar),
            ("user_defined_type_catalog", Type::Name),
            ("user_defined_type_schema", Type::Name),
            ("user_defined_type_name", Type::Name),
            ("is_insertable_into", Type::Varchar),
            ("is_typed", Type::Varchar),
            ("commit_action", Type::Varchar),
        ],
        rows: tables,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "columns",
        columns: &[
            ("table_catalog", Type::Name),
            ("table_schema", Type::Name),
            ("table_name", Type::Name),
            ("column_name", Type::Name),
            ("ordinal_position", Type::Int4),
            ("column_default", Type::Varchar),
            ("is_nullable", Type::Varchar),
            ("data_type", Type::Varchar),
            ("character_maximum_length", Type::Int4),
            ("character_octet_length", Type::Int4),
            ("numeric_precision", Type::Int4),
            ("numeric_precision_radix", Type::Int4),
            ("numeric_scale", Type::Int4),
            ("datetime_precision", Type::Int4),
            ("udt_catalog", Type::Name),
            ("udt_schema", Type::Name),
            ("udt_name", Type::Name),
            ("is_identity", Type::Varchar),
            ("is_generated", Type::Varchar),
            ("is_updatable", Type::Varchar),
        ],
        rows: columns,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "table_constraints",
        columns: &[
            ("constraint_catalog", Type::Name),
            ("constraint_schema", Type::Name),
            ("constraint_name", Type::Name),
            ("table_catalog", Type::Name),
            ("table_schema", Type::Name),
            ("table_name", Type::Name),
            ("constraint_type", Type::Varchar),
            ("is_deferrable", Type::Varchar),
            ("initially_deferred", Type::Varchar),
        ],
        rows: table_constraints,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "key_column_usage",
        columns: &[
            ("constraint_catalog", Type::Name),
            ("constraint_schema", Type::Name),
            ("constraint_name", Type::Name),
            ("table_catalog", Type::Name),
            ("table_schema", Type::Name),
            ("table_name", Type::Name),
            ("column_name", Type::Name),
            ("ordinal_position", Type::Int4),
            ("position_in_unique_constraint", Type::Int4),
        ],
        rows: key_column_usage,
    },
];

fn schemata(source: &Source<'_>) -> Vec<Row> {
    let catalog = &source.image.database().name;
    let stored = source.image.schemas().map(|s| s.name.as_str());
    SCHEMAS
        .iter()
        .copied()
        .chain(stored)
        .map(|name| vec![text(catalog), text(name), text("postgres")])
        .collect()
}

fn table_row(catalog: &str, schema: &str, name: &str, kind: &str, insertable: bool) -> Row {
    let mut row = vec![text(catalog), text(schema), text(name), text(kind)];
    row.extend([Datum::Null, Datum::Null, Datum::Null, Datum::Null, Datum::Null]);
    row.extend([yes_or_no(insertable), yes_or_no(false), Datum::Null]);
    row
}

fn tables(source: &Source<'_>) -> Vec<Row> {
    let catalog = &source.image.database().name;
    let stored = source.image.tables().map(|t| table_row(catalog, &t.schema, &t.name, "BASE TABLE", true));
    stored.chain(all().map(|t| table_row(catalog, t.schema, t.name, "VIEW", false))).collect()
}

/// Precision, radix and scale of a number type.
fn number_facts(ty: ColumnType) -> (Option<i32>, Option<i32>, Option<i32>) {
    match ty.ty {
        Type::Int2 => (Some(16), Some(2), Some(0)),
        Type::Int4 => (Some(32), Some(2), Some(0)),
        Type::Int8 => (Some(64), Some(2), Some(0)),
        Type::Float4 => (Some(24), Some(2), None),
        Type::Float8 => (Some(53), Some(2), None),
        Type::Numeric if ty.typmod >= 4 => {
            let modifier = ty.typmod - 4;
            // The scale is a signed number of 11 bits.
            let scale = ((modifier & 0x7ff) ^ 1024) - 1024;
            (Some(modifier >> 16 & 0xffff), Some(10), Some(scale))
        }
        Type::Numeric => (None, Some(10), None),
        _ => (None, None, None),
    }
}

struct ColumnFacts<'a> {
    name: &'a str,
    ty: ColumnType,
    not_null: bool,
    default: Option<&'a str>,
}

fn column_row(
    catalog: &str,
    schema: &str,
    table: &str,
    position: usize,
    column: &ColumnFacts<'_>,
    stored: bool,
) -> Row {
    let length = length_of(column.ty);
    let octets = match column.ty.ty {
        Type::Text | Type::Varchar | Type::Bpchar => Some(length.map_or(1 << 30, |n| n.saturating_mul(4))),
        _ => None,
    };
    let (precision, radix, scale) = number_facts(column.ty);
    let fraction = match column.ty.ty {
        Type::Date => Some(0),
        Type::Time | Type::Timestamp | Type::Timestamptz | Type::Interval => {
            Some(if column.ty.typmod >= 0 { column.ty.typmod & 0xffff } else { 6 })
        }
        _ => None,
    };
    vec![
        text(catalog),
        text(schema),
        text(table),
        text(column.name),
        Datum::Int4(i32::try_from(position).unwrap_or(i32::MAX)),
        or_null(column.default, text),
        yes_or_no(!column.not_null),
        text(column.ty.ty.name()),
        or_null(length, Datum::Int4),
        or_null(octets, Datum::Int4),
        or_null(precision, Datum::Int4),
        or_null(radix, Datum::Int4),
        or_null(scale, Datum::Int4),
        or_null(fraction, Datum::Int4),
        text(catalog),
        text("pg_catalog"),
        text(column.ty.ty.internal_name()),
        yes_or_no(false),
        text("NEVER"),
        yes_or_no(stored),
    ]
}

fn columns(source: &Source<'_>) -> Vec<Row> {
    let catalog = &source.image.database().name;
    let mut rows = Vec::new();
    for table in source.image.tables() {
        for (i, c) in table.columns.iter().enumerate() {
            let facts =
                ColumnFacts { name: &c.name, ty: c.ty, not_null: c.not_null, default: c.default.as_deref() };
            rows.push(column_row(catalog, &table.schema, &table.name, i + 1, &facts, true));
        }
    }
    for table in all() {
        for (i, &(name, ty)) in table.columns.iter().enumerate() {
            let facts = ColumnFacts { name, ty: ty.into(), not_null: false, default: None };
            rows.push(column_row(catalog, table.schema, table.name, i + 1, &facts, false));
        }
    }
    rows
}

fn table_constraints(source: &Source<'_>) -> Vec<Row> {
    let catalog = text(&source.image.database().name);
    let mut rows = Vec::new();
    for table in source.image.tables() {
        let mut push = |name: &str, kind: &str| {
            rows.push(vec![
                catalog.clone(),
                text(&table.schema),
                text(name),
                catalog.clone(),
                text(&table.schema),
                text(&table.name),
                text(kind),
                yes_or_no(false),
                yes_or_no(false),
            ]);
        };
        if let Some(key) = &table.primary_key {
            push(&key.name, "PRIMARY KEY");
        }
        for unique in table.unique.iter().filter(|unique| !unique.index_only) {
            push(&unique.name, "UNIQUE");
        }
        for check in &table.checks {
            push(&check.name, "CHECK");
        }
        for key in &table.foreign_keys {
            push(&key.name, "FOREIGN KEY");
        }
    }
    rows
}

fn key_column_usage(source: &Source<'_>) -> Vec<Row> {
    let catalog = text(&source.image.database().name);
    let place = |i: usize| Datum::Int4(i32::try_from(i + 1).unwrap_or(i32::MAX));
    let mut rows = Vec::new();
    for table in source.image.tables() {
        let mut push = |name: &str, column: usize, i: usize, referred: Option<usize>| {
            rows.push(vec![
                catalog.clone(),
                text(&table.schema),
                text(name),
                catalog.clone(),
                text(&table.schema),
                text(&table.name),
                text(&table.columns[column].name),
                place(i),
                or_null(referred, place),
            ]);
        };
        for key in table.keys().filter(|key| !key.index_only) {
            key.columns.iter().enumerate().for_each(|(i, &column)| push(key.name, column, i, None));
        }
        for key in &table.foreign_keys {
            for ((i, &column), referred) in
                key.columns.iter().enumerate().zip(references::places(source, key))
            {
                push(&key.name, column, i, referred);
            }
        }
    }
    rows
}
