//! Appends are handed to openraft in the order in which they arrived.
//!
//! A leader sends the entries up to 10 and, before they are answered, those from 11 on. The second append, handed over
//! first, is refused ("I have no entry 10"); the first then succeeds; and the leader, which hears of both in the order that it
//! sent them, believes that its follower has lost an entry that it had acknowledged. openraft takes that for a broken disk.
//!
//! Two things would let them pass each other: a task that has used up its share of tokio's time gets no permit for any channel, in
//! whatever order it asks; and a group at rest takes a moment to wake, during which only the first waits for it. So
//! appends of a group take turns, the turns are taken in the order of arrival (tokio's mutex is fair), and neither is subject to tokio's shares.
//!
//! What openraft was handed it keeps, also if the stream that brought it breaks. So it is waited for in any case: until then it
//! takes room of its sender's ([`super::received`]).

use std::mem;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Fuse, FusedFuture};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use proto::raft as wire;
use storage::seam::Seams;

use super::received::Share;
use super::server::{asleep, stopped};
use crate::group::Group;
use crate::types::TypeConfig;

/// Hands an append to its group. The order of appends is that in which these are polled for the first time.
pub(super) async fn append(
    group: &Arc<Group>,
    rpc: AppendEntriesRequest<TypeConfig>,
    share: Option<Share>,
) -> Outcome {
    tokio::task::unconstrained(async {
        let turn = group.appends.lock().await;
        let core = group.awake().await.map_err(asleep)?;
        let outcome = async move { core.raft.append_entries(rpc).await.map_err(stopped) };
        let mut handed = Handed { outcome: outcome.boxed().fuse(), share, seams: &group.seams };
        // The first poll puts it into openraft's queue, which holds more than is let through (`received::APPENDS_MAX`).
        let early = (&mut handed.outcome).now_or_never();
        drop(turn);
        match early {
            Some(outcome) => outcome,
            None => (&mut handed.outcome).await,
        }
    })
    .await
}

type Outcome = Result<AppendEntriesResponse<TypeConfig>, wire::Refusal>;

/// An append that is openraft's. It is answered when its entries are in the log or have been dropped; nothing else tells of that.
struct Handed<'a> {
    outcome: Fuse<BoxFuture<'static, Outcome>>,
    share: Option<Share>,
    seams: &'a Seams,
}

impl Drop for Handed<'_> {
    fn drop(&mut self) {
        if self.outcome.is_terminated() {
            return;
        }
        // Its stream is gone. (Of those that have no share, which have no entries, nothing is left behind that is worth a task.)
        let Some(share) = self.share.take() else { return };
        let outcome = mem::replace(&mut self.outcome, Fuse::terminated());
        self.seams.spawn("raft-append", async move {
            let _ = outcome.await;
            drop(share);
        });
    }
}
