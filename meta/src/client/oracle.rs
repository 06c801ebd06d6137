//! Timestamps, drawn for all that wait at once.

use std::sync::Weak;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use proto::meta as pb;
use storage::ids::Timestamp;
use tokio::sync::{mpsc, oneshot};
use txn::Oracle;

use super::MetaClient;
use super::calls::{CALL_LIMIT, Target};
use crate::Error;
use crate::oracle::DRAW_MAX;

/// At most this many callers wait for a timestamp.
pub(super) const ORACLE_QUEUE_MAX: usize = 65_536;

/// Who waits for a timestamp.
pub(super) type Waiter = oneshot::Sender<Result<Timestamp, txn::Error>>;

#[async_trait]
impl Oracle for MetaClient {
    async fn timestamp(&self) -> Result<Timestamp, txn::Error> {
        let asked = self.seams.clock.now();
        if let Some(server) = self.local.get().filter(|server| server.leads())
            && let Ok(timestamp) = server.timestamps(1).await
        {
            return Ok(self.note(timestamp, asked));
        }
        let (waiter, answer) = oneshot::channel();
        let full = |_| txn::Error::Unavailable("too many wait for a timestamp".into());
        self.waiters.try_send(waiter).map_err(full)?;
        let stopping = |_| txn::Error::Unavailable("the node is shutting down".into());
        answer.await.map_err(stopping)?.map(|timestamp| self.note(timestamp, asked))
    }

    fn recent(&self) -> Option<(Timestamp, Duration)> {
        let (at, asked) = (*self.recent.lock())?;
        Some((at, self.seams.clock.now().saturating_duration_since(asked)))
    }
}

impl MetaClient {
    fn note(&self, timestamp: Timestamp, asked: Instant) -> Timestamp {
        let mut recent = self.recent.lock();
        if recent.is_none_or(|(known, _)| known < timestamp) {
            *recent = Some((timestamp, asked));
        }
        timestamp
    }

    async fn timestamps(&self, count: u32) -> Result<Timestamp, Error> {
        self.call(CALL_LIMIT, move |target| {
            async move {
                match target {
                    Target::Local(server) => server.timestamps(count).await,
                    Target::Remote(mut rpc) => {
                        metrics::counter!("flotilla_node_requests_total", "to" => "oracle").increment(1);
                        let response = rpc.timestamps(pb::TimestampsRequest { count }).await?.into_inner();
                        if response.count < count {
                            return Err(Error::Unavailable("fewer timestamps than asked for".into()));
                        }
                        Ok(Timestamp(response.first))
                    }
                }
            }
            .boxed()
        })
        .await
    }
}

/// One request in flight; whoever asks meanwhile goes into the next one. So a waiter's timestamp is always drawn after
/// it began to wait.
pub(super) async fn draw_for_all(client: Weak<MetaClient>, mut queue: mpsc::Receiver<Waiter>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, DRAW_MAX as usize).await > 0 {
        let Some(client) = client.upgrade() else { return };
        // Those who have given up need none.
        batch.retain(|waiter| !waiter.is_closed());
        if batch.is_empty() {
            continue;
        }
        let drawn = client.timestamps(batch.len() as u32).await;
        for (i, waiter) in batch.drain(..).enumerate() {
            let answer = match &drawn {
                Ok(first) => Ok(Timestamp(first.0 + i as u64)),
                Err(error) => Err(error.clone().into()),
            };
            // Nobody waits any more: the timestamp is lost, which is harmless.
            let _ = waiter.send(answer);
        }
    }
}
