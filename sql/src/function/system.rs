//! What a session says about itself, UUIDs, and the functions that clients ask of any PostgreSQL server.

use super::Function;
use super::define::{Args, f};
use crate::types::{ColumnType, Datum, Type, format_type};

pub(super) static FUNCTIONS: &[Function] = &[
    f("version", &[], Type::Text, |_, _| {
        Ok(Datum::text(concat!("PostgreSQL 15.0 (Flotilla ", env!("CARGO_PKG_VERSION"), ")")))
    })
    .stable(),
    f("current_user", &[], Type::Name, |c, _| Ok(Datum::Text(c.user.clone()))).stable(),
    f("session_user", &[], Type::Name, |c, _| Ok(Datum::Text(c.user.clone()))).stable(),
    f("user", &[], Type::Name, |c, _| Ok(Datum::Text(c.user.clone()))).stable(),
    f("current_role", &[], Type::Name, |c, _| Ok(Datum::Text(c.user.clone()))).stable(),
    f("current_database", &[], Type::Name, |c, _| Ok(Datum::Text(c.database.clone()))).stable(),
    f("current_catalog", &[], Type::Name, |c, _| Ok(Datum::Text(c.database.clone()))).stable(),
    f("current_schema", &[], Type::Name, |c, _| Ok(Datum::Text(c.schema.clone()))).stable(),
    f("getdatabaseencoding", &[], Type::Name, |_, _| Ok(Datum::text("UTF8"))).stable(),
    f("pg_encoding_to_char", &[Type::Int4], Type::Name, |_, a| {
        Ok(Datum::text(if a.int4(0)? == 6 { "UTF8" } else { "" }))
    })
    .stable(),
    f("pg_client_encoding", &[], Type::Name, |_, _| Ok(Datum::text("UTF8"))).stable(),
    f("pg_get_userbyid", &[Type::Oid], Type::Name, |c, _| Ok(Datum::Text(c.user.clone()))).stable(),
    f("format_type", &[Type::Oid, Type::Int4], Type::Text, |_, a| {
        let Datum::Oid(oid) = a[0] else { return Ok(Datum::Null) };
        let typmod = match a[1] {
            Datum::Int4(typmod) => typmod,
            _ => -1,
        };
        Ok(match Type::from_oid(oid) {
            Some(ty) => Datum::text(format_type(ColumnType { ty, typmod })),
            None if oid == 0 => Datum::text("-"),
            None => Datum::text("???"),
        })
    })
    .lenient()
    .stable(),
    f("gen_random_uuid", &[], Type::Uuid, |c, _| {
        let random = c.seams.random_u128().to_be_bytes();
        Ok(Datum::Uuid(*uuid::Builder::from_random_bytes(random).as_uuid().as_bytes()))
    })
    .volatile(),
    f("pg_backend_pid", &[], Type::Int4, |c, _| Ok(Datum::Int4(c.pid))).stable(),
    // Every type, function and operator there is stands in pg_catalog.
    f("pg_type_is_visible", &[Type::Oid], Type::Bool, |_, _| Ok(Datum::Bool(true))).stable(),
    f("pg_function_is_visible", &[Type::Oid], Type::Bool, |_, _| Ok(Datum::Bool(true))).stable(),
    f("pg_operator_is_visible", &[Type::Oid], Type::Bool, |_, _| Ok(Datum::Bool(true))).stable(),
    // There are no comments.
    f("obj_description", &[Type::Oid, Type::Name], Type::Text, |_, _| Ok(Datum::Null)).stable(),
    f("shobj_description", &[Type::Oid, Type::Name], Type::Text, |_, _| Ok(Datum::Null)).stable(),
    f("col_description", &[Type::Oid, Type::Int4], Type::Text, |_, _| Ok(Datum::Null)).stable(),
    // Expressions are kept as text.
    f("pg_get_expr", &[Type::Text, Type::Oid], Type::Text, |_, a| Ok(a[0].clone())).stable(),
    f("pg_get_expr", &[Type::Text, Type::Oid, Type::Bool], Type::Text, |_, a| Ok(a[0].clone())).stable(),
    // Of the system's columns that are arrays in PostgreSQL, which are all NULL here.
    f("array_to_string", &[Type::Text, Type::Text], Type::Text, |_, _| {
        Err(crate::error::SqlError::unsupported("an array"))
    }),
    f("pg_size_pretty", &[Type::Int8], Type::Text, |_, a| Ok(Datum::text(size_pretty(a.int8(0)?)))),
    f("pg_size_pretty", &[Type::Numeric], Type::Text, |_, a| {
        let bytes = a.numeric(0)?.to_i128().and_then(|v| i64::try_from(v).ok()).unwrap_or(i64::MAX);
        Ok(Datum::text(size_pretty(bytes)))
    }),
    f("hashtext", &[Type::Text], Type::Int4, |_, a| {
        // Any fixed hash will do: clients use it to spread, never to compare with another server's.
        let hash =
            a.text(0)?.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        Ok(Datum::Int4(hash as i32))
    }),
    f("pg_typeof", &[Type::Unknown], Type::Text, |_, a| Ok(Datum::text(storage_type(&a[0]).name())))
        .lenient(),
];

/// The type that a value is stored as: for `pg_typeof`, whose answer the binder gives where it knows better.
fn storage_type(datum: &Datum) -> Type {
    match datum {
        Datum::Null => Type::Unknown,
        Datum::Bool(_) => Type::Bool,
        Datum::Int2(_) => Type::Int2,
        Datum::Int4(_) => Type::Int4,
        Datum::Int8(_) => Type::Int8,
        Datum::Float4(_) => Type::Float4,
        Datum::Float8(_) => Type::Float8,
        Datum::Numeric(_) => Type::Numeric,
        Datum::Text(_) => Type::Text,
        Datum::Bytea(_) => Type::Bytea,
        Datum::Date(_) => Type::Date,
        Datum::Time(_) => Type::Time,
        Datum::Timestamp(_) => Type::Timestamp,
        Datum::Timestamptz(_) => Type::Timestamptz,
        Datum::Interval(_) => Type::Interval,
        Datum::Uuid(_) => Type::Uuid,
        Datum::Oid(_) => Type::Oid,
    }
}

fn size_pretty(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    // Each unit shows up to 10239 of the one below, rounded half away from zero.
    let mut value = bytes;
    if value.unsigned_abs() < 10 * 1024 {
        return format!("{value} bytes");
    }
    // One bit more than the unit needs is kept for rounding.
    value /= 512;
    let mut unit = 1;
    while unit + 1 < UNITS.len() && value.unsigned_abs() >= 20 * 1024 - 1 {
        value /= 1024;
        unit += 1;
    }
    let rounded = if value >= 0 { (value + 1) / 2 } else { (value - 1) / 2 };
    format!("{rounded} {}", UNITS[unit])
}
