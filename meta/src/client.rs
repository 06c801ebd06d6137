//! A node's side: finds the meta-group's leader, and is the transaction layer's `Oracle` and `Directory`.
//!
//! What is asked goes to whoever leads (`calls.rs`). What is known without asking is the last map (`cache.rs`), and what this node
//! does as the cluster's settings say (`settings.rs`); both come with the answers to the node's reports.

mod cache;
mod calls;
mod directory;
mod join;
mod observed;
mod oracle;
mod settings;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::FutureExt;
use parking_lot::{Mutex, RwLock};
use proto::meta as pb;
use storage::ids::{NodeId, Timestamp};
use storage::seam::Seams;
use tokio::sync::{Notify, mpsc};

use self::cache::Cache;
pub(crate) use self::calls::{CALL_LIMIT, Target};
pub use self::join::join;
use self::oracle::{ORACLE_QUEUE_MAX, Waiter, draw_for_all};
use crate::Error;
use crate::rpc::Channels;
use crate::server::MetaServer;
use crate::settings::Settings;

/// What the meta-group's leader wants of this node's next report.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// It should come soon: there is work.
    pub soon: bool,
    /// It should tell of the groups at rest.
    pub resting: bool,
    /// … while these nodes are dead. `None`: that is not known yet.
    pub dead: Option<BTreeSet<NodeId>>,
}

/// See the module. Cheap to share; made once per node.
pub struct MetaClient {
    seams: Seams,
    channels: Channels,
    /// Addresses to begin with: of the join list, and of nodes known from an earlier run.
    seeds: Vec<String>,
    local: OnceLock<Arc<MetaServer>>,
    cache: RwLock<Cache>,
    /// The RPC address of the leader, as far as is known.
    leader: Mutex<Option<String>>,
    last_contact: Mutex<Option<Instant>>,
    /// The oldest snapshot that is open here; 0: none.
    oldest_snapshot: AtomicU64,
    safe_point: AtomicU64,
    async_commit: AtomicBool,
    closed_lag_ms: AtomicU64,
    /// The newest timestamp that was drawn here, and when it was asked for.
    recent: Mutex<Option<(Timestamp, Instant)>>,
    snapshot_rate: AtomicU64,
    quorum_reads: AtomicBool,
    log_compression: AtomicBool,
    refreshing: tokio::sync::Mutex<()>,
    refreshes_begun: AtomicU64,
    waiters: mpsc::Sender<Waiter>,
    /// A report is wanted now.
    hurry: Notify,
}

impl MetaClient {
    /// A client that knows the addresses in `seeds`.
    pub fn new(seeds: Vec<String>, seams: Seams) -> Arc<Self> {
        let (waiters, queue) = mpsc::channel(ORACLE_QUEUE_MAX);
        let client = Arc::new(Self {
            seams: seams.clone(),
            channels: Channels::new(&seams),
            seeds,
            local: OnceLock::new(),
            cache: RwLock::default(),
            leader: Mutex::new(None),
            last_contact: Mutex::new(None),
            oldest_snapshot: AtomicU64::new(0),
            safe_point: AtomicU64::new(0),
            async_commit: AtomicBool::new(false),
            closed_lag_ms: AtomicU64::new(0),
            recent: Mutex::new(None),
            snapshot_rate: AtomicU64::new(Settings::default().snapshot_rate()),
            // Until the setting is known, no lease is relied upon.
            quorum_reads: AtomicBool::new(true),
            // … and nothing is compressed: there may be members that don't understand it.
            log_compression: AtomicBool::new(false),
            refreshing: tokio::sync::Mutex::new(()),
            refreshes_begun: AtomicU64::new(0),
            waiters,
            hurry: Notify::new(),
        });
        let weak = Arc::downgrade(&client);
        seams.spawn("oracle client", async move { draw_for_all(weak, queue).await });
        client
    }

    /// From now on, what this node leads is asked without a message, and whoever asks here for what it doesn't lead is told what is
    /// known here of who does.
    pub fn attach(self: &Arc<Self>, local: Arc<MetaServer>) {
        local.meet(self);
        // A second server on one node would be a defect of the assembly; the first one stays.
        let _ = self.local.set(local);
    }

