//! Commands, and their compressed form: what is large is compressed once, by the leader, before it becomes an entry.
//!
//! From then on nobody touches it until it is applied: the logs of all replicas, their fsyncs, the messages to followers and
//! the tails in memory all hold the same compressed bytes. Each replica expands it when it applies it, into a buffer that lives as
//! long as that takes.
//!
//! - **Small commands pay nothing**, and most are small: below [`TRIED_BYTES_MIN`] nothing is looked at, copied or allocated.
//! - **What doesn't shrink stays as it is**, so that nobody expands for nothing. An attempt at random bytes is short: LZ4
//!   takes longer and longer steps where it finds no repetition.
//! - **Nothing that arrives or is read is believed.** The size that an entry claims is checked against a bound and against what LZ4
//!   can make of so many bytes before memory is taken; what doesn't expand to exactly that size is malformed.
//! - **What is applied is what was proposed**: a command has a checksum from the proposal to the state machine, of what its owner
//!   encoded. The logs and the messages between nodes have checksums of their own, but of what they were given. What was altered in
//!   between (in memory, by compressing it) got valid ones. Compared where a command is expanded to be applied, it stops the
//!   replica instead: its log, or what it was sent, is damaged, and its state is not yet.
//!
//! # The form
//!
//! ```text
//!   wire::Entry { command: ┌──────┬───────────────────────┬───────────────────┐  compression: LZ4 }
//!                          │ 0x07 │ size, expanded (LE32) │ one block of LZ4  │
//!                          └──────┴───────────────────────┴───────────────────┘
//!                crc32: of the command, expanded
//! ```
//!
//! An entry without a `compression` is a command as it is: what was written before there was any reads as ever. A kind that this
//! version doesn't know is refused when it arrives, and when it is read. A version from before knows no kinds: it takes the
//! bytes for a command, hands them to its state machine, and [`MARK`] sees to it that they decode as none, so that its replica stops and says so
//! instead of applying something else. (No such version was released.) Kinds that come later are to be chosen by the setting
//! `log_compression` when all nodes know them: that is why it names the kind, and a node that doesn't know the name compresses nothing.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use lz4_flex::block;
use proto::raft::entry::Compression;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::Malformed;

/// Smaller commands are not worth an attempt.
const TRIED_BYTES_MIN: usize = 1 << 10;
/// Larger ones would keep the proposer's thread for too long: it is done where the proposal is made, so that their order stays.
const TRIED_BYTES_MAX: usize = 8 << 20;
/// What is not smaller by one part in so many stays as it was.
const GAIN_PART: usize = 8;
/// Nothing expands to more. (Beyond what this version compresses: a later one may try more.)
const EXPANDED_BYTES_MAX: usize = 64 << 20;
/// LZ4 makes no more than this of one byte.
const RATIO_MAX: usize = 255;
/// Before the block: the mark and the size.
const HEAD_BYTES: usize = 5;
/// No protobuf message begins with it, for there is no wire type 7.
const MARK: u8 = 0x07;

/// A command as the state machine's owner encoded it, or that compressed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// As it is logged and sent.
    data: Bytes,
    form: Form,
    /// Of what its owner encoded. None in entries from before there was one, and in barriers.
    crc32: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Form {
    #[default]
    Plain,
    Lz4,
}

impl Command {
    /// As it is.
    pub(crate) fn plain(data: Bytes) -> Self {
        Self { crc32: checksum(&data), data, form: Form::Plain }
    }

    /// Compressed, if that pays.
    pub(crate) fn compressed(plain: Bytes) -> Self {
        if !(TRIED_BYTES_MIN..=TRIED_BYTES_MAX).contains(&plain.len()) {
            return Self::plain(plain);
        }
        let bytes_before = plain.len() as u64;
        let crc32 = checksum(&plain);
        let command = match squeeze(&plain) {
            Some(data) => Self { data, form: Form::Lz4, crc32 },
            None => Self { data: plain, form: Form::Plain, crc32 },
        };
        let bytes_after = command.bytes() as u64;
        metrics::counter!("flotilla_raft_entry_bytes_total", "form" => "plain").increment(bytes_before);
        metrics::counter!("flotilla_raft_entry_bytes_total", "form" => "compressed").increment(bytes_after);
        command
    }

