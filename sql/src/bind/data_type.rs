//! Types as a statement writes them.

use sqlparser::ast::{
    ArrayElemTypeDef, CharacterLength, DataType, ExactNumberInfo, ObjectName, TimezoneInfo,
};

use super::scope::fold_part;
use crate::error::{Result, SqlError, SqlState};
use crate::types::{ColumnType, by_name};

/// The type that is meant, or `42704` / `0A000`.
pub(super) fn resolve(ty: &DataType) -> Result<ColumnType> {
    match ty {
        DataType::Character(n) | DataType::Char(n) => with_length("char", n),
        DataType::CharacterVarying(n) | DataType::CharVarying(n) | DataType::Varchar(n) => {
            with_length("varchar", n)
        }
        DataType::Uuid => named("uuid", &[]),
        DataType::Numeric(info) | DataType::Decimal(info) | DataType::Dec(info) => {
            named("numeric", &numbers(info)?)
        }
        DataType::Float(info) => named("float", &numbers(info)?),
        DataType::Int2(None) | DataType::SmallInt(None) => named("int2", &[]),
        DataType::Int(None) | DataType::Int4(None) | DataType::Integer(None) => named("int4", &[]),
        DataType::Int8(None) | DataType::BigInt(None) => named("int8", &[]),
        DataType::Float4 | DataType::Real => named("float4", &[]),
        DataType::Float8 | DataType::DoublePrecision => named("float8", &[]),
        DataType::Bool | DataType::Boolean => named("bool", &[]),
        DataType::Date => named("date", &[]),
        DataType::Time(p, zone) => match zone {
            TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => named("time", &precision(*p)?),
            TimezoneInfo::WithTimeZone | TimezoneInfo::Tz => {
                Err(SqlError::unsupported("type time with time zone"))
            }
        },
        DataType::Timestamp(p, zone) => match zone {
            TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => named("timestamp", &precision(*p)?),
            TimezoneInfo::WithTimeZone | TimezoneInfo::Tz => named("timestamptz", &precision(*p)?),
        },
        DataType::Interval { fields, precision: p } => match fields {
            None => named("interval", &precision(*p)?),
            Some(_) => Err(SqlError::unsupported("an interval type with fields")),
        },
        DataType::Text => named("text", &[]),
        DataType::Bytea => named("bytea", &[]),
        DataType::Regclass => named("regclass", &[]),
        DataType::Custom(name, modifiers) => custom(name, modifiers),
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(..)
            | ArrayElemTypeDef::AngleBracket(_)
            | ArrayElemTypeDef::None
            | ArrayElemTypeDef::Parenthesis(_),
        ) => Err(SqlError::unsupported("an array type")),
        DataType::JSON | DataType::JSONB => {
            Err(SqlError::unsupported(format!("type {}", ty.to_string().to_lowercase())))
        }
        // Names that are types elsewhere, and types of PostgreSQL's that aren't there yet.
        other => {
            let name = other.to_string().to_lowercase();
            let known = matches!(
                other,
                DataType::Bit(_)
                    | DataType::BitVarying(_)
                    | DataType::VarBit(_)
                    | DataType::GeometricType(_)
                    | DataType::TsVector
                    | DataType::TsQuery
                    | DataType::Trigger
            );
            if known { Err(SqlError::unsupported(format!("type {name}"))) } else { Err(undefined(&name)) }
        }
    }
}

fn named(name: &str, args: &[i64]) -> Result<ColumnType> {
    by_name(name, args)?.ok_or_else(|| undefined(name))
}

fn undefined(name: &str) -> SqlError {
    SqlError::new(SqlState::UNDEFINED_OBJECT, format!("type \"{name}\" does not exist"))
}

fn with_length(name: &str, length: &Option<CharacterLength>) -> Result<ColumnType> {
    match length {
        None => named(name, &[]),
        Some(CharacterLength::IntegerLength { length, unit: None }) => named(name, &[number(*length)?]),
        Some(CharacterLength::IntegerLength { unit: Some(_), .. } | CharacterLength::Max) => {
            Err(SqlError::unsupported("a length unit"))
        }
    }
}

fn number(n: u64) -> Result<i64> {
    i64::try_from(n)
        .map_err(|_| SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "a type modifier is out of range"))
}

fn numbers(info: &ExactNumberInfo) -> Result<Vec<i64>> {
    Ok(match info {
        ExactNumberInfo::None => vec![],
        ExactNumberInfo::Precision(p) => vec![number(*p)?],
        ExactNumberInfo::PrecisionAndScale(p, s) => vec![number(*p)?, *s],
    })
}

fn precision(p: Option<u64>) -> Result<Vec<i64>> {
    p.map(number).into_iter().collect()
}

/// The names that stand for an integer with a sequence; only a column definition may use them.
pub(super) fn is_serial(ty: &DataType) -> bool {
    let DataType::Custom(name, modifiers) = ty else { return false };
    let [part] = name.0.as_slice() else { return false };
    let name = fold_part(part).unwrap_or_default();
    modifiers.is_empty()
        && matches!(name.as_str(), "serial" | "serial4" | "bigserial" | "serial8" | "smallserial" | "serial2")
}

fn custom(name: &ObjectName, modifiers: &[String]) -> Result<ColumnType> {
    let parts: Vec<String> = name.0.iter().map(fold_part).collect::<Result<_>>()?;
    let last = match parts.as_slice() {
        [name] => name,
        [schema, name] if schema == "pg_catalog" => name,
        [schema, name] => return Err(undefined(&format!("{schema}.{name}"))),
        _ => return Err(SqlError::unsupported("a type name of more than two parts")),
    };
    let args = modifiers
        .iter()
        .map(|m| {
            m.parse().map_err(|_| SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "invalid type modifier"))
        })
        .collect::<Result<Vec<i64>>>()?;
    match last.as_str() {
        "json" | "jsonb" | "inet" | "cidr" | "macaddr" | "money" | "xml" | "timetz" | "bit" | "varbit"
        | "point" | "regprocedure" | "regoper" | "regnamespace" | "int4range" | "int8range" | "numrange"
        | "tsrange" | "tstzrange" | "daterange" => Err(SqlError::unsupported(format!("type {last}"))),
        name => named(name, &args),
    }
}
