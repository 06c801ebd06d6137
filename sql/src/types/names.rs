//! Type names: from SQL's spellings to [`ColumnType`] and back.

use super::{ColumnType, Type};
use crate::error::{Result, SqlError, SqlState};

/// The type that SQL calls `name` (already folded to lower case, without `pg_catalog.`), with the modifiers that were
/// written in parentheses. `None`: there is no such type. `interval day to second (3)` passes only the precision.
pub fn by_name(name: &str, args: &[i64]) -> Result<Option<ColumnType>> {
    let ty = match name {
        "bool" | "boolean" => Type::Bool,
        "int2" | "smallint" => Type::Int2,
        "int4" | "int" | "integer" => Type::Int4,
        "int8" | "bigint" => Type::Int8,
        "float4" | "real" => Type::Float4,
        "float8" | "double precision" | "double" => Type::Float8,
        "float" => {
            return match args {
                [] => Ok(Some(Type::Float8.into())),
                [p] if *p < 1 => Err(SqlError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    "precision for type float must be at least 1 bit",
                )),
                [p] if *p <= 24 => Ok(Some(Type::Float4.into())),
                [p] if *p <= 53 => Ok(Some(Type::Float8.into())),
                _ => Err(SqlError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    "precision for type float must be less than 54 bits",
                )),
            };
        }
        "numeric" | "decimal" | "dec" => Type::Numeric,
        "text" => Type::Text,
        "varchar" | "character varying" | "char varying" => Type::Varchar,
        "char" | "character" | "nchar" => {
            let args = if args.is_empty() { &[1] } else { args };
            return typmod(Type::Bpchar, args).map(|typmod| Some(ColumnType { ty: Type::Bpchar, typmod }));
        }
        "bpchar" => Type::Bpchar,
        "name" => Type::Name,
        "bytea" => Type::Bytea,
        "date" => Type::Date,
        "time" | "time without time zone" => Type::Time,
        "timestamp" | "timestamp without time zone" => Type::Timestamp,
        "timestamptz" | "timestamp with time zone" => Type::Timestamptz,
        "interval" => Type::Interval,
        "uuid" => Type::Uuid,
        "oid" | "regclass" | "regtype" | "regproc" | "xid" => Type::Oid,
        "void" => Type::Void,
        "unknown" => Type::Unknown,
        _ => return Ok(None),
    };
    typmod(ty, args).map(|typmod| Some(ColumnType { ty, typmod }))
}

fn typmod(ty: Type, args: &[i64]) -> Result<i32> {
    let invalid = |message: String| Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message));
    match (ty, args) {
        (_, []) => Ok(-1),
        (Type::Varchar | Type::Bpchar, [n]) => {
            let name = if ty == Type::Varchar { "varchar" } else { "char" };
            match *n {
                n if n < 1 => invalid(format!("length for type {name} must be at least 1")),
                n if n > 10_485_760 => invalid(format!("length for type {name} cannot exceed 10485760")),
                n => Ok(n as i32 + 4),
            }
        }
        (Type::Numeric, [precision, rest @ ..]) if rest.len() <= 1 => {
            let scale = rest.first().copied().unwrap_or(0);
            if !(1..=1000).contains(precision) {
                return invalid(format!("NUMERIC precision {precision} must be between 1 and 1000"));
            }
            if !(-1000..=1000).contains(&scale) {
                return invalid(format!("NUMERIC scale {scale} must be between -1000 and 1000"));
            }
            Ok((((*precision as i32) << 16) | (scale as i32 & 0x7ff)) + 4)
        }
        (Type::Numeric, _) => invalid("invalid NUMERIC type modifier".into()),
        (Type::Time | Type::Timestamp | Type::Timestamptz | Type::Interval, [p]) => {
            let (name, suffix) = match ty {
                Type::Time => ("TIME", ""),
                Type::Timestamp => ("TIMESTAMP", ""),
                Type::Timestamptz => ("TIMESTAMP", " WITH TIME ZONE"),
                _ => ("INTERVAL", ""),
            };
            match *p {
                p if p < 0 => invalid(format!("{name}({p}){suffix} precision must not be negative")),
                // PostgreSQL warns and takes the greatest precision there is.
                p => Ok(p.min(6) as i32),
            }
        }
        (
            Type::Varchar | Type::Bpchar | Type::Time | Type::Timestamp | Type::Timestamptz | Type::Interval,
            _,
        ) => invalid("invalid type modifier".into()),
        _ => Err(SqlError::new(
            SqlState::SYNTAX_ERROR,
            format!("type modifier is not allowed for type \"{}\"", ty.internal_name()),
        )),
    }
}

impl ColumnType {
    /// The `n` of `varchar(n)` and `char(n)`, in characters.
    pub fn length(self) -> Option<usize> {
        match self.ty {
            Type::Varchar | Type::Bpchar if self.typmod >= 4 => Some(self.typmod as usize - 4),
            _ => None,
        }
    }

    /// Precision and scale of `numeric(p,s)`.
    pub fn precision_scale(self) -> Option<(u32, i32)> {
        if self.ty != Type::Numeric || self.typmod < 4 {
            return None;
        }
        let raw = self.typmod - 4;
        // The scale is a signed number of 11 bits.
        Some(((raw >> 16) as u32 & 0xffff, ((raw & 0x7ff) ^ 1024) - 1024))
    }

    /// The `p` of `time(p)`, `timestamp(p)` … .
    pub fn time_precision(self) -> Option<u32> {
        match self.ty {
            Type::Time | Type::Timestamp | Type::Timestamptz | Type::Interval if self.typmod >= 0 => {
                Some(self.typmod.min(6) as u32)
            }
            _ => None,
        }
    }
}

/// The type with its modifier as PostgreSQL's `format_type` spells it: `character varying(10)`, `numeric(8,2)`.
pub fn format_type(column: ColumnType) -> String {
    let ty = column.ty;
    if let Some(n) = column.length() {
        return format!("{}({n})", ty.name());
    }
    if let Some((precision, scale)) = column.precision_scale() {
        return format!("numeric({precision},{scale})");
    }
    if let Some(p) = column.time_precision() {
        return match ty {
            Type::Time => format!("time({p}) without time zone"),
            Type::Timestamp => format!("timestamp({p}) without time zone"),
            Type::Timestamptz => format!("timestamp({p}) with time zone"),
            _ => format!("interval({p})"),
        };
    }
    match ty {
        Type::Bpchar => "bpchar".into(),
        _ => ty.name().into(),
    }
}
