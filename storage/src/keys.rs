//! How user keys become keys of the column family `data`.
//!
//! A user key is any string of bytes. In `data` it stands in groups of eight bytes, the last one padded with zeros,
//! each followed by a marker that says how many of its bytes are padding (`0xff - padding`; so `0xff` says that
//! another group follows). The version's timestamp follows, inverted, so that newer versions sort first:
//!
//! ```text
//!   "flotilla!"  @ 7   =   f l o t i l l a ff   ! 0 0 0 0 0 0 0 f8   ff ff ff ff ff ff ff f8
//! ```
//!
//! Encoded keys sort like user keys, none is a prefix of another, and the encoding of the table prefixes that SQL
//! makes (mostly zeros) costs an eighth, where escaping zeros would double it.

use bytes::Bytes;

use crate::ids::{KeyRange, Timestamp};

const GROUP: usize = 8;
const MARKED: usize = GROUP + 1;
/// The inverted timestamp at the end of a version's key.
pub const TIMESTAMP_BYTES: usize = 8;

/// Above every key of a store (database ids are below `u32::MAX`, so no user key comes near).
pub(crate) const BEYOND_ALL: [u8; 32] = [0xff; 32];

/// Appends the encoding of `key` (without a timestamp) to `out`.
pub fn encode_user_key(key: &[u8], out: &mut Vec<u8>) {
    out.reserve((key.len() / GROUP + 1) * MARKED + TIMESTAMP_BYTES);
    let mut groups = key.chunks_exact(GROUP);
    for group in &mut groups {
        out.extend_from_slice(group);
        out.push(0xff);
    }
    let rest = groups.remainder();
    let mut last = [0; MARKED];
    last[..rest.len()].copy_from_slice(rest);
    last[GROUP] = 0xff - (GROUP - rest.len()) as u8;
    out.extend_from_slice(&last);
}

/// The key of a version in `data`.
pub fn encode_version(key: &[u8], ts: Timestamp) -> Vec<u8> {
    let mut out = Vec::new();
    encode_user_key(key, &mut out);
    out.extend_from_slice(&(!ts.0).to_be_bytes());
    out
}

/// Splits a key of `data` into the encoded user key and the timestamp; `None` if it is not one.
pub fn split_version(encoded: &[u8]) -> Option<(&[u8], Timestamp)> {
    let (user, ts) = encoded.split_last_chunk::<TIMESTAMP_BYTES>()?;
    (!user.is_empty() && user.len().is_multiple_of(MARKED))
        .then(|| (user, Timestamp(!u64::from_be_bytes(*ts))))
}

/// Appends the user key behind an encoding to `out`; `None` if it is not one.
pub fn decode_user_key(encoded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut groups = encoded.chunks_exact(MARKED);
    let count = groups.len();
    if count == 0 || !groups.remainder().is_empty() {
        return None;
    }
    out.reserve(count * GROUP);
    for group in groups.by_ref().take(count - 1) {
        if group[GROUP] != 0xff {
            return None;
        }
        out.extend_from_slice(&group[..GROUP]);
    }
    let last = groups.next()?;
    let padding = usize::from(0xff - last[GROUP]);
    if padding == 0 || padding > GROUP {
        return None;
    }
    let (bytes, zeros) = last[..GROUP].split_at(GROUP - padding);
    if zeros.iter().any(|&b| b != 0) {
        return None;
    }
    out.extend_from_slice(bytes);
    Some(())
}

/// The range of `data` that holds all versions of a range of user keys.
pub fn encode_range(range: &KeyRange) -> KeyRange {
    let encode = |key: &[u8]| -> Bytes {
        if key.is_empty() {
            return Bytes::new();
        }
        let mut out = Vec::new();
        encode_user_key(key, &mut out);
        out.into()
    };
    KeyRange { start: encode(&range.start), end: encode(&range.end) }
}

/// The one key of a range that holds exactly one (as [`KeyRange::point`] makes it).
pub fn as_point(range: &KeyRange) -> Option<&[u8]> {
    let key = range.end.strip_suffix(&[0])?;
    (key == &range.start[..]).then_some(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(key: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_user_key(key, &mut out);
        out
    }

    /// Short keys of few values, so that prefixes and neighbours are common; and long ones.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xfe), Just(0xff)], 0..20),
            proptest::collection::vec(any::<u8>(), 0..40),
        ]
    }

    proptest! {
        #[test]
        fn encoding_keeps_the_order_of_user_keys(a in key(), b in key()) {
            prop_assert_eq!(encoded(&a).cmp(&encoded(&b)), a.cmp(&b));
        }

        #[test]
        fn no_encoding_is_a_prefix_of_another(a in key(), b in key()) {
            prop_assume!(a != b);
            prop_assert!(!encoded(&a).starts_with(&encoded(&b)));
        }

        #[test]
        fn versions_sort_by_key_then_newest_first(a in key(), x in any::<u64>(), b in key(), y in any::<u64>()) {
            let order = encode_version(&a, Timestamp(x)).cmp(&encode_version(&b, Timestamp(y)));
            prop_assert_eq!(order, a.cmp(&b).then(y.cmp(&x)));
        }

        #[test]
        fn version_key_reads_back(a in key(), ts in any::<u64>()) {
            let version = encode_version(&a, Timestamp(ts));
            let (user, read) = split_version(&version).expect("a version");
            let mut key = Vec::new();
            decode_user_key(user, &mut key).expect("a user key");
            prop_assert_eq!((key, read), (a, Timestamp(ts)));
        }

        #[test]
        fn encoded_range_holds_what_the_range_holds(a in key(), b in key(), k in key(), ts in any::<u64>()) {
            let range = KeyRange::new(a, b);
            let version = encode_version(&k, Timestamp(ts));
            prop_assert_eq!(encode_range(&range).contains(&version), range.contains(&k));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some((user, _)) = split_version(&bytes) {
                let _ = decode_user_key(user, &mut Vec::new());
            }
        }
    }

    #[test]
    fn point_range_is_recognised() {
        assert_eq!(as_point(&KeyRange::point(b"k")), Some(&b"k"[..]));
        assert_eq!(as_point(&KeyRange::new(&b"k"[..], &b"l"[..])), None);
        assert_eq!(as_point(&KeyRange::all()), None);
    }
}
