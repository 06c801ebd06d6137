//! Reading keys and ranges from their shards, past other transactions' intents.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{KeyRange, Timestamp, TxnId};

use super::core::{Core, fences_to_pb, unexpected};
use super::fates::{FateMap, fates_to_pb};
use crate::Error;
use crate::api::{Fence, Key, ScanPage, Value};
use crate::descriptor::{ShardDescriptor, range_from_pb, range_to_pb};
use crate::router::{Repeat, RouteError};
use crate::wire::txn_bytes;

/// The bytes of a page.
pub(super) const PAGE_BYTES: usize = 1 << 20;
/// Keys in one request that reads.
const READ_KEYS_MAX: usize = 1024;

impl Core {
    /// Reads keys as of `at`, which may be well in the `past`; in the order of `keys`.
    pub(super) async fn read(
        self: &Arc<Self>,
        own: Option<TxnId>,
        at: Timestamp,
        past: bool,
        keys: &[Key],
        fences: &[Fence],
    ) -> Result<Vec<Option<Value>>, Error> {
        let deadline = self.deadline();
        let mut values = vec![None; keys.len()];
        let mut todo: Vec<usize> = (0..keys.len()).collect();
        let mut fates = FateMap::new();
        let mut pause = Duration::from_millis(1);
        loop {
            let groups = self.group_keys(keys, &todo, deadline).await?;
            let asks = groups.iter().map(|(shard, indexes)| {
                let ask = pb::Read {
                    txn: own.map(txn_bytes).unwrap_or_default(),
                    at: at.0,
                    keys: indexes.iter().map(|i| keys[*i].clone()).collect(),
                    fences: fences_to_pb(fences),
                    fates: fates_to_pb(&fates),
                };
                self.ask_read(shard, Ask::Read(ask), past && fates.is_empty(), deadline)
            });
            let answers = join_all(asks).await;
            todo.clear();
            let mut met = Vec::new();
            let mut moved = false;
            for ((_, indexes), answer) in groups.iter().zip(answers) {
                match answer {
                    Ok(Answer::Values(found)) if found.values.len() == indexes.len() => {
                        for (index, value) in indexes.iter().zip(found.values) {
                            values[*index] = value.value;
                        }
                    }
                    Ok(Answer::Blocked(blocked)) => {
                        met.extend(blocked.intents);
                        todo.extend(indexes);
                    }
                    Err(RouteError::Moved) => {
                        moved = true;
                        todo.extend(indexes);
                    }
                    Err(RouteError::Failed(error)) => return Err(error),
                    Ok(_) | Err(RouteError::Pushed) => return Err(unexpected()),
                }
            }
            if todo.is_empty() {
                return Ok(values);
            }
            if moved {
                self.router.pause_before(&mut pause, deadline).await?;
            }
            self.learn_fates(met, at, &mut fates, deadline).await?;
        }
    }

    async fn group_keys(
        &self,
        keys: &[Key],
        todo: &[usize],
        deadline: Instant,
    ) -> Result<Vec<(Arc<ShardDescriptor>, Vec<usize>)>, Error> {
        let mut groups: Vec<(Arc<ShardDescriptor>, Vec<usize>)> = Vec::new();
        for index in todo {
            let key = &keys[*index];
            // Few shards: looking through them is quicker than asking the router.
            match groups.iter_mut().rev().find(|(shard, _)| shard.range.contains(key)) {
                Some((_, indexes)) if indexes.len() < READ_KEYS_MAX => indexes.push(*index),
                Some((shard, _)) => {
                    let shard = shard.clone();
                    groups.push((shard, vec![*index]));
                }
                None => groups.push((self.router.route(key, deadline).await?, vec![*index])),
            }
        }
        Ok(groups)
    }

