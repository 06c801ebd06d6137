//! The schema `pg_catalog`: PostgreSQL's system catalogs (PostgreSQL 15, chapter 53), as far as clients need them.
//!
//! OIDs are the catalog's own ids. A primary key's index and constraint have no ids of their own; theirs are the table's
//! with a high bit set, which no allocated id has.

use super::{SCHEMAS, Source, VirtualTable, none, references, text};
use crate::catalog::{ForeignKey, PUBLIC_OID, TableDescriptor};
use crate::exec::Row;
use crate::types::{Datum, Type};

const SCHEMA: &str = "pg_catalog";
const INDEX_BIT: u32 = 1 << 30;
const CONSTRAINT_BIT: u32 = 1 << 31;
/// PostgreSQL's OID of the bootstrap superuser.
const OWNER: u32 = 10;

pub(super) const TABLES: &[VirtualTable] = &[
    VirtualTable {
        schema: SCHEMA,
        name: "pg_namespace",
        columns: &[("oid", Type::Oid), ("nspname", Type::Name), ("nspowner", Type::Oid)],
        rows: pg_namespace,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_class",
        columns: &[
            ("oid", Type::Oid),
            ("relname", Type::Name),
            ("relnamespace", Type::Oid),
            ("reltype", Type::Oid),
            ("relowner", Type::Oid),
            ("relam", Type::Oid),
            ("relfilenode", Type::Oid),
            ("reltablespace", Type::Oid),
            ("relpages", Type::Int4),
            ("reltuples", Type::Float4),
            ("reltoastrelid", Type::Oid),
            ("relhasindex", Type::Bool),
            ("relisshared", Type::Bool),
            ("relpersistence", Type::Text),
            ("relkind", Type::Text),
            ("relnatts", Type::Int2),
            ("relchecks", Type::Int2),
            ("relhasrules", Type::Bool),
            ("relhastriggers", Type::Bool),
            ("relrowsecurity", Type::Bool),
            ("relforcerowsecurity", Type::Bool),
            ("relreplident", Type::Text),
            ("relispartition", Type::Bool),
        ],
        rows: pg_class,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_attribute",
        columns: &[
            ("attrelid", Type::Oid),
            ("attname", Type::Name),
            ("atttypid", Type::Oid),
            ("attlen", Type::Int2),
            ("attnum", Type::Int2),
            ("attndims", Type::Int4),
            ("atttypmod", Type::Int4),
            ("attnotnull", Type::Bool),
            ("atthasdef", Type::Bool),
            ("attidentity", Type::Text),
            ("attgenerated", Type::Text),
            ("attisdropped", Type::Bool),
            ("attcollation", Type::Oid),
        ],
        rows: pg_attribute,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_attrdef",
        columns: &[("oid", Type::Oid), ("adrelid", Type::Oid), ("adnum", Type::Int2), ("adbin", Type::Text)],
        rows: pg_attrdef,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_type",
        columns: &[
            ("oid", Type::Oid),
            ("typname", Type::Name),
            ("typnamespace", Type::Oid),
            ("typowner", Type::Oid),
            ("typlen", Type::Int2),
            ("typbyval", Type::Bool),
            ("typtype", Type::Text),
            ("typcategory", Type::Text),
            ("typisdefined", Type::Bool),
            ("typdelim", Type::Text),
            ("typrelid", Type::Oid),
            ("typelem", Type::Oid),
            ("typarray", Type::Oid),
            ("typbasetype", Type::Oid),
            ("typtypmod", Type::Int4),
            ("typnotnull", Type::Bool),
            ("typcollation", Type::Oid),
        ],
        rows: pg_type,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_database",
        columns: &[
            ("oid", Type::Oid),
            ("datname", Type::Name),
            ("datdba", Type::Oid),
            ("encoding", Type::Int4),
            ("datcollate", Type::Text),
            ("datctype", Type::Text),
            ("datistemplate", Type::Bool),
            ("datallowconn", Type::Bool),
            ("datconnlimit", Type::Int4),
            ("datlocprovider", Type::Text),
            ("daticulocale", Type::Text),
            ("datacl", Type::Text),
        ],
        rows: pg_database,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_index",
        columns: &[
            ("indexrelid", Type::Oid),
            ("indrelid", Type::Oid),
            ("indnatts", Type::Int2),
            ("indnkeyatts", Type::Int2),
            ("indisunique", Type::Bool),
            ("indisprimary", Type::Bool),
            ("indisvalid", Type::Bool),
            ("indkey", Type::Text),
        ],
        rows: pg_index,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_constraint",
        columns: &[
            ("oid", Type::Oid),
            ("conname", Type::Name),
            ("connamespace", Type::Oid),
            ("contype", Type::Text),
            ("condeferrable", Type::Bool),
            ("condeferred", Type::Bool),
            ("convalidated", Type::Bool),
            ("conrelid", Type::Oid),
            ("conindid", Type::Oid),
            ("confrelid", Type::Oid),
            ("confupdtype", Type::Text),
            ("confdeltype", Type::Text),
            ("confmatchtype", Type::Text),
        ],
        rows: pg_constraint,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_tables",
        columns: &[
            ("schemaname", Type::Name),
            ("tablename", Type::Name),
            ("tableowner", Type::Name),
            ("tablespace", Type::Name),
            ("hasindexes", Type::Bool),
            ("hasrules", Type::Bool),
            ("hastriggers", Type::Bool),
            ("rowsecurity", Type::Bool),
        ],
        rows: pg_tables,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_indexes",
        columns: &[
            ("schemaname", Type::Name),
            ("tablename", Type::Name),
            ("indexname", Type::Name),
            ("tablespace", Type::Name),
            ("indexdef", Type::Text),
        ],
        rows: pg_indexes,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_roles",
        columns: &[
            ("oid", Type::Oid),
            ("rolname", Type::Name),
            ("rolsuper", Type::Bool),
            ("rolcanlogin", Type::Bool),
        ],
        rows: |_| vec![vec![Datum::Oid(OWNER), text("postgres"), Datum::Bool(true), Datum::Bool(true)]],
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_inherits",
        columns: &[("inhrelid", Type::Oid), ("inhparent", Type::Oid), ("inhseqno", Type::Int4)],
        rows: none,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_partitioned_table",
        columns: &[("partrelid", Type::Oid), ("partstrat", Type::Text), ("partnatts", Type::Int2)],
        rows: none,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_description",
        columns: &[
            ("objoid", Type::Oid),
            ("classoid", Type::Oid),
            ("objsubid", Type::Int4),
            ("description", Type::Text),
        ],
        rows: none,
    },
];

