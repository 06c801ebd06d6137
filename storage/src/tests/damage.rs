//! Stores that crashed, and stores that were damaged: the former open with all that was acknowledged, the latter are
//! refused with the name of the file.

use std::path::{Path, PathBuf};

use super::{IDENTITY, append, content, crash_image, durably, entries, open, refused};
use crate::engine::Cf;
use crate::ids::{GroupId, LogIndex, NodeId};
use crate::inspect::Inspection;
use crate::{Error, Identity};

/// A store that was closed: five batches in the log's WAL, or in a table if `flushed`; a few rows in a table of the
/// state database.
fn make(dir: &Path) {
    let store = open(dir);
    let log = store.log();
    for batch in 0..5 {
        append(&log, 1, entries(batch * 3, batch * 3 + 3, "entry"));
    }
    let engine = store.engine();
    let mut batch = engine.batch();
    for row in 0..300u32 {
        batch.put(Cf::Group, &row.to_be_bytes(), &row.to_le_bytes().repeat(20));
    }
    engine.write(batch).expect("write");
    engine.flush().expect("flush");
}

fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .filter(|path| path.metadata().expect("metadata").len() > 0)
        .collect();
    found.sort();
    found
}

/// Flips one byte after the other (every `step`th) and demands each time that the store is refused by that name.
fn every_flip_is_refused(dir: &Path, file: &Path, step: usize) {
    let whole = std::fs::read(file).expect("read");
    for at in (0..whole.len()).step_by(step) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        std::fs::write(file, &flipped).expect("write");
        match refused(dir) {
            Error::Corrupt { file: named, detail } => {
                assert_eq!(named, file, "byte {at} of {}: {detail}", whole.len());
            }
            other => panic!("byte {at} of {}: {other:?}", file.display()),
        }
    }
    std::fs::write(file, &whole).expect("write");
    open(dir);
}

#[test]
fn torn_tail_opens_with_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("dir");
    let source = dir.path().join("source");
    make(&source);
    let wal = files(&source.join("log"), ".log").pop().expect("a write-ahead log");
    let length = wal.metadata().expect("metadata").len() as usize;
    for (number, lost) in [1, 9, 40, 60].into_iter().enumerate() {
        for zeroed in [false, true] {
            let copy = dir.path().join(format!("{number}-{zeroed}"));
            crash_image(&source, &copy);
            let wal = copy.join("log").join(wal.file_name().expect("name"));
            let mut data = std::fs::read(&wal).expect("read");
            data.truncate(length - lost);
            if zeroed && lost >= 8 {
                data.resize(length, 0);
            }
            std::fs::write(&wal, &data).expect("write");
            // The last batch is lost, and can be appended again.
            for text in ["entry", "again"] {
                let store = open(&copy);
                let log = store.log();
                let first = if text == "entry" { 12 } else { 13 };
                assert_eq!(content(&log, 1).len(), first as usize);
                append(&log, 1, entries(first, first + 1, text));
            }
        }
    }
}

#[test]
fn garbage_behind_the_log_is_refused_or_cut_off_but_never_served() {
    let dir = tempfile::tempdir().expect("dir");
    let source = dir.path().join("source");
    make(&source);
    let wal = files(&source.join("log"), ".log").pop().expect("a write-ahead log");
    let mut data = std::fs::read(&wal).expect("read");
    data.extend_from_slice(&[0x17; 100]);
    std::fs::write(&wal, &data).expect("write");
    match crate::Store::open(&source, super::options(), crate::seam::Seams::real()) {
        Ok(store) => assert_eq!(content(&store.log(), 1).len(), 15),
        Err(Error::Corrupt { file, .. }) => assert_eq!(file, wal),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn flipped_byte_in_the_write_ahead_log_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    make(dir.path());
    let wal = files(&dir.path().join("log"), ".log").pop().expect("a write-ahead log");
    every_flip_is_refused(dir.path(), &wal, 1);
}

#[test]
fn whoever_only_looks_is_told_of_a_damaged_log_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    make(dir.path());
    let wal = files(&dir.path().join("log"), ".log").pop().expect("a write-ahead log");
    let whole = std::fs::read(&wal).expect("read");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x40;
    // (A tear is no damage: the node cuts it off.)
    for (content, is_damaged) in
        [(whole.clone(), false), (whole[..whole.len() - 9].to_vec(), false), (flipped, true)]
    {
        std::fs::write(&wal, &content).expect("write");
        let inspection = Inspection::open(dir.path()).expect("inspect");
        match inspection.damage() {
            Some(Error::Corrupt { file, .. }) => assert!(is_damaged && *file == wal, "{}", file.display()),
            other => assert!(other.is_none() && !is_damaged, "{other:?}"),
        }
        assert_eq!(inspection.groups().expect("groups"), [GroupId(1)]);
        drop(inspection);
        assert_eq!(std::fs::read(&wal).expect("read"), content);
    }
}