    /// Whom others are to ask, as far as is known here.
    pub(crate) fn redirect(&self) -> pb::Redirect {
        let leader = self.leader.lock().clone().unwrap_or_default();
        let cache = self.cache.read();
        let address = |node: &NodeId| Some(cache.nodes.get(node)?.addresses.as_ref()?.rpc.clone());
        pb::Redirect { leader, members: cache.members.iter().filter_map(address).collect() }
    }

    /// When the leader last answered.
    pub fn last_contact(&self) -> Option<Instant> {
        *self.last_contact.lock()
    }

    /// Has this node report now: something else is wanted of it than it knows of.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Completes when a report is wanted now.
    pub(crate) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Sends a report and takes in what comes back.
    pub async fn report(&self, mut request: pb::ReportRequest) -> Result<Wanted, Error> {
        (request.map_version, request.leaders_version) = self.versions();
        request.oldest_snapshot = self.oldest_snapshot.load(Ordering::SeqCst);
        let response = self
            .call(Duration::from_secs(2), move |target| {
                let request = request.clone();
                async move {
                    match target {
                        Target::Local(server) => server.report(request).await,
                        Target::Remote(mut rpc) => Ok(rpc.report(request).await?.into_inner()),
                    }
                }
                .boxed()
            })
            .await?;
        if let Some(map) = response.map {
            self.learn_map(map);
        }
        self.safe_point.fetch_max(response.safe_point, Ordering::SeqCst);
        let dead = response.knows_dead.then(|| response.dead.into_iter().map(NodeId).collect());
        Ok(Wanted { soon: response.busy, resting: response.send_resting, dead })
    }

    /// Sets something for the whole cluster; the empty value brings the default back.
    pub async fn change_setting(&self, name: &str, value: &str) -> Result<(), Error> {
        let request = pb::ChangeSettingsRequest { name: name.to_owned(), value: value.to_owned() };
        self.call(CALL_LIMIT, move |target| {
            let request = request.clone();
            async move {
                match target {
                    Target::Local(server) => server.change_setting(request).await,
                    Target::Remote(mut rpc) => {
                        rpc.change_settings(request).await.map(|_| ()).map_err(Error::from)
                    }
                }
            }
            .boxed()
        })
        .await
    }

    /// Everything an operator may want to see.
    pub async fn describe(&self) -> Result<pb::DescribeResponse, Error> {
        self.describe_as(pb::DescribeRequest { without_plan: false }).await
    }

    /// Brings the cached map up to what the leader knows at a moment after this call began. Concurrent calls share
    /// one request where that is allowed.
    pub async fn refresh(&self) -> Result<(), Error> {
        let begun_before = self.refreshes_begun.load(Ordering::SeqCst);
        let _one = self.refreshing.lock().await;
        if self.refreshes_begun.load(Ordering::SeqCst) > begun_before {
            return Ok(());
        }
        let (since, leaders_version) = self.versions();
        let fetched = self
            .call(CALL_LIMIT, move |target| {
                async move {
                    match target {
                        Target::Local(server) => server.map(since, leaders_version).map(Some),
                        Target::Remote(mut rpc) => {
                            let request = pb::MapRequest { since, leaders_version };
                            Ok(rpc.map(request).await?.into_inner().map)
                        }
                    }
                }
                .boxed()
            })
            .await?;
        // Counted only when it has succeeded, so that nobody rests on one that failed.
        self.refreshes_begun.fetch_add(1, Ordering::SeqCst);
        if let Some(map) = fetched {
            self.learn_map(map);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_are_sent_to_the_members_that_are_known() {
        let client = MetaClient::new(Vec::new(), Seams::real());
        let node = |id: u64| {
            let addresses = pb::Addresses { rpc: format!("n{id}:1"), ..Default::default() };
            pb::MapNode { id, addresses: Some(addresses), ..Default::default() }
        };
        let member = |node: u64| proto::common::Replica { node, ..Default::default() };
        client.learn_map(pb::ClusterMap {
            version: 1,
            nodes: (1..=4).map(node).collect(),
            meta_members: [1, 3, 9].map(member).into(),
            ..Default::default()
        });
        let known = client.redirect();
        assert_eq!((&known.leader[..], known.members), ("", vec!["n1:1".to_owned(), "n3:1".to_owned()]));
        *client.leader.lock() = Some("n3:1".to_owned());
        assert_eq!(client.redirect().leader, "n3:1");
    }
}
