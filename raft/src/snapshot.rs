//! Snapshots on their way: from a view of the sender's engine, over a stream, into a file, into the engine.
//!
//! The receiver spools a snapshot to a file first, and imports it when it is complete and openraft has agreed to
//! it. From then until the import is durable the file is called `.install`; a crash in between leaves it, and the
//! next start imports it again. So a replica never forgets entries that it has acknowledged: it holds the old state
//! and the log, or the new state.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::raft as wire;
use proto::storage::{ColumnFamily, SnapshotChunk, Span};
use storage::ids::{GroupId, KeyRange};
use storage::{Cf, Engine};

use crate::api::Fatal;
use crate::state_machine::Position;
use crate::types::{Malformed, meta_from_wire};

/// Complete, accepted, to be imported.
const INSTALL: &str = "install";
/// Being received, or not yet accepted: worthless after a restart.
const PARTIAL: &str = "partial";
/// A bound on what a length in a file may claim.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// What openraft passes around as a snapshot's data.
pub(crate) enum SnapshotData {
    /// None: only the metadata counts.
    Marker,
    /// A view of this node's engine, to be sent.
    View { engine: Arc<Engine>, view: storage::Snapshot, spans: Vec<(Cf, KeyRange)> },
    /// Received from the leader.
    Spooled(Spool),
}

/// A complete snapshot in a file, which is removed with this unless it was installed.
pub(crate) struct Spool {
    path: PathBuf,
    installed: bool,
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.installed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes an incoming snapshot to a file, checking each chunk.
pub(crate) struct SpoolWriter {
    file: BufWriter<File>,
    spool: Spool,
    next_sequence: u64,
    complete: bool,
}

impl SpoolWriter {
    /// `unique` tells apart attempts that overlap.
    pub fn create(dir: &Path, unique: u64, header: &wire::SnapshotHeader) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}-{unique:016x}.{PARTIAL}", header.group));
        let file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        let spool = Spool { path, installed: false };
        let mut writer = Self { file, spool, next_sequence: 0, complete: false };
        writer.frame(&header.encode_to_vec())?;
        Ok(writer)
    }

    fn frame(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(&(bytes.len() as u32).to_le_bytes())?;
        self.file.write_all(&crc32fast::hash(bytes).to_le_bytes())?;
        self.file.write_all(bytes)
    }

    /// Adds an encoded [`SnapshotChunk`].
    pub fn push(&mut self, encoded: &Bytes) -> io::Result<()> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a snapshot chunk {what}"));
        let chunk = SnapshotChunk::decode(encoded.clone()).map_err(|_| bad("does not decode"))?;
        if self.complete || chunk.sequence != self.next_sequence {
            return Err(bad("is out of sequence"));
        }
        if crc32fast::hash(&chunk.payload) != chunk.crc32 {
            return Err(bad("fails its checksum"));
        }
        self.next_sequence += 1;
        self.complete = chunk.last;
        self.frame(encoded)
    }

    /// The file is complete and on disk.
    pub fn finish(mut self) -> io::Result<Spool> {
        if !self.complete {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot ended early"));
        }
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok(self.spool)
    }
}

struct SpoolReader {
    file: BufReader<File>,
    path: PathBuf,
}

impl SpoolReader {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufReader::with_capacity(1 << 20, File::open(path)?), path: path.to_owned() })
    }

    fn frame(&mut self) -> io::Result<Bytes> {
        let bad =
            || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", self.path.display()));
        let mut word = [0; 4];
        self.file.read_exact(&mut word)?;
        let length = u32::from_le_bytes(word) as usize;
        self.file.read_exact(&mut word)?;
        if length > FRAME_BYTES_MAX {
            return Err(bad());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes)?;
        if crc32fast::hash(&bytes) != u32::from_le_bytes(word) {
            return Err(bad());
        }
        Ok(bytes.into())
    }

    fn header(&mut self) -> Result<wire::SnapshotHeader, Fatal> {
        let frame = self.frame().map_err(Fatal::new)?;
        wire::SnapshotHeader::decode(frame).map_err(Fatal::new)
    }
}

