//! The sending end of a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;
use proto::raft as wire;
use storage::fail_point::{self, FailPoint};
use storage::seam::Seams;
use storage::snapshot::Export;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::super::{Hub, chain};
use super::{CHUNKS_AHEAD, Route};
use crate::snapshot::{SnapshotData, spans_to_wire};
use crate::types::{FIRST_VERSION, TypeConfig, Vote, meta_to_wire, vote_from_wire, vote_to_wire};

/// Attempts in a row that bring nothing, after which a snapshot is given up: with the pauses below, half a minute.
const FAILURES_MAX: u32 = 10;
/// … and attempts in all.
const RESUMES_MAX: u32 = 100;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A receiver that was restarted reads what it has before it answers.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// A stream on which nothing leaves for so long, or is not answered when all has left, is taken for broken: a view is held for
/// it. Installing a large snapshot takes minutes.
const STREAM_IDLE_MAX: Duration = Duration::from_secs(15 * 60);
/// How often the log says how far a snapshot is.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Sends a snapshot; answers the receiver's vote when it is installed.
pub(crate) async fn send(
    hub: &Arc<Hub>,
    route: Route,
    vote: Vote,
    snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotData>,
) -> Result<Vote, String> {
    let SnapshotData::View { engine, view, spans } = snapshot.snapshot else {
        return Err("this snapshot has no content".to_owned());
    };
    let header = wire::SnapshotHeader {
        cluster_id: hub.cluster.clone(),
        from_node: hub.me.0,
        to_node: route.node.0,
        group: route.group.0,
        from_replica: route.from.0,
        to_replica: route.to.0,
        vote: Some(vote_to_wire(&vote)),
        meta: Some(meta_to_wire(&snapshot.meta)),
        spans: spans_to_wire(&spans),
        // (0 says that it has none.)
        id: hub.seams.random_u64().max(1),
        first_sequence: 0,
        version: FIRST_VERSION,
    };
    let now = hub.seams.clock.now();
    let outgoing = Arc::new(Outgoing {
        hub: hub.clone(),
        route,
        header,
        chunks: Arc::new(Mutex::new(engine.export(Arc::new(view), &spans))),
        begun: now,
        reported: Mutex::new(now),
        sent: AtomicU64::new(0),
    });
    tracing::info!(group = %route.group, to = %route.to, node = %route.node, "sending a snapshot");
    let answer = outgoing.until_answered().await?;
    if let Some(refusal) = answer.refusal {
        return Err(refused(&refusal));
    }
    outgoing.report("a snapshot is installed");
    vote_from_wire(answer.vote).map_err(|e| e.to_string())
}

fn refused(refusal: &wire::Refusal) -> String {
    format!("refused: {} {}", refusal.reason().as_str_name(), refusal.detail)
}

/// One view on its way, over as many streams as it takes.
struct Outgoing {
    hub: Arc<Hub>,
    route: Route,
    /// As it heads the first stream.
    header: wire::SnapshotHeader,
    /// Shared with readers of streams that have broken, which may not know it yet: each says which chunk it wants.
    chunks: Arc<Mutex<Export>>,
    begun: Instant,
    reported: Mutex<Instant>,
    /// Bytes that have left, those that did not arrive too.
    sent: AtomicU64,
}

impl Outgoing {
    async fn until_answered(self: &Arc<Self>) -> Result<wire::SnapshotAnswer, String> {
        let mut patience = Patience::default();
        let mut first = 0;
        loop {
            let reason = match self.stream(first).await {
                Ok(answer) => return Ok(answer),
                Err(reason) => reason,
            };
            if self.sent.load(Ordering::Relaxed) == 0 {
                return Err(reason);
            }
            let answer = self.resume(reason, &mut patience).await?;
            if answer.vote.is_some() {
                return Ok(answer);
            }
            first = answer.next_sequence;
        }
    }

