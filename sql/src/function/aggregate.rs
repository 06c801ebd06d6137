//! Aggregates: counting, sums, averages, extremes, strings and bits. Statistics are in [`super::statistics`].

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::cast::out_of_range;
use super::define::{Args, numeric};
use super::math::checked_float;
use super::{Accumulator, Aggregate, interval};
use crate::error::{Result, SqlError};
use crate::types::{Datum, Interval, Numeric, Type, compare};

const fn aggregate(
    name: &'static str,
    args: &'static [Type],
    returns: Type,
    new: fn() -> Box<dyn Accumulator>,
) -> Aggregate {
    Aggregate { name, args, returns, strict: true, new }
}

macro_rules! aggregates {
    ($($name:literal ($($arg:ident),*) -> $ret:ident = $state:expr;)*) => {
        &[$(aggregate($name, &[$(Type::$arg),*], Type::$ret, || Box::new($state))),*]
    };
}

pub(super) static AGGREGATES: &[Aggregate] = aggregates! {
    "count"() -> Int8 = Count::default();
    "count"(Unknown) -> Int8 = Count::default();
    "sum"(Int2) -> Int8 = IntSum::new(Out::Int8);
    "sum"(Int4) -> Int8 = IntSum::new(Out::Int8);
    "sum"(Int8) -> Numeric = IntSum::new(Out::Numeric);
    "sum"(Numeric) -> Numeric = NumericSum::default();
    "sum"(Float4) -> Float4 = FloatSum { single: true, ..FloatSum::default() };
    "sum"(Float8) -> Float8 = FloatSum::default();
    "sum"(Interval) -> Interval = IntervalSum::default();
    "avg"(Int2) -> Numeric = IntSum::new(Out::Average);
    "avg"(Int4) -> Numeric = IntSum::new(Out::Average);
    "avg"(Int8) -> Numeric = IntSum::new(Out::Average);
    "avg"(Numeric) -> Numeric = NumericSum { average: true, ..NumericSum::default() };
    "avg"(Float4) -> Float8 = FloatSum { average: true, ..FloatSum::default() };
    "avg"(Float8) -> Float8 = FloatSum { average: true, ..FloatSum::default() };
    "avg"(Interval) -> Interval = IntervalSum { average: true, ..IntervalSum::default() };
    "min"(Int2) -> Int2 = Extreme::least();
    "min"(Int4) -> Int4 = Extreme::least();
    "min"(Int8) -> Int8 = Extreme::least();
    "min"(Float4) -> Float4 = Extreme::least();
    "min"(Float8) -> Float8 = Extreme::least();
    "min"(Numeric) -> Numeric = Extreme::least();
    "min"(Text) -> Text = Extreme::least();
    "min"(Bpchar) -> Bpchar = Extreme::least();
    "min"(Date) -> Date = Extreme::least();
    "min"(Time) -> Time = Extreme::least();
    "min"(Timestamp) -> Timestamp = Extreme::least();
    "min"(Timestamptz) -> Timestamptz = Extreme::least();
    "min"(Interval) -> Interval = Extreme::least();
    "min"(Oid) -> Oid = Extreme::least();
    "max"(Int2) -> Int2 = Extreme::greatest();
    "max"(Int4) -> Int4 = Extreme::greatest();
    "max"(Int8) -> Int8 = Extreme::greatest();
    "max"(Float4) -> Float4 = Extreme::greatest();
    "max"(Float8) -> Float8 = Extreme::greatest();
    "max"(Numeric) -> Numeric = Extreme::greatest();
    "max"(Text) -> Text = Extreme::greatest();
    "max"(Bpchar) -> Bpchar = Extreme::greatest();
    "max"(Date) -> Date = Extreme::greatest();
    "max"(Time) -> Time = Extreme::greatest();
    "max"(Timestamp) -> Timestamp = Extreme::greatest();
    "max"(Timestamptz) -> Timestamptz = Extreme::greatest();
    "max"(Interval) -> Interval = Extreme::greatest();
    "max"(Oid) -> Oid = Extreme::greatest();
    "bool_and"(Bool) -> Bool = Logic { decides: false, ..Logic::default() };
    "every"(Bool) -> Bool = Logic { decides: false, ..Logic::default() };
    "bool_or"(Bool) -> Bool = Logic { decides: true, ..Logic::default() };
    "bit_and"(Int2) -> Int2 = Bits::new(|x, y| x & y);
    "bit_and"(Int4) -> Int4 = Bits::new(|x, y| x & y);
    "bit_and"(Int8) -> Int8 = Bits::new(|x, y| x & y);
    "bit_or"(Int2) -> Int2 = Bits::new(|x, y| x | y);
    "bit_or"(Int4) -> Int4 = Bits::new(|x, y| x | y);
    "bit_or"(Int8) -> Int8 = Bits::new(|x, y| x | y);
    "bit_xor"(Int2) -> Int2 = Bits::new(|x, y| x ^ y);
    "bit_xor"(Int4) -> Int4 = Bits::new(|x, y| x ^ y);
    "bit_xor"(Int8) -> Int8 = Bits::new(|x, y| x ^ y);
};

