//! The receiving end of a snapshot: an import that a crash cannot leave half done unnoticed.
//!
//! An import replaces the content of its spans. The engine takes tables at once and for good, but keeps batches in
//! memory until a flush, and several column families take their tables one after the other. So the order is:
//!
//! ```text
//!   1  rows become tables beside the database, each chunk checked    nothing has changed
//!   2  a marker that names the spans, and their deletion: one batch,
//!      flushed                                                       from here on the spans are undefined
//!   3  each column family ingests its tables (durable at once)
//!   4  the caller's batch (the applied index) removes the marker,
//!      flushed                                                       the new state
//! ```
//!
//! Batches survive a crash as a prefix of what was written, so whoever finds anything of 3 finds the marker, unless all
//! of 4 is there. A store without a marker holds the spans' old state or their new one. A store with a marker holds
//! neither: [`Engine::interrupted_imports`] tells at start, and the replica must be treated as empty until an import
//! succeeds. A snapshot that is damaged is found in 1, while the old state stands.
//!
//! The tables are built here, at the receiver, from rows: so the chunks on the wire don't depend on a version or the
//! options of RocksDB, each row is compared with the spans that it may be in, and the tables have the receiver's
//! settings. The chunks' checksums reach up to the rows, the tables' from there on ([`crate::tables`]).
//!
//! Old tables are not dropped (`delete_files_in_range` would, without reading them): they belong to views that somebody
//! still holds, and a view that lost rows would be wrong instead of old. Where a span is empty, as it is for a new
//! replica, nothing is deleted, and the tables go to the last level at once.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::storage::{ImportMarker, SnapshotChunk, SnapshotRows};

use crate::Error;
use crate::engine::{Batch, Cf, Engine};
use crate::fail_point::{self, FailPoint};
use crate::ids::{GroupId, KeyRange};
use crate::snapshot::{Spans, cf_from_proto, is_whole, span_from_proto, span_to_proto, stored};
use crate::tables::Tables;

/// A marker of the first version, which is not said.
const FIRST_VERSION: u32 = 0;

impl Engine {
    /// Begins to replace the content of `spans` by an exported snapshot: of what the engine holds nothing changes until
    /// [`Import::finish`].
    pub fn import<'e>(
        self: &'e Arc<Self>,
        group: GroupId,
        spans: &[(Cf, KeyRange)],
    ) -> Result<Import<'e>, Error> {
        Ok(Import {
            engine: self,
            group,
            spans: spans.iter().filter(|(_, range)| !range.is_empty()).cloned().collect(),
            stored: stored(spans),
            tables: Tables::create(self, group)?,
            at: 0,
            last: None,
            next_sequence: 0,
            complete: false,
        })
    }

    /// Groups whose import was begun and not finished, with the spans whose content is therefore undefined.
    pub fn interrupted_imports(&self) -> Result<Vec<(GroupId, Spans)>, Error> {
        let snapshot = self.snapshot();
        let mut iter = snapshot.iter(Cf::Group, &KeyRange::prefix(&MARKER_PREFIX));
        let mut found = Vec::new();
        iter.seek_to_first();
        while let Some((_, value)) = iter.item() {
            let marker = ImportMarker::decode(value).ok();
            // (Absent or 1 is the first version. What a later one leaves to be done nobody here can know.)
            let spans = marker.filter(|marker| marker.version <= 1).and_then(|marker| {
                let spans: Option<Spans> = marker.spans.iter().map(span_from_proto).collect();
                Some((GroupId(marker.group), spans?))
            });
            found.push(spans.ok_or_else(|| {
                Error::corrupt(snapshot.dir(), "an import's marker does not decode, or is of a later version")
            })?);
            iter.next();
        }
        iter.check()?;
        Ok(found)
    }

    /// Clears what an interrupted import left, and its marker; durable when this returns.
    pub fn discard_import(&self, group: GroupId) -> Result<(), Error> {
        if let Some(spans) = self.interrupted_import(group)? {
            let mut batch = self.batch();
            spans.iter().for_each(|(cf, range)| batch.delete_range(*cf, range));
            batch.delete(Cf::Group, &marker_key(group));
            self.write(batch)?;
            self.flush()?;
        }
        Ok(())
    }

    fn interrupted_import(&self, group: GroupId) -> Result<Option<Spans>, Error> {
        let found = self.interrupted_imports()?.into_iter().find(|(of, _)| *of == group);
        Ok(found.map(|(_, spans)| spans))
    }
}

/// An import under way. Dropped before [`Import::finish`], it leaves nothing.
pub struct Import<'e> {
    engine: &'e Arc<Engine>,
    group: GroupId,
    spans: Spans,
    /// The same in stored keys.
    stored: Spans,
    tables: Tables<'e>,
    /// The span that rows are being added to.
    at: usize,
    /// The last key that was added to it.
    last: Option<Bytes>,
    next_sequence: u64,
    complete: bool,
}

