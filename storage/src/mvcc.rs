//! Versions of rows: pure functions over a snapshot or a batch.
//!
//! A version is a key of [`Cf::Data`] (see [`crate::keys`]) and a value whose first byte says what it is: a value
//! follows, or the row was deleted. Versions of one key sort newest first, so "as of a timestamp" is one seek.
//!
//! Nothing here knows of intents: a reader asks [`crate::intents`] for those in its range and decides itself.

use bytes::{Bytes, BytesMut};

use crate::Error;
use crate::engine::{Batch, Cf, Iter, Snapshot};
use crate::ids::{KeyRange, Timestamp};
use crate::keys;

const TOMBSTONE: u8 = 0;
const VALUE: u8 = 1;

/// How many old versions a scan steps over before it seeks past the rest of them. A seek costs about as much as
/// ten steps.
const STEPS_MAX: usize = 8;

/// A version of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// When it was committed.
    pub ts: Timestamp,
    /// What it says; `None`: the row was deleted.
    pub value: Option<Bytes>,
}

/// Adds a version: `None` deletes the row as of `ts`.
pub fn put_version(batch: &mut Batch, key: &[u8], ts: Timestamp, value: Option<&[u8]>) {
    let encoded = keys::encode_version(key, ts);
    match value {
        Some(value) => {
            let mut tagged = Vec::with_capacity(1 + value.len());
            tagged.push(VALUE);
            tagged.extend_from_slice(value);
            batch.put(Cf::Data, &encoded, &tagged);
        }
        None => batch.put(Cf::Data, &encoded, &[TOMBSTONE]),
    }
}

/// Removes one version; for garbage collection.
pub fn remove_version(batch: &mut Batch, key: &[u8], ts: Timestamp) {
    batch.delete(Cf::Data, &keys::encode_version(key, ts));
}

/// The newest version at or below `at`, a deletion too.
pub fn get(snapshot: &Snapshot, key: &[u8], at: Timestamp) -> Result<Option<Version>, Error> {
    PointReader::new(snapshot).get(key, at)
}

/// The newest version of all, a deletion too.
pub fn newest(snapshot: &Snapshot, key: &[u8]) -> Result<Option<Version>, Error> {
    get(snapshot, key, Timestamp::MAX)
}

/// Reads many single keys of one snapshot with one cursor.
pub struct PointReader<'s> {
    snapshot: &'s Snapshot,
    iter: Iter<'s>,
    sought: Vec<u8>,
}

impl<'s> PointReader<'s> {
    /// A reader of `snapshot`.
    pub fn new(snapshot: &'s Snapshot) -> Self {
        Self { snapshot, iter: snapshot.iter_points(), sought: Vec::new() }
    }

    /// The newest version at or below `at`, a deletion too.
    pub fn get(&mut self, key: &[u8], at: Timestamp) -> Result<Option<Version>, Error> {
        self.get_with(key, at, |ts, value| Version { ts, value: value.map(Bytes::copy_from_slice) })
    }

    /// The timestamp of the newest version.
    pub fn newest_timestamp(&mut self, key: &[u8]) -> Result<Option<Timestamp>, Error> {
        self.get_with(key, Timestamp::MAX, |ts, _| ts)
    }

    /// Hands the newest version at or below `at` to `read`, without a copy.
    pub fn get_with<T>(
        &mut self,
        key: &[u8],
        at: Timestamp,
        read: impl FnOnce(Timestamp, Option<&[u8]>) -> T,
    ) -> Result<Option<T>, Error> {
        self.sought.clear();
        keys::encode_user_key(key, &mut self.sought);
        let user_bytes = self.sought.len();
        self.sought.extend_from_slice(&(!at.0).to_be_bytes());
        self.iter.seek(&self.sought);
        let Some((found, value)) = self.iter.item() else {
            self.iter.check()?;
            return Ok(None);
        };
        let (user, ts) = split(self.snapshot, found)?;
        if user != &self.sought[..user_bytes] {
            return Ok(None);
        }
        Ok(Some(read(ts, untag(self.snapshot, value)?)))
    }
}

/// A version in `range` with `after < ts <= upto`, deletions too: whether a read of the range at `after` would
/// answer differently at `upto`. Which one of several is unspecified.
pub fn any_version_in(
    snapshot: &Snapshot,
    range: &KeyRange,
    after: Timestamp,
    upto: Timestamp,
) -> Result<Option<(Bytes, Timestamp)>, Error> {
    if range.is_empty() || after >= upto {
        return Ok(None);
    }
    if let Some(key) = keys::as_point(range) {
        let ts = PointReader::new(snapshot).get_with(key, upto, |ts, _| ts)?;
        return Ok(ts.filter(|&ts| ts > after).map(|ts| (Bytes::copy_from_slice(key), ts)));
    }
    let mut scan = Scan::with_tombstones(snapshot, range, upto, false);
    while let Some(row) = scan.next()? {
        if row.ts > after {
            return Ok(Some((Bytes::copy_from_slice(row.key), row.ts)));
        }
    }
    Ok(None)
}