/// Aggregates that see NULLs.
pub(super) static LENIENT: &[Aggregate] = &[
    Aggregate {
        name: "string_agg",
        args: &[Type::Text, Type::Text],
        returns: Type::Text,
        strict: false,
        new: || Box::new(Joined::default()),
    },
    Aggregate {
        name: "string_agg",
        args: &[Type::Bytea, Type::Bytea],
        returns: Type::Bytea,
        strict: false,
        new: || Box::new(Joined::default()),
    },
];

#[derive(Debug, Default)]
struct Count(i64);

impl Accumulator for Count {
    fn update(&mut self, _: &[Datum]) -> Result<()> {
        self.0 += 1;
        Ok(())
    }
    fn retract(&mut self, _: &[Datum]) -> Result<bool> {
        self.0 -= 1;
        Ok(true)
    }
    fn finish(&self) -> Result<Datum> {
        Ok(Datum::Int8(self.0))
    }
}

/// What a sum of integers becomes.
#[derive(Debug)]
enum Out {
    Int8,
    Numeric,
    Average,
}

#[derive(Debug)]
struct IntSum {
    sum: i128,
    count: i64,
    out: Out,
}

impl IntSum {
    fn new(out: Out) -> Self {
        Self { sum: 0, count: 0, out }
    }
}

impl Accumulator for IntSum {
    fn update(&mut self, args: &[Datum]) -> Result<()> {
        self.sum += i128::from(args.int(0)?);
        self.count += 1;
        Ok(())
    }
    fn retract(&mut self, args: &[Datum]) -> Result<bool> {
        self.sum -= i128::from(args.int(0)?);
        self.count -= 1;
        Ok(true)
    }
    fn finish(&self) -> Result<Datum> {
        if self.count == 0 {
            return Ok(Datum::Null);
        }
        match self.out {
            Out::Int8 => i64::try_from(self.sum).map(Datum::Int8).map_err(|_| out_of_range("bigint")),
            Out::Numeric => Ok(numeric(Numeric::from(self.sum))),
            Out::Average => Numeric::from(self.sum).div(&Numeric::from(self.count)).map(numeric),
        }
    }
}

#[derive(Debug, Default)]
struct NumericSum {
    sum: Option<Numeric>,
    count: i64,
    average: bool,
}

