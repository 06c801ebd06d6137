//! Requests to other nodes: one long-lived stream per pair of nodes and direction of asking, with ids.
//!
//! Whatever queues while a message is being sent travels in the next one together. Everything is bounded: requests that
//! wait to be sent, requests that a server works on at once, and the size of a message.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use proto::shard as pb;
use proto::shard::request::Body as Ask;
use proto::shard::shard_client::ShardClient;
use proto::shard::shard_server;
use storage::ids::NodeId;
use storage::seam::Seams;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status, Streaming};

use crate::room::Room;
use crate::server::{ShardServer, failure_of};
use crate::{Directory, Error};

/// Messages that wait to be sent on one stream.
const QUEUE_MAX: usize = 4096;
/// Requests or answers in one message.
const BATCH_MAX: usize = 256;
/// … and their bytes, after which no further one is added.
const BATCH_BYTES: usize = 1 << 20;
/// The largest message that is accepted. A message holds at least one request, and one request may carry a commit.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Requests of one stream that are worked on at once, or whose answers wait to be sent; more are left in the stream.
const IN_FLIGHT_MAX: usize = 2048;
/// Large ones are bounded in bytes, too: requests that find no room are refused, since others that they wait for may come
/// behind them. While answers find no room, for nobody takes them, nothing more is worked on that may have a large one; what
/// keeps locks and transactions alive must not wait for that.
const LARGE_REQUESTS_BYTES_MAX: u32 = 128 << 20;
const LARGE_ANSWERS_BYTES_MAX: u32 = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A node that could not be reached is left alone for that long, doubled with each try that fails: others are asked
/// meanwhile, and no request waits for it. (One that has answered before is known by its pulses to be gone; this is for
/// those that never have, and for those that pulse and serve nothing.)
const REST_MIN: Duration = Duration::from_millis(50);
const REST_MAX: Duration = Duration::from_millis(400);
/// After so many requests in succession that have run into their deadlines, while nothing at all came back, a node is asked for what any node
/// answers at once: requests to a shard that stands still run into theirs, too, and the node is well. If that isn't answered, either, it is
/// left alone like one that can't be reached.
const UNANSWERED_MAX: u64 = 3;
/// A connection that is broken, though its node answers others, is noticed after one interval and the timeout: until then commits that
/// were sent on it hang. (A node that sleeps or is cut off is noticed by its pulses, which are awaited with every answer: `raft::Reach`.)
/// It has to be over well before locks lapse whose owner says on that connection that it lives ([`LEASE`](crate::lock::LEASE)): there
/// must be time for saying so on another one.
const KEEP_ALIVE: Duration = Duration::from_millis(500);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The request has not left this node.
    NotSent,
    /// It may have been worked on.
    Lost,
}

struct Link {
    queue: mpsc::Sender<pb::Request>,
    waiting: Arc<Waiting>,
}

/// Requests without an answer yet. `None` once the stream has ended.
#[derive(Default)]
struct Waiting(Mutex<Option<HashMap<u64, oneshot::Sender<pb::Response>>>>);

impl Waiting {
    fn open() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(HashMap::new()))))
    }

    fn is_open(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Everyone who waits learns that no answer will come (their sender is dropped).
    fn close(&self) {
        self.0.lock().take();
    }
}

/// Removes a request from the waiting when its caller goes away.
struct Entry<'w> {
    waiting: &'w Waiting,
    id: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.0.lock().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// One node's place.
#[derive(Default)]
struct Slot {
    /// Locked while a stream is being made.
    line: tokio::sync::Mutex<Line>,
    /// How many tries to make one have ended, well or not.
    ended: AtomicU64,
    /// How many requests have run into their deadlines since anything was answered.
    unanswered: AtomicU64,
}

impl Slot {
    /// The node may answer nobody.
    fn is_in_doubt(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= UNANSWERED_MAX
    }

    /// Something has come back.
    fn has_answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }
}

/// Why there is no stream.
type Trouble = Box<dyn std::error::Error + Send + Sync>;

#[derive(Default)]
struct Line {
    /// The stream, if there is one.
    link: Option<Arc<Link>>,
    /// After tries that have failed: until when there is no other, and how long that was to be.
    rest: Option<(Instant, Duration)>,
}

/// A try to make a stream. It ends when this is dropped: whoever tries may give up, too.
struct Try<'s>(&'s Slot);