impl Import<'_> {
    /// Adds the next chunk.
    pub fn put(&mut self, chunk: &SnapshotChunk) -> Result<(), Error> {
        let bad = |what: String| Err(Error::BadChunk(what));
        if self.complete || chunk.sequence != self.next_sequence {
            return bad(format!("number {} came where {} is next", chunk.sequence, self.next_sequence));
        }
        if !is_whole(chunk) {
            return bad(format!("number {} fails its checksum", chunk.sequence));
        }
        let rows = SnapshotRows::decode(chunk.payload.clone())
            .map_err(|e| Error::BadChunk(format!("number {} does not decode: {e}", chunk.sequence)))?;
        let Some(cf) = cf_from_proto(rows.cf) else {
            return bad(format!("number {} is of an unknown column family", chunk.sequence));
        };
        for row in rows.rows {
            if !self.enter(cf, &row.key)? {
                return bad(format!("number {} has a key outside its spans", chunk.sequence));
            }
            if self.last.as_ref().is_some_and(|last| *last >= row.key) {
                return bad(format!("number {} has keys out of order", chunk.sequence));
            }
            self.tables.put(cf, &row.key, &row.value)?;
            self.last = Some(row.key);
        }
        self.next_sequence += 1;
        self.complete = chunk.last;
        Ok(())
    }

    /// Goes on to the span that has the key; false if none does, or only one that is done with.
    fn enter(&mut self, cf: Cf, key: &[u8]) -> Result<bool, Error> {
        let left = self.stored.get(self.at..).unwrap_or_default();
        match left.iter().position(|(of, range)| *of == cf && range.contains(key)) {
            None => return Ok(false),
            Some(0) => {}
            Some(spans) => {
                self.at += spans;
                self.last = None;
                // Whatever lies between two spans is somebody else's.
                self.tables.end()?;
            }
        }
        Ok(true)
    }

    /// Ends the import with what the caller has to say about it (the applied index), atomically. Durable when this
    /// returns. Blocks.
    pub fn finish(mut self, mut with: Batch) -> Result<(), Error> {
        if !self.complete {
            return Err(Error::BadChunk("the last one is missing".to_owned()));
        }
        self.tables.end()?;
        fail_point::pass(FailPoint::ImportBuilt);
        self.clear()?;
        let mut begun = false;
        for cf in Cf::ALL {
            if self.tables.ingest(cf)? && !begun {
                begun = true;
                fail_point::pass(FailPoint::ImportIngested);
            }
        }
        fail_point::pass(FailPoint::ImportFilled);
        with.delete(Cf::Group, &marker_key(self.group));
        self.engine.write(with)?;
        self.engine.flush()
    }

    /// Leaves the marker and clears the spans, durably. (Flushed, the deletions are not in the way of the tables, which
    /// would have to wait for a flush, and everybody's writes with them.)
    fn clear(&self) -> Result<(), Error> {
        let mut batch = self.engine.batch();
        // What an earlier attempt left over may lie in other spans.
        for (cf, range) in self.engine.interrupted_import(self.group)?.unwrap_or_default() {
            batch.delete_range(cf, &range);
        }
        for ((cf, range), (_, stored)) in self.spans.iter().zip(&self.stored) {
            if self.is_occupied(*cf, stored)? {
                batch.delete_range(*cf, range);
            }
        }
        let spans = self.spans.iter().map(span_to_proto).collect();
        let marker = ImportMarker { group: self.group.0, spans, version: FIRST_VERSION };
        batch.put(Cf::Group, &marker_key(self.group), &marker.encode_to_vec());
        self.engine.write(batch)?;
        fail_point::pass(FailPoint::ImportMarked);
        self.engine.flush()?;
        fail_point::pass(FailPoint::ImportCleared);
        Ok(())
    }

    fn is_occupied(&self, cf: Cf, stored: &KeyRange) -> Result<bool, Error> {
        let snapshot = self.engine.snapshot();
        let mut iter = snapshot.iter_stored(cf, stored.clone(), false);
        iter.seek_to_first();
        let occupied = iter.item().is_some();
        iter.check()?;
        Ok(occupied)
    }
}

#[cfg(test)]
impl<'e> Import<'e> {
    pub(crate) fn tables(&mut self) -> &mut Tables<'e> {
        &mut self.tables
    }
}

/// Group id 0 is this crate's own; 1 says "import marker".
const MARKER_PREFIX: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 1];

fn marker_key(group: GroupId) -> Vec<u8> {
    [&MARKER_PREFIX[..], &group.0.to_be_bytes()].concat()
}