    /// Reads keys of one shard at the latest. `None`: they are not in one shard, or an undecided transaction is in the
    /// way, so that a timestamp is needed.
    pub(super) async fn read_latest(
        &self,
        keys: &[Key],
        fences: &[Fence],
    ) -> Result<Option<Vec<Option<Value>>>, Error> {
        let deadline = self.deadline();
        let mut pause = Duration::from_millis(1);
        loop {
            let shard = match keys.first() {
                Some(key) => self.router.route(key, deadline).await?,
                None => return Ok(Some(Vec::new())),
            };
            if keys.len() > READ_KEYS_MAX || !keys.iter().all(|key| shard.range.contains(key)) {
                return Ok(None);
            }
            let ask = pb::Read { keys: keys.to_vec(), fences: fences_to_pb(fences), ..pb::Read::default() };
            match self.router.ask(&shard, Ask::Read(ask), Repeat::Harmless, deadline).await {
                Ok(Answer::Values(found)) if found.values.len() == keys.len() => {
                    return Ok(Some(found.values.into_iter().map(|v| v.value).collect()));
                }
                Ok(Answer::Blocked(_)) => return Ok(None),
                Err(RouteError::Moved) => self.router.pause_before(&mut pause, deadline).await?,
                Err(RouteError::Failed(error)) => return Err(error),
                Ok(_) | Err(RouteError::Pushed) => return Err(unexpected()),
            }
        }
    }

    /// One page of `range` as of `at`, which may be well in the `past`: from the first shard in the order of the scan.
    #[allow(clippy::too_many_arguments, reason = "what a page is, word by word")]
    pub(super) async fn scan(
        self: &Arc<Self>,
        own: Option<TxnId>,
        at: Timestamp,
        past: bool,
        range: &KeyRange,
        reverse: bool,
        rows_max: usize,
        fences: &[Fence],
    ) -> Result<ScanPage, Error> {
        let deadline = self.deadline();
        let mut fates = FateMap::new();
        let mut pause = Duration::from_millis(1);
        loop {
            let shard = match reverse {
                false => self.router.route(&range.start, deadline).await?,
                true => self.router.route_before(&range.end, deadline).await?,
            };
            let Some(piece) = range.intersection(&shard.range) else {
                return Err(Error::Internal("the router found a shard outside the range".to_owned()));
            };
            let ask = pb::Scan {
                txn: own.map(txn_bytes).unwrap_or_default(),
                at: at.0,
                range: Some(range_to_pb(&piece)),
                reverse,
                rows_max: rows_max as u64,
                bytes_max: PAGE_BYTES as u64,
                fences: fences_to_pb(fences),
                fates: fates_to_pb(&fates),
            };
            match self.ask_read(&shard, Ask::Scan(ask), past && fates.is_empty(), deadline).await {
                Ok(Answer::Page(page)) => {
                    let rows = page.rows.into_iter().map(|row| (row.key, row.value)).collect();
                    let rest = rest(range, &piece, page.rest.map(range_from_pb), reverse);
                    return Ok(ScanPage { rows, rest });
                }
                Ok(Answer::Blocked(blocked)) => {
                    self.learn_fates(blocked.intents, at, &mut fates, deadline).await?;
                }
                Err(RouteError::Moved) => self.router.pause_before(&mut pause, deadline).await?,
                Err(RouteError::Failed(error)) => return Err(error),
                Ok(_) | Err(RouteError::Pushed) => return Err(unexpected()),
            }
        }
    }
}

/// What is left of `range` after a page of `piece`.
fn rest(range: &KeyRange, piece: &KeyRange, in_piece: Option<KeyRange>, reverse: bool) -> Option<KeyRange> {
    let rest = match (in_piece, reverse) {
        (Some(left), false) => KeyRange { start: left.start, end: range.end.clone() },
        (Some(left), true) => KeyRange { start: range.start.clone(), end: left.end },
        (None, false) if piece.end == range.end => return None,
        (None, false) => KeyRange { start: piece.end.clone(), end: range.end.clone() },
        (None, true) if piece.start == range.start => return None,
        (None, true) => KeyRange { start: range.start.clone(), end: piece.start.clone() },
    };
    (!rest.is_empty()).then_some(rest)
}
