//! Values as Arrow columns.
//!
//! | SQL | Arrow | |
//! |---|---|---|
//! | boolean, smallint, integer, bigint, oid | Boolean, Int16, Int32, Int64, UInt32 | |
//! | real, double precision | Float32, Float64 | *keyed*: -0 is 0, all NaN are one |
//! | date; time, timestamp(tz) | Int32; Int64 | raw, of our epoch: only our own kernels look inside |
//! | strings | Utf8View | compared by bytes |
//! | bytea, uuid | BinaryView | |
//! | numeric, interval | BinaryView | *keyed*: an order-preserving key, then how the value is shown |
//!
//! A *keyed* type has values that are equal and yet differ (`1.0` and `1.00`, `1 day` and `24:00`). Whatever compares,
//! groups, joins or sorts such a column does so by [`key_array`], never by the column itself, and shows the column.
//! View arrays are used throughout, since a batch of wide rows may pass the 2 GiB that a Utf8 column can hold.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, BinaryViewBuilder, BooleanArray, BooleanBuilder, Float32Array,
    Float32Builder, Float64Array, Float64Builder, Int16Array, Int16Builder, Int32Array, Int32Builder,
    Int64Array, Int64Builder, RecordBatch, RecordBatchOptions, StringViewArray, StringViewBuilder,
    UInt32Array, UInt32Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::common::ScalarValue;
use num_bigint::{BigInt, Sign};

use crate::error::{Result, SqlError};
use crate::ir::OutputColumn;
use crate::types::{Datum, Interval, Numeric, Type};

/// The Arrow type that carries values of `ty`.
pub(super) fn arrow_type(ty: Type) -> DataType {
    match ty {
        Type::Bool => DataType::Boolean,
        Type::Int2 => DataType::Int16,
        Type::Int4 | Type::Date => DataType::Int32,
        Type::Int8 | Type::Time | Type::Timestamp | Type::Timestamptz => DataType::Int64,
        Type::Float4 => DataType::Float32,
        Type::Float8 => DataType::Float64,
        Type::Oid => DataType::UInt32,
        Type::Bytea | Type::Uuid | Type::Numeric | Type::Interval => DataType::BinaryView,
        Type::Text | Type::Varchar | Type::Bpchar | Type::Name | Type::Unknown | Type::Void => {
            DataType::Utf8View
        }
    }
}

/// Whether values of `ty` compare by [`key_array`] instead of by themselves.
pub(super) fn is_keyed(ty: Type) -> bool {
    matches!(ty, Type::Float4 | Type::Float8 | Type::Numeric | Type::Interval)
}

/// A schema of nullable columns. Names are for EXPLAIN only; columns are known by their index.
pub(super) fn schema_of<'a>(columns: impl IntoIterator<Item = (&'a str, Type)>) -> SchemaRef {
    let fields: Vec<Field> =
        columns.into_iter().map(|(name, ty)| Field::new(name, arrow_type(ty), true)).collect();
    Arc::new(Schema::new(fields))
}

/// The schema of a plan's columns.
pub(super) fn schema_of_columns(columns: &[OutputColumn]) -> SchemaRef {
    schema_of(columns.iter().map(|c| (c.name.as_str(), c.ty.ty)))
}

/// The types of a plan's columns.
pub(super) fn types_of(columns: &[OutputColumn]) -> Vec<Type> {
    columns.iter().map(|c| c.ty.ty).collect()
}

/// Builds one column.
pub(super) enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    UInt32(UInt32Builder),
    Text(StringViewBuilder),
    /// With room to encode into.
    Binary(BinaryViewBuilder, Vec<u8>),
}

impl ColumnBuilder {
    pub(super) fn new(ty: Type, capacity: usize) -> Self {
        match arrow_type(ty) {
            DataType::Boolean => Self::Bool(BooleanBuilder::with_capacity(capacity)),
            DataType::Int16 => Self::Int16(Int16Builder::with_capacity(capacity)),
            DataType::Int32 => Self::Int32(Int32Builder::with_capacity(capacity)),
            DataType::Int64 => Self::Int64(Int64Builder::with_capacity(capacity)),
            DataType::Float32 => Self::Float32(Float32Builder::with_capacity(capacity)),
            DataType::Float64 => Self::Float64(Float64Builder::with_capacity(capacity)),
            DataType::UInt32 => Self::UInt32(UInt32Builder::with_capacity(capacity)),
            DataType::BinaryView => Self::Binary(BinaryViewBuilder::with_capacity(capacity), Vec::new()),
            _ => Self::Text(StringViewBuilder::with_capacity(capacity)),
        }
    }

