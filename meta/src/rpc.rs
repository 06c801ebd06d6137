//! Channels to other nodes, and calls that end in time.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use raft::Dialer;
use storage::seam::Seams;
use tonic::transport::{Channel, Endpoint};

use crate::Error;

/// At most this many channels are kept; nodes are few, but addresses may change.
const CHANNELS_MAX: usize = 1_024;

/// One lazily connected channel per address.
pub(crate) struct Channels {
    open: Mutex<HashMap<String, Channel>>,
    seams: Seams,
}

impl Channels {
    pub(crate) fn new(seams: &Seams) -> Self {
        Self { open: Mutex::new(HashMap::new()), seams: seams.clone() }
    }

    /// The channel to `address` (`host:port`).
    pub(crate) fn get(&self, address: &str) -> Result<Channel, Error> {
        let mut open = self.open.lock();
        if let Some(channel) = open.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| Error::Rejected(format!("{address:?} is not an address: {e}")))?
            .connect_timeout(Duration::from_millis(500))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2));
        let channel = endpoint.connect_with_connector_lazy(Dialer::new(&self.seams));
        if open.len() >= CHANNELS_MAX {
            open.clear();
        }
        open.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// `call`, or [`Error::Unavailable`] when it takes longer than `limit`.
pub(crate) async fn within<T, E: Into<Error>>(
    seams: &Seams,
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    tokio::select! {
        result = call => result.map_err(Into::into),
        () = seams.sleep(limit) => Err(Error::Unavailable(format!("no answer within {} ms", limit.as_millis()))),
    }
}
