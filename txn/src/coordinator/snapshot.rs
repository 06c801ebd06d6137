//! Reading and writing at one of a transaction's snapshots, and moving that to the present.

use storage::ids::{KeyRange, Timestamp};

use super::buffer::{Writes, overlay};
use super::fetch::PAGE_BYTES;
use super::reading::{Move, Reading};
use super::txn::{LockedKey, State, Txn};
use crate::Error;
use crate::api::{Fence, Isolation, Key, ScanPage, ScanRequest, Value, Write};

impl Txn {
    /// A snapshot's timestamp, drawn if it has none.
    pub(super) async fn draw(&self, reading: &Reading) -> Result<Timestamp, Error> {
        if let Some(at) = reading.at() {
            self.state.lock().started.get_or_insert(at);
            return Ok(at);
        }
        let _drawing = reading.drawing.lock().await;
        if let Some(at) = reading.at() {
            return Ok(at);
        }
        let at = self.core.oracle.timestamp().await?;
        let at = reading.at_or(at);
        self.state.lock().started.get_or_insert(at);
        Ok(at)
    }

    pub(super) async fn get_at(
        &self,
        reading: &Reading,
        keys: &[Key],
        fences: &[Fence],
    ) -> Result<Vec<Option<Value>>, Error> {
        let (values, from_shards) = self.look_at(reading, keys, fences).await?;
        from_shards.into_iter().for_each(|index| reading.add_key(&keys[index]));
        Ok(values)
    }

    /// The values as of a snapshot, and which of them are not the transaction's own. They are no reads yet.
    pub(super) async fn look_at(
        &self,
        reading: &Reading,
        keys: &[Key],
        fences: &[Fence],
    ) -> Result<(Vec<Option<Value>>, Vec<usize>), Error> {
        let mut values: Vec<Option<Value>> = vec![None; keys.len()];
        let (missing, fences, own) = {
            let mut state = self.state.lock();
            self.check(&state, false)?;
            let fences = self.use_fences(&mut state, fences, reading.is_tracked())?;
            // Looked up before the shards are asked: what is on its way now will be there by then, or still here.
            let (upper, lower) = Self::layers(&state);
            let snapshot = reading.at();
            let mut missing = Vec::new();
            for (index, key) in keys.iter().enumerate() {
                match upper.get(key).or_else(|| lower.as_ref()?.get(key)) {
                    Some(write) => values[index] = write.value.clone(),
                    None => match state.locked.get(key) {
                        Some(LockedKey { since, value: Some(value), .. }) if Some(*since) == snapshot => {
                            values[index] = value.clone();
                        }
                        _ => missing.push(index),
                    },
                }
            }
            (missing, fences, self.own(&state))
        };
        if missing.is_empty() {
            return Ok((values, missing));
        }
        let (at, past) = (self.draw(reading).await?, self.options.as_of.is_some());
        let found = if missing.len() == keys.len() {
            self.core.read(own, at, past, keys, &fences).await?
        } else {
            let asked: Vec<Key> = missing.iter().map(|index| keys[*index].clone()).collect();
            self.core.read(own, at, past, &asked, &fences).await?
        };
        for (index, value) in missing.iter().zip(found) {
            values[*index] = value;
        }
        Ok((values, missing))
    }

