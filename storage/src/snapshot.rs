//! Moving a replica's state to another node: export in checksummed chunks, import that a crash cannot leave half done
//! unnoticed.
//!
//! An import replaces the content of its spans. It first leaves a *marker* that names them and makes it durable, then
//! clears the spans, adds the chunks as they come, and last removes the marker in the same batch in which the caller
//! records the applied index. Whatever of the batches survives a crash is a prefix, so a store without a marker
//! holds the spans' old state or their new one. A store with a marker holds neither: [`Engine::interrupted_imports`]
//! tells at start, and the replica must be treated as empty until an import succeeds.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::storage::{ColumnFamily, ImportMarker, SnapshotChunk, SnapshotRow, SnapshotRows, Span};

use crate::Error;
use crate::engine::{Batch, Cf, Engine, Snapshot};
use crate::ids::{GroupId, KeyRange};

/// A chunk is closed when its rows have this many bytes. A chunk with one large row may be larger.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What a snapshot covers: ranges of user keys in `Data` and `Intents`, of stored keys in `Group`.
pub type Spans = Vec<(Cf, KeyRange)>;

impl Engine {
    /// The content of `spans` as of `snapshot`, in chunks; the last one is marked and empty.
    pub fn export(&self, snapshot: Arc<Snapshot>, spans: &[(Cf, KeyRange)]) -> Export {
        let spans = stored(spans).into_iter().rev().collect();
        Export { snapshot, spans, sequence: 0, finished: false }
    }

    /// Begins to replace the content of `spans` by an exported snapshot. Blocks until that is durably noted.
    pub fn import(self: &Arc<Self>, group: GroupId, spans: &[(Cf, KeyRange)]) -> Result<Import, Error> {
        let marker = ImportMarker { group: group.0, spans: spans.iter().map(span_to_proto).collect() };
        let mut batch = self.batch();
        // What an earlier attempt left over may lie in other spans.
        if let Some((_, earlier)) = self.interrupted_imports()?.into_iter().find(|(g, _)| *g == group) {
            clear(&mut batch, &earlier);
        }
        batch.put(Cf::Group, &marker_key(group), &marker.encode_to_vec());
        self.write(batch)?;
        self.flush()?;

        let mut batch = self.batch();
        clear(&mut batch, spans);
        self.write(batch)?;
        Ok(Import { engine: self.clone(), group, spans: stored(spans), next_sequence: 0, complete: false })
    }

    /// Groups whose import was begun and not finished, with the spans whose content is therefore undefined.
    pub fn interrupted_imports(&self) -> Result<Vec<(GroupId, Spans)>, Error> {
        let snapshot = self.snapshot();
        let mut iter = snapshot.iter(Cf::Group, &KeyRange::prefix(&MARKER_PREFIX));
        let mut found = Vec::new();
        iter.seek_to_first();
        while let Some((_, value)) = iter.item() {
            let spans = ImportMarker::decode(value).ok().and_then(|marker| {
                let spans: Option<Spans> = marker.spans.iter().map(span_from_proto).collect();
                Some((GroupId(marker.group), spans?))
            });
            found.push(
                spans.ok_or_else(|| Error::corrupt(snapshot.dir(), "an import's marker does not decode"))?,
            );
            iter.next();
        }
        iter.check()?;
        Ok(found)
    }

    /// Clears what an interrupted import left, and its marker; durable when this returns.
    pub fn discard_import(&self, group: GroupId) -> Result<(), Error> {
        if let Some((_, spans)) = self.interrupted_imports()?.into_iter().find(|(g, _)| *g == group) {
            let mut batch = self.batch();
            clear(&mut batch, &spans);
            batch.delete(Cf::Group, &marker_key(group));
            self.write(batch)?;
            self.flush()?;
        }
        Ok(())
    }
}

/// The chunks of a snapshot, in order.
pub struct Export {
    snapshot: Arc<Snapshot>,
    /// What is left, in stored keys, the next one last.
    spans: Spans,
    sequence: u64,
    finished: bool,
}

impl Iterator for Export {
    type Item = Result<SnapshotChunk, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let chunk = self.chunk();
        self.finished |= chunk.is_err();
        Some(chunk)
    }
}

