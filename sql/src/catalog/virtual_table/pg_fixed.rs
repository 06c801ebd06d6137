//! Catalogs of `pg_catalog` whose rows are the same in every database, most of them none: they are asked about by clients
//! (psql's `\d` family) that would stop at a catalog that isn't there.

use super::{VirtualTable, none, text};
use crate::types::{Datum, Type};

const SCHEMA: &str = "pg_catalog";

pub(super) const TABLES: &[VirtualTable] = &[
    VirtualTable {
        schema: SCHEMA,
        name: "pg_am",
        columns: &[("oid", Type::Oid), ("amname", Type::Name), ("amtype", Type::Text)],
        rows: |_| {
            let row = |oid, name, kind| vec![Datum::Oid(oid), text(name), text(kind)];
            vec![row(2, "heap", "t"), row(403, "btree", "i")]
        },
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_extension",
        columns: &[
            ("oid", Type::Oid),
            ("extname", Type::Name),
            ("extowner", Type::Oid),
            ("extnamespace", Type::Oid),
            ("extrelocatable", Type::Bool),
            ("extversion", Type::Text),
        ],
        rows: none,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_auth_members",
        columns: &[
            ("roleid", Type::Oid),
            ("member", Type::Oid),
            ("grantor", Type::Oid),
            ("admin_option", Type::Bool),
        ],
        rows: none,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_views",
        columns: &[
            ("schemaname", Type::Name),
            ("viewname", Type::Name),
            ("viewowner", Type::Name),
            ("definition", Type::Text),
        ],
        rows: none,
    },
    VirtualTable {
        schema: SCHEMA,
        name: "pg_sequences",
        columns: &[("schemaname", Type::Name), ("sequencename", Type::Name), ("sequenceowner", Type::Name)],
        rows: none,
    },
];