    pub(super) async fn scan_at(
        &self,
        reading: &Reading,
        request: ScanRequest,
        fences: &[Fence],
    ) -> Result<ScanPage, Error> {
        let ScanRequest { range, reverse, rows_max } = request;
        let rows_max = rows_max.max(1);
        let (fences, mut own, mut flushes) = {
            let mut state = self.state.lock();
            self.check(&state, false)?;
            (self.use_fences(&mut state, fences, reading.is_tracked())?, self.own(&state), state.flushes)
        };
        if range.is_empty() {
            return Ok(ScanPage::default());
        }
        let (at, past) = (self.draw(reading).await?, self.options.as_of.is_some());
        let mut left = range;
        loop {
            let page = self.core.scan(own, at, past, &left, reverse, rows_max, &fences).await?;
            let mut covered = covered(&left, page.rest.as_ref(), reverse);
            let mut rest = page.rest;
            let state = self.state.lock();
            if state.flushes != flushes {
                // Writes have moved from here to the shards meanwhile, and may have been missed in both places.
                (own, flushes) = (self.own(&state), state.flushes);
                continue;
            }
            reading.add_range(&covered);
            let (upper, lower) = Self::layers(&state);
            let none = Writes::new();
            let layers = [upper, lower.as_deref().unwrap_or(&none)];
            let (rows, stopped) = overlay(page.rows, &covered, layers, reverse, rows_max, PAGE_BYTES);
            if let Some(last) = stopped {
                let left = match reverse {
                    false => KeyRange { start: KeyRange::point(&last).end, end: left.end.clone() },
                    true => KeyRange { start: left.start.clone(), end: last },
                };
                rest = (!left.is_empty()).then_some(left);
            }
            drop(state);
            match rest {
                // A page without rows helps nobody.
                Some(rest) if rows.is_empty() => {
                    covered = rest;
                    left = covered;
                }
                rest => return Ok(ScanPage { rows, rest }),
            }
        }
    }

    pub(super) async fn write_at(
        &self,
        reading: &Reading,
        writes: Vec<Write>,
        fences: &[Fence],
    ) -> Result<(), Error> {
        {
            let mut state = self.state.lock();
            self.check(&state, true)?;
            self.use_fences(&mut state, fences, true)?;
            let snapshot = match self.is_serializable() {
                // What was read is validated, and what was not read may be overwritten whatever stands there.
                true => Timestamp::ZERO,
                false => reading.at().unwrap_or(Timestamp::ZERO),
            };
            for write in writes {
                let mut since = snapshot;
                if let Some(locked) = state.locked.get_mut(&write.key) {
                    if !self.is_serializable() && locked.excludes_writers() {
                        since = locked.since;
                    }
                    // What is kept is what the transaction would read, also when the write has left the buffer.
                    locked.value = locked.value.is_some().then(|| write.value.clone());
                }
                state.buffer.put(write, since)?;
            }
        }
        self.flush_if_large().await
    }

    pub(super) async fn retry_at(&self, reading: &Reading, savepoint: u64) -> Result<bool, Error> {
        self.undo_to(savepoint).await?;
        {
            let mut state = self.state.lock();
            if !reading.forget_statement() && self.options.isolation == Isolation::Snapshot {
                return Ok(false);
            }
            // They are locked, but no read any more.
            Self::forget_read_at(&mut state, reading.at());
        }
        self.refresh_at(reading).await
    }

    pub(super) async fn refresh_at(&self, reading: &Reading) -> Result<bool, Error> {
        let fences = {
            let state = self.state.lock();
            self.check(&state, false)?;
            state.fences.iter().cloned().collect::<Vec<_>>()
        };
        let before = reading.at();
        let (from, reads) = match reading.move_now(self.options.isolation) {
            Move::Done => {
                // (`started` stays: the transaction doesn't get younger.)
                Self::forget_read_at(&mut self.state.lock(), before);
                return Ok(true);
            }
            Move::Never => return Ok(false),
            Move::If(from, reads) => (from, reads),
        };
        let at = self.core.oracle.timestamp().await?;
        match self.core.validate(self.id, &reads, &fences, from, at, self.core.deadline()).await {
            Ok(()) => {}
            Err(Error::Conflict { .. } | Error::FenceMismatch { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        let moved = reading.move_to(from, reads, at);
        if moved {
            // They are reads, and have not changed.
            self.state.lock().locked.values_mut().for_each(|locked| locked.since = at);
        }
        Ok(moved)
    }

    /// Locked rows that were read at a snapshot which is given up. (Others were read at the latest.)
    fn forget_read_at(state: &mut State, snapshot: Option<Timestamp>) {
        state.locked.retain(|_, locked| Some(locked.since) != snapshot);
    }
}

/// What a page covers.
fn covered(range: &KeyRange, rest: Option<&KeyRange>, reverse: bool) -> KeyRange {
    match (rest, reverse) {
        (None, _) => range.clone(),
        (Some(rest), false) => KeyRange { start: range.start.clone(), end: rest.start.clone() },
        (Some(rest), true) => KeyRange { start: rest.end.clone(), end: range.end.clone() },
    }
}