    /// How many bytes it takes in the log, and on the wire.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Whether it takes fewer of them than what it stands for.
    pub(crate) fn is_compressed(&self) -> bool {
        self.form != Form::Plain
    }

    /// A barrier: no command at all.
    pub(crate) fn is_barrier(&self) -> bool {
        // (What has a checksum was no barrier when it was proposed.)
        self.data.is_empty() && self.crc32.is_none()
    }

    /// What its owner encoded, if it is still that.
    pub(crate) fn expand(&self) -> Result<Cow<'_, [u8]>, Malformed> {
        let plain = match self.form {
            Form::Plain => Cow::Borrowed(&self.data[..]),
            Form::Lz4 => Cow::Owned(expand(&self.data)?),
        };
        match self.crc32 {
            Some(proposed) if crc32fast::hash(&plain) != proposed => {
                Err(Malformed { what: "command: by its checksum it is not what was proposed" })
            }
            _ => Ok(plain),
        }
    }

    /// For an entry's fields.
    pub(crate) fn to_wire(&self) -> (Compression, Bytes, Option<u32>) {
        let compression = match self.form {
            Form::Plain => Compression::Unspecified,
            Form::Lz4 => Compression::Lz4,
        };
        (compression, self.data.clone(), self.crc32)
    }

    /// From an entry's fields. What is compressed is not expanded, but looks as if it could be.
    pub(crate) fn from_wire(
        compression: Compression,
        data: Bytes,
        crc32: Option<u32>,
    ) -> Result<Self, Malformed> {
        let form = match compression {
            Compression::Unspecified => Form::Plain,
            Compression::Lz4 => {
                parse(&data)?;
                Form::Lz4
            }
        };
        Ok(Self { data, form, crc32 })
    }
}

/// Of a command as its owner encoded it.
fn checksum(plain: &[u8]) -> Option<u32> {
    (!plain.is_empty()).then(|| crc32fast::hash(plain))
}

/// The compressed form, if it is so much smaller that it pays.
fn squeeze(plain: &[u8]) -> Option<Bytes> {
    let mut buffer = vec![0_u8; HEAD_BYTES + block::get_maximum_output_size(plain.len())];
    let (head, rest) = buffer.split_at_mut(HEAD_BYTES);
    head[0] = MARK;
    head[1..].copy_from_slice(&u32::try_from(plain.len()).ok()?.to_le_bytes());
    // (It fails only for want of room, and there is room for the worst case.)
    let bytes = HEAD_BYTES + block::compress_into(plain, rest).ok()?;
    let pays = bytes <= plain.len() - plain.len() / GAIN_PART;
    // Copied: what is kept in memory shall take as much as it counts for.
    pays.then(|| Bytes::copy_from_slice(&buffer[..bytes]))
}

/// The expanded size and the block, if both are plausible.
fn parse(data: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    let short = Malformed { what: "compressed command: it is cut off" };
    let (head, rest) = data.split_first_chunk::<HEAD_BYTES>().ok_or(short)?;
    let [mark, size @ ..] = *head;
    let bytes = u32::from_le_bytes(size) as usize;
    if mark != MARK {
        return Err(Malformed { what: "compressed command: it does not begin as one" });
    }
    if bytes > EXPANDED_BYTES_MAX || bytes.div_ceil(RATIO_MAX) > rest.len() {
        return Err(Malformed { what: "compressed command: its size cannot be" });
    }
    Ok((bytes, rest))
}

fn expand(data: &[u8]) -> Result<Vec<u8>, Malformed> {
    let (bytes, rest) = parse(data)?;
    let mut plain = vec![0_u8; bytes];
    match block::decompress_into(rest, &mut plain) {
        Ok(expanded) if expanded == bytes => Ok(plain),
        Ok(_) => Err(Malformed { what: "compressed command: it expands to another size" }),
        Err(_) => Err(Malformed { what: "compressed command: it does not expand" }),
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = if self.is_compressed() { ", compressed" } else { "" };
        write!(f, "{} bytes{note}", self.data.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

// openraft asks for serde; nothing of ours ever goes through it.
impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.is_compressed(), self.crc32, &self.data[..]).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (compressed, crc32, data) = <(bool, Option<u32>, Vec<u8>)>::deserialize(deserializer)?;
        let form = if compressed { Form::Lz4 } else { Form::Plain };
        Ok(Self { data: data.into(), form, crc32 })
    }
}
