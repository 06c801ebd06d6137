//! Snapshots on their way: from a view of the sender's engine, over a stream, into a file, into the engine.
//!
//! The receiver spools a snapshot to a file first ([`crate::spool`]; what breaks off is kept by [`crate::arrivals`]), and
//! imports it when it is complete and openraft has agreed to it. From then until the import is durable the file is called
//! `.install`; a crash in between leaves it, and the next start imports it again. So a replica never forgets entries that it
//! has acknowledged: it holds the old state and the log, or the new state. If the new state cannot be had, it has failed: what is
//! left of it takes part in nothing, also after a restart. With the replica the file goes, too, and a start
//! asks the replica's ballot before it believes a file: that of an import that is done is removed without a sync.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use proto::storage::{ColumnFamily, SnapshotChunk, Span};
use storage::fail_point::{self, FailPoint};
use storage::ids::{GroupId, KeyRange, ReplicaId};
use storage::{Cf, Engine};

use crate::api::Fatal;
use crate::spool::{Spool, SpoolReader};
use crate::state_machine::Position;
use crate::types::{Malformed, meta_from_wire};

/// Complete, accepted, to be imported.
const INSTALL: &str = "install";

/// An install that a start could not finish.
pub(crate) struct Torn {
    pub why: Fatal,
    /// What it was to replace, as far as that can be read: the next start goes on with it.
    pub spans: Vec<(Cf, KeyRange)>,
}

/// What openraft passes around as a snapshot's data.
pub(crate) enum SnapshotData {
    /// None: only the metadata counts.
    Marker,
    /// A view of this node's engine, to be sent.
    View { engine: Arc<Engine>, view: storage::Snapshot, spans: Vec<(Cf, KeyRange)> },
    /// Received from the leader.
    Spooled(Spool),
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
    spool.kept = true;
    sync_dir(&path).map_err(Fatal::new)?;
    fail_point::pass(FailPoint::SnapshotRenamed);
    import(engine, group, &path, position)
}

/// Finishes the installs that a crash has interrupted. Before any group is opened; `ballot` says which replica of a group this
/// node has, and whether it is being removed. What was accepted by one that is gone, or going, is nobody's any more: where a
/// power cut has brought such a file back, others may hold its keys by now. Answers those that could not be finished: what
/// the engine holds of such a group may be neither its old state nor its new one.
pub(crate) fn resume_installs(
    engine: &Arc<Engine>,
    dir: &Path,
    ballot: impl Fn(GroupId) -> Result<Option<(ReplicaId, bool)>, Fatal>,
) -> Result<BTreeMap<GroupId, Torn>, Fatal> {
    let mut failed = BTreeMap::new();
    for path in accepted(dir).map_err(Fatal::new)? {
        let group = group_of(&path)
            .ok_or_else(|| Fatal::new(format!("{} is no name of an accepted snapshot", path.display())))?;
        if let Err(reason) = resume(engine, group, &path, ballot(group)?) {
            let why = Fatal::new(format!("cannot install {}: {reason}", path.display()));
            failed.insert(group, Torn { why, spans: awaited(group, &path) });
        }
    }
    for (group, spans) in engine.interrupted_imports()? {
        // (Of one that is being removed it goes with the rest.)
        if !ballot(group)?.is_some_and(|(_, removed)| removed) {
            failed.entry(group).or_insert_with(|| {
                let why = Fatal::new(format!("the snapshot that was being imported into {group} is gone"));
                Torn { why, spans }
            });
        }
    }
    Ok(failed)
}

