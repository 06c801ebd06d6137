//! What all transactions of a node share: reading through other transactions' intents, and settling them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{GroupId, KeyRange, Timestamp, TxnId};
use storage::seam::Seams;
use tokio::sync::Semaphore;

use super::CoordinatorOptions;
use super::advisory::Sessions;
use super::collect::Open;
use super::locks::Held;
use super::past::Told;
use crate::api::{Fence, Key, ScanPage, Value};
use crate::descriptor::{ShardDescriptor, range_from_pb, range_to_pb};
use crate::router::{Repeat, RouteError, Router};
use crate::wire::{Fate, parse_txn, txn_bytes};
use crate::{Directory, Error, Oracle};

/// The bytes of a page.
pub const PAGE_BYTES: usize = 1 << 20;
/// Keys in one request that reads.
const READ_KEYS_MAX: usize = 1024;
/// Keys in one request that settles intents.
const RESOLVE_KEYS_MAX: usize = 1024;
/// Settlements of others' intents that run in the background at once; more are left to whoever meets the intents again.
const BACKGROUND_MAX: usize = 64;
/// A writer that has waited so long for an undecided transaction ends it, if it is the older one of the two.
const WOUND_AFTER: Duration = Duration::from_millis(50);

/// What the transactions of a node share.
pub struct Core {
    pub router: Router,
    pub oracle: Arc<dyn Oracle>,
    pub directory: Arc<dyn Directory>,
    pub seams: Seams,
    pub options: CoordinatorOptions,
    /// Where this node's transactions hold locks.
    pub held: Held,
    /// This node's transactions.
    pub open: Open,
    /// This node's sessions that hold advisory locks.
    pub sessions: Sessions,
    /// Whose past is read here.
    pub past_told: Told,
    background: Arc<Semaphore>,
}

/// The fates that a request has learned of.
type FateMap = HashMap<TxnId, Fate>;

fn fates_to_pb(fates: &FateMap) -> Vec<pb::Fate> {
    fates.iter().map(|(txn, fate)| fate.to_pb(*txn)).collect()
}

/// Fences as messages.
pub fn fences_to_pb<'f>(fences: impl IntoIterator<Item = &'f Fence>) -> Vec<pb::Fence> {
    let fence = |f: &Fence| pb::Fence { prefix: f.prefix.clone(), version: f.version };
    fences.into_iter().map(fence).collect()
}

/// An answer that doesn't fit its request: a defect, or a node of another version.
pub fn unexpected() -> Error {
    Error::Internal("a shard gave an answer that does not fit the request".to_owned())
}

/// Ranges in one shard.
pub struct Piece {
    pub shard: Arc<ShardDescriptor>,
    pub ranges: Vec<KeyRange>,
}

impl Core {
    pub fn new(
        router: Router,
        oracle: Arc<dyn Oracle>,
        directory: Arc<dyn Directory>,
        seams: Seams,
        options: CoordinatorOptions,
    ) -> Arc<Self> {
        let background = Arc::new(Semaphore::new(BACKGROUND_MAX));
        Arc::new(Self {
            router,
            oracle,
            directory,
            seams,
            options,
            held: Held::default(),
            open: Open::default(),
            sessions: Sessions::default(),
            past_told: Told::default(),
            background,
        })
    }

    /// When a request that begins now gives up.
    pub fn deadline(&self) -> Instant {
        self.seams.clock.now() + self.options.request_timeout
    }

