//! What all transactions of a node share.

use std::sync::Arc;
use std::time::Instant;

use proto::shard as pb;
use storage::ids::KeyRange;
use storage::seam::Seams;
use tokio::sync::Semaphore;

use super::CoordinatorOptions;
use super::advisory::Sessions;
use super::collect::Open;
use super::locks::Held;
use super::past::Told;
use crate::api::Fence;
use crate::descriptor::ShardDescriptor;
use crate::router::Router;
use crate::{Directory, Error, Oracle};

/// Settlements of others' intents that run in the background at once; more are left to whoever meets the intents again.
const BACKGROUND_MAX: usize = 64;

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
    /// For settlements of others' intents.
    pub background: Arc<Semaphore>,
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
}