/// PostgreSQL's OIDs of its own schemas; ours is below the first that is handed out.
fn virtual_schema_oid(name: &str) -> u32 {
    match name {
        "pg_catalog" => 11,
        "information_schema" => 13183,
        _ => 16383,
    }
}

fn schema_oid(source: &Source<'_>, name: &str) -> u32 {
    source.image.schema(name).map_or(PUBLIC_OID, |s| s.id)
}

/// The index that a constraint rests on, or one without a constraint.
struct Index<'a> {
    oid: u32,
    name: &'a str,
    columns: &'a [usize],
    primary: bool,
    is_constraint: bool,
}

/// The indexes of a table: of its primary key, of its UNIQUE constraints, and others.
fn indexes(table: &TableDescriptor) -> impl Iterator<Item = Index<'_>> {
    let primary = table.primary_key.iter().map(|key| Index {
        oid: table.id | INDEX_BIT,
        name: &key.name,
        columns: &key.columns,
        primary: true,
        is_constraint: true,
    });
    let unique = table.unique.iter().map(|unique| Index {
        oid: unique.index_id,
        name: &unique.name,
        columns: &unique.columns,
        primary: false,
        is_constraint: !unique.index_only,
    });
    primary.chain(unique)
}

fn int2(n: usize) -> Datum {
    Datum::Int2(i16::try_from(n).unwrap_or(i16::MAX))
}

fn pg_namespace(source: &Source<'_>) -> Vec<Row> {
    let row = |oid, name: &str| vec![Datum::Oid(oid), text(name), Datum::Oid(OWNER)];
    let stored = source.image.schemas().map(|s| row(s.id, &s.name));
    SCHEMAS.iter().map(|name| row(virtual_schema_oid(name), name)).chain(stored).collect()
}