/// A row under a [`Scan`]'s cursor.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The user key.
    pub key: &'a [u8],
    /// The version's timestamp.
    pub ts: Timestamp,
    /// Its value; `None` (a deletion) only from [`Scan::with_tombstones`].
    pub value: Option<&'a [u8]>,
}

/// A cursor over the rows of a range as of a timestamp. What it hands out is borrowed until the next step.
pub struct Scan<'s> {
    snapshot: &'s Snapshot,
    iter: Iter<'s>,
    at: Timestamp,
    reverse: bool,
    tombstones: bool,
    started: bool,
    /// The encoded user key of the row last handed out (forward: the iterator is still on one of its versions;
    /// reverse: it is already before all of them).
    user: Vec<u8>,
    key: Vec<u8>,
    /// Reverse scans pass a row's versions oldest first and remember here the newest that is old enough.
    value: Vec<u8>,
    sought: Vec<u8>,
}

impl<'s> Scan<'s> {
    /// The rows that exist as of `at`, in key order or from the end.
    pub fn new(snapshot: &'s Snapshot, range: &KeyRange, at: Timestamp, reverse: bool) -> Self {
        Self {
            snapshot,
            iter: snapshot.iter(Cf::Data, range),
            at,
            reverse,
            tombstones: false,
            started: range.is_empty(),
            user: Vec::new(),
            key: Vec::new(),
            value: Vec::new(),
            sought: Vec::new(),
        }
    }

    /// As [`Scan::new`], but rows whose newest version as of `at` is a deletion are handed out too.
    pub fn with_tombstones(snapshot: &'s Snapshot, range: &KeyRange, at: Timestamp, reverse: bool) -> Self {
        Self { tombstones: true, ..Self::new(snapshot, range, at, reverse) }
    }

    /// The next row.
    #[allow(clippy::should_implement_trait, reason = "the row is borrowed from the cursor")]
    pub fn next(&mut self) -> Result<Option<Row<'_>>, Error> {
        let found = if self.reverse { self.previous_row()? } else { self.next_row()? };
        let Some(ts) = found else {
            return Ok(None);
        };
        self.key.clear();
        if keys::decode_user_key(&self.user, &mut self.key).is_none() {
            return Err(bad_key(self.snapshot, &self.user));
        }
        let stored = if self.reverse { &self.value[..] } else { self.iter.value().unwrap_or_default() };
        Ok(Some(Row { key: &self.key, ts, value: untag(self.snapshot, stored)? }))
    }

    /// Leaves the iterator on the version that is next to be handed out.
    fn next_row(&mut self) -> Result<Option<Timestamp>, Error> {
        if self.started {
            if !self.user.is_empty() {
                self.skip_versions();
            }
        } else {
            self.started = true;
            self.iter.seek_to_first();
        }
        loop {
            let Some((found, value)) = self.iter.item() else {
                self.iter.check()?;
                return Ok(None);
            };
            let (user, ts) = split(self.snapshot, found)?;
            if user != self.user {
                self.user.clear();
                self.user.extend_from_slice(user);
            }
            if ts > self.at {
                self.skip_newer();
                continue;
            }
            if !self.tombstones && value.first() == Some(&TOMBSTONE) {
                self.skip_versions();
                continue;
            }
            return Ok(Some(ts));
        }
    }

    /// From a version of `user` to the first key after all its versions.
    fn skip_versions(&mut self) {
        for _ in 0..STEPS_MAX {
            self.iter.next();
            match self.iter.key() {
                Some(key) if key.starts_with(&self.user) => {}
                _ => return,
            }
        }
        self.sought.clear();
        self.sought.extend_from_slice(&self.user);
        self.sought.extend_from_slice(&[0xff; keys::TIMESTAMP_BYTES + 1]);
        self.iter.seek(&self.sought);
    }

    /// From a version of `user` that is too new to the first that isn't, or to the next key.
    fn skip_newer(&mut self) {
        self.sought.clear();
        self.sought.extend_from_slice(&self.user);
        self.sought.extend_from_slice(&(!self.at.0).to_be_bytes());
        for _ in 0..STEPS_MAX {
            self.iter.next();
            match self.iter.key() {
                Some(key) if key < &self.sought[..] => {}
                _ => return,
            }
        }
        self.iter.seek(&self.sought);
    }

    /// Leaves the row's value in `self.value` and the iterator before all its versions.
    fn previous_row(&mut self) -> Result<Option<Timestamp>, Error> {
        if !self.started {
            self.started = true;
            self.iter.seek_to_last();
        } else if self.user.is_empty() {
            return Ok(None);
        }
        loop {
            let Some((found, _)) = self.iter.item() else {
                self.iter.check()?;
                self.user.clear();
                return Ok(None);
            };
            let (user, _) = split(self.snapshot, found)?;
            self.user.clear();
            self.user.extend_from_slice(user);
            let Some(ts) = self.newest_backwards()? else {
                continue;
            };
            if self.tombstones || self.value.first() != Some(&TOMBSTONE) {
                return Ok(Some(ts));
            }
        }
    }

    /// From the oldest version of `user`: finds the newest one at or below `at`, copies it into `self.value`, and
    /// leaves the iterator before all versions of `user`.
    fn newest_backwards(&mut self) -> Result<Option<Timestamp>, Error> {
        let mut newest = None;
        let mut steps = 0;
        while let Some((found, value)) = self.iter.item() {
            if !found.starts_with(&self.user) {
                return Ok(newest);
            }
            let (_, ts) = split(self.snapshot, found)?;
            if ts > self.at || steps == STEPS_MAX {
                return self.seek_backwards(newest, steps == STEPS_MAX);
            }
            self.value.clear();
            self.value.extend_from_slice(value);
            newest = Some(ts);
            steps += 1;
            self.iter.prev();
        }
        self.iter.check()?;
        Ok(newest)
    }

    /// The end of [`Self::newest_backwards`] for rows with many versions: one seek to the version asked for (unless
    /// it is already known), one to the row before.
    fn seek_backwards(&mut self, known: Option<Timestamp>, search: bool) -> Result<Option<Timestamp>, Error> {
        let mut newest = known;
        if search {
            self.sought.clear();
            self.sought.extend_from_slice(&self.user);
            self.sought.extend_from_slice(&(!self.at.0).to_be_bytes());
            self.iter.seek(&self.sought);
            if let Some((found, value)) = self.iter.item().filter(|(found, _)| found.starts_with(&self.user))
            {
                newest = Some(split(self.snapshot, found)?.1);
                self.value.clear();
                self.value.extend_from_slice(value);
            } else {
                self.iter.check()?;
            }
        }
        // The user key alone sorts before all its versions.
        self.iter.seek_for_prev(&self.user);
        Ok(newest)
    }
}

