use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use prost::Message;
use proto::raft as wire;

use super::*;
use crate::types::{Entry, decode_entry, encode_entry, entry_bytes, log_id};

/// An entry as it was before there was compression.
#[derive(Clone, PartialEq, prost::Message)]
struct OldEntry {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(bytes = "bytes", tag = "3")]
    command: Bytes,
}

fn words(bytes: usize) -> Bytes {
    let mut text = String::new();
    while text.len() < bytes {
        text.push_str(&format!("at {} there is a row with a name and a note; ", text.len()));
    }
    text.truncate(bytes);
    text.into()
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let draw = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(draw).collect()
}

fn entry(command: Command) -> Entry {
    Entry::new(log_id(3, 9), EntryPayload::Normal(command))
}

fn read(encoded: impl Into<Bytes>) -> Result<Command, Malformed> {
    match decode_entry(encoded.into())?.payload {
        EntryPayload::Normal(command) => Ok(command),
        _ => panic!("no command"),
    }
}

fn expanded(data: Bytes) -> Result<Vec<u8>, Malformed> {
    let command = Command::from_wire(Compression::Lz4, data, None)?;
    command.expand().map(Cow::into_owned)
}

#[test]
fn large_command_shrinks_and_expands_to_itself() {
    for bytes in [TRIED_BYTES_MIN, 5_000, 100_000, 1 << 20, TRIED_BYTES_MAX] {
        let plain = words(bytes);
        let command = Command::compressed(plain.clone());
        assert!(command.is_compressed() && command.bytes() < bytes / 2, "{bytes}: {command:?}");
        assert_eq!(command.expand().expect("it expands"), &plain[..]);
    }
}

#[test]
fn command_that_would_not_shrink_enough_stays_and_is_not_copied() {
    let with_zeros = |random: usize| [noise(random, 1), vec![0; 8_192 - random]].concat();
    let as_they_are = [
        Bytes::new(),
        words(TRIED_BYTES_MIN - 1),
        words(TRIED_BYTES_MAX + 1),
        noise(TRIED_BYTES_MIN, 1).into(),
        noise(100_000, 1).into(),
        with_zeros(7_900).into(),
    ];
    for plain in as_they_are {
        let command = Command::compressed(plain.clone());
        assert_eq!(command, Command::plain(plain.clone()));
        assert_eq!(command.data.as_ptr(), plain.as_ptr());
        assert_eq!(command.expand().expect("as it is"), &plain[..]);
        assert_eq!(command.is_barrier(), plain.is_empty());
    }
    let enough = Command::compressed(with_zeros(6_000).into());
    assert!(enough.is_compressed() && enough.bytes() > 6_000);
}

#[test]
fn compressed_entry_is_small_in_the_log_and_reads_as_it_was_written() {
    let plain = words(16 << 10);
    let entry = entry(Command::compressed(plain.clone()));
    let encoded = encode_entry(&entry);
    assert!(encoded.len() < plain.len() / 2 && entry_bytes(&entry) < plain.len() / 2);
    let command = read(encoded).expect("an entry");
    assert!(command.is_compressed() && !command.is_barrier());
    assert_eq!(command.expand().expect("it expands"), &plain[..]);
}

#[test]
fn entries_from_before_compression_read_as_before() {
    let old = OldEntry { term: 3, index: 9, command: words(16 << 10) };
    let command = read(old.encode_to_vec()).expect("an entry");
    // As it is, and without a checksum: there is nothing to compare it with.
    assert_eq!(command, Command { data: old.command.clone(), form: Form::Plain, crc32: None });
    assert_eq!(command.expand().expect("as it is"), &old.command[..]);
    assert_eq!(encode_entry(&entry(command)), old.encode_to_vec(), "and are written as before");
}

#[test]
fn version_before_compression_takes_a_compressed_command_for_none() {
    let encoded = encode_entry(&entry(Command::compressed(words(16 << 10))));
    let old = OldEntry::decode(encoded).expect("an entry");
    assert_eq!((old.term, old.index), (3, 9));
    assert!(proto::shard::Command::decode(old.command.clone()).is_err());
    assert!(proto::meta::Command::decode(old.command).is_err());
}

