//! Properties of the encodings.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use num_bigint::BigInt;
use proptest::prelude::*;

use super::{ColumnType, Datum, DatumKey, Interval, Numeric, Type, compare, equal, io, key, row};

fn numeric() -> impl Strategy<Value = Numeric> {
    prop_oneof![
        1 => Just(Numeric::NaN),
        1 => Just(Numeric::PosInf),
        1 => Just(Numeric::NegInf),
        4 => (-1000_i64..1000, 0_u16..4).prop_map(|(digits, scale)| Numeric::from_parts(digits, scale)),
        4 => (any::<i128>(), 0_u16..60).prop_map(|(digits, scale)| Numeric::from_parts(digits, scale)),
        2 => (any::<i64>(), 0_u32..40, 0_u16..30).prop_map(|(digits, zeros, scale)| {
            Numeric::from_parts(BigInt::from(digits) * BigInt::from(10).pow(zeros), scale)
        }),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 0..8)
}

/// A value of the type, sometimes NULL.
fn datum(ty: Type) -> BoxedStrategy<Datum> {
    let value = match ty {
        Type::Bool => any::<bool>().prop_map(Datum::Bool).boxed(),
        Type::Int2 => any::<i16>().prop_map(Datum::Int2).boxed(),
        Type::Int4 => any::<i32>().prop_map(Datum::Int4).boxed(),
        Type::Int8 => any::<i64>().prop_map(Datum::Int8).boxed(),
        Type::Float4 => {
            prop_oneof![Just(-0.0), Just(f32::NAN), prop::num::f32::ANY].prop_map(Datum::Float4).boxed()
        }
        Type::Float8 => {
            prop_oneof![Just(-0.0), Just(f64::NAN), prop::num::f64::ANY].prop_map(Datum::Float8).boxed()
        }
        Type::Numeric => numeric().prop_map(|v| Datum::Numeric(Arc::new(v))).boxed(),
        Type::Bytea => bytes().prop_map(|v| Datum::Bytea(Bytes::from(v))).boxed(),
        Type::Date => prop_oneof![Just(i32::MIN), Just(i32::MAX), -2_000_000..2_000_000_i32]
            .prop_map(Datum::Date)
            .boxed(),
        Type::Time => (0..=super::calendar::DAY).prop_map(Datum::Time).boxed(),
        Type::Timestamp => moment().prop_map(Datum::Timestamp).boxed(),
        Type::Timestamptz => moment().prop_map(Datum::Timestamptz).boxed(),
        Type::Interval => (any::<i32>(), any::<i32>(), any::<i64>())
            .prop_map(|(months, days, micros)| Datum::Interval(Interval { months, days, micros }))
            .boxed(),
        Type::Uuid => any::<[u8; 16]>().prop_map(Datum::Uuid).boxed(),
        Type::Oid => any::<u32>().prop_map(Datum::Oid).boxed(),
        _ => "[a-c\u{1}é]{0,6}".prop_map(Datum::text).boxed(),
    };
    prop_oneof![9 => value, 1 => Just(Datum::Null)].boxed()
}

fn moment() -> impl Strategy<Value = i64> {
    use super::calendar::{TIMESTAMP_END, TIMESTAMP_MIN};
    prop_oneof![1 => Just(i64::MIN), 1 => Just(i64::MAX), 8 => TIMESTAMP_MIN..TIMESTAMP_END]
}

fn pair() -> impl Strategy<Value = (Type, Datum, Datum, Datum)> {
    prop::sample::select(Type::ALL.into_iter().filter(|ty| *ty != Type::Void).collect::<Vec<_>>())
        .prop_flat_map(|ty| (Just(ty), datum(ty), datum(ty), datum(ty)))
}

fn encoded(values: &[&Datum]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| key::encode(value, &mut out));
    out
}