/// Replaces the state of a group by a spooled snapshot. Durable when this returns. Blocks.
pub(crate) fn install(
    engine: &Arc<Engine>,
    group: GroupId,
    mut spool: Spool,
    position: &Position,
) -> Result<(), Fatal> {
    let path = spool.path.with_file_name(format!("{}.{INSTALL}", group.0));
    fs::rename(&spool.path, &path).map_err(Fatal::new)?;
    spool.installed = true;
    sync_dir(&path).map_err(Fatal::new)?;
    import(engine, group, &path, position)
}

/// Finishes the installs that a crash has interrupted, and removes what is of no use. Before any group is opened.
pub(crate) fn resume_installs(engine: &Arc<Engine>, dir: &Path) -> Result<(), Fatal> {
    let files = match fs::read_dir(dir) {
        Ok(files) => files,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Fatal::new(e)),
    };
    for file in files {
        let path = file.map_err(Fatal::new)?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some(INSTALL) => {
                let header = SpoolReader::open(&path).map_err(Fatal::new)?.header()?;
                let group = GroupId(header.group);
                let meta = meta_from_wire(header.meta).map_err(Fatal::new)?;
                let position = Position { last: meta.last_log_id, membership: meta.last_membership };
                let interrupted = engine.interrupted_imports()?.iter().any(|(g, _)| *g == group);
                if !interrupted && Position::load(engine, group)?.last >= position.last {
                    // It was installed; only the file's removal did not reach the disk.
                    fs::remove_file(&path).map_err(Fatal::new)?;
                } else {
                    tracing::info!(%group, "resuming the install of a snapshot");
                    import(engine, group, &path, &position)?;
                }
            }
            Some(PARTIAL) => fs::remove_file(&path).map_err(Fatal::new)?,
            _ => {}
        }
    }
    if let Some((group, _)) = engine.interrupted_imports()?.first() {
        return Err(Fatal::new(format!("the snapshot that was being imported into {group} is gone")));
    }
    Ok(())
}

fn import(engine: &Arc<Engine>, group: GroupId, path: &Path, position: &Position) -> Result<(), Fatal> {
    let mut reader = SpoolReader::open(path).map_err(Fatal::new)?;
    let header = reader.header()?;
    let spans = spans_from_wire(&header.spans).map_err(Fatal::new)?;
    let mut import = engine.import(group, &spans)?;
    loop {
        let chunk = SnapshotChunk::decode(reader.frame().map_err(Fatal::new)?).map_err(Fatal::new)?;
        import.put(&chunk)?;
        if chunk.last {
            break;
        }
    }
    let mut batch = engine.batch();
    position.store(group, &mut batch);
    import.finish(batch)?;
    fs::remove_file(path).map_err(Fatal::new)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

pub(crate) fn spans_to_wire(spans: &[(Cf, KeyRange)]) -> Vec<Span> {
    spans
        .iter()
        .map(|(cf, range)| {
            let cf = match cf {
                Cf::Data => ColumnFamily::Data,
                Cf::Intents => ColumnFamily::Intents,
                Cf::Group => ColumnFamily::Group,
            };
            Span { cf: cf as i32, start: range.start.clone(), end: range.end.clone() }
        })
        .collect()
}

pub(crate) fn spans_from_wire(spans: &[Span]) -> Result<Vec<(Cf, KeyRange)>, Malformed> {
    spans
        .iter()
        .map(|span| {
            let cf = match span.cf() {
                ColumnFamily::Data => Cf::Data,
                ColumnFamily::Intents => Cf::Intents,
                ColumnFamily::Group => Cf::Group,
                ColumnFamily::Unspecified => return Err(Malformed { what: "column family" }),
            };
            Ok((cf, KeyRange { start: span.start.clone(), end: span.end.clone() }))
        })
        .collect()
}
