//! Whether this node can serve SQL, and if not, why.
//!
//! To become ready takes answers from the first shards. To stay so takes none where the node can tell without: it would keep them from
//! rest on all nodes, and a shard that nobody asks for is no less ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use meta::MetaClient;
use parking_lot::Mutex;
use storage::seam::Seams;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use txn::api::Database;

/// How often the probes run while the node is not ready, and while it is.
const PROBE_NOT_READY: Duration = Duration::from_millis(50);
const PROBE_READY: Duration = Duration::from_secs(1);
/// A probe that takes longer has failed.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// The meta-group must have answered within this time.
const META_SILENT_MAX: Duration = Duration::from_secs(4);

/// Why a node is not ready that could serve. (`cluster-scripts/cluster` knows the words.)
const DRAINED: &str = "the node is drained";

/// Keys that nothing stands under: the last ones of the system's databases and of the first one's.
const PROBES: [(&str, [u8; 8]); 2] = [
    ("the system shard", [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
    ("the default database's shard", [0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff]),
];

/// The answer, kept up to date by [`watch`], and by [`super::drain`].
pub struct Readiness {
    reason: Mutex<Option<String>>,
    drained: AtomicBool,
}

impl Readiness {
    /// Not ready: the node is starting.
    pub fn starting() -> Arc<Self> {
        let reason = Mutex::new(Some("the node is starting".into()));
        Arc::new(Self { reason, drained: AtomicBool::new(false) })
    }

    /// Why the node is not ready; `None` if it is.
    pub fn reason(&self) -> Option<String> {
        let reason = self.reason.lock().clone();
        // What keeps it from serving at all comes first.
        reason.or_else(|| self.drained.load(Ordering::Acquire).then(|| DRAINED.to_owned()))
    }

    /// It could serve SQL, and shall not; or no longer so.
    pub fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Ordering::Release);
    }

    /// It is not, because.
    pub fn not_ready(&self, reason: impl Into<String>) {
        *self.reason.lock() = Some(reason.into());
    }
}

/// Probes until cancelled: the meta-group answers, and reads of the first shards do.
pub async fn watch(
    readiness: Arc<Readiness>,
    meta: Arc<MetaClient>,
    database: Arc<dyn Database>,
    seams: Seams,
    stop: CancellationToken,
) {
    let mut is_ready = false;
    loop {
        let reason = tokio::select! {
            () = stop.cancelled() => return,
            reason = probe(&meta, &database, &seams, is_ready) => reason,
        };
        is_ready = reason.is_none();
        let before = std::mem::replace(&mut *readiness.reason.lock(), reason.clone());
        match (&before, &reason) {
            (Some(_), None) => info!("ready"),
            (None, Some(reason)) => warn!("not ready: {reason}"),
            _ => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = seams.beat(if reason.is_some() { PROBE_NOT_READY } else { PROBE_READY }) => {}
        }
    }
}

async fn probe(
    meta: &MetaClient,
    database: &Arc<dyn Database>,
    seams: &Seams,
    was_ready: bool,
) -> Option<String> {
    let silent = meta.last_contact().map(|at| seams.clock.now() - at);
    if silent.is_none_or(|silent| silent > META_SILENT_MAX) {
        return Some("the meta-group does not answer".into());
    }
    for (name, key) in PROBES {
        let keys = [Bytes::copy_from_slice(&key)];
        if was_ready && database.seems_served(&keys[0]) {
            continue;
        }
        let failure = tokio::select! {
            read = database.get_latest(&keys, &[]) => read.err().map(|error| error.to_string()),
            () = seams.sleep(PROBE_LIMIT) => Some(format!("no answer within {} ms", PROBE_LIMIT.as_millis())),
        };
        if let Some(failure) = failure {
            return Some(format!("{name} cannot be read: {failure}"));
        }
    }
    None
}
