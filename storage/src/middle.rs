//! Where a range of rows is to be cut in two: a key with about as many bytes before it as from it on.
//!
//! A small range is read: the median of its rows' keys. Of a large one RocksDB knows how many bytes lie between two keys, from
//! the indexes of its tables; so the key is looked for by halving the space between the first and the last key, a few dozen
//! seeks however large the range is. It is about as exact as a block is large, and blind to what is not flushed yet.

use bytes::Bytes;

use crate::ids::KeyRange;
use crate::{Cf, Engine, Error, keys};

/// So many versions are read before the range counts as large.
const READ_MAX: usize = 20_000;
/// Halvings of the key space, at most.
const HALVINGS_MAX: usize = 40;
/// The middle has been found if no more than this part of the bytes, in hundredths, lies on the wrong side.
const OFF_MAX: u64 = 5;

/// A row's key in the middle of `range`, above its first key; `None` if there are not two rows. Reads the disk.
pub fn middle(engine: &Engine, range: &KeyRange) -> Result<Option<Bytes>, Error> {
    let (rows, all) = first_rows(engine, range)?;
    let median = rows.get(rows.len() / 2).filter(|_| rows.len() > 1).cloned();
    if all {
        return Ok(median);
    }
    let (Some(first), Some(last)) = (rows.first(), last_row(engine, range)?) else { return Ok(None) };
    // (What is still in memory only has no size: then it is the middle of what was read.)
    Ok(halve(engine, range, first.clone(), last)?.or(median))
}

/// The keys of the first rows, and whether there are no others.
fn first_rows(engine: &Engine, range: &KeyRange) -> Result<(Vec<Bytes>, bool), Error> {
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.iter(Cf::Data, range);
    let mut rows: Vec<Bytes> = Vec::new();
    let mut encoded: Vec<u8> = Vec::new();
    cursor.seek_to_first();
    for _ in 0..READ_MAX {
        let Some(key) = cursor.key() else {
            cursor.check()?;
            return Ok((rows, true));
        };
        let user = keys::split_version(key).map_or(key, |(user, _)| user);
        if user != encoded {
            encoded = user.to_vec();
            rows.extend(decoded(user));
        }
        cursor.next();
    }
    Ok((rows, false))
}

fn last_row(engine: &Engine, range: &KeyRange) -> Result<Option<Bytes>, Error> {
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.iter(Cf::Data, range);
    cursor.seek_to_last();
    let last = cursor.key().and_then(|key| decoded(keys::split_version(key)?.0));
    cursor.check()?;
    Ok(last)
}

fn decoded(encoded: &[u8]) -> Option<Bytes> {
    let mut key = Vec::new();
    keys::decode_user_key(encoded, &mut key).map(|()| key.into())
}

/// By size: the best of the keys that are met while the space between `low` and `high` is halved.
fn halve(engine: &Engine, range: &KeyRange, low: Bytes, high: Bytes) -> Result<Option<Bytes>, Error> {
    let total = engine.approximate_bytes(Cf::Data, range);
    let (first, mut low, mut high) = (low.clone(), low, high);
    let mut best: Option<(u64, Bytes)> = None;
    for _ in 0..HALVINGS_MAX {
        let between = KeyRange { start: between(&low, &high), end: high.clone() };
        let snapshot = engine.snapshot();
        let mut cursor = snapshot.iter(Cf::Data, &between);
        cursor.seek_to_first();
        let met = cursor.key().and_then(|key| decoded(keys::split_version(key)?.0));
        cursor.check()?;
        let Some(met) = met.filter(|met| *met > low) else {
            // Nothing in the upper half: the rows lie in the lower one.
            if between.start <= low {
                break;
            }
            high = between.start;
            continue;
        };
        let before = KeyRange { start: range.start.clone(), end: met.clone() };
        let before = engine.approximate_bytes(Cf::Data, &before).min(total);
        let off = before.abs_diff(total - before);
        if met > first && best.as_ref().is_none_or(|(least, _)| off < *least) {
            best = Some((off, met.clone()));
        }
        if off * 100 <= total * 2 * OFF_MAX {
            break;
        }
        match before * 2 < total {
            true => low = met,
            false => high = between.start.clone(),
        }
        if high <= low {
            break;
        }
    }
    Ok(best.filter(|(off, _)| *off < total).map(|(_, key)| key))
}

/// A key between two, as numbers after the point: `low <= it <= high`.
fn between(low: &[u8], high: &[u8]) -> Bytes {
    let digits = low.len().max(high.len()) + 1;
    let digit = |key: &[u8], at: usize| u32::from(key.get(at).copied().unwrap_or(0));
    // The sum, from the last digit on, and then half of it, from the first.
    let mut sum = vec![0u32; digits + 1];
    for at in (0..digits).rev() {
        let with = digit(low, at) + digit(high, at) + sum[at + 1];
        (sum[at + 1], sum[at]) = (with & 0xff, with >> 8);
    }
    let mut rest = sum[0];
    let mut half = Vec::with_capacity(digits);
    for digit in &sum[1..] {
        let value = (rest << 8) | digit;
        half.push((value / 2) as u8);
        rest = value % 2;
    }
    while half.last() == Some(&0) && half.len() > low.len() {
        half.pop();
    }
    half.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::Timestamp;
    use crate::{Store, StoreOptions, mvcc};

    #[test]
    fn middle_of_many_rows_has_half_of_the_bytes_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default(), crate::seam::Seams::real()).unwrap();
        let engine = store.engine();
        let key = |n: u32| [b"table".as_slice(), &n.to_be_bytes()].concat();
        let write = |rows: std::ops::Range<u32>, bytes: usize| {
            for some in rows.collect::<Vec<_>>().chunks(1_000) {
                let mut batch = engine.batch();
                for n in some {
                    // (Not to be compressed away.)
                    let mut word = n.wrapping_mul(2_654_435_761) | 1;
                    let mut value = Vec::with_capacity(bytes);
                    for _ in 0..bytes {
                        word ^= word << 13;
                        word ^= word >> 17;
                        word ^= word << 5;
                        value.push(word as u8);
                    }
                    mvcc::put_version(&mut batch, &key(*n), Timestamp(7), Some(&value));
                }
                engine.write(batch).unwrap();
            }
        };
        let range = KeyRange::prefix(b"table");
        assert_eq!(middle(&engine, &range).unwrap(), None);
        write(0..1, 10);
        assert_eq!(middle(&engine, &range).unwrap(), None);
        write(1..1_000, 10);
        assert_eq!(middle(&engine, &range).unwrap().as_deref(), Some(&key(500)[..]));
        // The later rows are ten times as large: the middle of the bytes is not that of the rows.
        write(1_000..30_000, 20);
        write(30_000..60_000, 200);
        engine.flush().unwrap();
        let found = middle(&engine, &range).unwrap().unwrap();
        assert!(found > key(35_000) && found < key(50_000), "{}", found.escape_ascii());
    }

    proptest! {
        #[test]
        fn between_two_keys_is_neither_below_nor_above(a: Vec<u8>, b: Vec<u8>) {
            let (low, high) = if a <= b { (a, b) } else { (b, a) };
            let half = between(&low, &high);
            prop_assert!(low[..] <= half[..]);
            // (Zeros at the end don't count: as numbers they are equal.)
            let digits = half.len().max(high.len());
            let pad = |key: &[u8]| { let mut key = key.to_vec(); key.resize(digits, 0); key };
            prop_assert!(pad(&half) <= pad(&high));
        }
    }
}
