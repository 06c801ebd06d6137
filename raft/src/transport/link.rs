//! The sending end: requests of all groups to one node.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use parking_lot::Mutex;
use proto::raft as wire;
use storage::ids::{GroupId, NodeId, ReplicaId};
use tokio::sync::oneshot;

use super::queue::{Queue, Queued};
use super::{Hub, chain};

const BATCH_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How often expired requests are looked for.
const SWEEP: Duration = Duration::from_millis(100);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(400);
const OPEN_TIMEOUT: Duration = Duration::from_millis(2_000);

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// There is no stream to that node, or it broke: the request may or may not have arrived.
    #[error("no connection: {0}")]
    Down(Arc<str>),
    #[error("no answer in time")]
    TimedOut,
    #[error("too much is queued for that node")]
    Full,
    #[error("refused: {} {}", .0.reason().as_str_name(), .0.detail)]
    Refused(wire::Refusal),
}

type Reply = oneshot::Sender<Result<wire::answer::Body, LinkError>>;

struct Waiting {
    reply: Reply,
    deadline: Instant,
}

/// The requests of this node to one other.
pub(crate) struct Link {
    hub: Arc<Hub>,
    node: NodeId,
    queue: Mutex<Queue>,
    waiting: Mutex<HashMap<u64, Waiting>>,
    next_id: AtomicU64,
    /// Requests fail at once: the last attempt to connect did.
    down: AtomicBool,
}

