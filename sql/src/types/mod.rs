//! SQL types and values.
//!
//! [`Type`] is a type of the catalogue, [`ColumnType`] a type with its modifier (`varchar(10)`, `numeric(8,2)`), and
//! [`Datum`] a value. Values of `char(n)` are kept without their trailing blanks, which is how PostgreSQL compares
//! them; the blanks are added on output, from the modifier.

pub mod calendar;
mod coerce;
mod compare;
mod datum;
pub mod io;
pub mod key;
mod names;
pub mod numeric;
mod numeric_math;
pub mod row;
pub(crate) mod zone;

pub use coerce::coerce;
pub use compare::{DatumKey, RowKey, compare, compare_floats, equal};
pub use datum::{Datum, Interval};
pub use names::{by_name, format_type};
pub use numeric::Numeric;
pub use zone::TimeZone;

/// A type. The discriminants' OIDs are PostgreSQL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Type {
    /// The type of an untyped literal or NULL before it is resolved.
    Unknown,
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric`
    Numeric,
    /// `text`
    Text,
    /// `character varying`
    Varchar,
    /// `character`
    Bpchar,
    /// `name`: identifiers in system views
    Name,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time without time zone`
    Time,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    Timestamptz,
    /// `interval`
    Interval,
    /// `uuid`
    Uuid,
    /// `oid`
    Oid,
    /// `void`: what a function without a result returns
    Void,
}

impl Type {
    /// PostgreSQL's OID of the type.
    pub fn oid(self) -> u32 {
        match self {
            Type::Unknown => 705,
            Type::Bool => 16,
            Type::Int2 => 21,
            Type::Int4 => 23,
            Type::Int8 => 20,
            Type::Float4 => 700,
            Type::Float8 => 701,
            Type::Numeric => 1700,
            Type::Text => 25,
            Type::Varchar => 1043,
            Type::Bpchar => 1042,
            Type::Name => 19,
            Type::Bytea => 17,
            Type::Date => 1082,
            Type::Time => 1083,
            Type::Timestamp => 1114,
            Type::Timestamptz => 1184,
            Type::Interval => 1186,
            Type::Uuid => 2950,
            Type::Oid => 26,
            Type::Void => 2278,
        }
    }

    /// All types.
    pub const ALL: [Type; 21] = [
        Type::Unknown,
        Type::Bool,
        Type::Int2,
        Type::Int4,
        Type::Int8,
        Type::Float4,
        Type::Float8,
        Type::Numeric,
        Type::Text,
        Type::Varchar,
        Type::Bpchar,
        Type::Name,
        Type::Bytea,
        Type::Date,
        Type::Time,
        Type::Timestamp,
        Type::Timestamptz,
        Type::Interval,
        Type::Uuid,
        Type::Oid,
        Type::Void,
    ];

    /// The type with this OID.
    pub fn from_oid(oid: u32) -> Option<Type> {
        Type::ALL.into_iter().find(|t| t.oid() == oid)
    }

    /// `pg_type.typlen`: bytes of a fixed-size type, -1 for a variable one.
    #[allow(clippy::len_without_is_empty, reason = "a property of the type, not of a collection")]
    pub fn len(self) -> i16 {
        match self {
            Type::Bool => 1,
            Type::Int2 => 2,
            Type::Int4 | Type::Float4 | Type::Date | Type::Oid | Type::Void => 4,
            Type::Int8 | Type::Float8 | Type::Time | Type::Timestamp | Type::Timestamptz => 8,
            Type::Interval | Type::Uuid => 16,
            Type::Name => 64,
            Type::Unknown => -2,
            Type::Numeric | Type::Text | Type::Varchar | Type::Bpchar | Type::Bytea => -1,
        }
    }

    /// The name as PostgreSQL's messages and `format_type` spell it.
    pub fn name(self) -> &'static str {
        match self {
            Type::Unknown => "unknown",
            Type::Bool => "boolean",
            Type::Int2 => "smallint",
            Type::Int4 => "integer",
            Type::Int8 => "bigint",
            Type::Float4 => "real",
            Type::Float8 => "double precision",
            Type::Numeric => "numeric",
            Type::Text => "text",
            Type::Varchar => "character varying",
            Type::Bpchar => "character",
            Type::Name => "name",
            Type::Bytea => "bytea",
            Type::Date => "date",
            Type::Time => "time without time zone",
            Type::Timestamp => "timestamp without time zone",
            Type::Timestamptz => "timestamp with time zone",
            Type::Interval => "interval",
            Type::Uuid => "uuid",
            Type::Oid => "oid",
            Type::Void => "void",
        }
    }

    /// `pg_type.typname`, which also names the column of a bare cast (`SELECT '1'::bigint` is called `int8`).
    pub const fn internal_name(self) -> &'static str {
        match self {
            Type::Unknown => "unknown",
            Type::Bool => "bool",
            Type::Int2 => "int2",
            Type::Int4 => "int4",
            Type::Int8 => "int8",
            Type::Float4 => "float4",
            Type::Float8 => "float8",
            Type::Numeric => "numeric",
            Type::Text => "text",
            Type::Varchar => "varchar",
            Type::Bpchar => "bpchar",
            Type::Name => "name",
            Type::Bytea => "bytea",
            Type::Date => "date",
            Type::Time => "time",
            Type::Timestamp => "timestamp",
            Type::Timestamptz => "timestamptz",
            Type::Interval => "interval",
            Type::Uuid => "uuid",
            Type::Oid => "oid",
            Type::Void => "void",
        }
    }

    /// Whether the type's values are strings.
    pub fn is_string(self) -> bool {
        matches!(self, Type::Text | Type::Varchar | Type::Bpchar | Type::Name | Type::Unknown)
    }
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A type with its modifier, in PostgreSQL's encoding (`atttypmod`): -1 for none; `varchar(n)` and `char(n)`: n + 4;
/// `numeric(p,s)`: (p << 16 | s & 0x7ff) + 4; time types: the precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ColumnType {
    /// The type.
    pub ty: Type,
    /// The modifier.
    pub typmod: i32,
}

impl ColumnType {
    /// A type without a modifier.
    pub const fn plain(ty: Type) -> Self {
        Self { ty, typmod: -1 }
    }
}

impl From<Type> for ColumnType {
    fn from(ty: Type) -> Self {
        Self::plain(ty)
    }
}

/// The categories that PostgreSQL's resolution rules reason about (`pg_type.typcategory`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "PostgreSQL's own names")]
pub enum Category {
    Boolean,
    Numeric,
    String,
    DateTime,
    Timespan,
    User,
    Unknown,
    Pseudo,
}

impl Type {
    /// The type's category.
    pub fn category(self) -> Category {
        match self {
            Type::Bool => Category::Boolean,
            Type::Int2
            | Type::Int4
            | Type::Int8
            | Type::Float4
            | Type::Float8
            | Type::Numeric
            | Type::Oid => Category::Numeric,
            Type::Text | Type::Varchar | Type::Bpchar | Type::Name => Category::String,
            Type::Date | Type::Time | Type::Timestamp | Type::Timestamptz => Category::DateTime,
            Type::Interval => Category::Timespan,
            Type::Bytea | Type::Uuid => Category::User,
            Type::Unknown => Category::Unknown,
            Type::Void => Category::Pseudo,
        }
    }

    /// Whether the type is preferred within its category (`pg_type.typispreferred`).
    pub fn is_preferred(self) -> bool {
        matches!(
            self,
            Type::Bool | Type::Float8 | Type::Oid | Type::Text | Type::Timestamptz | Type::Interval
        )
    }
}

#[cfg(test)]
mod tests;
