use super::*;
use LockMode::{KeyShare, NoKeyUpdate, Share, Update};

fn claimant(txn: u128) -> Claimant {
    let (owner, started) = (TxnId(txn), Timestamp(txn as u64));
    Claimant { owner, session: None, started, deadlock_after: Duration::ZERO }
}

struct Bench {
    table: LockTable,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { table: LockTable::default(), now: storage::seam::Seams::real().clock.now() }
    }

    fn ask(&self, txn: u128, key: &'static str, mode: LockMode) -> Asked {
        let key = Bytes::from_static(key.as_bytes());
        self.table.ask(claimant(txn), &key, mode, true, self.now)
    }

    #[track_caller]
    fn granted(&self, txn: u128, key: &'static str, mode: LockMode) {
        assert!(matches!(self.ask(txn, key, mode), Asked::Granted));
    }

    #[track_caller]
    fn waits(&self, txn: u128, key: &'static str, mode: LockMode) -> oneshot::Receiver<()> {
        match self.ask(txn, key, mode) {
            Asked::Wait(receiver) => receiver,
            other => panic!("{txn} does not wait for {key}: {other:?}"),
        }
    }

    fn edges(&self) -> Vec<(u128, u128)> {
        let mut edges: Vec<_> = self
            .table
            .edges(Duration::ZERO, self.now)
            .iter()
            .map(|edge| (edge.waiter.0, edge.holder.0))
            .collect();
        edges.sort_unstable();
        edges
    }

    fn is_empty(&self) -> bool {
        let inner = self.table.inner.lock();
        inner.rows.is_empty() && inner.owners.is_empty() && inner.waiters == 0
    }
}

#[test]
fn modes_conflict_as_in_postgresql() {
    let all = [KeyShare, Share, NoKeyUpdate, Update];
    let table = all.map(|a| all.map(|b| u8::from(a.conflicts(b))));
    assert_eq!(table, [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]);
}

#[test]
fn waiters_are_served_in_order() {
    let bench = Bench::new();
    bench.granted(1, "a", Update);
    bench.granted(1, "a", Share);
    let mut second = bench.waits(2, "a", Update);
    let mut third = bench.waits(3, "a", Update);
    bench.table.release(TxnId(1), bench.now);
    assert!(second.try_recv().is_ok());
    assert!(third.try_recv().is_err());
    bench.granted(2, "a", Update);
    bench.table.release(TxnId(2), bench.now);
    assert!(third.try_recv().is_ok());
    bench.table.release(TxnId(3), bench.now);
    assert!(bench.is_empty());
}

#[test]
fn sharers_go_together_but_not_past_a_waiting_writer() {
    let bench = Bench::new();
    bench.granted(1, "a", Share);
    bench.granted(2, "a", Share);
    let _writer = bench.waits(3, "a", NoKeyUpdate);
    let _late = bench.waits(4, "a", Share);
    assert_eq!(bench.edges(), vec![(3, 1), (3, 2), (4, 3)]);
    bench.table.release(TxnId(1), bench.now);
    bench.table.release(TxnId(2), bench.now);
    assert_eq!(bench.edges(), vec![(4, 3)]);
    // The writer gives up without ever having polled again.
    bench.table.release(TxnId(3), bench.now);
    bench.granted(4, "a", Share);
}

#[test]
fn a_holder_is_strengthened_before_those_who_wait() {
    let bench = Bench::new();
    bench.granted(1, "a", Share);
    bench.granted(2, "a", Share);
    let _writer = bench.waits(3, "a", Update);
    let mut upgrade = bench.waits(1, "a", Update);
    bench.table.release(TxnId(2), bench.now);
    assert!(upgrade.try_recv().is_ok(), "not behind the writer, which waits for it");
    bench.granted(1, "a", Update);
}

#[test]
fn a_poll_repeated_keeps_its_place() {
    let bench = Bench::new();
    bench.granted(1, "a", Update);
    drop(bench.waits(2, "a", Update));
    let _third = bench.waits(3, "a", Update);
    let mut again = bench.waits(2, "a", Update);
    bench.table.release(TxnId(1), bench.now);
    assert!(again.try_recv().is_ok());
}

#[test]
fn the_victim_of_a_deadlock_is_told_and_keeps_what_it_holds() {
    let bench = Bench::new();
    bench.granted(1, "a", Update);
    bench.granted(2, "b", Update);
    let _first = bench.waits(1, "b", Update);
    let mut second = bench.waits(2, "a", Update);
    assert_eq!(bench.edges(), vec![(1, 2), (2, 1)]);
    bench.table.sacrifice(TxnId(2));
    assert!(second.try_recv().is_ok());
    assert!(matches!(bench.ask(2, "a", Update), Asked::Deadlock));
    assert_eq!(bench.edges(), vec![(1, 2)], "until it is rolled back");
    bench.table.release(TxnId(2), bench.now);
    bench.granted(1, "b", Update);
    bench.table.release(TxnId(1), bench.now);
    assert!(bench.is_empty());
}

