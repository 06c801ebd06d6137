//! Random operations against models: the log's against maps in memory, MVCC's reads against a filter over all
//! versions.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{durably, open_with, options};
use crate::StoreOptions;
use crate::ids::{GroupId, KeyRange, LogIndex, Timestamp};
use crate::mvcc::{self, Limits, PointReader, Scan};

#[derive(Default, Debug)]
struct Log {
    entries: BTreeMap<u64, Vec<u8>>,
    purged: Option<u64>,
}

#[test]
fn log_agrees_with_a_model() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().expect("dir");
        // Caches of a few entries, so that reads mix memory and disk.
        let options = || StoreOptions { log_cache_bytes: 400, ..options() };
        let mut store = open_with(dir.path(), options());
        let mut model: BTreeMap<u64, Log> = BTreeMap::new();
        for step in 0..400 {
            let group = random.random_range(1..4u64);
            let (id, log) = (GroupId(group), store.log());
            let known = model.entry(group).or_default();
            let last = known.entries.keys().next_back().copied();
            match random.random_range(0..20) {
                0..10 => {
                    let next = last.or(known.purged).map_or(0, |last| last + 1);
                    let new: Vec<_> = (next..next + random.random_range(1..6))
                        .map(|i| (LogIndex(i), Bytes::from(vec![step as u8; random.random_range(0..60)])))
                        .collect();
                    known.entries.extend(new.iter().map(|(i, e)| (i.0, e.to_vec())));
                    log.append(id, new, Box::new(|r| r.expect("append")));
                }
                10..12 => {
                    let Some(last) = last else { continue };
                    let kept = random.random_range(last.saturating_sub(6)..=last);
                    if known.purged.is_some_and(|purged| kept <= purged) {
                        continue;
                    }
                    known.entries.retain(|i, _| *i <= kept);
                    log.truncate_after(id, Some(LogIndex(kept)), Box::new(|r| r.expect("truncate")));
                }
                12..14 => {
                    let Some(last) = last else { continue };
                    let upto = random.random_range(last.saturating_sub(8)..last + 3);
                    if known.purged.is_some_and(|purged| upto < purged) {
                        continue;
                    }
                    known.entries.retain(|i, _| *i > upto);
                    known.purged = Some(upto);
                    let done = Box::new(|r: Result<(), crate::Error>| r.expect("purge"));
                    log.purge_to(id, LogIndex(upto), Bytes::from(format!("{upto}")), done);
                }
                14 => durably(|done| log.save_vote(id, Bytes::new(), done)),
                15 if random.random_range(0..8) == 0 => {
                    drop(log);
                    drop(store);
                    store = open_with(dir.path(), options());
                }
                _ => {}
            }
            let log = store.log();
            let state = log.state(id).expect("state");
            let last = known.entries.iter().next_back();
            assert_eq!(state.last.map(|(i, e)| (i.0, e.to_vec())), last.map(|(i, e)| (*i, e.clone())));
            assert_eq!(state.first.map(|first| first.0), known.purged.map(|purged| purged + 1));
            let from = random.random_range(0..4) + known.purged.map_or(0, |p| p + 1);
            let to = from + random.random_range(0..20);
            let read = log.read(id, LogIndex(from), LogIndex(to), usize::MAX).expect("read");
            let expected: Vec<_> = known.entries.range(from..to).map(|(i, e)| (*i, e.clone())).collect();
            let read: Vec<_> = read.into_iter().map(|(i, e)| (i.0, e.to_vec())).collect();
            assert_eq!(read, expected, "seed {seed} step {step}");
        }
    }
}

#[test]
fn reads_of_versions_agree_with_a_model() {
    let mut random = StdRng::seed_from_u64(1);
    let dir = tempfile::tempdir().expect("dir");
    let store = open_with(dir.path(), options());
    let engine = store.engine();
    let keys: Vec<Vec<u8>> = (0..24)
        .map(|_| (0..random.random_range(0..12)).map(|_| random.random_range(0..3)).collect())
        .collect();
    let mut versions: BTreeMap<(Vec<u8>, u64), Option<Vec<u8>>> = BTreeMap::new();
    for round in 0..40 {
        let mut batch = engine.batch();
        for _ in 0..25 {
            // Few keys and many versions, so that scans have to seek past them.
            let key = keys[random.random_range(0..keys.len() / (1 + round % 3))].clone();
            let ts = random.random_range(1..500);
            let value = random.random_bool(0.7).then(|| vec![round as u8; random.random_range(0..9)]);
            mvcc::put_version(&mut batch, &key, Timestamp(ts), value.as_deref());
            versions.insert((key, ts), value);
        }
        engine.write(batch).expect("write");
        if round % 7 == 0 {
            engine.flush().expect("flush");
        }
        let snapshot = engine.snapshot();
        let at = random.random_range(0..520);
        let mut model: BTreeMap<&[u8], (u64, Option<&[u8]>)> = BTreeMap::new();
        for ((key, ts), value) in &versions {
            if *ts <= at {
                model.insert(key, (*ts, value.as_deref()));
            }
        }
        let mut reader = PointReader::new(&snapshot);
        for key in &keys {
            let found = reader.get(key, Timestamp(at)).expect("get");
            let found = found.map(|v| (v.ts.0, v.value.map(|v| v.to_vec())));
            let expected = model.get(&key[..]).map(|(ts, v)| (*ts, v.map(<[u8]>::to_vec)));
            assert_eq!(found, expected);
        }
        let (a, b) = (keys[random.random_range(0..24)].clone(), keys[random.random_range(0..24)].clone());
        let range = if round % 2 == 0 { KeyRange::new(a.min(b.clone()), b) } else { KeyRange::all() };
        let inside: Vec<_> = model.iter().filter(|(key, _)| range.contains(key)).collect();
        for reverse in [false, true] {
            let mut scan = Scan::with_tombstones(&snapshot, &range, Timestamp(at), reverse);
            let mut found = Vec::new();
            while let Some(row) = scan.next().expect("scan") {
                found.push((row.key.to_vec(), (row.ts.0, row.value.map(<[u8]>::to_vec))));
            }
            let mut expected: Vec<_> =
                inside.iter().map(|(k, (ts, v))| (k.to_vec(), (*ts, v.map(<[u8]>::to_vec)))).collect();
            if reverse {
                expected.reverse();
            }
            assert_eq!(found, expected, "round {round} reverse {reverse}");

            // Pages, put together, are the scan without its deletions.
            let mut rest = Some(range.clone());
            let mut paged = Vec::new();
            while let Some(range) = rest {
                let limits = Limits { rows: random.random_range(1..5), bytes: 1000 };
                let page = mvcc::scan(&snapshot, &range, Timestamp(at), reverse, limits).expect("page");
                paged.extend(page.rows.into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())));
                rest = page.rest;
            }
            let rows: Vec<_> = expected.into_iter().filter_map(|(k, (_, v))| Some((k, v?))).collect();
            assert_eq!(paged, rows, "round {round} reverse {reverse}");
        }
        let after = random.random_range(0..520);
        let changed =
            mvcc::any_version_in(&snapshot, &range, Timestamp(after), Timestamp(at)).expect("any_version_in");
        let expected = versions.keys().any(|(key, ts)| range.contains(key) && *ts > after && *ts <= at);
        assert_eq!(changed.is_some(), expected);
    }
}
