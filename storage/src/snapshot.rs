//! Moving a replica's state to another node: the sending end. Rows as of one view, in checksummed chunks that always
//! turn out the same, so that a transfer which broke off can go on where it was. [`crate::import`] is the other end.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::storage::{ColumnFamily, SnapshotChunk, SnapshotRow, SnapshotRows, Span};

use crate::Error;
use crate::engine::{Cf, Engine, Snapshot};
use crate::ids::KeyRange;

/// A chunk is closed when its rows have this many bytes. A chunk with one large row may be larger.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What a snapshot covers: ranges of user keys in `Data` and `Intents`, of stored keys in `Group`.
pub type Spans = Vec<(Cf, KeyRange)>;

impl Engine {
    /// The content of `spans` as of `snapshot`, in chunks; the last one is marked and empty.
    pub fn export(&self, snapshot: Arc<Snapshot>, spans: &[(Cf, KeyRange)]) -> Export {
        let first = Start { span: 0, key: None };
        Export { snapshot, spans: stored(spans), starts: vec![first], sequence: 0, total: None }
    }
}

/// The chunks of a snapshot, in order.
pub struct Export {
    snapshot: Arc<Snapshot>,
    /// In stored keys.
    spans: Spans,
    /// Where each chunk begins that was made, and the one after them: a key for each megabyte.
    starts: Vec<Start>,
    /// The next chunk's number.
    sequence: usize,
    /// How many there are, once the last one was made.
    total: Option<usize>,
}

/// Where a chunk begins.
#[derive(Clone)]
struct Start {
    span: usize,
    /// Not at the span's beginning.
    key: Option<Bytes>,
}

impl Iterator for Export {
    type Item = Result<SnapshotChunk, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.total == Some(self.sequence) {
            return None;
        }
        Some(self.chunk())
    }
}

impl Export {
    /// Goes to the chunk of that number, forth only as far as there was a chunk already. False: there was not.
    pub fn seek(&mut self, sequence: u64) -> bool {
        match usize::try_from(sequence) {
            Ok(sequence) if sequence < self.starts.len() || self.total == Some(sequence) => {
                self.sequence = sequence;
                true
            }
            _ => false,
        }
    }

    fn chunk(&mut self) -> Result<SnapshotChunk, Error> {
        let snapshot = self.snapshot.clone();
        let Start { span: first, mut key } = self.starts[self.sequence].clone();
        for span in first..self.spans.len() {
            let (cf, mut range) = self.spans[span].clone();
            if let Some(key) = key.take() {
                range.start = key;
            }
            let mut iter = snapshot.iter_stored(cf, range, false);
            let mut rows = Vec::new();
            let mut bytes = 0;
            iter.seek_to_first();
            while let Some((key, value)) = iter.item() {
                if bytes >= CHUNK_BYTES {
                    let next = Start { span, key: Some(Bytes::copy_from_slice(key)) };
                    return Ok(self.seal(cf, rows, Some(next)));
                }
                bytes += key.len() + value.len();
                rows.push(SnapshotRow {
                    key: Bytes::copy_from_slice(key),
                    value: Bytes::copy_from_slice(value),
                });
                iter.next();
            }
            iter.check()?;
            if !rows.is_empty() {
                return Ok(self.seal(cf, rows, Some(Start { span: span + 1, key: None })));
            }
        }
        Ok(self.seal(Cf::Group, Vec::new(), None))
    }

    fn seal(&mut self, cf: Cf, rows: Vec<SnapshotRow>, next: Option<Start>) -> SnapshotChunk {
        let payload: Bytes = SnapshotRows { cf: cf_to_proto(cf) as i32, rows }.encode_to_vec().into();
        let sequence = self.sequence as u64;
        let last = next.is_none();
        self.sequence += 1;
        match next {
            Some(next) if self.starts.len() == self.sequence => self.starts.push(next),
            Some(_) => {}
            None => self.total = Some(self.sequence),
        }
        sealed(sequence, last, payload)
    }
}

/// A chunk with its checksums.
pub fn sealed(sequence: u64, last: bool, payload: Bytes) -> SnapshotChunk {
    let crc32 = crc32fast::hash(&payload);
    let place_crc32 = Some(place_checksum(sequence, last, crc32));
    SnapshotChunk { sequence, last, crc32, payload, place_crc32 }
}

/// Whether a chunk is what was sealed: its content, its place, and whether it is the last one. (A chunk that seems to be the last one makes
/// a snapshot complete that is not.)
pub fn is_whole(chunk: &SnapshotChunk) -> bool {
    let place = place_checksum(chunk.sequence, chunk.last, chunk.crc32);
    chunk.place_crc32.is_none_or(|said| said == place) && crc32fast::hash(&chunk.payload) == chunk.crc32
}

fn place_checksum(sequence: u64, last: bool, crc32: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&[u8::from(last)]);
    hasher.update(&crc32.to_le_bytes());
    hasher.finalize()
}

pub(crate) fn stored(spans: &[(Cf, KeyRange)]) -> Spans {
    spans.iter().filter(|(_, range)| !range.is_empty()).map(|(cf, range)| (*cf, cf.stored(range))).collect()
}

fn cf_to_proto(cf: Cf) -> ColumnFamily {
    match cf {
        Cf::Data => ColumnFamily::Data,
        Cf::Intents => ColumnFamily::Intents,
        Cf::Group => ColumnFamily::Group,
    }
}

pub(crate) fn cf_from_proto(cf: i32) -> Option<Cf> {
    match ColumnFamily::try_from(cf).ok()? {
        ColumnFamily::Unspecified => None,
        ColumnFamily::Data => Some(Cf::Data),
        ColumnFamily::Intents => Some(Cf::Intents),
        ColumnFamily::Group => Some(Cf::Group),
    }
}

pub(crate) fn span_to_proto((cf, range): &(Cf, KeyRange)) -> Span {
    Span { cf: cf_to_proto(*cf) as i32, start: range.start.clone(), end: range.end.clone() }
}

pub(crate) fn span_from_proto(span: &Span) -> Option<(Cf, KeyRange)> {
    Some((cf_from_proto(span.cf)?, KeyRange { start: span.start.clone(), end: span.end.clone() }))
}