#[test]
fn compression_of_a_later_version_is_refused() {
    let payload = Some(wire::entry::Payload::Command(words(100)));
    let later = wire::Entry { term: 3, index: 9, payload, compression: 4_711, crc32: None };
    let refused = read(later.encode_to_vec()).expect_err("an unknown compression").to_string();
    assert!(refused.contains("this version does not know"), "{refused}");

    let lz4 = Compression::Lz4 as i32;
    let blank = wire::Entry { term: 3, index: 9, payload: None, compression: lz4, crc32: None };
    decode_entry(blank.encode_to_vec().into()).expect_err("nothing, compressed");
}

#[test]
fn sizes_that_cannot_be_are_refused_before_memory_is_taken() {
    let (_, data, _) = Command::compressed(words(4_096)).to_wire();
    let with_size = |size: usize| {
        let size = (size as u32).to_le_bytes();
        Bytes::from([&data[..1], &size[..], &data[HEAD_BYTES..]].concat())
    };
    assert_eq!(with_size(4_096), data);
    for size in [u32::MAX as usize, EXPANDED_BYTES_MAX + 1, EXPANDED_BYTES_MAX, data.len() * RATIO_MAX] {
        let refused = Command::from_wire(Compression::Lz4, with_size(size), None).expect_err("a size");
        assert!(refused.to_string().contains("its size cannot be"), "{refused}");
    }
    for size in [0, 4_095, 4_097] {
        expanded(with_size(size)).expect_err("another size");
    }
}

#[test]
fn damage_is_refused_or_keeps_the_size_and_never_panics() {
    let (_, data, _) = Command::compressed(words(4_096)).to_wire();
    for end in 0..data.len() {
        expanded(data.slice(..end)).expect_err("cut off");
    }
    for at in 0..data.len() {
        for change in [0x01, 0x10, 0x80, 0xff] {
            let mut altered = data.to_vec();
            altered[at] ^= change;
            if let Ok(plain) = expanded(altered.into()) {
                assert_eq!(plain.len(), 4_096);
            }
        }
    }
    for seed in 1..500 {
        let random = noise(40 + seed as usize, seed);
        let head = [&[MARK][..], &4_096_u32.to_le_bytes()[..]].concat();
        if let Ok(plain) = expanded([head, random].concat().into()) {
            assert_eq!(plain.len(), 4_096);
        }
    }
}

#[test]
fn bit_that_flips_anywhere_in_a_command_is_noticed() {
    for command in [Command::plain(words(60)), Command::compressed(words(4_096))] {
        let plain = command.expand().expect("as it was proposed").into_owned();
        let (compression, data, crc32) = command.to_wire();
        for bit in 0..data.len() * 8 {
            let mut altered = data.to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            let altered = Command::from_wire(compression, altered.into(), crc32);
            if let Ok(expanded) = altered.and_then(|altered| altered.expand().map(Cow::into_owned)) {
                // (A repetition may be taken from another place where the same is.)
                assert!(command.is_compressed() && expanded == plain, "bit {bit}");
            }
        }
    }
}

#[test]
fn checksum_lasts_from_the_proposal_to_where_it_is_applied() {
    let command = Command::plain(Bytes::from_static(b"k=v"));
    let encoded = encode_entry(&entry(command.clone()));
    assert_eq!(read(encoded.clone()).expect("an entry"), command);
    let at = encoded.windows(3).position(|bytes| bytes == b"k=v").expect("the command");
    let mut altered = encoded.to_vec();
    altered[at + 2] = b'w';
    let refused = read(altered).expect("an entry").expand().expect_err("altered").to_string();
    assert!(refused.contains("not what was proposed"), "{refused}");
    // What has lost all its bytes is no barrier.
    let emptied = Command::from_wire(Compression::Unspecified, Bytes::new(), command.crc32).expect("nothing");
    assert!(!emptied.is_barrier() && emptied.expand().is_err());
    assert!(Command::plain(Bytes::new()).is_barrier());
}