fn class_row(table: &TableDescriptor, namespace: u32, index: Option<&Index<'_>>) -> Row {
    let (oid, name, natts) = match index {
        Some(index) => (index.oid, index.name, index.columns.len()),
        None => (table.id, table.name.as_str(), table.columns.len()),
    };
    let is_table = index.is_none();
    vec![
        Datum::Oid(oid),
        text(name),
        Datum::Oid(namespace),
        Datum::Oid(0),
        Datum::Oid(OWNER),
        Datum::Oid(if is_table { 2 } else { 403 }),
        Datum::Oid(table.storage_id),
        Datum::Oid(0),
        Datum::Int4(0),
        Datum::Float4(-1.0),
        Datum::Oid(0),
        Datum::Bool(is_table && indexes(table).next().is_some()),
        Datum::Bool(false),
        text("p"),
        text(if is_table { "r" } else { "i" }),
        int2(natts),
        int2(if is_table { table.checks.len() } else { 0 }),
        Datum::Bool(false),
        Datum::Bool(false),
        Datum::Bool(false),
        Datum::Bool(false),
        text(if is_table { "d" } else { "n" }),
        Datum::Bool(false),
    ]
}

fn pg_class(source: &Source<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in source.image.tables() {
        let namespace = schema_oid(source, &table.schema);
        rows.push(class_row(table, namespace, None));
        rows.extend(indexes(table).map(|index| class_row(table, namespace, Some(&index))));
    }
    rows
}

/// The tables and indexes that are found by their bare name: those of the search path, the first of each name.
pub(super) fn visible_relations(source: &Source<'_>) -> Vec<Row> {
    let relations = pg_class(source);
    let mut seen = std::collections::HashSet::new();
    let mut rows = Vec::new();
    for schema in source.search_path {
        let Some(namespace) = source.image.schema(schema).map(|s| s.id) else { continue };
        let within = relations.iter().filter(|row| matches!(row[2], Datum::Oid(oid) if oid == namespace));
        for (oid, name) in within.map(|row| (&row[0], &row[1])) {
            if let Datum::Text(name) = name
                && seen.insert(name)
            {
                rows.push(vec![oid.clone()]);
            }
        }
    }
    rows
}

fn pg_attribute(source: &Source<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in source.image.tables() {
        let of_table = (0..table.columns.len()).map(|i| (table.id, i, i));
        let of_indexes = indexes(table)
            .flat_map(|index| index.columns.iter().enumerate().map(move |(at, &i)| (index.oid, at, i)));
        for (relation, at, i) in of_table.chain(of_indexes) {
            let column = &table.columns[i];
            let is_table = relation == table.id;
            rows.push(vec![
                Datum::Oid(relation),
                text(&column.name),
                Datum::Oid(column.ty.ty.oid()),
                Datum::Int2(column.ty.ty.len()),
                int2(at + 1),
                Datum::Int4(0),
                Datum::Int4(column.ty.typmod),
                Datum::Bool(is_table && column.not_null),
                Datum::Bool(is_table && column.default.is_some()),
                text(""),
                text(""),
                Datum::Bool(false),
                Datum::Oid(if column.ty.ty.is_string() { 100 } else { 0 }),
            ]);
        }
    }
    rows
}

fn pg_attrdef(source: &Source<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in source.image.tables() {
        for (i, column) in table.columns.iter().enumerate() {
            if let Some(default) = &column.default {
                let oid = Datum::Oid(table.id | CONSTRAINT_BIT | INDEX_BIT);
                rows.push(vec![oid, Datum::Oid(table.id), int2(i + 1), text(default)]);
            }
        }
    }
    rows
}

fn category(ty: Type) -> &'static str {
    match ty {
        Type::Bool => "B",
        Type::Int2 | Type::Int4 | Type::Int8 | Type::Float4 | Type::Float8 | Type::Numeric | Type::Oid => "N",
        Type::Text | Type::Varchar | Type::Bpchar | Type::Name => "S",
        Type::Date | Type::Time | Type::Timestamp | Type::Timestamptz => "D",
        Type::Interval => "T",
        Type::Bytea | Type::Uuid => "U",
        Type::Unknown => "X",
        Type::Void => "P",
    }
}