    /// Appends a value. That it belongs to the column's type is checked: a plan that lies about its types must not
    /// turn into a wrong answer.
    pub(super) fn push(&mut self, datum: &Datum) -> Result<()> {
        use Datum as D;
        match (self, datum) {
            (Self::Bool(b), D::Bool(v)) => b.append_value(*v),
            (Self::Bool(b), D::Null) => b.append_null(),
            (Self::Int16(b), D::Int2(v)) => b.append_value(*v),
            (Self::Int16(b), D::Null) => b.append_null(),
            (Self::Int32(b), D::Int4(v) | D::Date(v)) => b.append_value(*v),
            (Self::Int32(b), D::Null) => b.append_null(),
            (Self::Int64(b), D::Int8(v) | D::Time(v) | D::Timestamp(v) | D::Timestamptz(v)) => {
                b.append_value(*v)
            }
            (Self::Int64(b), D::Null) => b.append_null(),
            (Self::Float32(b), D::Float4(v)) => b.append_value(*v),
            (Self::Float32(b), D::Null) => b.append_null(),
            (Self::Float64(b), D::Float8(v)) => b.append_value(*v),
            (Self::Float64(b), D::Null) => b.append_null(),
            (Self::UInt32(b), D::Oid(v)) => b.append_value(*v),
            (Self::UInt32(b), D::Null) => b.append_null(),
            (Self::Text(b), D::Text(v)) => b.append_value(v),
            (Self::Text(b), D::Null) => b.append_null(),
            (Self::Binary(b, _), D::Bytea(v)) => b.append_value(v),
            (Self::Binary(b, _), D::Uuid(v)) => b.append_value(v),
            (Self::Binary(b, buffer), D::Numeric(_) | D::Interval(_)) => {
                buffer.clear();
                encode_keyed(datum, buffer);
                b.append_value(&*buffer);
            }
            (Self::Binary(b, _), D::Null) => b.append_null(),
            (_, datum) => {
                return Err(SqlError::internal(format!("a column cannot hold the value {datum:?}")));
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Int16(b) => Arc::new(b.finish()),
            Self::Int32(b) => Arc::new(b.finish()),
            Self::Int64(b) => Arc::new(b.finish()),
            Self::Float32(b) => Arc::new(b.finish()),
            Self::Float64(b) => Arc::new(b.finish()),
            Self::UInt32(b) => Arc::new(b.finish()),
            Self::Text(b) => Arc::new(b.finish()),
            Self::Binary(b, _) => Arc::new(b.finish()),
        }
    }
}

/// Reads one column.
pub(super) enum ColumnReader<'a> {
    Bool(&'a BooleanArray),
    Int16(&'a Int16Array),
    Int32(&'a Int32Array, Type),
    Int64(&'a Int64Array, Type),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    UInt32(&'a UInt32Array),
    Text(&'a StringViewArray),
    Binary(&'a BinaryViewArray, Type),
}

impl<'a> ColumnReader<'a> {
    pub(super) fn new(array: &'a ArrayRef, ty: Type) -> Result<Self> {
        let any = array.as_any();
        let reader = match arrow_type(ty) {
            DataType::Boolean => any.downcast_ref().map(Self::Bool),
            DataType::Int16 => any.downcast_ref().map(Self::Int16),
            DataType::Int32 => any.downcast_ref().map(|a| Self::Int32(a, ty)),
            DataType::Int64 => any.downcast_ref().map(|a| Self::Int64(a, ty)),
            DataType::Float32 => any.downcast_ref().map(Self::Float32),
            DataType::Float64 => any.downcast_ref().map(Self::Float64),
            DataType::UInt32 => any.downcast_ref().map(Self::UInt32),
            DataType::BinaryView => any.downcast_ref().map(|a| Self::Binary(a, ty)),
            _ => any.downcast_ref().map(Self::Text),
        };
        reader.ok_or_else(|| {
            SqlError::internal(format!("a column of type {ty} arrived as {}", array.data_type()))
        })
    }

    pub(super) fn get(&self, row: usize) -> Result<Datum> {
        Ok(match self {
            Self::Bool(a) if a.is_valid(row) => Datum::Bool(a.value(row)),
            Self::Int16(a) if a.is_valid(row) => Datum::Int2(a.value(row)),
            Self::Int32(a, ty) if a.is_valid(row) => match ty {
                Type::Date => Datum::Date(a.value(row)),
                _ => Datum::Int4(a.value(row)),
            },
            Self::Int64(a, ty) if a.is_valid(row) => match ty {
                Type::Time => Datum::Time(a.value(row)),
                Type::Timestamp => Datum::Timestamp(a.value(row)),
                Type::Timestamptz => Datum::Timestamptz(a.value(row)),
                _ => Datum::Int8(a.value(row)),
            },
            Self::Float32(a) if a.is_valid(row) => Datum::Float4(a.value(row)),
            Self::Float64(a) if a.is_valid(row) => Datum::Float8(a.value(row)),
            Self::UInt32(a) if a.is_valid(row) => Datum::Oid(a.value(row)),
            Self::Text(a) if a.is_valid(row) => Datum::Text(Arc::from(a.value(row))),
            Self::Binary(a, ty) if a.is_valid(row) => decode_binary(a.value(row), *ty)?,
            _ => Datum::Null,
        })
    }
}

fn decode_binary(bytes: &[u8], ty: Type) -> Result<Datum> {
    match ty {
        Type::Bytea => Some(Datum::Bytea(Bytes::copy_from_slice(bytes))),
        Type::Uuid => bytes.try_into().ok().map(Datum::Uuid),
        Type::Numeric => decode_numeric(bytes).map(|n| Datum::Numeric(Arc::new(n))),
        Type::Interval => decode_interval(bytes).map(Datum::Interval),
        _ => None,
    }
    .ok_or_else(|| SqlError::internal(format!("a malformed {ty} in a column")))
}

/// Rows of a batch.
pub(super) fn rows_of(batch: &RecordBatch, types: &[Type]) -> Result<Vec<Vec<Datum>>> {
    let readers = batch
        .columns()
        .iter()
        .zip(types)
        .map(|(array, ty)| ColumnReader::new(array, *ty))
        .collect::<Result<Vec<_>>>()?;
    if readers.len() != types.len() {
        return Err(SqlError::internal("a batch is narrower than its plan"));
    }
    (0..batch.num_rows()).map(|row| readers.iter().map(|r| r.get(row)).collect()).collect()
}

/// A batch of rows. Each row has one value for each type.
pub(super) fn batch_of<R: AsRef<[Datum]>>(
    rows: &[R],
    types: &[Type],
    schema: &SchemaRef,
) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(types.len());
    for (i, ty) in types.iter().enumerate() {
        let mut builder = ColumnBuilder::new(*ty, rows.len());
        for row in rows {
            let value = row.as_ref().get(i);
            builder.push(value.ok_or_else(|| SqlError::internal("a row is narrower than its plan"))?)?;
        }
        columns.push(builder.finish());
    }
    batch_with_rows(columns, schema, rows.len())
}

/// A batch of columns; the number of rows is told apart, since there may be no column.
pub(super) fn batch_with_rows(
    columns: Vec<ArrayRef>,
    schema: &SchemaRef,
    rows: usize,
) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|e| SqlError::internal(e.to_string()))
}

/// A constant as DataFusion has it.
pub(super) fn scalar_of(datum: &Datum, ty: Type) -> Result<ScalarValue> {
    let mut builder = ColumnBuilder::new(ty, 1);
    builder.push(datum)?;
    ScalarValue::try_from_array(&builder.finish(), 0).map_err(|e| SqlError::internal(e.to_string()))
}

/// The column that stands for `array` wherever values are compared: bytewise or natively equal exactly where
/// PostgreSQL has the values equal, and in the same order.
pub(super) fn key_array(array: &ArrayRef, ty: Type) -> Result<ArrayRef> {
    let mismatch = || SqlError::internal(format!("a column of type {ty} arrived as {}", array.data_type()));
    Ok(match ty {
        Type::Float4 => {
            let values = array.as_any().downcast_ref::<Float32Array>().ok_or_else(mismatch)?;
            Arc::new(
                values.unary::<_, arrow::datatypes::Float32Type>(
                    |v| {
                        if v.is_nan() { f32::NAN } else { v + 0.0 }
                    },
                ),
            )
        }
        Type::Float8 => {
            let values = array.as_any().downcast_ref::<Float64Array>().ok_or_else(mismatch)?;
            Arc::new(
                values.unary::<_, arrow::datatypes::Float64Type>(
                    |v| {
                        if v.is_nan() { f64::NAN } else { v + 0.0 }
                    },
                ),
            )
        }
        Type::Numeric | Type::Interval => {
            let values = array.as_any().downcast_ref::<BinaryViewArray>().ok_or_else(mismatch)?;
            let mut builder = BinaryViewBuilder::with_capacity(values.len());
            for value in values {
                builder.append_option(value.map(|bytes| key_part(bytes, ty)));
            }
            Arc::new(builder.finish())
        }
        _ => Arc::clone(array),
    })
}

const SCALE_BYTES: usize = 4;
const SPAN_BYTES: usize = 16;

fn key_part(bytes: &[u8], ty: Type) -> &[u8] {
    let end = match ty {
        Type::Numeric => bytes.len().saturating_sub(SCALE_BYTES),
        _ => bytes.len().min(SPAN_BYTES),
    };
    &bytes[..end]
}

/// The bytes of a numeric or an interval in a column.
pub(super) fn encode_keyed(datum: &Datum, out: &mut Vec<u8>) {
    match datum {
        Datum::Numeric(value) => encode_numeric(value, out),
        Datum::Interval(value) => {
            out.extend_from_slice(&((value.span() as u128) ^ (1 << 127)).to_be_bytes());
            out.extend_from_slice(&value.months.to_be_bytes());
            out.extend_from_slice(&value.days.to_be_bytes());
            out.extend_from_slice(&value.micros.to_be_bytes());
        }
        _ => {}
    }
}

fn decode_interval(bytes: &[u8]) -> Option<Interval> {
    let shown: &[u8; 16] = bytes.get(SPAN_BYTES..)?.try_into().ok()?;
    let (months, rest) = shown.split_first_chunk()?;
    let (days, rest) = rest.split_first_chunk()?;
    Some(Interval {
        months: i32::from_be_bytes(*months),
        days: i32::from_be_bytes(*days),
        micros: i64::from_be_bytes(rest.try_into().ok()?),
    })
}

const NEG_INF: u8 = 1;
const NEGATIVE: u8 = 2;
const ZERO: u8 = 3;
const POSITIVE: u8 = 4;
const POS_INF: u8 = 5;
const NAN: u8 = 6;

/// `kind [exponent digits… end] scale`, where a finite value other than zero is `0.d₁d₂… × 10^exponent` with neither
/// leading nor trailing zeros, two digits to the byte (1 to 100; 0 ends them). For negative values all that
/// follows the kind, but not the scale, is complemented.
fn encode_numeric(value: &Numeric, out: &mut Vec<u8>) {
    let (digits, scale) = match value {
        Numeric::Finite(finite) => finite.as_bigint_and_scale(),
        special => {
            out.push(match special {
                Numeric::NegInf => NEG_INF,
                Numeric::PosInf => POS_INF,
                _ => NAN,
            });
            out.extend_from_slice(&0_i32.to_be_bytes());
            return;
        }
    };
    let shown = i32::try_from(scale.max(0)).unwrap_or(i32::MAX);
    let start = out.len() + 1;
    match digits.sign() {
        Sign::NoSign => out.push(ZERO),
        sign => {
            out.push(if sign == Sign::Minus { NEGATIVE } else { POSITIVE });
            let text = decimal_text(&digits);
            let exponent = text.len() as i64 - scale;
            let exponent = exponent.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
            out.extend_from_slice(&((exponent as u32) ^ (1 << 31)).to_be_bytes());
            let significant = text.trim_end_matches('0').as_bytes();
            for pair in significant.chunks(2) {
                let low = pair.get(1).map_or(0, |d| d - b'0');
                out.push((pair[0] - b'0') * 10 + low + 1);
            }
            out.push(0);
            if sign == Sign::Minus {
                out[start..].iter_mut().for_each(|b| *b = !*b);
            }
        }
    }
    out.extend_from_slice(&shown.to_be_bytes());
}

fn decimal_text(digits: &BigInt) -> String {
    match u128::try_from(digits.magnitude()) {
        Ok(small) => small.to_string(),
        Err(_) => digits.magnitude().to_string(),
    }
}

fn decode_numeric(bytes: &[u8]) -> Option<Numeric> {
    let (body, scale) = bytes.split_last_chunk::<SCALE_BYTES>()?;
    let scale = i64::from(i32::from_be_bytes(*scale));
    let (kind, body) = body.split_first()?;
    let flip = match *kind {
        NEG_INF => return Some(Numeric::NegInf),
        POS_INF => return Some(Numeric::PosInf),
        NAN => return Some(Numeric::NaN),
        ZERO => return Some(Numeric::Finite(bigdecimal::BigDecimal::new(BigInt::ZERO, scale))),
        NEGATIVE => 0xff,
        _ => 0,
    };
    let (exponent, body) = body.split_first_chunk::<4>()?;
    let flip32 = u32::from_be_bytes([flip; 4]);
    let exponent = ((u32::from_be_bytes(*exponent) ^ flip32) ^ (1 << 31)) as i32;
    // What the unscaled number has: `exponent` digits before the point and `scale` after it.
    let length = usize::try_from(i64::from(exponent) + scale).ok()?;
    let mut text = String::with_capacity(length + 2);
    if flip != 0 {
        text.push('-');
    }
    let sign_bytes = text.len();
    for byte in body {
        match byte ^ flip {
            0 => break,
            pair => {
                text.push(char::from(b'0' + (pair - 1) / 10));
                text.push(char::from(b'0' + (pair - 1) % 10));
            }
        }
    }
    // A last odd digit was paired with a zero, which may be one too many.
    while text.len() - sign_bytes < length {
        text.push('0');
    }
    text.truncate(sign_bytes + length);
    let digits = match text.parse::<i128>() {
        Ok(small) => BigInt::from(small),
        Err(_) => text.parse().ok()?,
    };
    Some(Numeric::Finite(bigdecimal::BigDecimal::new(digits, scale)))
}

/// About how many bytes a value takes in memory.
pub(super) fn datum_bytes(datum: &Datum) -> usize {
    std::mem::size_of::<Datum>()
        + match datum {
            Datum::Text(text) => text.len() + 16,
            Datum::Bytea(bytes) => bytes.len(),
            Datum::Numeric(value) => match &**value {
                Numeric::Finite(finite) => 64 + (finite.digits() / 2) as usize,
                _ => 64,
            },
            _ => 0,
        }
}

/// About how many bytes a row takes in memory.
pub(super) fn row_bytes(row: &[Datum]) -> usize {
    std::mem::size_of::<Vec<Datum>>() + row.iter().map(datum_bytes).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;
    use crate::types::compare;

    fn numeric() -> impl Strategy<Value = Datum> {
        let finite = (any::<i64>(), 0..6_u16, 0..30_u32).prop_map(|(digits, scale, zeros)| {
            let digits = BigInt::from(digits >> (zeros * 2)) * BigInt::from(10).pow(zeros);
            Numeric::from_parts(digits, scale)
        });
        let special = prop_oneof![Just(Numeric::NaN), Just(Numeric::PosInf), Just(Numeric::NegInf)];
        prop_oneof![8 => finite, 1 => special].prop_map(|n| Datum::Numeric(Arc::new(n)))
    }

    fn interval() -> impl Strategy<Value = Datum> {
        (-3..3_i32, -70..70_i32, any::<i32>()).prop_map(|(months, days, micros)| {
            Datum::Interval(Interval { months, days, micros: i64::from(micros) * 1000 })
        })
    }

    fn float() -> impl Strategy<Value = Datum> {
        let special =
            prop_oneof![Just(0.0), Just(-0.0), Just(f64::NAN), Just(-f64::NAN), Just(f64::INFINITY)];
        prop_oneof![any::<f64>(), special].prop_map(Datum::Float8)
    }

    fn check(ty: Type, a: &Datum, b: &Datum) {
        let mut builder = ColumnBuilder::new(ty, 2);
        builder.push(a).expect("fits");
        builder.push(b).expect("fits");
        let column = builder.finish();
        let reader = ColumnReader::new(&column, ty).expect("its own column");
        for (row, datum) in [a, b].into_iter().enumerate() {
            assert_eq!(format!("{:?}", reader.get(row).expect("readable")), format!("{datum:?}"));
        }
        let keys = key_array(&column, ty).expect("its own column");
        let order = arrow::array::make_comparator(&keys, &keys, Default::default()).expect("comparable");
        assert_eq!(order(0, 1), compare(a, b), "{a:?} {b:?}");
        assert_eq!(order(0, 0), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn keys_order_numerics(a in numeric(), b in numeric()) {
            check(Type::Numeric, &a, &b);
        }

        #[test]
        fn keys_order_intervals(a in interval(), b in interval()) {
            check(Type::Interval, &a, &b);
        }

        #[test]
        fn keys_order_floats(a in float(), b in float()) {
            check(Type::Float8, &a, &b);
        }
    }
}
