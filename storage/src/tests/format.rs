//! Stores of other formats: those of an older one that is known are opened and marked, all others refused.

use std::path::Path;

use super::{append, content, entries, open, refused};
use crate::format::{self, NEWEST};
use crate::inspect::Inspection;
use crate::{Error, Store};

fn marked(dir: &Path, format: u32) {
    std::fs::write(dir.join("FORMAT"), format::line(format)).expect("write");
}

/// A store with three entries, marked as of that format.
fn store_of(format: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("dir");
    append(&open(dir.path()).log(), 1, entries(0, 3, "entry"));
    assert_eq!(format::known(dir.path()).expect("a format"), Some(NEWEST));
    marked(dir.path(), format);
    dir
}

fn length(store: &Store) -> usize {
    content(&store.log(), 1).len()
}

#[test]
fn store_of_the_first_format_is_read_as_ever_and_marked() {
    let dir = store_of(1);
    let version_one = || format::known_to(dir.path(), 1, 1);
    assert_eq!(version_one().expect("it is its own"), Some(1));
    assert_eq!(length(&open(dir.path())), 3);
    assert_eq!(format::known(dir.path()).expect("a format"), Some(2));
    // Whoever knows only the first format refuses it from now on.
    let error = version_one().expect_err("a newer format");
    assert!(matches!(error, Error::NewerFormat { found: 2, supported: 1, .. }), "{error}");
    assert_eq!(length(&open(dir.path())), 3);
}

#[test]
fn looking_at_a_store_of_the_first_format_leaves_it_so() {
    let dir = store_of(1);
    assert_eq!(Inspection::open(dir.path()).expect("inspect").format(), 1);
    assert_eq!(format::known(dir.path()).expect("a format"), Some(1));
}

#[test]
fn store_that_does_not_open_keeps_its_mark() {
    let dir = store_of(1);
    let current = dir.path().join("state").join("CURRENT");
    let said = std::fs::read(&current).expect("read");
    std::fs::write(&current, b"MANIFEST-what").expect("write");
    assert!(matches!(refused(dir.path()), Error::Corrupt { .. }));
    assert_eq!(format::known(dir.path()).expect("a format"), Some(1));
    std::fs::write(&current, said).expect("write");
    assert_eq!(length(&open(dir.path())), 3);
}

#[test]
fn formats_that_nobody_knows_are_refused_and_say_so() {
    let dir = store_of(0);
    let error = refused(dir.path());
    assert!(matches!(error, Error::OlderFormat { found: 0, oldest: 1, newest: NEWEST, .. }), "{error:?}");
    assert!(error.to_string().contains("has format 0"), "{error}");
    assert!(matches!(Inspection::open(dir.path()), Err(Error::OlderFormat { .. })));
    marked(dir.path(), NEWEST + 1);
    let error = refused(dir.path());
    assert!(matches!(error, Error::NewerFormat { supported: NEWEST, .. }), "{error:?}");
    assert!(matches!(Inspection::open(dir.path()), Err(Error::NewerFormat { .. })));
}

#[test]
fn damaged_mark_is_no_format() {
    let dir = store_of(NEWEST);
    let whole = format::line(NEWEST);
    let other_number = whole.replace(&format!(" {NEWEST} "), " 1 ");
    for said in ["", "flotilla-store", "flotilla-store 1", &whole[..whole.len() - 1], &other_number] {
        std::fs::write(dir.path().join("FORMAT"), said).expect("write");
        for error in [refused(dir.path()), Inspection::open(dir.path()).expect_err("damaged")] {
            assert!(matches!(&error, Error::Corrupt { file, .. } if file.ends_with("FORMAT")), "{error:?}");
        }
    }
    std::fs::write(dir.path().join("FORMAT"), whole).expect("write");
    assert_eq!(length(&open(dir.path())), 3);
}