#[test]
fn flipped_byte_in_a_table_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    make(dir.path());
    // RocksDB moves what it finds in the write-ahead log into a table when it opens.
    open(dir.path());
    for database in ["log", "state"] {
        for table in files(&dir.path().join(database), ".sst") {
            every_flip_is_refused(dir.path(), &table, 53);
        }
    }
}

#[test]
fn flipped_byte_in_a_manifest_or_small_file_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    make(dir.path());
    for file in ["log/CURRENT", "state/CURRENT", "FORMAT", "IDENTITY"] {
        every_flip_is_refused(dir.path(), &dir.path().join(file), 5);
    }
    for database in ["log", "state"] {
        let manifest = std::fs::read_to_string(dir.path().join(database).join("CURRENT")).expect("CURRENT");
        let manifest = dir.path().join(database).join(manifest.trim());
        let whole = std::fs::read(&manifest).expect("read");
        for at in (0..whole.len()).step_by(11) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x40;
            std::fs::write(&manifest, &flipped).expect("write");
            assert!(
                matches!(refused(dir.path()), Error::Corrupt { file, .. } if file == manifest),
                "byte {at}"
            );
        }
        std::fs::write(&manifest, &whole).expect("write");
    }
}

#[test]
fn missing_files_are_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let source = dir.path().join("source");
    make(&source);
    open(&source);
    let table = files(&source.join("state"), ".sst").pop().expect("a table");
    let table = table.strip_prefix(&source).expect("below").to_owned();
    for (number, name) in
        [Path::new("state/CURRENT"), Path::new("log/CURRENT"), Path::new("IDENTITY"), &table]
            .into_iter()
            .enumerate()
    {
        let copy = dir.path().join(number.to_string());
        crash_image(&source, &copy);
        std::fs::remove_file(copy.join(name)).expect("remove");
        let error = refused(&copy);
        assert!(matches!(&error, Error::Corrupt { file, .. } if file.ends_with(name)), "{error:?}");
    }
}

#[test]
fn store_says_whose_it_is_and_refuses_what_is_none() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("store");
    make(&path);
    {
        let store = open(&path);
        assert_eq!(store.identity(), Some(IDENTITY));
        let other = Identity { node_id: NodeId(4), ..IDENTITY };
        assert!(matches!(store.set_identity(other), Err(Error::Misuse(_))));
        assert!(matches!(refused(&path), Error::Locked { .. }));
        assert_eq!(content(&store.log(), 1).len(), 15);
        durably(|done| store.log().truncate_after(GroupId(1), Some(LogIndex(3)), done));
    }

    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).expect("create");
    std::fs::write(foreign.join("photo.jpg"), b"").expect("write");
    assert!(matches!(refused(&foreign), Error::Foreign { found, .. } if found == "photo.jpg"));
    assert!(!foreign.join("LOCK").exists());
}

#[test]
fn store_whose_creation_was_interrupted_is_made_anew() {
    let dir = tempfile::tempdir().expect("dir");
    make(dir.path());
    std::fs::remove_file(dir.path().join("FORMAT")).expect("remove");
    std::fs::write(dir.path().join("CREATING"), b"").expect("write");
    let store = open(dir.path());
    assert_eq!(store.log().groups().expect("groups"), []);
}