    /// Reads keys as of `at`, which may be well in the `past`; in the order of `keys`.
    pub async fn read(
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
    pub async fn read_latest(
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
    pub async fn scan(
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

    /// Finds out the fates of those whose intents are in the way of a read at `at`. Decided ones' intents are settled
    /// in the background.
    async fn learn_fates(
        self: &Arc<Self>,
        met: Vec<pb::MetIntent>,
        at: Timestamp,
        fates: &mut FateMap,
        deadline: Instant,
    ) -> Result<(), Error> {
        let mut by_txn: HashMap<TxnId, Vec<pb::MetIntent>> = HashMap::new();
        for intent in met {
            by_txn.entry(parse_txn(&intent.txn)?).or_default().push(intent);
        }
        let pushes = by_txn.into_iter().map(|(txn, intents)| async move {
            let primary = intents.first().map(|i| i.primary.clone()).unwrap_or_default();
            let fate = self.push(txn, primary, at, deadline).await?;
            Ok::<_, Error>((txn, fate, intents))
        });
        for pushed in join_all(pushes).await {
            let (txn, fate, intents) = pushed?;
            fates.insert(txn, fate);
            if fate.is_decided() {
                self.settle_later(txn, fate, intents.into_iter().map(|i| i.key).collect());
            }
        }
        Ok(())
    }

    /// Asks for a transaction's fate; if it is undecided, it won't commit at or below `above`.
    async fn push(
        &self,
        txn: TxnId,
        primary: Key,
        above: Timestamp,
        deadline: Instant,
    ) -> Result<Fate, Error> {
        self.push_with(
            pb::Push { txn: txn_bytes(txn), primary, above: above.0, ..pb::Push::default() },
            deadline,
        )
        .await
    }

    /// Asks a transaction's primary.
    pub async fn push_with(&self, push: pb::Push, deadline: Instant) -> Result<Fate, Error> {
        let primary = push.primary.clone();
        let txn = parse_txn(&push.txn)?;
        match self.router.ask_key(&primary, Ask::Push(push), Repeat::Harmless, deadline).await {
            Ok(Answer::Fate(fate)) => Ok(Fate::from_pb(&fate)?.1),
            Ok(Answer::AsyncCommit(commit)) => self.find_out_async(txn, primary, commit.keys, deadline).await,
            Err(RouteError::Failed(error)) => Err(error),
            _ => Err(unexpected()),
        }
    }

    fn settle_later(self: &Arc<Self>, txn: TxnId, fate: Fate, keys: Vec<Key>) {
        let Ok(place) = self.background.clone().try_acquire_owned() else {
            return;
        };
        let core = self.clone();
        self.seams.spawn("settle", async move {
            let ranges = keys.iter().map(|key| KeyRange::point(key)).collect();
            if let Err(error) = core.settle(txn, fate, ranges, core.deadline()).await {
                tracing::debug!(?txn, %error, "intents of a decided transaction stay for now");
            }
            drop(place);
        });
    }

    /// Settles all intents of a decided transaction in `ranges`.
    pub async fn settle(
        &self,
        txn: TxnId,
        fate: Fate,
        ranges: Vec<KeyRange>,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.settle_and_unlock(txn, fate, ranges, deadline, &Mutex::default()).await
    }

    /// The same by the coordinator. Locks that went along are taken out of `held`.
    pub async fn settle_and_unlock(
        &self,
        txn: TxnId,
        fate: Fate,
        ranges: Vec<KeyRange>,
        deadline: Instant,
        held: &Mutex<HashMap<GroupId, Key>>,
    ) -> Result<(), Error> {
        let mut left = ranges;
        let mut pause = Duration::from_millis(2);
        while !left.is_empty() {
            let pieces = self.pieces(&left, deadline).await?;
            let settled = pieces.into_iter().map(|piece| self.settle_piece(txn, fate, piece, deadline, held));
            let results = join_all(settled).await;
            left = Vec::new();
            for result in results {
                left.extend(result?);
            }
            if !left.is_empty() {
                self.router.pause_before(&mut pause, deadline).await?;
            }
        }
        Ok(())
    }

    /// Returns what is left because the shard has moved.
    async fn settle_piece(
        &self,
        txn: TxnId,
        fate: Fate,
        piece: Piece,
        deadline: Instant,
        held: &Mutex<HashMap<GroupId, Key>>,
    ) -> Result<Vec<KeyRange>, Error> {
        let (points, spans): (Vec<_>, Vec<_>) =
            piece.ranges.into_iter().partition(|range| storage::keys::as_point(range).is_some());
        let mut left = Vec::new();
        let group = piece.shard.group;
        let at_once = spans.is_empty() && points.len() <= RESOLVE_KEYS_MAX;
        let unlock = at_once && held.lock().contains_key(&group);
        for chunk in points.chunks(RESOLVE_KEYS_MAX) {
            let keys = chunk.iter().map(|range| range.start.clone()).collect();
            let ask = pb::Resolve { fate: Some(fate.to_pb(txn)), keys, spans: Vec::new(), unlock };
            match self.router.ask(&piece.shard, Ask::Resolve(ask), Repeat::Harmless, deadline).await {
                Ok(_) if unlock => _ = held.lock().remove(&group),
                Ok(_) => {}
                Err(RouteError::Moved) => left.extend_from_slice(chunk),
                Err(RouteError::Failed(error)) => return Err(error),
                Err(RouteError::Pushed) => return Err(unexpected()),
            }
        }
        for span in spans {
            let mut todo = Some(span);
            while let Some(span) = todo.take() {
                let spans = vec![range_to_pb(&span)];
                let ask = pb::Resolve { fate: Some(fate.to_pb(txn)), spans, ..pb::Resolve::default() };
                // Each page has time of its own: how many there are nobody knows.
                let deadline = deadline.max(self.deadline());
                match self.router.ask(&piece.shard, Ask::Resolve(ask), Repeat::Harmless, deadline).await {
                    Ok(Answer::Page(page)) => todo = page.rest.map(range_from_pb),
                    Err(RouteError::Moved) => left.push(span),
                    Err(RouteError::Failed(error)) => return Err(error),
                    Ok(_) | Err(RouteError::Pushed) => return Err(unexpected()),
                }
            }
        }
        Ok(left)
    }

    /// Cuts ranges (in key order) at the shards' boundaries.
    pub async fn pieces(&self, ranges: &[KeyRange], deadline: Instant) -> Result<Vec<Piece>, Error> {
        let mut pieces: Vec<Piece> = Vec::new();
        for range in ranges {
            if let Some(last) = pieces.last_mut()
                && last.shard.range.contains_range(range)
            {
                last.ranges.push(range.clone());
                continue;
            }
            for shard in self.router.route_all(range, deadline).await? {
                let Some(part) = range.intersection(&shard.range) else {
                    continue;
                };
                match pieces
                    .last_mut()
                    .filter(|p| p.shard.group == shard.group && p.shard.epoch == shard.epoch)
                {
                    Some(piece) => piece.ranges.push(part),
                    None => pieces.push(Piece { shard, ranges: vec![part] }),
                }
            }
        }
        Ok(pieces)
    }

    /// Whether nothing in `reads` has changed in `(read_at, at]`, and the fences hold at `at`. A "yes" stays true.
    pub async fn validate(
        self: &Arc<Self>,
        own: TxnId,
        reads: &[KeyRange],
        fences: &[Fence],
        read_at: Timestamp,
        at: Timestamp,
        deadline: Instant,
    ) -> Result<(), Error> {
        let mut fates = FateMap::new();
        let mut pause = Duration::from_millis(1);
        let mut left: Vec<KeyRange> = reads.to_vec();
        loop {
            let mut pieces = self.pieces(&left, deadline).await?;
            // All shards of a table change its fence at the same moment: one of them is enough.
            // (They are cheap, and go along again with whatever is asked again.)
            for fence in fences {
                let stands_for = KeyRange::prefix(&fence.prefix);
                if !pieces.iter().any(|piece| piece.shard.range.overlaps(&stands_for)) {
                    let shard = self.router.route(&fence.prefix, deadline).await?;
                    pieces.push(Piece { shard, ranges: Vec::new() });
                }
            }
            let asks = pieces.iter().map(|piece| {
                let ask = pb::Validate {
                    txn: txn_bytes(own),
                    read_at: read_at.0,
                    at: at.0,
                    reads: piece.ranges.iter().map(range_to_pb).collect(),
                    fences: fences_to_pb(fences),
                    fates: fates_to_pb(&fates),
                };
                self.router.ask(&piece.shard, Ask::Validate(ask), Repeat::Harmless, deadline)
            });
            let answers = join_all(asks).await;
            left = Vec::new();
            let mut again = false;
            let mut moved = false;
            let mut met = Vec::new();
            for (piece, answer) in pieces.into_iter().zip(answers) {
                match answer {
                    Ok(Answer::Done(_)) => continue,
                    Ok(Answer::Blocked(blocked)) => met.extend(blocked.intents),
                    Err(RouteError::Moved) => moved = true,
                    Err(RouteError::Failed(error)) => return Err(error),
                    Ok(_) | Err(RouteError::Pushed) => return Err(unexpected()),
                }
                again = true;
                left.extend(piece.ranges);
            }
            if !again {
                return Ok(());
            }
            left.sort();
            if moved {
                self.router.pause_before(&mut pause, deadline).await?;
            }
            self.learn_fates(met, at, &mut fates, deadline).await?;
        }
    }

    /// Others' intents lie under keys to be written: waits until they are decided, and settles them. Of two that wait
    /// for each other, the older one ends the younger one after a while. `waited_since` is when the waiting began. Returns a key
    /// whose intent is undecided still, after a pause.
    pub async fn clear_the_way(
        &self,
        own: (Timestamp, TxnId),
        met: Vec<pb::MetIntent>,
        waited_since: Instant,
        pause: &mut Duration,
        deadline: Instant,
    ) -> Result<Option<Key>, Error> {
        let waited = self.seams.clock.now().saturating_duration_since(waited_since);
        let mut by_txn: HashMap<TxnId, Vec<pb::MetIntent>> = HashMap::new();
        for intent in met {
            by_txn.entry(parse_txn(&intent.txn)?).or_default().push(intent);
        }
        let mut undecided = None;
        for (txn, intents) in by_txn {
            let Some(first) = intents.first() else {
                continue;
            };
            let mut push =
                pb::Push { txn: txn_bytes(txn), primary: first.primary.clone(), ..pb::Push::default() };
            let mut fate = self.push_with(push.clone(), deadline).await?;
            if !fate.is_decided() && waited >= WOUND_AFTER && own < (Timestamp(first.started), txn) {
                push.abort = true;
                fate = self.push_with(push, deadline).await?;
            }
            if fate.is_decided() {
                let ranges = intents.iter().map(|i| KeyRange::point(&i.key)).collect();
                self.settle(txn, fate, ranges, deadline).await?;
            } else if waited >= self.options.conflict_wait {
                return Err(Error::Conflict { key: first.key.clone(), rival: Some(txn) });
            } else {
                undecided = Some(first.key.clone());
            }
        }
        if undecided.is_some() {
            self.router.pause_before(pause, deadline).await?;
        }
        Ok(undecided)
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