fn pg_type(_: &Source<'_>) -> Vec<Row> {
    Type::ALL
        .into_iter()
        .map(|ty| {
            vec![
                Datum::Oid(ty.oid()),
                text(ty.internal_name()),
                Datum::Oid(11),
                Datum::Oid(OWNER),
                Datum::Int2(ty.len()),
                Datum::Bool((1..=8).contains(&ty.len())),
                text(if matches!(ty, Type::Unknown | Type::Void) { "p" } else { "b" }),
                text(category(ty)),
                Datum::Bool(true),
                text(","),
                Datum::Oid(0),
                Datum::Oid(0),
                Datum::Oid(0),
                Datum::Oid(0),
                Datum::Int4(-1),
                Datum::Bool(false),
                Datum::Oid(if ty.is_string() && ty != Type::Unknown { 100 } else { 0 }),
            ]
        })
        .collect()
}

fn pg_database(source: &Source<'_>) -> Vec<Row> {
    let row = |oid, name: &str| {
        vec![
            Datum::Oid(oid),
            text(name),
            Datum::Oid(OWNER),
            Datum::Int4(6),
            text("C"),
            text("C"),
            Datum::Bool(false),
            Datum::Bool(true),
            Datum::Int4(-1),
            text("c"),
            Datum::Null,
            Datum::Null,
        ]
    };
    source.image.databases().iter().map(|d| row(d.id, &d.name)).collect()
}

fn pg_index(source: &Source<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in source.image.tables() {
        for index in indexes(table) {
            let columns: Vec<String> = index.columns.iter().map(|i| (i + 1).to_string()).collect();
            rows.push(vec![
                Datum::Oid(index.oid),
                Datum::Oid(table.id),
                int2(columns.len()),
                int2(columns.len()),
                Datum::Bool(true),
                Datum::Bool(index.primary),
                Datum::Bool(true),
                text(columns.join(" ")),
            ]);
        }
    }
    rows
}

fn pg_constraint(source: &Source<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in source.image.tables() {
        let namespace = schema_oid(source, &table.schema);
        let mut push = |name: &str, kind: &str, oid: u32, index: u32, key: Option<&ForeignKey>| {
            let mut row = vec![
                Datum::Oid(oid | CONSTRAINT_BIT),
                text(name),
                Datum::Oid(namespace),
                text(kind),
                Datum::Bool(false),
                Datum::Bool(false),
                Datum::Bool(true),
                Datum::Oid(table.id),
                Datum::Oid(index),
            ];
            row.extend(references::referred(key));
            rows.push(row);
        };
        for index in indexes(table).filter(|index| index.is_constraint) {
            push(index.name, if index.primary { "p" } else { "u" }, index.oid, index.oid, None);
        }
        for check in &table.checks {
            push(&check.name, "c", table.id, 0, None);
        }
        for key in &table.foreign_keys {
            let index = references::target(source, key).map_or(0, |(parent, unique)| match unique {
                None => parent.id | INDEX_BIT,
                Some(at) => parent.unique[at].index_id,
            });
            push(&key.name, "f", key.index_id, index, Some(key));
        }
    }
    rows
}

fn pg_tables(source: &Source<'_>) -> Vec<Row> {
    let tables = source.image.tables();
    tables
        .map(|table| {
            vec![
                text(&table.schema),
                text(&table.name),
                text("postgres"),
                Datum::Null,
                Datum::Bool(indexes(table).next().is_some()),
                Datum::Bool(false),
                Datum::Bool(false),
                Datum::Bool(false),
            ]
        })
        .collect()
}

fn pg_indexes(source: &Source<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in source.image.tables() {
        for index in indexes(table) {
            let columns: Vec<&str> = index.columns.iter().map(|&i| table.columns[i].name.as_str()).collect();
            rows.push(vec![
                text(&table.schema),
                text(&table.name),
                text(index.name),
                Datum::Null,
                text(format!(
                    "CREATE UNIQUE INDEX {} ON {}.{} USING btree ({})",
                    index.name,
                    table.schema,
                    table.name,
                    columns.join(", ")
                )),
            ]);
        }
    }
    rows
}