impl Drop for Try<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// The streams to other nodes.
pub struct Peers {
    directory: Arc<dyn Directory>,
    seams: Seams,
    links: Mutex<HashMap<NodeId, Arc<Slot>>>,
    next_id: AtomicU64,
}

impl Peers {
    /// Streams to wherever `directory` says that nodes are; made when they are needed.
    pub fn new(directory: Arc<dyn Directory>, seams: Seams) -> Self {
        Self { directory, seams, links: Mutex::default(), next_id: AtomicU64::new(1) }
    }

    /// Sends a request and awaits the answer. The caller bounds the time, and says so if it was too short ([`Peers::gave_up`]).
    pub async fn call(&self, node: NodeId, request: pb::Request) -> Result<pb::Response, CallError> {
        let link = self.link(node).await.ok_or(CallError::NotSent)?;
        self.ask(&link, request).await
    }

    /// A request to the node has run into its deadline.
    pub fn gave_up(&self, node: NodeId) {
        if let Some(slot) = self.links.lock().get(&node) {
            slot.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn ask(&self, link: &Link, mut request: pb::Request) -> Result<pb::Response, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        request.id = id;
        let (sender, receiver) = oneshot::channel();
        match link.waiting.0.lock().as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(CallError::NotSent),
        };
        let _entry = Entry { waiting: &link.waiting, id };
        metrics::counter!("flotilla_node_requests_total", "to" => "shard").increment(1);
        link.queue.send(request).await.map_err(|_| CallError::NotSent)?;
        receiver.await.map_err(|_| CallError::Lost)
    }

    async fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        let slot = self.links.lock().entry(node).or_default().clone();
        // One connects, the others wait for it, and for no further try: there might be one for each of them.
        let ended = slot.ended.load(Ordering::SeqCst);
        let mut line = slot.line.lock().await;
        let open = line.link.clone().filter(|link| link.waiting.is_open());
        if let Some(link) = open.as_ref().filter(|_| !slot.is_in_doubt()) {
            return Some(link.clone());
        }
        let rests = line.rest.is_some_and(|(until, _)| self.seams.clock.now() < until);
        if rests || slot.ended.load(Ordering::SeqCst) != ended {
            return None;
        }
        let _try = Try(&slot);
        match self.answering(node, &slot, open).await {
            Ok(link) => {
                *line = Line { link: Some(link.clone()), rest: None };
                Some(link)
            }
            Err(error) => {
                tracing::debug!(%node, %error, "cannot reach a node");
                let rest = line.rest.map_or(REST_MIN, |(_, rest)| (rest * 2).min(REST_MAX));
                *line = Line { link: None, rest: Some((self.seams.clock.now() + rest, rest)) };
                None
            }
        }
    }

    /// A stream, the one that is open or another one, on which something comes back, if that is in doubt.
    async fn answering(
        &self,
        node: NodeId,
        slot: &Arc<Slot>,
        open: Option<Arc<Link>>,
    ) -> Result<Arc<Link>, Trouble> {
        let link = match open {
            Some(link) => link,
            None => self.connect(node, slot).await?,
        };
        if slot.is_in_doubt() {
            // About nobody there is nothing to tell, and no shard is asked for that.
            let nobody = Some(Ask::Describe(pb::Describe::default()));
            let probe = pb::Request { body: nobody, ..pb::Request::default() };
            tokio::select! {
                answer = self.ask(&link, probe) => answer.map_err(|_| "it has hung up")?,
                () = self.seams.sleep(CONNECT_TIMEOUT) => return Err("it takes requests, and answers none".into()),
            };
        }
        Ok(link)
    }

    async fn connect(&self, node: NodeId, slot: &Arc<Slot>) -> Result<Arc<Link>, Trouble> {
        let address = self.directory.address(node).ok_or("its address is not known")?;
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .connect_with_connector(raft::Dialer::new(&self.seams))
            .await?;
        let mut client = ShardClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (queue, outgoing) = mpsc::channel(QUEUE_MAX);
        let outgoing = batches(outgoing, |requests| pb::Requests { requests });
        // A process that sleeps still accepts connections: its kernel does.
        let mut incoming = tokio::select! {
            answer = client.exchange(outgoing) => answer?.into_inner(),
            () = self.seams.sleep(CONNECT_TIMEOUT) => return Err("it does not answer".into()),
        };
        let waiting = Waiting::open();
        let (waiters, slot) = (waiting.clone(), slot.clone());
        self.seams.spawn("shard-answers", async move {
            while let Some(Ok(message)) = incoming.next().await {
                slot.has_answered();
                let mut waiters = waiters.0.lock();
                let Some(waiting) = waiters.as_mut() else {
                    break;
                };
                for response in message.responses {
                    // A caller that gave up is not there any more.
                    if let Some(caller) = waiting.remove(&response.id) {
                        let _ = caller.send(response);
                    }
                }
            }
            waiters.close();
        });
        Ok(Arc::new(Link { queue, waiting }))
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peers")
    }
}