impl Export {
    fn chunk(&mut self) -> Result<SnapshotChunk, Error> {
        let snapshot = self.snapshot.clone();
        while let Some((cf, range)) = self.spans.pop() {
            let mut iter = snapshot.iter_stored(cf, range.clone(), false);
            let mut rows = Vec::new();
            let mut bytes = 0;
            iter.seek_to_first();
            while let Some((key, value)) = iter.item() {
                if bytes >= CHUNK_BYTES {
                    self.spans.push((cf, KeyRange { start: Bytes::copy_from_slice(key), end: range.end }));
                    return Ok(self.seal(cf, rows, false));
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
                return Ok(self.seal(cf, rows, false));
            }
        }
        self.finished = true;
        Ok(self.seal(Cf::Group, Vec::new(), true))
    }

    fn seal(&mut self, cf: Cf, rows: Vec<SnapshotRow>, last: bool) -> SnapshotChunk {
        let payload: Bytes = SnapshotRows { cf: cf_to_proto(cf) as i32, rows }.encode_to_vec().into();
        let sequence = self.sequence;
        self.sequence += 1;
        SnapshotChunk { sequence, last, crc32: crc32fast::hash(&payload), payload }
    }
}

/// An import under way. Dropped before [`Import::finish`], it leaves its marker, and the spans undefined.
pub struct Import {
    engine: Arc<Engine>,
    group: GroupId,
    /// In stored keys.
    spans: Spans,
    next_sequence: u64,
    complete: bool,
}

impl Import {
    /// Adds the next chunk.
    pub fn put(&mut self, chunk: &SnapshotChunk) -> Result<(), Error> {
        let bad = |what: String| Err(Error::BadChunk(what));
        if self.complete || chunk.sequence != self.next_sequence {
            return bad(format!("number {} came where {} is next", chunk.sequence, self.next_sequence));
        }
        if crc32fast::hash(&chunk.payload) != chunk.crc32 {
            return bad(format!("number {} fails its checksum", chunk.sequence));
        }
        let rows = SnapshotRows::decode(chunk.payload.clone())
            .map_err(|e| Error::BadChunk(format!("number {} does not decode: {e}", chunk.sequence)))?;
        let Some(cf) = cf_from_proto(rows.cf) else {
            return bad(format!("number {} is of an unknown column family", chunk.sequence));
        };
        let mut batch = self.engine.batch();
        for row in &rows.rows {
            if !self.spans.iter().any(|(of, range)| *of == cf && range.contains(&row.key)) {
                return bad(format!("number {} has a key outside its spans", chunk.sequence));
            }
            batch.put(cf, &row.key, &row.value);
        }
        self.engine.write(batch)?;
        self.next_sequence += 1;
        self.complete = chunk.last;
        Ok(())
    }

    /// Ends the import with what the caller has to say about it (the applied index), atomically. Durable when this
    /// returns.
    pub fn finish(self, mut with: Batch) -> Result<(), Error> {
        if !self.complete {
            return Err(Error::BadChunk("the last one is missing".to_owned()));
        }
        with.delete(Cf::Group, &marker_key(self.group));
        self.engine.write(with)?;
        self.engine.flush()
    }
}

/// Group id 0 is this crate's own; 1 says "import marker".
const MARKER_PREFIX: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 1];

fn marker_key(group: GroupId) -> Vec<u8> {
    [&MARKER_PREFIX[..], &group.0.to_be_bytes()].concat()
}

fn clear(batch: &mut Batch, spans: &[(Cf, KeyRange)]) {
    for (cf, range) in spans {
        batch.delete_range(*cf, range);
    }
}

fn stored(spans: &[(Cf, KeyRange)]) -> Spans {
    spans.iter().filter(|(_, range)| !range.is_empty()).map(|(cf, range)| (*cf, cf.stored(range))).collect()
}

fn cf_to_proto(cf: Cf) -> ColumnFamily {
    match cf {
        Cf::Data => ColumnFamily::Data,
        Cf::Intents => ColumnFamily::Intents,
        Cf::Group => ColumnFamily::Group,
    }
}

fn cf_from_proto(cf: i32) -> Option<Cf> {
    match ColumnFamily::try_from(cf).ok()? {
        ColumnFamily::Unspecified => None,
        ColumnFamily::Data => Some(Cf::Data),
        ColumnFamily::Intents => Some(Cf::Intents),
        ColumnFamily::Group => Some(Cf::Group),
    }
}

fn span_to_proto((cf, range): &(Cf, KeyRange)) -> Span {
    Span { cf: cf_to_proto(*cf) as i32, start: range.start.clone(), end: range.end.clone() }
}

fn span_from_proto(span: &Span) -> Option<(Cf, KeyRange)> {
    Some((cf_from_proto(span.cf)?, KeyRange { start: span.start.clone(), end: span.end.clone() }))
}
