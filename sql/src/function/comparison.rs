//! `=`, `<>`, `<`, `<=`, `>`, `>=` of all types, and between types of one family.

use std::cmp::Ordering;

use super::define::{Args, f};
use super::{EvalContext, Function};
use crate::error::Result;
use crate::types::calendar::DAY;
use crate::types::{Datum, Type, compare, compare_floats};

macro_rules! comparisons {
    ($($left:ident $right:ident $order:path;)*) => {
        pub(super) static OPERATORS: &[Function] = &[$(
            f("=", &[Type::$left, Type::$right], Type::Bool, |c, a| Ok(Datum::Bool($order(c, a)?.is_eq()))),
            f("<>", &[Type::$left, Type::$right], Type::Bool, |c, a| Ok(Datum::Bool($order(c, a)?.is_ne()))),
            f("<", &[Type::$left, Type::$right], Type::Bool, |c, a| Ok(Datum::Bool($order(c, a)?.is_lt()))),
            f("<=", &[Type::$left, Type::$right], Type::Bool, |c, a| Ok(Datum::Bool($order(c, a)?.is_le()))),
            f(">", &[Type::$left, Type::$right], Type::Bool, |c, a| Ok(Datum::Bool($order(c, a)?.is_gt()))),
            f(">=", &[Type::$left, Type::$right], Type::Bool, |c, a| Ok(Datum::Bool($order(c, a)?.is_ge()))),
        )*];
    };
}

comparisons! {
    Bool Bool same;
    Int2 Int2 same;
    Int4 Int4 same;
    Int8 Int8 same;
    Int2 Int4 ints;
    Int4 Int2 ints;
    Int2 Int8 ints;
    Int8 Int2 ints;
    Int4 Int8 ints;
    Int8 Int4 ints;
    Float4 Float4 same;
    Float8 Float8 same;
    Float4 Float8 floats;
    Float8 Float4 floats;
    Numeric Numeric same;
    Text Text same;
    Bpchar Bpchar same;
    Name Name same;
    Name Text same;
    Text Name same;
    Bytea Bytea same;
    Date Date same;
    Time Time same;
    Timestamp Timestamp same;
    Timestamptz Timestamptz same;
    Date Timestamp instants;
    Timestamp Date instants;
    Date Timestamptz instants;
    Timestamptz Date instants;
    Timestamp Timestamptz instants;
    Timestamptz Timestamp instants;
    Interval Interval same;
    Uuid Uuid same;
    Oid Oid same;
}

fn same(_: &EvalContext, a: &[Datum]) -> Result<Ordering> {
    Ok(compare(&a[0], &a[1]))
}

fn ints(_: &EvalContext, a: &[Datum]) -> Result<Ordering> {
    Ok(a.int(0)?.cmp(&a.int(1)?))
}

fn floats(_: &EvalContext, a: &[Datum]) -> Result<Ordering> {
    Ok(compare_floats(a.float(0)?, a.float(1)?))
}

/// Dates and local times are compared with instants in the session's time zone, without overflow.
fn instants(ctx: &EvalContext, a: &[Datum]) -> Result<Ordering> {
    let zoned = a.iter().any(|datum| matches!(datum, Datum::Timestamptz(_)));
    let position = |datum: &Datum| -> i128 {
        match datum {
            Datum::Date(i32::MIN) | Datum::Timestamp(i64::MIN) | Datum::Timestamptz(i64::MIN) => i128::MIN,
            Datum::Date(i32::MAX) | Datum::Timestamp(i64::MAX) | Datum::Timestamptz(i64::MAX) => i128::MAX,
            Datum::Date(days) => {
                let local = i128::from(*days) * i128::from(DAY);
                match i64::try_from(local) {
                    Ok(local) if zoned => i128::from(ctx.time_zone.to_utc(local)),
                    _ => local,
                }
            }
            Datum::Timestamp(local) if zoned => i128::from(ctx.time_zone.to_utc(*local)),
            Datum::Timestamp(micros) | Datum::Timestamptz(micros) => i128::from(*micros),
            _ => 0,
        }
    };
    Ok(position(&a[0]).cmp(&position(&a[1])))
}
