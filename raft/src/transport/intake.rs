//! Appends are handed to openraft in the order in which they arrived.
//!
//! A leader sends the entries up to 10 and, before they are answered, those from 11 on. The second append, handed over
//! first, is refused ("I have no entry 10"); the first then succeeds; and the leader, which hears of both in the order that it
//! sent them, believes that its follower has lost an entry that it had acknowledged. openraft takes that for a broken disk.
//!
//! Two things would let them pass each other: a task that has used up its share of tokio's time gets no permit for any channel, in
//! whatever order it asks; and a group at rest takes a moment to wake, during which only the first waits for it. So
//! appends of a group take turns, the turns are taken in the order of arrival (tokio's mutex is fair), and neither is subject to tokio's shares.

use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use proto::raft as wire;

use super::server::{asleep, stopped};
use crate::group::Group;
use crate::types::TypeConfig;

/// Hands an append to its group. The order of appends is that in which these are polled for the first time.
pub(super) async fn append(
    group: &Arc<Group>,
    rpc: AppendEntriesRequest<TypeConfig>,
) -> Result<AppendEntriesResponse<TypeConfig>, wire::Refusal> {
    tokio::task::unconstrained(async {
        let turn = group.appends.lock().await;
        let core = group.awake().await.map_err(asleep)?;
        let mut appended = pin!(core.raft.append_entries(rpc));
        // The first poll puts it into openraft's queue, which holds more than the streams let through (`RUNNING_MAX`).
        let early = appended.as_mut().now_or_never();
        drop(turn);
        let answer = match early {
            Some(answer) => answer,
            None => appended.await,
        };
        answer.map_err(stopped)
    })
    .await
}
