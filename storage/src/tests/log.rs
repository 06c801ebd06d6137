//! The shared log: what is readable when, what a restart finds, and in which order `done` is called.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{append, content, crash_image, durably, entries, open};
use crate::Error;
use crate::ids::{GroupId, LogIndex};

const G: GroupId = GroupId(7);

#[test]
fn append_is_readable_at_once_and_after_a_crash() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(&dir.path().join("a"));
    let log = store.log();
    let (sender, receiver) = std::sync::mpsc::channel();
    log.append(G, entries(1, 4, "e"), Box::new(move |r| sender.send(r).expect("waits")));
    assert_eq!(content(&log, 7), [(1, "e 1".into()), (2, "e 2".into()), (3, "e 3".into())]);
    receiver.recv().expect("done").expect("durable");
    durably(|done| log.save_vote(G, Bytes::from_static(b"vote"), done));
    log.save_committed(G, Bytes::from_static(b"committed"));
    append(&log, 8, entries(0, 1, "other"));

    crash_image(&dir.path().join("a"), &dir.path().join("b"));
    let log = open(&dir.path().join("b")).log();
    let state = log.state(G).expect("state");
    assert_eq!(state.last, Some((LogIndex(3), Bytes::from_static(b"e 3"))));
    assert_eq!(state.vote.as_deref(), Some(&b"vote"[..]));
    assert_eq!(state.committed.as_deref(), Some(&b"committed"[..]));
    assert_eq!(content(&log, 7).len(), 3);
    assert_eq!(log.groups().expect("groups"), [G, GroupId(8)]);
}

#[test]
fn done_is_called_in_order() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let log = store.log();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for index in 1..200 {
        let seen = seen.clone();
        let done = Box::new(move |r: Result<(), Error>| {
            r.expect("durable");
            seen.lock().expect("lock").push(index);
        });
        log.append(G, entries(index, index + 1, "e"), done);
    }
    durably(|done| log.save_vote(G, Bytes::new(), done));
    assert_eq!(*seen.lock().expect("lock"), (1..200).collect::<Vec<_>>());
}

#[test]
fn truncated_entries_are_gone_and_may_be_replaced() {
    let dir = tempfile::tempdir().expect("dir");
    {
        let store = open(dir.path());
        let log = store.log();
        append(&log, 7, entries(1, 10, "old"));
        log.truncate_after(G, Some(LogIndex(4)), Box::new(|_| ()));
        assert_eq!(log.state(G).expect("state").last.map(|(i, _)| i), Some(LogIndex(4)));
        append(&log, 7, entries(5, 7, "new"));
    }
    let store = open(dir.path());
    let log = store.log();
    let text: Vec<_> = content(&log, 7).into_iter().map(|(_, text)| text).collect();
    assert_eq!(text, ["old 1", "old 2", "old 3", "old 4", "new 5", "new 6"]);
    durably(|done| log.truncate_after(G, None, done));
    assert_eq!(content(&log, 7), []);
}

#[test]
fn purged_entries_are_gone_and_the_log_goes_on_behind_them() {
    let dir = tempfile::tempdir().expect("dir");
    {
        let store = open(dir.path());
        let log = store.log();
        append(&log, 7, entries(0, 10, "e"));
        durably(|done| log.purge_to(G, LogIndex(4), Bytes::from_static(b"id4"), done));
        assert!(matches!(log.read(G, LogIndex(4), LogIndex(9), 99), Err(Error::Misuse(_))));
        assert_eq!(content(&log, 7).first().map(|(i, _)| *i), Some(5));
    }
    {
        let store = open(dir.path());
        let log = store.log();
        assert_eq!(log.state(G).expect("state").purged.as_deref(), Some(&b"id4"[..]));
        assert_eq!(content(&log, 7).len(), 5);
        // A snapshot replaced the whole log.
        durably(|done| log.purge_to(G, LogIndex(99), Bytes::from_static(b"id99"), done));
        let state = log.state(G).expect("state");
        assert_eq!((state.first, state.last), (Some(LogIndex(100)), None));
        append(&log, 7, entries(100, 102, "later"));
    }
    let store = open(dir.path());
    assert_eq!(content(&store.log(), 7), [(100, "later 100".into()), (101, "later 101".into())]);
}

#[test]
fn append_with_a_gap_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let log = store.log();
    append(&log, 7, entries(1, 3, "e"));
    let (sender, receiver) = std::sync::mpsc::channel();
    log.append(G, entries(4, 5, "e"), Box::new(move |r| sender.send(r).expect("waits")));
    assert!(matches!(receiver.recv().expect("done"), Err(Error::Misuse(_))));
    assert_eq!(content(&log, 7).len(), 2);
}

#[test]
fn read_stops_at_the_byte_limit_but_returns_one() {
    let dir = tempfile::tempdir().expect("dir");
    for reopened in [false, true] {
        let store = open(dir.path());
        let log = store.log();
        if !reopened {
            append(&log, 7, (1..9).map(|i| (LogIndex(i), Bytes::from(vec![0; 100]))).collect());
        }
        let read = |bytes_max| log.read(G, LogIndex(2), LogIndex(8), bytes_max).expect("read").len();
        assert_eq!((read(0), read(100), read(250), read(usize::MAX)), (1, 1, 2, 6));
    }
}

#[test]
fn removed_group_is_forgotten() {
    let dir = tempfile::tempdir().expect("dir");
    {
        let store = open(dir.path());
        let log = store.log();
        append(&log, 6, entries(1, 3, "e"));
        append(&log, 7, entries(1, 3, "e"));
        durably(|done| log.remove_group(G, done));
        assert_eq!(log.groups().expect("groups"), [GroupId(6)]);
    }
    let store = open(dir.path());
    assert_eq!(store.log().groups().expect("groups"), [GroupId(6)]);
    assert_eq!(content(&store.log(), 6).len(), 2);
}

#[test]
fn closed_log_refuses() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    append(&store.log(), 7, entries(1, 3, "e"));
    store.close().expect("close");
    let (sender, receiver) = std::sync::mpsc::channel();
    store.log().append(G, entries(3, 4, "e"), Box::new(move |r| sender.send(r).expect("waits")));
    assert!(matches!(receiver.recv().expect("done"), Err(Error::Closed)));
}

#[test]
fn removed_group_is_not_brought_back_by_its_committed_position() {
    let dir = tempfile::tempdir().expect("dir");
    {
        let store = open(dir.path());
        let log = store.log();
        append(&log, 6, entries(1, 3, "e"));
        append(&log, 7, entries(1, 3, "e"));
        log.save_committed(G, Bytes::from_static(b"committed"));
        log.remove_group(G, Box::new(|_| ()));
        append(&log, 6, entries(3, 4, "e"));
    }
    assert_eq!(open(dir.path()).log().groups().expect("groups"), [GroupId(6)]);
}