    /// One stream, from that chunk on, to its answer; an error is a break.
    async fn stream(self: &Arc<Self>, first: u64) -> Result<wire::SnapshotAnswer, String> {
        let mut client = self.hub.connect(self.route.node).await?;
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        self.hub.seams.spawn("send-snapshot", self.clone().feed(first, sender));
        tokio::select! {
            response = client.install_snapshot(ReceiverStream::new(receiver)) => {
                Ok(response.map_err(|status| chain(&status))?.into_inner())
            }
            () = until_idle(&self.sent, &self.hub.seams) => Err("nothing moves any more".to_owned()),
        }
    }

    /// Puts chunks into a stream, at the node's pace, until it breaks or they are through.
    async fn feed(self: Arc<Self>, first: u64, stream: mpsc::Sender<wire::SnapshotPiece>) {
        let group = self.route.group;
        let piece = |piece| wire::SnapshotPiece { piece: Some(piece) };
        let header = wire::SnapshotHeader { first_sequence: first, ..self.header.clone() };
        let mut next = wire::snapshot_piece::Piece::Header(header);
        let mut sequence = first;
        while stream.send(piece(next)).await.is_ok() {
            let chunks = self.chunks.clone();
            let read = move || {
                let mut chunks = chunks.lock();
                chunks.seek(sequence).then(|| chunks.next())
            };
            let chunk = match self.hub.seams.blocking("read-snapshot", read).await {
                Ok(Some(Some(Ok(chunk)))) => chunk.encode_to_vec(),
                // All is sent.
                Ok(Some(None)) => return,
                // The stream ends without its last chunk, so the receiver refuses it.
                Ok(Some(Some(Err(error)))) => {
                    tracing::error!(%group, %error, "cannot read a snapshot");
                    return;
                }
                Ok(None) => {
                    tracing::error!(%group, sequence, "a chunk of a snapshot was asked for that there is not");
                    return;
                }
                Err(error) => {
                    tracing::error!(%group, %error, "cannot read a snapshot");
                    return;
                }
            };
            fail_point::pass(FailPoint::SnapshotSending);
            sequence += 1;
            self.hub.pace.pass(chunk.len(), &self.hub.seams).await;
            metrics::counter!("flotilla_raft_snapshot_bytes_total", "direction" => "sent")
                .increment(chunk.len() as u64);
            self.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            self.report_now_and_then();
            next = wire::snapshot_piece::Piece::Chunk(chunk.into());
        }
    }

    /// After a break: waits, and asks what the receiver has.
    async fn resume(
        &self,
        mut reason: String,
        patience: &mut Patience,
    ) -> Result<wire::SnapshotAnswer, String> {
        let seams = &self.hub.seams;
        loop {
            let Some(pause) = patience.pause() else { return Err(format!("given up: {reason}")) };
            tracing::info!(group = %self.route.group, node = %self.route.node, %reason, "a snapshot's stream has broken");
            seams.sleep(pause.mul_f64(0.5 + seams.random_f64() / 2.0)).await;
            match self.ask().await {
                Ok(answer) => {
                    patience.resumed(answer.next_sequence);
                    metrics::counter!("flotilla_raft_snapshot_resumes_total").increment(1);
                    metrics::counter!("flotilla_raft_snapshot_spared_bytes_total")
                        .increment(answer.spooled_bytes);
                    tracing::info!(
                        group = %self.route.group, node = %self.route.node,
                        chunk = answer.next_sequence, spared_bytes = answer.spooled_bytes,
                        "going on with a snapshot"
                    );
                    return Ok(answer);
                }
                Err(why) => reason = why,
            }
        }
    }

    async fn ask(&self) -> Result<wire::SnapshotAnswer, String> {
        let asking = async {
            let mut client = self.hub.connect(self.route.node).await?;
            match client.resume_snapshot(self.header.clone()).await {
                Ok(answer) => Ok(answer.into_inner()),
                // A version that keeps nothing.
                Err(status) if status.code() == tonic::Code::Unimplemented => {
                    Ok(wire::SnapshotAnswer::default())
                }
                Err(status) => Err(chain(&status)),
            }
        };
        let answer = tokio::select! {
            answer = asking => answer?,
            () = self.hub.seams.sleep(ASK_TIMEOUT) => return Err("it does not say what it has".to_owned()),
        };
        match &answer.refusal {
            Some(refusal) => Err(refused(refusal)),
            None => Ok(answer),
        }
    }