/// What queues while a message is under way goes into the next one together.
fn batches<Q: Into<M> + Send + 'static, M: Message + 'static, B: Send + 'static>(
    queue: mpsc::Receiver<Q>,
    batch: fn(Vec<M>) -> B,
) -> impl Stream<Item = B> + Send + 'static {
    futures::stream::unfold(queue, move |mut queue| async move {
        let first: M = queue.recv().await?.into();
        let mut bytes = first.encoded_len();
        let mut messages = vec![first];
        while messages.len() < BATCH_MAX && bytes < BATCH_BYTES {
            let Ok(next) = queue.try_recv() else {
                break;
            };
            let next: M = next.into();
            bytes += next.encoded_len();
            messages.push(next);
        }
        Some((batch(messages), queue))
    })
}

/// The other end: the gRPC service of a node.
#[derive(Clone, Debug)]
pub struct ShardService {
    server: Arc<ShardServer>,
}

impl ShardService {
    /// A service over `server`.
    pub fn new(server: Arc<ShardServer>) -> Self {
        Self { server }
    }

    /// What to mount in a tonic server.
    pub fn into_service(self) -> shard_server::ShardServer<Self> {
        shard_server::ShardServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl shard_server::Shard for ShardService {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<pb::Responses, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::Requests>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut incoming = request.into_inner();
        let (answers, outgoing) = mpsc::channel::<Answered>(QUEUE_MAX);
        let server = self.server.clone();
        let seams = server.seams().clone();
        let task_seams = seams.clone();
        seams.spawn("shard-requests", async move {
            let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
            let (asked, answered) = (Room::new(LARGE_REQUESTS_BYTES_MAX), Room::new(LARGE_ANSWERS_BYTES_MAX));
            while let Some(Ok(message)) = incoming.next().await {
                for request in message.requests {
                    // When all places are taken, the stream is not read on: back-pressure reaches the sender.
                    let Ok(place) = places.clone().acquire_owned().await else {
                        return;
                    };
                    let Some(room) = asked.try_take(request.encoded_len()) else {
                        let response = overloaded(request.id);
                        if answers.send(Answered { response, _room: None, _place: place }).await.is_err() {
                            return;
                        }
                        continue;
                    };
                    let (server, answers, answered) = (server.clone(), answers.clone(), answered.clone());
                    task_seams.spawn("shard-request", async move {
                        if may_answer_much(&request) && !answered.is_free().await {
                            return;
                        }
                        let response = server.handle(request).await;
                        drop(room);
                        let room = answered.take(response.encoded_len()).await;
                        // The sender may have gone; its request is done all the same.
                        let _ = answers.send(Answered { response, _room: room, _place: place }).await;
                    });
                }
            }
        });
        let outgoing = batches(outgoing, |responses| pb::Responses { responses }).map(Ok);
        Ok(Response::new(Box::pin(outgoing)))
    }
}

/// An answer that waits to be sent, with what it keeps until it is.
struct Answered {
    response: pb::Response,
    _room: Option<OwnedSemaphorePermit>,
    _place: OwnedSemaphorePermit,
}

impl From<Answered> for pb::Response {
    fn from(answered: Answered) -> Self {
        answered.response
    }
}

fn may_answer_much(request: &pb::Request) -> bool {
    matches!(request.body, Some(pb::request::Body::Read(_) | pb::request::Body::Scan(_)))
}

/// Nothing was done.
fn overloaded(id: u64) -> pb::Response {
    let error = Error::Unavailable("too many large requests are being worked on".to_owned());
    pb::Response { id, body: Some(pb::response::Body::Failure(failure_of(error))) }
}