/// One of them.
fn resume(
    engine: &Arc<Engine>,
    group: GroupId,
    path: &Path,
    ballot: Option<(ReplicaId, bool)>,
) -> Result<(), Fatal> {
    let header = SpoolReader::open(path).map_err(Fatal::new)?.header()?;
    if header.group != group.0 {
        return Err(Fatal::new(format!("it is one of {}", GroupId(header.group))));
    }
    if ballot != Some((ReplicaId(header.to_replica), false)) {
        tracing::info!(%group, "a snapshot for a replica that is not here any more goes");
        return fs::remove_file(path).map_err(Fatal::new);
    }
    let meta = meta_from_wire(header.meta).map_err(Fatal::new)?;
    let position = Position { last: meta.last_log_id, membership: meta.last_membership };
    let interrupted = engine.interrupted_imports()?.iter().any(|(g, _)| *g == group);
    if !interrupted && Position::load(engine, group)?.last >= position.last {
        // It was installed; only the file's removal did not reach the disk.
        return fs::remove_file(path).map_err(Fatal::new);
    }
    tracing::info!(%group, "resuming the install of a snapshot");
    import(engine, group, path, &position)
}

/// The installs that have not ended in a store that nobody runs, each with how far, and with whom, its group is by the snapshot; `None`:
/// that can't be read, or is gone. What the engine holds of such a group may be neither its old state nor its new one.
pub(crate) fn unfinished(
    engine: &Engine,
    dir: &Path,
    ballot: impl Fn(GroupId) -> Option<(ReplicaId, bool)>,
) -> Result<BTreeMap<GroupId, Option<Position>>, Fatal> {
    let interrupted: BTreeMap<GroupId, Option<Position>> =
        engine.interrupted_imports()?.into_iter().map(|(group, _)| (group, None)).collect();
    let mut found = interrupted.clone();
    for path in accepted(dir).map_err(Fatal::new)? {
        let group = group_of(&path)
            .ok_or_else(|| Fatal::new(format!("{} is no name of an accepted snapshot", path.display())))?;
        let header = SpoolReader::open(&path).ok().and_then(|mut reader| reader.header().ok());
        let Some(header) = header.filter(|header| header.group == group.0) else {
            found.insert(group, None);
            continue;
        };
        // As a start judges it: of a replica that is gone, or going, it is nobody's any more.
        if ballot(group) != Some((ReplicaId(header.to_replica), false)) {
            continue;
        }
        let meta = meta_from_wire(header.meta).ok();
        let position = meta.map(|meta| Position { last: meta.last_log_id, membership: meta.last_membership });
        let reached =
            |wanted: &Position| matches!(Position::load(engine, group), Ok(is) if is.last >= wanted.last);
        if interrupted.contains_key(&group) || !position.as_ref().is_some_and(reached) {
            found.insert(group, position);
        }
    }
    Ok(found)
}

/// What an accepted snapshot is to replace; nothing that is known, if its header cannot be read.
fn awaited(group: GroupId, path: &Path) -> Vec<(Cf, KeyRange)> {
    let header = SpoolReader::open(path).ok().and_then(|mut reader| reader.header().ok());
    let header = header.filter(|header| header.group == group.0);
    header.and_then(|header| spans_from_wire(&header.spans).ok()).unwrap_or_default()
}

/// Whose an accepted snapshot is, by its name.
fn group_of(path: &Path) -> Option<GroupId> {
    path.file_stem()?.to_str()?.parse().ok().map(GroupId)
}

/// The snapshots in a directory that were accepted and, as far as the directory knows, not imported.
fn accepted(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let files = match fs::read_dir(dir) {
        Ok(files) => files,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for file in files {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == INSTALL) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Of a replica that is being removed: what an install has left that failed. The next start would go on with it, and write over whoever holds the
/// keys by then. Blocks.
pub(crate) fn forget_install(engine: &Engine, dir: &Path, group: GroupId) -> Result<(), Fatal> {
    let path = dir.join(format!("{}.{INSTALL}", group.0));
    match fs::remove_file(&path) {
        Ok(()) => sync_dir(&path).map_err(Fatal::new)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Fatal::new(e)),
    }
    engine.discard_import(group)?;
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
    fail_point::pass(FailPoint::ImportFinished);
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

#[cfg(test)]
mod tests;