/// Exactly the same value, with its scale, its parts and the sign of its zero.
fn identical(a: &Datum, b: &Datum) -> bool {
    match (a, b) {
        (Datum::Float4(a), Datum::Float4(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        (Datum::Float8(a), Datum::Float8(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        (Datum::Interval(a), Datum::Interval(b)) => a == b,
        (Datum::Numeric(x), Datum::Numeric(y)) => equal(a, b) && x.scale() == y.scale(),
        _ => equal(a, b),
    }
}

fn hash(value: &Datum) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    static STATE: std::sync::LazyLock<RandomState> = std::sync::LazyLock::new(RandomState::new);
    STATE.hash_one(DatumKey(value.clone()))
}

proptest! {
    #[test]
    fn keys_order_as_values((ty, a, b, c) in pair()) {
        let order = compare(&a, &b);
        prop_assert_eq!(encoded(&[&a]).cmp(&encoded(&[&b])), order);
        // A second column decides where the first is equal, and only there.
        let strung = encoded(&[&a, &c]).cmp(&encoded(&[&b, &a]));
        prop_assert_eq!(strung, order.then(compare(&c, &a)));
        prop_assert_ne!(encoded(&[&a])[0], 0);
        let bytes = encoded(&[&a, &b]);
        let mut input = &bytes[..];
        let (first, second) = (key::decode(&mut input, ty).expect("first"), key::decode(&mut input, ty).expect("second"));
        prop_assert!(input.is_empty());
        prop_assert!(equal(&first, &a) && equal(&second, &b));
        prop_assert!(!key::restores(ty) || identical(&first, &a));
        prop_assert!(order != Ordering::Equal || hash(&a) == hash(&b));
    }

    #[test]
    fn malformed_keys_are_refused(bytes in bytes(), which in 0..Type::ALL.len()) {
        let _ = key::decode(&mut &bytes[..], Type::ALL[which]);
        let _ = row::decode(&bytes, &[1, 2]);
        let _ = io::from_binary(&bytes, Type::ALL[which]);
    }

    #[test]
    fn rows_come_back((_, a, b, c) in pair()) {
        let bytes = row::encode([(7, &a, false), (300, &b, true), (2, &c, false)]);
        let back = row::decode(&bytes, &[300, 9, 7]).expect("a row");
        prop_assert!(identical(&back[0], &b) && back[1].is_null() && identical(&back[2], &a));
        // What the row has counts, NULLs that were kept included; what it lacks is as it was.
        let mut back = [Datum::Bool(true), Datum::Bool(false), Datum::Int4(5)];
        row::decode_into(&bytes, &[300, 9, 7], &mut back).expect("a row");
        let last = if a.is_null() { Datum::Int4(5) } else { a };
        prop_assert!(identical(&back[0], &b) && identical(&back[1], &Datum::Bool(false)) && identical(&back[2], &last));
    }

    #[test]
    fn binary_forms_come_back((ty, a, _, _) in pair()) {
        if !a.is_null() {
            let mut bytes = BytesMut::new();
            io::to_binary(&a, ColumnType::plain(ty), &mut bytes);
            let back = io::from_binary(&bytes, ty).expect("its own form");
            prop_assert!(identical(&back, &a), "{:?} became {:?}", a, back);
        }
    }
}

#[test]
fn numerics_order_by_value_in_keys() {
    let values = [
        "-Infinity",
        "-1000",
        "-100.5",
        "-100",
        "-1.5",
        "-0.001",
        "0",
        "0.0009",
        "0.001",
        "0.01",
        "0.1",
        "1",
        "1.0000001",
        "9.99",
        "10",
        "99",
        "100",
        "1e20",
        "1e21",
        "Infinity",
        "NaN",
    ];
    let keys: Vec<Vec<u8>> = values
        .iter()
        .map(|text| {
            let value = Numeric::parse(text).expect("in range").expect("a number");
            encoded(&[&Datum::Numeric(Arc::new(value))])
        })
        .collect();
    assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
}