impl Accumulator for NumericSum {
    fn update(&mut self, args: &[Datum]) -> Result<()> {
        let value = args.numeric(0)?;
        self.sum = Some(match &self.sum {
            None => value.clone(),
            Some(sum) => sum.add(value)?,
        });
        self.count += 1;
        Ok(())
    }
    fn retract(&mut self, args: &[Datum]) -> Result<bool> {
        // What an infinity or a NaN has swallowed doesn't come back; nor does the scale of what is left.
        match (&self.sum, args.numeric(0)?) {
            (Some(sum @ Numeric::Finite(_)), value @ Numeric::Finite(_)) if value.scale() < sum.scale() => {
                self.sum = Some(sum.sub(value)?);
                self.count -= 1;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
    fn finish(&self) -> Result<Datum> {
        match &self.sum {
            Some(sum) if self.count > 0 => {
                if self.average {
                    sum.div(&Numeric::from(self.count)).map(numeric)
                } else {
                    Ok(numeric(sum.clone()))
                }
            }
            _ => Ok(Datum::Null),
        }
    }
}

#[derive(Debug, Default)]
struct FloatSum {
    sum: f64,
    count: i64,
    single: bool,
    average: bool,
}

impl Accumulator for FloatSum {
    fn update(&mut self, args: &[Datum]) -> Result<()> {
        let value = args.float(0)?;
        let infinite = self.sum.is_infinite() || value.is_infinite();
        let mut sum = self.sum + value;
        if self.single {
            sum = f64::from(sum as f32);
        }
        self.sum = checked_float(sum, infinite, true)?;
        self.count += 1;
        Ok(())
    }
    fn finish(&self) -> Result<Datum> {
        Ok(match self.count {
            0 => Datum::Null,
            count if self.average => Datum::Float8(self.sum / count as f64),
            _ if self.single => Datum::Float4(self.sum as f32),
            _ => Datum::Float8(self.sum),
        })
    }
}

#[derive(Debug, Default)]
struct IntervalSum {
    sum: Interval,
    count: i64,
    average: bool,
}

impl Accumulator for IntervalSum {
    fn update(&mut self, args: &[Datum]) -> Result<()> {
        self.sum = interval::add(self.sum, args.interval(0)?)?;
        self.count += 1;
        Ok(())
    }
    fn retract(&mut self, args: &[Datum]) -> Result<bool> {
        self.sum = interval::sub(self.sum, args.interval(0)?)?;
        self.count -= 1;
        Ok(true)
    }
    fn finish(&self) -> Result<Datum> {
        Ok(match self.count {
            0 => Datum::Null,
            count if self.average => Datum::Interval(interval::divide(self.sum, count as f64)?),
            _ => Datum::Interval(self.sum),
        })
    }
}

#[derive(Debug)]
struct Extreme {
    best: Datum,
    wanted: std::cmp::Ordering,
}

impl Extreme {
    fn least() -> Self {
        Self { best: Datum::Null, wanted: std::cmp::Ordering::Less }
    }
    fn greatest() -> Self {
        Self { best: Datum::Null, wanted: std::cmp::Ordering::Greater }
    }
}

impl Accumulator for Extreme {
    fn update(&mut self, args: &[Datum]) -> Result<()> {
        let value = args.first().ok_or_else(|| SqlError::internal("an aggregate without its argument"))?;
        if self.best.is_null() || compare(value, &self.best) == self.wanted {
            self.best = value.clone();
        }
        Ok(())
    }
    fn finish(&self) -> Result<Datum> {
        Ok(self.best.clone())
    }
}

#[derive(Debug, Default)]
struct Logic {
    /// The value that decides the result.
    decides: bool,
    seen: i64,
    deciding: i64,
}

impl Accumulator for Logic {
    fn update(&mut self, args: &[Datum]) -> Result<()> {
        self.seen += 1;
        self.deciding += i64::from(args.boolean(0)? == self.decides);
        Ok(())
    }
    fn retract(&mut self, args: &[Datum]) -> Result<bool> {
        self.seen -= 1;
        self.deciding -= i64::from(args.boolean(0)? == self.decides);
        Ok(true)
    }
    fn finish(&self) -> Result<Datum> {
        Ok(match self.seen {
            0 => Datum::Null,
            _ => Datum::Bool(if self.deciding > 0 { self.decides } else { !self.decides }),
        })
    }
}

struct Bits {
    value: Datum,
    op: fn(i64, i64) -> i64,
}

impl std::fmt::Debug for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bits({:?})", self.value)
    }
}

impl Bits {
    fn new(op: fn(i64, i64) -> i64) -> Self {
        Self { value: Datum::Null, op }
    }
}

impl Accumulator for Bits {
    fn update(&mut self, args: &[Datum]) -> Result<()> {
        // Widening keeps the sign, so the bits of the result narrow back without loss.
        let next = args.int(0)?;
        let value = match &self.value {
            Datum::Null => next,
            seen => (self.op)(std::slice::from_ref(seen).int(0)?, next),
        };
        self.value = match &args[0] {
            Datum::Int2(_) => Datum::Int2(value as i16),
            Datum::Int4(_) => Datum::Int4(value as i32),
            _ => Datum::Int8(value),
        };
        Ok(())
    }
    fn finish(&self) -> Result<Datum> {
        Ok(self.value.clone())
    }
}

/// `string_agg`: NULL values are left out, and the separator of a value goes in front of it.
#[derive(Debug, Default)]
struct Joined {
    out: BytesMut,
    seen: bool,
    text: bool,
}

impl Accumulator for Joined {
    fn update(&mut self, args: &[Datum]) -> Result<()> {
        let bytes = |datum: &Datum| -> Option<Bytes> {
            match datum {
                Datum::Text(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
                Datum::Bytea(bytes) => Some(bytes.clone()),
                _ => None,
            }
        };
        let [value, separator] = args else {
            return Err(SqlError::internal("string_agg takes two arguments"));
        };
        if let Some(value_bytes) = bytes(value) {
            if let (true, Some(separator)) = (self.seen, bytes(separator)) {
                self.out.extend_from_slice(&separator);
            }
            self.out.extend_from_slice(&value_bytes);
            self.text = matches!(value, Datum::Text(_));
            self.seen = true;
        }
        Ok(())
    }
    fn finish(&self) -> Result<Datum> {
        if !self.seen {
            return Ok(Datum::Null);
        }
        if !self.text {
            return Ok(Datum::Bytea(Bytes::copy_from_slice(&self.out)));
        }
        let text =
            std::str::from_utf8(&self.out).map_err(|_| SqlError::internal("strings joined to no string"))?;
        Ok(Datum::Text(Arc::from(text)))
    }
}
