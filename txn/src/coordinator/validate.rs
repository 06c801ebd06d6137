//! Validating what a transaction has read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::response::Body as Answer;
use storage::ids::{KeyRange, Timestamp, TxnId};

use super::core::{Core, Piece, fences_to_pb, unexpected};
use super::fates::{FateMap, fates_to_pb};
use crate::Error;
use crate::api::Fence;
use crate::descriptor::range_to_pb;
use crate::router::{Repeat, RouteError};
use crate::wire::txn_bytes;

impl Core {
    /// Whether nothing in `reads` has changed in `(read_at, at]`, and the fences hold at `at`. A "yes" stays true.
    pub(super) async fn validate(
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
}