/// How large a page may get. A page holds at least one row if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At most this many rows.
    pub rows: usize,
    /// No further row once keys and values have this many bytes.
    pub bytes: usize,
}

/// A page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values in the scan's order. All share one allocation, which lives as long as any of them.
    pub rows: Vec<(Bytes, Bytes)>,
    /// The highest timestamp among them.
    pub newest: Timestamp,
    /// What is left of the range; `None` when it is exhausted.
    pub rest: Option<KeyRange>,
}

/// Reads one page of the rows that exist as of `at`.
pub fn scan(
    snapshot: &Snapshot,
    range: &KeyRange,
    at: Timestamp,
    reverse: bool,
    limits: Limits,
) -> Result<Page, Error> {
    let mut scan = Scan::new(snapshot, range, at, reverse);
    let mut arena = BytesMut::new();
    let mut ends: Vec<(usize, usize)> = Vec::new();
    let mut page = Page::default();
    while let Some(row) = scan.next()? {
        if !ends.is_empty() && (ends.len() >= limits.rows || arena.len() >= limits.bytes) {
            // This row is the first of the rest. Going backwards the rest ends behind it.
            let at = KeyRange::point(row.key);
            page.rest = Some(match reverse {
                false => KeyRange { start: at.start, end: range.end.clone() },
                true => KeyRange { start: range.start.clone(), end: at.end },
            });
            break;
        }
        arena.extend_from_slice(row.key);
        let key_end = arena.len();
        arena.extend_from_slice(row.value.unwrap_or_default());
        ends.push((key_end, arena.len()));
        page.newest = page.newest.max(row.ts);
    }
    let arena = arena.freeze();
    let mut start = 0;
    page.rows = ends
        .into_iter()
        .map(|(key_end, end)| {
            let row = (arena.slice(start..key_end), arena.slice(key_end..end));
            start = end;
            row
        })
        .collect();
    Ok(page)
}

pub(crate) fn split<'k>(snapshot: &Snapshot, encoded: &'k [u8]) -> Result<(&'k [u8], Timestamp), Error> {
    keys::split_version(encoded).ok_or_else(|| bad_key(snapshot, encoded))
}

fn bad_key(snapshot: &Snapshot, encoded: &[u8]) -> Error {
    Error::corrupt(snapshot.dir(), format!("not a version's key: {}", encoded.escape_ascii()))
}

fn untag<'v>(snapshot: &Snapshot, stored: &'v [u8]) -> Result<Option<&'v [u8]>, Error> {
    match stored.split_first() {
        Some((&VALUE, value)) => Ok(Some(value)),
        Some((&TOMBSTONE, [])) => Ok(None),
        _ => Err(Error::corrupt(snapshot.dir(), "a version has an unknown form".to_owned())),
    }
}

/// Whether a stored version is a deletion.
pub(crate) fn is_tombstone(stored: &[u8]) -> bool {
    stored.first() == Some(&TOMBSTONE)
}