    fn report_now_and_then(&self) {
        let now = self.hub.seams.clock.now();
        let due = {
            let mut reported = self.reported.lock();
            let due = now.saturating_duration_since(*reported) >= REPORT_EVERY;
            if due {
                *reported = now;
            }
            due
        };
        if due {
            self.report("a snapshot is on its way");
        }
    }

    fn report(&self, what: &'static str) {
        let seconds = self.hub.seams.clock.now().saturating_duration_since(self.begun).as_secs_f64();
        let bytes = self.sent.load(Ordering::Relaxed);
        let mib_per_second = bytes as f64 / f64::from(1 << 20) / seconds.max(0.001);
        tracing::info!(
            group = %self.route.group, to = %self.route.to, node = %self.route.node, bytes,
            seconds = format!("{seconds:.1}"), mib_per_second = format!("{mib_per_second:.1}"), "{what}"
        );
    }
}

/// Returns when the number has not changed for [`STREAM_IDLE_MAX`], or up to twice as long.
async fn until_idle(sent: &AtomicU64, seams: &Seams) {
    let mut seen = sent.load(Ordering::Relaxed);
    loop {
        seams.sleep(STREAM_IDLE_MAX).await;
        let now = sent.load(Ordering::Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}

/// How long a sender goes on.
#[derive(Default)]
struct Patience {
    /// Since there was progress.
    failures: u32,
    resumes: u32,
    /// The chunk that the receiver lacked last.
    furthest: u64,
}

impl Patience {
    /// The pause before the next attempt, if there is one.
    fn pause(&mut self) -> Option<Duration> {
        if self.failures >= FAILURES_MAX || self.resumes >= RESUMES_MAX {
            return None;
        }
        let pause = (BACKOFF_MIN * (1 << self.failures)).min(BACKOFF_MAX);
        self.failures += 1;
        Some(pause)
    }

    fn resumed(&mut self, next_sequence: u64) {
        self.resumes += 1;
        if next_sequence > self.furthest {
            self.furthest = next_sequence;
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures::FutureExt;
    use storage::seam::Clock;

    use super::*;

    /// Time passes as it is slept, and during each of the first sleeps a chunk leaves.
    struct Moving {
        sent: Arc<AtomicU64>,
        chunks: u64,
        slept: Mutex<Duration>,
    }

    impl Clock for Moving {
        fn now(&self) -> Instant {
            Seams::real().clock.now()
        }

        fn wall_ms(&self) -> u64 {
            0
        }

        fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
            *self.slept.lock() += duration;
            if self.sent.load(Ordering::Relaxed) < self.chunks {
                self.sent.fetch_add(1, Ordering::Relaxed);
            }
            Box::pin(std::future::ready(()))
        }
    }

    #[test]
    fn a_stream_on_which_nothing_moves_is_given_up_and_no_other() {
        let sent = Arc::<AtomicU64>::default();
        let clock = Arc::new(Moving { sent: sent.clone(), chunks: 5, slept: Mutex::default() });
        let mut seams = Seams::real();
        seams.clock = clock.clone();
        assert_eq!(until_idle(&sent, &seams).now_or_never(), Some(()));
        assert_eq!(*clock.slept.lock(), STREAM_IDLE_MAX * 6, "five sleeps in which something moved, and one");
    }

    #[test]
    fn patience_ends_without_progress_and_in_the_end() {
        let mut patience = Patience::default();
        let pauses = |patience: &mut Patience| std::iter::from_fn(|| patience.pause()).collect::<Vec<_>>();
        let first = pauses(&mut patience);
        assert_eq!(first.len(), FAILURES_MAX as usize);
        assert_eq!((first[0], first[9]), (BACKOFF_MIN, BACKOFF_MAX));
        patience.resumed(0);
        assert_eq!(patience.pause(), None, "that was no progress");
        for chunk in 1..u64::from(RESUMES_MAX) {
            patience.resumed(chunk);
            let more = patience.pause();
            assert_eq!(more, (chunk + 1 < u64::from(RESUMES_MAX)).then_some(BACKOFF_MIN), "after {chunk}");
        }
    }
}
