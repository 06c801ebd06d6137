//! How replicas of different nodes talk.
//!
//! ```text
//!   node 1                                                   node 2
//!   group 7 ─┐  request, id 41        one stream 1 → 2          ┌─▶ group 7
//!   group 8 ─┼─▶ queue ═══════ [41 42 43] ════════════════════▶─┼─▶ group 8
//!   group 9 ─┘                                                  └─▶ group 9
//!               ◀══════════════ [42 41] ═══════════════════════    (answers, as they are ready)
//! ```
//!
//! Each node opens one stream to each other one for its own requests; what queues while the stream is busy goes out
//! as one message. Appends of one group arrive in the order they were sent in; answers come in any order and are
//! matched by id. Nothing is sent twice: when a stream breaks, what was outstanding fails, and openraft tries again. A message
//! that arrives otherwise than it was sent, by its checksum, breaks its stream (`proto/src/checked.rs`).
//!
//! - [`link`]: the sending end of a stream; [`queue`]: what waits for it, and what does not have to;
//! - [`dial`]: where connections come from;
//! - [`server`]: the receiving end; [`intake`]: the order in which it hands appends over; [`received`]: how much it takes;
//! - [`network`]: what openraft sees of it; [`in_step`]: what it must not see too early;
//! - [`bulk`]: snapshots, on streams and connections of their own, at a [`pace`]; a stream that breaks is gone on with.

pub(crate) mod bulk;
pub(crate) mod dial;
mod in_step;
mod intake;
mod late_commit;
pub(crate) mod link;
pub(crate) mod network;
pub(crate) mod pace;
mod queue;
pub(crate) mod received;
pub(crate) mod server;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::raft::raft_client::RaftClient;
use storage::ids::NodeId;
use storage::seam::Seams;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::api::AddressBook;
use crate::liveness::Liveness;
use crate::options::RaftOptions;
use dial::Dialer;
use link::Link;

/// One message may hold one entry of the largest size.
pub(crate) const MESSAGE_BYTES_MAX: usize = 512 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A connection on which nothing comes back for twice this long is broken, whatever TCP says.
const KEEP_ALIVE: Duration = Duration::from_millis(1_000);
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The links of a node.
pub(crate) struct Hub {
    pub cluster: Bytes,
    pub me: NodeId,
    pub book: Arc<dyn AddressBook>,
    pub seams: Seams,
    pub options: RaftOptions,
    /// Of the snapshots that this node sends.
    pub pace: pace::Pace,
    pub liveness: Liveness,
    /// No read relies on a lease.
    pub quorum_reads: AtomicBool,
    /// Large commands are compressed before they become entries: see [`crate::command`].
    pub log_compression: AtomicBool,
    links: Mutex<HashMap<NodeId, Arc<Link>>>,
    stopping: watch::Sender<bool>,
}

impl Hub {
    pub fn new(
        cluster: u128,
        me: NodeId,
        book: Arc<dyn AddressBook>,
        seams: Seams,
        options: RaftOptions,
    ) -> Arc<Self> {
        Arc::new(Self {
            cluster: Bytes::copy_from_slice(&cluster.to_be_bytes()),
            me,
            book,
            pace: pace::Pace::new(options.snapshot_bytes_per_second),
            liveness: Liveness::new(seams.random_u64(), options.limits(), seams.clock.now()),
            quorum_reads: AtomicBool::new(false),
            // Until somebody says that all members understand it.
            log_compression: AtomicBool::new(false),
            options,
            seams,
            links: Mutex::default(),
            stopping: watch::Sender::new(false),
        })
    }

    /// The link to a node; made, and from then on kept up, when it is first asked for.
    pub fn link(self: &Arc<Self>, node: NodeId) -> Arc<Link> {
        self.links.lock().entry(node).or_insert_with(|| Link::start(self.clone(), node)).clone()
    }

    /// All links there are.
    pub fn all_links(&self) -> Vec<Arc<Link>> {
        let mut links: Vec<Arc<Link>> = self.links.lock().values().cloned().collect();
        links.sort_unstable_by_key(|link| link.node());
        links
    }

    pub fn stop(&self) {
        self.stopping.send_replace(true);
        self.links.lock().clear();
    }

    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Opens a connection to a node.
    pub async fn connect(&self, node: NodeId) -> Result<RaftClient<Channel>, String> {
        let address = self.book.address(node).ok_or_else(|| format!("the address of {node} is unknown"))?;
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| format!("{address} is not an address: {e}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_with_connector(Dialer::new(&self.seams))
            .await
            .map_err(|e| format!("cannot connect to {node} at {address}: {}", chain(&e)))?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

/// An error with its causes; tonic's own text says only "transport error".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