impl Link {
    pub fn start(hub: Arc<Hub>, node: NodeId) -> Arc<Self> {
        let link = Arc::new(Self {
            hub: hub.clone(),
            node,
            queue: Mutex::default(),
            waiting: Mutex::default(),
            next_id: AtomicU64::new(1),
            down: AtomicBool::new(false),
        });
        hub.seams.spawn("raft-link", link.clone().run());
        link
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Queues a request, at once and in the order of its group (see [`super::queue`]); the result is awaited apart from that.
    pub fn request(
        &self,
        group: GroupId,
        from: ReplicaId,
        to: ReplicaId,
        bytes: usize,
        timeout: Duration,
        body: wire::request::Body,
    ) -> impl Future<Output = Result<wire::answer::Body, LinkError>> + Send + use<> {
        let receiver = self.enqueue(group, from, to, bytes, timeout, body);
        async move {
            match receiver?.await {
                Ok(Ok(wire::answer::Body::Refusal(refusal))) => Err(LinkError::Refused(refusal)),
                Ok(result) => result,
                Err(_) => Err(LinkError::Down("the link is closed".into())),
            }
        }
    }

    fn enqueue(
        &self,
        group: GroupId,
        from: ReplicaId,
        to: ReplicaId,
        bytes: usize,
        timeout: Duration,
        body: wire::request::Body,
    ) -> Result<oneshot::Receiver<Result<wire::answer::Body, LinkError>>, LinkError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(LinkError::Down(format!("{} is not reachable", self.node).into()));
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, receiver) = oneshot::channel();
        let deadline = self.hub.seams.clock.now() + timeout;
        self.waiting.lock().insert(id, Waiting { reply, deadline });
        let request =
            wire::Request { id, group: group.0, from_replica: from.0, to_replica: to.0, body: Some(body) };
        if !self.queue.lock().push(Queued { request, bytes }, self.hub.options.queue_bytes_max) {
            self.waiting.lock().remove(&id);
            return Err(LinkError::Full);
        }
        Ok(receiver)
    }

    async fn run(self: Arc<Self>) {
        let mut stopping = self.hub.stopping();
        let mut backoff = BACKOFF_MIN;
        let mut reported = false;
        while !*stopping.borrow() {
            let mut connected = false;
            let reason = tokio::select! {
                reason = self.session(&mut connected) => reason,
                _ = stopping.wait_for(|stop| *stop) => break,
            };
            self.down.store(true, Ordering::Relaxed);
            self.fail_all(&reason);
            if connected {
                backoff = BACKOFF_MIN;
                reported = false;
            }
            // Once per outage.
            if !reported {
                tracing::warn!(node = %self.node, %reason, "lost the connection");
                reported = true;
            }
            let jitter = backoff.mul_f64(0.5 + self.hub.seams.random_f64() / 2.0);
            tokio::select! {
                () = self.hub.seams.sleep(jitter) => {}
                _ = stopping.wait_for(|stop| *stop) => break,
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        self.down.store(true, Ordering::Relaxed);
        self.fail_all("the node is shutting down");
    }

    /// Connects and serves until the stream breaks; answers why.
    async fn session(self: &Arc<Self>, connected: &mut bool) -> String {
        let mut answers = {
            let open = async {
                let mut client = self.hub.connect(self.node).await?;
                client.exchange(Outgoing { link: self.clone() }).await.map_err(|status| chain(&status))
            };
            tokio::select! {
                opened = open => match opened {
                    Ok(response) => response.into_inner(),
                    Err(reason) => return reason,
                },
                () = self.sweep_forever(OPEN_TIMEOUT) => return "it does not open a stream in time".to_owned(),
            }
        };
        *connected = true;
        self.down.store(false, Ordering::Relaxed);
        tracing::debug!(node = %self.node, "connected");
        let mut sweep = std::pin::pin!(self.sweep_forever(Duration::MAX));
        loop {
            tokio::select! {
                message = answers.message() => match message {
                    Ok(Some(batch)) => self.answered(batch),
                    Ok(None) => return "it has closed the stream".to_owned(),
                    Err(status) => return chain(&status),
                },
                () = &mut sweep => return "its requests are no longer watched".to_owned(),
            }
        }
    }

    fn answered(&self, batch: wire::Answers) {
        let mut waiting = self.waiting.lock();
        for answer in batch.answers {
            let (Some(waiter), Some(body)) = (waiting.remove(&answer.id), answer.body) else { continue };
            let _ = waiter.reply.send(Ok(body));
        }
    }

    /// Fails requests that are overdue; returns after `limit`.
    async fn sweep_forever(&self, limit: Duration) {
        let start = self.hub.seams.clock.now();
        loop {
            self.hub.seams.beat(SWEEP).await;
            let now = self.hub.seams.clock.now();
            let overdue: Vec<Waiting> = self
                .waiting
                .lock()
                .extract_if(|_, w| w.deadline <= now || w.reply.is_closed())
                .map(|(_, w)| w)
                .collect();
            for waiter in overdue {
                let _ = waiter.reply.send(Err(LinkError::TimedOut));
            }
            if now.saturating_duration_since(start) >= limit {
                return;
            }
        }
    }

    fn fail_all(&self, reason: &str) {
        let reason: Arc<str> = reason.into();
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for (_, waiter) in waiting {
            let _ = waiter.reply.send(Err(LinkError::Down(reason.clone())));
        }
    }
}

/// What goes into the stream: what is queued when the stream has room, as one message.
struct Outgoing {
    link: Arc<Link>,
}

impl Stream for Outgoing {
    type Item = wire::Requests;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<wire::Requests>> {
        let link = &self.link;
        let mut queue = link.queue.lock();
        let mut requests = Vec::new();
        let mut bytes = 0;
        while requests.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            let Some(queued) = queue.pop() else { break };
            // What has expired in the queue is not worth sending.
            if link.waiting.lock().contains_key(&queued.request.id) {
                bytes += queued.bytes;
                requests.push(queued.request);
            }
        }
        if requests.is_empty() {
            queue.wake_when_filled(cx.waker());
            return Poll::Pending;
        }
        drop(queue);
        metrics::histogram!("flotilla_raft_requests_per_message").record(requests.len() as f64);
        metrics::counter!("flotilla_node_requests_total", "to" => "raft").increment(requests.len() as u64);
        Poll::Ready(Some(wire::Requests {
            cluster_id: link.hub.cluster.clone(),
            from_node: link.hub.me.0,
            to_node: link.node.0,
            requests,
        }))
    }
}