#[test]
fn a_silent_gateway_loses_its_locks() {
    let mut bench = Bench::new();
    bench.granted(1, "a", Update);
    bench.granted(2, "b", Update);
    let mut waiter = bench.waits(3, "a", Update);
    bench.now += LOCK_LAPSE + Duration::from_millis(1);
    bench.table.heard([TxnId(2), TxnId(3)], bench.now);
    assert_eq!(bench.table.sweep(bench.now), 1);
    assert!(waiter.try_recv().is_ok());
    let key = Bytes::from_static(b"b");
    let asked = bench.table.ask(claimant(4), &key, KeyShare, false, bench.now);
    assert!(matches!(asked, Asked::Busy(TxnId(2))));
}

#[test]
fn advisory_locks_are_asserted_lowered_and_kept_by_their_stamp() {
    let table = LockTable::strict();
    let mut now = storage::seam::Seams::real().clock.now();
    let session = |n: u128| Claimant {
        owner: TxnId(n),
        session: Some(SessionId(n)),
        started: Timestamp::ZERO,
        deadlock_after: Duration::ZERO,
    };
    let key = |name: &'static str| Bytes::from_static(name.as_bytes());
    let asks = |n, name, mode, now| table.ask(session(n), &key(name), mode, true, now);
    assert!(matches!(asks(1, "a", Update, now), Asked::Granted));
    assert!(matches!(asks(1, "b", Share, now), Asked::Granted));
    let stamp = table.stamp(TxnId(1)).unwrap();
    assert!(table.affirm(TxnId(1), stamp, now) && !table.affirm(TxnId(1), stamp + 1, now));
    // Weakened, then given back.
    let Asked::Wait(mut waiter) = asks(2, "a", Share, now) else { panic!("granted") };
    table.lower(TxnId(1), &key("a"), Some(Share), now);
    assert!(waiter.try_recv().is_ok());
    table.lower(TxnId(1), &key("a"), None, now);
    assert!(matches!(asks(3, "b", Update, now), Asked::Wait(_)));
    // Exactly these: "b" is not among them.
    assert_eq!(table.assert(session(1), &[(key("c"), Update)], now), Some(stamp));
    assert!(matches!(asks(3, "b", Update, now), Asked::Granted));
    // Another one has it.
    assert_eq!(table.assert(session(1), &[(key("c"), Update), (key("b"), Share)], now), None);
    assert!(matches!(asks(2, "c", Update, now), Asked::Granted), "nothing is left of it");
    // Silent for too long: it is another one when it comes back.
    let stamp = table.stamp(TxnId(3)).unwrap();
    now += LOCK_LAPSE + Duration::from_millis(1);
    assert_eq!(table.sweep(now), 2);
    assert!(!table.affirm(TxnId(3), stamp, now));
    assert!(matches!(asks(3, "b", Update, now), Asked::Granted));
    assert!(!table.affirm(TxnId(3), stamp, now));
}

#[test]
fn owners_of_one_session_wait_as_one() {
    let (rows, advisory) = (LockTable::default(), LockTable::strict());
    let now = storage::seam::Seams::real().clock.now();
    let key = Bytes::from_static(b"a");
    let of = |owner: u128, session: u128| Claimant {
        owner: TxnId(owner),
        session: Some(SessionId(session)),
        started: Timestamp(owner as u64),
        deadlock_after: Duration::ZERO,
    };
    // Session 1 has the advisory lock and wants the row; session 2 has the row (by its transaction) and wants the lock.
    assert!(matches!(advisory.ask(of(1, 1), &key, Update, true, now), Asked::Granted));
    assert!(matches!(rows.ask(of(20, 2), &key, Update, true, now), Asked::Granted));
    let Asked::Wait(mut victim) = rows.ask(of(10, 1), &key, Update, true, now) else { panic!("granted") };
    let Asked::Wait(_other) = advisory.ask(of(2, 2), &key, Update, true, now) else { panic!("granted") };
    let edges = [&rows, &advisory].map(|table| table.edges(Duration::ZERO, now)).concat();
    let edges: Vec<_> = edges.iter().map(|edge| (edge.waiter.0, edge.holder.0)).collect();
    assert_eq!(edges, [(1, 2), (2, 1)]);
    for table in [&rows, &advisory] {
        table.sacrifice(TxnId(1));
    }
    assert!(victim.try_recv().is_ok());
    assert!(matches!(rows.ask(of(10, 1), &key, Update, true, now), Asked::Deadlock));
}

#[test]
fn a_wait_counts_as_a_part_of_a_deadlock_when_its_session_says_so() {
    let table = LockTable::default();
    let now = storage::seam::Seams::real().clock.now();
    let key = Bytes::from_static(b"a");
    let after = Duration::from_secs(2);
    assert!(matches!(table.ask(claimant(1), &key, Update, true, now), Asked::Granted));
    let patient = Claimant { deadlock_after: after, ..claimant(2) };
    let Asked::Wait(_wakes) = table.ask(patient, &key, Update, true, now) else { panic!("granted") };
    assert!(table.edges(Duration::ZERO, now + after - Duration::from_millis(1)).is_empty());
    assert_eq!(table.edges(Duration::ZERO, now + after).len(), 1);
}
