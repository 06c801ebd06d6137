//! Export and import, and what a crash within an import leaves.

use std::sync::Arc;

use super::{crash_image, open};
use crate::engine::{Cf, Engine};
use crate::ids::{GroupId, KeyRange, Timestamp};
use crate::snapshot::Spans;
use crate::{Error, intents, mvcc};

const GROUP: GroupId = GroupId(5);

fn spans() -> Spans {
    vec![
        (Cf::Data, KeyRange::new(&b"b"[..], &b"m"[..])),
        (Cf::Intents, KeyRange::new(&b"b"[..], &b"m"[..])),
        (Cf::Group, KeyRange::prefix(&GROUP.0.to_be_bytes())),
    ]
}

fn fill(engine: &Engine, text: &str, rows: usize) {
    let mut batch = engine.batch();
    for row in 0..rows {
        let value = format!("{text} {row} {}", "x".repeat(500));
        for prefix in ["a", "c", "n"] {
            mvcc::put_version(
                &mut batch,
                format!("{prefix}{row}").as_bytes(),
                Timestamp(7),
                Some(value.as_bytes()),
            );
        }
    }
    batch.put(Cf::Group, &[&GROUP.0.to_be_bytes()[..], b"x"].concat(), text.as_bytes());
    batch.put(Cf::Group, &[&6u64.to_be_bytes()[..], b"x"].concat(), text.as_bytes());
    engine.write(batch).expect("write");
}

fn row(engine: &Engine, key: &str) -> Option<String> {
    let version = mvcc::newest(&engine.snapshot(), key.as_bytes()).expect("read")?;
    let value = version.value.expect("a value");
    Some(String::from_utf8_lossy(value.split(|b| *b == b' ').next().expect("a word")).into_owned())
}

#[test]
fn import_replaces_its_spans_and_nothing_else() {
    let dir = tempfile::tempdir().expect("dir");
    let (from, to) = (open(&dir.path().join("from")), open(&dir.path().join("to")));
    fill(&from.engine(), "new", 6000);
    fill(&to.engine(), "old", 7000);
    to.engine().flush().expect("flush");

    let engine = to.engine();
    let chunks: Vec<_> = from
        .engine()
        .export(Arc::new(from.engine().snapshot()), &spans())
        .collect::<Result<_, Error>>()
        .expect("export");
    assert!(chunks.len() > 3, "3 MB make several chunks");
    let mut import = engine.import(GROUP, &spans()).expect("import");
    for chunk in &chunks {
        import.put(chunk).expect("chunk");
    }
    let mut batch = engine.batch();
    batch.put(Cf::Group, b"applied", b"9");
    import.finish(batch).expect("finish");

    crash_image(&dir.path().join("to"), &dir.path().join("crashed"));
    let crashed = open(&dir.path().join("crashed"));
    for engine in [engine, crashed.engine()] {
        assert_eq!(row(&engine, "c17").as_deref(), Some("new"));
        assert_eq!(row(&engine, "c6500"), None);
        assert_eq!(row(&engine, "a17").as_deref(), Some("old"));
        assert_eq!(row(&engine, "n6500").as_deref(), Some("old"));
        assert_eq!(engine.get(Cf::Group, b"applied").expect("get").as_deref(), Some(&b"9"[..]));
        let other = engine.get(Cf::Group, &[&6u64.to_be_bytes()[..], b"x"].concat()).expect("get");
        assert_eq!(other.as_deref(), Some(&b"old"[..]));
        assert_eq!(engine.interrupted_imports().expect("imports"), []);
    }
}

#[test]
fn crash_within_an_import_is_noticed() {
    let dir = tempfile::tempdir().expect("dir");
    let (from, to) = (open(&dir.path().join("from")), open(&dir.path().join("to")));
    fill(&from.engine(), "new", 6000);
    fill(&to.engine(), "old", 10);
    let chunks: Vec<_> = from
        .engine()
        .export(Arc::new(from.engine().snapshot()), &spans())
        .collect::<Result<_, Error>>()
        .expect("export");
    let mut import = to.engine().import(GROUP, &spans()).expect("import");
    import.put(&chunks[0]).expect("chunk");
    crash_image(&dir.path().join("to"), &dir.path().join("crashed"));

    let crashed = open(&dir.path().join("crashed"));
    let engine = crashed.engine();
    assert_eq!(engine.interrupted_imports().expect("imports"), [(GROUP, spans())]);
    // Either of two ways out: start over, or discard.
    let mut again = engine.import(GROUP, &spans()).expect("import");
    for chunk in &chunks {
        again.put(chunk).expect("chunk");
    }
    again.finish(engine.batch()).expect("finish");
    assert_eq!(row(&engine, "c5999").as_deref(), Some("new"));
    assert_eq!(engine.interrupted_imports().expect("imports"), []);

    drop(import);
    to.engine().discard_import(GROUP).expect("discard");
    assert_eq!(to.engine().interrupted_imports().expect("imports"), []);
    assert_eq!(row(&to.engine(), "c1"), None);
    assert_eq!(row(&to.engine(), "a1").as_deref(), Some("old"));
}

#[test]
fn damaged_or_misplaced_chunks_are_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let engine = store.engine();
    fill(&engine, "x", 10);
    let mut chunks: Vec<_> =
        engine.export(Arc::new(engine.snapshot()), &spans()).collect::<Result<_, Error>>().expect("export");
    let mut import = engine.import(GROUP, &spans()).expect("import");
    assert!(matches!(import.put(&chunks[1]), Err(Error::BadChunk(_))), "out of order");
    let mut flipped = chunks[0].payload.to_vec();
    flipped[100] ^= 1;
    let whole = std::mem::replace(&mut chunks[0].payload, flipped.into());
    assert!(matches!(import.put(&chunks[0]), Err(Error::BadChunk(_))), "flipped");
    chunks[0].payload = whole;
    import.put(&chunks[0]).expect("chunk");
    assert!(matches!(import.finish(engine.batch()), Err(Error::BadChunk(_))), "incomplete");

    let elsewhere = vec![(Cf::Data, KeyRange::new(&b"x"[..], &b"y"[..]))];
    let mut import = engine.import(GROUP, &elsewhere).expect("import");
    assert!(matches!(import.put(&chunks[0]), Err(Error::BadChunk(_))), "outside");
}

#[test]
fn cleared_rows_stay_cleared_under_bloom_filters() {
    // A range deletion lies in another table than the rows that it hides, whose filter is all a point read asks.
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let engine = store.engine();
    fill(&engine, "x", 100);
    engine.flush().expect("flush");
    let mut batch = engine.batch();
    batch.delete_range(Cf::Data, &KeyRange::new(&b"b"[..], &b"m"[..]));
    engine.write(batch).expect("write");
    for _ in 0..2 {
        assert_eq!((row(&engine, "c17"), row(&engine, "a17").as_deref()), (None, Some("x")));
        engine.flush().expect("flush");
    }
    let mut batch = engine.batch();
    mvcc::put_version(&mut batch, b"c17", Timestamp(8), Some(b"y 1"));
    engine.write(batch).expect("write");
    engine.flush().expect("flush");
    assert_eq!((row(&engine, "c18"), row(&engine, "c17").as_deref()), (None, Some("y")));
    assert_eq!(intents::get_intent(&engine.snapshot(), b"c17").expect("get"), None);
}
